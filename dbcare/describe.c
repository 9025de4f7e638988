/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A server as JSON. */
#include "dbcare/describe.h"

bool dbc_in_effect(const struct pe_applied *applied)
{
	return applied->state == PE_STATE_APPLIED || applied->state == PE_STATE_SETTLING;
}

int dbc_server_level(const struct dbc_server *server)
{
	int level = -1;

	for (size_t i = 0; i < server->applied.count; i++) {
		const struct pe_applied *applied = &server->applied.items[i];

		if (dbc_in_effect(applied) && (int)applied->level > level)
			level = (int)applied->level;
	}
	return level;
}

const char *dbc_exe_state_name(enum dbc_exe_state state)
{
	static const char *const names[] = { "same", "deleted", "replaced" };

	return names[state];
}

json_t *dbc_build_id_json(const struct pe_build_id *id)
{
	char hex[2 * PE_BUILD_ID_MAX + 1];

	if (!id->size)
		return json_null();
	pe_build_id_hex(id, hex);
	return json_string(hex);
}

json_t *dbc_applied_json(const struct pe_applied *applied)
{
	json_t *cves = json_array(), *functions = json_array();

	for (size_t i = 0; i < applied->cve_count; i++)
		json_array_append_new(
			cves, json_pack("{s:s, s:s*, s:s*}", "id", applied->cves[i].id, "cvss",
					applied->cves[i].cvss, "url", applied->cves[i].url));
	for (size_t i = 0; i < applied->function_count; i++)
		json_array_append_new(functions, json_string(applied->functions[i]));
	return json_pack("{s:s, s:s, s:i, s:s*, s:b, s:o, s:o, s:I, s:I, s:I, s:b, s:I, s:I}",
			 "name", applied->name, "state", pe_state_name(applied->state), "level",
			 (int)applied->level, "description", applied->description, "independent",
			 applied->independent, "cves", cves, "functions", functions, "sequence",
			 (json_int_t)applied->sequence, "applied_at",
			 (json_int_t)applied->applied_at, "pause_us", (json_int_t)applied->pause_us,
			 "inherited", applied->inherited, "old_threads",
			 (json_int_t)applied->old_threads, "running_threads",
			 (json_int_t)applied->running_threads);
}

json_t *dbc_server_json(const struct dbc_server *server)
{
	json_t *patches = json_array();
	int level = dbc_server_level(server);

	for (size_t i = 0; i < server->applied.count; i++)
		json_array_append_new(patches, dbc_applied_json(&server->applied.items[i]));

	json_t *root = json_pack("{s:i, s:s?, s:o, s:s?, s:I, s:I, s:I, s:s, s:s, s:b, s:o}", "pid",
				 (int)server->pid, "version", server->version, "build_id",
				 dbc_build_id_json(&server->build_id), "socket", server->socket,
				 "connections", (json_int_t)server->connections, "threads",
				 (json_int_t)server->threads, "uptime_s",
				 (json_int_t)server->uptime_s, "program", server->exe,
				 "program_file", dbc_exe_state_name(server->exe_state), "container",
				 server->container, "patches", patches);

	json_object_set_new(root, "start_time", json_integer((json_int_t)server->start_time));
	json_object_set_new(root, "level", level < 0 ? json_null() : json_integer(level));
	json_object_set_new(root, "container_id",
			    server->container_id ? json_string(server->container_id) : json_null());
	json_object_set_new(root, "inner_pid", json_integer(server->ns_pid));
	/* What a dead patcher left; not what a living one is doing. */
	if (server->leftovers.count && !server->leftovers.patcher)
		json_object_set_new(root, "interrupted", json_string(server->leftovers.text));
	if (server->unreadable)
		json_object_set_new(root, "unreadable", json_string(server->unreadable));
	return root;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dbcarectl list, info: what runs here. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "dbcare/cli/cli.h"
#include "dbcare/describe.h"
#include "engine/cleanup.h"
#include "engine/demangle.h"
#include "engine/show.h"

/* ---- list ---- */

static error_t list_parse(int key, char *arg, struct argp_state *state)
{
	struct cli *cli = state->input;

	if (key == ARGP_KEY_INIT)
		state->child_inputs[0] = cli;
	else if (key == ARGP_KEY_ARG)
		return cli_word(cli, arg, 0, state);
	else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

static char *patch_names(const struct dbc_server *server)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	for (size_t i = 0; out && i < server->applied.count; i++) {
		const struct pe_applied *applied = &server->applied.items[i];
		bool settled = applied->state == PE_STATE_APPLIED;

		fprintf(out, "%s%s%s%s%s", i ? ", " : "", applied->name, settled ? "" : " (",
			settled ? "" : pe_state_name(applied->state), settled ? "" : ")");
	}
	if (out)
		fclose(out);
	if (text && !*text) {
		free(text);
		text = NULL;
	}
	return text;
}

static const char *or_dash(const char *text)
{
	return text ? text : "-";
}

static char *server_remarks(const struct dbc_server *server)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	const char *between = "";

	if (!out)
		return NULL;
	if (server->container) {
		/* As much of it as runtimes show. */
		fprintf(out, "in container %.*s",
			strlen(or_dash(server->container_id)) == 64 ? 12 : 64,
			or_dash(server->container_id));
		if (server->ns_pid != server->pid)
			fprintf(out, " as pid %d", (int)server->ns_pid);
		between = "; ";
	}
	if (server->exe_state == DBC_EXE_DELETED)
		fprintf(out, "%sprogram deleted on disk", between), between = "; ";
	if (server->exe_state == DBC_EXE_REPLACED)
		fprintf(out, "%sprogram replaced on disk", between), between = "; ";
	if (server->stopping == 1)
		fprintf(out, "%sshutting down", between), between = "; ";
	else if (server->started == 0)
		fprintf(out, "%sstarting", between), between = "; ";
	if (server->unreadable)
		fprintf(out, "%s%s", between, server->unreadable);
	fclose(out);
	return text;
}

static void print_list(const struct dbc_servers *servers)
{
	static const char *const titles[] = { ">PID",	 "VERSION",	 "BUILD-ID",
					      "SOCKET",	 ">CONNECTIONS", ">LEVEL",
					      "PATCHES", "REMARKS",	 NULL };
	struct pe_table *table = pe_table_new(titles);

	for (size_t i = 0; i < servers->count; i++) {
		const struct dbc_server *server = &servers->items[i];
		char pid[16], connections[24], level[16], hex[2 * PE_BUILD_ID_MAX + 1];
		pe_auto_free char *names = patch_names(server);
		pe_auto_free char *remarks = server_remarks(server);
		int level_number = dbc_server_level(server);

		snprintf(pid, sizeof(pid), "%d", (int)server->pid);
		snprintf(connections, sizeof(connections), "%zu", server->connections);
		snprintf(level, sizeof(level), "%d", level_number);
		pe_build_id_hex(&server->build_id, hex);
		pe_table_row(table, (const char *const[]){ pid, server->version,
							   server->build_id.size ? hex : NULL,
							   server->socket, connections,
							   level_number < 0 ? NULL : level, names,
							   remarks });
	}
	pe_table_print_and_free(table);
}

int cmd_list(int argc, char **argv)
{
	static const struct argp_child children[] = { { &cli_common_argp }, { 0 } };
	static const struct argp argp = {
		NULL, list_parse, NULL,
		"Lists every MariaDB server on this host, those in containers and those whose "
		"program was deleted or replaced on disk included. Asks the kernel and the "
		"servers' memory, not SQL.\v"
		"Examples:\n"
		"  dbcarectl list\n"
		"  dbcarectl list --json | jq '.servers[] | {pid, version, patches}'\n",
		children
	};
	struct cli cli = { .shows = true };
	struct dbc_servers servers;

	argp_parse(&argp, argc, argv, 0, NULL, &cli);

	struct pe_error *err = dbc_discover(&servers);

	if (!err && !servers.count && servers.denied)
		err = pe_error_new(PE_ERR_PERMISSION,
				   "%zu servers of other users run here (one is %d): looking into "
				   "them needs the right to trace them (CAP_SYS_PTRACE)",
				   servers.denied, (int)servers.denied_pid);
	if (err)
		return cli_fail(&cli, err);
	if (cli.json) {
		json_t *list = json_array();

		for (size_t i = 0; i < servers.count; i++)
			json_array_append_new(list, dbc_server_json(&servers.items[i]));
		pe_cli_json(json_pack("{s:o}", "servers", list));
	} else if (servers.count) {
		print_list(&servers);
	} else {
		puts("No MariaDB server runs on this host.");
	}
	if (servers.count && servers.denied && !cli.quiet)
		fprintf(stderr, "%s: note: %zu more servers belong to other users; run as root\n",
			DBC_PROGRAM, servers.denied);
	for (size_t i = 0; i < servers.count; i++)
		cli_note_leftovers(&servers.items[i]);
	dbc_servers_deinit(&servers);
	return 0;
}

/* ---- info ---- */

static error_t info_parse(int key, char *arg, struct argp_state *state)
{
	struct cli *cli = state->input;

	if (key == ARGP_KEY_INIT)
		state->child_inputs[0] = state->child_inputs[1] = cli;
	else if (key == ARGP_KEY_ARG)
		return cli_word(cli, arg, 1, state);
	else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

/* What only the server itself can tell; all NULL without SQL. */
struct asked {
	struct dbc_rows settings; /* name, value */
	struct dbc_rows plugins;  /* name, version, type, library */
};

static void ask(struct dbc_session *session, struct asked *ret)
{
	dbc_session_connect(session);
	if (!session->sql)
		return;

	pe_auto_error struct pe_error *first = dbc_sql_query(
		session->sql,
		"SELECT LOWER(VARIABLE_NAME), VARIABLE_VALUE FROM "
		"information_schema.GLOBAL_VARIABLES WHERE VARIABLE_NAME IN ('VERSION',"
		"'VERSION_COMMENT','VERSION_SOURCE_REVISION','VERSION_SSL_LIBRARY',"
		"'VERSION_MALLOC_LIBRARY','THREAD_HANDLING','DATADIR','PID_FILE','READ_ONLY',"
		"'WSREP_ON','INNODB_FORCE_RECOVERY') ORDER BY 1",
		&ret->settings, NULL);
	pe_auto_error struct pe_error *second = dbc_sql_query(
		session->sql,
		"SELECT PLUGIN_NAME, PLUGIN_VERSION, PLUGIN_TYPE, PLUGIN_LIBRARY FROM "
		"information_schema.PLUGINS WHERE PLUGIN_STATUS='ACTIVE' AND PLUGIN_LIBRARY IS "
		"NOT NULL ORDER BY 1",
		&ret->plugins, NULL);
}

static json_t *plugins_json(char **loaded)
{
	json_t *list = json_array();

	for (size_t i = 0; loaded && loaded[i]; i++)
		json_array_append_new(list, json_string(loaded[i]));
	return list;
}

static json_t *fixed_json(const struct dbc_server *server)
{
	json_t *list = json_array();

	for (size_t i = 0; i < server->applied.count; i++) {
		const struct pe_applied *applied = &server->applied.items[i];

		if (applied->state != PE_STATE_APPLIED && applied->state != PE_STATE_SETTLING)
			continue;
		for (size_t c = 0; c < applied->cve_count; c++)
			json_array_append_new(list, json_string(applied->cves[c].id));
	}
	return list;
}

static void print_info_json(const struct dbc_session *session, const struct asked *asked,
			    const char *package, char **loaded)
{
	json_t *root = dbc_server_json(&session->server), *settings = json_object();

	for (size_t i = 0; i < asked->settings.count; i++)
		json_object_set_new(settings, asked->settings.items[i][0],
				    json_string(asked->settings.items[i][1]
							? asked->settings.items[i][1]
							: ""));
	json_object_set_new(root, "package", package ? json_string(package) : json_null());
	json_object_set_new(root, "plugin_libraries", plugins_json(loaded));
	json_object_set_new(root, "cves_fixed", fixed_json(&session->server));
	json_object_set_new(root, "settings", settings);

	json_t *plugins = json_array();

	for (size_t i = 0; i < asked->plugins.count; i++) {
		char **row = asked->plugins.items[i];

		json_array_append_new(plugins, json_pack("{s:s?, s:s?, s:s?, s:s?}", "name", row[0],
							 "version", row[1], "type", row[2],
							 "library", row[3]));
	}
	json_object_set_new(root, "plugins", plugins);
	if (session->sql_error) {
		pe_auto_free char *why = pe_error_text(session->sql_error);

		json_object_set_new(root, "sql_error", json_string(why ? why : ""));
	}
	pe_cli_json(root);
}

static void print_fact(const char *name, const char *value)
{
	if (value && *value)
		printf("%-16s %s\n", name, value);
}

static void print_patches(const struct dbc_server *server)
{
	static const char *const titles[] = { "PATCH",	"STATE", ">LEVEL",    "CVE",
					      ">PAUSE", "SINCE", "FUNCTIONS", NULL };

	if (!server->applied.count) {
		puts("\nNo patch is applied.");
		return;
	}
	putchar('\n');

	struct pe_table *table = pe_table_new(titles);

	for (size_t i = 0; i < server->applied.count; i++) {
		const struct pe_applied *applied = &server->applied.items[i];
		char level[16], pause[32], since[32] = "-", functions[512] = "", cves[256] = "";
		time_t at = (time_t)applied->applied_at;
		struct tm local;

		snprintf(level, sizeof(level), "%u", applied->level);
		pe_format_us(applied->pause_us, pause);
		if (at)
			strftime(since, sizeof(since), "%F %T", localtime_r(&at, &local));
		for (size_t f = 0; f < applied->function_count; f++) {
			pe_auto_free char *name = pe_demangle(applied->functions[f]);
			size_t used = strlen(functions);

			snprintf(functions + used, sizeof(functions) - used, "%s%s", f ? ", " : "",
				 name ? name : applied->functions[f]);
		}
		for (size_t c = 0; c < applied->cve_count; c++) {
			size_t used = strlen(cves);

			snprintf(cves + used, sizeof(cves) - used, "%s%s", c ? ", " : "",
				 applied->cves[c].id);
		}
		pe_table_row(table, (const char *const[]){
					    applied->name, pe_state_name(applied->state), level,
					    *cves ? cves : NULL, pause, since, functions });
	}
	pe_table_print_and_free(table);
	for (size_t i = 0; i < server->applied.count; i++)
		pe_cli_print_old_frames(&server->applied.items[i]);
}

static void print_info(const struct dbc_session *session, const struct asked *asked,
		       const char *package, char **loaded)
{
	const struct dbc_server *server = &session->server;
	char text[64], hex[2 * PE_BUILD_ID_MAX + 1];
	pe_auto_free char *remarks = server_remarks(server);

	pe_build_id_hex(&server->build_id, hex);
	snprintf(text, sizeof(text), "%d", (int)server->pid);
	print_fact("pid", text);
	print_fact("version", server->version);
	print_fact("build-id", hex);
	print_fact("program", server->exe);
	print_fact("package", package);
	print_fact("socket", server->socket);
	snprintf(text, sizeof(text), "%zu", server->connections);
	print_fact("connections", text);
	snprintf(text, sizeof(text), "%zu", server->threads);
	print_fact("threads", text);
	snprintf(text, sizeof(text), "%llu d %02llu:%02llu:%02llu",
		 (unsigned long long)server->uptime_s / 86400,
		 (unsigned long long)server->uptime_s / 3600 % 24,
		 (unsigned long long)server->uptime_s / 60 % 60,
		 (unsigned long long)server->uptime_s % 60);
	print_fact("uptime", text);
	print_fact("remarks", remarks);
	for (size_t i = 0; i < asked->settings.count; i++) {
		if (strcmp(asked->settings.items[i][0], "version") != 0)
			printf("@@%-24s %s\n", asked->settings.items[i][0],
			       asked->settings.items[i][1]);
	}
	for (size_t i = 0; loaded && loaded[i]; i++)
		print_fact("plugin library", loaded[i]);
	for (size_t i = 0; i < asked->plugins.count; i++)
		printf("%-16s %s %s (%s)\n", "plugin", asked->plugins.items[i][0],
		       asked->plugins.items[i][1], asked->plugins.items[i][3]);
	if (session->sql_error) {
		pe_auto_free char *why = pe_error_text(session->sql_error);

		print_fact("not asked by SQL", why);
	}
	print_patches(server);
}

int cmd_info(int argc, char **argv)
{
	static const struct argp_child children[] = { { &cli_login_argp },
						      { &cli_common_argp },
						      { 0 } };
	static const struct argp argp = {
		NULL, info_parse, "[TARGET]",
		"Tells what a server is (version, build, package, plugins) and which patches are "
		"in its memory: their state, the CVEs they fix and the pause each one took.\v"
		"TARGET is a pid, the path of a socket or the id of a container. What SQL would "
		"add is left out when "
		"the server does not let us log in.\n"
		"\n"
		"Examples:\n"
		"  dbcarectl info\n"
		"  dbcarectl info 4711 --json\n"
		"  dbcarectl info /run/mysqld/mysqld.sock --user=dbcare\n",
		children
	};
	struct cli cli = { .shows = true };
	struct dbc_session session;
	struct asked asked = { 0 };

	argp_parse(&argp, argc, argv, 0, NULL, &cli);

	struct pe_error *err = cli_session_open(&cli, cli.words[0], &session);

	if (err)
		return cli_fail(&cli, err);
	ask(&session, &asked);
	cli_notes(session.notes);

	pe_auto_free char *package = dbc_package_of(&session.server);
	pe_auto_free char **loaded = dbc_loaded_plugins(session.target);

	if (cli.json)
		print_info_json(&session, &asked, package, loaded);
	else
		print_info(&session, &asked, package, loaded);
	dbc_rows_deinit(&asked.settings);
	dbc_rows_deinit(&asked.plugins);
	dbc_session_close(&session);
	return 0;
}

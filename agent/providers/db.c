/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The database as a product, first half: what care-patcher does to a mariadbd. No SQL here. */
#include "agent/providers/db.h"

#include <stdio.h>
#include <string.h>

#include "dbcare/describe.h"
#include "dbcare/server.h"
#include "dbcare/verify.h"
#include "engine/apply.h"
#include "engine/cleanup.h"

/* A server says that it has started before it listens; one that still does not never will. */
enum { LISTEN_SECONDS = 30 };

/*
 * Its socket, which on a host is its own. Containers have the same paths inside: there the id of
 * the container stands before it, as much of it as runtimes show.
 */
static json_t *name_of(const struct dbc_server *server)
{
	const char *path = server->socket ? server->socket : server->exe;
	const char *id = server->container ? server->container_id : NULL;

	return id ? json_sprintf("%.*s:%s", strlen(id) == 64 ? 12 : 64, id, path)
		  : json_string(path);
}

static json_t *describe(const struct dbc_server *server)
{
	json_t *target = dbc_server_json(server);
	char hex[2 * PE_BUILD_ID_MAX + 1];
	const char *state = "ready";

	if (server->stopping == 1)
		state = "stopping";
	else if (server->started == 0 || (!server->socket && server->uptime_s < LISTEN_SECONDS))
		state = "starting";
	pe_build_id_hex(&server->build_id, hex);
	json_object_set_new(target, "provider", json_string(db_provider.name));
	json_object_set_new(target, "state", json_string(state));
	json_object_set_new(target, "name", name_of(server));
	if (server->container_id)
		json_object_set_new(target, "aliases", json_pack("[s]", server->container_id));
	json_object_set_new(target, "build_ids",
			    server->build_id.size ? json_pack("[s]", hex) : json_array());
	return target;
}

static struct pe_error *db_discover(json_t *targets)
{
	struct dbc_servers servers;
	struct pe_error *err = dbc_discover(&servers);

	if (err)
		return err;
	for (size_t i = 0; i < servers.count; i++)
		json_array_append_new(targets, describe(&servers.items[i]));
	dbc_servers_deinit(&servers);
	return NULL;
}

static struct pe_error *find(pid_t pid, struct dbc_server *ret)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", (int)pid);
	return dbc_server_find(text, ret);
}

static struct pe_error *db_info(pid_t pid, json_t **ret)
{
	struct dbc_server server;
	struct pe_error *err = find(pid, &server);

	if (err)
		return err;
	*ret = describe(&server);
	dbc_server_deinit(&server);
	return NULL;
}

/* The process that the work means, and no other that has its pid now. */
static struct pe_error *open_target(const struct agent_work *work, struct pe_target **ret)
{
	struct pe_error *err = pe_target_open(work->pid, ret);

	if (err)
		return err;
	if (pe_target_start_time(*ret) == work->start_time)
		return NULL;
	pe_target_close(*ret);
	return pe_error_new(PE_ERR_DIED, "server %d is gone: another process has its pid now",
			    (int)work->pid);
}

static struct pe_error *db_plan(const struct agent_work *work, json_t **ret)
{
	struct pe_target *target;
	struct pe_plan *plan = NULL;
	struct pe_error *err = open_target(work, &target);

	if (err)
		return err;
	err = pe_plan_create(target, work->patch, &plan);
	if (!err) {
		size_t count;

		pe_plan_functions(plan, &count);
		*ret = json_pack("{s:I, s:I, s:b}", "functions", (json_int_t)count, "memory_bytes",
				 (json_int_t)pe_plan_memory(plan), "needs_stacks",
				 pe_plan_needs_stacks(plan));
		pe_plan_free(plan);
	}
	pe_target_close(target);
	return err;
}

static json_t *change_json(const struct pe_switch_result *change)
{
	json_t *blockers = json_array();

	for (size_t i = 0; i < change->blockers.count; i++)
		json_array_append_new(blockers,
				      json_pack("{s:i, s:s?}", "tid",
						(int)change->blockers.items[i].tid, "function",
						change->blocking_functions
							? change->blocking_functions[i]
							: NULL));
	return json_pack(
		"{s:I, s:I, s:I, s:I, s:i, s:s*, s:o}", "pause_us", (json_int_t)change->pause_us,
		"predicted_us", (json_int_t)change->predicted_us, "operation_us",
		(json_int_t)change->operation_us, "threads", (json_int_t)change->threads,
		"attempts", (int)change->attempts, "note", change->note, "blockers", blockers);
}

/* After a switch: is the process there, and does every thread of it run? */
static void look_at_threads(const struct agent_work *work, const struct pe_target *target,
			    json_t *result)
{
	struct dbc_server server = { .pid = work->pid };
	struct dbc_verification seen = { 0 };
	pe_auto_error struct pe_error *err = dbc_verify_threads(&server, target, &seen);
	pe_auto_free char *text = err ? pe_error_text(err) : NULL;

	json_object_set_new(result, "threads_wrong", text ? json_string(text) : json_null());
}

static struct pe_error *db_apply(const struct agent_work *work, json_t **ret)
{
	struct pe_apply_options options = { .timeout_us = work->timeout_us,
					    .max_pause_us = work->max_pause_us };
	struct pe_switch_result change = { 0 };
	struct pe_target *target;
	struct pe_plan *plan = NULL;
	struct pe_error *err = open_target(work, &target);

	if (err)
		return err;
	err = pe_plan_create_replacing(target, work->patch, &work->replace, work->replace != NULL,
				       &plan);
	if (!err)
		err = pe_apply(target, plan, &options, &change);
	*ret = change_json(&change);
	if (!err)
		look_at_threads(work, target, *ret);
	pe_switch_result_deinit(&change);
	if (plan)
		pe_plan_free(plan);
	pe_target_close(target);
	return err;
}

static struct pe_error *db_revert(const struct agent_work *work, json_t **ret)
{
	struct pe_apply_options options = { .timeout_us = work->timeout_us };
	struct pe_switch_result change = { 0 };
	struct pe_target *target;
	struct pe_error *err = open_target(work, &target);

	if (err)
		return err;
	err = pe_revert(target, work->name, &options, &change);
	*ret = change_json(&change);
	if (!err)
		look_at_threads(work, target, *ret);
	pe_switch_result_deinit(&change);
	pe_target_close(target);
	return err;
}

static struct pe_error *db_recover(const struct agent_work *work, json_t **ret)
{
	struct pe_recovery recovery = { 0 };
	struct pe_target *target;
	struct pe_error *err = open_target(work, &target);

	if (err)
		return err;
	err = pe_recover(target, &recovery);
	if (!err)
		*ret = json_pack("{s:I, s:I, s:I, s:s*}", "finished", (json_int_t)recovery.finished,
				 "undone", (json_int_t)recovery.undone, "released",
				 (json_int_t)recovery.released, "text", recovery.text);
	pe_recovery_deinit(&recovery);
	pe_target_close(target);
	return err;
}

/*
 * The socket's file, not a connection: whoever gets it speaks SQL for himself, and the process
 * with the right to trace never does, neither with a server of the host nor of a container.
 */
static struct pe_error *db_reach(const struct agent_work *work, int *ret)
{
	struct dbc_server server;
	struct pe_error *err = find(work->pid, &server);

	if (err)
		return err;
	if (server.start_time != work->start_time)
		err = pe_error_new(PE_ERR_DIED, "server %d is gone", (int)work->pid);
	else
		err = dbc_server_open_socket(&server, ret);
	dbc_server_deinit(&server);
	return err;
}

static const char *const programs[] = { "mariadbd", "mysqld", NULL };

const struct agent_provider db_provider = {
	.name = "db",
	.programs = programs,
	.discover = db_discover,
	.info = db_info,
	.plan = db_plan,
	.apply = db_apply,
	.revert = db_revert,
	.recover = db_recover,
	.reach = db_reach,
	.level = db_level,
	.before = db_before,
	.after = db_after,
	.leave = db_leave,
};

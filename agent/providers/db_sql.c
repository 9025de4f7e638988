/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The database as a product, second half: what care-agent asks a server by SQL, through the
 * socket that care-patcher opened, non-blocking (each wait gives the loop back).
 */
#include <pwd.h>
#include <string.h>
#include <unistd.h>

#include "agent/daemon/config.h"
#include "agent/daemon/task.h"
#include "agent/providers/db.h"
#include "dbcare/gates.h"
#include "dbcare/verify.h"
#include "engine/cleanup.h"

/* One visit: the session that is kept from before the switch until after it. */
struct baseline {
	struct dbc_server server;
	struct dbc_login login;
	char *user;
	struct dbc_sql *kept;
	struct dbc_baseline before;
};

int db_level(const json_t *target)
{
	const json_t *level = json_object_get(target, "level");

	return json_is_integer(level) ? (int)json_integer_value(level) : -1;
}

/* The server as the gates need it, from its description. */
static void fill_server(struct baseline *base, const struct agent_visit *visit)
{
	const json_t *target = visit->target;
	const char *state = json_string_value(json_object_get(target, "state"));
	const char *version = json_string_value(json_object_get(target, "version"));
	const char *socket = json_string_value(json_object_get(target, "socket"));

	base->server.pid = base->server.ns_pid =
		(pid_t)json_integer_value(json_object_get(target, "pid"));
	base->server.version = version ? strdup(version) : NULL;
	base->server.socket = socket ? strdup(socket) : NULL;
	base->server.socket_fd = visit->door;
	base->server.stopping = state && strcmp(state, "stopping") == 0;
	base->server.started = !state || strcmp(state, "starting") != 0;
}

/* As SQL_USER says, else as the user that we run as: unix_socket needs no password then. */
static void fill_login(struct baseline *base, const struct agent_visit *visit)
{
	const struct agent_settings *settings = visit->settings;
	const struct passwd *entry = settings->sql_user ? NULL : getpwuid(geteuid());

	if (settings->sql_user)
		base->user = strdup(settings->sql_user);
	else if (entry && !settings->sql_defaults_file)
		base->user = strdup(entry->pw_name);
	base->login.user = base->user;
	base->login.defaults_file = settings->sql_defaults_file;
	base->login.no_defaults = !settings->sql_defaults_file;
	base->login.program = "care-agent";
	base->login.wait = agent_task_poll;
}

struct pe_error *db_before(struct agent_visit *visit)
{
	struct baseline *base = calloc(1, sizeof(*base));
	size_t demanded = json_array_size(visit->gates);
	pe_auto_free const char **names = calloc(demanded + 1, sizeof(*names));
	struct dbc_gate_report report = { 0 };

	if (!base || !names) {
		free(base);
		return pe_error_nomem();
	}
	for (size_t i = 0; i < demanded; i++)
		names[i] = json_string_value(json_array_get(visit->gates, i));
	visit->baseline = base;
	fill_server(base, visit);
	fill_login(base, visit);

	pe_auto_free char *notes = NULL;
	pe_auto_error struct pe_error *closed =
		dbc_sql_open(&base->server, &base->login, &base->kept, &notes);
	struct dbc_gates gates = { .server = &base->server,
				   .login = &base->login,
				   .sql = base->kept,
				   .sql_error = closed,
				   .limits = { visit->settings->max_lag_s,
					       visit->settings->max_load },
				   .demanded = names,
				   .demanded_count = demanded };
	struct pe_error *err = dbc_gates_run(&gates, &report);

	if (!err)
		err = dbc_gates_error(&report);
	dbc_gate_report_deinit(&report);
	return err ? err : dbc_baseline_take(base->kept, &base->before);
}

struct pe_error *db_after(struct agent_visit *visit)
{
	struct baseline *base = visit->baseline;
	struct dbc_verification seen = { 0 };

	return dbc_verify_sql(&base->server, &base->login, base->kept, &base->before, &seen);
}

void db_leave(struct agent_visit *visit)
{
	struct baseline *base = visit->baseline;

	if (!base)
		return;
	dbc_sql_close(base->kept);
	dbc_server_deinit(&base->server);
	free(base->user);
	free(base);
	visit->baseline = NULL;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asking care-patcher. It answers one request at a time, so there is one connection and a queue.
 * When it dies, systemd or the supervisor starts it again; what only looks is then asked once
 * more, what changes a target is not: its task looks at the target first.
 */
#include <poll.h>
#include <string.h>

#include "agent/daemon/agent.h"
#include "agent/sockets.h"
#include "engine/cleanup.h"

enum { ANSWER_MOST = 16 << 20, ANSWER_MS = 180000, CONNECT_TRIES = 50, CONNECT_MS = 100 };

static const char died_text[] = "care-patcher ended before it answered";

bool agent_patcher_died(const struct pe_error *err)
{
	return err && err->code == PE_ERR_DIED && strcmp(err->message, died_text) == 0;
}

json_t *agent_request(const char *verb, const struct agent_target *target)
{
	return json_pack("{s:s, s:s, s:i, s:I}", "do", verb, "provider", target->provider->name,
			 "pid", (int)target->pid, "start_time", (json_int_t)target->start_time);
}

static struct pe_error *connect_patcher(struct agent *agent)
{
	struct pe_error *err = NULL;
	int fd = -1;

	if (agent->patcher.fd >= 0)
		return NULL;
	for (int i = 0; i < CONNECT_TRIES; i++) {
		pe_error_free(err);
		err = agent_socket_connect("patcher", &fd);
		if (!err) {
			agent_lines_init(&agent->patcher, fd, ANSWER_MOST);
			return NULL;
		}
		if (err->code != PE_ERR_NO_TARGET)
			break;
		agent_task_sleep(CONNECT_MS);
	}
	return pe_error_wrap(err, "cannot reach care-patcher");
}

/* Errors here are of the connection, which is then closed. */
static struct pe_error *exchange(struct agent *agent, json_t *request, int patch_fd, json_t **ret,
				 int *fd)
{
	struct agent_lines *lines = &agent->patcher;
	int copy = patch_fd < 0 ? -1 : dup(patch_fd);
	struct pe_error *err = agent_lines_put(lines, json_incref(request), copy);

	*ret = NULL;
	while (!err && lines->out_used) {
		err = agent_lines_flush(lines);
		if (!err && lines->out_used)
			agent_task_poll(NULL, lines->fd, POLLOUT, ANSWER_MS);
	}
	while (!err && !*ret) {
		err = agent_lines_next(lines, ret, fd);
		if (err || *ret)
			break;
		if (!agent_task_poll(NULL, lines->fd, POLLIN, ANSWER_MS))
			err = pe_error_new(PE_ERR_DIED, "no answer within %d s", ANSWER_MS / 1000);
		else
			err = agent_lines_read(lines);
		if (err && err->code == PE_ERR_BUSY) {
			pe_error_free(err);
			err = NULL;
		}
	}
	return err;
}

static enum pe_code code_named(const char *name)
{
	for (int code = PE_OK; code < PE_ERR_COUNT; code++) {
		if (name && strcmp(pe_code_name((enum pe_code)code), name) == 0)
			return (enum pe_code)code;
	}
	return PE_ERR_INTERNAL;
}

static bool only_looks(const json_t *request)
{
	const char *verb = json_string_value(json_object_get(request, "do"));

	return strcmp(verb, "apply") != 0 && strcmp(verb, "revert") != 0;
}

struct pe_error *agent_ask(struct agent *agent, json_t *request, int patch_fd, json_t **answer,
			   int *fd)
{
	struct pe_error *err = NULL;
	int tries = only_looks(request) ? 2 : 1, carried = -1;

	*answer = NULL;
	agent_lock_take(&agent->patcher_lock);
	json_object_set_new(request, "id", json_integer((json_int_t)++agent->asked));
	for (int i = 0; i < tries && !*answer; i++) {
		pe_error_free(err);
		err = connect_patcher(agent);
		if (err)
			break;
		err = exchange(agent, request, patch_fd, answer, &carried);
		if (err) {
			agent_lines_deinit(&agent->patcher);
			pe_error_free(err);
			err = pe_error_new(PE_ERR_DIED, "%s", died_text);
		}
	}
	agent_lock_drop(&agent->patcher_lock);
	json_decref(request);
	if (fd)
		*fd = carried;
	else if (carried >= 0)
		close(carried);
	if (err || json_is_true(json_object_get(*answer, "ok")))
		return err;

	const char *message = json_string_value(json_object_get(*answer, "message"));

	return pe_error_new(code_named(json_string_value(json_object_get(*answer, "code"))), "%s",
			    message ? message : "care-patcher gives no reason");
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Listens to care-watch; without it, or while it is gone, scans find what starts. */
#include <poll.h>
#include <syslog.h>

#include "agent/daemon/agent.h"
#include "agent/sockets.h"
#include "engine/cleanup.h"

enum { EVENT_MOST = 1 << 16, AGAIN_MS = 1000 };

static struct agent_lines lines = { .fd = -1, .out_fd = -1 };

static struct pe_error *tell(json_t *message)
{
	struct pe_error *err = agent_lines_put(&lines, message, -1);

	return err ? err : agent_lines_flush(&lines);
}

void agent_watcher_mind(pid_t pid)
{
	if (lines.fd < 0)
		return;

	pe_auto_error struct pe_error *err = tell(json_pack("{s:i}", "mind", (int)pid));
}

static json_t *programs(void)
{
	json_t *names = json_array();

	for (size_t i = 0; agent_providers[i]; i++) {
		for (size_t k = 0; agent_providers[i]->programs[k]; k++)
			json_array_append_new(names, json_string(agent_providers[i]->programs[k]));
	}
	return json_pack("{s:o}", "programs", names);
}

static void take(struct agent *agent, const json_t *event)
{
	const json_t *watching = json_object_get(event, "watching");
	pid_t started = (pid_t)json_integer_value(json_object_get(event, "exec"));
	pid_t ended = (pid_t)json_integer_value(json_object_get(event, "exit"));

	if (watching) {
		agent->watching = json_is_true(watching);
		agent_event(agent, agent->watching ? LOG_INFO : LOG_WARNING,
			    agent->watching ? "watching" : "not-watching", NULL, NULL);
	}
	if (started > 0)
		agent_noticed(agent, started);
	if (ended > 0)
		agent_ended(agent, ended, (int)json_integer_value(json_object_get(event, "status")),
			    (int)json_integer_value(json_object_get(event, "signal")));
	/* What started before it listened, or was lost, is found by a scan. */
	if ((watching || json_object_get(event, "lost")) && agent->scan_task)
		agent_task_wake(agent->scan_task);
}

static struct pe_error *listen_to_it(struct agent *agent)
{
	struct pe_error *err = tell(programs());

	for (const struct agent_target *t = agent->targets; t; t = t->next)
		agent_watcher_mind(t->pid);
	while (!err) {
		json_t *event;

		err = agent_lines_next(&lines, &event, NULL);
		if (event) {
			take(agent, event);
			json_decref(event);
			continue;
		}
		if (err)
			break;
		agent_task_poll(NULL, lines.fd, POLLIN, -1);
		err = agent_lines_read(&lines);
		if (err && err->code == PE_ERR_BUSY) {
			pe_error_free(err);
			err = NULL;
		}
	}
	return err;
}

void agent_watcher_task(void *arg)
{
	struct agent *agent = arg;

	for (;;) {
		int fd;
		struct pe_error *err = agent_socket_connect("watch", &fd);

		if (!err) {
			agent_lines_init(&lines, fd, EVENT_MOST);
			err = listen_to_it(agent);
			agent_lines_deinit(&lines);
			agent->watching = false;
			if (agent->scan_task)
				agent_task_wake(agent->scan_task);
		}
		pe_error_free(err);
		agent_task_sleep(AGAIN_MS);
	}
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The history, written in a thread: it waits for the disk, and for whoever else writes to it. */
#include <syslog.h>

#include "agent/daemon/agent.h"
#include "engine/cleanup.h"

struct writing {
	const char *action, *result;
	json_t *fields;
	struct dbc_history *history;
	struct pe_error *err;
};

static void begin(void *arg)
{
	struct writing *writing = arg;

	writing->err = dbc_history_begin(writing->action, writing->fields, &writing->history);
}

static void end(void *arg)
{
	struct writing *writing = arg;

	writing->err = dbc_history_end(writing->history, writing->result, writing->fields);
}

struct pe_error *agent_record_begin(struct agent_target *target, const char *action,
				    const char *patch, struct dbc_history **ret)
{
	const json_t *info = target->info;
	const json_t *id = json_array_get(json_object_get(info, "build_ids"), 0);
	struct writing writing = {
		.action = action,
		.fields = json_pack("{s:s, s:i, s:I, s:s*, s:s*, s:s, s:s}", "patch", patch, "pid",
				    (int)target->pid, "start_time", (json_int_t)target->start_time,
				    "server", json_string_value(json_object_get(info, "version")),
				    "build_id", json_string_value(id), "socket",
				    agent_target_name(target), "by", "care-agent"),
	};

	agent_task_in_thread(begin, &writing);
	if (writing.err)
		return writing.err;
	if (dbc_history_note(writing.history))
		agent_event(target->agent, LOG_WARNING, "history-damaged", target,
			    json_pack("{s:s}", "message", dbc_history_note(writing.history)));
	*ret = writing.history;
	return NULL;
}

void agent_record_end(struct agent_target *target, struct dbc_history *history, const char *result,
		      const json_t *answer, const struct pe_error *cause)
{
	struct writing writing = { .result = result,
				   .history = history,
				   .fields = json_copy(json_object_get(answer, "result")) };

	if (!writing.fields)
		writing.fields = json_object();
	json_object_del(writing.fields, "blockers");
	if (cause) {
		pe_auto_free char *text = pe_error_text(cause);

		json_object_set_new(writing.fields, "message", json_string(text ? text : ""));
	}
	agent_task_in_thread(end, &writing);

	pe_auto_error struct pe_error *err = writing.err;

	if (err) {
		pe_auto_free char *text = pe_error_text(err);

		agent_event(target->agent, LOG_ERR, "history-failed", target,
			    json_pack("{s:s}", "message", text ? text : ""));
	}
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The history, written in a thread: it waits for the disk, and for whoever else writes to it. */
#include <stdio.h>
#include <string.h>
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
	json_object_set(writing.fields, "level",
			json_object_get(json_object_get(answer, "patch"), "level"));
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

/* ---- what others did ---- */

struct looking {
	const struct agent_target *target;
	const char *patch;
	char *when; /* owned; NULL: it was not, or not last */
};

static void look_for_revert(void *arg)
{
	struct looking *looking = arg;
	const struct agent_target *target = looking->target;
	char pid[16];
	json_t *all = NULL, *record;
	size_t i;

	snprintf(pid, sizeof(pid), "%d", (int)target->pid);
	/* What cannot be read has told of itself when the agent wrote to it. */
	pe_error_free(dbc_history_read(
		&(struct dbc_history_filter){ .server = pid, .patch = looking->patch }, &all));
	json_array_foreach(all, i, record)
	{
		const char *result = json_string_value(json_object_get(record, "result"));
		const char *by = json_string_value(json_object_get(record, "by"));
		const char *time = json_string_value(json_object_get(record, "time"));
		json_int_t start = json_integer_value(json_object_get(record, "start_time"));

		if ((uint64_t)start != target->start_time || !result || !time)
			continue;
		if (strcmp(result, "reverted") != 0 && strcmp(result, "applied") != 0)
			continue;
		free(looking->when);
		looking->when =
			strcmp(result, "reverted") == 0 && (!by || strcmp(by, "care-agent") != 0)
				? strdup(time)
				: NULL;
	}
	json_decref(all);
}

bool agent_record_reverted_by_hand(const struct agent_target *target, const char *patch,
				   char **when)
{
	struct looking looking = { .target = target, .patch = patch };

	agent_task_in_thread(look_for_revert, &looking);
	*when = looking.when;
	return *when != NULL;
}

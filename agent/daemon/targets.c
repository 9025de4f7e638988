/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Targets: found by process events and by scans, each served by a task of its own until its
 * process is gone. A target is known by pid and start time, so that a restarted server is a new
 * one.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "agent/daemon/agent.h"
#include "engine/cleanup.h"

/* A crash within so many seconds of a patch counts against the patch. */
enum { CRASH_SECONDS = 60 };

/* With process events, every so many intervals a scan looks for what they may have missed. */
enum { SELDOM = 30, FRESH_MS = 1000 };

const char *agent_target_name(const struct agent_target *target)
{
	const char *name = json_string_value(json_object_get(target->info, "name"));

	return name ? name : "?";
}

bool agent_target_is(const struct agent_target *target, const char *text)
{
	const json_t *alias;
	char pid[16];
	size_t i;

	snprintf(pid, sizeof(pid), "%d", (int)target->pid);
	json_array_foreach(json_object_get(target->info, "aliases"), i, alias)
	{
		if (strcmp(text, json_string_value(alias)) == 0)
			return true;
	}
	return strcmp(text, pid) == 0 || strcmp(text, agent_target_name(target)) == 0;
}

static void target_free(struct agent_target *target)
{
	agent_ending_close(target);
	json_decref(target->info);
	agent_held_clear(target);
	free(target->fresh);
	free(target->note);
	free(target);
}

static void unlink_target(struct agent_target *target)
{
	struct agent_target **link = &target->agent->targets;

	while (*link != target)
		link = &(*link)->next;
	*link = target->next;
}

/*
 * Did the server crash soon after it was patched? Ended by a signal that is none of a shutdown's.
 * Where nobody knows how it ended (no process events, and a kernel that does not tell), an end
 * within the minute is a restart the first time and a crash the next, unless the server was seen to
 * shut down.
 */
static void judge_end(struct agent_target *target)
{
	struct agent *agent = target->agent;
	const char *state = json_string_value(json_object_get(target->info, "state"));
	bool wanted = target->exit_known ? target->exit_status == 0 && !target->exit_signal
					 : state && strcmp(state, "stopping") == 0;

	if (target->exit_signal == SIGTERM || target->exit_signal == SIGKILL)
		wanted = true; /* somebody's decision, or the OOM killer's */
	if (!target->fresh || wanted || time(NULL) - target->fresh_since > CRASH_SECONDS)
		return;
	for (size_t i = 0; i < agent->offers.count; i++) {
		const struct agent_offer *offer = &agent->offers.items[i];

		if (strcmp(offer->sha256, target->fresh) != 0 ||
		    agent_state_crash_of(agent, offer->sha256))
			continue;
		if (!target->exit_known && agent_state_suspect(agent, offer->sha256) == 1) {
			agent_event(
				agent, LOG_WARNING, "ended-after-patch", target,
				json_pack("{s:s, s:s}", "patch", offer->name, "message",
					  "nobody saw how; the next time it counts as a crash"));
			continue;
		}
		agent->counts.crashes++;
		agent_state_crashed(agent, offer->sha256, offer->name, agent_target_name(target));
		agent_event(agent, LOG_ERR, "crash-after-patch", target,
			    json_pack("{s:s, s:i, s:i, s:s}", "patch", offer->name, "status",
				      target->exit_status, "signal", target->exit_signal, "message",
				      "it is not applied again by itself; `dbcarectl update "
				      "--again` does"));
	}
}

static void target_task(void *arg)
{
	struct agent_target *target = arg;

	target->task = agent_task_self();
	while (!target->gone) {
		int wait = agent_work_pass(target);

		if (!target->gone)
			agent_task_wait(wait);
	}
	/* How it ended may be told a moment after it was found gone. */
	for (int i = 0; !agent_ending_known(target) && i < 20; i++)
		agent_task_wait(50);
	judge_end(target);
	if (target->info)
		agent_event(target->agent, LOG_INFO, "target-gone", target, NULL);
	unlink_target(target);
	target_free(target);
}

static struct agent_target *find(struct agent *agent, pid_t pid, uint64_t start_time)
{
	for (struct agent_target *t = agent->targets; t; t = t->next) {
		if (t->pid == pid && t->start_time == start_time)
			return t;
	}
	return NULL;
}

/* Takes a description as the patcher gave it. */
static void take(struct agent *agent, json_t *info)
{
	const char *name = json_string_value(json_object_get(info, "provider"));
	const struct agent_provider *provider = agent_provider_find(name);
	pid_t pid = (pid_t)json_integer_value(json_object_get(info, "pid"));
	uint64_t start = (uint64_t)json_integer_value(json_object_get(info, "start_time"));
	struct agent_target *target = provider ? find(agent, pid, start) : NULL;

	if (!provider)
		return;
	if (target) {
		/* Somebody else has patched it, or taken a patch back. */
		bool changed = !json_equal(json_object_get(target->info, "level"),
					   json_object_get(info, "level"));

		json_decref(target->info);
		target->info = json_incref(info);
		if (changed && target->task)
			agent_task_wake(target->task);
		return;
	}
	target = calloc(1, sizeof(*target));
	if (!target)
		return;
	*target = (struct agent_target){ .agent = agent,
					 .provider = provider,
					 .pid = pid,
					 .start_time = start,
					 .info = json_incref(info),
					 .found_ms = uv_hrtime() / 1000000 };
	target->next = agent->targets;
	agent->targets = target;
	agent_ending_watch(target);
	agent_watcher_mind(pid);
	agent_event(agent, LOG_INFO, "target-found", target, NULL);

	pe_auto_error struct pe_error *err = agent_task_start(target_task, target);

	if (err) {
		unlink_target(target);
		target_free(target);
	}
}

struct noticed {
	struct agent *agent;
	pid_t pid;
};

static void noticed_task(void *arg)
{
	struct noticed *noticed = arg;
	json_t *answer;
	pe_auto_error struct pe_error *err = agent_ask(
		noticed->agent, json_pack("{s:s, s:i}", "do", "info", "pid", (int)noticed->pid), -1,
		&answer, NULL);

	/* In its first moment a process may not yet look like what it is. */
	for (int i = 0; err && err->code == PE_ERR_NO_TARGET && i < 3; i++) {
		json_decref(answer);
		pe_error_free(err);
		agent_task_sleep(50 << i);
		err = agent_ask(noticed->agent,
				json_pack("{s:s, s:i}", "do", "info", "pid", (int)noticed->pid), -1,
				&answer, NULL);
	}
	if (!err)
		take(noticed->agent, json_object_get(answer, "target"));
	json_decref(answer);
	free(noticed);
}

void agent_noticed(struct agent *agent, pid_t pid)
{
	struct noticed *noticed = malloc(sizeof(*noticed));

	if (!noticed)
		return;
	*noticed = (struct noticed){ agent, pid };

	pe_auto_error struct pe_error *err = agent_task_start(noticed_task, noticed);

	if (err)
		free(noticed);
}

void agent_ended(struct agent *agent, pid_t pid, int status, int signal)
{
	for (struct agent_target *t = agent->targets; t; t = t->next) {
		if (t->pid != pid || t->exit_known)
			continue;
		t->exit_known = true;
		t->exit_status = status;
		t->exit_signal = signal;
		t->gone = true;
		/* One that ended as soon as it was found has not begun its task yet. */
		if (t->task)
			agent_task_wake(t->task);
	}
}

void agent_wake_targets(struct agent *agent, pid_t pid)
{
	for (struct agent_target *t = agent->targets; t; t = t->next) {
		if (t->task && (!pid || t->pid == pid))
			agent_task_wake(t->task);
	}
}

static void scan(struct agent *agent)
{
	json_t *answer, *info;
	size_t i;
	pe_auto_error struct pe_error *err =
		agent_ask(agent, json_pack("{s:s}", "do", "discover"), -1, &answer, NULL);

	if (err) {
		agent_event(agent, LOG_ERR, "scan-failed", NULL,
			    json_pack("{s:s}", "message", err->message));
		json_decref(answer);
		return;
	}

	json_t *targets = json_object_get(answer, "targets");

	json_array_foreach(targets, i, info) take(agent, info);
	for (struct agent_target *t = agent->targets; t; t = t->next) {
		bool there = false;

		json_array_foreach(targets, i, info) there |=
			json_integer_value(json_object_get(info, "pid")) == t->pid &&
			(uint64_t)json_integer_value(json_object_get(info, "start_time")) ==
				t->start_time;
		/* Its own task finds out whether it really is gone. */
		if (!there && t->task)
			agent_task_wake(t->task);
	}
	json_decref(answer);
}

void agent_scan_task(void *arg)
{
	struct agent *agent = arg;

	uint64_t scanned_ms = 0;

	agent->scan_task = agent_task_self();
	for (bool asked = true;;) {
		uint64_t every_ms = agent->settings.scan_interval_s * 1000;
		uint64_t now_ms = uv_hrtime() / 1000000;

		agent_offers_look(agent);
		if (asked || now_ms - scanned_ms >= every_ms * (agent->watching ? SELDOM : 1)) {
			scan(agent);
			scanned_ms = uv_hrtime() / 1000000;
		}
		asked = agent_task_wait((int)every_ms);
	}
}

void agent_scan_fresh(struct agent *agent)
{
	static uint64_t last_ms;
	uint64_t now_ms = uv_hrtime() / 1000000;

	if (now_ms - last_ms < FRESH_MS)
		return;
	last_ms = now_ms;
	scan(agent);
}

json_t *agent_target_json(const struct agent_target *target)
{
	json_t *root = json_copy(target->info);
	const struct agent_held *held = &target->held;

	if (!root)
		root = json_object();
	json_object_set_new(root, "doing",
			    target->doing ? json_string(target->doing) : json_null());
	json_object_set_new(root, "note", target->note ? json_string(target->note) : json_null());
	if (held->reason)
		json_object_set_new(
			root, "held",
			json_pack("{s:s, s:s?, s:I, s:I, s:i}", "reason", held->reason, "patch",
				  held->patch, "since", (json_int_t)held->since, "next_try",
				  (json_int_t)held->next_try, "tries", (int)held->tries));
	return root;
}

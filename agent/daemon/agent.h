/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * care-agent's own things. One thread; everything that waits is a task (task.h):
 *
 *	targets.c   finds targets: process events, else scans; one task for each target
 *	work.c      what such a task does: look, choose, ask, apply, verify, record
 *	check.c     when to ask the repository; repository.c asks it
 *	control.c   answers dbcarectl
 *	watcher.c   listens to care-watch
 *
 * care-patcher is asked through ask.c. What has to outlive the agent is in state.c; what is applied
 * is known by the targets themselves.
 */
#ifndef AGENT_DAEMON_H
#define AGENT_DAEMON_H

#include <jansson.h>

#include "agent/daemon/config.h"
#include "agent/daemon/policy.h"
#include "agent/daemon/task.h"
#include "agent/lines.h"
#include "agent/provider.h"
#include "dbcare/history.h"

struct agent;

/* Why a target does not get what it should have. */
struct agent_held {
	char *reason;	 /* NULL: nothing holds */
	char *patch;	 /* which patch waits; or NULL */
	time_t since;	 /* of this reason's kind */
	time_t next_try; /* 0: not by itself */
	unsigned int tries;
};

struct agent_target {
	struct agent_target *next;
	struct agent *agent;
	const struct agent_provider *provider;
	pid_t pid;
	uint64_t start_time;
	json_t *info; /* the last description; NULL before the first */
	struct agent_task *task;
	struct agent_held held;
	char *note; /* what an operator should know, and that nothing has to hold; NULL: nothing */
	const char *doing; /* "waiting for start", "applying", ...; NULL: nothing */
	uint64_t found_ms; /* uv_hrtime / 1e6 */
	uint64_t ready_ms; /* first seen ready; 0: not yet */
	char *fresh;	   /* SHA-256 of the patch that was applied a moment ago */
	time_t fresh_since;
	bool urgent;	       /* an operator asked: try now, not at the next try */
	bool wanted;	       /* an operator asked, and it is held and tried again */
	bool reverted_by_hand; /* what is on offer was, and stays out */
	bool again;	       /* and also what has a bad record: agent_state_suspicion */
	bool recovered;	       /* looked for traces of a dead patcher */
	bool gone;
	struct agent_ending *ending; /* ending.c; NULL: the kernel cannot tell */
	bool exit_known;
	int exit_status, exit_signal;
};

struct agent {
	struct agent_settings settings;
	uid_t uid;
	gid_t gid;
	struct agent_target *targets;
	struct agent_offers offers;
	json_t *state; /* state.c */
	time_t started, last_check, last_success, next_check;
	time_t metadata_expires; /* of the repository; 0: none */
	bool check_now;		 /* an operator or a new build wants a check */
	bool look_only;		 /* and that nothing is applied because of it */
	unsigned int checks;	 /* done so far */
	json_t *checked_builds;	 /* what the last check asked for: {"PRODUCT BUILD-ID": true} */
	char *check_error;	 /* of the last check; NULL: it went well */
	char *settings_error;	 /* agent.conf as it is now cannot be used */
	struct agent_task *check_task, *scan_task;
	bool watching; /* care-watch hears process events */
	struct agent_lock patcher_lock;
	struct agent_lines patcher;
	unsigned long long asked; /* requests so far: their ids */
	uint64_t seen_custom;	  /* what the patch directory looked like */
	struct {
		unsigned long long applies, reverts, failures, crashes, signature_failures;
	} counts;
};

/* ---- ask.c ---- */

/*
 * Sends a request to care-patcher (taken over) and waits for its answer; *fd, when not NULL, gets
 * what comes with it or -1; @patch_fd (-1: none) stays the caller's. The error is the patcher's
 * own; DIED with agent_patcher_died when it ended meanwhile.
 */
struct pe_error *agent_ask(struct agent *agent, json_t *request, int patch_fd, json_t **answer,
			   int *fd) pe_must_check;
bool agent_patcher_died(const struct pe_error *err);
/* A request about one target: {"do":...,"provider","pid","start_time"}. */
json_t *agent_request(const char *verb, const struct agent_target *target);

/* ---- targets.c ---- */

void agent_scan_task(void *agent);
/* For somebody who wants to see how things are; at most once a second. */
void agent_scan_fresh(struct agent *agent);
/* Looks at a process that has just started. */
void agent_noticed(struct agent *agent, pid_t pid);
void agent_ended(struct agent *agent, pid_t pid, int status, int signal);
/* Lets all targets look again; only @pid when it is not 0. */
void agent_wake_targets(struct agent *agent, pid_t pid);
bool agent_target_is(const struct agent_target *target, const char *text);
json_t *agent_target_json(const struct agent_target *target);
const char *agent_target_name(const struct agent_target *target);

/* ---- ending.c ---- */

/* From now on the target is marked gone as soon as its process has ended. */
void agent_ending_watch(struct agent_target *target);
/* Whether it is known how it ended; asks the kernel. */
bool agent_ending_known(struct agent_target *target);
void agent_ending_close(struct agent_target *target);

/* ---- work.c ---- */

/* One pass; returns after how many ms the next is due, -1: when something changes. */
int agent_work_pass(struct agent_target *target);
void agent_held_clear(struct agent_target *target);

/* ---- record.c ---- */

/* Records that @patch is about to be applied or reverted; nothing may be changed when it fails. */
struct pe_error *agent_record_begin(struct agent_target *target, const char *action,
				    const char *patch, struct dbc_history **ret) pe_must_check;
/* And how it ended, with what the patcher answered and what went wrong (NULL: nothing). */
void agent_record_end(struct agent_target *target, struct dbc_history *history, const char *result,
		      const json_t *answer, const struct pe_error *cause);
/*
 * Was the last that was done with @patch in this very process a revert, and not by an agent? *@when
 * is then its time, owned by the caller.
 */
bool agent_record_reverted_by_hand(const struct agent_target *target, const char *patch,
				   char **when);

/* ---- offers.c ---- */

/* Reads the patch directory and the cache's list again. */
void agent_offers_refresh(struct agent *agent);
/* The same, only when the patch directory looks different. */
void agent_offers_look(struct agent *agent);

/* ---- state.c: holds, patches with a bad record, what servers had ---- */

void agent_state_load(struct agent *agent);
void agent_state_save(struct agent *agent);
/* @target "" means all. */
/* Who holds it, borrowed; NULL: nobody. A hold of all is none of the target's own. */
const char *agent_state_held_by(struct agent *agent, const char *target);
/* All holds, borrowed: target -> by. */
const json_t *agent_state_holds(struct agent *agent);
void agent_state_hold(struct agent *agent, const char *target, const char *by);
bool agent_state_resume(struct agent *agent, const char *target);
void agent_state_crashed(struct agent *agent, const char *sha256, const char *name,
			 const char *server);
/* Of ends that nobody saw: how many there are now for that patch. */
int agent_state_suspect(struct agent *agent, const char *sha256);
const json_t *agent_state_crash_of(struct agent *agent, const char *sha256);
/* @why: the error that said that it failed its verification. */
void agent_state_failed(struct agent *agent, const char *sha256, const char *server,
			const char *why);
/* Why that patch is applied no more by itself; owned; NULL: nothing is known against it. */
char *agent_state_suspicion(struct agent *agent, const char *sha256);
void agent_state_forgive(struct agent *agent, const char *sha256);
void agent_state_had(struct agent *agent, const char *target, const char *build_id,
		     unsigned int level);
/* -1: none. *build_id (may be NULL; "": not known) lives until the state changes. */
int agent_state_level_of(struct agent *agent, const char *target, const char **build_id);
/* What the repository says of the host's key; NULL: nothing. Saved with the rest. */
void agent_state_key_says(struct agent *agent, const char *tag);
/* What it said last, if it was of the key that the settings have now. */
void agent_state_key_known(struct agent *agent);

/* ---- events.c ---- */

/* Logs, remembers and passes on; @fields (taken over) may be NULL. */
void agent_event(struct agent *agent, int priority, const char *name,
		 const struct agent_target *target, json_t *fields);
/* Events after number @after, as an array; waits until there are some. */
json_t *agent_events_wait(unsigned long long *after, bool wait);

/* ---- hooks.c ---- */

/* Before the words of a hook in its error: they may be others at each try. */
#define AGENT_HOOK_SAID " and said: "

/*
 * Runs all hooks of @when; POLICY when one of them vetoes, with the end of what it printed, on one
 * line and without control characters.
 */
struct pe_error *agent_hooks_run(const char *when, const struct agent_target *target,
				 const char *patch, const char *reason) pe_must_check;

/* ---- check.c ---- */

void agent_check_task(void *agent);
/* Asks for a check now; @look_only: the targets are not told of what it finds. */
void agent_check_wanted(struct agent *agent, bool look_only);
/* The same, when nobody has asked the repository about that build yet. */
void agent_check_new_build(struct agent *agent, const char *product, const char *build_id);

/* ---- repository.c ---- */

/* Brings metadata and CACHE_DIR/offers.json up to date. */
struct pe_error *agent_repository_ask(struct agent *agent) pe_must_check;
/* The file of an offer, in the cache afterwards; with UPDATE_POLICY=LOCAL it has to be there. */
struct pe_error *agent_fetch_patch(struct agent *agent,
				   const struct agent_offer *offer) pe_must_check;
/* The same, and the repository is asked whatever the policy says. */
struct pe_error *agent_fetch_remote(struct agent *agent,
				    const struct agent_offer *offer) pe_must_check;

/* ---- control.c, watcher.c, metrics.c ---- */

struct pe_error *agent_control_start(struct agent *agent, int listener) pe_must_check;
void agent_watcher_task(void *agent);
void agent_watcher_mind(pid_t pid);
char *agent_metrics_text(struct agent *agent);
struct pe_error *agent_metrics_start(struct agent *agent) pe_must_check;

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The operations; see operation.h for the order of their steps. */
#include "dbcare/operation.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "dbcare/abandoned.h"
#include "dbcare/cluster.h"
#include "dbcare/history.h"
#include "dbcare/kept.h"
#include "engine/cleanup.h"
#include "engine/demangle.h"

/* ---- session ---- */

struct pe_error *dbc_session_open(const char *target, const struct dbc_login *login,
				  struct dbc_session *ret)
{
	*ret = (struct dbc_session){ .login = *login };
	struct pe_error *err = dbc_server_find(target, &ret->server);

	if (!err)
		err = pe_target_open(ret->server.pid, &ret->target);
	if (!err && !ret->server.version)
		err = pe_error_new(PE_ERR_NO_TARGET,
				   "process %d (%s) is no MariaDB server: its memory has no "
				   "server version%s%s",
				   (int)ret->server.pid, ret->server.exe,
				   ret->server.unreadable ? ": " : "",
				   ret->server.unreadable ? ret->server.unreadable : "");
	if (err)
		dbc_session_close(ret);
	return err;
}

void dbc_session_connect(struct dbc_session *session)
{
	if (session->sql || session->sql_error)
		return;
	session->sql_error =
		dbc_sql_open(&session->server, &session->login, &session->sql, &session->notes);
}

void dbc_session_disconnect(struct dbc_session *session)
{
	dbc_sql_close(session->sql);
	session->sql = NULL;
	pe_error_free(session->sql_error);
	session->sql_error = NULL;
}

void dbc_session_close(struct dbc_session *session)
{
	dbc_session_disconnect(session);
	if (session->target)
		pe_target_close(session->target);
	dbc_server_deinit(&session->server);
	free(session->notes);
	*session = (struct dbc_session){ 0 };
}

void dbc_outcome_deinit(struct dbc_outcome *outcome)
{
	if (outcome->plan)
		pe_plan_free(outcome->plan);
	dbc_gate_report_deinit(&outcome->gates);
	dbc_blockers_deinit(&outcome->blockers);
	pe_switch_result_deinit(&outcome->change);
	dbc_undone_deinit(&outcome->undone);
	free(outcome->warning);
	*outcome = (struct dbc_outcome){ 0 };
}

static void tell(const struct dbc_options *options, const char *text)
{
	if (options->progress)
		options->progress(options->progress_ctx, text);
}

static struct pe_apply_options engine_options(const struct dbc_options *options)
{
	return (struct pe_apply_options){
		.timeout_us = options->timeout_us,
		.max_pause_us = options->max_pause_us,
		.cancellable = options->cancellable,
		.progress = options->progress,
		.progress_ctx = options->progress_ctx,
	};
}

struct pe_error *dbc_cancelled(const struct dbc_options *options)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
	sigset_t pending;

	if (!options->cancellable || sigpending(&pending) != 0)
		return NULL;
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		if (sigismember(&pending, numbers[i]))
			return pe_error_new(PE_ERR_CANCELLED,
					    "cancelled by signal SIG%s before anything was done",
					    sigabbrev_np(numbers[i]));
	}
	return NULL;
}

/* Keeps the first warning; takes @err over. */
static void warn(struct dbc_outcome *outcome, struct pe_error *err)
{
	if (err && !outcome->warning)
		outcome->warning = pe_error_text(err);
	pe_error_free(err);
}

/* ---- plan and gates ---- */

static struct pe_error *run_gates(struct dbc_session *session, const struct pe_patch *patch,
				  const struct dbc_options *options, struct dbc_outcome *ret)
{
	tell(options, "asking the server whether now is a good time");
	dbc_session_connect(session);
	ret->gates_skipped = options->no_gates;

	struct pe_error *err = dbc_cancelled(options);

	if (err || options->no_gates)
		return err;

	struct dbc_gates gates = { .server = &session->server,
				   .login = &session->login,
				   .sql = session->sql,
				   .sql_error = session->sql_error,
				   .limits = options->limits,
				   .demanded = (const char *const *)patch->gates,
				   .demanded_count = patch->gate_count };

	err = dbc_gates_run(&gates, &ret->gates);
	if (!err)
		err = dbc_cancelled(options);
	return err ? err : dbc_gates_error(&ret->gates);
}

/* Names of the functions that the hits of a prediction are in. */
static const char **hit_functions(const struct pe_plan *plan, const struct pe_stack_hits *hits)
{
	const char **names = calloc(hits->count + 1, sizeof(*names));

	for (size_t i = 0; names && i < hits->count; i++)
		names[i] = pe_plan_tag_name(plan, hits->items[i].tag);
	return names;
}

static struct pe_error *predict(struct dbc_session *session, const struct dbc_options *options,
				struct dbc_outcome *ret)
{
	struct pe_stack_hits hits = { 0 };

	tell(options, "looking at the stacks of all threads");
	struct pe_pause_guess guess;
	struct pe_error *err = pe_plan_predict(session->target, ret->plan, &hits, &guess);

	if (err)
		return err;
	ret->predicted_us = guess.us;
	memcpy(ret->predicted_from, guess.from, sizeof(ret->predicted_from));

	pe_auto_free const char **names = hit_functions(ret->plan, &hits);

	err = dbc_blockers_resolve(&session->server, session->sql, &hits, names, &ret->blockers);
	pe_stack_hits_deinit(&hits);
	return err;
}

static struct pe_error *error_busy(const struct dbc_blockers *blockers)
{
	for (size_t i = 0; i < blockers->count; i++) {
		const struct dbc_blocker *blocker = &blockers->items[i];

		if (blocker->idle)
			continue;

		pe_auto_free char *name =
			pe_demangle(blocker->function ? blocker->function : "a patched function");

		return pe_error_new(PE_ERR_BUSY, "thread %d (connection %lu) is in %s%s",
				    (int)blocker->tid, blocker->connection, name ? name : "?",
				    blockers->count > 1 ? ", and it is not the only one" : "");
	}
	return NULL;
}

struct pe_error *dbc_check(struct dbc_session *session, const struct pe_patch *patch,
			   const struct dbc_options *options, struct dbc_outcome *ret)
{
	*ret = (struct dbc_outcome){ 0 };
	struct pe_error *err = pe_plan_create_replacing(session->target, patch, options->replace,
							options->replace_count, &ret->plan);

	if (err) {
		ret->already = err->code == PE_ERR_NOTHING;
		return err;
	}

	struct pe_error *held = run_gates(session, patch, options, ret);

	if (held && held->code != PE_ERR_HELD)
		return held;
	err = predict(session, options, ret);
	if (!err && options->max_pause_us && ret->predicted_us > options->max_pause_us)
		err = pe_error_new(
			PE_ERR_BUSY,
			"the predicted pause of %llu µs exceeds the limit of %llu µs (%s)",
			(unsigned long long)ret->predicted_us,
			(unsigned long long)options->max_pause_us, ret->predicted_from);
	if (!err)
		err = error_busy(&ret->blockers);
	if (held) {
		pe_error_free(err);
		return held;
	}
	return err;
}

/* ---- records ---- */

json_t *dbc_record_fields(const struct dbc_session *session, const char *name)
{
	const struct dbc_server *server = &session->server;
	char build_id[2 * PE_BUILD_ID_MAX + 1];

	pe_build_id_hex(&server->build_id, build_id);
	return json_pack("{s:s, s:i, s:I, s:s*, s:s, s:s*}", "patch", name, "pid", (int)server->pid,
			 "start_time", (json_int_t)pe_target_start_time(session->target), "server",
			 server->version, "build_id", build_id, "socket", server->socket);
}

static json_t *record_change(const struct pe_switch_result *change, json_t *restored)
{
	json_t *replaced = NULL; /* the field is there only when something was replaced */

	for (size_t i = 0; i < change->replaced_count; i++) {
		replaced = replaced ? replaced : json_array();
		json_array_append_new(replaced, json_string(change->replaced[i]));
	}
	return json_pack("{s:I, s:I, s:I, s:I, s:i, s:o*, s:O*}", "pause_us",
			 (json_int_t)change->pause_us, "predicted_us",
			 (json_int_t)change->predicted_us, "operation_us",
			 (json_int_t)change->operation_us, "threads", (json_int_t)change->threads,
			 "attempts", (int)change->attempts, "replaced", replaced, "restored",
			 json_array_size(restored) ? restored : NULL);
}

/* What there is to say about the history itself becomes a warning. */
static struct pe_error *record_begin(const char *action, json_t *fields,
				     struct dbc_outcome *outcome, struct dbc_history **ret)
{
	struct pe_error *err = dbc_history_begin(action, fields, ret);
	const char *note = err ? NULL : dbc_history_note(*ret);

	if (note && !outcome->warning)
		outcome->warning = strdup(note);
	return err;
}

/* Writes the outcome; a record that fails now is a warning, since the switch has happened. */
static void record_end_of(struct dbc_history *history, struct dbc_outcome *outcome, json_t *more,
			  const char *result, const struct pe_error *err)
{
	if (err) {
		pe_auto_free char *text = pe_error_text(err);

		json_object_set_new(more, "message", json_string(text ? text : ""));
	}
	warn(outcome, dbc_history_end(history, result, more));
}

static void record_end(struct dbc_history *history, struct dbc_outcome *outcome, const char *result,
		       const struct pe_error *err)
{
	record_end_of(history, outcome, record_change(&outcome->change, NULL), result, err);
}

/* ---- apply ---- */

static struct pe_error *resolve_busy(struct dbc_session *session, struct pe_error *err,
				     struct dbc_outcome *ret)
{
	if (err && err->code == PE_ERR_BUSY && ret->change.blockers.count)
		warn(ret,
		     dbc_blockers_resolve(&session->server, session->sql, &ret->change.blockers,
					  (const char *const *)ret->change.blocking_functions,
					  &ret->blockers));
	return err;
}

/* The files of the patches that are in the server now, and of no others. */
static void keep_what_is_in(struct dbc_session *session, struct dbc_outcome *ret)
{
	struct pe_error *err = dbc_server_refresh(&session->server, session->target);

	warn(ret, err ? err : dbc_kept_sweep(&session->server));
}

static struct pe_error *taken_back(const char *name, struct pe_error *cause,
				   const struct dbc_undone *undone)
{
	pe_auto_free char *restored = dbc_undone_names(undone->restored);
	pe_auto_free char *lost = dbc_undone_names(undone->lost);

	if (!restored || !lost)
		return cause;
	if (*lost)
		return pe_error_wrap(
			cause,
			"%s was applied, failed verification and was reverted; what "
			"it had replaced is no longer in the server either (%s): apply "
			"that again",
			name, lost);
	if (*restored)
		return pe_error_wrap(cause,
				     "%s was applied, failed verification and was reverted to what "
				     "it had replaced: %s",
				     name, restored);
	return pe_error_wrap(cause, "%s was applied, failed verification and was reverted", name);
}

struct pe_error *dbc_take_back(struct dbc_session *session, const char *name,
			       const json_t *replaced, const struct dbc_options *options,
			       struct pe_error *cause, struct dbc_outcome *ret)
{
	struct dbc_history *history = NULL;
	struct pe_apply_options engine = engine_options(options);

	tell(options, "verification failed: reverting");
	/* The kept connection may be the one that hangs in the new code. */
	dbc_session_disconnect(session);
	warn(ret, record_begin("auto-revert", dbc_record_fields(session, name), ret, &history));

	engine.max_pause_us = 0;
	engine.cancellable = false;

	struct pe_error *err =
		dbc_undo(&session->server, session->target, name, replaced, &engine, &ret->undone);

	if (history)
		record_end_of(history, ret,
			      record_change(&ret->undone.change, ret->undone.restored),
			      err ? pe_code_name(err->code) : "reverted", err ? err : cause);
	if (!err) {
		keep_what_is_in(session, ret);
		ret->reverted = true;
		return taken_back(name, cause, &ret->undone);
	}

	pe_auto_free char *why = pe_error_text(err);
	pe_auto_free char *what = pe_error_text(cause);

	enum pe_code code = err->code;

	pe_error_free(err);
	pe_error_free(cause);
	if (code == PE_ERR_DIED || code == PE_ERR_NO_TARGET)
		return pe_error_new(PE_ERR_DIED, "server %d died after %s was applied (%s)",
				    (int)session->server.pid, name, what ? what : "");
	return pe_error_new(PE_ERR_PARTIAL,
			    "%s was applied and failed verification (%s), and could not be "
			    "reverted (%s): `dbcarectl revert %s` again",
			    name, what ? what : "", why ? why : "", name);
}

static struct pe_error *switch_and_verify(struct dbc_session *session, const struct pe_patch *patch,
					  const struct dbc_options *options,
					  struct dbc_outcome *ret)
{
	struct pe_apply_options engine = engine_options(options);
	struct dbc_baseline before = { 0 };
	struct pe_error *err = NULL;

	if (session->sql)
		err = dbc_baseline_take(session->sql, &before);
	if (err)
		return pe_error_wrap(err, "the server does not serve before the switch already");
	err = pe_apply(session->target, ret->plan, &engine, &ret->change);
	/* Somebody who died had begun it; finished first, it is verified now. */
	if (err && err->code == PE_ERR_NOTHING) {
		pe_error_free(err);
		ret->already = true;
		if (!ret->warning)
			ret->warning = pe_steal(ret->change.note);
	} else if (err) {
		return resolve_busy(session, err, ret);
	}
	/* What a later one that replaces it goes back to, if that fails. */
	warn(ret, dbc_kept_store(&session->server, patch));
	tell(options, "verifying");
	err = dbc_verify(&session->server, session->target, &session->login, session->sql, &before,
			 &ret->verification);
	if (!err)
		return NULL;

	json_t *replaced = dbc_undo_list(&session->server, ret->plan);

	err = dbc_take_back(session, patch->name, replaced, options, err, ret);
	json_decref(replaced);
	return err;
}

/* Of one cluster one node at a time. Without SQL nobody can tell; the gates have been told so. */
static struct pe_error *cluster_lock(struct dbc_session *session, int *lock_fd)
{
	struct dbc_node node = { 0 };
	struct pe_error *err = NULL;

	if (session->sql)
		err = dbc_node_ask(session->sql, &node);
	return err || !node.member ? err : dbc_cluster_lock(&node, lock_fd);
}

/* It is in the server, but whoever applied it died before he verified it. */
static struct pe_error *error_unverified(struct dbc_session *session, const char *name)
{
	json_t *records = NULL, *record;
	bool unverified = false;
	size_t i;
	struct pe_error *err = dbc_abandoned(&session->server, &records);

	json_array_foreach(records, i, record)
	{
		const char *patch = json_string_value(json_object_get(record, "patch"));

		unverified |= patch && strcmp(patch, name) == 0 &&
			      dbc_unverified(&session->server, record);
	}
	json_decref(records);
	if (err || !unverified)
		return err;
	return pe_error_new(PE_ERR_HELD,
			    "%s was applied by somebody who died before it was verified: "
			    "`dbcarectl recover %d` verifies it, `dbcarectl revert %s %d` takes it "
			    "back",
			    name, (int)session->server.pid, name, (int)session->server.pid);
}

struct pe_error *dbc_apply(struct dbc_session *session, const struct pe_patch *patch,
			   const struct dbc_options *options, struct dbc_outcome *ret)
{
	struct dbc_history *history;

	*ret = (struct dbc_outcome){ 0 };
	struct pe_error *err = pe_plan_create_replacing(session->target, patch, options->replace,
							options->replace_count, &ret->plan);

	if (err && err->code == PE_ERR_NOTHING) {
		ret->already = true;
		pe_error_free(err);
		return error_unverified(session, patch->name);
	}
	if (!err)
		err = run_gates(session, patch, options, ret);
	if (err)
		return err;

	json_t *fields = dbc_record_fields(session, patch->name);
	json_t *replaces = dbc_undo_list(&session->server, ret->plan);

	/* For recover, should nobody live to tell. */
	if (json_array_size(replaces))
		json_object_set(fields, "replaces", replaces);
	json_decref(replaces);
	json_object_set_new(fields, "level", json_integer(patch->level));
	json_object_set_new(fields, "gates", json_string(options->no_gates ? "skipped" : "ok"));
	pe_auto_fd int lock = -1;

	err = cluster_lock(session, &lock);
	if (!err)
		err = record_begin("apply", fields, ret, &history);
	else
		json_decref(fields);
	if (err)
		return err;
	err = switch_and_verify(session, patch, options, ret);
	if (!err)
		keep_what_is_in(session, ret);
	record_end(history, ret, err ? pe_code_name(err->code) : "applied", err);
	return err;
}

/* ---- revert ---- */

/* NOTHING when the process has no patch of that name. */
static struct pe_error *find_applied(struct dbc_session *session, const char *name)
{
	const struct pe_applied_list *applied = &session->server.applied;
	struct pe_error *err = dbc_server_refresh(&session->server, session->target);

	if (err)
		return err;
	for (size_t i = 0; i < applied->count; i++) {
		if (strcmp(applied->items[i].name, name) == 0)
			return NULL;
	}
	return pe_error_new(PE_ERR_NOTHING, "no patch %s is applied to server %d", name,
			    (int)session->server.pid);
}

struct pe_error *dbc_revert(struct dbc_session *session, const char *name,
			    const struct dbc_options *options, struct dbc_outcome *ret)
{
	struct dbc_history *history;
	struct pe_apply_options engine = engine_options(options);
	struct dbc_baseline before = { 0 };

	*ret = (struct dbc_outcome){ 0 };
	struct pe_error *err = find_applied(session, name);

	if (err)
		return err;
	dbc_session_connect(session);
	if (session->sql) {
		/* A patch may be what is wrong with the server: then there is no baseline. */
		pe_auto_error struct pe_error *ill = dbc_baseline_take(session->sql, &before);

		if (ill) {
			dbc_sql_close(session->sql);
			session->sql = NULL;
		}
	}
	err = dbc_cancelled(options);
	if (err)
		return err;
	err = record_begin("revert", dbc_record_fields(session, name), ret, &history);
	if (err)
		return err;
	err = resolve_busy(session, pe_revert(session->target, name, &engine, &ret->change), ret);
	if (!err) {
		keep_what_is_in(session, ret);
		tell(options, "verifying");
		err = dbc_verify(&session->server, session->target, &session->login, session->sql,
				 &before, &ret->verification);
		if (err)
			err = pe_error_wrap(err, "%s was reverted, but the server does not serve",
					    name);
	}
	record_end(history, ret, err ? pe_code_name(err->code) : "reverted", err);
	return err;
}

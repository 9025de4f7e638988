/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The operations on one server, as the command line and the agent use them:
 *
 *	dbc_session_open(target, &login, &session);
 *	dbc_apply(session, patch, &options, &outcome);
 *
 * plan -> gates -> intent recorded -> switch -> verification (a failed one reverts) -> recorded.
 */
#ifndef DBCARE_OPERATION_H
#define DBCARE_OPERATION_H

#include <jansson.h>

#include "dbcare/blockers.h"
#include "dbcare/gates.h"
#include "dbcare/undo.h"
#include "dbcare/verify.h"

/* A server that is worked on: the process, and its SQL once it was needed. */
struct dbc_session {
	struct dbc_server server;
	struct pe_target *target;
	struct dbc_login login;
	struct dbc_sql *sql;	    /* kept through the whole operation; NULL: no connection */
	struct pe_error *sql_error; /* why there is none */
	char *notes;		    /* about option files that were left out; or NULL */
};

struct pe_error *dbc_session_open(const char *target, const struct dbc_login *login,
				  struct dbc_session *ret) pe_must_check;
/* Tries to connect once; session->sql or session->sql_error is set. */
void dbc_session_connect(struct dbc_session *session);
/* Gives the connection up, so that the next dbc_session_connect tries anew. */
void dbc_session_disconnect(struct dbc_session *session);
void dbc_session_close(struct dbc_session *session);

struct dbc_options {
	bool no_gates;
	struct dbc_limits limits;
	uint64_t timeout_us;   /* how long to wait for a free moment; 0: the engine's own */
	uint64_t max_pause_us; /* 0: no limit */
	/*
	 * By SIGINT, SIGTERM and SIGHUP, which the caller holds back (blocks) and which are looked
	 * at where nothing is half done: see pe_apply_options.
	 */
	bool cancellable;
	/* Applied patches that apply reverts in the same switch; alive as long as the outcome. */
	const char *const *replace;
	size_t replace_count;
	void (*progress)(void *ctx, const char *text);
	void *progress_ctx;
};

struct dbc_outcome {
	struct pe_plan *plan;  /* of check and apply */
	uint64_t predicted_us; /* pause, microseconds */
	char predicted_from[120];
	struct dbc_gate_report gates;
	bool gates_skipped;
	struct dbc_blockers blockers;
	struct pe_switch_result change;
	struct dbc_verification verification;
	bool already;  /* the patch was applied before: nothing was done */
	bool reverted; /* by itself, after a failed verification */
	struct dbc_undone undone;
	char *warning; /* the operation is done, but this went wrong beside it; or NULL */
};

void dbc_outcome_deinit(struct dbc_outcome *outcome);

/* CANCELLED when one of the signals that cancel waits. */
struct pe_error *dbc_cancelled(const struct dbc_options *options) pe_must_check;

/*
 * What dbc_apply would do now; changes nothing and records nothing. HELD or BUSY as apply would
 * say it; everything found out is in @ret also then. Threads that only a stale stack word accuses
 * and that are idle are reported, and do not make it BUSY.
 */
struct pe_error *dbc_check(struct dbc_session *session, const struct pe_patch *patch,
			   const struct dbc_options *options,
			   struct dbc_outcome *ret) pe_must_check;

/*
 * HELD, BUSY (ret->blockers), MISMATCH...: the server is as it was. VERIFY: applied, failed
 * verification, reverted; what it had replaced is back where ret->undone says so. PARTIAL: and
 * could not be reverted.
 */
struct pe_error *dbc_apply(struct dbc_session *session, const struct pe_patch *patch,
			   const struct dbc_options *options,
			   struct dbc_outcome *ret) pe_must_check;

/* Gates do not hold a revert: it is the way out of trouble. Verified all the same. */
struct pe_error *dbc_revert(struct dbc_session *session, const char *name,
			    const struct dbc_options *options,
			    struct dbc_outcome *ret) pe_must_check;

/*
 * What dbc_apply does when the verification failed for @cause, which is taken over: reverts @name,
 * to @replaced (see undo.h; may be NULL). ret->reverted; the error says what became of it and why.
 */
struct pe_error *dbc_take_back(struct dbc_session *session, const char *name,
			       const json_t *replaced, const struct dbc_options *options,
			       struct pe_error *cause, struct dbc_outcome *ret) pe_must_check;

/* The fields that every record of the history has of an operation on @name; a new reference. */
json_t *dbc_record_fields(const struct dbc_session *session, const char *name);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What was done on this host, in history.db under the state directory (/var/lib/dbcare, or
 * $DBCARE_STATE_DIR). Each operation is written twice: its intent before anything is touched, its
 * outcome afterwards. An intent without an outcome is an operation whose patcher died.
 */
#ifndef DBCARE_HISTORY_H
#define DBCARE_HISTORY_H

#include <jansson.h>
#include <stdbool.h>

#include "engine/error.h"

/* The state directory, made when it is not there; static, or of the environment. */
struct pe_error *dbc_state_dir(const char **ret) pe_must_check;

struct dbc_history; /* one operation that is being recorded */

/*
 * Writes the intent, and sets room for the outcome aside, so that a full disk is found out before
 * the target is touched. @fields (a reference is taken over) are those of both records. May be
 * called from any thread.
 */
struct pe_error *dbc_history_begin(const char *action, json_t *fields,
				   struct dbc_history **ret) pe_must_check;
/* What the operator should know about the history itself; NULL: nothing. Lives with @history. */
const char *dbc_history_note(const struct dbc_history *history);
/* Writes the outcome with the fields of the intent and @more (taken over); frees @history. */
struct pe_error *dbc_history_end(struct dbc_history *history, const char *result,
				 json_t *more) pe_must_check;

/*
 * Goes on with @record, of dbc_history_read and "unfinished", so that dbc_history_end writes its
 * outcome.
 */
struct pe_error *dbc_history_resume(json_t *record, struct dbc_history **ret) pe_must_check;
/* Did the process that began the unfinished @record die, as far as can be seen from here? */
bool dbc_history_abandoned(const json_t *record);

/* Which records are wanted; all NULL or 0: each of them. */
struct dbc_history_filter {
	const char *server;  /* its pid, its socket or its version */
	const char *patch;   /* name */
	const char *since;   /* "2026-11-29T08:00:00Z": began then or later */
	const char *until;   /* the same: began then or earlier */
	unsigned int newest; /* only so many, the newest */
};

/*
 * One object an operation, in the order in which they began: its outcome, or its intent with
 * "result":"unfinished". @filter may be NULL.
 */
struct pe_error *dbc_history_read(const struct dbc_history_filter *filter,
				  json_t **ret) pe_must_check;

#endif

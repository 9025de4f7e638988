/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What was done on this host: JSON lines under the state directory (/var/lib/dbcare, or
 * $DBCARE_STATE_DIR). Each operation writes two: its intent before anything is touched, its
 * outcome afterwards. An intent without an outcome is an operation whose patcher died.
 */
#ifndef DBCARE_HISTORY_H
#define DBCARE_HISTORY_H

#include <jansson.h>

#include "engine/error.h"

/* The state directory, made when it is not there; static, or of the environment. */
struct pe_error *dbc_state_dir(const char **ret) pe_must_check;

struct dbc_history; /* one operation that is being recorded */

/*
 * Writes the intent, and sets room for the outcome aside, so that a full disk is found out before
 * the target is touched. @fields (a reference is taken over) are those of both records.
 */
struct pe_error *dbc_history_begin(const char *action, json_t *fields,
				   struct dbc_history **ret) pe_must_check;
/* Writes the outcome with the fields of the intent and @more (taken over); frees @history. */
struct pe_error *dbc_history_end(struct dbc_history *history, const char *result,
				 json_t *more) pe_must_check;

/* One object an operation, oldest first: its outcome, or its intent with "result":"unfinished". */
struct pe_error *dbc_history_read(json_t **ret) pe_must_check;

#endif

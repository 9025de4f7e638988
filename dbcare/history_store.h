/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the history is kept: DIR/history.db, an SQLite database that the command line and the
 * agent write at the same time. One row an operation. It is opened for each write and closed again,
 * so that nobody holds it while a server is changed.
 */
#ifndef DBCARE_HISTORY_STORE_H
#define DBCARE_HISTORY_STORE_H

#include <jansson.h>

#include "dbcare/history.h"

/*
 * Writes @record (with "id" and "began"; "result" when it has ended) in the place of the one with
 * the same id, or as a new one. A database that is damaged is kept under another name, which *note
 * (owned by the caller) tells, and a new one is begun. SYSTEM: disk full; BUSY: another program
 * kept it locked; PERMISSION; UNSUPPORTED: a newer version of this program made it.
 */
struct pe_error *history_store_put(const char *dir, const json_t *record,
				   char **note) pe_must_check;

/* All records that @filter lets through, in the order in which they began; FORMAT: damaged. */
struct pe_error *history_store_read(const char *dir, const struct dbc_history_filter *filter,
				    json_t **ret) pe_must_check;

/* The lines that earlier versions wrote (DIR/history.jsonl) as records; empty without them. */
struct pe_error *history_lines_read(const char *dir, json_t **ret) pe_must_check;

#endif

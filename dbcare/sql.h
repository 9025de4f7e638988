/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A connection to one certain server: through its own socket, and checked to be that process. */
#ifndef DBCARE_SQL_H
#define DBCARE_SQL_H

#include <stddef.h>

#include "dbcare/server.h"
#include "engine/error.h"

/* How to log in; all may be NULL or false: then as the option files say, else as root. */
struct dbc_login {
	const char *user;
	const char *password;
	const char *defaults_file;
	bool no_defaults;
	const char *program; /* as the server's connection attributes show us; NULL: dbcarectl */
	/*
	 * For callers that must not block: waits until one of @events (POLLIN, POLLOUT, POLLPRI)
	 * is there on @fd and returns those that are; 0 after @timeout_ms (-1: none). NULL: the
	 * calls block.
	 */
	short (*wait)(void *ctx, int fd, short events, int timeout_ms);
	void *wait_ctx;
};

struct dbc_rows {
	char **names;  /* of the columns */
	char ***items; /* [row][column]; a NULL cell is SQL NULL */
	size_t count, columns;
};

struct dbc_sql;

/*
 * Connects. HELD with the reason when the server does not let us in or is not the process that it
 * should be; what it says about option files that were left out is added to *notes (owned by the
 * caller; may be NULL).
 */
struct pe_error *dbc_sql_open(const struct dbc_server *server, const struct dbc_login *login,
			      struct dbc_sql **ret, char **notes) pe_must_check;
void dbc_sql_close(struct dbc_sql *sql);
unsigned long dbc_sql_connection_id(const struct dbc_sql *sql);
const char *dbc_sql_user(const struct dbc_sql *sql); /* who we are there: "dbcare@localhost" */

/* HELD with the server's own message; *number, when not NULL, is its error number (0: success). */
struct pe_error *dbc_sql_query(struct dbc_sql *sql, const char *query, struct dbc_rows *ret,
			       unsigned int *number) pe_must_check;
/* The first cell of the first row; NULL in *ret when there is none. Owned by the caller. */
struct pe_error *dbc_sql_value(struct dbc_sql *sql, const char *query, char **ret) pe_must_check;
void dbc_rows_deinit(struct dbc_rows *rows);
/* The cell in the column of that name; NULL: SQL NULL, or no such column. */
const char *dbc_rows_cell(const struct dbc_rows *rows, size_t row, const char *column);

#endif

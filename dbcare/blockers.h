/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A thread in the way, shown as the DBA knows it: connection, user and query. */
#ifndef DBCARE_BLOCKERS_H
#define DBCARE_BLOCKERS_H

#include "dbcare/server.h"
#include "dbcare/sql.h"

struct dbc_blocker {
	pid_t tid;		    /* as we number it */
	char *function;		    /* that it is in; NULL: not known */
	char comm[16];		    /* name of the thread */
	unsigned long connection;   /* 0: no client's thread, or not known */
	char *user, *state, *query; /* NULL without a connection */
	bool idle; /* accused by a word on its stack only, while its connection waits for a query */
};

struct dbc_blockers {
	struct dbc_blocker *items; /* one for each thread and function */
	size_t count;
};

/*
 * @functions runs parallel to @hits->items and may be NULL. @sql NULL: no connection is known.
 * Under pool-of-threads the server has no thread ids for connections, so none are shown.
 */
struct pe_error *dbc_blockers_resolve(const struct dbc_server *server, struct dbc_sql *sql,
				      const struct pe_stack_hits *hits,
				      const char *const *functions,
				      struct dbc_blockers *ret) pe_must_check;
void dbc_blockers_deinit(struct dbc_blockers *blockers);

#endif

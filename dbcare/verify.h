/* SPDX-License-Identifier: GPL-2.0-or-later */
/* After a switch: does the server still serve? */
#ifndef DBCARE_VERIFY_H
#define DBCARE_VERIFY_H

#include "dbcare/server.h"
#include "dbcare/sql.h"

/* What was true before the switch; taken through the connection that is kept. */
struct dbc_baseline {
	unsigned long connection_id;
	uint64_t uptime_s;  /* Uptime of the server */
	uint64_t select_us; /* fastest of a few trivial queries, microseconds */
};

struct dbc_verification {
	bool asked;	      /* false: there was no SQL, threads only */
	uint64_t select_us;   /* the same queries afterwards, on the kept connection */
	uint64_t fresh_us;    /* a new connection and its first query */
	size_t threads_stuck; /* threads that a tracer or a signal has stopped */
};

struct pe_error *dbc_baseline_take(struct dbc_sql *kept, struct dbc_baseline *ret) pe_must_check;
/*
 * Queries through @kept and a fresh connection, each bounded in time; the same process, the same
 * session, no thread left stopped. @kept may be NULL. VERIFY names what failed.
 */
struct pe_error *dbc_verify(const struct dbc_server *server, const struct pe_target *target,
			    const struct dbc_login *login, struct dbc_sql *kept,
			    const struct dbc_baseline *before,
			    struct dbc_verification *ret) pe_must_check;
/* The two halves, for callers who have the rights for one of them each. */
struct pe_error *dbc_verify_threads(const struct dbc_server *server, const struct pe_target *target,
				    struct dbc_verification *ret) pe_must_check;
struct pe_error *dbc_verify_sql(const struct dbc_server *server, const struct dbc_login *login,
				struct dbc_sql *kept, const struct dbc_baseline *before,
				struct dbc_verification *ret) pe_must_check;

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Gates: is now a good time? Whether it is safe is the engine's business; these ask the server,
 * and whatever they cannot find out counts as "not now".
 */
#ifndef DBCARE_GATES_H
#define DBCARE_GATES_H

#include <limits.h>
#include <stddef.h>

#include "dbcare/server.h"
#include "dbcare/sql.h"

enum dbc_verdict {
	DBC_GATE_OPEN,
	DBC_GATE_HOLD,	  /* the reason says what is going on */
	DBC_GATE_UNKNOWN, /* could not be found out: holds too */
};

const char *dbc_verdict_name(enum dbc_verdict verdict);

/* What the operator still calls a good time. */
struct dbc_limits {
	unsigned int max_lag_s; /* of a replica behind its primary; DBC_NO_LIMIT: any */
	unsigned int max_load;	/* statements that run at the same time; DBC_NO_LIMIT: any */
};

#define DBC_NO_LIMIT UINT_MAX
/* A minute, and any load: a switch takes milliseconds, so load alone is no reason to wait. */
#define DBC_LIMITS_USUAL ((struct dbc_limits){ .max_lag_s = 60, .max_load = DBC_NO_LIMIT })

struct dbc_gate_result {
	const char *name;
	const char *about; /* what it watches, one line */
	enum dbc_verdict verdict;
	char *reason; /* owned; NULL when open */
};

struct dbc_gate_report {
	struct dbc_gate_result *items;
	size_t count;
	const struct dbc_gate_result *first; /* the first that is not open; NULL: all are */
};

/* What the gates look at. */
struct dbc_gates {
	const struct dbc_server *server;
	const struct dbc_login *login;
	struct dbc_sql *sql;		  /* NULL: the server could not be asked, */
	const struct pe_error *sql_error; /* because of this */
	struct dbc_limits limits;
	const char *const *demanded; /* by the patch, names; they have to outlive the report */
	size_t demanded_count;
};

/*
 * Runs all gates, and those that the patch demands by name. Without @sql the gate "connection" is
 * unknown and the rest is not run.
 */
struct pe_error *dbc_gates_run(const struct dbc_gates *gates,
			       struct dbc_gate_report *ret) pe_must_check;
void dbc_gate_report_deinit(struct dbc_gate_report *report);
/* HELD naming the first gate that is not open; NULL when all are. */
struct pe_error *dbc_gates_error(const struct dbc_gate_report *report) pe_must_check;

#endif

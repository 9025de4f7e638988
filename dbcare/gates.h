/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Gates: is now a good time? Whether it is safe is the engine's business; these ask the server,
 * and whatever they cannot find out counts as "not now".
 */
#ifndef DBCARE_GATES_H
#define DBCARE_GATES_H

#include <stddef.h>

#include "dbcare/server.h"
#include "dbcare/sql.h"

enum dbc_verdict {
	DBC_GATE_OPEN,
	DBC_GATE_HOLD,	  /* the reason says what is going on */
	DBC_GATE_UNKNOWN, /* could not be found out: holds too */
};

const char *dbc_verdict_name(enum dbc_verdict verdict);

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

/*
 * Runs all gates through @sql, and those that @patch demands by name. @sql NULL: the server could
 * not be asked because of @sql_error, so the gate "connection" is unknown and the rest not run.
 */
struct pe_error *dbc_gates_run(const struct dbc_server *server, const struct dbc_login *login,
			       struct dbc_sql *sql, const struct pe_error *sql_error,
			       const struct pe_patch *patch,
			       struct dbc_gate_report *ret) pe_must_check;
void dbc_gate_report_deinit(struct dbc_gate_report *report);
/* HELD naming the first gate that is not open; NULL when all are. */
struct pe_error *dbc_gates_error(const struct dbc_gate_report *report) pe_must_check;

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The gates, one row each: a query and a check of its rows. A query that fails is "unknown" and
 * holds. They run in the order of the table, so that the rights are known to be sufficient before
 * anything is concluded from an empty list (without PROCESS, PROCESSLIST shows only oneself).
 */
#include "dbcare/gates.h"

#include <mysqld_error.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "dbcare/activity.h"
#include "engine/cleanup.h"

struct gate {
	const char *name;
	const char *about;
	const char *query; /* NULL: the check asks by itself */
	/* Sets a reason (owned by the caller) unless open. */
	enum dbc_verdict (*check)(const struct dbc_gates *ctx, const struct dbc_rows *rows,
				  char **reason);
};

static enum dbc_verdict pe_printf(3, 4)
	say(char **reason, enum dbc_verdict verdict, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(reason, fmt, ap) < 0)
		*reason = NULL;
	va_end(ap);
	return verdict;
}

static const char *text_or(const char *text, const char *otherwise)
{
	return text ? text : otherwise;
}

/* ---- rights ---- */

static enum dbc_verdict check_grants(const struct dbc_gates *ctx, const struct dbc_rows *none,
				     char **reason)
{
	struct dbc_rows rows;
	unsigned int number;
	pe_auto_error struct pe_error *err = dbc_sql_query(ctx->sql, "SHOW GRANTS", &rows, &number);
	bool enough = false;

	/* With --skip-grant-tables everybody may do everything. */
	if (number == ER_OPTION_PREVENTS_STATEMENT)
		return DBC_GATE_OPEN;
	if (err)
		return say(reason, DBC_GATE_UNKNOWN, "%s", err->message);
	for (size_t i = 0; i < rows.count && !enough; i++)
		enough = rows.items[i][0] && dbc_grant_gives(rows.items[i][0], "PROCESS");
	dbc_rows_deinit(&rows);
	if (enough)
		return DBC_GATE_OPEN;
	return say(reason, DBC_GATE_UNKNOWN,
		   "account %s lacks the privilege PROCESS, without which other sessions cannot "
		   "be seen; GRANT PROCESS ON *.* TO it",
		   dbc_sql_user(ctx->sql));
}

/* ---- identity ---- */

static enum dbc_verdict check_identity(const struct dbc_gates *ctx, const struct dbc_rows *rows,
				       char **reason)
{
	if (!rows->count || !rows->items[0][0])
		return say(reason, DBC_GATE_UNKNOWN, "the server does not tell its version");
	if (!ctx->server->version)
		return say(reason, DBC_GATE_UNKNOWN,
			   "the version in the memory of process %d cannot be read",
			   (int)ctx->server->pid);

	const char *said = rows->items[0][0], *mapped = ctx->server->version;

	/* --version=... and plugins may append to it, so a common beginning is enough. */
	if (strncmp(said, mapped, strcspn(mapped, "-")) != 0)
		return say(reason, DBC_GATE_HOLD,
			   "the server says that it is %s, but process %d is %s", said,
			   (int)ctx->server->pid, mapped);
	return DBC_GATE_OPEN;
}

/* ---- start, recovery, shutdown ---- */

static enum dbc_verdict check_recovery(const struct dbc_gates *ctx, const struct dbc_rows *rows,
				       char **reason)
{
	if (ctx->server->started == 0)
		return say(reason, DBC_GATE_HOLD, "the server is still starting");
	if (!rows->count || !rows->items[0][1])
		return say(reason, DBC_GATE_UNKNOWN, "no answer about innodb_force_recovery");
	if (strcmp(rows->items[0][1], "0") != 0)
		return say(reason, DBC_GATE_HOLD, "it runs with innodb_force_recovery=%s",
			   rows->items[0][1]);
	return DBC_GATE_OPEN;
}

/* Rollbacks of a few rows are everyday life; these are the ones that take long. */
enum { ROLLBACK_ROWS = 10000 };

/* The list that SHOW ENGINE INNODB STATUS had no room for. */
static enum dbc_verdict ask_transactions(const struct dbc_gates *ctx, char **reason)
{
	char query[256];
	pe_auto_free char *id = NULL;

	snprintf(query, sizeof(query),
		 "SELECT trx_id FROM information_schema.INNODB_TRX WHERE "
		 "trx_state='ROLLING BACK' AND (trx_mysql_thread_id=0 OR trx_rows_modified>=%d) "
		 "LIMIT 1",
		 ROLLBACK_ROWS);
	pe_auto_error struct pe_error *err = dbc_sql_value(ctx->sql, query, &id);
	if (err)
		return say(reason, DBC_GATE_UNKNOWN, "%s", err->message);
	if (id)
		return say(reason, DBC_GATE_HOLD, "transaction %s is being rolled back", id);
	return DBC_GATE_OPEN;
}

/*
 * Not from INNODB_TRX in the first place: it is a copy that is renewed only when nobody has read it
 * for 0.1 s, so whoever polls it faster keeps it as it is.
 */
static enum dbc_verdict check_rollback(const struct dbc_gates *ctx, const struct dbc_rows *none,
				       char **reason)
{
	struct dbc_rows rows;
	struct dbc_rollback rollback;
	unsigned int number;
	bool truncated = false, found = false;
	pe_auto_error struct pe_error *err =
		dbc_sql_query(ctx->sql, "SHOW ENGINE INNODB STATUS", &rows, &number);

	if (number == ER_UNKNOWN_STORAGE_ENGINE)
		return DBC_GATE_OPEN;
	if (err || !rows.count || rows.columns < 3 || !rows.items[0][2]) {
		dbc_rows_deinit(&rows);
		return say(reason, DBC_GATE_UNKNOWN, "%s",
			   err ? err->message : "InnoDB does not tell its status");
	}
	found = dbc_rollback_find(rows.items[0][2], ROLLBACK_ROWS, &rollback, &truncated);
	dbc_rows_deinit(&rows);
	if (found)
		return say(reason, DBC_GATE_HOLD,
			   "transaction %llu%s is being rolled back: %llu changes to go",
			   rollback.transaction, rollback.recovered ? " of a crashed run" : "",
			   rollback.undo_entries);
	return truncated ? ask_transactions(ctx, reason) : DBC_GATE_OPEN;
}

enum { P_ID, P_USER, P_COMMAND, P_STATE, P_INFO };

#define PROCESSLIST                                                                  \
	"SELECT ID, USER, COMMAND, STATE, INFO FROM information_schema.PROCESSLIST " \
	"WHERE ID <> CONNECTION_ID()"

static enum dbc_verdict check_shutdown(const struct dbc_gates *ctx, const struct dbc_rows *rows,
				       char **reason)
{
	/* The variable may have been set since the server was looked at. */
	struct dbc_server now = { .pid = ctx->server->pid, .stopping = -1, .started = -1 };

	dbc_fingerprint(&now);
	int stopping = now.stopping;
	dbc_server_deinit(&now);
	if (stopping == 1)
		return say(reason, DBC_GATE_HOLD, "the server is shutting down");
	for (size_t i = 0; i < rows->count; i++) {
		char **row = rows->items[i];

		if (dbc_is_shutdown(row[P_COMMAND], row[P_INFO]))
			return say(reason, DBC_GATE_HOLD,
				   "connection %s (%s) has asked for a shutdown", row[P_ID],
				   text_or(row[P_USER], "-"));
	}
	return DBC_GATE_OPEN;
}

/* ---- backup lock and FLUSH TABLES WITH READ LOCK ---- */

/*
 * Finds a held commit lock without any privilege: an empty XA transaction that rolls back takes
 * the commit lock first (sql/xa.cc), and lock_wait_timeout=0 makes it fail at once when FTWRL or
 * BACKUP STAGE BLOCK_COMMIT holds it. It is never prepared, so nothing of it outlives its session,
 * and it has changed nothing, so nothing is logged. A session of its own, since the failure leaves
 * it in the XA transaction.
 */
static enum dbc_verdict probe_commit_lock(const struct dbc_gates *ctx, char **reason)
{
	struct dbc_sql *probe;
	char xid[64];
	pe_auto_error struct pe_error *err = dbc_sql_open(ctx->server, ctx->login, &probe, NULL);

	if (err)
		return say(reason, DBC_GATE_UNKNOWN, "no session for the lock probe: %s",
			   err->message);
	snprintf(xid, sizeof(xid), "'dbcare-probe-%d-%lu'", (int)getpid(),
		 dbc_sql_connection_id(probe));

	static const char *const steps[] = { "SET SESSION lock_wait_timeout=0", "XA START ",
					     "XA END ", "XA ROLLBACK " };
	unsigned int number = 0;

	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps) && !err; i++) {
		char query[128];
		struct dbc_rows rows;

		snprintf(query, sizeof(query), "%s%s", steps[i], i ? xid : "");
		err = dbc_sql_query(probe, query, &rows, &number);
		dbc_rows_deinit(&rows);
	}
	dbc_sql_close(probe);
	if (!err)
		return DBC_GATE_OPEN;
	if (number == ER_LOCK_WAIT_TIMEOUT || number == ER_XAER_RMERR)
		return say(reason, DBC_GATE_HOLD,
			   "commits are blocked by a backup or FLUSH TABLES WITH READ LOCK");
	/* Galera knows no XA; a global lock there desynchronises the node, which its gate sees. */
	if (number == ER_NOT_SUPPORTED_YET)
		return DBC_GATE_OPEN;
	return say(reason, DBC_GATE_UNKNOWN, "the lock probe failed: %s", err->message);
}

/* What the plugin METADATA_LOCK_INFO knows, when it is there: every stage of a backup. */
static enum dbc_verdict ask_lock_plugin(const struct dbc_gates *ctx, char **reason)
{
	struct dbc_rows rows;
	unsigned int number;
	pe_auto_error struct pe_error *err = dbc_sql_query(
		ctx->sql,
		"SELECT THREAD_ID, LOCK_MODE FROM information_schema.METADATA_LOCK_INFO "
		"WHERE LOCK_TYPE='Backup lock' AND (LOCK_MODE LIKE 'MDL_BACKUP_FTWRL%' OR "
		"LOCK_MODE LIKE 'MDL_BACKUP_WAIT%' OR LOCK_MODE LIKE 'MDL_BACKUP_BLOCK%' OR "
		"LOCK_MODE IN ('MDL_BACKUP_START','MDL_BACKUP_FLUSH'))",
		&rows, &number);
	enum dbc_verdict verdict = DBC_GATE_OPEN;

	if (err)
		return number == ER_UNKNOWN_TABLE
			       ? DBC_GATE_OPEN
			       : say(reason, DBC_GATE_UNKNOWN, "%s", err->message);
	if (rows.count)
		verdict = say(reason, DBC_GATE_HOLD, "connection %s holds the backup lock (%s)",
			      text_or(rows.items[0][0], "?"), text_or(rows.items[0][1], "?"));
	dbc_rows_deinit(&rows);
	return verdict;
}

static enum dbc_verdict check_backup_lock(const struct dbc_gates *ctx, const struct dbc_rows *rows,
					  char **reason)
{
	for (size_t i = 0; i < rows->count; i++) {
		char **row = rows->items[i];
		const char *why = dbc_backup_lock_reason(row[P_COMMAND], row[P_STATE], row[P_INFO]);

		if (why)
			return say(reason, DBC_GATE_HOLD, "connection %s (%s): %s", row[P_ID],
				   text_or(row[P_USER], "-"), why);
	}

	enum dbc_verdict verdict = ask_lock_plugin(ctx, reason);

	return verdict == DBC_GATE_OPEN ? probe_commit_lock(ctx, reason) : verdict;
}

/* ---- DDL ---- */

static enum dbc_verdict check_ddl(const struct dbc_gates *ctx, const struct dbc_rows *rows,
				  char **reason)
{
	for (size_t i = 0; i < rows->count; i++) {
		char **row = rows->items[i];
		const char *why = dbc_ddl_reason(row[P_COMMAND], row[P_STATE], row[P_INFO]);

		if (why)
			return say(reason, DBC_GATE_HOLD, "connection %s (%s): %s: %.120s",
				   row[P_ID], text_or(row[P_USER], "-"), why,
				   text_or(row[P_INFO], "-"));
	}
	return DBC_GATE_OPEN;
}

static enum dbc_verdict check_online_ddl(const struct dbc_gates *ctx, const struct dbc_rows *rows,
					 char **reason)
{
	/* Hundredths of a percent of the in-place ALTER that runs; no row without InnoDB. */
	if (!rows->count || !rows->items[0][1] || strcmp(rows->items[0][1], "0") == 0)
		return DBC_GATE_OPEN;
	return say(reason, DBC_GATE_HOLD, "an in-place ALTER TABLE is at %.2f %%",
		   strtod(rows->items[0][1], NULL) / 100);
}

/* ---- Galera ---- */

static const char *lookup(const struct dbc_rows *rows, const char *name)
{
	for (size_t i = 0; i < rows->count; i++) {
		if (rows->items[i][0] && strcasecmp(rows->items[i][0], name) == 0)
			return text_or(rows->items[i][1], "");
	}
	return NULL;
}

static enum dbc_verdict check_galera(const struct dbc_gates *ctx, const struct dbc_rows *rows,
				     char **reason)
{
	static const struct {
		const char *name, *wanted, *complaint;
	} facts[] = {
		{ "wsrep_connected", "ON", "the node is not connected to its cluster" },
		{ "wsrep_cluster_status", "Primary", "the node's component is not Primary" },
		{ "wsrep_desync", "OFF", "the node is desynchronised on purpose" },
		{ "wsrep_local_state", "4", "the node is not Synced" },
		{ "wsrep_ready", "ON", "the node is not ready for queries" },
	};
	const char *on = lookup(rows, "wsrep_on");
	const char *provider = lookup(rows, "wsrep_provider");

	/* A server built without Galera has no such variable. */
	if (!on || strcasecmp(on, "OFF") == 0 || !provider || strcasecmp(provider, "none") == 0)
		return DBC_GATE_OPEN;
	for (size_t i = 0; i < sizeof(facts) / sizeof(*facts); i++) {
		const char *value = lookup(rows, facts[i].name);

		if (!value)
			return say(reason, DBC_GATE_UNKNOWN, "the node does not tell %s",
				   facts[i].name);
		if (strcasecmp(value, facts[i].wanted) != 0)
			return say(reason, DBC_GATE_HOLD, "%s (%s=%s)", facts[i].complaint,
				   facts[i].name, value);
	}
	return DBC_GATE_OPEN;
}

/* ---- replication lag, load ---- */

/*
 * Of one connection to a primary. Both threads stopped is somebody's decision: nothing falls
 * further behind. A delay that is wanted (MASTER_DELAY) is no lag.
 */
static enum dbc_verdict check_replica(const struct dbc_gates *ctx, const struct dbc_rows *rows,
				      size_t row, char **reason)
{
	const char *name = text_or(dbc_rows_cell(rows, row, "Connection_name"), "");
	const char *receiver = text_or(dbc_rows_cell(rows, row, "Slave_IO_Running"), "?");
	const char *applier = text_or(dbc_rows_cell(rows, row, "Slave_SQL_Running"), "?");
	const char *behind = dbc_rows_cell(rows, row, "Seconds_Behind_Master");
	const char *delay = dbc_rows_cell(rows, row, "SQL_Delay");
	const char *space = *name ? " " : "";

	if (strcmp(receiver, "No") == 0 && strcmp(applier, "No") == 0)
		return DBC_GATE_OPEN;
	if (!behind)
		return say(reason, DBC_GATE_UNKNOWN,
			   "nobody knows how far replication%s%s is behind: receiving is %s, "
			   "applying is %s",
			   space, name, receiver, applier);

	long long lag = strtoll(behind, NULL, 10) - (delay ? strtoll(delay, NULL, 10) : 0);

	if (lag <= (long long)ctx->limits.max_lag_s)
		return DBC_GATE_OPEN;
	return say(reason, DBC_GATE_HOLD,
		   "replication%s%s is %lld s behind its primary; the limit is %u s", space, name,
		   lag, ctx->limits.max_lag_s);
}

/* Asks only where there is a limit: without one, an account without the privilege will do. */
static enum dbc_verdict check_lag(const struct dbc_gates *ctx, const struct dbc_rows *none,
				  char **reason)
{
	enum dbc_verdict verdict = DBC_GATE_OPEN;
	struct dbc_rows rows;
	unsigned int number;

	if (ctx->limits.max_lag_s == DBC_NO_LIMIT)
		return DBC_GATE_OPEN;

	pe_auto_error struct pe_error *err =
		dbc_sql_query(ctx->sql, "SHOW ALL SLAVES STATUS", &rows, &number);

	if (number == ER_SPECIFIC_ACCESS_DENIED_ERROR)
		return say(reason, DBC_GATE_UNKNOWN,
			   "account %s lacks the privilege REPLICA MONITOR, without which the lag "
			   "of a replica cannot be seen; GRANT REPLICA MONITOR ON *.* TO it, or "
			   "set no limit of lag",
			   dbc_sql_user(ctx->sql));
	if (err)
		return say(reason, DBC_GATE_UNKNOWN, "%s", err->message);
	for (size_t i = 0; verdict == DBC_GATE_OPEN && i < rows.count; i++)
		verdict = check_replica(ctx, &rows, i, reason);
	dbc_rows_deinit(&rows);
	return verdict;
}

/* The statement that asks runs too, and is not counted. */
static enum dbc_verdict check_load(const struct dbc_gates *ctx, const struct dbc_rows *rows,
				   char **reason)
{
	if (ctx->limits.max_load == DBC_NO_LIMIT)
		return DBC_GATE_OPEN;
	if (!rows->count || !rows->items[0][1])
		return say(reason, DBC_GATE_UNKNOWN, "the server does not tell Threads_running");

	unsigned long running = strtoul(rows->items[0][1], NULL, 10);

	running -= running > 0;
	if (running <= ctx->limits.max_load)
		return DBC_GATE_OPEN;
	return say(reason, DBC_GATE_HOLD, "%lu statements run at this moment; the limit is %u",
		   running, ctx->limits.max_load);
}

static const struct gate gates[] = {
	{ "grants", "our account sees all sessions", NULL, check_grants },
	{ "identity", "what answers is what is mapped", "SELECT @@version", check_identity },
	{ "recovery", "started, and not in crash recovery",
	  "SHOW GLOBAL VARIABLES LIKE 'innodb_force_recovery'", check_recovery },
	{ "rollback", "no long rollback", NULL, check_rollback },
	{ "shutdown", "no shutdown in progress", PROCESSLIST, check_shutdown },
	{ "backup-lock", "no backup lock, no global read lock", PROCESSLIST, check_backup_lock },
	{ "ddl", "no DDL in progress", PROCESSLIST, check_ddl },
	{ "online-ddl", "no in-place ALTER TABLE in progress",
	  "SHOW GLOBAL STATUS LIKE 'Innodb_onlineddl_pct_progress'", check_online_ddl },
	{ "galera", "a cluster node is Primary, Synced and not desynchronised",
	  "SELECT VARIABLE_NAME, VARIABLE_VALUE FROM information_schema.GLOBAL_VARIABLES "
	  "WHERE VARIABLE_NAME IN ('WSREP_ON','WSREP_PROVIDER','WSREP_DESYNC') UNION ALL "
	  "SELECT VARIABLE_NAME, VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS "
	  "WHERE VARIABLE_NAME LIKE 'WSREP%'",
	  check_galera },
	{ "lag", "a replica is not too far behind", NULL, check_lag },
	{ "load", "not too many statements run", "SHOW GLOBAL STATUS LIKE 'Threads_running'",
	  check_load },
};

enum { GATE_COUNT = sizeof(gates) / sizeof(*gates) };

const char *dbc_verdict_name(enum dbc_verdict verdict)
{
	static const char *const names[] = { "ok", "hold", "unknown" };

	return names[verdict];
}

static void gate_run(const struct gate *gate, const struct dbc_gates *ctx,
		     struct dbc_gate_result *ret)
{
	struct dbc_rows rows = { 0 };
	pe_auto_error struct pe_error *err = NULL;

	ret->name = gate->name;
	ret->about = gate->about;
	if (gate->query)
		err = dbc_sql_query(ctx->sql, gate->query, &rows, NULL);
	if (err)
		ret->verdict = say(&ret->reason, DBC_GATE_UNKNOWN, "%s", err->message);
	else
		ret->verdict = gate->check(ctx, &rows, &ret->reason);
	dbc_rows_deinit(&rows);
}

static bool gate_known(const char *name)
{
	for (size_t i = 0; i < GATE_COUNT; i++) {
		if (strcmp(gates[i].name, name) == 0)
			return true;
	}
	return strcmp(name, "connection") == 0;
}

/* What the patch demands and this program does not know cannot be judged: unknown. */
static void demanded_run(const struct dbc_gates *ctx, struct dbc_gate_report *report)
{
	for (size_t i = 0; i < ctx->demanded_count; i++) {
		if (gate_known(ctx->demanded[i]))
			continue;

		struct dbc_gate_result *result = &report->items[report->count++];

		*result = (struct dbc_gate_result){ .name = ctx->demanded[i],
						    .about = "demanded by the patch" };
		result->verdict = say(&result->reason, DBC_GATE_UNKNOWN,
				      "the patch demands a gate that this version does not know");
	}
}

struct pe_error *dbc_gates_run(const struct dbc_gates *ctx, struct dbc_gate_report *ret)
{
	size_t room = 1 + GATE_COUNT + ctx->demanded_count;

	*ret = (struct dbc_gate_report){ .items = calloc(room, sizeof(*ret->items)) };
	if (!ret->items)
		return pe_error_nomem();

	struct dbc_gate_result *connection = &ret->items[ret->count++];

	*connection = (struct dbc_gate_result){ .name = "connection",
						.about = "the server can be asked" };
	if (!ctx->sql) {
		connection->verdict = DBC_GATE_UNKNOWN;
		connection->reason = ctx->sql_error ? pe_error_text(ctx->sql_error)
						    : strdup("there is no connection");
	}
	for (size_t i = 0; ctx->sql && i < GATE_COUNT; i++)
		gate_run(&gates[i], ctx, &ret->items[ret->count++]);
	if (ctx->sql)
		demanded_run(ctx, ret);
	for (size_t i = ret->count; i-- > 0;) {
		if (ret->items[i].verdict != DBC_GATE_OPEN)
			ret->first = &ret->items[i];
	}
	return NULL;
}

void dbc_gate_report_deinit(struct dbc_gate_report *report)
{
	for (size_t i = 0; i < report->count; i++)
		free(report->items[i].reason);
	free(report->items);
	*report = (struct dbc_gate_report){ 0 };
}

struct pe_error *dbc_gates_error(const struct dbc_gate_report *report)
{
	if (!report->first)
		return NULL;
	return pe_error_new(PE_ERR_HELD, "gate %s %s: %s", report->first->name,
			    report->first->verdict == DBC_GATE_HOLD ? "holds" : "holds (unknown)",
			    report->first->reason ? report->first->reason : "no reason known");
}

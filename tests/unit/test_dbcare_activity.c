/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sessions are judged by their row of PROCESSLIST. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dbcare/activity.h"

static void statements_that_define_objects_are_ddl(void **state)
{
	static const char *const ddl[] = {
		"ALTER TABLE t ADD b INT",
		"  alter\ttable t force",
		"/* app: x */ ALTER TABLE t FORCE",
		"/*!50000 ALTER TABLE t FORCE */",
		"/*M!100100 ALTER TABLE t FORCE */",
		"-- why\nCREATE INDEX i ON t (a)",
		"# why\nCREATE TABLE t (a INT)",
		"CREATE OR REPLACE TABLE t (a INT)",
		"DROP TABLE t",
		"RENAME TABLE a TO b",
		"TRUNCATE t",
		"OPTIMIZE TABLE t",
		"SET STATEMENT max_statement_time=0 FOR ALTER TABLE t FORCE",
		"SET STATEMENT sql_mode='FOR DROP' FOR ALTER TABLE t FORCE",
		"EXECUTE IMMEDIATE 'ALTER TABLE t FORCE'",
		"(ALTER TABLE t FORCE)",
	};

	for (size_t i = 0; i < sizeof(ddl) / sizeof(*ddl); i++) {
		if (!dbc_is_ddl(ddl[i]))
			fail_msg("not seen as DDL: %s", ddl[i]);
	}
}

static void other_statements_are_not_ddl(void **state)
{
	static const char *const other[] = {
		"SELECT 1",
		"SELECT 'ALTER TABLE t'",
		"/* ALTER TABLE t */ SELECT 1",
		"alteration",
		"CREATE TEMPORARY TABLE t (a INT)",
		"CREATE OR REPLACE TEMPORARY TABLE t (a INT)",
		"DROP TEMPORARY TABLE t",
		"DROP PREPARE s",
		"ANALYZE TABLE t",
		"SET STATEMENT max_statement_time=1 FOR SELECT 1",
		"SET @a='FOR ALTER'",
		"INSERT INTO log VALUES ('DROP')",
		"/* never closed",
		"/*!",
		"",
	};

	for (size_t i = 0; i < sizeof(other) / sizeof(*other); i++) {
		if (dbc_is_ddl(other[i]))
			fail_msg("seen as DDL: %s", other[i]);
	}
	assert_false(dbc_is_ddl(NULL));
}

static void a_state_alone_tells_ddl_and_an_idle_session_never_does(void **state)
{
	assert_string_equal(dbc_ddl_reason("Query", "altering table", NULL), "altering table");
	assert_non_null(dbc_ddl_reason("Slave_SQL", "copy to tmp table", NULL));
	assert_null(dbc_ddl_reason("Query", "Copying to tmp table", "SELECT a FROM t GROUP BY 1"));
	assert_non_null(dbc_ddl_reason("Query", NULL, "DROP TABLE t"));
	assert_null(dbc_ddl_reason("Sleep", "", "DROP TABLE t"));
	assert_null(dbc_ddl_reason("Daemon", "Waiting for next activation", NULL));
	assert_null(dbc_ddl_reason(NULL, NULL, NULL));
}

static void waiters_and_takers_of_the_backup_lock_are_named(void **state)
{
	assert_string_equal(dbc_backup_lock_reason("Query", "Waiting for backup lock",
						   "INSERT INTO t VALUES (1)"),
			    "Waiting for backup lock");
	assert_non_null(dbc_backup_lock_reason("Query", "", "FLUSH TABLES WITH READ LOCK"));
	assert_non_null(dbc_backup_lock_reason("Query", "", "flush tables t with read lock"));
	assert_non_null(dbc_backup_lock_reason("Query", "", "BACKUP STAGE BLOCK_COMMIT"));
	assert_null(dbc_backup_lock_reason("Query", "", "FLUSH STATUS"));
	assert_null(dbc_backup_lock_reason("Query", "", "BACKUP LOCK t"));
	assert_null(dbc_backup_lock_reason("Sleep", "", NULL));
}

static void a_shutdown_is_seen_in_command_or_statement(void **state)
{
	assert_true(dbc_is_shutdown("Shutdown", NULL));
	assert_true(dbc_is_shutdown("Query", "SHUTDOWN WAIT FOR ALL SLAVES"));
	assert_false(dbc_is_shutdown("Query", "SELECT 'SHUTDOWN'"));
	assert_false(dbc_is_shutdown("Sleep", NULL));
}

static const char innodb_status[] =
	"LIST OF TRANSACTIONS FOR EACH SESSION:\n"
	"---TRANSACTION (0x7f), not started\n"
	"0 lock struct(s), heap size 1128, 0 row lock(s)\n"
	"---TRANSACTION 290, ACTIVE 3 sec\n"
	"1 lock struct(s), heap size 1128, 0 row lock(s), undo log entries 999999\n"
	"MariaDB thread id 5, OS thread handle 1, query id 2 localhost a\n"
	"select 'recovered trx\nROLLING BACK'\n"
	"---TRANSACTION 291, ACTIVE 0 sec rollback\n"
	"ROLLING BACK 1 lock struct(s), heap size 1128, 0 row lock(s), undo log entries 50\n"
	"---TRANSACTION 292, ACTIVE 0 sec recovered trx\n"
	"ROLLING BACK 1 lock struct(s), heap size 1128, 0 row lock(s), undo log entries 368944\n"
	"--------\nFILE I/O\n";

static void long_rollbacks_are_found_in_the_status_of_innodb(void **state)
{
	struct dbc_rollback rollback;
	bool truncated;

	assert_true(dbc_rollback_find(innodb_status, 50, &rollback, &truncated));
	assert_int_equal(rollback.transaction, 291);
	assert_false(rollback.recovered);
	assert_true(dbc_rollback_find(innodb_status, 51, &rollback, &truncated));
	assert_int_equal(rollback.transaction, 292);
	assert_int_equal(rollback.undo_entries, 368944);
	assert_true(rollback.recovered);
	assert_false(truncated);
	assert_false(dbc_rollback_find("", 0, &rollback, &truncated));
	assert_false(dbc_rollback_find("---TRANSACTION 7, ACTIVE 1 sec\n... truncated...\n", 0,
				       &rollback, &truncated));
	assert_true(truncated);
}

static void only_a_global_grant_of_process_counts(void **state)
{
	assert_true(dbc_grant_gives("GRANT PROCESS ON *.* TO `a`@`b`", "PROCESS"));
	assert_true(dbc_grant_gives("GRANT SELECT, PROCESS, BINLOG MONITOR ON *.* TO `a`@`b` "
				    "IDENTIFIED BY PASSWORD '*X'",
				    "PROCESS"));
	assert_true(
		dbc_grant_gives("GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost`", "PROCESS"));
	assert_false(dbc_grant_gives("GRANT ALL PRIVILEGES ON `db`.* TO `a`@`b`", "PROCESS"));
	assert_false(dbc_grant_gives("GRANT USAGE ON *.* TO `PROCESS`@`b`", "PROCESS"));
	assert_false(dbc_grant_gives("GRANT USAGE ON *.* TO `x, PROCESS`@`b`", "PROCESS"));
	assert_false(dbc_grant_gives("GRANT PROCESSES ON *.* TO `a`@`b`", "PROCESS"));
	assert_false(dbc_grant_gives("GRANT  ON *.* TO", "PROCESS"));
	assert_false(dbc_grant_gives("", "PROCESS"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(statements_that_define_objects_are_ddl),
		cmocka_unit_test(other_statements_are_not_ddl),
		cmocka_unit_test(a_state_alone_tells_ddl_and_an_idle_session_never_does),
		cmocka_unit_test(waiters_and_takers_of_the_backup_lock_are_named),
		cmocka_unit_test(a_shutdown_is_seen_in_command_or_statement),
		cmocka_unit_test(long_rollbacks_are_found_in_the_status_of_innodb),
		cmocka_unit_test(only_a_global_grant_of_process_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Verification: the process is the same and none of its threads is left stopped; the session that
 * was open before the switch still is the same session and answers; a new one is let in and
 * answers; answers are right. The client's timeouts bound it in time.
 */
#include "dbcare/verify.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dbcare/proc.h"
#include "engine/cleanup.h"

/* A tracer's last thread may still be on its way out of the stop when we look. */
enum { STUCK_LOOKS = 20, STUCK_WAIT_US = 5000, TRIVIAL_QUERIES = 5 };

/* A slower answer than this, and than 20 times the one before, means that something is wrong. */
enum { SLOW_US = 1000000, SLOW_FACTOR = 20 };

/*
 * A server whose processors are all taken may be slow to greet, which is no reason to take a good
 * patch back: a connection that only timed out is tried again for this long.
 */
enum { GREETING_US = 30000000, QUICK_US = 1000000 };

static struct pe_error *failed(struct pe_error *cause, const char *what)
{
	struct pe_error *err = pe_error_new(PE_ERR_VERIFY, "%s: %s", what, cause->message);

	pe_error_free(cause);
	return err;
}

/* The fastest of a few "SELECT 1", checked to say 1. */
static struct pe_error *trivial_query(struct dbc_sql *sql, uint64_t *us)
{
	*us = UINT64_MAX;
	for (int i = 0; i < TRIVIAL_QUERIES; i++) {
		pe_auto_free char *one = NULL;
		uint64_t start = pe_now_us();
		struct pe_error *err = dbc_sql_value(sql, "SELECT 1", &one);

		if (err)
			return err;
		if (!one || strcmp(one, "1") != 0)
			return pe_error_new(PE_ERR_VERIFY, "SELECT 1 answers '%s'",
					    one ? one : "nothing");

		uint64_t took = pe_now_us() - start;

		if (took < *us)
			*us = took;
	}
	return NULL;
}

static struct pe_error *read_session(struct dbc_sql *sql, struct dbc_baseline *ret)
{
	struct dbc_rows rows;
	struct pe_error *err =
		dbc_sql_query(sql,
			      "SELECT CONNECTION_ID(), (SELECT VARIABLE_VALUE FROM "
			      "information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME='UPTIME')",
			      &rows, NULL);

	if (err)
		return err;
	if (rows.count && rows.items[0][0] && rows.items[0][1]) {
		ret->connection_id = strtoul(rows.items[0][0], NULL, 10);
		ret->uptime_s = strtoull(rows.items[0][1], NULL, 10);
	} else {
		err = pe_error_new(PE_ERR_HELD, "the server does not tell its uptime");
	}
	dbc_rows_deinit(&rows);
	return err;
}

struct pe_error *dbc_baseline_take(struct dbc_sql *kept, struct dbc_baseline *ret)
{
	*ret = (struct dbc_baseline){ 0 };
	struct pe_error *err = trivial_query(kept, &ret->select_us);

	return err ? err : read_session(kept, ret);
}

static size_t count_stopped(pid_t pid)
{
	char path[64];
	size_t stopped = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	DIR *tasks = opendir(path);
	for (struct dirent *entry; tasks && (entry = readdir(tasks));) {
		char name[64];

		if (entry->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "task/%.20s/stat", entry->d_name);
		pe_auto_free char *stat = dbc_proc_read(pid, name, NULL);
		const char *rest = stat ? strrchr(stat, ')') : NULL;

		/* t: traced and stopped; T: stopped by a signal (proc(5)). */
		if (rest && (rest[2] == 't' || rest[2] == 'T'))
			stopped++;
	}
	if (tasks)
		closedir(tasks);
	return stopped;
}

struct pe_error *dbc_verify_threads(const struct dbc_server *server, const struct pe_target *target,
				    struct dbc_verification *ret)
{
	struct pe_error *err = pe_target_alive(target);

	if (err)
		return failed(err, "the server is gone");
	for (int look = 0; look < STUCK_LOOKS; look++) {
		ret->threads_stuck = count_stopped(server->pid);
		if (!ret->threads_stuck)
			return NULL;
		usleep(STUCK_WAIT_US);
	}
	return pe_error_new(PE_ERR_VERIFY, "%zu threads of the server stand stopped",
			    ret->threads_stuck);
}

static struct pe_error *verify_kept(struct dbc_sql *kept, const struct dbc_baseline *before,
				    struct dbc_verification *ret)
{
	struct dbc_baseline now;
	struct pe_error *err = trivial_query(kept, &ret->select_us);

	if (!err)
		err = read_session(kept, &now);
	if (err)
		return failed(err, "the connection that was open before fails now");
	if (now.connection_id != before->connection_id)
		return pe_error_new(PE_ERR_VERIFY, "connection %lu became %lu",
				    before->connection_id, now.connection_id);
	if (now.uptime_s < before->uptime_s)
		return pe_error_new(
			PE_ERR_VERIFY, "the server's uptime went back from %llu s to %llu s",
			(unsigned long long)before->uptime_s, (unsigned long long)now.uptime_s);
	if (ret->select_us > SLOW_US && ret->select_us / SLOW_FACTOR > before->select_us)
		return pe_error_new(PE_ERR_VERIFY, "SELECT 1 took %llu µs and takes %llu µs now",
				    (unsigned long long)before->select_us,
				    (unsigned long long)ret->select_us);
	return NULL;
}

static struct pe_error *open_patiently(const struct dbc_server *server,
				       const struct dbc_login *login, struct dbc_sql **ret)
{
	uint64_t start = pe_now_us();

	for (;;) {
		uint64_t begin = pe_now_us();
		struct pe_error *err = dbc_sql_open(server, login, ret, NULL);
		uint64_t now = pe_now_us();

		/* What fails at once was refused, not late. */
		if (!err || now - begin < QUICK_US || now - start > GREETING_US)
			return err;
		pe_error_free(err);
	}
}

static struct pe_error *verify_fresh(const struct dbc_server *server, const struct dbc_login *login,
				     struct dbc_verification *ret)
{
	struct dbc_sql *fresh;
	uint64_t start = pe_now_us(), us;
	struct pe_error *err = open_patiently(server, login, &fresh);

	if (err)
		return failed(err, "no new connection after the switch");
	err = trivial_query(fresh, &us);
	ret->fresh_us = pe_now_us() - start;
	dbc_sql_close(fresh);
	return err ? failed(err, "a new connection cannot query") : NULL;
}

struct pe_error *dbc_verify_sql(const struct dbc_server *server, const struct dbc_login *login,
				struct dbc_sql *kept, const struct dbc_baseline *before,
				struct dbc_verification *ret)
{
	ret->asked = true;
	struct pe_error *err = verify_kept(kept, before, ret);

	return err ? err : verify_fresh(server, login, ret);
}

struct pe_error *dbc_verify(const struct dbc_server *server, const struct pe_target *target,
			    const struct dbc_login *login, struct dbc_sql *kept,
			    const struct dbc_baseline *before, struct dbc_verification *ret)
{
	*ret = (struct dbc_verification){ 0 };
	struct pe_error *err = dbc_verify_threads(server, target, ret);

	return err || !kept ? err : dbc_verify_sql(server, login, kept, before, ret);
}

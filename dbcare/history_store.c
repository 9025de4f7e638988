/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The history's database:
 *
 *	operations	number	 in the order in which they began
 *			id	 of the operation, unique
 *			began, ended, action, patch, server, socket, pid, result, pause_us
 *				 for whoever asks with SQL; ended and result are NULL while it runs
 *			record	 all of it, JSON
 *
 * PRAGMA user_version is its format. It has a rollback journal and no WAL, so that members of the
 * group, who cannot write, can read it.
 *
 * The folder belongs to the agent's user and root writes here too, so the file is judged like any
 * other input: no symbolic links, no triggers or views of its own, no functions from its schema.
 */
#include "dbcare/history_store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "engine/cleanup.h"

enum {
	FORMAT = 1,
	APPLICATION = 0x64626361, /* "dbca" */
	BUSY_MS = 10000,
};

struct store {
	char folder[PATH_MAX]; /* without symbolic links */
	char path[PATH_MAX + 16];
	sqlite3 *db;
};

static void store_close(struct store *store)
{
	sqlite3_close_v2(store->db);
	store->db = NULL;
}

/* What SQLite says about the last call, in our words. */
static struct pe_error *store_error(const struct store *store)
{
	const char *path = store->path;
	int code = store->db ? sqlite3_extended_errcode(store->db) : SQLITE_NOMEM;
	const char *text = store->db ? sqlite3_errmsg(store->db) : "";
	int number = store->db ? sqlite3_system_errno(store->db) : 0;

	switch (code & 0xff) {
	case SQLITE_NOMEM:
		return pe_error_nomem();
	case SQLITE_NOTADB:
	case SQLITE_CORRUPT:
	case SQLITE_ERROR: /* a table or a column that is not there */
		return pe_error_new(PE_ERR_FORMAT, "%s is damaged (%s)", path, text);
	case SQLITE_FULL:
		return pe_error_new(PE_ERR_SYSTEM, "there is no space left for %s", path);
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return pe_error_new(PE_ERR_BUSY, "another program has kept %s locked for %d s",
				    path, BUSY_MS / 1000);
	case SQLITE_CANTOPEN:
	case SQLITE_READONLY:
	case SQLITE_PERM:
	case SQLITE_AUTH:
		return pe_error_new(PE_ERR_PERMISSION, "%s cannot be used (%s%s%s)", path, text,
				    number ? ": " : "", number ? strerror(number) : "");
	case SQLITE_IOERR:
		return pe_error_errno(number ? number : EIO, "cannot read or write %s", path);
	default:
		return pe_error_new(PE_ERR_INTERNAL, "%s: %s", path, text);
	}
}

static struct pe_error *run(const struct store *store, const char *sql)
{
	return sqlite3_exec(store->db, sql, NULL, NULL, NULL) == SQLITE_OK ? NULL
									   : store_error(store);
}

static struct pe_error *number_of(const struct store *store, const char *sql, int *ret)
{
	sqlite3_stmt *statement = NULL;
	bool good = sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL) == SQLITE_OK &&
		    sqlite3_step(statement) == SQLITE_ROW;
	struct pe_error *err = good ? NULL : store_error(store);

	*ret = good ? sqlite3_column_int(statement, 0) : 0;
	sqlite3_finalize(statement);
	return err;
}

/* ---- one row ---- */

static void bind(sqlite3_stmt *statement, const char *name, const json_t *value)
{
	int at = sqlite3_bind_parameter_index(statement, name);

	if (json_is_integer(value))
		sqlite3_bind_int64(statement, at, json_integer_value(value));
	else if (json_is_string(value))
		sqlite3_bind_text(statement, at, json_string_value(value), -1, SQLITE_TRANSIENT);
}

static struct pe_error *put_row(const struct store *store, const json_t *record)
{
	static const char sql[] =
		"INSERT INTO operations (id, began, ended, action, patch, server, socket, pid, "
		"result, pause_us, record) VALUES (:id, :began, :time, :action, :patch, :server, "
		":socket, :pid, :result, :pause_us, :record) ON CONFLICT (id) DO UPDATE SET "
		"ended = excluded.ended, result = excluded.result, pause_us = excluded.pause_us, "
		"record = excluded.record";
	static const char *const columns[] = { "id",	 "began",  "time", "action", "patch",
					       "server", "socket", "pid",  "result", "pause_us" };
	pe_auto_free char *text = json_dumps(record, JSON_PRESERVE_ORDER | JSON_COMPACT);
	sqlite3_stmt *statement = NULL;

	if (!text)
		return pe_error_nomem();
	if (sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL) != SQLITE_OK)
		return store_error(store);
	for (size_t i = 0; i < sizeof(columns) / sizeof(*columns); i++) {
		char name[16];

		snprintf(name, sizeof(name), ":%s", columns[i]);
		bind(statement, name, json_object_get(record, columns[i]));
	}
	sqlite3_bind_text(statement, sqlite3_bind_parameter_index(statement, ":record"), text, -1,
			  SQLITE_STATIC);

	struct pe_error *err = sqlite3_step(statement) == SQLITE_DONE ? NULL : store_error(store);

	sqlite3_finalize(statement);
	return err;
}

/* ---- opening ---- */

/* Made by whoever comes first, for the owner of the folder: root must not shut the agent out. */
static struct pe_error *make_file(const struct store *store)
{
	struct stat folder;
	pe_auto_fd int fd =
		open(store->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);

	if (fd < 0)
		return errno == EEXIST ? NULL
				       : pe_error_errno(errno, "cannot make %s", store->path);
	if (geteuid() == 0 &&
	    (stat(store->folder, &folder) != 0 || fchown(fd, folder.st_uid, folder.st_gid) != 0))
		return pe_error_errno(errno, "cannot give %s to its folder's owner", store->path);
	return NULL;
}

static struct pe_error *open_database(struct store *store)
{
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_FULLMUTEX;

	if (sqlite3_open_v2(store->path, &store->db, flags, NULL) != SQLITE_OK)
		return store_error(store);
	sqlite3_extended_result_codes(store->db, 1);
	sqlite3_busy_timeout(store->db, BUSY_MS);
	sqlite3_db_config(store->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	sqlite3_db_config(store->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
	sqlite3_db_config(store->db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
	return run(store, "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON;"
			  "PRAGMA temp_store=MEMORY; PRAGMA cache_size=-256;"
			  "PRAGMA synchronous=EXTRA");
}

static struct pe_error *import_lines(const struct store *store)
{
	json_t *lines, *record;
	size_t i;
	struct pe_error *err = history_lines_read(store->folder, &lines);

	json_array_foreach(lines, i, record)
	{
		if (!err)
			err = put_row(store, record);
	}
	json_decref(lines);
	return err ? pe_error_wrap(err, "cannot take over the history of an earlier version")
		   : NULL;
}

/* In a transaction. An empty file becomes a history, with what an earlier version wrote. */
static struct pe_error *make_format(const struct store *store)
{
	int format = 0, tables = 0;
	struct pe_error *err = number_of(store, "PRAGMA user_version", &format);

	if (!err)
		err = number_of(store, "SELECT count(*) FROM sqlite_schema", &tables);
	if (err || format == FORMAT)
		return err;
	if (format > FORMAT)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "%s was made by a newer version of this program (format %d, "
				    "known is %d)",
				    store->path, format, FORMAT);
	if (tables)
		return pe_error_new(PE_ERR_FORMAT, "%s is damaged (a database, but no history)",
				    store->path);
	err = run(store, "CREATE TABLE operations (number INTEGER PRIMARY KEY, "
			 "id TEXT NOT NULL UNIQUE, began TEXT NOT NULL, ended TEXT, action TEXT, "
			 "patch TEXT, server TEXT, socket TEXT, pid INTEGER, result TEXT, "
			 "pause_us INTEGER, record TEXT NOT NULL)");
	if (!err)
		err = import_lines(store);
	if (!err) {
		char sql[96];

		snprintf(sql, sizeof(sql), "PRAGMA application_id=%d; PRAGMA user_version=%d",
			 APPLICATION, FORMAT);
		err = run(store, sql);
	}
	return err;
}

static struct pe_error *locate(const char *dir, struct store *ret)
{
	*ret = (struct store){ 0 };
	if (!realpath(dir, ret->folder))
		return pe_error_errno(errno, "cannot find the state directory %s", dir);
	snprintf(ret->path, sizeof(ret->path), "%s/history.db", ret->folder);
	return NULL;
}

static struct pe_error *put(struct store *store, const json_t *record)
{
	struct pe_error *err = make_file(store);

	if (!err)
		err = open_database(store);
	if (!err)
		err = run(store, "BEGIN IMMEDIATE");
	if (!err)
		err = make_format(store);
	if (!err)
		err = put_row(store, record);
	if (!err)
		err = run(store, "COMMIT");
	store_close(store); /* rolls back what was not committed */
	return err;
}

/* ---- damage ---- */

static char *set_aside(const struct store *store)
{
	char kept[PATH_MAX + 64], journal[PATH_MAX + 32], when[32];
	time_t now = time(NULL);
	struct tm utc;
	char *note = NULL;

	strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", gmtime_r(&now, &utc));
	snprintf(kept, sizeof(kept), "%s.damaged-%s", store->path, when);
	snprintf(journal, sizeof(journal), "%s-journal", store->path);
	if (rename(store->path, kept) != 0)
		return NULL;
	/* It belongs to the damaged file; beside the new one it would damage that too. */
	unlink(journal);
	if (asprintf(&note, "the history %s was damaged: it is kept as %s, and a new one is begun",
		     store->path, kept) < 0)
		return NULL;
	return note;
}

/* One at a time, and each looks again: another may have begun a new one meanwhile. */
static struct pe_error *replace_damaged(struct store *store, const json_t *record,
					struct pe_error *damage, char **note)
{
	pe_auto_fd int lock = open(store->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (lock < 0 || flock(lock, LOCK_EX) != 0)
		return damage;
	pe_error_free(damage);

	struct pe_error *err = put(store, record);

	if (!err || err->code != PE_ERR_FORMAT)
		return err;
	*note = set_aside(store);
	if (!*note)
		return err;
	pe_error_free(err);
	return put(store, record);
}

struct pe_error *history_store_put(const char *dir, const json_t *record, char **note)
{
	struct store store;
	struct pe_error *err = locate(dir, &store);

	*note = NULL;
	if (!err)
		err = put(&store, record);
	if (err && err->code == PE_ERR_FORMAT)
		err = replace_damaged(&store, record, err, note);
	return err;
}

/* ---- reading ---- */

static const char *text_of(const json_t *record, const char *name)
{
	const char *text = json_string_value(json_object_get(record, name));

	return text ? text : "";
}

static bool wanted(const json_t *record, const struct dbc_history_filter *filter)
{
	const char *began = text_of(record, "began");
	char pid[24];

	snprintf(pid, sizeof(pid), "%lld",
		 (long long)json_integer_value(json_object_get(record, "pid")));
	if (filter->server && strcmp(filter->server, pid) != 0 &&
	    strcmp(filter->server, text_of(record, "socket")) != 0 &&
	    strcmp(filter->server, text_of(record, "server")) != 0)
		return false;
	return !(filter->patch && strcmp(filter->patch, text_of(record, "patch")) != 0) &&
	       !(filter->since && strcmp(began, filter->since) < 0) &&
	       !(filter->until && strcmp(began, filter->until) > 0);
}

static void complete(json_t *record)
{
	if (!json_object_get(record, "time"))
		json_object_set(record, "time", json_object_get(record, "began"));
	if (!json_object_get(record, "result"))
		json_object_set_new(record, "result", json_string("unfinished"));
}

/* What is not wanted is left out here already, as far as the columns tell, and not parsed. */
static struct pe_error *read_rows(const struct store *store,
				  const struct dbc_history_filter *filter, json_t *all)
{
	static const char sql[] =
		"SELECT record FROM operations WHERE (?1 IS NULL OR ?1 IN (CAST(pid AS TEXT), "
		"socket, server)) AND (?2 IS NULL OR ?2 = patch) ORDER BY number";
	sqlite3_stmt *statement = NULL;
	int step = sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL);

	if (step == SQLITE_OK) {
		sqlite3_bind_text(statement, 1, filter->server, -1, SQLITE_STATIC);
		sqlite3_bind_text(statement, 2, filter->patch, -1, SQLITE_STATIC);
	}
	while (step == SQLITE_OK || step == SQLITE_ROW) {
		step = sqlite3_step(statement);
		if (step != SQLITE_ROW)
			break;

		const char *text = (const char *)sqlite3_column_text(statement, 0);
		json_t *record = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;

		if (json_is_object(record))
			json_array_append(all, record);
		json_decref(record);
	}

	struct pe_error *err = step == SQLITE_DONE ? NULL : store_error(store);

	sqlite3_finalize(statement);
	return err;
}

static struct pe_error *read_database(struct store *store, const struct dbc_history_filter *filter,
				      json_t **ret)
{
	int format = 0;
	struct pe_error *err = open_database(store);

	*ret = json_array();
	if (!err)
		err = number_of(store, "PRAGMA user_version", &format);
	if (!err && format > FORMAT)
		err = pe_error_new(PE_ERR_UNSUPPORTED,
				   "%s was made by a newer version of this program", store->path);
	/* 0: its first writer is not that far yet. */
	if (!err && format > 0)
		err = read_rows(store, filter, *ret);
	store_close(store);
	return err;
}

struct pe_error *history_store_read(const char *dir, const struct dbc_history_filter *filter,
				    json_t **ret)
{
	struct store store;
	json_t *found = NULL, *record;
	size_t i;
	struct stat st;
	struct pe_error *err = NULL;

	*ret = NULL;
	if (stat(dir, &st) != 0 && errno == ENOENT) {
		*ret = json_array();
		return NULL;
	}
	err = locate(dir, &store);
	if (!err && lstat(store.path, &st) != 0 && errno == ENOENT)
		err = history_lines_read(dir, &found);
	else if (!err)
		err = read_database(&store, filter, &found);
	if (err && err->code == PE_ERR_FORMAT)
		err = pe_error_wrap(err, "the history cannot be read; the next operation keeps it "
					 "under another name and begins a new one");
	if (!err)
		*ret = json_array();
	json_array_foreach(found, i, record)
	{
		complete(record);
		if (*ret && wanted(record, filter))
			json_array_append(*ret, record);
	}
	json_decref(found);
	while (*ret && filter->newest && json_array_size(*ret) > filter->newest)
		json_array_remove(*ret, 0);
	return err;
}

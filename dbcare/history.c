/* SPDX-License-Identifier: GPL-2.0-or-later */
/* History: an operation's intent, the room for its outcome, its outcome. */
#include "dbcare/history.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#include "dbcare/history_store.h"
#include "engine/cleanup.h"

enum { OUTCOME_ROOM = 65536 }; /* bytes: the record, and the database's journal of writing it */

struct dbc_history {
	json_t *record;
	char *note;
	int room; /* an unnamed file that holds the room; -1: this file system gives none */
};

static const char *state_dir(void)
{
	const char *dir = secure_getenv("DBCARE_STATE_DIR");

	return dir && *dir ? dir : "/var/lib/dbcare";
}

struct pe_error *dbc_state_dir(const char **ret)
{
	*ret = state_dir();
	if (mkdir(*ret, 0750) != 0 && errno != EEXIST)
		return pe_error_errno(errno, "cannot make the state directory %s", *ret);
	return NULL;
}

static json_t *now_text(void)
{
	char text[32];
	time_t now = time(NULL);
	struct tm utc;

	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
	return json_string(text);
}

/*
 * A file without a name, so that the room is free again however we end. File systems that cannot
 * set space aside are let be.
 */
static struct pe_error *set_room_aside(const char *dir, int *ret)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/.room-XXXXXX", dir);
	*ret = mkostemp(path, O_CLOEXEC);
	if (*ret < 0)
		return pe_error_errno(errno, "cannot make a file in %s", dir);
	unlink(path);
	if (fallocate(*ret, 0, 0, OUTCOME_ROOM) != 0 && errno != EOPNOTSUPP && errno != ENOSYS)
		return pe_error_errno(errno, "no room for the outcome");
	return NULL;
}

static void history_free(struct dbc_history *history)
{
	if (history->room >= 0)
		close(history->room);
	json_decref(history->record);
	free(history->note);
	free(history);
}

/* Unique among all that write to this history, in whatever process and thread. */
static json_t *new_id(void)
{
	unsigned int random = 0;
	char id[64];

	if (getrandom(&random, sizeof(random), 0) < 0)
		random = 0;
	snprintf(id, sizeof(id), "%lld-%d-%08x", (long long)time(NULL), (int)getpid(), random);
	return json_string(id);
}

/* The user behind sudo, else the one that we run as. */
static json_t *who(void)
{
	const char *sudo = secure_getenv("SUDO_USER");
	const struct passwd *entry = sudo && *sudo ? NULL : getpwuid(getuid());

	if (sudo && *sudo)
		return json_string(sudo);
	return entry ? json_string(entry->pw_name) : json_sprintf("uid %u", (unsigned int)getuid());
}

static struct pe_error *begin(struct dbc_history *history)
{
	const char *dir;
	struct pe_error *err = dbc_state_dir(&dir);

	if (!err)
		err = set_room_aside(dir, &history->room);
	return err ? err : history_store_put(dir, history->record, &history->note);
}

struct pe_error *dbc_history_begin(const char *action, json_t *fields, struct dbc_history **ret)
{
	struct dbc_history *history = calloc(1, sizeof(*history));

	if (!history) {
		json_decref(fields);
		return pe_error_nomem();
	}
	history->room = -1;
	history->record =
		json_pack("{s:o, s:s, s:o}", "id", new_id(), "action", action, "began", now_text());
	json_object_update(history->record, fields);
	json_decref(fields);
	/* The agent says so itself, whoever has started it. */
	if (!json_object_get(history->record, "by"))
		json_object_set_new(history->record, "by", who());

	struct pe_error *err = begin(history);

	if (err) {
		history_free(history);
		return pe_error_wrap(err,
				     "cannot record the operation in %s, so nothing was changed",
				     state_dir());
	}
	*ret = history;
	return NULL;
}

const char *dbc_history_note(const struct dbc_history *history)
{
	return history->note;
}

struct pe_error *dbc_history_end(struct dbc_history *history, const char *result, json_t *more)
{
	pe_auto_free char *note = NULL;

	json_object_set_new(history->record, "time", now_text());
	json_object_set_new(history->record, "result", json_string(result));
	if (more)
		json_object_update(history->record, more);
	json_decref(more);
	if (history->room >= 0)
		close(history->room);
	history->room = -1;

	struct pe_error *err = history_store_put(state_dir(), history->record, &note);

	history_free(history);
	return err ? pe_error_wrap(err, "the outcome could not be recorded in %s", state_dir())
		   : NULL;
}

struct pe_error *dbc_history_resume(json_t *record, struct dbc_history **ret)
{
	*ret = calloc(1, sizeof(**ret));
	if (!*ret)
		return pe_error_nomem();
	(*ret)->record = json_incref(record);
	(*ret)->room = -1;
	return NULL;
}

bool dbc_history_abandoned(const json_t *record)
{
	const char *id = json_string_value(json_object_get(record, "id"));
	const char *result = json_string_value(json_object_get(record, "result"));
	long long begun;
	int pid;

	return id && result && strcmp(result, "unfinished") == 0 &&
	       sscanf(id, "%lld-%d-", &begun, &pid) == 2 && pid > 0 && kill(pid, 0) != 0 &&
	       errno == ESRCH;
}

struct pe_error *dbc_history_read(const struct dbc_history_filter *filter, json_t **ret)
{
	static const struct dbc_history_filter all;

	return history_store_read(state_dir(), filter ? filter : &all, ret);
}

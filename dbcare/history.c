/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * History: appended lines, each written at once and synced, under a lock. A line that a crash cut
 * off is left out when reading.
 */
#include "dbcare/history.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "engine/cleanup.h"

enum { OUTCOME_ROOM = 8192 }; /* bytes set aside for the second record */

struct dbc_history {
	int fd;
	json_t *fields; /* of both records */
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

static void history_path(char path[PATH_MAX])
{
	snprintf(path, PATH_MAX, "%s/history.jsonl", state_dir());
}

static void time_text(char out[32])
{
	time_t now = time(NULL);
	struct tm utc;

	strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
}

static struct pe_error *write_all(int fd, const char *text, size_t size)
{
	while (size) {
		ssize_t put = write(fd, text, size);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return pe_error_errno(errno, "cannot write");
		text += put;
		size -= (size_t)put;
	}
	if (fsync(fd) != 0)
		return pe_error_errno(errno, "cannot sync");
	return NULL;
}

/* A line is whole or not there: what a failed write left behind is cut off again. */
static struct pe_error *append_line(int fd, const json_t *record)
{
	pe_auto_free char *line = json_dumps(record, JSON_PRESERVE_ORDER | JSON_COMPACT);
	pe_auto_free char *text = NULL;
	int size = line ? asprintf(&text, "%s\n", line) : -1;

	if (size < 0)
		return pe_error_nomem();
	if (flock(fd, LOCK_EX) != 0)
		return pe_error_errno(errno, "cannot lock");

	off_t end = lseek(fd, 0, SEEK_END);
	struct pe_error *err = write_all(fd, text, (size_t)size);

	if (err && end >= 0 && ftruncate(fd, end) != 0)
		err = pe_error_wrap(err, "half a line is left behind");
	flock(fd, LOCK_UN);
	return err;
}

static struct pe_error *open_history(int *ret)
{
	char path[PATH_MAX];
	const char *dir;
	struct pe_error *err = dbc_state_dir(&dir);

	if (err)
		return err;
	history_path(path);
	*ret = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (*ret < 0)
		return pe_error_errno(errno, "cannot open %s", path);
	return NULL;
}

/* Room behind the end of the file for the outcome; file systems that cannot do it are let be. */
static struct pe_error *set_room_aside(int fd)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return pe_error_errno(errno, "cannot examine the history");
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, st.st_size, OUTCOME_ROOM) != 0 &&
	    errno != EOPNOTSUPP && errno != ENOSYS)
		return pe_error_errno(errno, "no room for the outcome");
	return NULL;
}

static void history_free(struct dbc_history *history)
{
	if (history->fd >= 0)
		close(history->fd);
	json_decref(history->fields);
	free(history);
}

static json_t *make_record(const struct dbc_history *history, const char *phase)
{
	char now[32];

	time_text(now);

	json_t *record = json_pack("{s:s, s:s}", "time", now, "phase", phase);

	json_object_update(record, history->fields);
	return record;
}

struct pe_error *dbc_history_begin(const char *action, json_t *fields, struct dbc_history **ret)
{
	struct dbc_history *history = calloc(1, sizeof(*history));
	static unsigned int sequence; /* several operations of one run */
	char id[64];

	if (!history) {
		json_decref(fields);
		return pe_error_nomem();
	}
	history->fd = -1;
	snprintf(id, sizeof(id), "%lld-%d-%u", (long long)time(NULL), (int)getpid(), ++sequence);
	history->fields = json_pack("{s:s, s:s}", "id", id, "action", action);
	json_object_update(history->fields, fields);
	json_decref(fields);

	const char *sudo = secure_getenv("SUDO_USER");

	if (sudo)
		json_object_set_new(history->fields, "by", json_string(sudo));

	struct pe_error *err = open_history(&history->fd);

	if (!err) {
		json_t *record = make_record(history, "intent");

		err = append_line(history->fd, record);
		json_decref(record);
	}
	if (!err)
		err = set_room_aside(history->fd);
	if (err) {
		history_free(history);
		return pe_error_wrap(err,
				     "cannot record the operation in %s, so nothing was changed",
				     state_dir());
	}
	*ret = history;
	return NULL;
}

struct pe_error *dbc_history_end(struct dbc_history *history, const char *result, json_t *more)
{
	json_t *record = make_record(history, "done");

	json_object_set_new(record, "result", json_string(result));
	if (more)
		json_object_update(record, more);
	json_decref(more);

	struct pe_error *err = append_line(history->fd, record);

	json_decref(record);
	history_free(history);
	return err ? pe_error_wrap(err, "the outcome could not be recorded in %s", state_dir())
		   : NULL;
}

/* Puts an outcome in the place of its intent, or appends. */
static void merge(json_t *all, json_t *record)
{
	const char *id = json_string_value(json_object_get(record, "id"));

	for (size_t i = json_array_size(all); id && i-- > 0;) {
		json_t *other = json_array_get(all, i);
		const char *other_id = json_string_value(json_object_get(other, "id"));
		const char *result = json_string_value(json_object_get(other, "result"));

		if (other_id && strcmp(id, other_id) == 0 && result &&
		    strcmp(result, "unfinished") == 0) {
			json_array_set_new(all, i, record);
			return;
		}
	}
	json_array_append_new(all, record);
}

struct pe_error *dbc_history_read(json_t **ret)
{
	char path[PATH_MAX];

	*ret = NULL;
	history_path(path);
	pe_auto_file FILE *in = fopen(path, "re");
	if (!in && errno != ENOENT)
		return pe_error_errno(errno, "cannot read %s", path);

	json_t *all = json_array();
	pe_auto_free char *line = NULL;
	size_t room = 0;

	while (in && getline(&line, &room, in) > 0) {
		json_t *record = json_loads(line, JSON_REJECT_DUPLICATES, NULL);

		if (!json_is_object(record)) {
			json_decref(record);
			continue;
		}
		if (!json_object_get(record, "result"))
			json_object_set_new(record, "result", json_string("unfinished"));
		json_object_del(record, "phase");
		merge(all, record);
	}
	*ret = all;
	return NULL;
}

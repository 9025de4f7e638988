/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The history: nothing that was done is lost, whatever happens to its file or its disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dbcare/history.h"
#include "engine/cleanup.h"

static char folder[64]; /* of the running test */

static const char *in_folder(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

static int setup(void **state)
{
	strcpy(folder, "/tmp/dbcare-unit-XXXXXX");
	setenv("DBCARE_STATE_DIR", folder, 1);
	return mkdtemp(folder) && setenv("DBCARE_STATE_DIR", folder, 1) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
	DIR *dir = opendir(folder);

	for (struct dirent *entry; dir && (entry = readdir(dir));)
		unlinkat(dirfd(dir), entry->d_name, 0);
	closedir(dir);
	return rmdir(folder);
}

/* How many files of the folder have such a name. */
static int files_named(const char *part)
{
	DIR *dir = opendir(folder);
	int count = 0;

	for (struct dirent *entry; dir && (entry = readdir(dir));)
		count += strstr(entry->d_name, part) != NULL;
	closedir(dir);
	return count;
}

static void write_file(const char *name, const char *text)
{
	FILE *out = fopen(in_folder(name), "w");

	fputs(text, out);
	fclose(out);
}

static struct dbc_history *begun(const char *action, const char *patch)
{
	struct dbc_history *history = NULL;

	assert_null(dbc_history_begin(
		action,
		json_pack("{s:s, s:i, s:s}", "patch", patch, "pid", 42, "socket", "/run/one.sock"),
		&history));
	return history;
}

static void done(const char *patch)
{
	assert_null(dbc_history_end(begun("apply", patch), "applied", NULL));
}

static json_t *read_all(const struct dbc_history_filter *filter)
{
	json_t *all = NULL;

	assert_null(dbc_history_read(filter, &all));
	return all;
}

static size_t count(const struct dbc_history_filter *filter)
{
	json_t *all = read_all(filter);
	size_t found = json_array_size(all);

	json_decref(all);
	return found;
}

static const char *field(const json_t *all, size_t i, const char *name)
{
	return json_string_value(json_object_get(json_array_get(all, i), name));
}

static void history_joins_intent_and_outcome_and_shows_what_is_unfinished(void **state)
{
	struct dbc_history *first = begun("apply", "a"), *second = begun("apply", "b"),
			   *third = begun("revert", "c");

	assert_null(dbc_history_end(third, "reverted", json_pack("{s:i}", "pause_us", 7)));
	assert_null(dbc_history_end(first, "applied", NULL));

	json_t *all = read_all(NULL);

	assert_int_equal(json_array_size(all), 3);
	assert_string_equal(field(all, 0, "result"), "applied");
	assert_string_equal(field(all, 0, "patch"), "a");
	assert_string_equal(field(all, 1, "result"), "unfinished");
	assert_string_equal(field(all, 1, "time"), field(all, 1, "began"));
	assert_string_equal(field(all, 2, "result"), "reverted");
	assert_int_equal(json_integer_value(json_object_get(json_array_get(all, 2), "pause_us")),
			 7);
	json_decref(all);
	assert_null(dbc_history_end(second, "applied", NULL));
	assert_int_equal(count(NULL), 3);
}

static void history_is_empty_before_anything_was_done(void **state)
{
	assert_int_equal(count(NULL), 0);
	setenv("DBCARE_STATE_DIR", "/nonexistent/dbcare", 1);
	assert_int_equal(count(NULL), 0);
}

static void an_operation_that_cannot_be_recorded_does_not_begin(void **state)
{
	struct dbc_history *history;

	setenv("DBCARE_STATE_DIR", "/dev/null/dbcare", 1);
	pe_auto_error struct pe_error *err = dbc_history_begin("apply", json_object(), &history);

	assert_non_null(err);
	assert_non_null(strstr(err->message, "nothing was changed"));
}

static void history_is_asked_by_server_patch_and_time(void **state)
{
	done("a");
	done("b");
	done("b");
	assert_int_equal(count(&(struct dbc_history_filter){ .patch = "b" }), 2);
	assert_int_equal(count(&(struct dbc_history_filter){ .patch = "b", .newest = 1 }), 1);
	assert_int_equal(count(&(struct dbc_history_filter){ .server = "42" }), 3);
	assert_int_equal(count(&(struct dbc_history_filter){ .server = "/run/one.sock" }), 3);
	assert_int_equal(count(&(struct dbc_history_filter){ .server = "4" }), 0);
	assert_int_equal(count(&(struct dbc_history_filter){ .since = "2020-01-01T00:00:00Z" }), 3);
	assert_int_equal(count(&(struct dbc_history_filter){ .until = "2020-01-01T00:00:00Z" }), 0);
}

static void the_lines_of_an_earlier_version_are_taken_over_once(void **state)
{
	write_file("history.jsonl",
		   "{\"time\":\"2026-01-01T00:00:00Z\",\"phase\":\"intent\",\"id\":\"1\","
		   "\"action\":\"apply\",\"patch\":\"old\"}\n"
		   "not a line\n"
		   "{\"time\":\"2026-01-01T00:00:05Z\",\"phase\":\"done\",\"id\":\"1\","
		   "\"action\":\"apply\",\"patch\":\"old\",\"result\":\"applied\"}\n"
		   "{\"time\":\"2026-01-02T00:00:00Z\",\"phase\":\"intent\",\"id\":\"2\","
		   "\"action\":\"apply\",\"patch\":\"lost\"}\n"
		   "{\"time\":\"2026");
	/* Shown before anything is written, and not twice afterwards. */
	assert_int_equal(count(NULL), 2);
	done("new");
	done("newer");

	json_t *all = read_all(NULL);

	assert_int_equal(json_array_size(all), 4);
	assert_string_equal(field(all, 0, "result"), "applied");
	assert_string_equal(field(all, 0, "began"), "2026-01-01T00:00:00Z");
	assert_string_equal(field(all, 0, "time"), "2026-01-01T00:00:05Z");
	assert_string_equal(field(all, 1, "result"), "unfinished");
	assert_string_equal(field(all, 3, "patch"), "newer");
	json_decref(all);
}

/* In a child; its exit status is 0 when @run returns true. */
static void in_child(bool (*run)(int), int number)
{
	if (fork() == 0)
		_exit(run(number) ? 0 : 1);
}

static void children_succeed(int children)
{
	while (children--) {
		int status = 1;

		assert_true(wait(&status) > 0);
		assert_int_equal(status, 0);
	}
}

enum { WRITERS = 6, EACH = 20 };

static bool write_some(int number)
{
	for (int i = 0; i < EACH; i++) {
		struct dbc_history *history;
		char patch[32];

		snprintf(patch, sizeof(patch), "%d-%d", number, i);
		if (dbc_history_begin("apply", json_pack("{s:s}", "patch", patch), &history) ||
		    dbc_history_end(history, "applied", NULL))
			return false;
	}
	return true;
}

static void many_writers_at_the_same_time_lose_nothing(void **state)
{
	for (int i = 0; i < WRITERS; i++)
		in_child(write_some, i);
	children_succeed(WRITERS);

	json_t *all = read_all(NULL);

	assert_int_equal(json_array_size(all), WRITERS * EACH);
	for (size_t i = 0; i < json_array_size(all); i++)
		assert_string_equal(field(all, i, "result"), "applied");
	json_decref(all);
	assert_int_equal(files_named("damaged"), 0);
}

/* Writes over the file from @at. */
static void damage(off_t at, size_t size)
{
	pe_auto_fd int fd = open(in_folder("history.db"), O_WRONLY);
	char junk[4096];

	memset(junk, 0xa5, sizeof(junk));
	assert_int_equal(pwrite(fd, junk, size, at), (ssize_t)size);
}

static void a_damaged_history_is_kept_and_a_new_one_is_begun(void **state)
{
	done("a");
	damage(0, 100);

	json_t *all;
	struct pe_error *err = dbc_history_read(NULL, &all);

	assert_non_null(err);
	assert_int_equal(err->code, PE_ERR_FORMAT);
	pe_error_free(err);

	struct dbc_history *history = begun("apply", "b");

	assert_non_null(strstr(dbc_history_note(history), "history.db.damaged-"));
	/* Damaged again before the outcome: that is not lost either. */
	damage(0, 100);
	assert_null(dbc_history_end(history, "applied", NULL));
	all = read_all(NULL);
	assert_int_equal(json_array_size(all), 1);
	assert_string_equal(field(all, 0, "patch"), "b");
	assert_string_equal(field(all, 0, "result"), "applied");
	json_decref(all);
	assert_true(files_named("damaged") >= 1);
}

static void damage_anywhere_never_keeps_an_operation_from_being_recorded(void **state)
{
	for (off_t at = 0; at < 16384; at += 512) {
		for (int i = 0; i < 3; i++)
			done("before");
		damage(at, 512);
		done("after");

		json_t *all;
		pe_auto_error struct pe_error *err = dbc_history_read(NULL, &all);

		/* What is damaged and was not touched by the writer shows when it is read. */
		if (err)
			assert_int_equal(err->code, PE_ERR_FORMAT);
		json_decref(all);
		teardown(state);
		assert_int_equal(mkdir(folder, 0700), 0);
	}
}

static void another_database_in_its_place_is_no_history(void **state)
{
	done("a");
	/* Its format number is cleared: a database, but none of ours. */
	pe_auto_fd int fd = open(in_folder("history.db"), O_WRONLY);
	assert_int_equal(pwrite(fd, "\0\0\0\0", 4, 60), 4);

	struct dbc_history *history = begun("apply", "b");

	assert_non_null(dbc_history_note(history));
	assert_null(dbc_history_end(history, "applied", NULL));
	assert_int_equal(count(NULL), 1);
}

static void a_history_of_a_newer_version_is_left_alone(void **state)
{
	struct dbc_history *history;

	done("a");
	pe_auto_fd int fd = open(in_folder("history.db"), O_WRONLY);
	assert_int_equal(pwrite(fd, "\0\0\0\x63", 4, 60), 4);

	pe_auto_error struct pe_error *err = dbc_history_begin("apply", json_object(), &history);

	assert_non_null(err);
	assert_int_equal(err->code, PE_ERR_UNSUPPORTED);
	assert_int_equal(files_named("damaged"), 0);
}

static void a_symbolic_link_in_its_place_is_not_followed(void **state)
{
	struct dbc_history *history;

	write_file("elsewhere", "");
	assert_int_equal(symlink("elsewhere", in_folder("history.db")), 0);

	pe_auto_error struct pe_error *err = dbc_history_begin("apply", json_object(), &history);
	struct stat st;

	assert_non_null(err);
	assert_int_equal(stat(in_folder("elsewhere"), &st), 0);
	assert_int_equal(st.st_size, 0);
}

enum { SOMEBODY = 61234, HIS_GROUP = 61235 };

static bool read_as_group(int number)
{
	json_t *all = NULL;

	return setgid(HIS_GROUP) == 0 && setuid(61236) == 0 && !dbc_history_read(NULL, &all) &&
	       json_array_size(all) == 1;
}

static bool write_as_owner(int number)
{
	struct dbc_history *history;

	return setgid(HIS_GROUP) == 0 && setuid(SOMEBODY) == 0 &&
	       !dbc_history_begin("apply", json_object(), &history) &&
	       !dbc_history_end(history, "applied", NULL);
}

static void what_root_began_the_owner_of_the_folder_goes_on_with_and_his_group_reads(void **state)
{
	if (geteuid() != 0)
		skip();
	assert_int_equal(chown(folder, SOMEBODY, HIS_GROUP), 0);
	assert_int_equal(chmod(folder, 0750), 0);
	done("a");
	in_child(read_as_group, 0);
	children_succeed(1);
	in_child(write_as_owner, 0);
	children_succeed(1);
	assert_int_equal(count(NULL), 2);
}

/* ---- a full disk ---- */

static void fill(const char *name)
{
	pe_auto_fd int fd = open(in_folder(name), O_WRONLY | O_CREAT, 0600);
	char junk[1024] = { 1 };

	while (write(fd, junk, sizeof(junk)) > 0)
		;
}

/* True: as it should be. The disk has @number KiB left when the operation begins. */
static bool operate_on_full_disk(int number)
{
	struct dbc_history *history;

	if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
	    mount("none", folder, "tmpfs", 0, "size=1M") != 0)
		return false;
	done("first");
	pe_auto_fd int fd = open(in_folder("kept"), O_WRONLY | O_CREAT, 0600);
	if (posix_fallocate(fd, 0, number * 1024 + 1) != 0)
		return false;
	fill("full");
	unlink(in_folder("kept"));
	if (ftruncate(fd, 0) != 0)
		return false;

	pe_auto_error struct pe_error *err =
		dbc_history_begin("apply", json_pack("{s:s}", "patch", "second"), &history);

	if (err)
		return number < 256 && strstr(err->message, "nothing was changed") &&
		       count(NULL) == 1;
	/* Now that the server would be changed, somebody else takes the rest. */
	fill("fuller");
	err = dbc_history_end(history, "applied",
			      json_pack("{s:s}", "message", "quite a long text"));
	if (err)
		return false;

	json_t *all = read_all(NULL);

	return json_array_size(all) == 2 && strcmp(field(all, 1, "result"), "applied") == 0;
}

static void a_full_disk_shows_before_the_server_is_touched_and_the_outcome_has_its_room(
	void **state)
{
	if (geteuid() != 0)
		skip();
	for (int kib = 0; kib <= 256; kib += 16) {
		in_child(operate_on_full_disk, kib);
		children_succeed(1);
	}
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(history_joins_intent_and_outcome_and_shows_what_is_unfinished),
		TEST(history_is_empty_before_anything_was_done),
		TEST(an_operation_that_cannot_be_recorded_does_not_begin),
		TEST(history_is_asked_by_server_patch_and_time),
		TEST(the_lines_of_an_earlier_version_are_taken_over_once),
		TEST(many_writers_at_the_same_time_lose_nothing),
		TEST(a_damaged_history_is_kept_and_a_new_one_is_begun),
		TEST(damage_anywhere_never_keeps_an_operation_from_being_recorded),
		TEST(another_database_in_its_place_is_no_history),
		TEST(a_history_of_a_newer_version_is_left_alone),
		TEST(a_symbolic_link_in_its_place_is_not_followed),
		TEST(what_root_began_the_owner_of_the_folder_goes_on_with_and_his_group_reads),
		TEST(a_full_disk_shows_before_the_server_is_touched_and_the_outcome_has_its_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

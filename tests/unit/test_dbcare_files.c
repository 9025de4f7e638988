/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Files of our own: option files are checked before they are believed; history survives damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dbcare/history.h"
#include "dbcare/options.h"
#include "engine/cleanup.h"

static char folder[] = "/tmp/dbcare-unit-XXXXXX";

static const char *write_file(const char *name, const char *text, mode_t mode)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	FILE *out = fopen(path, "w");
	fputs(text, out);
	fclose(out);
	chmod(path, mode);
	return path;
}

static char *joined(const struct dbc_option_files *files)
{
	char *text = calloc(1, 4096);

	assert_true(pread(files->fd, text, 4095, 0) >= 0);
	return text;
}

static void option_files_are_joined_with_what_they_include(void **state)
{
	char text[256];
	struct dbc_option_files files;

	write_file("inner.cnf", "[dbcarectl]\nuser=inner\n", 0600);
	snprintf(text, sizeof(text), "[client]\nuser=outer\n!include %s/inner.cnf\n", folder);
	assert_null(dbc_option_files_read(write_file("outer.cnf", text, 0640), &files));
	pe_auto_free char *all = joined(&files);
	assert_string_equal(all, "[client]\nuser=outer\n[dbcarectl]\nuser=inner\n");
	assert_null(files.notes);
	dbc_option_files_deinit(&files);
}

static void a_file_that_everybody_may_write_is_refused_when_named(void **state)
{
	struct dbc_option_files files;
	const char *path = write_file("open.cnf", "[client]\nuser=evil\n", 0666);
	pe_auto_error struct pe_error *err = dbc_option_files_read(path, &files);

	assert_non_null(err);
	assert_int_equal(err->code, PE_ERR_PERMISSION);
	assert_non_null(strstr(err->message, "0666"));
}

static void an_included_file_that_everybody_may_write_is_left_out_with_a_note(void **state)
{
	char text[256];
	struct dbc_option_files files;

	write_file("open.cnf", "[client]\nuser=evil\n", 0666);
	snprintf(text, sizeof(text), "[client]\n!include %s/open.cnf\nport=1\n", folder);
	assert_null(dbc_option_files_read(write_file("outer.cnf", text, 0600), &files));
	pe_auto_free char *all = joined(&files);
	assert_string_equal(all, "[client]\nport=1\n");
	assert_non_null(strstr(files.notes, "open.cnf"));
	dbc_option_files_deinit(&files);
}

static void files_that_include_each_other_end(void **state)
{
	char text[256];
	struct dbc_option_files files;

	snprintf(text, sizeof(text), "!include %s/loop.cnf\n", folder);
	assert_null(dbc_option_files_read(write_file("loop.cnf", text, 0600), &files));
	dbc_option_files_deinit(&files);
}

static void a_missing_file_that_was_named_is_an_error(void **state)
{
	struct dbc_option_files files;
	pe_auto_error struct pe_error *err = dbc_option_files_read("/nonexistent.cnf", &files);

	assert_non_null(err);
}

static const char *field(const json_t *all, size_t i, const char *name)
{
	return json_string_value(json_object_get(json_array_get(all, i), name));
}

static void history_joins_intent_and_outcome_and_shows_what_is_unfinished(void **state)
{
	struct dbc_history *first, *second, *third;
	json_t *all;

	setenv("DBCARE_STATE_DIR", folder, 1);
	assert_null(dbc_history_begin("apply", json_pack("{s:s}", "patch", "a"), &first));
	assert_null(dbc_history_begin("apply", json_pack("{s:s}", "patch", "b"), &second));
	assert_null(dbc_history_begin("revert", json_pack("{s:s}", "patch", "c"), &third));
	assert_null(dbc_history_end(third, "reverted", json_pack("{s:i}", "pause_us", 7)));
	assert_null(dbc_history_end(first, "applied", NULL));

	/* A line that a crash cut off. */
	char path[128];

	snprintf(path, sizeof(path), "%s/history.jsonl", folder);
	FILE *out = fopen(path, "a");
	fputs("{\"time\":\"2026", out);
	fclose(out);

	assert_null(dbc_history_read(&all));
	assert_int_equal(json_array_size(all), 3);
	assert_string_equal(field(all, 0, "result"), "applied");
	assert_string_equal(field(all, 0, "patch"), "a");
	assert_string_equal(field(all, 1, "result"), "unfinished");
	assert_string_equal(field(all, 2, "result"), "reverted");
	assert_int_equal(json_integer_value(json_object_get(json_array_get(all, 2), "pause_us")),
			 7);
	json_decref(all);
	assert_null(dbc_history_end(second, "applied", NULL));
}

static void history_is_empty_before_anything_was_done(void **state)
{
	json_t *all;

	setenv("DBCARE_STATE_DIR", "/nonexistent/dbcare", 1);
	assert_null(dbc_history_read(&all));
	assert_int_equal(json_array_size(all), 0);
	json_decref(all);
}

static void an_operation_that_cannot_be_recorded_does_not_begin(void **state)
{
	struct dbc_history *history;

	setenv("DBCARE_STATE_DIR", "/dev/null/dbcare", 1);
	pe_auto_error struct pe_error *err = dbc_history_begin("apply", json_object(), &history);

	assert_non_null(err);
	assert_non_null(strstr(err->message, "nothing was changed"));
}

static int make_folder(void **state)
{
	return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
	static const char *const names[] = { "inner.cnf", "outer.cnf", "open.cnf", "loop.cnf",
					     "history.jsonl" };

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		char path[128];

		snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
		unlink(path);
	}
	return rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(option_files_are_joined_with_what_they_include),
		cmocka_unit_test(a_file_that_everybody_may_write_is_refused_when_named),
		cmocka_unit_test(an_included_file_that_everybody_may_write_is_left_out_with_a_note),
		cmocka_unit_test(files_that_include_each_other_end),
		cmocka_unit_test(a_missing_file_that_was_named_is_an_error),
		cmocka_unit_test(history_joins_intent_and_outcome_and_shows_what_is_unfinished),
		cmocka_unit_test(history_is_empty_before_anything_was_done),
		cmocka_unit_test(an_operation_that_cannot_be_recorded_does_not_begin),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

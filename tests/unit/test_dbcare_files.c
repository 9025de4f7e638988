/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Option files are checked before they are believed. */
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

static int make_folder(void **state)
{
	return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
	static const char *const names[] = { "inner.cnf", "outer.cnf", "open.cnf", "loop.cnf" };

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
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

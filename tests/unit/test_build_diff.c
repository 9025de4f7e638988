/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Diffs are understood or refused with a reason, and never change the source itself. */
#include "build_helpers.h"

#include <sys/stat.h>

#include "build/diff.h"

#define HUNK "@@ -1,2 +1,2 @@\n one\n-two\n+2\n"

struct fixture {
	struct pe_temp_dir root, work;
};

static void fixture_make(struct fixture *f)
{
	const struct pe_strv none = { 0 };

	ok(pe_temp_dir_init(&f->root));
	ok(pe_temp_dir_init(&f->work));
	put(&f->root, "sql/a.cc", "one\ntwo\n");
	put(&f->root, "sql/b.cc", "one\ntwo\n");
	ok(pe_tree_mirror(f->root.path, f->work.path, &none));
}

static void fixture_deinit(struct fixture *f)
{
	pe_temp_dir_deinit(&f->root);
	pe_temp_dir_deinit(&f->work);
}

#define auto_fixture __attribute__((cleanup(fixture_deinit))) struct fixture
#define auto_diff __attribute__((cleanup(pe_diff_deinit))) struct pe_diff

static struct pe_error *parse(const struct fixture *f, const char *text, struct pe_diff *ret)
{
	return pe_diff_parse("x.diff", text, strlen(text), f->root.path, NULL, ret);
}

static void paths_of_git_and_of_plain_diffs_are_understood(void **state)
{
	static const struct {
		const char *text;
		unsigned int strip;
	} cases[] = {
		{ "--- a/sql/a.cc\n+++ b/sql/a.cc\n" HUNK, 1 },
		{ "diff --git a/sql/a.cc b/sql/a.cc\nindex 1..2 100644\n--- a/sql/a.cc\n"
		  "+++ b/sql/a.cc\n" HUNK,
		  1 },
		{ "--- sql/a.cc\t2026-01-01 00:00:00\n+++ sql/a.cc\t2026-01-02\n" HUNK, 0 },
		{ "--- mariadb-10.11/sql/a.cc.orig\n+++ mariadb-10.11/sql/a.cc\n" HUNK, 1 },
	};
	auto_fixture f;

	fixture_make(&f);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		auto_diff diff = { 0 };

		ok(parse(&f, cases[i].text, &diff));
		assert_int_equal(diff.strip, cases[i].strip);
		assert_int_equal(diff.count, 1);
		assert_string_equal(diff.files[0].path, "sql/a.cc");
		assert_int_equal(diff.files[0].change, PE_DIFF_MODIFIED);
	}
}

static void new_and_removed_files_are_told_apart(void **state)
{
	auto_fixture f;
	auto_diff diff = { 0 };

	fixture_make(&f);
	ok(parse(&f,
		 "--- /dev/null\n+++ b/sql/new.h\n@@ -0,0 +1 @@\n+x\n"
		 "--- a/sql/b.cc\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-one\n-two\n",
		 &diff));
	assert_int_equal(diff.count, 2);
	assert_string_equal(diff.files[0].path, "sql/new.h");
	assert_int_equal(diff.files[0].change, PE_DIFF_ADDED);
	assert_int_equal(diff.files[1].change, PE_DIFF_REMOVED);
}

static void removed_lines_that_look_like_headers_stay_in_their_hunk(void **state)
{
	auto_fixture f;
	auto_diff diff = { 0 };

	fixture_make(&f);
	ok(parse(&f,
		 "--- a/sql/a.cc\n+++ b/sql/a.cc\n@@ -1,2 +1,2 @@\n one\n--- a/sql/b.cc\n"
		 "+++ b/sql/b.cc\n",
		 &diff));
	assert_int_equal(diff.count, 1);
}

static void nonsense_is_refused_with_the_line(void **state)
{
	static const struct {
		const char *text, *part;
	} cases[] = {
		{ "hello\n", "not a unified diff" },
		{ "", "not a unified diff" },
		{ HUNK, "before any file name" },
		{ "--- a/sql/a.cc\n+++ b/sql/a.cc\n", "no hunk follows" },
		{ "--- a/sql/a.cc\n+++ b/sql/a.cc\n@@ -1,2 +1,2 @@\n one\n-two\n", "cut short" },
		{ "--- a/sql/a.cc\n+++ b/sql/a.cc\n@@ -1 +1 @@\n one\n-two\n@@ nonsense\n", "" },
		{ "--- a/sql/a.cc\n+++ b/sql/a.cc\n@@ -1,1 +1,2 @@\n-one\n-two\n", "more lines" },
		{ "--- a/sql/no.cc\n+++ b/sql/no.cc\n" HUNK, "there is no file sql/no.cc" },
		{ "--- a/../etc/x\n+++ b/../etc/x\n" HUNK, "does not lie in the source tree" },
		{ "--- /etc/passwd\n+++ /etc/passwd\n" HUNK, "" },
		{ "--- /dev/null\n+++ /dev/null\n" HUNK, "both sides" },
		{ "rename from sql/a.cc\nrename to sql/c.cc\n", "renamed" },
		{ "GIT binary patch\n", "binary" },
	};
	auto_fixture f;

	fixture_make(&f);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		auto_diff diff = { 0 };
		struct pe_error *err = parse(&f, cases[i].text, &diff);

		/* A hunk header that is none is commentary: then the hunk before is complete. */
		if (!err && !*cases[i].part)
			continue;
		fails(err, PE_ERR_FORMAT, cases[i].part);
	}
}

static void applying_changes_the_mirror_and_not_the_source(void **state)
{
	auto_fixture f;
	auto_diff diff = { 0 };
	struct stat st;

	fixture_make(&f);
	ok(parse(&f, "--- a/sql/a.cc\n+++ b/sql/a.cc\n" HUNK, &diff));
	ok(pe_diff_apply(&diff, f.root.path, f.work.path));

	pe_auto_free char *before = get(&f.root, "sql/a.cc");
	pe_auto_free char *after = get(&f.work, "sql/a.cc");
	pe_auto_free char *other = in_dir(&f.work, "sql/b.cc");

	assert_string_equal(before, "one\ntwo\n");
	assert_string_equal(after, "one\n2\n");
	assert_int_equal(lstat(other, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
}

static void a_second_diff_stands_on_the_first(void **state)
{
	static const char second_text[] =
		"--- a/sql/a.cc\n+++ b/sql/a.cc\n@@ -1,2 +1,2 @@\n one\n-2\n+zwei\n";
	auto_fixture f;
	auto_diff first = { 0 }, second = { 0 };

	fixture_make(&f);
	ok(parse(&f, "--- a/sql/a.cc\n+++ b/sql/a.cc\n" HUNK, &first));
	ok(parse(&f, second_text, &second));
	ok(pe_diff_apply(&first, f.root.path, f.work.path));
	ok(pe_diff_apply(&second, f.root.path, f.work.path));

	pe_auto_free char *after = get(&f.work, "sql/a.cc");

	assert_string_equal(after, "one\nzwei\n");
}

static void a_diff_for_another_source_is_refused_with_what_patch_says(void **state)
{
	auto_fixture f;
	auto_diff diff = { 0 };

	fixture_make(&f);
	ok(parse(&f, "--- a/sql/a.cc\n+++ b/sql/a.cc\n@@ -1,2 +1,2 @@\n eins\n-zwei\n+2\n", &diff));
	fails(pe_diff_apply(&diff, f.root.path, f.work.path), PE_ERR_FORMAT, "Hunk #1 FAILED");

	pe_auto_free char *before = get(&f.root, "sql/a.cc");

	assert_string_equal(before, "one\ntwo\n");
}

static void a_diff_that_is_in_the_source_already_is_refused(void **state)
{
	auto_fixture f;
	auto_diff diff = { 0 };

	fixture_make(&f);
	ok(parse(&f, "--- a/sql/a.cc\n+++ b/sql/a.cc\n@@ -1,2 +1,2 @@\n one\n-2\n+two\n", &diff));
	fails(pe_diff_apply(&diff, f.root.path, f.work.path), PE_ERR_FORMAT, "does not apply");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paths_of_git_and_of_plain_diffs_are_understood),
		cmocka_unit_test(new_and_removed_files_are_told_apart),
		cmocka_unit_test(removed_lines_that_look_like_headers_stay_in_their_hunk),
		cmocka_unit_test(nonsense_is_refused_with_the_line),
		cmocka_unit_test(applying_changes_the_mirror_and_not_the_source),
		cmocka_unit_test(a_second_diff_stands_on_the_first),
		cmocka_unit_test(a_diff_for_another_source_is_refused_with_what_patch_says),
		cmocka_unit_test(a_diff_that_is_in_the_source_already_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

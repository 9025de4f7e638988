/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Trees, running programs and the target store leave nothing behind. */
#include "build_helpers.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>

#include "build/run.h"
#include "build/store.h"

static bool is_link(const struct pe_temp_dir *dir, const char *name)
{
	pe_auto_free char *path = in_dir(dir, name);
	struct stat st;

	assert_int_equal(lstat(path, &st), 0);
	return S_ISLNK(st.st_mode);
}

static void a_mirror_has_real_directories_where_code_is_or_where_asked_for(void **state)
{
	pe_auto_temp_dir struct pe_temp_dir from = { 0 }, to = { 0 };
	pe_auto_strv struct pe_strv real = { 0 };

	ok(pe_temp_dir_init(&from));
	ok(pe_temp_dir_init(&to));
	put(&from, "a/b/c.h", "x");
	put(&from, "doc/deep/er/text", "x");
	put(&from, "build/sub/Makefile", "x");
	put(&from, ".git/config", "x");
	pe_strv_add(&real, "build/sub");
	ok(pe_tree_mirror(from.path, to.path, &real));

	pe_auto_free char *git = in_dir(&to, ".git");
	pe_auto_free char *text = get(&to, "a/b/c.h");
	pe_auto_free char *other = get(&to, "doc/deep/er/text");

	assert_false(is_link(&to, "a/b"));
	assert_true(is_link(&to, "a/b/c.h"));
	assert_true(is_link(&to, "doc"));
	assert_false(is_link(&to, "build/sub"));
	assert_true(is_link(&to, "build/sub/Makefile"));
	assert_string_equal(text, "x");
	assert_string_equal(other, "x");
	assert_false(pe_file_exists(git));
}

static void removing_a_tree_does_not_follow_links(void **state)
{
	pe_auto_temp_dir struct pe_temp_dir keep = { 0 }, gone = { 0 };

	ok(pe_temp_dir_init(&keep));
	ok(pe_temp_dir_init(&gone));
	put(&keep, "file", "x");

	pe_auto_free char *link = in_dir(&gone, "link");
	pe_auto_free char *file = in_dir(&keep, "file");

	assert_int_equal(symlink(keep.path, link), 0);
	ok(pe_tree_remove(gone.path));
	assert_false(pe_file_exists(gone.path));
	assert_true(pe_file_exists(file));
	ok(pe_tree_remove(gone.path));
}

static void a_program_runs_with_its_output_captured(void **state)
{
	pe_auto_strv struct pe_strv argv = { 0 }, env = { 0 };
	pe_auto_run struct pe_run run = { .argv = &argv, .cwd = "/", .env = &env };

	pe_strv_add(&env, "X=1");
	pe_strv_add(&argv, "/bin/sh");
	pe_strv_add(&argv, "-c");
	pe_strv_add(&argv, "echo $X; pwd; echo oops >&2; exit 3");
	ok(pe_run(&run));
	assert_string_equal(run.out, "1\n/\n");
	assert_string_equal(run.err, "oops\n");
	assert_false(pe_run_succeeded(&run));

	char how[64];

	assert_string_equal(pe_run_how(&run, how), "exit status 3");
}

static void a_program_that_is_not_there_says_so(void **state)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	pe_auto_run struct pe_run run = { .argv = &argv };

	pe_strv_add(&argv, "/no/such/program");

	pe_auto_error struct pe_error *err = pe_run(&run);

	assert_non_null(err);
	assert_non_null(strstr(err->message, "cannot run /no/such/program"));
}

static bool count_run(void *ctx, struct pe_run *run)
{
	++*(int *)ctx;
	return pe_run_succeeded(run);
}

static void no_more_programs_start_after_a_failure(void **state)
{
	pe_auto_strv struct pe_strv yes = { 0 }, no = { 0 };
	struct pe_run runs[4];
	int ended = 0;

	pe_strv_add(&yes, "true");
	pe_strv_add(&no, "false");
	for (size_t i = 0; i < 4; i++)
		runs[i] = (struct pe_run){ .argv = i == 1 ? &no : &yes };
	ok(pe_run_all(runs, 4, 1, count_run, &ended));
	assert_int_equal(ended, 2);
	for (size_t i = 0; i < 4; i++)
		pe_run_deinit(&runs[i]);
}

static void an_interrupt_ends_running_programs_and_fails(void **state)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	pe_auto_run struct pe_run run = { .argv = &argv };

	pe_strv_add(&argv, "/bin/sh");
	pe_strv_add(&argv, "-c");
	pe_strv_addf(&argv, "kill -TERM %d; sleep 60", getpid());
	pe_run_guard_signals();
	fails(pe_run(&run), PE_ERR_SYSTEM, "interrupted by signal 15");
	assert_true(pe_interrupted());
}

static void paths_are_normalised_by_text(void **state)
{
	static const char *const cases[][3] = {
		{ "/a/b", "../c.h", "/a/c.h" },
		{ "/a", "./b//c", "/a/b/c" },
		{ "/a", "/x/../y/.", "/y" },
		{ "/", "../../z", "/z" },
		{ "/a", "..", "/" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		pe_auto_free char *path = pe_path_normal(cases[i][0], cases[i][1]);

		assert_string_equal(path, cases[i][2]);
	}
	assert_true(pe_path_below("/a/b", "/a"));
	assert_false(pe_path_below("/ab", "/a"));
}

static void names_are_checked(void **state)
{
	assert_true(pe_name_valid("CVE-2026-1.fix_2+b"));
	assert_false(pe_name_valid(""));
	assert_false(pe_name_valid("-x"));
	assert_false(pe_name_valid("../x"));
	assert_false(pe_name_valid("a b"));
	assert_false(
		pe_name_valid("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
}

static void a_target_is_there_only_once_it_is_complete(void **state)
{
	pe_auto_temp_dir struct pe_temp_dir dir = { 0 };
	struct pe_build_target target = { .name = "t",
					  .version = "1",
					  .build_id = "ab",
					  .provider = "program",
					  .product = "program",
					  .source = "/s",
					  .database = "/d",
					  .binary = "/b" };
	struct pe_build_target *loaded = NULL;
	pe_auto_strv struct pe_strv names = { 0 };
	int lock = -1, second = -1;

	ok(pe_temp_dir_init(&dir));
	setenv("CARE_BUILD_CACHE", dir.path, 1);
	fails(pe_store_load("t", &loaded), PE_ERR_NO_TARGET, "there is no target t");
	ok(pe_store_lock("t", &lock));
	fails(pe_store_load("t", &loaded), PE_ERR_NO_TARGET, "not complete");
	fails(pe_store_lock("t", &second), PE_ERR_BUSY, "another care-build");
	ok(pe_store_commit(&target));
	close(lock);
	ok(pe_store_load("t", &loaded));
	assert_string_equal(loaded->binary, "/b");
	assert_null(loaded->symbols);
	pe_build_target_free(loaded);
	ok(pe_store_list(&names));
	assert_int_equal(names.count, 1);
	ok(pe_store_remove("t"));
	fails(pe_store_remove("t"), PE_ERR_NO_TARGET, "no target t");
	fails(pe_store_remove("../x"), PE_ERR_USAGE, "not a valid name");
}

/* A file of 1 KiB that was used @hours ago. */
static void put_used(const struct pe_temp_dir *dir, const char *name, int hours)
{
	pe_auto_free char *path = in_dir(dir, name);
	char bytes[1024] = { 0 };
	const struct timespec used[2] = { { .tv_sec = time(NULL) - 3600 * hours },
					  { .tv_sec = time(NULL) - 3600 * hours } };

	ok(pe_file_write(path, bytes, sizeof(bytes)));
	assert_int_equal(utimensat(AT_FDCWD, path, used, 0), 0);
}

static void objects_that_were_not_used_for_longest_go_first(void **state)
{
	pe_auto_temp_dir struct pe_temp_dir dir = { 0 };
	pe_auto_strv struct pe_strv left = { 0 };

	ok(pe_temp_dir_init(&dir));
	put_used(&dir, "a", 5);
	put_used(&dir, "b", 9);
	put_used(&dir, "c", 0);
	put_used(&dir, "d", 7);
	ok(pe_objects_prune(dir.path, 4096));
	ok(pe_objects_prune(dir.path, 2048));
	ok(pe_dir_list(dir.path, &left));
	assert_int_equal(left.count, 2);
	assert_string_equal(left.items[0], "a");
	assert_string_equal(left.items[1], "c");
	/* What is in use stays. */
	ok(pe_objects_prune(dir.path, 0));
	pe_strv_deinit(&left);
	left = (struct pe_strv){ 0 };
	ok(pe_dir_list(dir.path, &left));
	assert_int_equal(left.count, 1);
	assert_string_equal(left.items[0], "c");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_mirror_has_real_directories_where_code_is_or_where_asked_for),
		cmocka_unit_test(removing_a_tree_does_not_follow_links),
		cmocka_unit_test(a_program_runs_with_its_output_captured),
		cmocka_unit_test(a_program_that_is_not_there_says_so),
		cmocka_unit_test(no_more_programs_start_after_a_failure),
		cmocka_unit_test(paths_are_normalised_by_text),
		cmocka_unit_test(names_are_checked),
		cmocka_unit_test(a_target_is_there_only_once_it_is_complete),
		cmocka_unit_test(objects_that_were_not_used_for_longest_go_first),
		/* The last: from then on we are interrupted. */
		cmocka_unit_test(an_interrupt_ends_running_programs_and_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

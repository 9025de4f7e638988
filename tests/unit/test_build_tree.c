/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Running in a tree: what is there, what is not, and that nothing stays mounted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "build/files.h"
#include "build/run.h"
#include "build/tree.h"
#include "engine/cleanup.h"

static struct pe_temp_dir dir;

/* A tree whose programs are the machine's own: /usr is shared, the rest leads there. */
static int make_tree(void **state)
{
	static const char *const names[] = { "bin", "lib", "lib64", "sbin" };

	pe_error_free(pe_temp_dir_init(&dir));
	for (size_t i = 0; dir.path && i < sizeof(names) / sizeof(*names); i++) {
		pe_auto_free char *link = pe_format("%s/%s", dir.path, names[i]);
		pe_auto_free char *target = pe_format("usr/%s", names[i]);

		if (!link || !target || symlink(target, link))
			return -1;
	}

	pe_auto_free char *proc = pe_format("%s/proc", dir.path);

	return proc && mkdir(proc, 0755) == 0 ? 0 : -1;
}

static int remove_tree(void **state)
{
	pe_temp_dir_deinit(&dir);
	return 0;
}

/* Runs a shell line in the tree; its exit status, and what it wrote in *out. */
static int in_tree(const char *path, const char *line, char **out, char **err_out)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	struct pe_tree tree = { .path = path };
	struct pe_run run = { .argv = &argv, .tree = &tree };

	assert_true(pe_strv_add(&argv, "/bin/sh") && pe_strv_add(&argv, "-c") &&
		    pe_strv_add(&argv, line) && pe_strv_add(&tree.shared, "/usr"));
	assert_null(pe_run(&run));
	pe_strv_deinit(&tree.shared);
	*out = run.out;
	*err_out = run.err;
	return WEXITSTATUS(run.status);
}

/* Neither without root nor in a chroot whose root is no mount point. */
static void skip_where_impossible(void)
{
	pe_auto_free char *out = NULL, *text = NULL;

	if (geteuid() != 0)
		skip();
	if (in_tree(dir.path, "true", &out, &text) && strstr(text, "no mount point"))
		skip();
}

static void a_program_in_a_tree_sees_the_tree_and_what_is_shared(void **state)
{
	pe_auto_free char *out = NULL, *text = NULL;

	skip_where_impossible();
	assert_int_equal(in_tree(dir.path, "ls -A /; cat /proc/self/comm; ls -A /tmp", &out, &text),
			 0);
	assert_string_equal(out, "bin\ndev\nlib\nlib64\nproc\nsbin\ntmp\nusr\nvar\ncat\n");
	assert_string_equal(text, "");
}

static void what_is_mounted_for_a_tree_ends_with_the_program(void **state)
{
	pe_auto_free char *out = NULL, *text = NULL, *after = NULL;

	skip_where_impossible();
	assert_int_equal(in_tree(dir.path, "grep -c tmpfs /proc/self/mounts; exit 7", &out, &text),
			 7);
	assert_true(atoi(out) >= 3);
	assert_null(pe_file_read("/proc/self/mounts", &after, NULL));
	assert_null(strstr(after, dir.path));
}

static void a_tree_that_is_gone_is_named(void **state)
{
	pe_auto_free char *out = NULL, *text = NULL;

	skip_where_impossible();
	assert_int_equal(in_tree("/nonexistent/tree", "true", &out, &text), 127);
	assert_non_null(strstr(text, "/nonexistent/tree"));
	assert_non_null(strstr(text, "No such file"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_program_in_a_tree_sees_the_tree_and_what_is_shared),
		cmocka_unit_test(what_is_mounted_for_a_tree_ends_with_the_program),
		cmocka_unit_test(a_tree_that_is_gone_is_named),
	};

	return cmocka_run_group_tests(tests, make_tree, remove_tree);
}

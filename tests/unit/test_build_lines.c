/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What stands behind a hunk keeps its line number; a directive never breaks the source. */
#include "build_helpers.h"

#include "build/lines.h"

/* The new text with directives, the hunks taken from the two texts by diff. */
static char *kept(const char *old, const char *new)
{
	pe_auto_temp_dir struct pe_temp_dir dir = { 0 };
	pe_auto_free struct pe_lines_hunk *hunks = NULL;
	size_t count, size;
	char *text = NULL;

	ok(pe_temp_dir_init(&dir));
	put(&dir, "old", old);
	put(&dir, "new", new);

	pe_auto_free char *old_path = in_dir(&dir, "old");
	pe_auto_free char *new_path = in_dir(&dir, "new");

	ok(pe_lines_diff(old_path, new_path, &hunks, &count));
	ok(pe_lines_keep(new, strlen(new), hunks, count, &text, &size));
	return text;
}

static void check(const char *old, const char *new, const char *expected)
{
	pe_auto_free char *text = kept(old, new);

	assert_string_equal(text, expected);
}

static void lines_behind_an_insertion_keep_their_numbers(void **state)
{
	check("a;\nb;\nc;\n", "a;\nx;\ny;\nb;\nc;\n", "a;\nx;\ny;\n#line 2\nb;\nc;\n");
}

static void lines_behind_a_removal_keep_their_numbers(void **state)
{
	check("a;\nb;\nc;\nd;\n", "a;\nd;\n", "a;\n#line 4\nd;\n");
}

static void a_hunk_that_keeps_the_count_needs_no_directive(void **state)
{
	check("a;\nb;\nc;\n", "a;\nx;\nc;\n", "a;\nx;\nc;\n");
}

static void each_hunk_is_corrected_by_itself(void **state)
{
	check("a;\nb;\nc;\nd;\ne;\n", "a;\nx;\nb;\nc;\ne;\n",
	      "a;\nx;\n#line 2\nb;\nc;\n#line 5\ne;\n");
}

static void no_directive_enters_the_arguments_of_a_call(void **state)
{
	check("f(1,\n  2,\n  3);\nb;\n", "f(1,\n  9,\n  2,\n  3);\nb;\n",
	      "f(1,\n  9,\n  2,\n  3);\n#line 4\nb;\n");
}

static void no_directive_splits_a_macro_from_its_parenthesis(void **state)
{
	check("M\n(1);\nb;\n", "x;\nM\n(1);\nb;\n", "x;\n#line 1\nM\n(1);\nb;\n");
	check("M\n(1);\nb;\n", "M2\nM\n(1);\nb;\n", "M2\n#line 1\nM\n(1);\nb;\n");
	check("M\n(1);\nb;\n", "x;\nM2\n(1);\nb;\n", "x;\nM2\n(1);\n#line 3\nb;\n");
}

static void no_directive_enters_a_macro_definition(void **state)
{
	check("#define A(x) \\\n  f(x); \\\n  g(x)\nb;\n",
	      "#define A(x) \\\n  f(x); \\\n  h(x); \\\n  g(x)\nb;\n",
	      "#define A(x) \\\n  f(x); \\\n  h(x); \\\n  g(x)\n#line 4\nb;\n");
}

static void no_directive_enters_comments_and_raw_strings(void **state)
{
	check("/* a\n b */\nc;\n", "/* a\n x (\n b */\nc;\n", "/* a\n x (\n b */\n#line 3\nc;\n");
	check("s = R\"x(\n1\n)x\";\nc;\n", "s = R\"x(\n0\n1\n)\" ( )x\";\nc;\n",
	      "s = R\"x(\n0\n1\n)\" ( )x\";\n#line 4\nc;\n");
	check("// a \\\n b\nc;\n", "// a \\\n x \\\n b\nc;\n", "// a \\\n x \\\n b\n#line 3\nc;\n");
}

static void quotes_and_separators_do_not_confuse(void **state)
{
	check("c = '\"';\nd = '(';\nb;\n", "c = '\"';\nx = 1'000;\nd = '(';\nb;\n",
	      "c = '\"';\nx = 1'000;\n#line 2\nd = '(';\nb;\n");
	check("s = \"\\\"(\";\nb;\n", "s = \"\\\"(\";\nx;\nb;\n",
	      "s = \"\\\"(\";\nx;\n#line 2\nb;\n");
}

static void both_branches_of_a_conditional_may_open_the_same_parenthesis(void **state)
{
	check("#ifdef A\nif (a &&\n#else\nif (\n#endif\n  b)\n{\n}\nc;\n",
	      "#ifdef A\nif (a &&\n#else\nif (\n#endif\n  b)\n{\n  x;\n}\nc;\n",
	      "#ifdef A\nif (a &&\n#else\nif (\n#endif\n  b)\n{\n  x;\n#line 8\n}\nc;\n");
}

static void a_directive_is_left_out_when_the_next_hunk_comes_first(void **state)
{
	check("f(1,\n2,\n3,\n4);\nb;\n", "f(1,\nx,\n2,\ny,\n3,\n4);\nb;\n",
	      "f(1,\nx,\n2,\ny,\n3,\n4);\n#line 5\nb;\n");
}

static void equal_files_have_no_hunks(void **state)
{
	check("a\n", "a\n", "a\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_behind_an_insertion_keep_their_numbers),
		cmocka_unit_test(lines_behind_a_removal_keep_their_numbers),
		cmocka_unit_test(a_hunk_that_keeps_the_count_needs_no_directive),
		cmocka_unit_test(each_hunk_is_corrected_by_itself),
		cmocka_unit_test(no_directive_enters_the_arguments_of_a_call),
		cmocka_unit_test(no_directive_splits_a_macro_from_its_parenthesis),
		cmocka_unit_test(no_directive_enters_a_macro_definition),
		cmocka_unit_test(no_directive_enters_comments_and_raw_strings),
		cmocka_unit_test(quotes_and_separators_do_not_confuse),
		cmocka_unit_test(both_branches_of_a_conditional_may_open_the_same_parenthesis),
		cmocka_unit_test(a_directive_is_left_out_when_the_next_hunk_comes_first),
		cmocka_unit_test(equal_files_have_no_hunks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

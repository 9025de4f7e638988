/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Of two texts only what the compiler sees differ counts, in whole lines. */
#include "build_helpers.h"

#include "build/tokens.h"

static void check(const char *old, const char *new, const char *expected)
{
	pe_auto_free char *text = NULL;
	size_t size;

	ok(pe_tokens_merge(old, strlen(old), new, strlen(new), &text, &size));
	assert_string_equal(text, expected);
	assert_int_equal(size, strlen(expected));
}

/* Nothing differs that counts. */
static void same(const char *old, const char *new)
{
	check(old, new, old);
}

static void blanks_lines_and_comments_do_not_count(void **state)
{
	same("int f(int a,\n      int b)\n{\n\treturn a+b; /* sum */\n}\n",
	     "// the sum\nint f(int a, int b) {\n    return a + b;\n}\n");
	same("#define A(x) ((x)+1)\n", "# define A( x )  \\\n\t( (x) + 1 )\n");
	same("", "/* nothing */\n");
	same("a;", "a;\n");
}

static void only_lines_with_a_difference_are_taken(void **state)
{
	check("int a;\nint b=1;\nint c;\n", "int  a;\nint  b=2;\nint  c;\n",
	      "int a;\nint  b=2;\nint c;\n");
	check("f(1,\n  2);\ng( 1 );\n", "f(1, 2, 3);\ng(1);\n", "f(1, 2, 3);\ng( 1 );\n");
	check("a();\nb();\n", "a( );\nx();\nb( );\n", "a();\nx();\nb();\n");
	check("a();\nx();\nb();\n", "a( );\nb( );\n", "a();\nb();\n");
}

static void a_difference_at_each_end_is_taken(void **state)
{
	check("a;\nb;\n", "x;\na ;\nb ;\n", "x;\na;\nb;\n");
	check("a;\nb;\n", "a ;\nb ;\nx;\n", "a;\nb;\nx;\n");
	check("a;\nb;\n", "", "");
	check("", "a;\n", "a;\n");
}

static void what_a_word_or_a_string_says_counts(void **state)
{
	check("s = \"a b\";\nt;\n", "s = \"a  b\";\nt ;\n", "s = \"a  b\";\nt;\n");
	check("c = 'a';\n", "c = 'b';\n", "c = 'b';\n");
	check("int ab;\n", "int a b;\n", "int a b;\n");
	check("x = a+ +b;\n", "x = a++b;\n", "x = a++b;\n");
	check("x = 1.5e+3;\n", "x = 1.5e +3;\n", "x = 1.5e +3;\n");
	check("s = \"/* no comment */\";\n", "s = \"\";\n", "s = \"\";\n");
	check("s = R\"x( ) )x\";\n", "s = R\"x( )  )x\";\n", "s = R\"x( )  )x\";\n");
}

static void the_ends_of_directives_count(void **state)
{
	check("#define A b\nc;\n", "#define A b c;\n", "#define A b c;\n");
	check("#define A(x) x\n", "#define A (x) x\n", "#define A (x) x\n");
	same("#if A /* since\n ever */\nb;\n#endif\n", "#if A\nb;\n#endif // A\n");
}

/* A line taken from one text may begin in a comment of that text alone. */
static void no_cut_is_made_inside_a_comment(void **state)
{
	check("/* old\n*/ a;\nb;\n", "a;\nc;\n", "/* old\n*/ a;\nc;\n");
	check("a; /* old\n*/ b;\nc;\n", "a;\nb;\nd;\n", "a; /* old\n*/ b;\nd;\n");
}

static void texts_that_are_no_code_are_taken_whole_or_not_at_all(void **state)
{
	same("don't\n", "\ndon't\n");
	check("a 'b\n", "a 'c\n", "a 'c\n");
	check("/* open", "b", "b/* open");
	check("\"open", "\"opened", "\"opened");
	check("R\"(", "R\"((", "R\"((");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blanks_lines_and_comments_do_not_count),
		cmocka_unit_test(only_lines_with_a_difference_are_taken),
		cmocka_unit_test(a_difference_at_each_end_is_taken),
		cmocka_unit_test(what_a_word_or_a_string_says_counts),
		cmocka_unit_test(the_ends_of_directives_count),
		cmocka_unit_test(no_cut_is_made_inside_a_comment),
		cmocka_unit_test(texts_that_are_no_code_are_taken_whole_or_not_at_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What cannot be patched into a running process is refused, with the name of the thing. */
#include "select_fixture.h"

static void refuse(const char *flags, const char *base, const char *patched, enum pe_code code,
		   const char *words)
{
	struct fixture f;

	fixture_make(&f, flags, base, patched, NULL);
	assert_refused(&f, code, words);
	fixture_free(&f);
}

static void a_diff_that_changes_no_code_is_nothing_to_do(void **state)
{
	refuse("-x c -fPIE", "int entry(int n) { return n * 3 / 7; }\n",
	       "int entry(int n) { /* a comment */ return n * 3 / 7; }\n", PE_ERR_NOTHING,
	       "no function");
}

static void a_changed_initial_value_is_refused(void **state)
{
	refuse("-x c -fPIE", "int limit = 5; int entry(int n) { return n * limit; }\n",
	       "int limit = 6; int entry(int n) { return n * limit; }\n", PE_ERR_UNSUPPORTED,
	       "variable limit");
	refuse("-x c -fPIE",
	       "const char *const names[] = { \"a\", \"b\" };\n"
	       "int entry(int n) { return names[n & 1][0]; }\n",
	       "const char *const names[] = { \"a\", \"c\" };\n"
	       "int entry(int n) { return names[n & 1][0]; }\n",
	       PE_ERR_UNSUPPORTED, "names");
	refuse("-x c -fPIE", "int zero; int entry(int n) { return n * zero++; }\n",
	       "int zero = 3; int entry(int n) { return n * zero++; }\n", PE_ERR_UNSUPPORTED,
	       "variable zero");
}

static void a_changed_size_of_a_variable_is_refused(void **state)
{
	refuse("-x c -fPIE", "char room[10]; int entry(int n) { return room[n]++; }\n",
	       "char room[20]; int entry(int n) { return room[n]++; }\n", PE_ERR_UNSUPPORTED,
	       "room from 10 to 20 bytes");
}

static void a_changed_constant_inside_a_function_is_new_data(void **state)
{
	static const char source[] =
		"int entry(int n) { static const int t[] = { 1, 2, 3, 4, %s };\n"
		"return t[n %% 5] * n; }\n";
	pe_auto_free char *base = NULL, *patched = NULL;
	struct fixture f;

	assert_true(asprintf(&base, source, "5") > 0);
	assert_true(asprintf(&patched, source, "9") > 0);
	fixture_make(&f, "-x c -fPIE", base, patched, NULL);
	assert_made(&f);
	assert_int_equal(f.patch->function_count, 1);
	assert_non_null(section_with(&f, "\4\0\0\0\11\0\0\0", 8));
	fixture_free(&f);
}

static void a_changed_virtual_table_is_refused(void **state)
{
	refuse("-x c++ -fPIC",
	       "struct s { virtual int f(int n); virtual int g(int n); };\n"
	       "int s::f(int n) { return n * 2 / 5; } int s::g(int n) { return n * 3 / 5; }\n"
	       "extern \"C\" int entry(int n) { s *p = new s; return p->f(n) + p->g(n); }\n",
	       "struct s { virtual int f(int n); virtual int h(int); virtual int g(int n); };\n"
	       "int s::f(int n) { return n * 2 / 5; } int s::g(int n) { return n * 3 / 5; }\n"
	       "int s::h(int n) { return n; }\n"
	       "extern \"C\" int entry(int n) { s *p = new s; return p->f(n) + p->g(n); }\n",
	       PE_ERR_UNSUPPORTED,
	       "type s, which is in use: virtual function s::g(int) changes "
	       "from 1 to 2; used by");
}

static void a_new_thread_local_is_refused(void **state)
{
	refuse("-x c -fPIE", "int entry(int n) { return n * 3 / 7; }\n",
	       "static __thread int fresh; int entry(int n) { return fresh += n * 3 / 7; }\n",
	       PE_ERR_UNSUPPORTED, "thread-local variable fresh");
}

static void a_constructor_is_refused(void **state)
{
	refuse("-x c++ -fPIC",
	       "int seed(int); int seed(int n) { return n * 7 / 3; }\n"
	       "extern \"C\" int entry(int n) { return seed(n); }\n",
	       "int seed(int); int seed(int n) { return n * 7 / 3; }\n"
	       "static int start = seed(4);\n"
	       "extern \"C\" int entry(int n) { volatile int *p = &start; return seed(n) + *p; }\n",
	       PE_ERR_UNSUPPORTED, "once");
	refuse("-x c -fPIE",
	       "int total; __attribute__((constructor)) void begin(void) { total += 9; }\n"
	       "int entry(int n) { return n * total; }\n",
	       "int total; __attribute__((constructor)) void begin(void) { total += 8; }\n"
	       "int entry(int n) { return n * total; }\n",
	       PE_ERR_UNSUPPORTED, "begin");
}

static void main_is_refused(void **state)
{
	refuse("-x c -fPIE", "int main(int n, char **v) { return n * 3 / 7; }\n",
	       "int main(int n, char **v) { return n * 3 / 8; }\n", PE_ERR_UNSUPPORTED, "main()");
}

static const char layout[] =
	"struct s { %s };\n"
	"__attribute__((noinline)) int get(struct s *p) { return p->b * %s; }\n"
	"int entry(int n) { struct s s = { .b = n }; return get(&s); }\n";

static void refuse_layout(const char *before, const char *after, const char *words)
{
	pe_auto_free char *base = NULL, *patched = NULL;

	assert_true(asprintf(&base, layout, before, "3") > 0);
	assert_true(asprintf(&patched, layout, after, "3") > 0);
	refuse("-x c -fPIE", base, patched, PE_ERR_UNSUPPORTED, words);
}

static void a_changed_layout_of_a_type_is_refused(void **state)
{
	refuse_layout("int a; int b; int c;", "long a; int b; int c;",
		      "member a at offset 0 changes from 4 to 8 bytes");
	refuse_layout("int a; int b; int c;", "int a; int x; int b; int c;",
		      "member b moves from offset 4 to 8");
	refuse_layout("char a; int b;", "char a; char n; int b; int c;", "is new");
}

static void a_changed_type_is_refused_with_who_uses_it(void **state)
{
	static const char program[] =
		"struct s { int a; int b; %s};\n"
		"struct holder { struct s *first; } all;\n"
		"__attribute__((noinline)) int get(struct s *p) { return p->b * 3; }\n"
		"int entry(int n) { struct s s = { .b = n %s }; return get(&s); }\n";
	pe_auto_free char *base = NULL, *moved = NULL, *appended = NULL;

	assert_true(asprintf(&base, program, "", "") > 0);
	assert_true(asprintf(&moved, program, "int c; ", ", .c = n") > 0);
	assert_true(asprintf(&appended, program, "long c; ", "+ 1") > 0);
	refuse("-x c -fPIE", base, moved, PE_ERR_UNSUPPORTED,
	       "member c is new at offset 8; used by get(), type holder");
	refuse("-x c -fPIE", base, appended, PE_ERR_UNSUPPORTED, "in a table of the patch's own");
}

/* The variable's own size or contents change too: the type is the cause. */
static void a_changed_type_of_a_variable_is_named_with_the_member(void **state)
{
	static const char program[] = "struct s { int a; %sint b; int c[9]; };\n"
				      "static struct s all = { .a = 1, .b = 2 };\n"
				      "int entry(int n) { return all.a += all.b * n; }\n";
	pe_auto_free char *base = NULL, *moved = NULL;

	assert_true(asprintf(&base, program, "") > 0);
	assert_true(asprintf(&moved, program, "long fresh; ") > 0);
	refuse("-x c -fPIE", base, moved, PE_ERR_UNSUPPORTED,
	       "type s, which is in use: member b moves from offset 4 to 16; used by variable all");
}

static void a_changed_type_of_replaced_functions_alone_is_allowed(void **state)
{
	static const char program[] = "struct %s { int a; int b; %s};\n"
				      "int entry(int n) {\n"
				      "	struct %s s = { n, n / 3 };\n"
				      "	__asm__ volatile(\"\" : : \"r\"(&s) : \"memory\");\n"
				      "	return s.a + s.b * %d;\n"
				      "}\n%s";
	static const char other[] = "int other(int n) { struct s s = { n, n }; return s.b - n; }\n";
	pe_auto_free char *base = NULL, *patched = NULL, *shared = NULL, *shared_patched = NULL;
	struct fixture f;

	assert_true(asprintf(&base, program, "s", "", "s", 3, "") > 0);
	assert_true(asprintf(&patched, program, "s", "int c[9]; ", "s", 4, "") > 0);
	fixture_make(&f, "-x c -fPIE", base, patched, NULL);
	assert_made(&f);
	fixture_free(&f);
	/* Another function has one too, although it does not look at what changed. */
	assert_true(asprintf(&shared, program, "s", "", "s", 3, other) > 0);
	assert_true(asprintf(&shared_patched, program, "s", "int c[9]; ", "s", 4, other) > 0);
	refuse("-x c -fPIE", shared, shared_patched, PE_ERR_UNSUPPORTED, "used by other()");
}

static void a_changed_signature_is_refused_with_who_calls(void **state)
{
	static const char program[] =
		"__attribute__((noinline)) int take(%s) { return (int)(n * %s); }\n"
		"int entry(int n) { return take(n) + 1; }\n";
	pe_auto_free char *base = NULL, *wider = NULL;

	/* In another file, which nobody compiles again. */
	assert_true(asprintf(&base, program, "int n", "3") > 0);
	assert_true(asprintf(&wider, program, "long n", "5") > 0);
	other_source = "int take(int); int other(int n) { return take(n) * 5; }\n";
	refuse("-x c -fPIE", base, wider, PE_ERR_UNSUPPORTED,
	       "parameter 1 of take() changes from int to long int, and other()");
}

static void a_static_function_and_all_callers_may_change_their_signature(void **state)
{
	struct fixture f;

	fixture_make(&f, "-x c -fPIE",
		     "__attribute__((noinline)) static int take(int n) { return n * 3; }\n"
		     "int entry(int n) { return take(n) + 1; }\n",
		     "__attribute__((noinline)) static int take(int n, long m) { return n * m; }\n"
		     "int entry(int n) { return take(n, n + 2) + 1; }\n",
		     NULL);
	assert_made(&f);
	fixture_free(&f);
}

static void a_new_object_that_would_be_destroyed_at_the_end_is_refused(void **state)
{
	refuse("-x c++ -fPIC",
	       "int low(int n) noexcept(false); int low(int n) { if (n > 99) throw n; return 1; }\n"
	       "extern \"C\" int entry(int n) { try { n = low(n); } catch (long) { n = 2; } return "
	       "n / 7; }\n",
	       "struct keeper { int *p; keeper(int n) : p(new int(n)) {} ~keeper() { delete p; } "
	       "};\n"
	       "int low(int n) noexcept(false); int low(int n) { if (n > 99) throw n; return 1; }\n"
	       "extern \"C\" int entry(int n) { static keeper k(n); return *k.p / 7; }\n",
	       PE_ERR_UNSUPPORTED, "destroyed at the end");
}

static void a_changed_enumerator_is_refused(void **state)
{
	refuse("-x c -fPIE",
	       "enum kind { ONE, TWO, LAST };\n"
	       "int entry(int n) { enum kind k = n; return k == LAST ? 77 : n / 3; }\n",
	       "enum kind { ONE, TWO, THREE, LAST };\n"
	       "int entry(int n) { enum kind k = n; return k == LAST ? 77 : n / 3; }\n",
	       PE_ERR_UNSUPPORTED, "enumerator LAST changes from 2 to 3");
}

static void a_name_that_nothing_defines_is_refused(void **state)
{
	refuse("-x c -fPIE", "int entry(int n) { return n * 3 / 7; }\n",
	       "int not_there(int); int entry(int n) { return not_there(n) * 3 / 7; }\n",
	       PE_ERR_UNSUPPORTED, "not_there");
}

static void a_name_of_several_static_symbols_is_refused(void **state)
{
	pe_auto_free char *both =
		strdup("static __attribute__((noinline)) int low(int n) { return n * 17 / 3; }\n"
		       "int one(int n) { return low(n); }\n");

	/* Two files have a static low(); the new code means neither in particular. */
	other_source = both;
	refuse("-x c -fPIE",
	       "static __attribute__((noinline)) int low(int n) { return n * 19 / 5; }\n"
	       "__attribute__((noinline)) int other(int n) { return low(n) + 1; }\n"
	       "int entry(int n) { return other(n) * 3 / 7; }\n",
	       "int low(int); int other(int);\n"
	       "int entry(int n) { return other(n) + low(n) * 3 / 7; }\n",
	       PE_ERR_UNSUPPORTED, "several static");
}

static void changed_assembler_without_a_function_is_refused(void **state)
{
	refuse("-x c -fPIE",
	       "asm(\".section .text.bare,\\\"ax\\\"\\nbare: nop\\nret\\n.text\");\n"
	       "int entry(int n) { return n * 3 / 7; }\n",
	       "asm(\".section .text.bare,\\\"ax\\\"\\nbare: hlt\\nret\\n.text\");\n"
	       "int entry(int n) { return n * 3 / 7; }\n",
	       PE_ERR_UNSUPPORTED, "no function");
}

static void a_weak_name_that_nothing_defines_is_zero(void **state)
{
	struct fixture f;

	fixture_make(&f, "-x c -fPIC", "int entry(int n) { return n * 3 / 7; }\n",
		     "int not_there(int) __attribute__((weak));\n"
		     "int entry(int n) { return not_there ? not_there(n) : n * 3 / 8; }\n",
		     NULL);
	assert_made(&f);
	assert_kind(&f, "not_there", PE_SYM_ZERO);
	fixture_free(&f);
}

static void functions_of_one_body_that_the_patch_tells_apart_are_refused(void **state)
{
	refuse("-x c -fPIE",
	       "__attribute__((noinline)) static int a(int n) { return n * 31 / 7; }\n"
	       "__attribute__((noinline)) static int b(int n) { return n * 31 / 7; }\n"
	       "int entry(int n) { return a(n) + b(n + 1); }\n",
	       "__attribute__((noinline)) static int a(int n) { return n * 31 / 7; }\n"
	       "__attribute__((noinline)) static int b(int n) { return n * 31 / 9; }\n"
	       "int entry(int n) { return a(n) + b(n + 1); }\n",
	       PE_ERR_UNSUPPORTED, "identical code folding");
}

static void one_by_one_is_refused_where_a_caller_knows_its_callee(void **state)
{
	static const struct pe_select_options independent = { .force_independent = true };
	static const char source[] =
		"static __attribute__((noinline)) int low(int n) { return n * 31 / %s; }\n"
		"int entry(int n) { return low(n) + %s; }\n";
	pe_auto_free char *base = NULL, *patched = NULL;
	struct fixture f;

	assert_true(asprintf(&base, source, "7", "1") > 0);
	assert_true(asprintf(&patched, source, "9", "2") > 0);
	fixture_make(&f, "-x c -fPIE", base, patched, &independent);
	assert_refused(&f, PE_ERR_UNSUPPORTED, "one by one");
	fixture_free(&f);
	fixture_make(&f, "-x c -fPIE", base, patched, NULL);
	assert_made(&f);
	assert_int_equal(f.patch->function_count, 2);
	assert_false(f.patch->independent);
	fixture_free(&f);
}

static void several_functions_are_independent_when_their_maker_says_so(void **state)
{
	static const struct pe_select_options independent = { .force_independent = true };
	static const char source[] =
		"__attribute__((noinline)) int a(int n) { return n * 31 / %s; }\n"
		"__attribute__((noinline)) int b(int n) { return n * 37 / %s; }\n"
		"int entry(int n) { return a(n) + b(n); }\n";
	pe_auto_free char *base = NULL, *patched = NULL;
	struct fixture f;

	assert_true(asprintf(&base, source, "7", "11") > 0);
	assert_true(asprintf(&patched, source, "9", "12") > 0);
	fixture_make(&f, "-x c -fPIE", base, patched, &independent);
	assert_made(&f);
	assert_true(f.patch->independent);
	fixture_free(&f);
}

static void source_that_is_not_what_was_shipped_is_a_mismatch(void **state)
{
	struct fixture f;

	fixture_make(&f, "-x c -fPIE", "int entry(int n) { return n * 3 / 7; }\n",
		     "int entry(int n) { return n * 3 / 8; }\n", NULL);
	assert_made(&f);
	fixture_free(&f);

	/* The same two versions against a program that was built from a third. */
	memset(&f, 0, sizeof(f));
	strcpy(f.dir, "/tmp/test-select-XXXXXX");
	assert_non_null(mkdtemp(f.dir));
	write_file(&f, "1.c", "int entry(int n) { return n * 3 / 7; }\n");
	write_file(&f, "2.c", "int entry(int n) { return n * 3 / 8; }\n");
	write_file(&f, "3.c", "int entry(int n) { return n * 5 / 9; }\n");
	write_file(&f, "main.c", main_source);
	shell(&f, "for i in 1 2 3; do gcc -O2 -g -fPIE -ffunction-sections -c $i.c; done && "
		  "gcc -O2 -o program main.c 3.o");
	pe_auto_free char *one = NULL, *two = NULL, *program = NULL;
	assert_true(asprintf(&one, "%s/1.o", f.dir) > 0);
	assert_true(asprintf(&two, "%s/2.o", f.dir) > 0);
	assert_true(asprintf(&program, "%s/program", f.dir) > 0);
	fixture_select(&f, one, two, program, NULL);
	assert_refused(&f, PE_ERR_MISMATCH, "entry");
	fixture_free(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_diff_that_changes_no_code_is_nothing_to_do),
		cmocka_unit_test(a_changed_initial_value_is_refused),
		cmocka_unit_test(a_changed_size_of_a_variable_is_refused),
		cmocka_unit_test(a_changed_constant_inside_a_function_is_new_data),
		cmocka_unit_test(a_changed_virtual_table_is_refused),
		cmocka_unit_test(a_new_thread_local_is_refused),
		cmocka_unit_test(a_constructor_is_refused),
		cmocka_unit_test(main_is_refused),
		cmocka_unit_test(a_changed_layout_of_a_type_is_refused),
		cmocka_unit_test(a_changed_type_is_refused_with_who_uses_it),
		cmocka_unit_test(a_changed_type_of_a_variable_is_named_with_the_member),
		cmocka_unit_test(a_changed_type_of_replaced_functions_alone_is_allowed),
		cmocka_unit_test(a_changed_signature_is_refused_with_who_calls),
		cmocka_unit_test(a_static_function_and_all_callers_may_change_their_signature),
		cmocka_unit_test(a_new_object_that_would_be_destroyed_at_the_end_is_refused),
		cmocka_unit_test(a_changed_enumerator_is_refused),
		cmocka_unit_test(a_name_that_nothing_defines_is_refused),
		cmocka_unit_test(a_name_of_several_static_symbols_is_refused),
		cmocka_unit_test(changed_assembler_without_a_function_is_refused),
		cmocka_unit_test(a_weak_name_that_nothing_defines_is_zero),
		cmocka_unit_test(functions_of_one_body_that_the_patch_tells_apart_are_refused),
		cmocka_unit_test(one_by_one_is_refused_where_a_caller_knows_its_callee),
		cmocka_unit_test(several_functions_are_independent_when_their_maker_says_so),
		cmocka_unit_test(source_that_is_not_what_was_shipped_is_a_mismatch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

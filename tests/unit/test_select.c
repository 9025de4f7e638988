/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What two versions of a source give: replaced functions, what comes along, what stays shared. */
#include "select_fixture.h"

static void a_changed_function_is_replaced_and_its_neighbours_are_not(void **state)
{
	struct fixture f;

	fixture_make(&f, "-x c -fPIE",
		     "__attribute__((noinline)) int other(int n) { return n * 3; }\n"
		     "__attribute__((noinline)) int value(int n) { return n % 1 + n / 7; }\n"
		     "int entry(int n) { return value(n) + other(n); }\n",
		     "__attribute__((noinline)) int other(int n) { return n * 3; }\n"
		     "__attribute__((noinline)) int value(int n) { return n / 9; }\n"
		     "int entry(int n) { return value(n) + other(n); }\n",
		     NULL);
	assert_made(&f);
	assert_int_equal(f.patch->function_count, 1);
	assert_string_equal(f.patch->functions[0].name, "value");
	assert_int_equal(f.patch->functions[0].ranges[0].vaddr, image_address(&f, "value"));
	assert_true(f.patch->functions[0].entry_size >= 5 || f.patch->functions[0].entry_skip);
	assert_string_equal(f.patch->functions[0].reason, "changed");
	assert_true(f.patch->independent);
	assert_int_equal(f.report.count, 1);
	assert_int_equal(f.report.items[0].kind, PE_CHANGED_REPLACED);
	fixture_free(&f);
}

static void a_new_function_a_new_global_and_a_new_string_come_along(void **state)
{
	struct fixture f;

	fixture_make(&f, "-x c -fPIE",
		     "#include <stdio.h>\n"
		     "int total;\n"
		     "int entry(int n) { total += n; return puts(\"old words\"); }\n",
		     "#include <stdio.h>\n"
		     "int total;\n"
		     "int calls;\n"
		     "int limit = 77;\n"
		     "static __attribute__((noinline)) int helper(int n)\n"
		     "{ return printf(\"%d new words\", n) + calls++ + limit; }\n"
		     "int entry(int n) { total += n; return puts(\"old words\") + helper(n); }\n",
		     NULL);
	assert_made(&f);
	assert_int_equal(f.patch->function_count, 1);
	assert_kind(&f, "helper", PE_SYM_LOCAL);
	assert_kind(&f, "calls", PE_SYM_LOCAL);
	assert_kind(&f, "limit", PE_SYM_LOCAL);
	assert_kind(&f, "total", PE_SYM_TARGET);
	assert_int_equal(find_symbol(&f, "total")->value, image_address(&f, "total"));
	assert_kind(&f, "puts", PE_SYM_SLOT);
	assert_kind(&f, "printf", PE_SYM_IMPORT);
	assert_non_null(section_with(&f, "%d new words", 13));
	assert_non_null(section_with(&f, "old words", 10));
	assert_int_equal(f.patch->sections[find_symbol(&f, "calls")->section].kind, PE_SECTION_BSS);
	assert_int_equal(f.patch->sections[find_symbol(&f, "limit")->section].kind,
			 PE_SECTION_DATA);
	fixture_free(&f);
}

static void only_the_strings_that_are_used_are_copied(void **state)
{
	struct fixture f;

	fixture_make(&f, "-x c -fPIE",
		     "#include <stdio.h>\n"
		     "__attribute__((noinline)) int a(void) { return puts(\"untouched text\"); }\n"
		     "int entry(int n) { a(); return puts(\"before\") + n; }\n",
		     "#include <stdio.h>\n"
		     "__attribute__((noinline)) int a(void) { return puts(\"untouched text\"); }\n"
		     "int entry(int n) { a(); return puts(\"after\") + n; }\n",
		     NULL);
	assert_made(&f);
	assert_non_null(section_with(&f, "after", 6));
	assert_null(section_with(&f, "untouched text", 15));
	assert_kind(&f, "a", PE_SYM_TARGET);
	fixture_free(&f);
}

static void a_static_local_stays_shared_when_its_number_changes(void **state)
{
	struct fixture f;

	fixture_make(&f, "-x c -fPIE",
		     "__attribute__((noinline)) int f(void) { static int n; return ++n; }\n"
		     "__attribute__((noinline)) int g(void) { static int n; return n += 2; }\n"
		     "int entry(int k) { return f() + g() + k; }\n",
		     "static __attribute__((noinline)) int z(void)\n"
		     "{ static int n; return n += 9; }\n"
		     "__attribute__((noinline)) int f(void)\n"
		     "{ static int n; return ++n * 5 + z(); }\n"
		     "__attribute__((noinline)) int g(void) { static int n; return n += 2; }\n"
		     "int entry(int k) { return f() + g() + k; }\n",
		     NULL);
	assert_made(&f);
	assert_int_equal(f.patch->function_count, 1);
	assert_string_equal(f.patch->functions[0].name, "f");
	size_t shared = 0, new = 0;
	for (size_t i = 0; i < f.patch->symbol_count; i++) {
		const struct pe_patch_symbol *s = &f.patch->symbols[i];

		if (strncmp(s->name, "n.", 2))
			continue;
		shared += s->kind == PE_SYM_TARGET;
		new += s->kind == PE_SYM_LOCAL;
	}
	assert_int_equal(shared, 1);
	assert_int_equal(new, 1);
	fixture_free(&f);
}

static void a_new_static_of_the_same_name_in_the_same_function_is_refused(void **state)
{
	struct fixture f;

	fixture_make(&f, "-x c -fPIE",
		     "int entry(int k) { if (k) { static int n; return ++n; } return 0; }\n",
		     "int entry(int k) { if (k) { static int n; return ++n; }\n"
		     "{ static int n; return n += 2; } }\n",
		     NULL);
	assert_refused(&f, PE_ERR_UNSUPPORTED, "cannot tell which");
	fixture_free(&f);
	/* In C++ the name of the first is plain: now that of the new one. */
	fixture_make(&f, "-x c++ -fPIC",
		     "extern \"C\" int entry(int k) { static int count_2; return count_2 += k; }\n",
		     "extern \"C\" int entry(int k) { { static int count_2; k += count_2++; }\n"
		     "static int count_2; return count_2 += k; }\n",
		     NULL);
	assert_refused(&f, PE_ERR_UNSUPPORTED, "cannot tell which");
	fixture_free(&f);
}

static void statics_of_one_name_in_one_function_go_on_while_their_number_stays(void **state)
{
	static const char source[] =
		"extern \"C\" int entry(int k) { if (k) { static int n = 5; return ++n; }\n"
		"{ static int n = 7; static int n_1; return n += n_1 += %d; } }\n";
	pe_auto_free char *base = NULL, *patched = NULL;
	struct fixture f;

	assert_true(asprintf(&base, source, 2) > 0);
	assert_true(asprintf(&patched, source, 3) > 0);
	fixture_make(&f, "-x c++ -fPIC", base, patched, NULL);
	assert_made(&f);
	assert_kind(&f, "_ZZ5entryE1n", PE_SYM_TARGET);
	assert_kind(&f, "_ZZ5entryE1n_0", PE_SYM_TARGET);
	assert_kind(&f, "_ZZ5entryE3n_1", PE_SYM_TARGET);
	assert_int_equal(find_symbol(&f, "_ZZ5entryE1n")->value, image_address(&f, "_ZZ5entryE1n"));
	assert_int_equal(find_symbol(&f, "_ZZ5entryE1n_0")->value,
			 image_address(&f, "_ZZ5entryE1n_0"));
	fixture_free(&f);
}

static void callers_that_inlined_a_changed_function_are_replaced(void **state)
{
	static const char base[] =
		"static inline int rule(int n) { return n * n + 3; }\n"
		"__attribute__((noinline)) int a(int n) { return rule(n) - 1; }\n"
		"__attribute__((noinline)) int b(int n) { return rule(n) / 2; }\n"
		"__attribute__((noinline)) int c(int n) { return n / 3; }\n"
		"int entry(int n) { return a(n) + b(n) + c(n); }\n";
	struct fixture f;
	pe_auto_free char *patched = strdup(base);

	static const struct pe_source_lines lines[] = { { "unit.src", 1, 1 } };
	static const struct pe_select_options options = { .lines = lines, .line_count = 1 };

	*strchr(strstr(patched, "+ 3"), '3') = '4';
	fixture_make(&f, "-x c -fPIE", base, patched, &options);
	assert_made(&f);
	assert_int_equal(f.patch->function_count, 2);
	assert_non_null(find_function(&f, "a"));
	assert_non_null(find_function(&f, "b"));
	assert_string_equal(find_function(&f, "a")->reason, "inlines rule()");
	assert_false(f.patch->independent);
	fixture_free(&f);
}

static void a_static_function_of_cxx_is_told_from_what_is_compiled_otherwise(void **state)
{
	static const char base[] =
		"static __attribute__((noinline)) int rule(int n) { return n * n + 3; }\n"
		"extern \"C\" int entry(int n) { return rule(n) - 1; }\n";
	static const struct pe_source_lines lines[] = { { "unit.src", 1, 1 } };
	static const struct pe_select_options options = { .lines = lines, .line_count = 1 };
	pe_auto_free char *patched = strdup(base);
	struct fixture f;

	*strchr(strstr(patched, "+ 3"), '3') = '4';
	fixture_make(&f, "-x c++ -fPIC", base, patched, &options);
	assert_made(&f);
	assert_non_null(find_function(&f, "_ZL4rulei"));
	assert_string_equal(find_function(&f, "_ZL4rulei")->reason, "changed");
	fixture_free(&f);
}

static void lines_that_move_change_nothing(void **state)
{
	struct fixture f;

	fixture_make(&f, "-x c -fPIE",
		     "#include <assert.h>\n"
		     "__attribute__((noinline)) int a(int n) { return n / 11; }\n"
		     "__attribute__((noinline)) int b(int n) { assert(n); return n; }\n"
		     "int entry(int n) { assert(n > 0); return a(n) + b(n); }\n",
		     "#include <assert.h>\n"
		     "__attribute__((noinline)) int a(int n)\n"
		     "{\n"
		     "	if (n == 7) return 9;\n"
		     "	return n / 11; }\n"
		     "#line 3\n"
		     "__attribute__((noinline)) int b(int n) { assert(n); return n; }\n"
		     "int entry(int n) { assert(n > 0); return a(n) + b(n); }\n",
		     NULL);
	assert_made(&f);
	assert_int_equal(f.patch->function_count, 1);
	assert_string_equal(f.patch->functions[0].name, "a");
	fixture_free(&f);
}

static void clones_correlate_whatever_their_number(void **state)
{
	static const char source[] =
		"#include <stdlib.h>\n"
		"struct s { int a, b, c; };\n"
		"%s"
		"static __attribute__((noinline)) int sum(struct s *p, int unused, int k)\n"
		"{ return p->a * 5 + k * %s; }\n"
		"__attribute__((noinline)) int f(struct s *p, int n) { return sum(p, n, 4); }\n"
		"__attribute__((noinline)) int g(struct s *p, int n) { return sum(p, n, 4); }\n"
		"int entry(int n) { struct s s = { n, n, n }; if (n > 9) abort();\n"
		"return f(&s, n) + g(&s, n); }\n";
	pe_auto_free char *base = NULL, *patched = NULL;
	struct fixture f;

	assert_true(asprintf(&base, source, "", "3") > 0);
	assert_true(asprintf(&patched, source, "", "7") > 0);
	fixture_make(&f, "-x c -fPIE", base, patched, NULL);
	assert_made(&f);
	assert_int_equal(f.patch->function_count, 1);
	assert_int_equal(strncmp(f.patch->functions[0].name, "sum.", 4), 0);
	fixture_free(&f);
}

static void the_cold_part_belongs_to_its_function(void **state)
{
	static const char source[] =
		"#include <stdio.h>\n#include <stdlib.h>\n"
		"__attribute__((noinline, cold)) void report(int n) { printf(\"%%d\", n); }\n"
		"__attribute__((noinline)) int f(int n)\n"
		"{ if (__builtin_expect(n > 9, 0)) { report(n); report(n + %s); abort(); }\n"
		"return n * 7; }\n"
		"int entry(int n) { return f(n); }\n";
	pe_auto_free char *base = NULL, *patched = NULL;
	struct fixture f;

	assert_true(asprintf(&base, source, "1") > 0);
	assert_true(asprintf(&patched, source, "2") > 0);
	fixture_make(&f, "-x c -fPIE", base, patched, NULL);
	assert_made(&f);
	assert_int_equal(f.patch->function_count, 1);
	assert_string_equal(f.patch->functions[0].name, "f");
	assert_int_equal(f.patch->functions[0].range_count, 2);
	assert_int_equal(f.patch->functions[0].ranges[1].vaddr, image_address(&f, "f.cold"));
	assert_kind(&f, "f.cold", PE_SYM_LOCAL);
	fixture_free(&f);
}

static const char switch_source[] =
	"#include <stdio.h>\n"
	"int entry(int n) { switch (n) {\n"
	"case 0: return puts(\"zero\"); case 1: return puts(\"one\") + 1;\n"
	"case 2: return puts(\"two\"); case 3: return getchar();\n"
	"case 4: return puts(\"four\") + 7; case 5: return putchar(%s); } return 8; }\n";

static void a_jump_table_comes_with_its_function(void **state)
{
	pe_auto_free char *base = NULL, *patched = NULL;
	struct fixture f;

	assert_true(asprintf(&base, switch_source, "7") > 0);
	assert_true(asprintf(&patched, switch_source, "n * 2") > 0);
	fixture_make(&f, "-x c -fPIE", base, patched, NULL);
	assert_made(&f);
	const struct pe_patch_symbol *table = find_symbol(&f, ".rodata.entry");
	assert_non_null(table);
	assert_int_equal(table->kind, PE_SYM_LOCAL);
	const struct pe_patch_section *s = &f.patch->sections[table->section];
	assert_true(s->reloc_count >= 6);
	for (size_t i = 0; i < s->reloc_count; i++)
		assert_int_equal(f.patch->symbols[s->relocs[i].symbol].kind, PE_SYM_LOCAL);
	fixture_free(&f);
}

static void a_table_of_labels_is_new_next_to_a_changed_function(void **state)
{
	static const char source[] =
		"int entry(int n) { static const void *const to[] = { &&a, &&b, &&c };\n"
		"int r = 1; goto *to[n %% 3]; a: r += n; b: r *= n; c: return r + %s; }\n";
	pe_auto_free char *base = NULL, *patched = NULL;
	struct fixture f;

	assert_true(asprintf(&base, source, "1") > 0);
	assert_true(asprintf(&patched, source, "2") > 0);
	fixture_make(&f, "-x c -fPIE", base, patched, NULL);
	assert_made(&f);
	for (size_t i = 0; i < f.patch->symbol_count; i++) {
		if (!strncmp(f.patch->symbols[i].name, "to.", 3))
			assert_int_equal(f.patch->symbols[i].kind, PE_SYM_LOCAL);
	}
	fixture_free(&f);
}

static void thread_locals_become_offsets_from_the_thread_pointer(void **state)
{
	static const char source[] = "__thread int first = 4; __thread long second;\n"
				     "static __thread int third; static __thread int fourth;\n"
				     "int entry(int n) { first += n; second++; third++; fourth++;\n"
				     "return first + (int)second + third + fourth + %s; }\n";
	pe_auto_free char *base = NULL, *patched = NULL;
	struct fixture f;

	assert_true(asprintf(&base, source, "1") > 0);
	assert_true(asprintf(&patched, source, "2") > 0);
	static const char *const models[] = { "-x c -fPIC", "-x c -fPIE",
					      "-x c -fPIC -ftls-model=initial-exec",
					      "-x c -fPIC -ftls-model=local-dynamic" };
	for (size_t m = 0; m < 4; m++) {
		fixture_make(&f, models[m], base, patched, NULL);
		assert_made(&f);
		assert_kind(&f, "first", PE_SYM_TPOFF);
		assert_kind(&f, "second", PE_SYM_TPOFF);
		assert_kind(&f, "third", PE_SYM_TPOFF);
		assert_true((int64_t)find_symbol(&f, "first")->value < 0);
		assert_null(find_symbol(&f, "__tls_get_addr"));
		for (size_t i = 0; i < f.patch->sections[0].reloc_count; i++) {
			const struct pe_patch_reloc *r = &f.patch->sections[0].relocs[i];

			if (f.patch->symbols[r->symbol].kind == PE_SYM_TPOFF)
				assert_int_equal(r->type, R_X86_64_TPOFF32);
		}
		fixture_free(&f);
	}
}

static void exceptions_bring_unwind_and_exception_tables(void **state)
{
	static const char source[] =
		"#include <stdexcept>\n"
		"struct mine { int code; };\n"
		"extern \"C\" __attribute__((noinline)) int risky(int n)\n"
		"{ if (n > 5) throw mine{ n }; return n; }\n"
		"extern \"C\" int entry(int n)\n"
		"{ try { return risky(n); } catch (mine &m) { return m.code + %s; }\n"
		"catch (std::runtime_error &) { return 3; } }\n";
	pe_auto_free char *base = NULL, *patched = NULL;
	struct fixture f;

	assert_true(asprintf(&base, source, "1") > 0);
	assert_true(asprintf(&patched, source, "2") > 0);
	fixture_make(&f, "-x c++ -fPIC", base, patched, NULL);
	assert_made(&f);
	assert_non_null(find_function(&f, "entry"));
	const struct pe_patch_section *last = &f.patch->sections[f.patch->section_count - 1];
	assert_int_equal(last->kind, PE_SECTION_EH_FRAME);
	assert_memory_equal(last->data + last->size - 4, "\0\0\0\0", 4);
	size_t tables = 0;
	for (size_t i = 0; i < f.patch->section_count; i++)
		tables += !strncmp(f.patch->sections[i].name, ".gcc_except_table", 17);
	assert_true(tables >= 1);
	assert_kind(&f, "risky", PE_SYM_TARGET);
	fixture_free(&f);
}

static void lambdas_correlate_when_one_is_added_before_them(void **state)
{
	struct fixture f;

	fixture_make(&f, "-x c++ -fPIC -fno-rtti",
		     "#include <functional>\n"
		     "int keep(std::function<int(int)> f, int n) { return f(n); }\n"
		     "extern \"C\" int entry(int n)\n"
		     "{ return keep([=](int k) { return k * n; }, 4); }\n",
		     "#include <functional>\n"
		     "int keep(std::function<int(int)> f, int n) { return f(n); }\n"
		     "extern \"C\" int entry(int n)\n"
		     "{ int r = keep([=](int k) { return k - n; }, 5);\n"
		     "return r + keep([=](int k) { return k * n; }, 4); }\n",
		     NULL);
	assert_made(&f);
	assert_int_equal(f.patch->function_count, 1);
	assert_string_equal(f.patch->functions[0].name, "entry");
	fixture_free(&f);
}

static void a_program_at_fixed_addresses_works_too(void **state)
{
	struct fixture f;

	fixture_make(&f, "-x c -fno-pie -no-pie",
		     "#include <stdio.h>\n"
		     "static int counter; int entry(int n) { puts(\"words\"); return counter += n; "
		     "}\n",
		     "#include <stdio.h>\n"
		     "static int counter; int entry(int n) { puts(\"other\"); return counter += n; "
		     "}\n",
		     NULL);
	assert_made(&f);
	assert_false(f.patch->targets[0].is_pie);
	assert_kind(&f, "counter", PE_SYM_TARGET);
	fixture_free(&f);
}

static void hidden_and_static_names_of_other_files_are_found_when_unique(void **state)
{
	struct fixture f;

	other_source = "__attribute__((visibility(\"hidden\"), noinline)) int low(int n)\n"
		       "{ return n * 17 / 3; }\n"
		       "static int counter = 4; int *where(void) { return &counter; }\n";
	fixture_make(&f, "-x c -fPIE",
		     "static int counter; int entry(int n) { return counter += n * 3; }\n",
		     "int low(int) __attribute__((visibility(\"hidden\")));\n"
		     "static int counter; int entry(int n) { return counter += low(n) * 5; }\n",
		     NULL);
	assert_made(&f);
	assert_kind(&f, "low", PE_SYM_TARGET);
	assert_int_equal(find_symbol(&f, "low")->value, image_address(&f, "low"));
	/* Its own counter (in .bss), not the other file's (in .data). */
	assert_kind(&f, "counter", PE_SYM_TARGET);
	uint64_t vaddr = find_symbol(&f, "counter")->value;
	assert_null(pe_image_bytes(f.image, vaddr, 4));
	fixture_free(&f);
}

static void a_static_object_with_a_constructor_stays_shared(void **state)
{
	static const char source[] = "#include <string>\n"
				     "extern \"C\" int entry(int n)\n"
				     "{ static std::string kept(\"x\"); kept += \"%s\"; return "
				     "(int)kept.size() * n; }\n";
	pe_auto_free char *base = NULL, *patched = NULL;
	struct fixture f;

	assert_true(asprintf(&base, source, "a") > 0);
	assert_true(asprintf(&patched, source, "bcd") > 0);
	fixture_make(&f, "-x c++ -fPIC", base, patched, NULL);
	assert_made(&f);
	assert_kind(&f, "_ZZ5entryE4kept", PE_SYM_TARGET);
	assert_kind(&f, "_ZGVZ5entryE4kept", PE_SYM_TARGET);
	assert_int_equal(f.patch->function_count, 1);
	fixture_free(&f);
}

static void the_same_inputs_give_the_same_bytes(void **state)
{
	pe_auto_free char *base = NULL, *patched = NULL;
	pe_auto_free void *first = NULL, *second = NULL;
	size_t first_size, second_size;
	struct fixture f;

	assert_true(asprintf(&base, switch_source, "7") > 0);
	assert_true(asprintf(&patched, switch_source, "n * 2") > 0);
	fixture_make(&f, "-x c -fPIE", base, patched, NULL);
	assert_made(&f);
	assert_null(pe_patch_serialize(f.patch, &first, &first_size));
	fixture_free(&f);
	fixture_make(&f, "-x c -fPIE", base, patched, NULL);
	assert_made(&f);
	assert_null(pe_patch_serialize(f.patch, &second, &second_size));
	fixture_free(&f);
	assert_int_equal(first_size, second_size);
	assert_memory_equal(first, second, first_size);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_changed_function_is_replaced_and_its_neighbours_are_not),
		cmocka_unit_test(a_new_function_a_new_global_and_a_new_string_come_along),
		cmocka_unit_test(only_the_strings_that_are_used_are_copied),
		cmocka_unit_test(a_static_local_stays_shared_when_its_number_changes),
		cmocka_unit_test(a_new_static_of_the_same_name_in_the_same_function_is_refused),
		cmocka_unit_test(
			statics_of_one_name_in_one_function_go_on_while_their_number_stays),
		cmocka_unit_test(callers_that_inlined_a_changed_function_are_replaced),
		cmocka_unit_test(a_static_function_of_cxx_is_told_from_what_is_compiled_otherwise),
		cmocka_unit_test(lines_that_move_change_nothing),
		cmocka_unit_test(clones_correlate_whatever_their_number),
		cmocka_unit_test(the_cold_part_belongs_to_its_function),
		cmocka_unit_test(a_jump_table_comes_with_its_function),
		cmocka_unit_test(a_table_of_labels_is_new_next_to_a_changed_function),
		cmocka_unit_test(thread_locals_become_offsets_from_the_thread_pointer),
		cmocka_unit_test(exceptions_bring_unwind_and_exception_tables),
		cmocka_unit_test(lambdas_correlate_when_one_is_added_before_them),
		cmocka_unit_test(a_program_at_fixed_addresses_works_too),
		cmocka_unit_test(hidden_and_static_names_of_other_files_are_found_when_unique),
		cmocka_unit_test(a_static_object_with_a_constructor_stays_shared),
		cmocka_unit_test(the_same_inputs_give_the_same_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

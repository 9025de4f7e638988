/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The run-pre match on small programs in the flavours that compilers and linkers have: what is the
 * same is found the same, at its true place; what differs is named.
 */
#include "elf_build.h"

#include <elf.h>

#include "build/match.h"
#include "engine/cleanup.h"

/* Two files with statics of the same names; `same` is equal in both but for what it refers to. */
static const char common_source[] =
	"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <errno.h>\n"
	"static int counter = 5; static char buffer[64]; static __thread int local_tls;\n"
	"static __thread long more_tls[4] = { 7, 8 };\n"
	"__thread int WHO(tls_exported); extern __thread int OTHER(tls_exported);\n"
	"typedef int (*callback)(int);\n"
	"__attribute__((noinline)) static int same(int x) { return counter += x; }\n"
	"__attribute__((noinline)) static int differ(int x) { return x * DIFFER + same(x); }\n"
	"int WHO(near)(int x)\n"
	"{ while (x > 100) x -= DIFFER * x / 7; if (x == 5) return same(x); x ^= counter;\n"
	"  return x == 9 ? differ(x + 1) : same(x + 1); }\n"
	"__attribute__((noinline)) static int close(int x) { return counter -= x; }\n"
	"int WHO(jumps)(int x, int y)\n"
	"{ switch (y) { case 10: return close(x); case 11: x = x * 7; break;\n"
	"  case 12: x = counter / 3; break; case 13: return close(x + 1);\n"
	"  case 14: counter = x * 5; break; case 15: x -= counter; break;\n"
	"  case 16: x ^= counter; break; }\n"
	"  return x + counter; }\n"
	"static const callback table[] = { same, differ, abs };\n"
	"static const char *const names[] = { \"one\", \"two\", \"three\" };\n"
	"int WHO(exported)(int x)\n"
	"{ static int calls; buffer[x & 63] = (char)++calls; local_tls += x; more_tls[x & 3]++;\n"
	"  WHO(tls_exported)++; OTHER(tls_exported)--;\n"
	"  return table[x % 3](x) + differ(x) + (int)strlen(names[x % 3]) + local_tls; }\n"
	"int WHO(choose)(int x, const char *s)\n"
	"{ switch (x) { case 0: return puts(\"zero\"); case 1: return same(3);\n"
	"  case 2: return fputs(s, stderr); case 3: return errno; case 4: return atoi(s);\n"
	"  case 5: return differ(x) - 1; case 6: return (int)more_tls[1]; case 7: return 99;\n"
	"  default: abort(); } }\n"
	"int WHO(tail)(int x)\n"
	"{ while (x > 100) x -= DIFFER * x / 7; if (x == 5) return same(x); x ^= counter;\n"
	"  switch (x) { case 3: return differ(x + 1); case 4: return counter; case 5: return 77;\n"
	"  case 6: return x * 31 + counter; case 7: return 2; case 8: return local_tls; }\n"
	"  return same(x + 1); }\n"
	"double WHO(scale)(double d) { return d * 3.25 + 1e300; }\n"
	"int OTHER(exported)(int); int WHO(crossed)(int x) { return OTHER(exported)(x + 1); }\n"
	"static int unused_but_kept(int x) __attribute__((used, noinline));\n"
	"static int unused_but_kept(int x) { return x * 41 + x / 7 + (x ^ 0x1234567); }\n";

static void write_sources(void)
{
	pe_auto_free char *a = NULL, *b = NULL;

	assert_true(asprintf(&a,
			     "#define WHO(x) a_##x\n#define OTHER(x) b_##x\n#define DIFFER 3\n%s",
			     common_source) > 0);
	assert_true(asprintf(&b,
			     "#define WHO(x) b_##x\n#define OTHER(x) a_##x\n#define DIFFER 5\n%s",
			     common_source) > 0);
	write_text("a.c", a);
	write_text("b.c", b);
	write_text("m.c", "int a_exported(int); int main(int c, char **v)\n"
			  "{ return a_exported(c) != 0; }\n");
}

/*
 * "p" is the shipped program, "truth" the same one in which the statics of a.c have names of their
 * own, "a.o" what is matched: a.c with -ffunction-sections.
 */
static void build(const char *cflags, const char *ldflags)
{
	write_sources();
	run("gcc -O2 %s -c a.c -o a_shipped.o && gcc -O2 %s -c b.c && gcc -O2 %s -c m.c", cflags,
	    cflags, cflags);
	run("gcc %s b.o a_shipped.o m.o -o full && nm --defined-only full > p.sym", ldflags);
	run("objcopy --redefine-sym same=a_same --redefine-sym counter=a_counter "
	    "--redefine-sym differ=a_differ --redefine-sym local_tls=a_local_tls "
	    "--redefine-sym table=a_table --redefine-sym unused_but_kept=a_unused a_shipped.o "
	    "a_named.o");
	run("gcc %s b.o a_named.o m.o -o truth && strip -o p full", ldflags);
	run("gcc -O2 %s -ffunction-sections -fdata-sections -c a.c -o a.o", cflags);
}

static struct pe_match *match_open(const char *object_path, const char *image_path, bool list)
{
	struct pe_object *object = NULL;
	struct pe_image *image = NULL;
	struct pe_match *match = NULL;

	assert_null(pe_object_open(object_path, &object));
	assert_null(pe_image_open(image_path, &image));
	if (list)
		assert_null(pe_image_add_nm(image, "p.sym"));
	assert_null(pe_match_run(object, image, &match));
	return match;
}

static void match_close(struct pe_match *match)
{
	struct pe_object *object = (struct pe_object *)match->object;
	struct pe_image *image = (struct pe_image *)match->image;

	pe_match_free(match);
	pe_object_close(object);
	pe_image_close(image);
}

static const struct pe_match_function *function_named(const struct pe_match *match,
						      const char *name)
{
	const struct pe_object_symbol *symbol = pe_object_find(match->object, name);
	const struct pe_match_function *function =
		symbol ? pe_match_function_of(match, symbol) : NULL;

	if (!function)
		fail_msg("no function %s", name);
	return function;
}

static uint64_t true_address(const char *name)
{
	struct pe_image *truth;
	size_t count;

	assert_null(pe_image_open("truth", &truth));
	const struct pe_image_symbol *const *found = pe_image_find(truth, name, &count);
	if (count != 1)
		fail_msg("%zu symbols %s", count, name);
	uint64_t vaddr = found[0]->vaddr;
	pe_image_close(truth);
	return vaddr;
}

static void all_match(const struct pe_match *match)
{
	assert_true(match->function_count >= 7);
	for (size_t i = 0; i < match->function_count; i++) {
		const struct pe_match_function *function = &match->functions[i];

		if (function->verdict > PE_MATCH_RELOCATED || function->cause)
			fail_msg("%s: %s: %s", function->symbol->name,
				 pe_match_verdict_name(function->verdict), function->cause);
	}
}

static void places_are_true(const struct pe_match *match)
{
	static const char *const names[][2] = { { "same", "a_same" },
						{ "differ", "a_differ" },
						{ "counter", "a_counter" },
						{ "table", "a_table" },
						{ "unused_but_kept", "a_unused" },
						{ "a_choose", "a_choose" } };
	uint64_t vaddr, size, align;
	int64_t tpoff;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const struct pe_object_symbol *symbol = pe_object_find(match->object, names[i][0]);

		assert_non_null(symbol);
		if (!pe_match_address(match, symbol, &vaddr))
			fail_msg("no address of %s", names[i][0]);
		assert_int_equal(vaddr, true_address(names[i][1]));
		/* And of its section, as relocations against section symbols want it. */
		const struct pe_object_symbol *section = &match->object->symbols[1];
		for (; section->section != symbol->section || section->type != STT_SECTION;
		     section++)
			;
		if (symbol->type != STT_FUNC) {
			assert_true(pe_match_address(match, section, &vaddr));
			assert_int_equal(vaddr + symbol->value, true_address(names[i][1]));
		}
	}
	pe_image_tls(match->image, &size, &align);
	size = (size + align - 1) & ~(align - 1);
	assert_true(pe_match_tls_offset(match, pe_object_find(match->object, "local_tls"), &tpoff));
	assert_int_equal(tpoff, (int64_t)(true_address("a_local_tls") - size));
	assert_false(pe_match_address(match, pe_object_find(match->object, "local_tls"), &vaddr));
}

static const struct {
	const char *cflags, *ldflags;
} flavours[] = {
	{ "-fPIC", "-pie -Wl,-z,now" },
	{ "-fPIE", "-pie" },
	{ "-fno-pie", "-no-pie" },
	{ "-fPIC", "-no-pie" },
	{ "-fPIC -fno-plt", "-pie" },
	{ "-fPIC -fno-plt", "-no-pie" },
	{ "-fPIE -fcf-protection=full", "-pie -Wl,-z,ibtplt" },
	{ "-fPIE -fno-jump-tables -fno-omit-frame-pointer", "-pie -Wl,-z,norelro" },
	{ "-fPIE", "-pie -Wl,-z,pack-relative-relocs" },
};

static void every_flavour_of_a_program_matches_with_its_statics_at_their_true_place(void **state)
{
	for (size_t i = 0; i < sizeof(flavours) / sizeof(flavours[0]); i++) {
		print_message("   %s | %s\n", flavours[i].cflags, flavours[i].ldflags);
		build(flavours[i].cflags, flavours[i].ldflags);
		struct pe_match *match = match_open("a.o", "p", true);

		all_match(match);
		places_are_true(match);
		match_close(match);
	}
}

static const struct pe_match_function *after_edit(const char *edit, const char *function,
						  struct pe_match **ret)
{
	build("-fPIC", "-pie");
	run("sed -i '%s' a.c && gcc -O2 -fPIC -ffunction-sections -fdata-sections -c a.c -o a.o",
	    edit);
	*ret = match_open("a.o", "p", true);
	return function_named(*ret, function);
}

static void different(const char *edit, const char *name, const char *cause)
{
	struct pe_match *match;
	const struct pe_match_function *function = after_edit(edit, name, &match);

	if (function->verdict != PE_MATCH_DIFFERENT || !function->cause ||
	    !strstr(function->cause, cause))
		fail_msg("%s: %s, cause: %s", edit, pe_match_verdict_name(function->verdict),
			 function->cause);
	match_close(match);
}

static void jumps_that_the_assembler_sized_otherwise_do_not_make_a_function_differ(void **state)
{
	build("-fPIC", "-pie");
	struct pe_match *match = match_open("a.o", "p", true);
	const struct pe_match_function *near = function_named(match, "a_near");
	uint64_t start, end;

	assert_int_equal(near->verdict, PE_MATCH_RELOCATED);
	assert_true(near->size < near->symbol->size);
	assert_true(pe_image_function_extent(match->image, near->vaddr, &start, &end));
	assert_int_equal(end - start, near->size);
	match_close(match);
	different("s/return 77/return 78/", "a_tail", "first difference");
	different("s/if (x == 5) return same/if (x == 5) return abs/", "a_near", "");
	different("s/: same(x + 1)/: abs(x + 1)/", "a_near", "");
	different("s/case 3: return differ(x + 1); case 4: return counter/"
		  "case 4: return differ(x + 1); case 3: return counter/",
		  "a_tail", "");
}

/* Without alignment the sizes of jumps move what stands behind them. */
#define UNALIGNED "-fPIC -fno-align-jumps -fno-align-labels"

static void a_jump_table_leads_into_a_function_with_jumps_of_other_sizes(void **state)
{
	build(UNALIGNED, "-pie");
	struct pe_match *match = match_open("a.o", "p", true);
	const struct pe_match_function *jumps = function_named(match, "a_jumps");

	if (jumps->verdict != PE_MATCH_RELOCATED)
		fail_msg("%s: %s", pe_match_verdict_name(jumps->verdict), jumps->cause);
	assert_true(jumps->size < jumps->symbol->size);
	match_close(match);
	/* The same instructions, other cases. */
	run("sed -i 's/case 11: x = x/case 15: x = x/; s/case 15: x -=/case 11: x -=/' a.c");
	run("gcc -O2 " UNALIGNED " -ffunction-sections -fdata-sections -c a.c -o a.o");
	match = match_open("a.o", "p", true);
	assert_int_equal(function_named(match, "a_jumps")->verdict, PE_MATCH_DIFFERENT);
	match_close(match);
}

static void a_shared_library_matches_with_its_thread_locals(void **state)
{
	build("-fPIC", "-shared");
	struct pe_match *match = match_open("a.o", "p", true);
	all_match(match);
	match_close(match);
}

static void without_a_symbol_list_statics_are_found_by_what_refers_to_them(void **state)
{
	uint64_t vaddr;

	build("-fPIC", "-pie -rdynamic");
	struct pe_match *match = match_open("a.o", "p", false);
	all_match(match);
	places_are_true(match);
	/* Nothing refers to it: found by its size and code, though b.c has a copy. */
	assert_true(
		pe_match_address(match, pe_object_find(match->object, "unused_but_kept"), &vaddr));
	assert_int_equal(vaddr, true_address("a_unused"));
	match_close(match);
}

static void what_differs_is_named_with_its_cause(void **state)
{
	different("s/DIFFER 3/DIFFER 9/", "differ", "first difference at");
	different("s/\"zero\"/\"nought\"/", "a_choose", "another string for \"nought\"");
	different("s/, stderr/, stdout/", "a_choose", "refers to stderr, not to stdout");
	different("s/3.25/3.5/", "a_scale", "another constant");
	different("s/{ same, differ, abs }/{ differ, same, abs }/", "a_exported", "refers to same");
	different("s/case 7: return 99/case 5000: return 99/", "a_choose", "at +");
	/* The same instructions, other cases: only the jump table tells. */
	different("s/case 3: return errno; case 4: return atoi/case 4: return errno; case 3: "
		  "return atoi/",
		  "a_choose", "");
	different("s/\"two\"/\"2\"/", "a_exported", "another string");
	different("s/int counter = 5/int counter = 6/", "same", "data");
}

static void a_function_that_the_image_lacks_is_absent(void **state)
{
	struct pe_match *match;
	const struct pe_match_function *function =
		after_edit("$ a int added(int x) { return x + 12345; }", "added", &match);

	assert_int_equal(function->verdict, PE_MATCH_ABSENT);
	assert_int_equal(function->vaddr, 0);
	assert_non_null(function->cause);
	assert_int_equal(function_named(match, "a_choose")->verdict, PE_MATCH_RELOCATED);
	match_close(match);
}

static void a_weak_instance_from_another_object_says_so(void **state)
{
	write_text("w.h", "template <class T> __attribute__((noinline)) T mix(T x)\n"
			  "{ return x * FACTOR + 1; }\n");
	write_text("w1.cc",
		   "#define FACTOR 3\n#include \"w.h\"\nint one(int x) { return mix(x); }\n");
	write_text("w2.cc", "#define FACTOR 7\n#include \"w.h\"\nint one(int);\n"
			    "int main(int c, char **v) { return mix(c) + one(c); }\n");
	run("g++ -O1 -c w1.cc w2.cc && g++ w1.o w2.o -o p && nm --defined-only p > p.sym && strip "
	    "p");
	struct pe_match *match = match_open("w2.o", "p", true);
	const struct pe_match_function *mix = function_named(match, "_Z3mixIiET_S0_");

	assert_int_equal(mix->verdict, PE_MATCH_DIFFERENT);
	assert_non_null(strstr(mix->cause, "weak: the image has the copy of another object"));
	json_t *json = pe_match_to_json(match);
	assert_int_equal(json_integer_value(json_object_get(json, "total")), 2);
	assert_int_equal(json_integer_value(json_object_get(json, "identical")), 1);
	const json_t *first = json_array_get(json_object_get(json, "functions"), 0);
	assert_string_equal(json_string_value(json_object_get(first, "name")), "int mix<int>(int)");
	assert_string_equal(json_string_value(json_object_get(first, "verdict")), "different");
	json_decref(json);
	match_close(match);
}

/*
 * A switch behind a jump of another size, as distances in the image make it; one of its labels
 * stands before padding that the image lacks. Its .cold part, which stands first, leads back in.
 */
static const char flow_source[] =
	".section .text.unlikely.pick,\"ax\",@progbits\n"
	"pick.cold:\n	addl $5, %eax\n	jmp .Lback\n"
	".size pick.cold, . - pick.cold\n.type pick.cold, @function\n"
	".section .text.pick,\"ax\",@progbits\n.globl pick\n.type pick, @function\n"
	"pick:\n	cmpl $3, %edi\n	ja pick.cold\n	JUMP .Lon\n	int3\n"
	".Lon:\n	leaq .Ltable(%rip), %rdx\n	movslq (%rdx,%rdi,4), %rax\n"
	"	addq %rdx, %rax\n	jmp *%rax\n"
	".Lzero:\n	movl $10, %eax\n	ret\n"
	".Lone:\nPADDING\n.Lloop:\n	incl %eax\n	js .Lloop\n	ret\n"
	".Lback:\n	movl $30, %eax\n	ret\n.Lthree:\n	movl $40, %eax\n	ret\n"
	".size pick, . - pick\n"
	".section .rodata\n.align 4\n"
	".Lother: .long .Lthree - .Lother, .Lzero - .Lother\n"
	".Ltable: .long .Lzero - .Ltable, .Lone - .Ltable, FIRST - .Ltable, SECOND - .Ltable\n"
	".section .text.user,\"ax\",@progbits\n.globl user\n.type user, @function\n"
	"user:\n	leaq .Lother(%rip), %rax\n	ret\n.size user, . - user\n"
	".section .note.GNU-stack,\"\",@progbits\n";

static struct pe_match *match_flow(const char *first, const char *second)
{
	write_text("flow.S", flow_source);
	write_text("m.c", "int pick(unsigned); void *user(void);\n"
			  "int main(int c, char **v) { return pick(c) + !user(); }\n");
	run("gcc -c -DFIRST=.Lback -DSECOND=.Lthree '-DJUMP={disp32} jmp' '-DPADDING=nopw "
	    "8(%%rax)' "
	    "flow.S -o flow.o");
	run("gcc -c -DFIRST=%s -DSECOND=%s -DJUMP=jmp -DPADDING= flow.S -o shipped.o", first,
	    second);
	run("gcc m.c shipped.o -o p && nm --defined-only p > p.sym && strip p");
	return match_open("flow.o", "p", true);
}

static void a_switch_behind_jumps_of_other_sizes_matches(void **state)
{
	struct pe_match *match = match_flow(".Lback", ".Lthree");

	assert_int_equal(function_named(match, "user")->verdict, PE_MATCH_RELOCATED);
	if (function_named(match, "pick")->verdict != PE_MATCH_RELOCATED)
		fail_msg("pick: %s", function_named(match, "pick")->cause);
	if (function_named(match, "pick.cold")->verdict != PE_MATCH_RELOCATED)
		fail_msg("pick.cold: %s", function_named(match, "pick.cold")->cause);
	match_close(match);
	match = match_flow(".Lthree", ".Lback");
	assert_int_equal(function_named(match, "pick")->verdict, PE_MATCH_DIFFERENT);
	assert_non_null(strstr(function_named(match, "pick")->cause, "refers to"));
	match_close(match);
}

/* Objects that were damaged and images that were: any verdict, no crash. */
static void damaged_input_is_matched_without_a_crash(void **state)
{
	uint32_t seed = 3;
	size_t size, image_size;

	build("-fPIC", "-pie");
	pe_auto_free uint8_t *bytes = read_file("a.o", &size);
	pe_auto_free uint8_t *image_bytes = read_file("full", &image_size);
	for (int round = 0; round < 600; round++) {
		pe_auto_free uint8_t *copy = malloc(size + image_size);
		struct pe_object *object = NULL;
		struct pe_image *image = NULL;
		struct pe_match *match = NULL;

		memcpy(copy, bytes, size);
		memcpy(copy + size, image_bytes, image_size);
		for (int flips = 1 + round % 5; flips > 0; flips--)
			copy[next_random(&seed) % (size + (round % 2 ? image_size : 0))] ^=
				(uint8_t)(1 << next_random(&seed) % 8);
		write_file("d.o", copy, size);
		write_file("d", copy + size, image_size);
		pe_auto_error struct pe_error *object_err = pe_object_open("d.o", &object);
		pe_auto_error struct pe_error *image_err = pe_image_open("d", &image);
		if (!object_err && !image_err) {
			pe_auto_error struct pe_error *err = pe_match_run(object, image, &match);
			uint64_t vaddr;
			int64_t tpoff;

			for (size_t i = 0; !err && i < object->symbol_count; i++) {
				pe_match_address(match, &object->symbols[i], &vaddr);
				pe_match_tls_offset(match, &object->symbols[i], &tpoff);
			}
			pe_match_free(match);
		}
		pe_object_close(object);
		pe_image_close(image);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			every_flavour_of_a_program_matches_with_its_statics_at_their_true_place),
		cmocka_unit_test(
			jumps_that_the_assembler_sized_otherwise_do_not_make_a_function_differ),
		cmocka_unit_test(a_jump_table_leads_into_a_function_with_jumps_of_other_sizes),
		cmocka_unit_test(a_shared_library_matches_with_its_thread_locals),
		cmocka_unit_test(without_a_symbol_list_statics_are_found_by_what_refers_to_them),
		cmocka_unit_test(what_differs_is_named_with_its_cause),
		cmocka_unit_test(a_function_that_the_image_lacks_is_absent),
		cmocka_unit_test(a_weak_instance_from_another_object_says_so),
		cmocka_unit_test(a_switch_behind_jumps_of_other_sizes_matches),
		cmocka_unit_test(damaged_input_is_matched_without_a_crash),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}

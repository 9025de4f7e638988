/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Code that the x86-64 room makes is executed; what it must not touch is refused with the reason.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <elf.h>
#include <string.h>
#include <sys/mman.h>

#include "arch_checks.h"
#include "engine/arch.h"

static const struct pe_arch *const x86 = &pe_arch_x86_64;

/* Two pages of code and data some megabytes apart: relative distances must be changed to work. */
static uint8_t *here, *there;
static const size_t apart = 64 << 20;

static int map_pages(void **state)
{
	here = mmap(NULL, apart + 8192, PROT_READ | PROT_WRITE | PROT_EXEC,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (here == MAP_FAILED)
		return -1;
	there = here + apart;
	return 0;
}

static uint64_t addr(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

static long call(const void *code, long a, long b)
{
	long (*function)(long, long);

	memcpy(&function, &code, sizeof(function));
	return function(a, b);
}

static void put32(uint8_t *at, int64_t value)
{
	int32_t v = (int32_t)value;

	assert_int_equal(v, value);
	memcpy(at, &v, sizeof(v));
}

/* ---- jumps and stubs ---- */

static void a_jump_is_decoded_to_where_it_was_encoded(void **state)
{
	static const struct {
		uint64_t from, to;
	} jumps[] = {
		{ 0x400000, 0x400000 },
		{ 0x400000, 0x400005 },
		{ 0x555555554000, 0x5555d5554004 },
		{ 0x5555d5554000, 0x555555554005 },
	};
	uint8_t code[PE_JUMP_MAX];
	uint64_t to;

	for (size_t i = 0; i < sizeof(jumps) / sizeof(*jumps); i++) {
		must(x86->jump_encode(jumps[i].from, jumps[i].to, code));
		assert_true(x86->jump_decode(jumps[i].from, code, x86->jump_size, &to));
		assert_int_equal(to, jumps[i].to);
	}
	assert_false(x86->jump_decode(0, code, x86->jump_size - 1, &to));
	assert_false(x86->jump_decode(0, (const uint8_t *)"\xe8\0\0\0\0", 5, &to));
}

static void a_jump_out_of_reach_is_refused(void **state)
{
	uint8_t code[PE_JUMP_MAX];

	must(x86->jump_encode(0x400000, 0x400005UL + INT32_MAX, code));
	refused(x86->jump_encode(0x400000, 0x400006ULL + INT32_MAX, code), "is out of reach");
	must(x86->jump_encode(0x100000000, 0x100000005 + (int64_t)INT32_MIN, code));
	refused(x86->jump_encode(0x100000000, 0x100000004 + (int64_t)INT32_MIN, code),
		"a jump to 0x80000004 is out of reach");
}

/* mov $value,%eax; ret */
static uint8_t *returns(uint8_t *at, int value)
{
	at[0] = 0xb8;
	put32(at + 1, value);
	at[5] = 0xc3;
	return at;
}

static void the_selecting_stub_follows_its_word(void **state)
{
	uint32_t *word = (uint32_t *)(there + 64);
	uint8_t *old = returns(here + 256, 1), *new = returns(there + 256, 2);
	size_t size;

	must(x86->select_stub(addr(there), addr(word), addr(old), addr(new), there, &size));
	assert_in_range(size, 1, PE_STUB_MAX);
	*word = 0;
	assert_int_equal(call(there, 0, 0), 1);
	*word = 1;
	assert_int_equal(call(there, 0, 0), 2);
	*word = 0x80000000;
	assert_int_equal(call(there, 0, 0), 2);
}

static void the_selecting_stub_keeps_arguments(void **state)
{
	/* lea (%rdi,%rsi,2),%rax; ret */
	static const uint8_t sum[] = { 0x48, 0x8d, 0x04, 0x77, 0xc3 };
	uint32_t *word = (uint32_t *)(there + 64);
	size_t size;

	memcpy(here, sum, sizeof(sum));
	must(x86->select_stub(addr(there), addr(word), addr(here), addr(here), there, &size));
	for (*word = 0; *word < 2; ++*word)
		assert_int_equal(call(there, 1L << 40, 21), (1L << 40) + 42);
}

static void a_stub_out_of_reach_is_refused(void **state)
{
	uint8_t out[PE_STUB_MAX];
	uint64_t at = 0x10000, far = 0x200000000;
	size_t size;

	refused(x86->select_stub(at, far, at, at, out, &size), "the selecting word to");
	refused(x86->select_stub(at, at, far, at, out, &size), "a jump to 0x200000000");
	refused(x86->select_stub(at, at, at, far, out, &size), "a jump to 0x200000000");
	refused(x86->plt_stub(at, far, out, &size), "the slot of a far jump");
}

static void the_far_jump_goes_through_its_slot(void **state)
{
	uint64_t *slot = (uint64_t *)(there + 64);
	size_t size;

	*slot = addr(returns(here, 7));
	must(x86->plt_stub(addr(there), addr(slot), there, &size));
	assert_in_range(size, 1, PE_STUB_MAX);
	assert_int_equal(call(there, 0, 0), 7);
}

/* ---- moving instructions ---- */

/* Moves [here, here + displaced) there, with the way back behind it, and ruins the original. */
static void move_entry(size_t displaced)
{
	size_t size;

	must(x86->insns_move(addr(here), here, displaced, addr(there), there, &size));
	assert_in_range(size, 1, PE_STUB_MAX);
	must(x86->jump_encode(addr(there + size), addr(here + displaced), there + size));
	memset(here, 0xcc, displaced);
}

static void a_moved_rip_relative_operand_names_the_same_place(void **state)
{
	/* cmpl $42,x(%rip); sete %al; movzbl %al,%eax; ret: an immediate follows the address */
	static const uint8_t code[] = { 0x83, 0x3d, 0,	  0,	0,    0,    42,
					0x0f, 0x94, 0xc0, 0x0f, 0xb6, 0xc0, 0xc3 };
	uint32_t *x = (uint32_t *)(here + 512);

	memcpy(here, code, sizeof(code));
	put32(here + 2, (int64_t)(addr(x) - addr(here + 7)));
	move_entry(7);
	*x = 42;
	assert_int_equal(call(there, 0, 0), 1);
	*x = 43;
	assert_int_equal(call(there, 0, 0), 0);
}

static void rip_relative_operands_of_all_encodings_are_changed(void **state)
{
	static const struct {
		uint8_t code[12];
		uint8_t size, field;
	} forms[] = {
		{ { 0x48, 0x8b, 0x05, 0, 0x10, 0, 0 }, 7, 3 },		       /* mov x,%rax */
		{ { 0x48, 0x8d, 0x3d, 0, 0x10, 0, 0 }, 7, 3 },		       /* lea x,%rdi */
		{ { 0x48, 0xc7, 0x05, 0, 0x10, 0, 0, 1, 2, 3, 4 }, 11, 3 },    /* movq $,x */
		{ { 0x66, 0xc7, 0x05, 0, 0x10, 0, 0, 1, 2 }, 9, 3 },	       /* movw $,x */
		{ { 0xf0, 0xff, 0x05, 0, 0x10, 0, 0 }, 7, 3 },		       /* lock incl x */
		{ { 0x0f, 0x28, 0x05, 0, 0x10, 0, 0 }, 7, 3 },		       /* movaps x,%xmm0 */
		{ { 0xf3, 0x0f, 0x6f, 0x05, 0, 0x10, 0, 0 }, 8, 4 },	       /* movdqu x,%xmm0 */
		{ { 0x66, 0x0f, 0x3a, 0x0f, 0x05, 0, 0x10, 0, 0, 8 }, 10, 5 }, /* palignr */
		{ { 0xc5, 0xfc, 0x28, 0x05, 0, 0x10, 0, 0 }, 8, 4 },	       /* vmovaps x,%ymm0 */
		{ { 0xc4, 0xe2, 0x7d, 0x58, 0x05, 0, 0x10, 0, 0 }, 9, 5 },     /* vpbroadcastd */
		{ { 0x62, 0xf1, 0x7c, 0x48, 0x28, 0x05, 0, 0x10, 0, 0 }, 10, 6 }, /* zmm0 */
		{ { 0x48, 0x83, 0x3d, 0, 0x10, 0, 0, 0 }, 8, 3 },		  /* cmpq $0,x */
		{ { 0xff, 0x25, 0, 0x10, 0, 0 }, 6, 2 },			  /* jmp *x */
		{ { 0xff, 0x35, 0, 0x10, 0, 0 }, 6, 2 },			  /* push x */
	};

	for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++) {
		uint8_t out[PE_STUB_MAX], expected[12];
		size_t size;

		must(x86->insns_move(0x10000, forms[i].code, forms[i].size, 0x30000, out, &size));
		memcpy(expected, forms[i].code, sizeof(expected));
		put32(expected + forms[i].field, 0x1000 - 0x20000);
		assert_int_equal(size, forms[i].size);
		assert_memory_equal(out, expected, size);
	}
}

static void moved_branches_lead_to_the_same_places(void **state)
{
	/* test %edi,%edi; je 1f; jmp 2f; int3; 1: mov $10,%eax; ret; 2: mov $20,%eax; ret */
	static const uint8_t head[] = { 0x85, 0xff, 0x74, 14, 0xeb, 26, 0xcc };

	memcpy(here, head, sizeof(head));
	returns(here + 18, 10);
	returns(here + 32, 20);
	move_entry(6);
	assert_int_equal(call(there, 0, 0), 10);
	assert_int_equal(call(there, 1, 0), 20);

	/* The same with near branches: je near; jmp near */
	static const uint8_t near[] = { 0x85, 0xff, 0x0f, 0x84, 10, 0, 0, 0, 0xe9, 19, 0, 0, 0 };

	memcpy(here, near, sizeof(near));
	move_entry(13);
	assert_int_equal(call(there, 0, 0), 10);
	assert_int_equal(call(there, 1, 0), 20);
}

static void a_branch_back_to_the_entry_stays_one(void **state)
{
	/* dec %edi; jnz entry; ... : the copy must lead to the original entry */
	static const uint8_t code[] = { 0xff, 0xcf, 0x75, 0xfc, 0x90 };
	uint8_t out[PE_STUB_MAX];
	size_t size;

	must(x86->insns_move(0x10000, code, sizeof(code), 0x20000, out, &size));
	assert_int_equal(size, 2 + 6 + 1);
	assert_memory_equal(out + 2, "\x0f\x85", 2);

	uint8_t expected[4];

	put32(expected, 0x10000 - 0x20008);
	assert_memory_equal(out + 4, expected, 4);
}

/* The callee returns the return address it sees: unwinder and stack checks see that one too. */
static void a_moved_call_returns_to_the_original(void **state)
{
	static const uint8_t callee[] = { 0x48, 0x8b, 0x04, 0x24, 0xc3 }; /* mov (%rsp),%rax; ret */

	/* call callee; inc %rax; ret */
	here[0] = 0xe8;
	put32(here + 1, 251);
	memcpy(here + 5, "\x48\xff\xc0\xc3", 4);
	memcpy(here + 256, callee, sizeof(callee));
	move_entry(5);
	assert_int_equal(call(there, 0, 0), addr(here + 5) + 1);

	/* call *slot(%rip); inc %rax; ret */
	uint64_t *slot = (uint64_t *)(here + 512);

	*slot = addr(here + 256);
	memcpy(here, "\xff\x15", 2);
	put32(here + 2, 506);
	memcpy(here + 6, "\x48\xff\xc0\xc3", 4);
	move_entry(6);
	assert_int_equal(call(there, 0, 0), addr(here + 6) + 1);

	/* mov %rdi,%rax; call *%rax; inc %rax; ret */
	memcpy(here, "\x48\x89\xf8\xff\xd0\x48\xff\xc0\xc3", 9);
	move_entry(5);
	assert_int_equal(call(there, (long)addr(here + 256), 0), addr(here + 5) + 1);

	/* call *8(%rdi), with a REX prefix: call *8(%r15) */
	uint8_t out[PE_STUB_MAX];
	size_t size;

	must(x86->insns_move(0x10000, (const uint8_t *)"\x90\x41\xff\x57\x08", 5, 0x20000, out,
			     &size));
	assert_memory_equal(out + size - 4, "\x41\xff\x67\x08", 4);
}

static void what_cannot_move_is_refused(void **state)
{
	static const struct {
		const char *code;
		size_t size;
		const char *why;
	} cases[] = {
		{ "\xe2\xfe\x90\x90\x90", 5, "(loop 0x10000) cannot move: it has no long form" },
		{ "\xe3\x10\x90\x90\x90", 5, "it has no long form" },
		{ "\xc7\xf8\x10\x00\x00\x00", 6, "it has no long form" },
		{ "\x74\x01\x90\x90\x90", 5, "it leads into the bytes that move" },
		{ "\xff\xd0\x90\x90\x90", 5, "a call would return into overwritten bytes" },
		{ "\x90\xff\x54\x24\x08", 5, "it depends on the stack pointer" },
		{ "\x67\x8b\x05\x00\x10\x00\x00", 7, "its address cannot be changed" },
		{ "\x06\x90\x90\x90\x90", 5, "cannot decode the instruction at 0x10000: 06" },
		{ "\xe9\x00\x00", 3, "cannot decode the instruction at 0x10000: e9 00 00" },
	};
	uint8_t out[PE_STUB_MAX], many[40];
	size_t size;

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		refused(x86->insns_move(0x10000, (const uint8_t *)cases[i].code, cases[i].size,
					0x20000, out, &size),
			cases[i].why);
	refused(x86->insns_move(0x10000, (const uint8_t *)"\x8b\x05\0\0\0\0", 6, 0x900000000, out,
				&size),
		"mov to 0x10006 is out of reach");
	memset(many, 0x90, sizeof(many));
	refused(x86->insns_move(0x10000, many, sizeof(many), 0x20000, out, &size), "too many");
}

static int counter;

__attribute__((noinline)) static long plain_function(long a, long b)
{
	counter++;
	for (long i = 0; i < b; i++)
		a = a * 3 + (i ^ a);
	return a + counter;
}

/* A function that the compiler made, entered through the copy of its first instructions. */
static void the_copy_of_a_real_entry_runs_the_function(void **state)
{
	long (*volatile function)(long, long) = plain_function;
	const uint8_t *code;
	struct pe_entry entry;
	size_t size;

	memcpy(&code, (void *)&function, sizeof(code));
	/* Its end is unknown here; some number of bytes ends between two instructions. */
	struct pe_error *err = NULL;

	for (size_t bytes = 16; bytes < 32; bytes++) {
		pe_error_free(err);
		err = x86->entry_examine(addr(code), code, bytes, 0, &entry);
		if (!err)
			break;
	}
	must(err);

	/* The copy must be near the data that it names. */
	uint8_t *near =
		mmap((void *)((addr(code) & ~4095UL) + (256 << 20)), 4096,
		     PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(near, MAP_FAILED);
	must(x86->insns_move(addr(code + entry.skip), code + entry.skip, entry.displaced,
			     addr(near), near, &size));
	must(x86->jump_encode(addr(near + size), addr(code + entry.skip + entry.displaced),
			      near + size));
	counter = 0;

	long expected = function(5, 6);

	counter = 0;
	assert_int_equal(call(near, 5, 6), expected);
	assert_int_equal(counter, 1);
	munmap(near, 4096);
}

/* ---- entries ---- */

static void an_entry_is_measured_in_whole_instructions(void **state)
{
	static const struct {
		const char *code;
		size_t size;
		uint8_t skip, displaced;
		bool has_call;
	} cases[] = {
		/* push %rbp; mov %rsp,%rbp; push %rbx; ret */
		{ "\x55\x48\x89\xe5\x53\xc3", 6, 0, 5, false },
		/* endbr64; the same */
		{ "\xf3\x0f\x1e\xfa\x55\x48\x89\xe5\x53\xc3", 10, 4, 5, false },
		/* sub $8,%rsp; call; ret */
		{ "\x48\x83\xec\x08\xe8\x00\x01\x00\x00\xc3", 10, 0, 9, true },
		/* movabs $,%rax; ret */
		{ "\x48\xb8\1\2\3\4\5\6\7\x08\xc3", 11, 0, 10, false },
		/* mov $1,%eax; ret: ends where the jump ends */
		{ "\xb8\1\0\0\0\xc3", 6, 0, 5, false },
		/* a loop to the entry itself, and one to the byte behind the displaced */
		{ "\xff\xcf\x48\x89\xf8\x75\xf9\x75\xfc\xc3", 10, 0, 5, false },
		/* jmp elsewhere */
		{ "\xe9\x00\x10\x00\x00", 5, 0, 5, false },
		/* endbr64 in the middle too (a landing place) */
		{ "\xb8\1\0\0\0\xf3\x0f\x1e\xfa\xc3", 10, 0, 5, false },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct pe_entry entry = { .skip = 99 };

		must(x86->entry_examine(0x10000, (const uint8_t *)cases[i].code, cases[i].size, 0,
					&entry));
		assert_int_equal(entry.skip, cases[i].skip);
		assert_int_equal(entry.displaced, cases[i].displaced);
		assert_int_equal(entry.has_call, cases[i].has_call);
	}
}

static void an_entry_that_must_not_be_overwritten_is_refused(void **state)
{
	static const struct {
		const char *code;
		size_t size;
		const char *why;
	} cases[] = {
		{ "", 0, "the function has only 0 bytes of code, an entry jump needs 5" },
		{ "\xc3", 1, "the function has only 1 bytes of code" },
		{ "\x31\xc0\xc3", 3, "the function has only 3 bytes of code" },
		{ "\x31\xc0\xc3\x90\x90\x90", 6, "the function has only 3 bytes of code" },
		{ "\x31\xc0\xc3\xcc\xcc\xcc", 6, "the function has only 3 bytes of code" },
		{ "\x31\xc0\xc3\x66\x90\xcc", 6, "the function has only 3 bytes of code" },
		{ "\xeb\x7e\x90\x90\x90\x90", 6, "the function has only 2 bytes of code" },
		{ "\xf3\x0f\x1e\xfa\x31\xc0\xc3", 7, "the function has only 3 bytes of code" },
		/* jne into the second instruction */
		{ "\x31\xc0\x48\x89\xf8\xff\xcf\x75\xf9\xc3", 10,
		  "the instruction at 0x10007 (jne) leads to 0x10002, inside the bytes" },
		/* behind endbr64 */
		{ "\xf3\x0f\x1e\xfa\x31\xc0\x48\x89\xf8\xeb\xfb", 11,
		  "(jmp) leads to 0x10006, inside" },
		/* loop into the displaced */
		{ "\x31\xc0\x48\x89\xf8\xe2\xfb\xc3", 8, "(loop) leads to 0x10002" },
		/* lea of an address among the displaced */
		{ "\x31\xc0\x48\x89\xf8\x48\x8d\x05\xf6\xff\xff\xff\xc3", 13,
		  "(lea) leads to 0x10002" },
		{ "\xe2\x10\x48\x89\xf8\xc3", 6, "cannot move: it has no long form" },
		{ "\xb8\1\0\0\0\x06\xc3", 7, "cannot decode the instruction at 0x10005: 06 c3" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct pe_entry entry;

		refused(x86->entry_examine(0x10000, (const uint8_t *)cases[i].code, cases[i].size,
					   0, &entry),
			cases[i].why);
	}
}

static void an_entry_across_two_pages_is_refused(void **state)
{
	/* push %rbp; mov %rsp,%rbp; push %rbx; ret, and endbr64 before it */
	static const uint8_t plain[] = { 0x55, 0x48, 0x89, 0xe5, 0x53, 0xc3 };
	static const uint8_t marked[] = {
		0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5, 0x53, 0xc3
	};
	struct pe_entry entry;

	must(x86->entry_examine(0x10ffb, plain, sizeof(plain), 0, &entry));
	for (uint64_t vaddr = 0x10ffc; vaddr < 0x11000; vaddr++)
		refused(x86->entry_examine(vaddr, plain, sizeof(plain), 0, &entry),
			"lies across two pages of memory");
	must(x86->entry_examine(0x11000, plain, sizeof(plain), 0, &entry));
	/* The bytes that are overwritten count, not where the function begins. */
	must(x86->entry_examine(0x10ffc, marked, sizeof(marked), 0, &entry));
	refused(x86->entry_examine(0x10ff8, marked, sizeof(marked), 0, &entry), "(0x10ffc)");
}

static void processors_are_found_by_their_elf_machine(void **state)
{
	assert_ptr_equal(pe_arch_find(EM_X86_64), x86);
	assert_null(pe_arch_find(EM_SPARC));
	assert_true(x86->jump_size <= PE_JUMP_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_jump_is_decoded_to_where_it_was_encoded),
		cmocka_unit_test(a_jump_out_of_reach_is_refused),
		cmocka_unit_test(the_selecting_stub_follows_its_word),
		cmocka_unit_test(the_selecting_stub_keeps_arguments),
		cmocka_unit_test(a_stub_out_of_reach_is_refused),
		cmocka_unit_test(the_far_jump_goes_through_its_slot),
		cmocka_unit_test(a_moved_rip_relative_operand_names_the_same_place),
		cmocka_unit_test(rip_relative_operands_of_all_encodings_are_changed),
		cmocka_unit_test(moved_branches_lead_to_the_same_places),
		cmocka_unit_test(a_branch_back_to_the_entry_stays_one),
		cmocka_unit_test(a_moved_call_returns_to_the_original),
		cmocka_unit_test(what_cannot_move_is_refused),
		cmocka_unit_test(the_copy_of_a_real_entry_runs_the_function),
		cmocka_unit_test(an_entry_is_measured_in_whole_instructions),
		cmocka_unit_test(an_entry_that_must_not_be_overwritten_is_refused),
		cmocka_unit_test(an_entry_across_two_pages_is_refused),
		cmocka_unit_test(processors_are_found_by_their_elf_machine),
	};

	return cmocka_run_group_tests(tests, map_pages, NULL);
}

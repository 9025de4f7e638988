/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Relocations of x86-64: the closed list, what each writes, and the range that each checks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <elf.h>
#include <string.h>

#include "arch_checks.h"
#include "engine/arch.h"

static const struct pe_arch *const x86 = &pe_arch_x86_64;

static const struct pe_reloc_value example = {
	.place = 0x10000,
	.symbol = 0x12345678,
	.addend = -4,
	.got_slot = 0x20000,
	.plt_stub = 0x30000,
};

static void each_relocation_is_applied(void **state)
{
	static const struct {
		uint32_t type;
		const char *name;
		size_t size;
		unsigned int need;
		bool tls;
		uint64_t result;
	} types[] = {
		{ R_X86_64_64, "R_X86_64_64", 8, 0, false, 0x12345674 },
		{ R_X86_64_PC32, "R_X86_64_PC32", 4, 0, false, 0x12335674 },
		{ R_X86_64_PC64, "R_X86_64_PC64", 8, 0, false, 0x12335674 },
		{ R_X86_64_PLT32, "R_X86_64_PLT32", 4, PE_RELOC_MAY_NEED_PLT, false, 0x12335674 },
		{ R_X86_64_32, "R_X86_64_32", 4, 0, false, 0x12345674 },
		{ R_X86_64_32S, "R_X86_64_32S", 4, 0, false, 0x12345674 },
		{ R_X86_64_GOTPCREL, "R_X86_64_GOTPCREL", 4, PE_RELOC_NEEDS_GOT, false, 0xfffc },
		{ R_X86_64_GOTPCRELX, "R_X86_64_GOTPCRELX", 4, PE_RELOC_NEEDS_GOT, false, 0xfffc },
		{ R_X86_64_REX_GOTPCRELX, "R_X86_64_REX_GOTPCRELX", 4, PE_RELOC_NEEDS_GOT, false,
		  0xfffc },
		{ R_X86_64_GOTTPOFF, "R_X86_64_GOTTPOFF", 4, PE_RELOC_NEEDS_GOT, true, 0xfffc },
		{ R_X86_64_TPOFF32, "R_X86_64_TPOFF32", 4, 0, true, 0x12345674 },
		{ R_X86_64_TPOFF64, "R_X86_64_TPOFF64", 8, 0, true, 0x12345674 },
		{ R_X86_64_DTPOFF32, "R_X86_64_DTPOFF32", 4, 0, true, 0x12345674 },
		{ R_X86_64_DTPOFF64, "R_X86_64_DTPOFF64", 8, 0, true, 0x12345674 },
	};

	for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
		uint8_t section[24], expected[24];

		memset(section, 0xaa, sizeof(section));
		memset(expected, 0xaa, sizeof(expected));
		memcpy(expected + 8, &types[i].result, types[i].size);
		assert_true(x86->reloc_known(types[i].type));
		assert_string_equal(x86->reloc_name(types[i].type), types[i].name);
		assert_int_equal(x86->reloc_size(types[i].type), types[i].size);
		assert_int_equal(x86->reloc_need(types[i].type), types[i].need);
		assert_int_equal(x86->reloc_is_tls(types[i].type), types[i].tls);
		must(x86->reloc_apply(types[i].type, &example, section, 8, sizeof(section)));
		assert_memory_equal(section, expected, sizeof(section));
	}
}

static void other_relocations_are_unknown(void **state)
{
	static const uint32_t types[] = { R_X86_64_NONE,
					  R_X86_64_COPY,
					  R_X86_64_GLOB_DAT,
					  R_X86_64_8,
					  R_X86_64_TLSGD,
					  R_X86_64_TLSLD,
					  43,
					  R_X86_64_PLTOFF64,
					  UINT32_MAX };
	uint8_t section[8];

	for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
		assert_false(x86->reloc_known(types[i]));
		assert_int_equal(x86->reloc_size(types[i]), 0);
		refused(x86->reloc_apply(types[i], &example, section, 0, 8), "is not supported");
	}
}

static void a_value_out_of_range_is_refused(void **state)
{
	static const struct {
		uint32_t type;
		uint64_t good, bad;
	} limits[] = {
		{ R_X86_64_32, UINT32_MAX, 1ULL << 32 },
		{ R_X86_64_32, 0, (uint64_t)-1 },
		{ R_X86_64_32S, INT32_MAX, 1ULL << 31 },
		{ R_X86_64_32S, (uint64_t)INT32_MIN, (uint64_t)INT32_MIN - 1 },
		{ R_X86_64_PC32, 0x10000ULL + INT32_MAX, 0x10001ULL + INT32_MAX },
		{ R_X86_64_TPOFF32, (uint64_t)-64, 1ULL << 31 },
	};
	uint8_t section[8];

	for (size_t i = 0; i < sizeof(limits) / sizeof(*limits); i++) {
		struct pe_reloc_value value = { .place = 0x10000, .symbol = limits[i].good };

		must(x86->reloc_apply(limits[i].type, &value, section, 0, sizeof(section)));
		value.symbol = limits[i].bad;
		refused(x86->reloc_apply(limits[i].type, &value, section, 0, sizeof(section)),
			"does not fit");
	}
}

static void a_far_branch_goes_through_its_stub(void **state)
{
	struct pe_reloc_value value = example;
	uint8_t section[8];
	int32_t field;

	value.symbol = 0x7f0000000000;
	must(x86->reloc_apply(R_X86_64_PLT32, &value, section, 0, sizeof(section)));
	memcpy(&field, section, sizeof(field));
	assert_int_equal(field, 0x30000 - 4 - 0x10000);
	value.plt_stub = 0;
	refused(x86->reloc_apply(R_X86_64_PLT32, &value, section, 0, sizeof(section)),
		"R_X86_64_PLT32 at 0x10000 does not fit");
}

static void a_field_past_its_section_is_an_error(void **state)
{
	struct pe_reloc_value value = example;
	uint8_t section[8];
	pe_auto_error struct pe_error *past =
		x86->reloc_apply(R_X86_64_PC32, &value, section, 5, sizeof(section));
	pe_auto_error struct pe_error *wraps =
		x86->reloc_apply(R_X86_64_PC32, &value, section, UINT64_MAX, sizeof(section));

	value.got_slot = 0;

	pe_auto_error struct pe_error *no_slot =
		x86->reloc_apply(R_X86_64_GOTPCREL, &value, section, 0, sizeof(section));

	assert_non_null(past);
	assert_non_null(wraps);
	assert_non_null(no_slot);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_relocation_is_applied),
		cmocka_unit_test(other_relocations_are_unknown),
		cmocka_unit_test(a_value_out_of_range_is_refused),
		cmocka_unit_test(a_far_branch_goes_through_its_stub),
		cmocka_unit_test(a_field_past_its_section_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

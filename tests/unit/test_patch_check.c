/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Every rule of a patch is enforced, by writer and reader alike, and its text says what is wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../fuzz/sample_patch.h"
#include "engine/cleanup.h"

struct rule {
	void (*break_it)(struct pe_patch *p);
	const char *text; /* part of the message */
};

static void set(char **field, const char *text)
{
	free(*field);
	*field = text ? strdup(text) : NULL;
}

static uint8_t *eh_frame(struct pe_patch *p)
{
	return p->sections[SAMPLE_EH_FRAME].data;
}

#define RULE(name, statement)                \
	static void name(struct pe_patch *p) \
	{                                    \
		statement;                   \
	}

/* Manifest */
RULE(no_name, set(&p->name, NULL))
RULE(name_with_slash, set(&p->name, "a/b"))
RULE(name_with_dot_first, set(&p->name, ".a"))
RULE(name_too_long,
     set(&p->name, "0123456789012345678901234567890123456789012345678901234567890123456789"))
RULE(description_with_escape, set(&p->description, "\033[2J"))
RULE(description_with_c1, set(&p->description, "\xc2\x9b"))
RULE(description_not_utf8, set(&p->description, "\xff"))
RULE(description_overlong, set(&p->description, "\xe0\x80\xaf"))
RULE(other_kind, set(&p->kind, "feature"))
RULE(no_product, set(&p->product, ""))
RULE(source_not_hex, set(&p->source_sha256, "xyz"))
RULE(no_cve_id, set(&p->cves[0].id, NULL))
RULE(gate_with_newline, set(&p->gates[0], "a\nb"))
RULE(too_many_gates, p->gate_count = 5000)
RULE(note_with_newline, set(&p->notes[0], "a\nb"))
RULE(diff_with_zero_byte, p->diff[3] = '\0')
RULE(target_path, set(&p->targets[0].name, "/usr/sbin/mariadbd"))
RULE(no_build_id, p->targets[1].build_id.size = 0)
RULE(same_build_id, p->targets[1].build_id = p->targets[0].build_id)
RULE(other_processor, p->targets[0].machine = EM_SPARC)
RULE(too_many_targets, p->target_count = 65)

static void no_targets(struct pe_patch *p)
{
	set(&p->targets[0].name, NULL);
	set(&p->targets[1].name, NULL);
	p->target_count = 0;
}

/* Sections */
RULE(section_name_empty, set(&p->sections[0].name, ""))
RULE(section_name_reserved, set(&p->sections[0].name, ".care.x"))
RULE(section_name_rela, set(&p->sections[0].name, ".rela.text"))
RULE(section_name_symtab, set(&p->sections[0].name, ".symtab"))
RULE(section_kind_unknown, p->sections[1].kind = (enum pe_patch_section_kind)9)
RULE(unwind_name_on_data, set(&p->sections[SAMPLE_RODATA].name, ".eh_frame"))
RULE(unwind_other_name, set(&p->sections[SAMPLE_EH_FRAME].name, ".unwind"))
RULE(align_zero, p->sections[0].align = 0)
RULE(align_three, p->sections[0].align = 3)
RULE(align_large, p->sections[0].align = 8192)
RULE(section_large, p->sections[SAMPLE_BSS].size = 1ULL << 40)
RULE(sections_large_together, p->sections[SAMPLE_BSS].size = 64 << 20)
RULE(bss_with_relocs, p->sections[SAMPLE_BSS].reloc_count = 1)

static void data_missing(struct pe_patch *p)
{
	free(p->sections[SAMPLE_DATA].data);
	p->sections[SAMPLE_DATA].data = NULL;
}

/* Relocations */
RULE(reloc_type, p->sections[SAMPLE_TEXT].relocs[0].type = R_X86_64_COPY)
RULE(reloc_symbol, p->sections[SAMPLE_TEXT].relocs[0].symbol = 9)
RULE(reloc_offset, p->sections[SAMPLE_DATA].relocs[0].offset = 1)
RULE(reloc_offset_huge, p->sections[SAMPLE_DATA].relocs[0].offset = UINT64_MAX)
RULE(reloc_overlap, p->sections[SAMPLE_TEXT].relocs[1].offset = 6)
RULE(reloc_unsorted, p->sections[SAMPLE_TEXT].relocs[6].offset = 0)
RULE(reloc_not_tls, p->sections[SAMPLE_TEXT].relocs[2].type = R_X86_64_32S)
RULE(reloc_tls, p->sections[SAMPLE_TEXT].relocs[0].type = R_X86_64_GOTTPOFF)

/* Unwind tables */
RULE(eh_no_terminator, p->sections[SAMPLE_EH_FRAME].size = 44)
RULE(eh_early_terminator, memset(eh_frame(p) + 24, 0, 4))
RULE(eh_long_record, eh_frame(p)[24] = 20)
RULE(eh_short_record, eh_frame(p)[24] = 12)
RULE(eh_tiny_record, eh_frame(p)[24] = 3)
RULE(eh_64_bit, memset(eh_frame(p), 0xff, 4))
RULE(eh_wrong_cie, eh_frame(p)[28] = 24)
RULE(eh_cie_outside, memset(eh_frame(p) + 28, 0x7f, 4))
RULE(eh_version, eh_frame(p)[8] = 2)
RULE(eh_augmentation, memset(eh_frame(p) + 9, 'z', 15))
RULE(eh_reloc_on_length, p->sections[SAMPLE_EH_FRAME].relocs[0].offset = 22)
RULE(eh_reloc_on_terminator, p->sections[SAMPLE_EH_FRAME].relocs[0].offset = 44)

static void two_eh_frames(struct pe_patch *p)
{
	struct pe_patch_section *s = &p->sections[SAMPLE_RODATA];

	set(&s->name, ".eh_frame");
	s->kind = PE_SECTION_EH_FRAME;
	s->size = 4;
	memset(s->data, 0, 4);
}

/* Symbols */
RULE(symbol_no_name, set(&p->symbols[SAMPLE_FOO].name, ""))
RULE(symbol_name_blank, set(&p->symbols[SAMPLE_FOO].name, "a b"))
RULE(symbol_kind, p->symbols[SAMPLE_FOO].kind = (enum pe_patch_symbol_kind)17)
RULE(symbol_type, p->symbols[SAMPLE_FOO].type = STT_FILE)
RULE(symbol_section, p->symbols[SAMPLE_FOO].section = 5)
RULE(symbol_value, p->symbols[SAMPLE_FOO].value = 100)
RULE(symbol_size, p->symbols[SAMPLE_FOO].size = UINT64_MAX)
RULE(symbol_target, p->symbols[SAMPLE_SLOT].target = 2)
RULE(symbol_null, p->symbols[SAMPLE_TARGET].value = 0)
RULE(symbol_kernel, p->symbols[SAMPLE_TARGET].value = 1ULL << 63)
RULE(slot_unaligned, p->symbols[SAMPLE_SLOT].value++)
RULE(tpoff_range, p->symbols[SAMPLE_TPOFF].value = 1ULL << 32)
RULE(tpoff_library, p->symbols[SAMPLE_TPOFF].target = 1)
RULE(tls_elsewhere, p->symbols[SAMPLE_IMPORT].type = STT_TLS)
RULE(section_elsewhere, p->symbols[SAMPLE_TARGET].type = STT_SECTION)
RULE(import_version, set(&p->symbols[SAMPLE_IMPORT].version, ""))
RULE(import_library, set(&p->symbols[SAMPLE_IMPORT].library, "a\nb"))

/* Functions */
RULE(function_no_name, set(&p->functions[0].name, NULL))
RULE(function_reason, set(&p->functions[0].reason, "\a"))
RULE(function_target, p->functions[0].target = 2)
RULE(function_skip, p->functions[0].entry_skip = 3)
RULE(function_symbol, p->functions[1].symbol = 99)
RULE(function_data, p->functions[1].symbol = SAMPLE_COUNTER)
RULE(function_elsewhere, p->functions[1].symbol = SAMPLE_TARGET)
RULE(function_no_ranges, p->functions[0].range_count = 0)
RULE(function_many_ranges, p->functions[0].range_count = 65)
RULE(range_empty, p->functions[0].ranges[1].size = 0)
RULE(range_wraps, p->functions[0].ranges[1].vaddr = UINT64_MAX)
RULE(range_too_high, p->functions[0].ranges[1].vaddr = (1ULL << 47) - 1)
RULE(range_large, p->functions[0].ranges[1].size = 1ULL << 40)
RULE(entry_short, p->functions[0].entry_size = 4)
RULE(entry_long, p->functions[1].ranges[0].size = 8)
RULE(overlap_other, p->functions[1].ranges[0].vaddr = 0x8c0100 + 199)
RULE(overlap_self, p->functions[0].ranges[1].vaddr = 0x8c0100 - 29)

static void no_functions(struct pe_patch *p)
{
	for (size_t i = 0; i < 2; i++) {
		set(&p->functions[i].name, NULL);
		set(&p->functions[i].reason, NULL);
		free(p->functions[i].ranges);
	}
	p->function_count = 0;
}

static const struct rule manifest_rules[] = {
	{ no_name, ".care.manifest: the patch's name must be 1 to 64" },
	{ name_with_slash, "the patch's name must be" },
	{ name_with_dot_first, "the patch's name must be" },
	{ name_too_long, "the patch's name must be" },
	{ description_with_escape, "the description has a character that cannot be printed" },
	{ description_with_c1, "the description has a character that cannot be printed" },
	{ description_not_utf8, "the description has a character that cannot be printed" },
	{ description_overlong, "the description has a character that cannot be printed" },
	{ other_kind, "the kind is neither security nor bugfix" },
	{ no_product, "the product is empty" },
	{ source_not_hex, "source_sha256 is no SHA-256" },
	{ no_cve_id, "the id of a CVE is missing" },
	{ gate_with_newline, "the name of a gate has a character" },
	{ too_many_gates, "more than 1024 CVEs, gates or notes" },
	{ note_with_newline, "a note has a character" },
	{ diff_with_zero_byte, ".care.diff: it has a zero byte" },
	{ target_path, "target 0: its name \"/usr/sbin/mariadbd\" is a path" },
	{ no_build_id, "target 1: it has no build-id" },
	{ same_build_id, "target 1: it has the build-id of target 0" },
	{ other_processor, "target 0: its processor (ELF machine 2) is not supported" },
	{ too_many_targets, "65 targets are more than 64" },
	{ no_targets, "there is no target" },
};

static const struct rule section_rules[] = {
	{ section_name_empty, "section 0: its name is empty" },
	{ section_name_reserved, "section 0: its name is empty, reserved" },
	{ section_name_rela, "section 0: its name is empty, reserved" },
	{ section_name_symtab, "section 0: its name is empty, reserved" },
	{ section_kind_unknown, "section 1 (.rodata.str): its kind 9 is unknown" },
	{ unwind_name_on_data, "unwind tables, and only they, are named .eh_frame" },
	{ unwind_other_name, "unwind tables, and only they, are named .eh_frame" },
	{ align_zero, "alignment 0 is no power of two" },
	{ align_three, "alignment 3 is no power of two" },
	{ align_large, "alignment 8192 is no power of two" },
	{ section_large, "section 3 (.bss.counter): 1099511627776 bytes are more than" },
	{ sections_large_together, "the sections need more than" },
	{ bss_with_relocs, "it has relocations but no contents" },
	{ data_missing, "its contents do not fit its kind" },
	{ reloc_type, "section 0 (.text.foo): relocation 0: type 5 is not supported" },
	{ reloc_symbol, "relocation 0: symbol 9 is past the 9 symbols" },
	{ reloc_offset, "section 2 (.data.rel.ro): relocation 0: offset 0x1 is past the 8" },
	{ reloc_offset_huge, "offset 0xffffffffffffffff is past" },
	{ reloc_overlap, "relocation 1: offset 0x6 is not behind the one before" },
	{ reloc_unsorted, "relocation 6: offset 0x0 is not behind" },
	{ reloc_not_tls, "R_X86_64_32S does not fit symbol 7 (THR_KEY_mysys)" },
	{ reloc_tls, "R_X86_64_GOTTPOFF does not fit symbol 2" },
	{ eh_no_terminator, "section 4 (.eh_frame): record at 0x18: its length leads past" },
	{ eh_early_terminator, "record at 0x18: the terminator is not at the end" },
	{ eh_long_record, "record at 0x18: its length leads past the end" },
	{ eh_short_record, "record at 0x28: the terminator is not at the end" },
	{ eh_tiny_record, "record at 0x18: its length leads past the end" },
	{ eh_64_bit, "record at 0x0: 64-bit records" },
	{ eh_wrong_cie, "record at 0x18: the FDE names no CIE" },
	{ eh_cie_outside, "record at 0x18: the FDE names no CIE" },
	{ eh_version, "record at 0x0: the CIE has an unknown version" },
	{ eh_augmentation, "the augmentation string of the CIE has no end" },
	{ eh_reloc_on_length, "record at 0x18: a relocation changes its length" },
	{ eh_reloc_on_terminator, "it does not end with a zero terminator" },
	{ two_eh_frames, "there are 2 .eh_frame sections" },
};

static const struct rule symbol_rules[] = {
	{ symbol_no_name, ".care.symbols record 0: its name is empty" },
	{ symbol_name_blank, ".care.symbols record 0: its name is empty or cannot be printed" },
	{ symbol_kind, ".care.symbols record 0 (_ZN4Item3fooEv): its kind 17 is unknown" },
	{ symbol_type, "type 4 is not supported" },
	{ symbol_section, "section 5 is past the 5 sections" },
	{ symbol_value, "33 bytes at 0x64 are past the end of section 0" },
	{ symbol_size, "are past the end of section 0" },
	{ symbol_target, ".care.symbols record 5 (stderr): target 2 is past the 2 targets" },
	{ symbol_null, "address 0x0 cannot be in an image" },
	{ symbol_kernel, "address 0x8000000000000000 cannot be in an image" },
	{ slot_unaligned, "the slot at 0x18ca009 is not aligned" },
	{ tpoff_range, "thread pointer offset 4294967296 is out of range" },
	{ tpoff_library, "it is a thread-local of a library" },
	{ tls_elsewhere, "it is a thread-local without an offset" },
	{ section_elsewhere, "it is a section of another file" },
	{ import_version, "its library or version is empty" },
	{ import_library, "its library or version is empty or cannot be printed" },
};

static const struct rule function_rules[] = {
	{ function_no_name, ".care.functions record 0: its name is empty" },
	{ function_reason, "its reason is empty or cannot be printed" },
	{ function_target, ".care.functions record 0 (_ZN4Item3fooEv): target 2 is past" },
	{ function_skip, "3 bytes before the entry jump" },
	{ function_symbol, ".care.functions record 1 (helper): new symbol 99 is past the 9" },
	{ function_data, "new symbol 3 (counter.0) is no code of this patch" },
	{ function_elsewhere, "new symbol 4 (my_error) is no code of this patch" },
	{ function_no_ranges, "it has 0 ranges" },
	{ function_many_ranges, "it has 65 ranges" },
	{ range_empty, "range 1 is empty" },
	{ range_wraps, "range 1: 30 bytes at 0xffffffffffffffff cannot be" },
	{ range_too_high, "range 1: 30 bytes at 0x7fffffffffff cannot be" },
	{ range_large, "bytes are more than" },
	{ entry_short, "4 displaced bytes are too few for a jump of 5" },
	{ entry_long, "the entry (4 + 5 bytes) is longer than the function (8)" },
	{ overlap_other, "its range at 0x8c01c7 overlaps one of record 0" },
	{ overlap_self, "overlaps one of record 0 (_ZN4Item3fooEv)" },
	{ no_functions, "no function is replaced" },
};

static void check_rules(const struct rule *rules, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct pe_patch *patch = sample_patch();
		/* What a rule shortens must be freed whole. */
		size_t targets = patch->target_count, gates = patch->gate_count;
		size_t ranges = patch->functions[0].range_count;
		pe_auto_free void *bytes = NULL;
		size_t size;

		rules[i].break_it(patch);

		pe_auto_error struct pe_error *err = pe_patch_check(patch);
		pe_auto_error struct pe_error *written = pe_patch_serialize(patch, &bytes, &size);

		if (!err || !written)
			fail_msg("not refused: %s", rules[i].text);

		pe_auto_free char *text = pe_error_text(err);
		pe_auto_free char *written_text = pe_error_text(written);

		if (!strstr(text, rules[i].text))
			fail_msg("expected \"%s\", got \"%s\"", rules[i].text, text);
		assert_string_equal(text, written_text);
		if (patch->target_count > targets)
			patch->target_count = targets;
		patch->gate_count = gates;
		if (patch->function_count)
			patch->functions[0].range_count = ranges;
		pe_patch_free(patch);
	}
}

static void rules_of_the_manifest_are_enforced(void **state)
{
	check_rules(manifest_rules, sizeof(manifest_rules) / sizeof(*manifest_rules));
}

static void rules_of_sections_and_relocations_are_enforced(void **state)
{
	check_rules(section_rules, sizeof(section_rules) / sizeof(*section_rules));
}

static void rules_of_symbols_are_enforced(void **state)
{
	check_rules(symbol_rules, sizeof(symbol_rules) / sizeof(*symbol_rules));
}

static void rules_of_functions_are_enforced(void **state)
{
	check_rules(function_rules, sizeof(function_rules) / sizeof(*function_rules));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rules_of_the_manifest_are_enforced),
		cmocka_unit_test(rules_of_sections_and_relocations_are_enforced),
		cmocka_unit_test(rules_of_symbols_are_enforced),
		cmocka_unit_test(rules_of_functions_are_enforced),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

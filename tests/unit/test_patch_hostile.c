/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A damaged or malicious patch file gets an error that names the place; nothing else happens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/stat.h>

#include "../fuzz/sample_patch.h"
#include "engine/cleanup.h"

/* A written sample, in memory of exactly its size so that ASan sees a read past it. */
struct file {
	uint8_t *bytes;
	size_t size;
};

static struct file sample_file(void)
{
	struct pe_patch *patch = sample_patch();
	struct file file;
	void *bytes;

	assert_null(pe_patch_serialize(patch, &bytes, &file.size));
	file.bytes = bytes;
	pe_patch_free(patch);
	return file;
}

/* The message of the refusal; NULL when the file was accepted. */
static char *refusal_as_it_is(const uint8_t *bytes, size_t size)
{
	pe_auto_free uint8_t *exact = sample_copy(bytes, size);
	struct pe_patch *patch = NULL;
	pe_auto_error struct pe_error *err = pe_patch_parse(exact, size, &patch);

	if (err) {
		assert_null(patch);
		return pe_error_text(err);
	}
	/* What is accepted keeps every rule. */
	assert_null(pe_patch_check(patch));
	pe_patch_free(patch);
	return NULL;
}

/* Likewise, of a file whose checksum somebody made right. */
static char *refusal(const uint8_t *bytes, size_t size)
{
	pe_auto_free uint8_t *sealed = sample_copy(bytes, size);

	sample_seal(sealed, size);
	return refusal_as_it_is(sealed, size);
}

static void a_file_cut_at_any_length_is_refused(void **state)
{
	struct file file = sample_file();

	for (size_t size = 0; size < file.size; size++) {
		pe_auto_free char *text = refusal(file.bytes, size);

		assert_non_null(text);
	}
	free(file.bytes);
}

static void a_file_with_something_behind_it_is_refused(void **state)
{
	struct file file = sample_file();
	pe_auto_free uint8_t *longer = realloc(file.bytes, file.size + 64);

	memset(longer + file.size, 0, 64);

	pe_auto_free char *text = refusal(longer, file.size + 64);

	assert_non_null(strstr(text, "not at the end of the file"));
}

static void any_flipped_bit_is_found(void **state)
{
	struct file file = sample_file();
	size_t by_checksum = 0;

	for (size_t bit = 0; bit < 8 * file.size; bit++) {
		file.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);

		pe_auto_free char *text = refusal_as_it_is(file.bytes, file.size);

		assert_non_null(text);
		by_checksum += strstr(text, "its contents do not give its checksum") != NULL;
		file.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	/* Headers say themselves what is wrong. */
	assert_true(by_checksum > 8 * file.size / 3);
	free(file.bytes);
}

static void any_meant_bit_is_refused_or_leaves_a_valid_patch(void **state)
{
	struct file file = sample_file();
	size_t refused = 0;

	for (size_t bit = 0; bit < 8 * file.size; bit++) {
		file.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);

		pe_auto_free char *text = refusal(file.bytes, file.size);

		refused += text != NULL;
		file.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	/* Code, texts and hashes may be anything; headers and records may not. */
	assert_true(refused > 8 * file.size / 2);
	free(file.bytes);
}

static void any_byte_set_to_its_extremes_is_survived(void **state)
{
	struct file file = sample_file();

	for (size_t i = 0; i < file.size; i++) {
		uint8_t saved = file.bytes[i];

		for (int step = 0; step < 3; step++) {
			file.bytes[i] = (uint8_t[]){ 0x00, 0x7f, 0xff }[step];
			free(refusal(file.bytes, file.size));
		}
		file.bytes[i] = saved;
	}
	free(file.bytes);
}

/* ---- single fields ---- */

static Elf64_Ehdr *header(struct file *f)
{
	return (Elf64_Ehdr *)f->bytes;
}

static Elf64_Shdr *section(struct file *f, const char *name)
{
	Elf64_Shdr *sh = (Elf64_Shdr *)(f->bytes + header(f)->e_shoff);
	const char *names = (const char *)f->bytes + sh[header(f)->e_shstrndx].sh_offset;

	for (size_t i = 1; i < header(f)->e_shnum; i++)
		if (!strcmp(names + sh[i].sh_name, name))
			return &sh[i];
	fail_msg("no section %s", name);
	return NULL;
}

static void *contents(struct file *f, const char *name)
{
	return f->bytes + section(f, name)->sh_offset;
}

static struct care_symbol *symbol(struct file *f, size_t i)
{
	return (struct care_symbol *)contents(f, ".care.symbols") + i;
}

static Elf64_Sym *elf_symbol(struct file *f, size_t i)
{
	return (Elf64_Sym *)contents(f, ".symtab") + symbol(f, i)->elf_symbol;
}

static struct care_functions_header *functions(struct file *f)
{
	return contents(f, ".care.functions");
}

static struct care_function *function(struct file *f, size_t i)
{
	return (struct care_function *)(functions(f) + 1) + i;
}

static void replace(struct file *f, const char *from, const char *to)
{
	char *at = memmem(f->bytes, f->size, from, strlen(from));

	assert_non_null(at);
	assert_int_equal(strlen(from), strlen(to));
	memcpy(at, to, strlen(to));
}

#define RULE(name, statement)            \
	static void name(struct file *f) \
	{                                \
		statement;               \
	}

RULE(not_elf, f->bytes[0] = '#')
RULE(elf32, header(f)->e_ident[EI_CLASS] = ELFCLASS32)
RULE(a_program, header(f)->e_type = ET_DYN)
RULE(arm, header(f)->e_machine = EM_ARM)
RULE(with_segments, header(f)->e_phnum = 1)
RULE(no_sections, header(f)->e_shnum = 0)
RULE(many_sections, header(f)->e_shnum = 0xfeff)
RULE(one_section_less, header(f)->e_shnum--)
RULE(names_elsewhere, header(f)->e_shstrndx = 1)
RULE(table_far, header(f)->e_shoff = UINT64_MAX & ~7ULL)

RULE(alignment, section(f, ".rodata.str")->sh_addralign = 3)
RULE(overlap, section(f, ".rodata.str")->sh_offset -= 8)
RULE(size_past_end, section(f, ".shstrtab")->sh_size = 1 << 20)
RULE(size_huge, section(f, ".text.foo")->sh_size = UINT64_MAX - 0x3f)
RULE(size_of_bss, section(f, ".bss.counter")->sh_size = UINT64_MAX)
RULE(name_past_end, section(f, ".rodata.str")->sh_name = UINT32_MAX)
RULE(section_flags, section(f, ".text.foo")->sh_flags |= SHF_WRITE)
RULE(section_type, section(f, ".rodata.str")->sh_type = SHT_NOTE)
RULE(null_section, *(f->bytes + header(f)->e_shoff) = 1)
RULE(strtab_unended, f->bytes[section(f, ".care.manifest")->sh_offset - 1] = 'x')
RULE(checksum_short, section(f, ".care.checksum")->sh_size--)
RULE(checksum_renamed, section(f, ".care.checksum")->sh_name++)
RULE(strtab_renamed, section(f, ".strtab")->sh_name++)
RULE(symtab_entsize, section(f, ".symtab")->sh_entsize = 0)
RULE(symtab_link, section(f, ".symtab")->sh_link = 1)
RULE(symtab_locals, section(f, ".symtab")->sh_info = 3)
RULE(symtab_locals_many, section(f, ".symtab")->sh_info = 99)

RULE(rela_for_none, section(f, ".rela.text.foo")->sh_info = 77)
RULE(rela_for_other, section(f, ".rela.text.foo")->sh_info = 2)
RULE(rela_twice, section(f, ".rela.data.rel.ro")->sh_info = 1)
RULE(rela_link, section(f, ".rela.data.rel.ro")->sh_link = 1)
RULE(rela_symbol, ((Elf64_Rela *)contents(f, ".rela.data.rel.ro"))->r_info = R_X86_64_64)
RULE(rela_symbol_past,
     ((Elf64_Rela *)contents(f, ".rela.data.rel.ro"))->r_info = ELF64_R_INFO(50UL, R_X86_64_64))

RULE(symbol_entry_past, symbol(f, 1)->elf_symbol = 10)
RULE(symbol_entry_null, symbol(f, 1)->elf_symbol = 0)
RULE(symbol_entry_twice, symbol(f, 1)->elf_symbol = symbol(f, 0)->elf_symbol)
RULE(symbol_kind, symbol(f, 4)->kind = 9)
RULE(symbol_flags, symbol(f, 4)->flags = 2)
RULE(symbol_reserved, symbol(f, 4)->reserved2 = 1)
RULE(symbol_both, symbol(f, 4)->kind = CARE_SYMBOL_LOCAL)
RULE(symbol_defined, symbol(f, 0)->kind = CARE_SYMBOL_TARGET)
RULE(symbol_library, symbol(f, 6)->library = 1 << 20)
RULE(symbol_unused, symbol(f, 4)->library = 1)
RULE(symbol_name, elf_symbol(f, 0)->st_name = UINT32_MAX)
RULE(symbol_visibility, elf_symbol(f, 0)->st_other = STV_HIDDEN)
RULE(symbol_abs, elf_symbol(f, 0)->st_shndx = SHN_ABS)

RULE(function_count, functions(f)->function_count = UINT32_MAX)
RULE(function_count_more, functions(f)->function_count++)
RULE(range_count, functions(f)->range_count = UINT32_MAX)
RULE(function_ranges, function(f, 0)->range_count = UINT32_MAX)
RULE(function_ranges_left, function(f, 1)->range_count = 0)
RULE(function_flags, function(f, 0)->flags = 0x80)
RULE(function_name, function(f, 0)->name = 0xffff)
RULE(function_symbol, function(f, 1)->symbol = 99)

RULE(format_two, replace(f, "\"format\": 1", "\"format\": 2"))
RULE(format_text, replace(f, "\"format\": 1,", "\"format\":\"\","))
RULE(format_missing, replace(f, "\"format\"", "\"formal\""))
RULE(key_unknown, replace(f, "\"gates\"", "\"gales\""))
RULE(json_broken, replace(f, "\"gates\"", "\"gates,"))
RULE(key_twice, replace(f, "\"product\"", "\"targets\""))
RULE(level_negative, replace(f, "\"level\": 3", "\"level\":-3"))
RULE(build_id, replace(f, "7a14d39c", "7a14d39x"))
RULE(architecture, replace(f, "x86_64", "sparc9"))

static const struct {
	void (*damage)(struct file *f);
	const char *text;
} damages[] = {
	{ not_elf, "it is no ELF file" },
	{ elf32, "ELF header: it is not ELF64" },
	{ a_program, "it is no relocatable object, so no patch" },
	{ arm, "ELF header: processor (machine 40) is not supported" },
	{ with_segments, "ELF header: a field is not what a patch has" },
	{ no_sections, "0 sections are too few" },
	{ many_sections, "65279 sections are too few or too many" },
	{ one_section_less, "not at the end of the file" },
	{ names_elsewhere, "the section names are not in the last section" },
	{ table_far, "not at the end of the file" },
	{ alignment, "section 2: alignment 3 is no power of two" },
	{ overlap, "section 2: it is not behind the section before it" },
	{ size_past_end, "section 16: 0x100000 bytes at" },
	{ size_huge, "section 1: 0xffffffffffffffc0 bytes at 0x40 are past" },
	{ size_of_bss, "section 3 (.bss.counter): 18446744073709551615 bytes are more" },
	{ name_past_end, "section 2: its name is past the end of .shstrtab" },
	{ section_flags, "section 1: its flags 0x7 are none that a patch has" },
	{ section_type, "section 2: its type 0x7 is none that a patch has" },
	{ null_section, "section 0: it is not null" },
	{ strtab_unended, "(.strtab) does not begin and end with a zero byte" },
	{ strtab_renamed, "section 10: a patch has .strtab there" },
	{ checksum_short, "section 16: it is not behind the section before it" },
	{ checksum_renamed, "section 15: a patch has .care.checksum there" },
	{ symtab_entsize, "section 9 (.symtab): its size is no multiple" },
	{ symtab_link, "(.symtab) is empty or not linked" },
	{ symtab_locals, ".symtab: entry 3: local symbols are not first" },
	{ symtab_locals_many, ".symtab: entry 4: local symbols are not first" },
	{ rela_for_none, "section 6 (relocations): it is for section 77" },
	{ rela_for_other, "section 6 (relocations): it is for section 2 but not named so" },
	{ rela_twice, "section 7 (relocations): it is for section 1, not for one from 2" },
	{ rela_link, "section 7 (relocations): a field of its header" },
	{ rela_symbol, "record 0: symbol 0 is past" },
	{ rela_symbol_past, "record 0: symbol 50 is past the 10 entries" },
	{ symbol_entry_past, ".care.symbols record 1: entry 10 is past the 10" },
	{ symbol_entry_null, ".care.symbols record 1: entry 0 is past the 10" },
	{ symbol_entry_twice, ".care.symbols record 1: entry 4 of .symtab belongs to record 0" },
	{ symbol_kind, ".care.symbols record 4: its kind 9 is unknown" },
	{ symbol_flags, ".care.symbols record 4: a reserved field is not 0" },
	{ symbol_reserved, ".care.symbols record 4: a reserved field is not 0" },
	{ symbol_both, ".care.symbols record 4: section 0 is past" },
	{ symbol_defined, ".care.symbols record 0: it and its .symtab entry do not agree" },
	{ symbol_library, ".care.symbols record 6: string 0x100000 is past" },
	{ symbol_unused, ".care.symbols record 4: a field that its kind does not use" },
	{ symbol_name, ".care.symbols record 0: string 0xffffffff is past" },
	{ symbol_visibility, "its .symtab entry has a visibility" },
	{ symbol_abs, "section 65521 is past the 5 sections" },
	{ function_count, ".care.functions: 4294967295 functions are more" },
	{ function_count_more, ".care.functions: its size does not fit 3 functions" },
	{ range_count, ".care.functions: its size does not fit 2 functions and 4294967295" },
	{ function_ranges, ".care.functions record 0: its 4294967295 ranges are more" },
	{ function_ranges_left, ".care.functions: 1 ranges belong to no function" },
	{ function_flags, ".care.functions record 0: a reserved field is not 0" },
	{ function_name, ".care.functions record 0: string 0xffff is past" },
	{ function_symbol, ".care.functions record 1 (helper): new symbol 99 is past the 9" },
	{ format_two, "the patch has format 2, this program reads format 1" },
	{ format_text, "it has no format version" },
	{ format_missing, "it has no format version" },
	{ key_unknown, ".care.manifest: " },
	{ json_broken, ".care.manifest: line " },
	{ key_twice, ".care.manifest: line " },
	{ level_negative, ".care.manifest: level -3 is out of range" },
	{ build_id, ".care.manifest: targets: the build-id is not hexadecimal" },
	{ architecture, "target 0: its processor (ELF machine 0) is not supported" },
};

static void each_damaged_field_is_named(void **state)
{
	for (size_t i = 0; i < sizeof(damages) / sizeof(*damages); i++) {
		struct file file = sample_file();

		damages[i].damage(&file);

		pe_auto_free char *text = refusal(file.bytes, file.size);

		if (!text)
			fail_msg("not refused: %s", damages[i].text);
		else if (!strstr(text, damages[i].text))
			fail_msg("expected \"%s\", got \"%s\"", damages[i].text, text);
		free(file.bytes);
	}
}

/* ---- files ---- */

static void expect_unreadable(const char *path, const char *expected)
{
	struct pe_patch *patch = NULL;
	pe_auto_error struct pe_error *err = pe_patch_read(path, &patch);

	assert_non_null(err);
	assert_null(patch);

	pe_auto_free char *text = pe_error_text(err);

	if (strncmp(text, expected, strlen(expected)) != 0)
		fail_msg("expected \"%s\", got \"%s\"", expected, text);
}

static void what_is_no_patch_file_is_refused_by_its_name(void **state)
{
	char directory[] = "/tmp/test-patch-XXXXXX", path[64], expected[128];

	assert_non_null(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/x", directory);
	expect_unreadable(path, "cannot open /tmp/");
	expect_unreadable("/proc/self/exe", "/proc/self/exe: ELF header: it is no relocatable");

	snprintf(expected, sizeof(expected), "%s: it is no regular file", directory);
	expect_unreadable(directory, expected);

	assert_int_equal(mkfifo(path, 0600), 0);
	snprintf(expected, sizeof(expected), "%s: it is no regular file", path);
	expect_unreadable(path, expected);
	unlink(path);

	FILE *out = fopen(path, "w");

	assert_non_null(out);
	snprintf(expected, sizeof(expected), "%s: 0 bytes are too few", path);
	expect_unreadable(path, expected);
	assert_int_equal(ftruncate(fileno(out), 1L << 40), 0);
	snprintf(expected, sizeof(expected), "%s: 1099511627776 bytes are more than a patch", path);
	expect_unreadable(path, expected);
	fclose(out);
	unlink(path);
	rmdir(directory);
}

/* Many records may name one long string: what is read must not outgrow the file without bound. */
static void strings_that_many_records_share_are_bounded(void **state)
{
	struct pe_patch *patch = sample_patch();
	size_t count = 20000;
	struct file file;
	void *bytes;

	patch->symbols = realloc(patch->symbols, count * sizeof(*patch->symbols));
	for (; patch->symbol_count < count; patch->symbol_count++)
		patch->symbols[patch->symbol_count] = (struct pe_patch_symbol){
			.name = strdup("s"),
			.kind = PE_SYM_ZERO,
		};
	free(patch->symbols[SAMPLE_ZERO].name);
	patch->symbols[SAMPLE_ZERO].name = malloc(PATCH_MAX_NAME + 1);
	memset(patch->symbols[SAMPLE_ZERO].name, 'x', PATCH_MAX_NAME);
	patch->symbols[SAMPLE_ZERO].name[PATCH_MAX_NAME] = '\0';
	assert_null(pe_patch_serialize(patch, &bytes, &file.size));
	file.bytes = bytes;
	for (size_t i = SAMPLE_ZERO + 1; i < count; i++)
		elf_symbol(&file, i)->st_name = elf_symbol(&file, SAMPLE_ZERO)->st_name;

	pe_auto_free char *text = refusal(file.bytes, file.size);

	assert_non_null(text);
	assert_non_null(strstr(text, "its strings need more than"));
	free(file.bytes);
	pe_patch_free(patch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_cut_at_any_length_is_refused),
		cmocka_unit_test(a_file_with_something_behind_it_is_refused),
		cmocka_unit_test(any_flipped_bit_is_found),
		cmocka_unit_test(any_meant_bit_is_refused_or_leaves_a_valid_patch),
		cmocka_unit_test(any_byte_set_to_its_extremes_is_survived),
		cmocka_unit_test(each_damaged_field_is_named),
		cmocka_unit_test(what_is_no_patch_file_is_refused_by_its_name),
		cmocka_unit_test(strings_that_many_records_share_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

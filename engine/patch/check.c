/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rules of a patch (engine/patch.h). The reader calls this on what it made of a hostile file,
 * the writer on what the builder made; whoever holds a patch may then trust it.
 */
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "engine/arch.h"
#include "engine/cleanup.h"
#include "patch/format.h"

/* User space ends there on every processor that we know, with 4-level page tables. */
static const uint64_t address_end = 1ULL << 47;

#define BAD(...) pe_error_new(PE_ERR_FORMAT, __VA_ARGS__)

/* ---- sections ---- */

static struct pe_error *check_relocs(const struct pe_patch *patch, const struct pe_patch_section *s,
				     const struct pe_arch *arch)
{
	uint64_t end = 0;

	if (s->reloc_count && s->kind == PE_SECTION_BSS)
		return BAD("it has relocations but no contents");
	for (size_t i = 0; i < s->reloc_count; i++) {
		const struct pe_patch_reloc *r = &s->relocs[i];

		if (!arch->reloc_known(r->type))
			return BAD("relocation %zu: type %u is not supported", i, r->type);
		if (r->symbol >= patch->symbol_count)
			return BAD("relocation %zu: symbol %u is past the %zu symbols", i,
				   r->symbol, patch->symbol_count);

		uint64_t size = arch->reloc_size(r->type);

		if (r->offset > s->size || s->size - r->offset < size)
			return BAD("relocation %zu: offset 0x%lx is past the %lu bytes", i,
				   r->offset, s->size);
		if (r->offset < end)
			return BAD("relocation %zu: offset 0x%lx is not behind the one before", i,
				   r->offset);
		end = r->offset + size;
		if (arch->reloc_is_tls(r->type) != (patch->symbols[r->symbol].kind == PE_SYM_TPOFF))
			return BAD("relocation %zu: %s does not fit symbol %u (%s)", i,
				   arch->reloc_name(r->type), r->symbol,
				   patch->symbols[r->symbol].name);
	}
	return NULL;
}

/* Names that the file needs for itself, or that tools give a meaning. */
static bool is_reserved_name(const char *name)
{
	static const char *const prefixes[] = { ".care.", ".rela" };
	static const char *const names[] = { ".symtab", ".strtab", ".shstrtab" };

	for (size_t i = 0; i < sizeof(prefixes) / sizeof(*prefixes); i++)
		if (!strncmp(name, prefixes[i], strlen(prefixes[i])))
			return true;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (!strcmp(name, names[i]))
			return true;
	return false;
}

static struct pe_error *check_section(const struct pe_patch *patch, size_t i,
				      const struct pe_arch *arch)
{
	const struct pe_patch_section *s = &patch->sections[i];

	if (!care_name_is_sane(s->name) || is_reserved_name(s->name))
		return BAD("section %zu: its name is empty, reserved or cannot be printed", i);

	struct pe_error *err = NULL;

	if ((unsigned int)s->kind > PE_SECTION_EH_FRAME)
		err = BAD("its kind %d is unknown", (int)s->kind);
	else if (!strcmp(s->name, ".eh_frame") != (s->kind == PE_SECTION_EH_FRAME))
		err = BAD("unwind tables, and only they, are named .eh_frame");
	else if (!s->align || s->align & (s->align - 1) || s->align > PATCH_MAX_ALIGN)
		err = BAD("its alignment %lu is no power of two up to %d", s->align,
			  PATCH_MAX_ALIGN);
	else if (s->size > PATCH_MAX_MEMORY)
		err = BAD("%lu bytes are more than %d", s->size, PATCH_MAX_MEMORY);
	else if (s->kind == PE_SECTION_BSS ? s->data != NULL : s->size && !s->data)
		err = BAD("its contents do not fit its kind");
	if (!err)
		err = check_relocs(patch, s, arch);
	if (!err && s->kind == PE_SECTION_EH_FRAME)
		err = care_check_eh_frame(s, arch->reloc_size);
	return err ? pe_error_wrap(err, "section %zu (%s)", i, s->name) : NULL;
}

static struct pe_error *check_sections(const struct pe_patch *patch, const struct pe_arch *arch)
{
	uint64_t memory = 0;
	size_t eh_frames = 0;

	if (patch->section_count > PATCH_MAX_SECTIONS)
		return BAD("%zu sections are more than %d", patch->section_count,
			   PATCH_MAX_SECTIONS);
	for (size_t i = 0; i < patch->section_count; i++) {
		struct pe_error *err = check_section(patch, i, arch);

		if (err)
			return err;
		memory += patch->sections[i].size + patch->sections[i].align;
		if (memory > PATCH_MAX_MEMORY)
			return BAD("section %zu (%s): the sections need more than %d bytes", i,
				   patch->sections[i].name, PATCH_MAX_MEMORY);
		eh_frames += patch->sections[i].kind == PE_SECTION_EH_FRAME;
	}
	if (eh_frames > 1)
		return BAD("there are %zu .eh_frame sections, at most one may be", eh_frames);
	return NULL;
}

/* ---- symbols ---- */

static struct pe_error *check_symbol_target(const struct pe_patch *patch,
					    const struct pe_patch_symbol *s)
{
	if (s->target >= patch->target_count)
		return BAD("target %u is past the %zu targets", s->target, patch->target_count);
	if (s->kind == PE_SYM_TPOFF) {
		if (!patch->targets[s->target].is_program)
			return BAD("it is a thread-local of a library");
		if ((int64_t)s->value != (int32_t)s->value)
			return BAD("thread pointer offset %ld is out of range", (int64_t)s->value);
		return NULL;
	}
	if (!s->value || s->value >= address_end)
		return BAD("address 0x%lx cannot be in an image", s->value);
	if (s->kind == PE_SYM_SLOT && s->value % sizeof(uint64_t))
		return BAD("the slot at 0x%lx is not aligned", s->value);
	return NULL;
}

static struct pe_error *check_symbol_place(const struct pe_patch *patch,
					   const struct pe_patch_symbol *s)
{
	switch (s->kind) {
	case PE_SYM_TARGET:
	case PE_SYM_SLOT:
	case PE_SYM_TPOFF:
		return check_symbol_target(patch, s);
	case PE_SYM_LOCAL:
		if (s->section >= patch->section_count)
			return BAD("section %u is past the %zu sections", s->section,
				   patch->section_count);
		if (s->value > patch->sections[s->section].size ||
		    patch->sections[s->section].size - s->value < s->size)
			return BAD("%lu bytes at 0x%lx are past the end of section %u", s->size,
				   s->value, s->section);
		return NULL;
	case PE_SYM_IMPORT:
		if ((s->library && !care_name_is_sane(s->library)) ||
		    (s->version && !care_name_is_sane(s->version)))
			return BAD("its library or version is empty or cannot be printed");
		return NULL;
	case PE_SYM_ZERO:
		return NULL;
	}
	return BAD("its kind %d is unknown", (int)s->kind);
}

static struct pe_error *check_symbol(const struct pe_patch *patch, size_t i)
{
	const struct pe_patch_symbol *s = &patch->symbols[i];
	bool nameless = s->type == STT_SECTION && s->name && !*s->name;

	if (!nameless && !care_name_is_sane(s->name))
		return BAD(CARE_SYMBOLS " record %zu: its name is empty or cannot be printed", i);

	struct pe_error *err = NULL;

	if (s->type != STT_NOTYPE && s->type != STT_OBJECT && s->type != STT_FUNC &&
	    s->type != STT_SECTION && s->type != STT_TLS && s->type != STT_GNU_IFUNC)
		err = BAD("type %u is not supported", s->type);
	else if (s->type == STT_TLS && s->kind != PE_SYM_TPOFF)
		err = BAD("it is a thread-local without an offset");
	else if (s->type == STT_SECTION && s->kind != PE_SYM_LOCAL)
		err = BAD("it is a section of another file");
	else
		err = check_symbol_place(patch, s);
	return err ? pe_error_wrap(err, CARE_SYMBOLS " record %zu (%s)", i, s->name) : NULL;
}

static struct pe_error *check_symbols(const struct pe_patch *patch)
{
	struct pe_error *err = NULL;

	if (patch->symbol_count > PATCH_MAX_SYMBOLS)
		return BAD("%zu symbols are more than %d", patch->symbol_count, PATCH_MAX_SYMBOLS);
	for (size_t i = 0; !err && i < patch->symbol_count; i++)
		err = check_symbol(patch, i);
	return err;
}

/* ---- functions ---- */

static struct pe_error *check_new_symbol(const struct pe_patch *patch,
					 const struct pe_patch_function *f)
{
	if (f->symbol >= patch->symbol_count)
		return BAD("new symbol %u is past the %zu symbols", f->symbol, patch->symbol_count);

	const struct pe_patch_symbol *s = &patch->symbols[f->symbol];

	if (s->kind != PE_SYM_LOCAL || patch->sections[s->section].kind != PE_SECTION_TEXT ||
	    s->value >= patch->sections[s->section].size)
		return BAD("new symbol %u (%s) is no code of this patch", f->symbol, s->name);
	return NULL;
}

static struct pe_error *check_ranges(const struct pe_patch_function *f, const struct pe_arch *arch)
{
	if (!f->range_count || f->range_count > PATCH_MAX_RANGES)
		return BAD("it has %zu ranges, not 1 to %d", f->range_count, PATCH_MAX_RANGES);
	for (size_t i = 0; i < f->range_count; i++) {
		const struct pe_patch_range *r = &f->ranges[i];

		if (!r->size)
			return BAD("range %zu is empty", i);
		if (!r->vaddr || r->vaddr >= address_end || address_end - r->vaddr < r->size)
			return BAD("range %zu: %lu bytes at 0x%lx cannot be in an image", i,
				   r->size, r->vaddr);
		if (r->size > PATCH_MAX_MEMORY)
			return BAD("range %zu: %lu bytes are more than %d", i, r->size,
				   PATCH_MAX_MEMORY);
	}
	if (f->entry_size < arch->jump_size)
		return BAD("%u displaced bytes are too few for a jump of %zu", f->entry_size,
			   arch->jump_size);
	if ((uint64_t)f->entry_skip + f->entry_size > f->ranges[0].size)
		return BAD("the entry (%u + %u bytes) is longer than the function (%lu)",
			   f->entry_skip, f->entry_size, f->ranges[0].size);
	return NULL;
}

static struct pe_error *check_function(const struct pe_patch *patch, size_t i,
				       const struct pe_arch *arch)
{
	const struct pe_patch_function *f = &patch->functions[i];
	struct pe_error *err = NULL;

	if (!care_name_is_sane(f->name))
		return BAD(CARE_FUNCTIONS " record %zu: its name is empty or cannot be printed", i);
	if (f->reason && !care_text_is_sane(f->reason))
		err = BAD("its reason is empty or cannot be printed");
	else if (f->target >= patch->target_count)
		err = BAD("target %u is past the %zu targets", f->target, patch->target_count);
	else if (f->entry_skip && f->entry_skip != 4)
		err = BAD("%u bytes before the entry jump, not 0 or 4", f->entry_skip);
	if (!err)
		err = check_new_symbol(patch, f);
	if (!err)
		err = check_ranges(f, arch);
	return err ? pe_error_wrap(err, CARE_FUNCTIONS " record %zu (%s)", i, f->name) : NULL;
}

/* A range with what is needed to name its owner. */
struct owned_range {
	uint32_t target;
	uint64_t start, end;
	size_t function;
};

static int compare_ranges(const void *a, const void *b)
{
	const struct owned_range *x = a, *y = b;

	if (x->target != y->target)
		return x->target < y->target ? -1 : 1;
	return (x->start > y->start) - (x->start < y->start);
}

static struct pe_error *check_overlaps(const struct pe_patch *patch)
{
	size_t count = 0, filled = 0;

	for (size_t i = 0; i < patch->function_count; i++)
		count += patch->functions[i].range_count;

	pe_auto_free struct owned_range *all = calloc(count, sizeof(*all));

	if (!all)
		return pe_error_nomem();
	for (size_t i = 0; i < patch->function_count; i++) {
		const struct pe_patch_function *f = &patch->functions[i];

		for (size_t j = 0; j < f->range_count; j++)
			all[filled++] = (struct owned_range){
				.target = f->target,
				.start = f->ranges[j].vaddr,
				.end = f->ranges[j].vaddr + f->ranges[j].size,
				.function = i,
			};
	}
	qsort(all, count, sizeof(*all), compare_ranges);
	for (size_t i = 1; i < count; i++)
		if (all[i].target == all[i - 1].target && all[i].start < all[i - 1].end)
			return BAD(CARE_FUNCTIONS " record %zu (%s): its range at 0x%lx overlaps "
						  "one of record %zu (%s)",
				   all[i].function, patch->functions[all[i].function].name,
				   all[i].start, all[i - 1].function,
				   patch->functions[all[i - 1].function].name);
	return NULL;
}

static struct pe_error *check_functions(const struct pe_patch *patch, const struct pe_arch *arch)
{
	struct pe_error *err = NULL;

	if (!patch->function_count)
		return BAD(CARE_FUNCTIONS ": no function is replaced");
	if (patch->function_count > PATCH_MAX_FUNCTIONS)
		return BAD(CARE_FUNCTIONS ": %zu functions are more than %d", patch->function_count,
			   PATCH_MAX_FUNCTIONS);
	for (size_t i = 0; !err && i < patch->function_count; i++)
		err = check_function(patch, i, arch);
	return err ? err : check_overlaps(patch);
}

struct pe_error *pe_patch_check(const struct pe_patch *patch)
{
	struct pe_error *err = care_check_manifest(patch);

	if (err)
		return err;

	const struct pe_arch *arch = pe_arch_find(patch->targets[0].machine);

	/* Symbols first: names of relocations' symbols are then safe to print. */
	err = check_symbols(patch);
	if (!err)
		err = check_sections(patch, arch);
	if (!err)
		err = check_functions(patch, arch);
	if (!err && patch->diff && memchr(patch->diff, '\0', patch->diff_size))
		err = BAD(CARE_DIFF ": it has a zero byte");
	return err;
}

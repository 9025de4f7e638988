/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Looking into one object for the passes of pe_select: what a relocation really leads to, which
 * .cold part belongs to which function, which unwind record and exception table describe it.
 *
 * The assembler names the section instead of the symbol when a symbol is local, and then a
 * PC-relative addend counts from the end of the instruction. With a section per function and datum
 * the section has one owner, so the symbol is known without decoding the instruction.
 */
#include <elf.h>
#include <string.h>

#include "build/select_private.h"

bool pe_sel_is_label(const struct pe_object_symbol *symbol)
{
	return !strncmp(symbol->name, ".L", 2);
}

bool pe_sel_is_text(const struct pe_object_section *section)
{
	return section->flags & SHF_ALLOC && section->flags & SHF_EXECINSTR;
}

bool pe_sel_is_mergeable(const struct pe_object_section *section)
{
	return section->flags & SHF_MERGE && section->entsize && section->data;
}

bool pe_sel_is_data(const struct pe_object_section *section)
{
	if (!(section->flags & SHF_ALLOC) || section->flags & SHF_EXECINSTR)
		return false;
	if (section->type != SHT_PROGBITS && section->type != SHT_NOBITS)
		return false;
	return strcmp(section->name, ".eh_frame") &&
	       strncmp(section->name, ".gcc_except_table", 17) &&
	       strncmp(section->name, ".note", 5);
}

bool pe_sel_numbered(const char *name, size_t *stem)
{
	const char *dot = strrchr(name, '.');

	if (!dot || dot == name || !dot[1] || dot[1 + strspn(dot + 1, "0123456789")])
		return false;
	*stem = (size_t)(dot - name);
	return true;
}

bool pe_sel_is_read_only(const struct pe_object_section *section)
{
	return !(section->flags & SHF_WRITE) || !strncmp(section->name, ".data.rel.ro", 12);
}

bool pe_sel_is_clone(const struct pe_object_symbol *symbol)
{
	return symbol->bind == STB_LOCAL &&
	       (strstr(symbol->name, ".isra") || strstr(symbol->name, ".constprop") ||
		strstr(symbol->name, ".part"));
}

bool pe_sel_is_compiler_constant(const struct pe_object_symbol *symbol)
{
	static const char *const made[] = { "CSWTCH", "C", "__func__", "__FUNCTION__",
					    "__PRETTY_FUNCTION__" };
	size_t stem;

	if (!symbol->section || symbol->bind != STB_LOCAL ||
	    !pe_sel_is_read_only(symbol->section) || pe_sel_is_text(symbol->section))
		return false;
	if (!strncmp(symbol->name, "_ZZ", 3))
		return strstr(symbol->name, "E8__func__") ||
		       strstr(symbol->name, "E12__FUNCTION__") ||
		       strstr(symbol->name, "E19__PRETTY_FUNCTION__");
	if (!pe_sel_numbered(symbol->name, &stem))
		return false;
	stem = strcspn(symbol->name, ".");
	for (size_t i = 0; i < sizeof(made) / sizeof(*made); i++) {
		if (strlen(made[i]) == stem && !strncmp(symbol->name, made[i], stem))
			return true;
	}
	return false;
}

bool pe_sel_is_local_constant(const struct pe_object_symbol *symbol)
{
	size_t stem;

	if (!symbol->section || symbol->bind != STB_LOCAL ||
	    !pe_sel_is_read_only(symbol->section) || pe_sel_is_text(symbol->section))
		return false;
	return !strncmp(symbol->name, "_ZZ", 3) || pe_sel_numbered(symbol->name, &stem);
}

size_t pe_sel_field_size(const struct pe_arch *arch, uint32_t type)
{
	size_t size = arch->reloc_size(type);

	return size ? size : 4;
}

/* ---- names ---- */

static bool is_named(const struct pe_object_symbol *symbol)
{
	return symbol->name[0] && symbol->type != STT_SECTION && symbol->type != STT_FILE &&
	       !pe_sel_is_label(symbol);
}

static int compare_names(const void *a, const void *b)
{
	const struct pe_object_symbol *x = *(struct pe_object_symbol *const *)a;
	const struct pe_object_symbol *y = *(struct pe_object_symbol *const *)b;
	int order = strcmp(x->name, y->name);

	return order ? order : x->index < y->index ? -1 : x->index > y->index;
}

static struct pe_error *sort_names(struct pe_sel_object *so)
{
	const struct pe_object *object = so->object;

	so->by_name = calloc(object->symbol_count + 1, sizeof(struct pe_object_symbol *));
	if (!so->by_name)
		return pe_error_nomem();
	for (size_t i = 1; i < object->symbol_count; i++) {
		if (is_named(&object->symbols[i]))
			so->by_name[so->by_name_count++] = &object->symbols[i];
	}
	qsort(so->by_name, so->by_name_count, sizeof(struct pe_object_symbol *), compare_names);
	return NULL;
}

struct pe_object_symbol *pe_sel_find(const struct pe_sel_object *so, const char *name)
{
	size_t low = 0, high = so->by_name_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (strcmp(so->by_name[middle]->name, name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	struct pe_object_symbol *found = NULL;
	for (; low < so->by_name_count && !strcmp(so->by_name[low]->name, name); low++) {
		if (so->by_name[low]->defined)
			return so->by_name[low];
		if (!found)
			found = so->by_name[low];
	}
	return found;
}

/* ---- owners and .cold parts ---- */

/* A function stands before a datum, that before a label without a type. */
static int owner_rank(const struct pe_object_symbol *symbol)
{
	if (symbol->type == STT_FUNC || symbol->type == STT_GNU_IFUNC)
		return 3;
	return symbol->type == STT_NOTYPE ? 1 : 2;
}

/* Sets so->owner; a section with things at different offsets has none. */
static struct pe_error *find_owners(struct pe_sel_object *so)
{
	const struct pe_object *object = so->object;
	pe_auto_free bool *several = calloc(object->section_count, sizeof(bool));

	so->owner = calloc(object->section_count, sizeof(struct pe_object_symbol *));
	if (!several || !so->owner)
		return pe_error_nomem();
	for (size_t i = 1; i < object->symbol_count; i++) {
		struct pe_object_symbol *symbol = &object->symbols[i];

		if (!is_named(symbol) || !symbol->section)
			continue;
		struct pe_object_symbol **owner = &so->owner[symbol->section->index];
		if (!*owner || owner_rank(symbol) > owner_rank(*owner)) {
			*owner = symbol;
			several[symbol->section->index] = false;
		} else if (owner_rank(symbol) == owner_rank(*owner) &&
			   symbol->value != (*owner)->value) {
			several[symbol->section->index] = true;
		}
	}
	for (size_t i = 0; i < object->section_count; i++) {
		if (several[i])
			so->owner[i] = NULL;
	}
	return NULL;
}

/* The length of the parent's name of "foo.cold" or "foo.cold.3"; 0 when it is no .cold part. */
static size_t cold_stem(const char *name)
{
	size_t length = strlen(name);

	pe_sel_numbered(name, &length);
	return length > 5 && !strncmp(name + length - 5, ".cold", 5) ? length - 5 : 0;
}

/*
 * Pairs each .cold part with its function by name. Where several functions have one name, their
 * parts stand in the same order.
 */
static struct pe_error *find_cold(struct pe_sel_object *so)
{
	const struct pe_object *object = so->object;

	so->cold = calloc(object->symbol_count + 1, sizeof(struct pe_object_symbol *));
	so->parent = calloc(object->symbol_count + 1, sizeof(struct pe_object_symbol *));
	if (!so->cold || !so->parent)
		return pe_error_nomem();
	for (size_t i = 1; i < object->symbol_count; i++) {
		struct pe_object_symbol *part = &object->symbols[i];
		size_t stem = part->section && is_named(part) ? cold_stem(part->name) : 0;

		if (!stem)
			continue;
		pe_auto_free char *name = strndup(part->name, stem);
		if (!name)
			return pe_error_nomem();
		struct pe_object_symbol *first = pe_sel_find(so, name);
		if (!first || !first->section)
			continue;
		/* Aliases (constructors) share the part. */
		for (size_t j = 1; j < object->symbol_count; j++) {
			struct pe_object_symbol *parent = &object->symbols[j];

			if (parent->section != first->section || parent->value != first->value ||
			    parent->type != STT_FUNC)
				continue;
			if (!so->cold[j])
				so->cold[j] = part;
			if (!so->parent[i])
				so->parent[i] = parent;
		}
	}
	return NULL;
}

/* ---- .eh_frame ---- */

static uint32_t get32(const uint8_t *p)
{
	uint32_t value;

	memcpy(&value, p, sizeof(value));
	return value;
}

static struct pe_error *frame_fill(struct pe_sel_object *so, struct pe_sel_frame *frame)
{
	const struct pe_object_section *s = so->eh_frame;
	uint32_t id = get32(s->data + frame->start + 4);
	size_t count;
	const struct pe_object_reloc *relocs =
		pe_object_relocs_in(s, frame->start, frame->start + frame->size, &count);

	frame->is_cie = id == 0;
	if (frame->is_cie)
		return NULL;
	uint64_t cie = frame->start + 4 - id;
	size_t i = 0;
	while (i < so->frame_count && so->frames[i].start != cie)
		i++;
	if (i == so->frame_count || !so->frames[i].is_cie)
		return pe_error_new(PE_ERR_FORMAT, "%s: unwind record at 0x%lx has no CIE",
				    so->object->path, frame->start);
	frame->cie = i;
	if (count && relocs[0].offset == frame->start + 8)
		frame->text = relocs[0].symbol->section;
	for (size_t r = 1; r < count; r++) {
		if (relocs[r].symbol->section)
			frame->lsda = relocs[r].symbol->section;
	}
	return NULL;
}

static struct pe_error *read_frames(struct pe_sel_object *so)
{
	const struct pe_object *object = so->object;

	for (size_t i = 1; i < object->section_count && !so->eh_frame; i++) {
		const struct pe_object_section *s = &object->sections[i];

		if (!strcmp(s->name, ".eh_frame") && s->data)
			so->eh_frame = s;
	}
	if (!so->eh_frame)
		return NULL;
	const struct pe_object_section *s = so->eh_frame;
	so->frames = calloc(s->size / 8 + 1, sizeof(*so->frames));
	if (!so->frames)
		return pe_error_nomem();
	for (uint64_t at = 0; s->size - at >= 8;) {
		uint64_t length = get32(s->data + at);

		if (!length)
			break;
		if (length == UINT32_MAX || length < 4 || length > s->size - at - 4)
			return pe_error_new(PE_ERR_FORMAT, "%s: damaged .eh_frame at 0x%lx",
					    object->path, at);
		struct pe_sel_frame *frame = &so->frames[so->frame_count];
		frame->start = at;
		frame->size = length + 4;
		struct pe_error *err = frame_fill(so, frame);
		if (err)
			return err;
		so->frame_count++;
		at += length + 4;
	}
	return NULL;
}

const struct pe_object_section *pe_sel_lsda(const struct pe_sel_object *so,
					    const struct pe_object_section *text)
{
	for (size_t i = 0; i < so->frame_count; i++) {
		if (so->frames[i].text == text && so->frames[i].lsda)
			return so->frames[i].lsda;
	}
	return NULL;
}

/* ---- mergeable sections ---- */

static bool zero_unit(const struct pe_object_section *section, uint64_t offset)
{
	for (uint64_t i = 0; i < section->entsize && offset + i < section->size; i++) {
		if (section->data[offset + i])
			return false;
	}
	return true;
}

void pe_sel_piece_at(const struct pe_object_section *section, uint64_t offset, uint64_t *start,
		     uint64_t *size)
{
	uint64_t unit = section->entsize;
	uint64_t begin = offset < section->size ? offset - offset % unit : section->size;
	uint64_t end = begin;

	if (section->flags & SHF_STRINGS) {
		while (begin >= unit && !zero_unit(section, begin - unit))
			begin -= unit;
		while (end < section->size && !zero_unit(section, end))
			end += unit;
	}
	end += unit;
	*start = begin;
	*size = (end < section->size ? end : section->size) - begin;
}

/* ---- references ---- */

/* What a PC-relative field in code counts short of its target, when nothing follows the field. */
static uint64_t pc_bias(const struct pe_object_section *section, uint32_t type)
{
	if (!pe_sel_is_text(section))
		return 0;
	switch (type) {
	case R_X86_64_PC32:
	case R_X86_64_PLT32:
	case R_X86_64_GOTPCREL:
	case R_X86_64_GOTPCRELX:
	case R_X86_64_REX_GOTPCRELX:
		return 4;
	default:
		return 0;
	}
}

struct pe_sel_ref pe_sel_ref_of(const struct pe_sel_object *so,
				const struct pe_object_section *section,
				const struct pe_object_reloc *reloc)
{
	const struct pe_object_symbol *symbol = reloc->symbol;
	struct pe_sel_ref ref = { .symbol = symbol,
				  .section = symbol->section,
				  .offset = symbol->value,
				  .addend = reloc->addend };

	if (!symbol->section || (symbol->type != STT_SECTION && !pe_sel_is_label(symbol)))
		return ref;
	ref.symbol = NULL;
	ref.through_section = true;
	ref.addend = reloc->addend + (int64_t)symbol->value;
	/* A label stands at the start of its piece; the addend of a bare section does not. */
	ref.offset = symbol->type == STT_SECTION
			     ? (uint64_t)reloc->addend + pc_bias(section, reloc->type)
			     : symbol->value;
	if (pe_sel_is_mergeable(symbol->section))
		return ref;
	ref.symbol = so->owner[symbol->section->index];
	if (!ref.symbol) {
		struct pe_object_symbol *at =
			pe_object_symbol_at(so->object, symbol->section, ref.offset);

		if (at && is_named(at))
			ref.symbol = at;
	}
	if (ref.symbol)
		ref.addend -= (int64_t)ref.symbol->value;
	return ref;
}

struct pe_error *pe_sel_object_init(struct pe_sel_object *so, const struct pe_object *object,
				    const struct pe_arch *arch)
{
	so->object = object;
	so->arch = arch;
	struct pe_error *err = sort_names(so);
	if (!err)
		err = find_owners(so);
	if (!err)
		err = find_cold(so);
	if (!err)
		err = read_frames(so);
	return err;
}

void pe_sel_object_deinit(struct pe_sel_object *so)
{
	free(so->owner);
	free(so->cold);
	free(so->parent);
	free(so->by_name);
	free(so->frames);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Listings; see build/listing.h. */
#include "build/listing.h"
#include "build/text.h"
#include "engine/cleanup.h"
#include "engine/demangle.h"

#include <inttypes.h>
#include <string.h>

/* Two bytes a cell: 32 MiB at the most. */
static const size_t most_cells = 16 << 20;

struct lister {
	struct pe_listing *listing;
	uint64_t start, size;
	const struct pe_image *image;		/* old code */
	const struct pe_patch *patch;		/* new code */
	const struct pe_patch_section *section; /* of the new code */
};

void pe_listing_deinit(struct pe_listing *listing)
{
	for (size_t i = 0; i < listing->count; i++) {
		free(listing->lines[i].text);
		free(listing->lines[i].key);
	}
	free(listing->lines);
	*listing = (struct pe_listing){ 0 };
}

/* ---- what an instruction refers to ---- */

static char *name_and_offset(const char *symbol, int64_t offset)
{
	pe_auto_free char *name = pe_demangle(symbol);

	if (!name || !offset)
		return pe_steal(name);
	return pe_format("%s%+" PRId64, name, offset);
}

/* What stands at @vaddr of the image; NULL when no symbol says. */
static char *name_in_image(const struct pe_image *image, uint64_t vaddr)
{
	size_t count;
	const struct pe_image_symbol *const *symbols = pe_image_at(image, vaddr, &count);

	if (count)
		return name_and_offset(symbols[0]->name, 0);

	const struct pe_image_slot *slot = pe_image_slot_at(image, vaddr);

	if (!slot)
		slot = pe_image_plt_slot(image, vaddr);
	if (slot && *slot->symbol)
		return name_and_offset(slot->symbol, 0);

	const struct pe_image_symbol *before =
		pe_image_is_code(image, vaddr) ? pe_image_function_before(image, vaddr) : NULL;

	return before ? name_and_offset(before->name, (int64_t)(vaddr - before->vaddr)) : NULL;
}

static const struct pe_patch_reloc *reloc_inside(const struct pe_patch_section *section,
						 uint64_t offset, size_t size)
{
	for (size_t i = 0; i < section->reloc_count; i++)
		if (section->relocs[i].offset >= offset &&
		    section->relocs[i].offset < offset + size)
			return &section->relocs[i];
	return NULL;
}

/* Text constants are shown, anything else by its section. */
static char *name_of_constant(const struct pe_patch *patch, const struct pe_patch_symbol *symbol,
			      int64_t offset)
{
	const struct pe_patch_section *section = &patch->sections[symbol->section];
	uint64_t at = symbol->value + (uint64_t)offset;
	size_t length = 0;
	const size_t longest = 60;

	while (section->data && at + length < section->size && length < longest &&
	       section->data[at + length] >= ' ' && section->data[at + length] < 0x7f)
		length++;
	if (length > 2 && at + length < section->size &&
	    (length == longest || !section->data[at + length]))
		return pe_format("\"%.*s\"%s", (int)length, section->data + at,
				 length == longest ? "..." : "");
	return pe_format("%s%+" PRId64, section->name, (int64_t)at);
}

static char *name_by_reloc(const struct lister *l, const struct pe_insn *insn)
{
	uint64_t offset = insn->at;
	const struct pe_patch_reloc *reloc = reloc_inside(l->section, offset, insn->size);

	if (!reloc)
		return NULL;

	const struct pe_patch_symbol *symbol = &l->patch->symbols[reloc->symbol];
	/* A field that is relative to its end has the rest of the instruction in its addend. */
	int64_t addend = reloc->addend;

	if (insn->has_reference)
		addend += (int64_t)(offset + insn->size - reloc->offset);
	if (symbol->kind == PE_SYM_LOCAL &&
	    l->patch->sections[symbol->section].kind == PE_SECTION_RODATA)
		return name_of_constant(l->patch, symbol, addend);
	return name_and_offset(symbol->name, addend);
}

/* ---- lines ---- */

static struct pe_error *add_line(struct lister *l, const struct pe_insn *insn, char *text,
				 char *key)
{
	struct pe_listing *listing = l->listing;
	struct pe_listing_line *lines =
		reallocarray(listing->lines, listing->count + 1, sizeof(*lines));

	if (lines)
		listing->lines = lines;
	if (!lines || !text || !key) {
		free(text);
		free(key);
		return pe_error_nomem();
	}
	lines[listing->count++] = (struct pe_listing_line){
		.offset = insn->at - l->start,
		.text = text,
		.key = key,
	};
	return NULL;
}

static struct pe_error *on_insn(void *ctx, const struct pe_insn *insn)
{
	struct lister *l = ctx;
	pe_auto_free char *name = NULL;
	bool inside = insn->has_reference && insn->refers - l->start < l->size;

	if (l->patch)
		name = name_by_reloc(l, insn);
	else if (insn->has_reference && !inside)
		name = name_in_image(l->image, insn->refers);
	if (insn->branch && name)
		return add_line(l, insn, pe_format("%-7s %s", insn->name, name),
				pe_format("%s %s", insn->name, name));
	if (insn->branch && inside)
		return add_line(l, insn,
				pe_format("%-7s .+0x%" PRIx64, insn->name, insn->refers - l->start),
				strdup(insn->name));
	if (name)
		return add_line(l, insn,
				pe_format("%-7s %s    # %s", insn->name, insn->operands, name),
				pe_format("%s %s", insn->name, name));
	return add_line(l, insn, pe_format("%-7s %s", insn->name, insn->operands),
			pe_format("%s %s", insn->name, insn->has_reference ? "" : insn->operands));
}

static struct pe_error *list_code(struct lister *l, const struct pe_arch *arch, const void *code)
{
	struct pe_error *err = arch->disassemble(l->start, code, l->size, on_insn, l);

	/* Tables between instructions end a listing, they do not spoil a report. */
	if (!err || err->code != PE_ERR_UNSUPPORTED)
		return err;

	const struct pe_insn rest = { .at = l->start };
	pe_auto_free char *text = pe_error_text(err);

	pe_error_free(err);
	return add_line(l, &rest, text ? strdup(text) : NULL, strdup("?"));
}

struct pe_error *pe_listing_old(const struct pe_image *image, const struct pe_arch *arch,
				const struct pe_patch_range *range, struct pe_listing *ret)
{
	const void *code = pe_image_bytes(image, range->vaddr, range->size);
	struct lister l = {
		.listing = ret, .start = range->vaddr, .size = range->size, .image = image
	};

	if (!code)
		return pe_error_new(PE_ERR_MISMATCH,
				    "the shipped program has no code at 0x%" PRIx64, range->vaddr);
	return list_code(&l, arch, code);
}

struct pe_error *pe_listing_new(const struct pe_patch *patch, const struct pe_arch *arch,
				const struct pe_patch_symbol *symbol, struct pe_listing *ret)
{
	const struct pe_patch_section *section = &patch->sections[symbol->section];
	struct lister l = {
		.listing = ret,
		.start = symbol->value,
		.size = symbol->size,
		.patch = patch,
		.section = section,
	};

	return list_code(&l, arch, section->data + symbol->value);
}

/* ---- side by side ---- */

static bool same(const struct pe_listing *old, size_t i, const struct pe_listing *new, size_t j)
{
	return !strcmp(old->lines[i].key, new->lines[j].key);
}

/* lengths[i * width + j]: of the longest common subsequence from old i and new j on. */
static uint16_t *common_lengths(const struct pe_listing *old, const struct pe_listing *new)
{
	size_t width = new->count + 1;
	uint16_t *lengths = calloc((old->count + 1) * width, sizeof(*lengths));

	for (size_t i = old->count; lengths && i-- > 0;) {
		for (size_t j = new->count; j-- > 0;) {
			uint16_t down = lengths[(i + 1) * width + j];
			uint16_t right = lengths[i * width + j + 1];

			lengths[i * width + j] =
				same(old, i, new, j)
					? (uint16_t)(lengths[(i + 1) * width + j + 1] + 1)
				: down > right ? down
					       : right;
		}
	}
	return lengths;
}

struct pe_error *pe_listing_align(const struct pe_listing *old, const struct pe_listing *new,
				  struct pe_listing_pair **ret, size_t *count)
{
	size_t width = new->count + 1, i = 0, j = 0;
	struct pe_listing_pair *pairs = calloc(old->count + width, sizeof(*pairs));
	bool fits = (old->count + 1) * width <= most_cells && old->count < UINT16_MAX &&
		    new->count < UINT16_MAX;
	pe_auto_free uint16_t *lengths = fits ? common_lengths(old, new) : NULL;

	*count = 0;
	if (!pairs || (fits && !lengths)) {
		free(pairs);
		return pe_error_nomem();
	}
	while (i < old->count || j < new->count) {
		bool both = i < old->count && j < new->count;
		bool step_old = i < old->count, step_new = j < new->count;

		if (both && lengths && !same(old, i, new, j)) {
			step_old = lengths[(i + 1) * width + j] >= lengths[i * width + j + 1];
			step_new = !step_old;
		}
		pairs[(*count)++] = (struct pe_listing_pair){
			.old = step_old ? i : PE_NO_LINE,
			.new = step_new ? j : PE_NO_LINE,
		};
		i += step_old;
		j += step_new;
	}
	*ret = pairs;
	return NULL;
}

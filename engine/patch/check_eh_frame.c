/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Checking .eh_frame (LSB Core, Exception Frames): the records must chain exactly to the zero
 * terminator, each FDE must name a CIE before it, and no relocation may change what chains them;
 * libgcc's unwinder walks this in the target without any bound.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/cleanup.h"
#include "patch/format.h"

enum {
	HEAD_SIZE = 8,	  /* length, CIE id or pointer */
	MIN_CIE_BODY = 5, /* version, augmentation, code and data alignment, return register */
	MIN_FDE_BODY = 4, /* pc begin, pc range: 2 bytes each at least */
	IS_64_BIT = -1,	  /* the length that announces a 64-bit one */
};

struct walk {
	const struct pe_patch_section *section;
	size_t (*reloc_size)(uint32_t type);
	size_t reloc;	/* the first that does not end before the current record */
	uint64_t *cies; /* their offsets, ascending */
	size_t cie_count;
};

static uint32_t get_u32(const struct pe_patch_section *s, uint64_t offset)
{
	uint32_t value;

	memcpy(&value, s->data + offset, sizeof(value));
	return value;
}

static struct pe_error *bad(uint64_t offset, const char *what)
{
	return pe_error_new(PE_ERR_FORMAT, "record at 0x%lx: %s", offset, what);
}

static int compare_offsets(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static struct pe_error *check_cie(struct walk *w, uint64_t offset, uint64_t end)
{
	const uint8_t *body = w->section->data + offset + HEAD_SIZE;
	uint64_t size = end - offset - HEAD_SIZE;

	if (size < MIN_CIE_BODY)
		return bad(offset, "the CIE is too short");
	if (body[0] != 1 && body[0] != 3 && body[0] != 4)
		return bad(offset, "the CIE has an unknown version");
	if (!memchr(body + 1, 0, size - 1))
		return bad(offset, "the augmentation string of the CIE has no end");
	w->cies[w->cie_count++] = offset;
	return NULL;
}

static struct pe_error *check_fde(struct walk *w, uint64_t offset, uint64_t end, uint32_t back)
{
	uint64_t pointer = offset + sizeof(uint32_t);
	uint64_t cie = pointer - back;

	if (end - offset < HEAD_SIZE + MIN_FDE_BODY)
		return bad(offset, "the FDE is too short");
	if (back > pointer ||
	    !bsearch(&cie, w->cies, w->cie_count, sizeof(*w->cies), compare_offsets))
		return bad(offset, "the FDE names no CIE before it");
	return NULL;
}

/* No relocation in [offset, offset + size). */
static bool is_fixed(struct walk *w, uint64_t offset, uint64_t size)
{
	const struct pe_patch_section *s = w->section;

	while (w->reloc < s->reloc_count &&
	       s->relocs[w->reloc].offset + w->reloc_size(s->relocs[w->reloc].type) <= offset)
		w->reloc++;
	return w->reloc == s->reloc_count || s->relocs[w->reloc].offset >= offset + size;
}

static struct pe_error *walk_records(struct walk *w)
{
	const struct pe_patch_section *s = w->section;
	uint64_t offset = 0;

	while (s->size - offset >= HEAD_SIZE) {
		uint64_t length = get_u32(s, offset);
		uint64_t end = offset + sizeof(uint32_t) + length;
		struct pe_error *err;

		if (length == (uint32_t)IS_64_BIT)
			return bad(offset, "64-bit records are not supported");
		if (!length)
			return bad(offset, "the terminator is not at the end");
		if (length < sizeof(uint32_t) || end > s->size - sizeof(uint32_t))
			return bad(offset, "its length leads past the end");
		if (!is_fixed(w, offset, HEAD_SIZE))
			return bad(offset, "a relocation changes its length or kind");

		uint32_t id = get_u32(s, offset + sizeof(uint32_t));

		err = id ? check_fde(w, offset, end, id) : check_cie(w, offset, end);
		if (err)
			return err;
		offset = end;
	}
	if (s->size - offset != sizeof(uint32_t) || get_u32(s, offset) ||
	    !is_fixed(w, offset, sizeof(uint32_t)))
		return pe_error_new(PE_ERR_FORMAT, "it does not end with a zero terminator");
	return NULL;
}

struct pe_error *care_check_eh_frame(const struct pe_patch_section *section,
				     size_t (*reloc_size)(uint32_t type))
{
	pe_auto_free uint64_t *cies = calloc(section->size / HEAD_SIZE + 1, sizeof(*cies));
	struct walk w = { .section = section, .reloc_size = reloc_size, .cies = cies };

	return cies ? walk_records(&w) : pe_error_nomem();
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Extents of functions from .eh_frame (LSB core, "Exception Frames"): each FDE covers one function
 * or one split-off part of it. Read by hand: only pc ranges are wanted, no unwind programs. What
 * is damaged or uses an encoding that no x86-64 or aarch64 toolchain writes ends the walk.
 */
#include <dwarf.h>
#include <stdlib.h>
#include <string.h>

#include "elf/image_private.h"

struct cursor {
	const uint8_t *at, *end;
	uint64_t vaddr; /* of at */
	bool bad;
};

static uint64_t take(struct cursor *cursor, size_t size)
{
	uint64_t value = 0;

	if ((size_t)(cursor->end - cursor->at) < size) {
		cursor->bad = true;
		return 0;
	}
	memcpy(&value, cursor->at, size); /* little-endian, as the file was checked to be */
	cursor->at += size;
	cursor->vaddr += size;
	return value;
}

/* LEB128 of either sign: only its length matters for most fields. */
static uint64_t take_leb(struct cursor *cursor)
{
	uint64_t value = 0;

	for (unsigned int shift = 0; shift < 70; shift += 7) {
		uint8_t byte = (uint8_t)take(cursor, 1);

		if (shift < 64)
			value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return value;
	}
	cursor->bad = true;
	return 0;
}

/* DW_EH_PE_*: value format in the low, application in the high half. */
static uint64_t take_encoded(struct cursor *cursor, uint8_t encoding)
{
	uint64_t place = cursor->vaddr, value;

	switch (encoding & 0x0f) {
	case DW_EH_PE_absptr:
	case DW_EH_PE_udata8:
	case DW_EH_PE_sdata8:
		value = take(cursor, 8);
		break;
	case DW_EH_PE_udata4:
		value = take(cursor, 4);
		break;
	case DW_EH_PE_sdata4:
		value = (uint64_t)(int32_t)take(cursor, 4);
		break;
	case DW_EH_PE_udata2:
		value = take(cursor, 2);
		break;
	case DW_EH_PE_sdata2:
		value = (uint64_t)(int16_t)take(cursor, 2);
		break;
	default:
		cursor->bad = true;
		return 0;
	}
	if ((encoding & 0x70) == DW_EH_PE_pcrel)
		value += place;
	else if ((encoding & 0x70) != 0)
		cursor->bad = true;
	return value;
}

/* Moves to the contents of the next record; false at the end. */
static bool record_next(struct cursor *walk, struct cursor *record)
{
	if (walk->end - walk->at < 4)
		return false;
	uint64_t length = take(walk, 4);
	if (length == 0xffffffff)
		length = take(walk, 8);
	if (walk->bad || length == 0 || length > (uint64_t)(walk->end - walk->at))
		return false;
	*record = (struct cursor){ walk->at, walk->at + length, walk->vaddr, false };
	walk->at += length;
	walk->vaddr += length;
	return true;
}

/* The encoding of pc fields in FDEs of this CIE (cursor behind its id); false when unknown. */
static bool cie_encoding(struct cursor cie, uint8_t *encoding)
{
	uint8_t version = (uint8_t)take(&cie, 1);
	const char *augmentation = (const char *)cie.at;
	const uint8_t *nul = memchr(cie.at, '\0', (size_t)(cie.end - cie.at));

	if (cie.bad || !nul || (version != 1 && version != 3))
		return false;
	cie.vaddr += (uint64_t)(nul + 1 - cie.at);
	cie.at = nul + 1;
	take_leb(&cie); /* code alignment */
	take_leb(&cie); /* data alignment */
	if (version == 1)
		take(&cie, 1); /* return address register */
	else
		take_leb(&cie);
	*encoding = DW_EH_PE_absptr;
	if (augmentation[0] != 'z')
		return !cie.bad && augmentation[0] == '\0';
	take_leb(&cie);
	for (const char *c = augmentation + 1; *c; c++) {
		if (*c == 'R')
			*encoding = (uint8_t)take(&cie, 1);
		else if (*c == 'L')
			take(&cie, 1);
		else if (*c == 'P')
			take_encoded(&cie, (uint8_t)take(&cie, 1) & ~(DW_EH_PE_indirect));
		else if (*c != 'S' && *c != 'B' && *c != 'G')
			return false;
	}
	return !cie.bad;
}

static struct pe_error *extent_add(struct pe_image *image, uint64_t start, uint64_t size)
{
	if (!image_grow(&image->extents, &image->extent_room, image->extent_count,
			sizeof(*image->extents)))
		return pe_error_nomem();
	image->extents[image->extent_count++] = (struct image_range){ start, start + size };
	return NULL;
}

static struct pe_error *eh_frame_walk(struct pe_image *image, uint64_t vaddr, const uint8_t *bytes,
				      size_t size)
{
	struct cursor walk = { bytes, bytes + size, vaddr, false }, record;
	const uint8_t *known_cie = NULL; /* FDEs of one CIE follow each other */
	uint8_t encoding = 0;

	while (record_next(&walk, &record)) {
		const uint8_t *id_at = record.at;
		uint32_t id = (uint32_t)take(&record, 4);

		if (record.bad)
			return NULL;
		if (id == 0)
			continue; /* a CIE; read when an FDE names it */
		if (id > (size_t)(id_at - bytes))
			return NULL;
		const uint8_t *cie_at = id_at - id;
		if (cie_at != known_cie) {
			struct cursor from = { cie_at, bytes + size, vaddr + (cie_at - bytes),
					       false };
			struct cursor cie;

			if (!record_next(&from, &cie) || take(&cie, 4) != 0 ||
			    !cie_encoding(cie, &encoding))
				return NULL;
			known_cie = cie_at;
		}
		uint64_t start = take_encoded(&record, encoding);
		uint64_t length = take_encoded(&record, encoding & 0x0f);
		if (record.bad)
			return NULL;
		if (length == 0 || start + length < start || !pe_image_is_code(image, start))
			continue;
		struct pe_error *err = extent_add(image, start, length);
		if (err)
			return err;
	}
	return NULL;
}

static int extent_compare(const void *a, const void *b)
{
	const struct image_range *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

/* File-backed bytes from @vaddr to the end of its segment. */
static const uint8_t *bytes_from(const struct pe_image *image, uint64_t vaddr, size_t *size)
{
	for (size_t i = 0; i < image->segment_count; i++) {
		const struct image_segment *segment = &image->segments[i];

		if (vaddr < segment->vaddr || vaddr - segment->vaddr >= segment->filesz)
			continue;
		*size = segment->filesz - (vaddr - segment->vaddr);
		return pe_image_bytes(image, vaddr, *size);
	}
	return NULL;
}

struct pe_error *image_extents_read(struct pe_image *image)
{
	size_t size;
	const uint8_t *hdr =
		image->eh_frame_hdr ? pe_image_bytes(image, image->eh_frame_hdr, 12) : NULL;

	if (!hdr || hdr[0] != 1)
		return NULL;
	struct cursor cursor = { hdr + 4, hdr + 12, image->eh_frame_hdr + 4, false };
	uint64_t vaddr = take_encoded(&cursor, hdr[1]);
	const uint8_t *bytes = cursor.bad ? NULL : bytes_from(image, vaddr, &size);
	if (!bytes)
		return NULL;
	struct pe_error *err = eh_frame_walk(image, vaddr, bytes, size);
	if (!err && image->extent_count > 0)
		qsort(image->extents, image->extent_count, sizeof(*image->extents), extent_compare);
	return err;
}

/* How many extents begin before @vaddr. */
static size_t extents_below(const struct pe_image *image, uint64_t vaddr)
{
	size_t low = 0, high = image->extent_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (image->extents[middle].start < vaddr)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool pe_image_extent_from(const struct pe_image *image, uint64_t vaddr, uint64_t *start,
			  uint64_t *end)
{
	size_t at = extents_below(image, vaddr);

	if (at == image->extent_count)
		return false;
	*start = image->extents[at].start;
	*end = image->extents[at].end;
	return true;
}

bool pe_image_function_extent(const struct pe_image *image, uint64_t vaddr, uint64_t *start,
			      uint64_t *end)
{
	if (vaddr == UINT64_MAX)
		return false;
	size_t at = extents_below(image, vaddr + 1);

	if (at == 0 || vaddr >= image->extents[at - 1].end)
		return false;
	*start = image->extents[at - 1].start;
	*end = image->extents[at - 1].end;
	return true;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Old and new code of a function as lines that people can compare. */
#ifndef BUILD_LISTING_H
#define BUILD_LISTING_H

#include "engine/arch.h"
#include "engine/image.h"
#include "engine/patch.h"

struct pe_listing_line {
	uint64_t offset; /* from the beginning of the function, bytes */
	char *text;	 /* instruction, outside addresses as names */
	char *key;	 /* the same without offsets: equal when two lines say the same */
};

struct pe_listing {
	struct pe_listing_line *lines;
	size_t count;
};

void pe_listing_deinit(struct pe_listing *listing);

/* One range of old code, as the image has it. */
struct pe_error *pe_listing_old(const struct pe_image *image, const struct pe_arch *arch,
				const struct pe_patch_range *range,
				struct pe_listing *ret) pe_must_check;
/* The code of a symbol that the patch defines; names come from its relocations. */
struct pe_error *pe_listing_new(const struct pe_patch *patch, const struct pe_arch *arch,
				const struct pe_patch_symbol *symbol,
				struct pe_listing *ret) pe_must_check;

/* Lines side by side: an index into each listing, or NO_LINE where one has no counterpart. */
#define PE_NO_LINE ((size_t)-1)

struct pe_listing_pair {
	size_t old, new;
};

/*
 * Longest common subsequence of the keys; where the listings are too long for it, lines are paired
 * as they come. @ret is owned by the caller.
 */
struct pe_error *pe_listing_align(const struct pe_listing *old, const struct pe_listing *new,
				  struct pe_listing_pair **ret, size_t *count) pe_must_check;

#endif

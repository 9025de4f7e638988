/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading, in two halves: read_elf.c makes a table of checked sections of the bytes, read.c makes
 * a patch of those.
 */
#ifndef PATCH_READ_H
#define PATCH_READ_H

#include <elf.h>

#include "patch/format.h"

/* A section whose header was checked: its bytes are inside the file and overlap no other's. */
struct care_section {
	const char *name;
	Elf64_Shdr header;
	const uint8_t *data; /* NULL for NOBITS */
};

struct care_file {
	const uint8_t *bytes;
	size_t size;
	uint16_t machine;
	struct care_section *sections; /* [0] is the null section */
	size_t section_count;
	size_t own_count;  /* of the patch's own sections, at 1 to own_count */
	size_t rela_count; /* of .rela sections, behind them */
	const struct care_section *symtab, *strtab, *manifest, *functions, *symbols, *diff;
	size_t symtab_index;
};

/* Checks everything about headers; @bytes must outlive @file. */
struct pe_error *care_file_init(struct care_file *file, const void *bytes,
				size_t size) pe_must_check;
void care_file_deinit(struct care_file *file);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A relocatable object (.o) in memory: sections, symbols, relocations, linked to each other.
 * Read-only after it was read. Compiled with -ffunction-sections -fdata-sections, so that a
 * function or a datum is normally a section of its own.
 */
#ifndef BUILD_OBJECT_H
#define BUILD_OBJECT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

struct pe_object_symbol;

struct pe_object_reloc {
	uint64_t offset; /* in its section */
	uint32_t type;	 /* R_X86_64_* */
	int64_t addend;
	struct pe_object_symbol *symbol;
};

struct pe_object_section {
	const char *name;
	size_t index;	/* in the ELF file */
	uint32_t type;	/* SHT_* */
	uint64_t flags; /* SHF_* */
	uint64_t size;	/* bytes */
	uint64_t align;
	uint64_t entsize;
	const uint8_t *data;		/* NULL for SHT_NOBITS */
	struct pe_object_reloc *relocs; /* sorted by offset; none read without SHF_ALLOC (DWARF) */
	size_t reloc_count;
	const char *group; /* COMDAT signature or NULL */
};

struct pe_object_symbol {
	const char *name;   /* the section's name for STT_SECTION */
	size_t index;	    /* in .symtab */
	uint8_t type;	    /* STT_* */
	uint8_t bind;	    /* STB_* */
	uint8_t visibility; /* STV_* */
	bool defined;
	bool absolute;			   /* SHN_ABS */
	bool common;			   /* SHN_COMMON */
	struct pe_object_section *section; /* NULL when undefined, absolute or common */
	uint64_t value;			   /* offset in section */
	uint64_t size;			   /* bytes */
};

struct pe_object {
	char *path;
	uint16_t machine;
	struct pe_object_section *sections; /* sections[i].index == i; [0] is the null section */
	size_t section_count;
	struct pe_object_symbol *symbols; /* symbols[i].index == i */
	size_t symbol_count;
	/* private */
	void *map;
	size_t map_size;
	void *private_data;
};

/* Reads @path; every offset is checked, so a damaged object is an error, never a crash. */
struct pe_error *pe_object_open(const char *path, struct pe_object **ret) pe_must_check;
void pe_object_close(struct pe_object *object);

/* First symbol with that name that is defined, or NULL. */
struct pe_object_symbol *pe_object_find(const struct pe_object *object, const char *name);
/* The named (not STT_SECTION) symbol that covers offset @offset of @section, functions and objects
 * first; NULL when none does. */
struct pe_object_symbol *pe_object_symbol_at(const struct pe_object *object,
					     const struct pe_object_section *section,
					     uint64_t offset);
/* Relocations of @section with offset in [start, end): first one and how many. */
const struct pe_object_reloc *pe_object_relocs_in(const struct pe_object_section *section,
						  uint64_t start, uint64_t end, size_t *count);

#endif

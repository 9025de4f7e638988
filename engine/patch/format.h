/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The encoding of a .cpatch file, format 1: what reader, writer and checker share.
 *
 * The file is an ELF64 little-endian relocatable object. In this order, each at its alignment,
 * none overlapping, the section header table last and nothing behind it:
 *
 *	1..n		the patch's own sections, in order, under their own names. The kind is
 *			told by name, type and flags: ".eh_frame" (PROGBITS, A), NOBITS WA (bss),
 *			PROGBITS AX (text), PROGBITS A (rodata), PROGBITS WA (data)
 *	.rela.NAME	one per section with relocations, sorted by offset
 *	.symtab		local symbols first, as ELF wants it; those that the patch does not define
 *			are undefined
 *	.strtab		names of symbols and all strings of .care.functions and .care.symbols
 *	.care.manifest	JSON (UTF-8, sorted keys), see manifest.c. The key "signature" is reserved
 *	.care.functions	struct care_functions_header, then its care_function records, then its
 *			care_range records: the ranges of the first function, of the second, ...
 *	.care.symbols	one struct care_symbol per symbol, in the patch's order, which is what
 *			care_function.symbol counts; each names its entry of .symtab
 *	.care.diff	the diff that the patch was made from, as it is; may be empty
 *	.care.checksum	SHA-256 of the whole file with these 32 bytes as zeros: finds what a disk
 *			or a copy damaged. Who meant it can make it right again; against him there
 *			are signatures
 *	.shstrtab
 *
 * Numbers are little-endian, records have no hidden padding, reserved fields are 0. A string is an
 * offset into .strtab, 0 for none.
 */
#ifndef PATCH_FORMAT_H
#define PATCH_FORMAT_H

#include "engine/patch.h"

#define CARE_MANIFEST ".care.manifest"
#define CARE_FUNCTIONS ".care.functions"
#define CARE_SYMBOLS ".care.symbols"
#define CARE_DIFF ".care.diff"
#define CARE_CHECKSUM ".care.checksum"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the records are read as they are");

struct care_functions_header {
	uint32_t function_count;
	uint32_t range_count; /* of all functions */
};

struct care_function {
	uint32_t name;
	uint32_t reason;
	uint32_t target;
	uint32_t symbol;
	uint32_t range_count;
	uint8_t entry_skip;
	uint8_t entry_size;
	uint8_t flags; /* CARE_FUNCTION_* */
	uint8_t reserved;
};

enum { CARE_FUNCTION_DISPLACED_CALL = 1 };

struct care_range {
	uint64_t vaddr;
	uint64_t size;
	uint8_t sha256[PE_SHA256_SIZE];
};

struct care_symbol {
	uint32_t elf_symbol; /* index in .symtab */
	uint8_t kind;	     /* enum care_symbol_kind */
	uint8_t flags;	     /* CARE_SYMBOL_* */
	uint16_t reserved;
	uint32_t target;
	uint32_t library;
	uint64_t value; /* 0 for a symbol that .symtab defines */
	uint32_t version;
	uint32_t reserved2;
};

enum { CARE_SYMBOL_GLOBAL = 1 };

/* On disk; never renumbered. */
enum care_symbol_kind {
	CARE_SYMBOL_TARGET = 1,
	CARE_SYMBOL_SLOT = 2,
	CARE_SYMBOL_IMPORT = 3,
	CARE_SYMBOL_TPOFF = 4,
	CARE_SYMBOL_ZERO = 5,
	CARE_SYMBOL_LOCAL = 6,
};

_Static_assert(sizeof(struct care_functions_header) == 8, "no padding");
_Static_assert(sizeof(struct care_function) == 24, "no padding");
_Static_assert(sizeof(struct care_range) == 48, "no padding");
_Static_assert(sizeof(struct care_symbol) == 32, "no padding");

/* Far above what any patch needs; they bound what a hostile file can cost. */
enum {
	PATCH_MAX_FILE = 64 << 20,     /* bytes */
	PATCH_MAX_MEMORY = 64 << 20,   /* bytes of all sections when mapped */
	PATCH_MAX_STRINGS = 64 << 20,  /* bytes of all strings read */
	PATCH_MAX_MANIFEST = 1 << 20,  /* bytes */
	PATCH_MAX_NAME = 16 << 10,     /* bytes of a symbol's or section's name */
	PATCH_MAX_ALIGN = 4096,	       /* bytes */
	PATCH_MAX_SECTIONS = 16 << 10, /* with two ELF sections each, below SHN_LORESERVE */
	PATCH_MAX_SYMBOLS = 1 << 18,
	PATCH_MAX_FUNCTIONS = 4096,
	PATCH_MAX_RANGES = 64, /* of one function */
	PATCH_MAX_TARGETS = 64,
	PATCH_MAX_LIST = 1024, /* CVEs, gates, notes */
};

/* SHA-256 of the file with the 32 bytes at @at, which are inside it, as zeros. */
void care_checksum(const uint8_t *bytes, size_t size, size_t at, uint8_t out[PE_SHA256_SIZE]);

/* JSON text of the manifest, owned by the caller; and back, into the fields that it carries. */
struct pe_error *care_manifest_write(const struct pe_patch *patch, char **ret) pe_must_check;
struct pe_error *care_manifest_read(const char *text, size_t size,
				    struct pe_patch *patch) pe_must_check;

/* check_text.c: fields that carry text. */
struct pe_error *care_check_manifest(const struct pe_patch *patch) pe_must_check;
/* A name that may be printed: not NULL, not empty, no blanks, no control characters. */
bool care_name_is_sane(const char *name);
/* A line that may be printed: UTF-8, not empty. */
bool care_text_is_sane(const char *text);

/* check_eh_frame.c */
struct pe_error *care_check_eh_frame(const struct pe_patch_section *section,
				     size_t (*reloc_size)(uint32_t type)) pe_must_check;

#endif

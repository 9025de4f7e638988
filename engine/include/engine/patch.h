/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A patch: the contents of a .cpatch file in memory (DESIGN 4). The builder makes one and writes
 * it; the reader checks everything, so that whoever holds a `struct pe_patch` may trust its
 * indices, sizes and offsets. What it says about the target is still checked against the target.
 */
#ifndef ENGINE_PATCH_H
#define ENGINE_PATCH_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"
#include "engine/image.h"

#define PE_PATCH_FORMAT 1
#define PE_SHA256_SIZE 32

struct pe_patch_cve {
	char *id;   /* "CVE-2026-49261" */
	char *cvss; /* "10.0", or NULL */
	char *url;  /* or NULL */
};

struct pe_patch_target {
	char *name; /* program file name or soname, e.g. "mariadbd" */
	bool is_program;
	bool is_pie; /* false: fixed addresses, the patch must be placed under 2 GiB */
	struct pe_build_id build_id;
	uint16_t machine; /* EM_* */
};

enum pe_patch_symbol_kind {
	PE_SYM_TARGET, /* vaddr in an image of the patch */
	PE_SYM_SLOT,   /* value of the target's own relocated 8-byte slot at vaddr */
	PE_SYM_IMPORT, /* by name and version in another library of the process */
	PE_SYM_TPOFF,  /* thread-local of the program: constant offset from the thread pointer */
	PE_SYM_ZERO,   /* undefined weak */
	PE_SYM_LOCAL,  /* defined in a section of this patch */
};

struct pe_patch_symbol {
	char *name;
	enum pe_patch_symbol_kind kind;
	uint8_t type;	  /* STT_* (STT_FUNC, STT_OBJECT, STT_TLS, STT_NOTYPE) */
	bool global;	  /* STB_GLOBAL for display; binding is by index, never by name */
	uint32_t target;  /* TARGET, SLOT, TPOFF: index in targets[] */
	uint64_t value;	  /* TARGET, SLOT: vaddr; TPOFF: offset as two's complement;
			   * LOCAL: offset in section */
	uint32_t section; /* LOCAL: index in sections[] */
	uint64_t size;	  /* bytes; 0 when unknown */
	char *library;	  /* IMPORT: soname, or NULL for "first in link-map order" */
	char *version;	  /* IMPORT: symbol version, or NULL */
};

struct pe_patch_reloc {
	uint64_t offset; /* in its section */
	uint32_t type;	 /* R_X86_64_*: only those that pe_arch.reloc_known accepts */
	uint32_t symbol; /* index in symbols[] */
	int64_t addend;
};

enum pe_patch_section_kind {
	PE_SECTION_TEXT,
	PE_SECTION_RODATA,
	PE_SECTION_DATA,
	PE_SECTION_BSS,
	PE_SECTION_EH_FRAME, /* at most one; ends with a zero terminator */
};

struct pe_patch_section {
	char *name;
	enum pe_patch_section_kind kind;
	uint64_t size;		       /* bytes */
	uint64_t align;		       /* power of two, at most 4096 */
	uint8_t *data;		       /* NULL for BSS */
	struct pe_patch_reloc *relocs; /* sorted by offset, none overlaps another */
	size_t reloc_count;
};

/* A piece of old code that a replaced function owns: its body or its .cold part. */
struct pe_patch_range {
	uint64_t vaddr;
	uint64_t size;			/* bytes */
	uint8_t sha256[PE_SHA256_SIZE]; /* of the bytes in the image file */
};

struct pe_patch_function {
	char *name;	 /* old symbol, as the target's symbol list has it */
	char *reason;	 /* why it is in: "changed", "inlines foo()", ... */
	uint32_t target; /* index in targets[] */
	uint32_t symbol; /* index in symbols[]: the new function, kind LOCAL in a TEXT section */
	struct pe_patch_range *ranges; /* [0] begins at the entry */
	size_t range_count;	       /* at least 1 */
	uint8_t entry_skip;  /* bytes before the overwritten ones: 0, or 4 behind endbr64 */
	uint8_t entry_size;  /* whole old instructions displaced from entry + entry_skip; at least
			      * the size of a jump */
	bool displaced_call; /* a call among the displaced instructions: its return address may lie
			      * in the overwritten bytes, so stacks count even when independent */
};

struct pe_patch {
	char *name;	   /* [A-Za-z0-9][A-Za-z0-9._+-]{0,63} */
	char *description; /* or NULL */
	char *kind;	   /* "security" or "bugfix" */
	char *product;	   /* "db", "libs", ... */
	uint32_t level;
	bool independent; /* its functions may change one by one (DESIGN 6) */
	char *compiler;	  /* built-by facts; any may be NULL */
	char *flags;
	char *source_sha256; /* hex, of the diff and the changed source files */
	char **notes;	     /* what the diff touches and the patch does not carry, in words */
	size_t note_count;
	struct pe_patch_cve *cves;
	size_t cve_count;
	char **gates; /* names of gates that the patch demands besides the usual ones */
	size_t gate_count;
	struct pe_patch_target *targets;
	size_t target_count;
	struct pe_patch_function *functions;
	size_t function_count;
	struct pe_patch_symbol *symbols;
	size_t symbol_count;
	struct pe_patch_section *sections;
	size_t section_count;
	char *diff; /* that the patch was made from: unified, no zero byte inside, one behind; or
		     * NULL */
	size_t diff_size; /* bytes */
};

struct pe_patch *pe_patch_new(void); /* zeroed; NULL without memory */
void pe_patch_free(struct pe_patch *patch);

/* Every rule of this page; names what breaks it. The reader and the writer call it. */
struct pe_error *pe_patch_check(const struct pe_patch *patch) pe_must_check;

struct pe_error *pe_patch_read(const char *path, struct pe_patch **ret) pe_must_check;
struct pe_error *pe_patch_parse(const void *bytes, size_t size,
				struct pe_patch **ret) pe_must_check;
/* Deterministic; written to a temporary name beside @path and renamed. */
struct pe_error *pe_patch_write(const struct pe_patch *patch, const char *path) pe_must_check;
struct pe_error *pe_patch_serialize(const struct pe_patch *patch, void **bytes,
				    size_t *size) pe_must_check;

#endif

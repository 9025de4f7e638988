/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An image: a linked ELF object (program or shared library), read from a file.
 *
 * All addresses here are link-time virtual addresses ("vaddr") as the ELF file has them; for a
 * running process add the load bias. Pure ELF: nothing here touches a process.
 */
#ifndef ENGINE_IMAGE_H
#define ENGINE_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

#define PE_BUILD_ID_MAX 64

struct pe_build_id {
	size_t size; /* bytes; 0 when there is none */
	uint8_t bytes[PE_BUILD_ID_MAX];
};

bool pe_build_id_equal(const struct pe_build_id *a, const struct pe_build_id *b);
/* Lower-case hex into @out, which holds 2 * PE_BUILD_ID_MAX + 1 bytes. */
void pe_build_id_hex(const struct pe_build_id *id, char *out);
bool pe_build_id_parse(const char *hex, struct pe_build_id *ret);
/* Finds NT_GNU_BUILD_ID in the bytes of a note segment, whatever stands before it. */
bool pe_build_id_from_notes(const void *notes, size_t size, struct pe_build_id *ret);

enum pe_symbol_source {
	PE_SOURCE_SYMTAB,
	PE_SOURCE_DEBUG, /* separate debug file */
	PE_SOURCE_NM,	 /* `nm --defined-only` list */
	PE_SOURCE_DYNSYM,
	PE_SOURCE_MATCH, /* found by the run-pre match */
};

struct pe_image_symbol {
	const char *name; /* without @version; owned by the image */
	uint64_t vaddr;	  /* offset in the TLS block for thread-locals */
	uint64_t size;	  /* bytes; 0 when unknown (nm list) */
	uint8_t type;	  /* STT_* */
	uint8_t bind;	  /* STB_* */
	enum pe_symbol_source source;
};

/* A dynamic relocation of the image that binds a slot to an imported symbol. */
struct pe_image_slot {
	uint64_t vaddr;	     /* of the 8-byte slot (GLOB_DAT, JUMP_SLOT), or of the COPY target */
	const char *symbol;  /* "" for R_X86_64_IRELATIVE: the resolver is at vaddr @addend */
	const char *version; /* "" when unversioned */
	uint32_t type;	     /* R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT, R_X86_64_COPY, ... */
	uint8_t symbol_type; /* STT_* of the undefined symbol */
	int64_t addend;
};

struct pe_image;

struct pe_error *pe_image_open(const char *path, struct pe_image **ret) pe_must_check;
void pe_image_close(struct pe_image *image);

const char *pe_image_path(const struct pe_image *image);
const struct pe_build_id *pe_image_build_id(const struct pe_image *image);
bool pe_image_is_pie(const struct pe_image *image);	   /* ET_DYN */
uint16_t pe_image_machine(const struct pe_image *image);   /* EM_* */
bool pe_image_is_program(const struct pe_image *image);	   /* else a shared library or plugin */
const char *pe_image_soname(const struct pe_image *image); /* NULL for a program, a plugin */
/* First and one-past-last vaddr of all PT_LOAD segments. */
void pe_image_extent(const struct pe_image *image, uint64_t *start, uint64_t *end);
/* Size and alignment of the PT_TLS segment, bytes; both 0 when there is none. */
void pe_image_tls(const struct pe_image *image, uint64_t *size, uint64_t *align);

/* The file-backed bytes at [vaddr, vaddr + size), or NULL when any of them is not in the file. */
const void *pe_image_bytes(const struct pe_image *image, uint64_t vaddr, size_t size);
/* True when vaddr lies in a PT_LOAD segment with PF_X. */
bool pe_image_is_code(const struct pe_image *image, uint64_t vaddr);
/* True when vaddr lies in a PT_LOAD segment with PF_W that is not RELRO. */
bool pe_image_is_writable(const struct pe_image *image, uint64_t vaddr);

/* True when the loader resolves every PLT slot before the program starts (BIND_NOW). */
bool pe_image_binds_now(const struct pe_image *image);

/* Adds symbols of an `nm --defined-only` list (plain or gzip) or of a separate debug file
 * (checked by build-id). */
struct pe_error *pe_image_add_nm(struct pe_image *image, const char *path) pe_must_check;
struct pe_error *pe_image_add_debug(struct pe_image *image, const char *path) pe_must_check;

/* All symbols with that name, best source first; a name can stand for several (static) symbols.
 * The array is owned by the image. */
const struct pe_image_symbol *const *pe_image_find(const struct pe_image *image, const char *name,
						   size_t *count);
/* (Arrays that these functions return live until symbols are added; the symbols themselves as long
 * as the image.) */
/* Symbols whose vaddr is exactly @vaddr (identical code folding and aliases give several);
 * never thread-locals. */
const struct pe_image_symbol *const *pe_image_at(const struct pe_image *image, uint64_t vaddr,
						 size_t *count);
/* The function symbol with the greatest vaddr <= @vaddr, or NULL. */
const struct pe_image_symbol *pe_image_function_before(const struct pe_image *image,
						       uint64_t vaddr);
/* Every symbol, sorted by vaddr; thread-locals behind all others. */
const struct pe_image_symbol *const *pe_image_symbols(const struct pe_image *image, size_t *count);

/*
 * The slot that holds the address of an imported symbol when the program runs; @version NULL
 * accepts any. NULL when there is none. COPY first (the symbol itself is at vaddr), then GLOB_DAT,
 * then JUMP_SLOT if the image binds now (else it may still hold the address of its PLT entry).
 */
const struct pe_image_slot *pe_image_find_slot(const struct pe_image *image, const char *symbol,
					       const char *version);
/* The slot at exactly that vaddr, and the slot that the PLT entry at @vaddr jumps through. */
const struct pe_image_slot *pe_image_slot_at(const struct pe_image *image, uint64_t vaddr);
const struct pe_image_slot *pe_image_plt_slot(const struct pe_image *image, uint64_t vaddr);
/*
 * The slot by which the image's code finds a thread-local; @type R_X86_64_DTPMOD64: the first word
 * of a pair (module, offset) for __tls_get_addr, R_X86_64_TPOFF64: its offset from the thread
 * pointer. By the name that the slot has, or, where it has none, by the offset in the image's own
 * block. NULL when there is none.
 */
const struct pe_image_slot *pe_image_tls_slot(const struct pe_image *image, uint32_t type,
					      const char *symbol);
const struct pe_image_slot *pe_image_tls_own_slot(const struct pe_image *image, uint32_t type,
						  uint64_t offset);
/*
 * A slot that the loader fills, before the program starts, with what the resolver at vaddr
 * @resolver returns (IRELATIVE: an indirect function of the image itself); NULL when there is none.
 */
const struct pe_image_slot *pe_image_ifunc_slot(const struct pe_image *image, uint64_t resolver);
/* Where the pointer at @vaddr leads by a RELATIVE relocation: the link-time vaddr. False when no
 * such relocation is there. */
bool pe_image_relative_at(const struct pe_image *image, uint64_t vaddr, uint64_t *target);
/* DT_NEEDED names, in order; the array is owned by the image. */
const char *const *pe_image_needed(const struct pe_image *image, size_t *count);

/*
 * The function end: from the FDE in .eh_frame that covers @vaddr. False when there is none.
 * (An nm list has no sizes; unwind tables do.)
 */
bool pe_image_function_extent(const struct pe_image *image, uint64_t vaddr, uint64_t *start,
			      uint64_t *end);
/* The first extent that begins at or behind @vaddr; false behind the last one. */
bool pe_image_extent_from(const struct pe_image *image, uint64_t vaddr, uint64_t *start,
			  uint64_t *end);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files that make up an image share; see engine/image.h for what it is. */
#ifndef ELF_IMAGE_PRIVATE_H
#define ELF_IMAGE_PRIVATE_H

#include "elf/file.h"
#include "engine/image.h"

struct image_segment { /* PT_LOAD */
	uint64_t vaddr, memsz, filesz, offset;
	uint32_t flags;
};

struct image_range { /* [start, end) */
	uint64_t start, end;
};

struct image_dynamic { /* vaddrs and sizes in bytes; 0 when absent */
	uint64_t strtab, strsz, symtab, hash, gnu_hash;
	uint64_t versym, verneed, verneednum, verdef, verdefnum;
	uint64_t rela, relasz, jmprel, pltrelsz, relr, relrsz;
	uint64_t soname; /* offset in strtab, 0 when absent */
	bool binds_now;
};

struct image_relative {
	uint64_t vaddr, target;
};

/* One source of symbols, with what their names point into. */
struct image_source {
	struct pe_image_symbol *symbols; /* do not move once the source was added */
	size_t count, room;
	struct pe_elf_file file; /* of a separate debug file */
	char *text;		 /* of an nm list */
	struct image_source *next;
};

struct pe_image {
	char *path;
	struct pe_elf_file file;
	uint16_t type, machine; /* ET_*, EM_* */
	struct pe_build_id build_id;

	struct image_segment *segments; /* ascending, disjoint */
	size_t segment_count;
	struct image_range relro;
	uint64_t tls_size, tls_align;
	uint64_t dynamic_vaddr, dynamic_size, eh_frame_hdr; /* vaddr; 0 when absent */

	struct image_dynamic dynamic;
	const char *soname;
	bool has_interpreter, says_pie; /* PT_INTERP, DF_1_PIE */
	const char **needed;
	size_t needed_count;

	struct image_source *sources;
	struct pe_image_symbol **by_name;  /* by name, source, vaddr; no two alike */
	struct pe_image_symbol **by_vaddr; /* the same; thread-locals behind all others */
	size_t index_count, tls_index;	   /* of by_vaddr: first thread-local */

	const char **versions; /* by version index of .gnu.version */
	size_t version_count;
	struct pe_image_slot *slots; /* by vaddr */
	struct pe_image_slot **slots_by_name;
	size_t slot_count, slot_room;
	struct image_relative *relatives; /* by vaddr */
	size_t relative_count, relative_room;

	struct image_range *extents; /* of functions, from unwind tables; ascending */
	size_t extent_count, extent_room;
};

#define IMAGE_BAD(image, fmt, ...)                                 \
	pe_error_new(PE_ERR_FORMAT, "%s is a damaged image: " fmt, \
		     (image)->path __VA_OPT__(, ) __VA_ARGS__)

/* The string at @offset of the dynamic string table, or NULL. */
const char *image_dynamic_string(const struct pe_image *image, uint64_t offset);
/* Grows a room-counted array of @size-byte elements for one more; false without memory. */
bool image_grow(void *array, size_t *room, size_t count, size_t size);
/* Build-id of any ELF file, from its note segments, else its note sections. */
bool image_file_build_id(const struct pe_elf_file *file, struct pe_build_id *ret);

/* symbols.c */
struct pe_error *image_symbols_read(struct pe_image *image) pe_must_check; /* .symtab, .dynsym */
void image_symbols_deinit(struct pe_image *image);
/* slots.c */
struct pe_error *image_slots_read(struct pe_image *image) pe_must_check;
void image_slots_deinit(struct pe_image *image);
/* extents.c */
struct pe_error *image_extents_read(struct pe_image *image) pe_must_check;

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of the run-pre match share.
 *
 * A place is the image address of a section of the object (of the symbol itself where it has no
 * section). Comparing a function is a transaction: the places that its references tell are kept
 * when all of it agrees, and taken back otherwise.
 */
#ifndef BUILD_MATCH_PRIVATE_H
#define BUILD_MATCH_PRIVATE_H

#include "build/match.h"

struct match_place {
	bool known;
	uint64_t vaddr; /* for thread-locals the offset in the TLS block */
};

/* Where a piece of a data section begins: something refers to it, or has it as symbol. */
struct match_piece {
	size_t section;
	uint64_t offset;
};

/* A function that is equal but for the sizes of its jumps: where its instructions went. */
struct match_flow {
	const struct pe_object_symbol *function;
	uint64_t vaddr, size; /* in the image; bytes in the object */
	uint32_t *map;	      /* by offset in the object's code: offset in the image's */
	struct match_flow *next;
};

struct match_state {
	const struct pe_object *object;
	const struct pe_image *image;
	struct match_place *sections; /* by section index */
	struct match_place *symbols;  /* by symbol index; undefined and common ones only */
	size_t *functions;	      /* by symbol index: 1 + index in pe_match.functions, or 0 */
	uint64_t tls_end;	      /* TLS block offset that the thread pointer stands for */
	bool has_locals;	      /* the image's symbol list has static functions */
	struct match_piece *pieces;   /* by section, then offset; some twice */
	size_t piece_count;

	/* The function being compared. A weak one may have come from another object, whose statics
	 * are not ours: it teaches nothing about them. */
	const struct pe_object_symbol *teacher;
	unsigned int depth; /* of data that refer to data */

	struct match_flow *flows, *flows_before; /* all; those from before the transaction */

	struct match_place **learned; /* since the transaction began */
	size_t learned_count, learned_room;
	size_t *unverified; /* data sections whose place is new: contents to be compared */
	size_t unverified_count, unverified_room;
	bool no_memory;
};

enum match_ref_kind {
	MATCH_REF_NONE,	   /* nothing to check beyond the bytes */
	MATCH_REF_ADDRESS, /* value is where the symbol would be */
	MATCH_REF_SLOT,	   /* value is the slot that holds the symbol's address or TLS offset */
	MATCH_REF_TLS,	   /* value is the symbol's offset in the TLS block */
	MATCH_REF_PAIR,	   /* value is the pair of module and offset for __tls_get_addr */
	MATCH_REF_MODULE,  /* likewise, of the start of the image's TLS block */
};

/* One decoded relocation field of shipped code. */
struct match_ref {
	const struct pe_object_reloc *reloc;
	uint64_t start,
		end; /* bytes that the linker wrote or rewrote, from the start of the code */
	enum match_ref_kind kind;
	uint64_t value;
};

/* Code of the object and what stands in the image in its place. */
struct match_code {
	const uint8_t *object, *image;
	uint64_t size;	 /* bytes */
	uint64_t vaddr;	 /* of image[0] */
	uint64_t offset; /* of object[0] in its section */
};

/* match_decode.c: false when the relocation type is not known or its instruction is none that a
 * linker understands. */
bool match_decode(const struct match_state *state, const struct match_code *code,
		  const struct pe_object_reloc *reloc, struct match_ref *ret);

/* match_refs.c: false with *cause set (owned by the caller) when the image refers elsewhere. */
bool match_refer(struct match_state *state, const struct match_ref *ref, char **cause);
bool match_place_set(struct match_state *state, struct match_place *place, uint64_t vaddr);
/* Contents of the data sections whose places are new. */
bool match_verify_data(struct match_state *state, char **cause);
bool match_pieces_init(struct match_state *state);
void match_begin(struct match_state *state);
void match_rollback(struct match_state *state);

/* match_flow.c: the second look, at code whose bytes differ. *size: bytes in the image. */
bool match_flow_compare(struct match_state *state, const struct pe_object_symbol *function,
			const struct match_code *code, const struct pe_object_reloc *relocs,
			size_t count, uint64_t *size, char **cause);
/* Where that offset of the section is in the image, 0 where no instruction begins; false when no
 * second look was needed there. */
bool match_flow_at(const struct match_state *state, const struct pe_object_section *section,
		   uint64_t offset, uint64_t *vaddr);
/* Is there nothing but padding from @vaddr to @end in the image? */
bool match_is_padding(const struct match_state *state, uint64_t vaddr, uint64_t end);
void match_flows_drop(struct match_state *state, const struct match_flow *until);

struct match_equal {
	bool relocated;
	uint64_t size; /* bytes in the image */
};

/* match_code.c */
/* Compares the function with the image at @vaddr; on success what it taught stays. */
bool match_compare(struct match_state *state, const struct pe_object_symbol *function,
		   uint64_t vaddr, struct match_equal *equal, char **cause);
/* Bytes that the function's code takes in its section. */
uint64_t match_code_size(const struct pe_object_symbol *function);

#endif

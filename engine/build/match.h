/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The run-pre match: is the shipped code what this source and these flags produce?
 *
 * Each function of an object that was compiled from the unpatched source is compared with the
 * bytes of the shipped image. Relocations are decoded, not just masked: the address that the
 * shipped code refers to must agree with what the object names (symbol list, PLT slot, string or
 * constant content), and linker relaxations (GOTPCRELX, TLS GD/LD/IE to LE) are undone.
 * What is learned on the way is kept: which address each symbol of the object has in the image.
 */
#ifndef BUILD_MATCH_H
#define BUILD_MATCH_H

#include <jansson.h>

#include "build/object.h"
#include "engine/image.h"

enum pe_match_verdict {
	PE_MATCH_IDENTICAL, /* every byte, no relocation in it */
	PE_MATCH_RELOCATED, /* identical after decoding relocations, and the sizes of jumps */
	PE_MATCH_DIFFERENT,
	PE_MATCH_ABSENT, /* not in the image: inlined everywhere or dropped by the linker */
};

struct pe_match_function {
	struct pe_object_symbol *symbol; /* in the object */
	/* In the image; 0 when absent, or when equal copies leave open which is this object's. */
	uint64_t vaddr;
	uint64_t size; /* bytes in the image: other than the symbol's when jumps have other sizes */
	enum pe_match_verdict verdict;
	char *cause; /* owned; why different, absent or ambiguous, NULL otherwise */
};

struct pe_match {
	const struct pe_object *object;
	const struct pe_image *image;
	struct pe_match_function
		*functions; /* every STT_FUNC of the object, .cold parts included */
	size_t function_count;
	void *private_data;
};

/* Object and image must outlive the match. */
struct pe_error *pe_match_run(const struct pe_object *object, const struct pe_image *image,
			      struct pe_match **ret) pe_must_check;
void pe_match_free(struct pe_match *match);

const struct pe_match_function *pe_match_function_of(const struct pe_match *match,
						     const struct pe_object_symbol *symbol);

/*
 * The image vaddr of what a symbol of the object stands for (for a section symbol: section start),
 * as the symbol list or the match tells. False when unknown: never linked in, or ambiguous.
 * Not for mergeable string and constant sections, whose parts the linker moves one by one.
 */
bool pe_match_address(const struct pe_match *match, const struct pe_object_symbol *symbol,
		      uint64_t *vaddr);
/* Likewise for a thread-local symbol: its offset from the thread pointer (negative, x86-64). */
bool pe_match_tls_offset(const struct pe_match *match, const struct pe_object_symbol *symbol,
			 int64_t *tpoff);

/* Of several copies the linker keeps one: the image may have that of another object. */
bool pe_match_is_weak(const struct pe_object_symbol *function);

/* "identical", "relocated", "different", "absent". */
const char *pe_match_verdict_name(enum pe_match_verdict verdict);
size_t pe_match_count(const struct pe_match *match, enum pe_match_verdict verdict);
/* {"object", "total", "identical" (relocated ones included), "functions": [{"symbol", "name"
 * (demangled), "vaddr" ("0x..." or null), "size", "verdict", "cause"}]} */
json_t *pe_match_to_json(const struct pe_match *match);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From two versions of some objects and the shipped image to a patch (DESIGN 5.4 to 5.6):
 * correlate -> compare -> select -> guard -> emit.
 */
#ifndef BUILD_SELECT_H
#define BUILD_SELECT_H

#include "build/match.h"
#include "engine/patch.h"

/* One translation unit in one object of the build. */
struct pe_unit_objects {
	const char *source;	      /* path in the source tree, e.g. "sql/item_func.cc" */
	const struct pe_object *base; /* compiled from the unpatched source */
	const struct pe_object *patched;
	const struct pe_match *match; /* of base against the image */
};

/* Lines of an old source file that a diff touches. */
struct pe_source_lines {
	const char *file;	   /* path in the source tree */
	unsigned long first, last; /* an insertion: the line before it, twice */
};

struct pe_select_options {
	bool force_dependent;	/* --dependent */
	bool force_independent; /* --independent: refused where DESIGN 5.4 says so */
	/* What the diffs touch: tells a function that changed from one that inlines it. May be
	 * none; then reasons say less. */
	const struct pe_source_lines *lines;
	size_t line_count;
	/*
	 * Where a global name lies that neither the image's symbols nor its libraries have, if
	 * that can be found out otherwise. May be NULL.
	 */
	struct pe_error *(*address)(void *ctx, const char *name, uint64_t *vaddr, bool *found);
	void *address_ctx;
	/* What loads the image, a plugin: new code may use all that it exports. May be NULL. */
	const char *program;
};

enum pe_changed_kind {
	PE_CHANGED_REPLACED, /* an old function that is replaced */
	PE_CHANGED_NEW,	     /* a function that the image does not have */
	PE_CHANGED_DATA_NEW, /* a new variable or constant */
};

struct pe_select_item {
	char *name; /* demangled for people */
	char *symbol;
	enum pe_changed_kind kind;
	char *reason;
	uint64_t old_size, new_size; /* bytes */
};

/* What a reviewer wants to see. */
struct pe_select_report {
	struct pe_select_item *items;
	size_t count;
	size_t outside_symbols; /* of the target or of libraries that new code refers to */
};

/*
 * Fills functions, symbols, sections, independent and targets[0] of @patch (the manifest's other
 * fields are the caller's). Errors: NOTHING when no function changed; MISMATCH when what the patch
 * touches or relies on does not match the image; UNSUPPORTED for each refusal of DESIGN 5.5.
 */
struct pe_error *pe_select(const struct pe_unit_objects *units, size_t unit_count,
			   const struct pe_image *image, const struct pe_select_options *options,
			   struct pe_patch *patch, struct pe_select_report *report) pe_must_check;
void pe_select_report_deinit(struct pe_select_report *report);

#endif

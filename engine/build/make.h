/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Making a patch (DESIGN 5): diffs -> patched tree -> units -> objects -> match -> select.
 */
#ifndef BUILD_MAKE_H
#define BUILD_MAKE_H

#include "build/diff.h"
#include "build/select.h"
#include "build/units.h"

/* What a file is to the program, by its name, when no command of the build compiles it. */
enum pe_file_role {
	PE_FILE_CODE,  /* included by units, it seems */
	PE_FILE_BUILD, /* decides how the program is made */
	PE_FILE_OTHER, /* documentation, tests, ... */
};

enum pe_file_role pe_file_role(const char *path);
/* By its name: compiled by itself, not included. */
bool pe_file_is_source(const char *path);

struct pe_make_options {
	const struct pe_strv *diffs; /* files, applied in this order */
	size_t max_units;	     /* refuse a change (of a header) that touches more */
	struct pe_select_options select;
	const char *work; /* existing empty directory for the patched tree */
};

struct pe_make_result {
	struct pe_select_report report;
	struct pe_units units; /* that changed; keeps the objects that the report names */
	struct pe_strv notes;  /* for the user: changed files that are no part of the program */
};

/*
 * Fills @patch: all but name, description, kind, level and CVEs, which are the maker's to say.
 * NOTHING when the diffs change no code; FORMAT when they do not apply; COMPILE with the
 * compiler's words; UNSUPPORTED and MISMATCH as pe_select gives them.
 */
struct pe_error *pe_make_patch(const struct pe_build *build, const struct pe_make_options *options,
			       struct pe_patch *patch, struct pe_make_result *ret) pe_must_check;
void pe_make_result_deinit(struct pe_make_result *result);

#endif

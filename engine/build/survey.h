/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How often does it work? The difference of two source trees as many small changes, each to be
 * tried alone, and the outcome of a trial as a kind of reason that can be counted.
 */
#ifndef BUILD_SURVEY_H
#define BUILD_SURVEY_H

#include "build/text.h"
#include "engine/error.h"

struct pe_survey_change {
	char *path;  /* relative to both trees */
	size_t hunk; /* 1, 2, ... of the file; 0: the whole file */
	char *diff;  /* file with the unified diff */
};

struct pe_survey_changes {
	struct pe_survey_change *items;
	size_t count;
};

void pe_survey_changes_deinit(struct pe_survey_changes *changes);

/*
 * One change a file that differs between @old and @new, or that only @new has; sorted by path.
 * What only @old has is passed over: there lie the products of its build. @below, when it has
 * items: only these paths and what lies below them. Diffs are written to @dir.
 */
struct pe_error *pe_survey_files(const char *old, const char *new, const struct pe_strv *below,
				 const char *dir, struct pe_survey_changes *ret) pe_must_check;
/* The hunks of a file's change, each with its own diff; none when it has just one. */
struct pe_error *pe_survey_hunks(const struct pe_survey_change *change, const char *dir,
				 struct pe_survey_changes *ret) pe_must_check;

/*
 * The kind of a refusal, in a few words, from the JSON name of its code and its message; NULL when
 * it is none that we know: then nobody stated a reason.
 */
const char *pe_survey_reason(const char *code, const char *message);

#endif

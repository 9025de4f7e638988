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
	char *diff;  /* file with the unified diff; NULL when only blanks and comments differ */
};

struct pe_survey_changes {
	struct pe_survey_change *items;
	size_t count;
};

void pe_survey_changes_deinit(struct pe_survey_changes *changes);

/*
 * One change a file that differs between @old and @new, or that only @new has; sorted by path.
 * What only @old has is passed over: there lie the products of its build. @below, when it has
 * items: only these paths and what lies below them. Diffs are written to @dir; of C and C++ they
 * have only the lines in which more than blanks and comments differ.
 */
struct pe_error *pe_survey_files(const char *old, const char *new, const struct pe_strv *below,
				 const char *dir, struct pe_survey_changes *ret) pe_must_check;
/* By its name: is it C or C++ that could be in the program, or what a header is made from? */
bool pe_survey_is_code(const char *path);
/* The hunks of a file's change, each with its own diff; none when it has just one. */
struct pe_error *pe_survey_hunks(const struct pe_survey_change *change, const char *dir,
				 struct pe_survey_changes *ret) pe_must_check;

/*
 * Other changes that one may need, which was refused with @message alone: those whose lines have a
 * name that the compiler did not know or find as it was (headers, if one of them has it), or that
 * the program does not have. A name that many have is a common word. Flags for each of @changes:
 * @in tells what was tried, and what is found is added to it; @may, what may be added at all.
 * *@added is their number.
 */
struct pe_error *pe_survey_needs(const struct pe_survey_changes *changes, const char *message,
				 const bool *may, bool *in, size_t *added) pe_must_check;

/*
 * The kind of a refusal, in a few words, from the JSON name of its code and its message; NULL when
 * it is none that we know: then nobody stated a reason.
 */
const char *pe_survey_reason(const char *code, const char *message);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lines stay (DESIGN 5.2): #line directives in a patched source, so that what stands behind a hunk
 * keeps the line numbers it had. Otherwise __LINE__ in each mutex or assertion macro below would
 * change the code of functions that the fix does not touch.
 */
#ifndef BUILD_LINES_H
#define BUILD_LINES_H

#include <stddef.h>

#include "engine/error.h"

/* One stretch of lines that differs, 1-based, as `diff -U0` counts. */
struct pe_lines_hunk {
	unsigned long old_start, old_count;
	unsigned long new_start, new_count;
};

/* The hunks between two files, by diff(1). None when they are equal. */
struct pe_error *pe_lines_diff(const char *old_path, const char *new_path,
			       struct pe_lines_hunk **ret, size_t *count) pe_must_check;
/*
 * The new text with directives; owned by the caller. A directive stands at the first place behind
 * its hunk where one is harmless: not in a comment, a string, a directive that goes on, or between
 * parentheses (of a macro's arguments, perhaps); it is left out when the next hunk comes first.
 */
struct pe_error *pe_lines_keep(const char *text, size_t size, const struct pe_lines_hunk *hunks,
			       size_t count, char **ret, size_t *ret_size) pe_must_check;

#endif

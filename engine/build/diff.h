/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A unified diff: which files it touches and how; applying it to a mirror of the source tree.
 * The reading is ours (to know the files and to find nonsense early), the applying is patch(1)'s.
 */
#ifndef BUILD_DIFF_H
#define BUILD_DIFF_H

#include <stddef.h>

#include "build/text.h"
#include "engine/error.h"

enum pe_diff_change {
	PE_DIFF_MODIFIED,
	PE_DIFF_ADDED,
	PE_DIFF_REMOVED,
};

struct pe_diff_file {
	char *path; /* relative to the source root, prefix stripped */
	enum pe_diff_change change;
	size_t hunks;
};

struct pe_diff {
	char *name; /* of the diff file, for messages */
	char *text;
	size_t size;
	unsigned int strip; /* path components to strip: what -pN says to patch(1) */
	struct pe_diff_file *files;
	size_t count;
};

/*
 * Parses a diff and finds how many leading components its paths have too many (0 or 1), by
 * looking into @root. FORMAT when it is no unified diff, when its hunks do not add up, when a path
 * leads out of the tree or when the file it changes does not exist in @root (@known lists files
 * that earlier diffs add; may be NULL).
 */
struct pe_error *pe_diff_parse(const char *name, const char *text, size_t size, const char *root,
			       const struct pe_strv *known, struct pe_diff *ret) pe_must_check;
void pe_diff_deinit(struct pe_diff *diff);

/*
 * Applies it with patch(1) in @work, a mirror of links to @root: links of touched files become
 * copies first. FORMAT with patch's words when it does not apply exactly.
 */
struct pe_error *pe_diff_apply(const struct pe_diff *diff, const char *root,
			       const char *work) pe_must_check;

/*
 * Some diffs as one text that a patch keeps (a line before each tells its size; patch(1) skips
 * it), and back: each becomes a file of @dir, whose paths go to @ret in order. FORMAT when the
 * text is none that pe_diffs_join made.
 */
struct pe_error *pe_diffs_join(const struct pe_diff *diffs, size_t count, char **text,
			       size_t *size) pe_must_check;
struct pe_error *pe_diffs_split(const char *text, size_t size, const char *dir,
				struct pe_strv *ret) pe_must_check;

#endif

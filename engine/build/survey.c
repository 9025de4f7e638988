/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Splitting the difference of two trees; see build/survey.h.
 *
 * diff(1) finds and writes the differences. A unified diff falls apart at its "@@" lines, and each
 * hunk applies alone to the old file, since its old line number is that of the old file.
 */
#include "build/survey.h"
#include "build/files.h"
#include "build/make.h"
#include "build/run.h"
#include "build/tokens.h"
#include "engine/cleanup.h"

#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

void pe_survey_changes_deinit(struct pe_survey_changes *changes)
{
	for (size_t i = 0; i < changes->count; i++) {
		free(changes->items[i].path);
		free(changes->items[i].diff);
	}
	free(changes->items);
	*changes = (struct pe_survey_changes){ 0 };
}

static struct pe_error *change_add(struct pe_survey_changes *changes, const char *path, size_t hunk,
				   const char *diff)
{
	struct pe_survey_change *items =
		reallocarray(changes->items, changes->count + 1, sizeof(*items));

	if (!items)
		return pe_error_nomem();
	changes->items = items;
	items[changes->count++] = (struct pe_survey_change){
		.path = strdup(path),
		.hunk = hunk,
		.diff = diff ? strdup(diff) : NULL,
	};
	return items[changes->count - 1].path && (items[changes->count - 1].diff || !diff)
		       ? NULL
		       : pe_error_nomem();
}

/* ---- which files ---- */

/* diff -q says "Files OLD/PATH and NEW/PATH differ": PATH of @line, or NULL. */
static char *path_that_differs(const char *line, const char *old, const char *new)
{
	size_t fixed = strlen("Files ") + strlen(old) + strlen("/ and ") + strlen(new) +
		       strlen("/ differ");
	size_t length = strlen(line);

	if (!pe_starts_with(line, "Files ") || length <= fixed || (length - fixed) % 2)
		return NULL;
	return strndup(line + strlen("Files ") + strlen(old) + 1, (length - fixed) / 2);
}

/* "Only in NEW/DIR: NAME" */
static char *path_that_is_new(const char *line, const char *new)
{
	pe_auto_free char *prefix = pe_format("Only in %s", new);

	if (!prefix || !pe_starts_with(line, prefix))
		return NULL;

	const char *dir = line + strlen(prefix), *name = strstr(dir, ": ");

	if (!name || (*dir != '/' && *dir != ':'))
		return NULL;
	dir += *dir == '/';
	return dir < name ? pe_format("%.*s/%s", (int)(name - dir), dir, name + 2)
			  : strdup(name + 2);
}

static bool is_wanted(const char *path, const struct pe_strv *below)
{
	for (size_t i = 0; i < below->count; i++)
		if (pe_path_below(path, below->items[i]))
			return true;
	return !below->count;
}

static bool is_regular(const char *root, const char *path)
{
	pe_auto_free char *full = pe_format("%s/%s", root, path);
	struct stat st;

	return full && !lstat(full, &st) && S_ISREG(st.st_mode);
}

static struct pe_error *run_diff(const struct pe_strv *argv, char **out)
{
	pe_auto_run struct pe_run run = { .argv = argv };
	struct pe_error *err = pe_run(&run);

	if (err)
		return err;
	if (!WIFEXITED(run.status) || WEXITSTATUS(run.status) > 1)
		return pe_error_new(PE_ERR_SYSTEM, "diff failed: %s", run.err ? run.err : "");
	*out = pe_steal(run.out);
	return NULL;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static struct pe_error *list_files(const char *old, const char *new, const struct pe_strv *below,
				   struct pe_strv *ret)
{
	pe_auto_strv struct pe_strv argv = { 0 }, lines = { 0 };
	pe_auto_free char *out = NULL;

	if (!pe_strv_add(&argv, "diff") || !pe_strv_add(&argv, "-rq") ||
	    !pe_strv_add(&argv, "--no-dereference") || !pe_strv_add(&argv, old) ||
	    !pe_strv_add(&argv, new))
		return pe_error_nomem();

	struct pe_error *err = run_diff(&argv, &out);

	if (!err)
		err = pe_split_lines(out, strlen(out), &lines);
	for (size_t i = 0; !err && i < lines.count; i++) {
		pe_auto_free char *path = path_that_differs(lines.items[i], old, new);

		if (!path)
			path = path_that_is_new(lines.items[i], new);
		/* Under .pc/ quilt keeps older versions of files. */
		if (path && !pe_starts_with(path, ".pc/") && is_wanted(path, below) &&
		    is_regular(new, path) && !pe_strv_add(ret, path))
			err = pe_error_nomem();
	}
	if (ret->count)
		qsort(ret->items, ret->count, sizeof(*ret->items), by_text);
	return err;
}

/* ---- their diffs ---- */

bool pe_survey_is_code(const char *path)
{
	return pe_file_role(path) == PE_FILE_CODE || pe_ends_with(path, ".h.in") ||
	       pe_ends_with(path, ".c.in");
}

/* The difference of two files, as one of @path; @old may be none. */
static struct pe_error *write_diff(const char *old, const char *new, const char *path, bool there,
				   const char *file)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	pe_auto_free char *out = NULL;

	if (!pe_strv_add(&argv, "diff") || !pe_strv_add(&argv, "-auN") ||
	    !pe_strv_add(&argv, "--label") ||
	    !pe_strv_addf(&argv, there ? "a/%s" : "/dev/null", path) ||
	    !pe_strv_add(&argv, "--label") || !pe_strv_addf(&argv, "b/%s", path) ||
	    !pe_strv_add(&argv, old) || !pe_strv_add(&argv, new))
		return pe_error_nomem();

	struct pe_error *err = run_diff(&argv, &out);

	return err ? err : pe_file_write(file, out, strlen(out));
}

/* The diff of two files of code without what differs by blanks; none is written when all does. */
static struct pe_error *write_code_diff(const char *old, const char *new, const char *path,
					const char *file, bool *same)
{
	pe_auto_free char *old_text = NULL, *new_text = NULL, *merged = NULL;
	pe_auto_free char *temp = pe_format("%s.merged", file);
	size_t old_size, new_size, size;
	struct pe_error *err = temp ? pe_file_read(old, &old_text, &old_size) : pe_error_nomem();

	if (!err)
		err = pe_file_read(new, &new_text, &new_size);
	if (!err)
		err = pe_tokens_merge(old_text, old_size, new_text, new_size, &merged, &size);
	if (err)
		return err;
	*same = size == old_size && !memcmp(merged, old_text, size);
	if (*same)
		return NULL;
	err = pe_file_write(temp, merged, size);
	if (!err)
		err = write_diff(old, temp, path, true, file);
	unlink(temp);
	return err;
}

static struct pe_error *file_change(const char *old, const char *new, const char *path,
				    const char *file, struct pe_survey_changes *ret)
{
	pe_auto_free char *old_path = pe_format("%s/%s", old, path);
	pe_auto_free char *new_path = pe_format("%s/%s", new, path);
	bool there = is_regular(old, path), same = false;
	struct pe_error *err = NULL;

	if (!old_path || !new_path)
		return pe_error_nomem();
	if (there && pe_survey_is_code(path))
		err = write_code_diff(old_path, new_path, path, file, &same);
	else
		err = write_diff(old_path, new_path, path, there, file);
	return err ? err : change_add(ret, path, 0, same ? NULL : file);
}

struct pe_error *pe_survey_files(const char *old, const char *new, const struct pe_strv *below,
				 const char *dir, struct pe_survey_changes *ret)
{
	pe_auto_strv struct pe_strv paths = { 0 };
	struct pe_error *err = list_files(old, new, below, &paths);

	for (size_t i = 0; !err && i < paths.count; i++) {
		pe_auto_free char *file = pe_format("%s/%zu.diff", dir, i + 1);

		err = file ? file_change(old, new, paths.items[i], file, ret) : pe_error_nomem();
	}
	return err;
}

/* The next line that begins a hunk, from @text on; NULL when there is none. */
static const char *next_hunk(const char *text)
{
	if (pe_starts_with(text, "@@ "))
		return text;

	const char *found = strstr(text, "\n@@ ");

	return found ? found + 1 : NULL;
}

struct pe_error *pe_survey_hunks(const struct pe_survey_change *change, const char *dir,
				 struct pe_survey_changes *ret)
{
	pe_auto_free char *text = NULL;
	struct pe_error *err = pe_file_read(change->diff, &text, NULL);

	if (err)
		return err;

	const char *first = next_hunk(text), *at = first;

	if (!first || !next_hunk(first + 1))
		return NULL;
	for (size_t hunk = 1; !err && at; hunk++) {
		const char *next = next_hunk(at + 1);
		size_t size = next ? (size_t)(next - at) : strlen(at);
		pe_auto_free char *alone =
			pe_format("%.*s%.*s", (int)(first - text), text, (int)size, at);
		const char *slash = strrchr(change->diff, '/');
		pe_auto_free char *file = pe_format("%s/%.*s-%zu.diff", dir,
						    (int)strcspn(slash ? slash + 1 : "0", "."),
						    slash ? slash + 1 : "0", hunk);

		if (!alone || !file)
			return pe_error_nomem();
		err = pe_file_write(file, alone, strlen(alone));
		if (!err)
			err = change_add(ret, change->path, hunk, file);
		at = next;
	}
	return err;
}

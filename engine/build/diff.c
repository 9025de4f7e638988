/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading a unified diff; see build/diff.h.
 *
 * Line by line: "--- A" followed by "+++ B" begins a file, "@@ -a,b +c,d @@" a hunk whose body is
 * counted by its own numbers (a body line may well begin with "---"). Everything else between
 * files is commentary (git's headers, mail text). Renames, copies, modes alone and binary patches
 * are refused by name rather than passed over.
 */
#include "build/diff.h"
#include "build/files.h"
#include "build/run.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

struct reader {
	struct pe_diff *diff;
	struct pe_strv lines;
	size_t at;
	const char *root;
	const struct pe_strv *known;
};

static struct pe_error *bad_line(const struct reader *r, size_t at, const char *what)
{
	return pe_error_new(PE_ERR_FORMAT, "%s, line %zu: %s", r->diff->name, at + 1, what);
}

/* The path of a "--- path\tdate" line; quotes of git are not undone: such names are refused. */
static char *header_path(const char *line)
{
	const char *path = line + 4;
	size_t n = strcspn(path, "\t\r");

	while (n && path[n - 1] == ' ')
		n--;
	return strndup(path, n);
}

static bool path_is_safe(const char *path)
{
	if (*path == '/' || *path == '"' || !*path)
		return false;
	for (const char *p = path; p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL) {
		if (pe_starts_with(p, "../") || !strcmp(p, ".."))
			return false;
	}
	return true;
}

static bool tree_has(const struct reader *r, const char *path)
{
	pe_auto_free char *file = pe_format("%s/%s", r->root, path);
	struct stat st;

	return (file && !stat(file, &st) && S_ISREG(st.st_mode)) ||
	       (r->known && pe_strv_has(r->known, path));
}

static const char *path_strip(const char *path, unsigned int strip)
{
	while (strip--) {
		path = strchr(path, '/');
		if (!path)
			return NULL;
		path += strspn(path, "/");
	}
	return path;
}

/* Decides -p0 or -p1 by the first path that can tell; a/ b/ prefixes mean 1. */
static unsigned int strip_guess(const struct reader *r, const char *old, const char *new)
{
	const char *const paths[] = { old, new };

	for (unsigned int strip = 2; strip-- > 0;) {
		for (size_t i = 0; i < 2; i++) {
			const char *path = path_strip(paths[i], strip);

			if (path && path_is_safe(path) && strcmp(paths[i], "/dev/null") &&
			    tree_has(r, path))
				return strip;
		}
	}
	return pe_starts_with(old, "a/") || pe_starts_with(new, "b/") ? 1 : 0;
}

static struct pe_error *file_add(struct reader *r, size_t at, const char *old, const char *new)
{
	struct pe_diff *diff = r->diff;
	bool added = !strcmp(old, "/dev/null"), removed = !strcmp(new, "/dev/null");

	if (added && removed)
		return bad_line(r, at, "both sides are /dev/null");
	if (!diff->count)
		diff->strip = strip_guess(r, added ? new : old, removed ? old : new);

	const char *path = path_strip(removed ? old : new, diff->strip);
	const char *other = added || removed ? path : path_strip(old, diff->strip);

	if (!path || !path_is_safe(path))
		return bad_line(r, at, "this path does not lie in the source tree");
	/* diff -u old.c new.c names the old file with a suffix sometimes: the one that exists. */
	if (!added && other && !tree_has(r, path) && path_is_safe(other) && tree_has(r, other))
		path = other;
	if (!added && !tree_has(r, path))
		return pe_error_new(PE_ERR_FORMAT, "%s, line %zu: there is no file %s in %s",
				    diff->name, at + 1, path, r->root);

	struct pe_diff_file *files = reallocarray(diff->files, diff->count + 1, sizeof(*files));

	if (!files)
		return pe_error_nomem();
	diff->files = files;
	files[diff->count] = (struct pe_diff_file){
		.path = strdup(path),
		.change = added	    ? PE_DIFF_ADDED
			  : removed ? PE_DIFF_REMOVED
				    : PE_DIFF_MODIFIED,
	};
	return files[diff->count++].path ? NULL : pe_error_nomem();
}

/* "@@ -a[,b] +c[,d] @@": how many lines of each side follow. */
static bool hunk_counts(const char *line, unsigned long *old, unsigned long *new)
{
	char *end;

	*old = *new = 1;
	if (!pe_starts_with(line, "@@ -"))
		return false;
	strtoul(line + 4, &end, 10);
	if (*end == ',')
		*old = strtoul(end + 1, &end, 10);
	if (!pe_starts_with(end, " +"))
		return false;
	strtoul(end + 2, &end, 10);
	if (*end == ',')
		*new = strtoul(end + 1, &end, 10);
	return pe_starts_with(end, " @@") && *old < INT_MAX && *new < INT_MAX;
}

static struct pe_error *hunk_read(struct reader *r)
{
	size_t start = r->at;
	unsigned long old, new;

	if (!hunk_counts(r->lines.items[r->at], &old, &new))
		return bad_line(r, start, "bad hunk header");
	for (r->at++; old || new; r->at++) {
		const char *line = r->at < r->lines.count ? r->lines.items[r->at] : "\\";
		char kind = *line;

		/* Editors strip the blank of an empty context line; patch(1) knows. */
		if (!kind || kind == '\r' || kind == '\t')
			kind = ' ';
		if (r->at >= r->lines.count || !strchr(" +-\\", kind))
			return bad_line(r, start, "this hunk is cut short");
		if (kind == '\\')
			continue;
		if ((kind != '+' && !old) || (kind != '-' && !new))
			return bad_line(r, start, "this hunk has more lines than its header says");
		old -= kind != '+';
		new -= kind != '-';
	}
	r->diff->files[r->diff->count - 1].hunks++;
	return NULL;
}

/* What a git header announces and we do not do. */
static const char *refused_header(const char *line)
{
	if (pe_starts_with(line, "rename from ") || pe_starts_with(line, "copy from "))
		return "renamed and copied files are not supported";
	if (pe_starts_with(line, "GIT binary patch") ||
	    (pe_starts_with(line, "Binary files ") && pe_ends_with(line, " differ")))
		return "binary changes are not supported";
	return NULL;
}

static struct pe_error *diff_read(struct reader *r)
{
	while (r->at < r->lines.count) {
		const char *line = r->lines.items[r->at];
		const char *next = r->at + 1 < r->lines.count ? r->lines.items[r->at + 1] : "";
		struct pe_error *err = NULL;

		if (refused_header(line))
			return bad_line(r, r->at, refused_header(line));
		if (pe_starts_with(line, "--- ") && pe_starts_with(next, "+++ ")) {
			pe_auto_free char *old = header_path(line);
			pe_auto_free char *new = header_path(next);

			err = old && new ? file_add(r, r->at, old, new) : pe_error_nomem();
			r->at += 2;
		} else if (pe_starts_with(line, "@@ -")) {
			if (!r->diff->count)
				return bad_line(r, r->at, "a hunk stands before any file name");
			err = hunk_read(r);
		} else {
			r->at++;
		}
		if (err)
			return err;
	}
	return NULL;
}

struct pe_error *pe_diff_parse(const char *name, const char *text, size_t size, const char *root,
			       const struct pe_strv *known, struct pe_diff *ret)
{
	struct pe_diff diff = { .name = strdup(name), .text = malloc(size + 1), .size = size };
	struct reader r = { .diff = &diff, .root = root, .known = known };
	struct pe_error *err = NULL;

	if (!diff.name || !diff.text) {
		pe_diff_deinit(&diff);
		return pe_error_nomem();
	}
	memcpy(diff.text, text, size);
	diff.text[size] = 0;
	if (memchr(text, 0, size))
		err = pe_error_new(PE_ERR_FORMAT, "%s holds zero bytes: it is no text", name);
	if (!err)
		err = pe_split_lines(text, size, &r.lines);
	if (!err)
		err = diff_read(&r);
	if (!err && !diff.count)
		err = pe_error_new(PE_ERR_FORMAT, "%s is not a unified diff", name);
	for (size_t i = 0; !err && i < diff.count; i++) {
		if (!diff.files[i].hunks)
			err = pe_error_new(PE_ERR_FORMAT, "%s: no hunk follows the name %s", name,
					   diff.files[i].path);
	}
	pe_strv_deinit(&r.lines);
	if (err)
		pe_diff_deinit(&diff);
	else
		*ret = diff;
	return err;
}

void pe_diff_deinit(struct pe_diff *diff)
{
	for (size_t i = 0; i < diff->count; i++)
		free(diff->files[i].path);
	free(diff->files);
	free(diff->name);
	free(diff->text);
	*diff = (struct pe_diff){ 0 };
}

/* A link into @root becomes a file of its own; a copy of an earlier diff stays. */
static struct pe_error *touch_file(const char *path, const char *root, const char *work)
{
	pe_auto_free char *from = pe_format("%s/%s", root, path);
	pe_auto_free char *to = pe_format("%s/%s", work, path);
	struct stat st;

	if (!from || !to)
		return pe_error_nomem();
	if (lstat(to, &st) || !S_ISLNK(st.st_mode))
		return NULL;
	if (unlink(to))
		return pe_error_errno(errno, "cannot replace %s", to);
	return pe_file_copy(from, to);
}

struct pe_error *pe_diff_apply(const struct pe_diff *diff, const char *root, const char *work)
{
	pe_auto_free char *file = pe_format("%s/.care-build.diff", work);
	pe_auto_strv struct pe_strv argv = { 0 };
	pe_auto_run struct pe_run run = { .argv = &argv, .cwd = work };
	struct pe_error *err = NULL;

	for (size_t i = 0; !err && i < diff->count; i++)
		err = touch_file(diff->files[i].path, root, work);
	if (!err)
		err = file ? pe_file_write(file, diff->text, diff->size) : pe_error_nomem();
	if (err)
		return err;
	/* --fuzz=0: context that does not agree means that the fix is for another source. */
	if (!pe_strv_add(&argv, "patch") || !pe_strv_add(&argv, "--batch") ||
	    !pe_strv_add(&argv, "--forward") || !pe_strv_add(&argv, "--fuzz=0") ||
	    !pe_strv_add(&argv, "--no-backup-if-mismatch") ||
	    !pe_strv_add(&argv, "--reject-file=-") ||
	    !pe_strv_addf(&argv, "--strip=%u", diff->strip) ||
	    !pe_strv_addf(&argv, "--input=%s", file))
		return pe_error_nomem();
	err = pe_run(&run);
	if (err)
		return err;
	unlink(file);
	if (!pe_run_succeeded(&run))
		return pe_error_new(PE_ERR_FORMAT, "%s does not apply to the source:\n%s%s",
				    diff->name, run.out, run.err);
	return NULL;
}

/* ---- diffs that a patch keeps ---- */

#define KEPT_DIFF "# diff of %zu bytes\n"

struct pe_error *pe_diffs_join(const struct pe_diff *diffs, size_t count, char **text, size_t *size)
{
	FILE *out = open_memstream(text, size);

	if (!out)
		return pe_error_nomem();
	for (size_t i = 0; i < count; i++) {
		fprintf(out, KEPT_DIFF, diffs[i].size);
		fwrite(diffs[i].text, 1, diffs[i].size, out);
	}
	if (!fclose(out))
		return NULL;
	free(*text);
	*text = NULL;
	return pe_error_nomem();
}

struct pe_error *pe_diffs_split(const char *text, size_t size, const char *dir, struct pe_strv *ret)
{
	for (size_t at = 0; at < size;) {
		size_t length;
		int head = 0;

		if (sscanf(text + at, KEPT_DIFF "%n", &length, &head) != 1 || !head ||
		    length > size - at - (size_t)head)
			return pe_error_new(PE_ERR_FORMAT,
					    "the diff that the patch keeps is damaged at byte %zu",
					    at);

		pe_auto_free char *path = pe_format("%s/%zu.diff", dir, ret->count + 1);
		struct pe_error *err =
			path ? pe_file_write(path, text + at + head, length) : pe_error_nomem();

		if (err)
			return err;
		if (!pe_strv_add(ret, path))
			return pe_error_nomem();
		at += (size_t)head + length;
	}
	return NULL;
}

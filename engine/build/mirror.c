/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mirror of a source tree; see pe_tree_mirror in build/files.h.
 *
 * A link to a whole directory is dangerous where compilers go: ".." behind it leads into the
 * original tree, past the files that were replaced. So a first walk finds the directories that
 * have code below them; these, and those that are asked for, become real; a second walk makes
 * them. Of MariaDB's 42,000 files this leaves 9,800 links.
 */
#include "build/files.h"
#include "build/run.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <fts.h>
#include <string.h>
#include <sys/stat.h>

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_code(const char *name)
{
	static const char *const suffixes[] = { ".h",	".hh",	".hpp", ".hxx", ".H",	".c", ".cc",
						".cpp", ".cxx", ".C",	".ic",	".inl", ".i" };

	for (size_t i = 0; i < sizeof(suffixes) / sizeof(*suffixes); i++) {
		if (pe_ends_with(name, suffixes[i]))
			return true;
	}
	return false;
}

static FTS *walk_open(const char *root)
{
	char *const roots[] = { (char *)root, NULL };

	return fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR | FTS_NOSTAT, NULL);
}

/* A version control system's own data is no source. */
static bool is_skipped(FTS *walk, FTSENT *entry)
{
	if (entry->fts_info != FTS_D || strcmp(entry->fts_name, ".git"))
		return false;
	fts_set(walk, entry, FTS_SKIP);
	return true;
}

/* @path and all above it, up to @root. */
static bool add_chain(struct pe_strv *dirs, const char *root, const char *path)
{
	pe_auto_free char *dir = pe_format("%s/%s", root, path);

	if (!dir)
		return false;
	for (char *slash; strlen(dir) > strlen(root); *slash = 0) {
		if (!pe_strv_add(dirs, dir))
			return false;
		slash = strrchr(dir, '/');
	}
	return true;
}

/* The directories that become real ones, sorted; fts_number marks what has code below. */
static struct pe_error *find_real(const char *root, const struct pe_strv *real,
				  struct pe_strv *dirs)
{
	FTS *walk = walk_open(root);
	bool ok = pe_strv_add(dirs, root);
	FTSENT *entry;

	if (!walk)
		return pe_error_errno(errno, "cannot read directory %s", root);
	while (ok && (entry = fts_read(walk))) {
		if (is_skipped(walk, entry))
			continue;
		if (entry->fts_info == FTS_DP && entry->fts_number) {
			entry->fts_parent->fts_number = 1;
			ok = pe_strv_add(dirs, entry->fts_path);
		} else if (entry->fts_info != FTS_D && entry->fts_info != FTS_DP &&
			   is_code(entry->fts_name)) {
			entry->fts_parent->fts_number = 1;
		}
	}
	fts_close(walk);
	for (size_t i = 0; ok && i < real->count; i++)
		ok = add_chain(dirs, root, real->items[i]);
	if (!ok)
		return pe_error_nomem();
	qsort(dirs->items, dirs->count, sizeof(*dirs->items), by_text);
	return NULL;
}

static struct pe_error *link_entry(const FTSENT *entry, const char *path)
{
	if (symlink(entry->fts_path, path))
		return pe_error_errno(errno, "cannot make the link %s", path);
	return NULL;
}

static struct pe_error *mirror_entry(FTS *walk, FTSENT *entry, const char *from, const char *to,
				     const struct pe_strv *dirs)
{
	pe_auto_free char *path = pe_format("%s%s", to, entry->fts_path + strlen(from));
	char *key = entry->fts_path;

	if (!path)
		return pe_error_nomem();
	switch (entry->fts_info) {
	case FTS_D:
		if (!bsearch(&key, dirs->items, dirs->count, sizeof(*dirs->items), by_text)) {
			fts_set(walk, entry, FTS_SKIP);
			return link_entry(entry, path);
		}
		if (mkdir(path, 0755) && errno != EEXIST)
			return pe_error_errno(errno, "cannot make directory %s", path);
		return NULL;
	case FTS_F:
	case FTS_SL:
	case FTS_SLNONE:
	case FTS_NSOK:
		return link_entry(entry, path);
	case FTS_DNR:
	case FTS_ERR:
	case FTS_NS:
		return pe_error_errno(entry->fts_errno, "cannot read %s", entry->fts_path);
	default:
		return NULL;
	}
}

struct pe_error *pe_tree_mirror(const char *from, const char *to, const struct pe_strv *real)
{
	pe_auto_strv struct pe_strv dirs = { 0 };
	struct pe_error *err = find_real(from, real, &dirs);
	FTS *walk = err ? NULL : walk_open(from);
	FTSENT *entry;

	if (!err && !walk)
		return pe_error_errno(errno, "cannot read directory %s", from);
	while (!err && (entry = fts_read(walk))) {
		if (pe_interrupted())
			err = pe_error_new(PE_ERR_SYSTEM, "interrupted");
		else if (!is_skipped(walk, entry))
			err = mirror_entry(walk, entry, from, to, &dirs);
	}
	if (walk)
		fts_close(walk);
	return err;
}

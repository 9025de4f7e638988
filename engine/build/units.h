/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Translation units of a target: which objects of the program a source file gives, compiling them
 * from the unpatched and from the patched source, and their match against the shipped program.
 */
#ifndef BUILD_UNITS_H
#define BUILD_UNITS_H

#include "build/database.h"
#include "build/match.h"
#include "build/store.h"
#include "build/tree.h"

/* What a run of the builder works with. */
struct pe_build {
	const struct pe_build_target *target;
	struct pe_database database;
	struct pe_strv linked; /* objects in the program; empty when the build does not tell */
	struct pe_image *image;
	struct pe_strv env;  /* of compilers */
	struct pe_tree tree; /* that they run in; its path is NULL when that is this machine */
	const char *temp;    /* directory for objects that are not kept */
	bool no_cache;	     /* compile even what is kept; set by pe_build_no_cache */
	/* What is done now; may be NULL. */
	void (*progress)(void *ctx, const char *text);
	void *progress_ctx;
};

struct pe_unit {
	const struct pe_unit_entry *entry;
	char *source;	   /* relative to the source root */
	char *object_name; /* as the build calls it, relative to the source root if below */
	struct pe_object *base, *patched;
	struct pe_match *match;
};

struct pe_units {
	struct pe_unit *items;
	size_t count;
};

/* Reads compile database, link commands, program and symbols. Target and @temp must outlive it. */
struct pe_error *pe_build_open(const struct pe_build_target *target, const char *temp,
			       struct pe_build *ret) pe_must_check;
void pe_build_close(struct pe_build *build);
/* Everything is compiled anew: objects that are kept, here or by ccache, are not used. */
struct pe_error *pe_build_no_cache(struct pe_build *build) pe_must_check;
/* For runs of compilers: where they run. NULL: on this machine. */
const struct pe_tree *pe_build_tree(const struct pe_build *build);
/* Compilers will read and write below @dir too. */
struct pe_error *pe_build_share(struct pe_build *build, const char *dir) pe_must_check;

/*
 * The environment for compilers and Debian's tools: nothing of the user's that changes what they
 * make (CFLAGS, DEB_BUILD_OPTIONS, MAKEFLAGS, ...), but what leads to the network and to caches.
 * @path NULL: our own PATH.
 */
struct pe_error *pe_build_environment(const char *path, struct pe_strv *env) pe_must_check;

/*
 * @path, as the user gives it (relative to the source root, or absolute), as a path relative to
 * the root. Owned by the caller.
 */
struct pe_error *pe_build_source_path(const struct pe_build *build, const char *path,
				      char **ret) pe_must_check;
/* Does any compile command name this source (relative to the root). */
bool pe_build_is_unit(const struct pe_build *build, const char *source);

/*
 * Adds the units of @source. UNSUPPORTED when none of its objects is in the program. When the
 * build does not tell which are, all are added and pe_units_match keeps those that agree.
 */
struct pe_error *pe_units_add(const struct pe_build *build, struct pe_units *units,
			      const char *source) pe_must_check;
void pe_units_deinit(struct pe_units *units);

/*
 * Adds to @ret those of @sources (whose units are in the program) that read differently in @work,
 * a mirror of the source root with changed files: by the tokens behind the preprocessor. Stops when
 * they are more than @most; @ret then has some more than that, not all.
 */
struct pe_error *pe_units_differing(const struct pe_build *build, const char *work,
				    const struct pe_strv *sources, size_t most,
				    struct pe_strv *ret) pe_must_check;

/* The patched tree that units are compiled from besides the unpatched one. */
struct pe_patched_tree {
	const char *path; /* mirror of the source root, with the changed files */
	const char *hash; /* of everything that makes it differ: names kept objects */
};

/*
 * Compiles what is not kept, several at a time, and opens the objects. @tree may be NULL: then
 * only unpatched. COMPILE with the compiler's words.
 */
struct pe_error *pe_units_compile(const struct pe_build *build, struct pe_units *units,
				  const struct pe_patched_tree *tree) pe_must_check;
/*
 * Matches each unit's base against the program. Where one source has several candidates, the ones
 * whose code is not in the program are dropped; so is one whose functions another, which agrees
 * better, defines too.
 */
struct pe_error *pe_units_match(const struct pe_build *build, struct pe_units *units) pe_must_check;

/* Counts of a match: identical (decoded ones too) and those that are in the program at all. */
void pe_match_summary(const struct pe_match *match, size_t *identical, size_t *present);

#endif

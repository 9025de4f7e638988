/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Preparing a target from a Debian source package: the source as Debian builds it (flags and
 * options come from its own debian/rules), and the binary as Debian ships it. The machine's own
 * package sources and what is installed from the same packages are not touched. A package of
 * another Debian release is compiled inside a tree of that release, by its own compiler.
 */
#ifndef BUILD_DEBIAN_H
#define BUILD_DEBIAN_H

#include "build/store.h"

/* What has to be known about one source package; all paths are relative. */
struct pe_debian_recipe {
	const char *name;	     /* as `target add NAME` has it */
	const char *product;	     /* of its patches */
	const char *source;	     /* source package */
	const char *const *packages; /* binary packages to unpack, NULL at the end */
	const char *binary;	     /* in them */
	const char *symbols;	     /* in them; NULL when none ships a list */
	const char *configure;	     /* target of debian/rules */
	bool dh_flags;		     /* it relies on dh to set CFLAGS and the like */
	const char *build_dir;	     /* in the source, made by configure */
	const char *const *generate; /* make targets of generated sources, NULL at the end */
	/* Make targets whose dry run gives the compile database; NULL: configure writes it. */
	const char *const *dry_run;
};

/* NULL when there is no such recipe. */
const struct pe_debian_recipe *pe_debian_recipe_find(const char *name);

struct pe_debian_options {
	const char *name;    /* of the target */
	const char *version; /* of the source package */
	const char *suite; /* Debian release to compile in; NULL: this machine's, on this machine */
	void (*progress)(void *ctx, const char *text); /* what is done now */
	void *ctx;
};

/*
 * Prepares the target and commits it to the store. NOTHING when it is there already, in that
 * version. A target that was begun and not finished is begun again (downloads are kept).
 * @note: owned; what the user should know (libraries that the binary lacks here), or NULL.
 */
struct pe_error *pe_debian_add(const struct pe_debian_recipe *recipe,
			       const struct pe_debian_options *options, char **note) pe_must_check;

/*
 * Exposed for tests: the lines of a sources list, from what `apt-get indextargets` printed for the
 * release @codename, with @suite in its place. Without @all only the release itself, not its
 * updates.
 */
char *pe_debian_sources(const char *targets, const char *codename, const char *suite, bool all,
			const char *keyring);

#endif

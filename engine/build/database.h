/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The compile database: one entry for each object that the build makes, with its exact command.
 * Entries are never changed; command.h makes the variants that we run.
 */
#ifndef BUILD_DATABASE_H
#define BUILD_DATABASE_H

#include <stddef.h>

#include "build/text.h"
#include "engine/error.h"

struct pe_unit_entry {
	char *file;	     /* absolute, normalised */
	char *directory;     /* where the command runs */
	char *output;	     /* absolute, normalised; NULL when the command names none */
	struct pe_strv argv; /* compiler first */
};

struct pe_database {
	struct pe_unit_entry *entries; /* in the file's order */
	size_t count;
};

struct pe_error *pe_database_read(const char *path, struct pe_database *ret) pe_must_check;
void pe_database_deinit(struct pe_database *database);

/* The entries of a source (absolute, normalised), from index *@from on; NULL after the last. */
const struct pe_unit_entry *pe_database_next(const struct pe_database *database, const char *file,
					     size_t *from);
/*
 * What diffs are likely to be relative to, for the database at @path (absolute): CMake's source
 * directory, else the checkout, else the database's folder if it holds all sources, else the
 * longest directory that does. Owned by the caller.
 */
char *pe_database_source_root(const struct pe_database *database, const char *path);

/*
 * Of a CMake build: absolute paths of all objects that are linked into @program (a file name such
 * as "mariadbd"), archives followed. Empty when the build tree is not CMake's Makefile kind or
 * links no such program.
 */
struct pe_error *pe_linked_objects(const struct pe_database *database, const char *program,
				   struct pe_strv *ret) pe_must_check;

#endif

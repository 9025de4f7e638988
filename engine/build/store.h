/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The target store: programs that patches can be made for.
 *
 *	$CARE_BUILD_CACHE/NAME/		(default /var/cache/dbcare/build)
 *	  target.json	what it is; written last: without it the target is not complete
 *	  log		of its preparation
 *	  src/		its source, when we fetched it
 *	  root/		its shipped packages, unpacked, when we fetched them
 *	  tree/		the Debian release that it is compiled in, when that is not this machine's
 *	  objects/	compiled from the unpatched source, by hash of their command
 *
 * A lock on NAME/lock is held by whoever writes there.
 */
#ifndef BUILD_STORE_H
#define BUILD_STORE_H

#include <jansson.h>

#include "build/text.h"

#include "engine/error.h"
#include "engine/image.h"

struct pe_build_target {
	char *name;
	char *provider; /* who knows its source: "mariadb", or "program" */
	char *product;	/* of its patches: "db" or "program" */
	char *version;	/* "" when unknown */
	char *build_id; /* hex; "" when it has none */
	char *dir;	/* in the store */
	char *source;	/* root of the source tree */
	char *database; /* compile_commands.json */
	char *binary;	/* as shipped */
	char *program;	/* the target's own binary when another file was chosen; or NULL */
	char *symbols;	/* an nm list or a debug file; NULL when there is none */
	char *root;	/* of the unpacked packages; NULL when there is none */
	char *epoch;	/* SOURCE_DATE_EPOCH of its build */
	char *tree;	/* of the Debian release that it is compiled in; NULL: on this machine */
	bool immutable; /* nobody edits its source: objects can be kept */
};

void pe_build_target_free(struct pe_build_target *target);

/* Directory of the store; owned by the caller. */
char *pe_store_dir(void);
/* [A-Za-z0-9][A-Za-z0-9._+-]{0,63}, as for patches. */
bool pe_name_valid(const char *name);

/* NO_TARGET when there is none of that name, or none that is complete. */
struct pe_error *pe_store_load(const char *name, struct pe_build_target **ret) pe_must_check;
/* Names of all complete targets, sorted. */
struct pe_error *pe_store_list(struct pe_strv *ret) pe_must_check;
/* Makes the directory if it is not there and takes the lock; BUSY when another holds it. */
struct pe_error *pe_store_lock(const char *name, int *lock_fd) pe_must_check;
/* Writes target.json: the target is complete from then on. */
struct pe_error *pe_store_commit(const struct pe_build_target *target) pe_must_check;
/* Removes it, complete or not; NO_TARGET when there is nothing. */
struct pe_error *pe_store_remove(const char *name) pe_must_check;

/* As `target list|show --json` print it. */
json_t *pe_build_target_json(const struct pe_build_target *target);
/* Objects that a target keeps: bytes that they may take in all (CARE_BUILD_OBJECTS_MIB). */
uint64_t pe_objects_limit(void);
/* Notes that the object at @path was used now. */
void pe_object_used(const char *path);
/* Removes what nobody used for longest from @dir until it holds at most @limit bytes. */
struct pe_error *pe_objects_prune(const char *dir, uint64_t limit) pe_must_check;

/*
 * Makes another file of the target's packages (@path below its root, or absolute) what is patched:
 * a plugin or a library that the same source gives.
 */
struct pe_error *pe_build_target_choose(struct pe_build_target *target,
					const char *path) pe_must_check;
/*
 * The same by its build-id: of the target's packages, the file that has it. Nothing changes when
 * the target's program is that, or when there is none.
 */
struct pe_error *pe_build_target_choose_id(struct pe_build_target *target,
					   const char *build_id) pe_must_check;
/* Opens the shipped binary with its symbols. */
struct pe_error *pe_build_target_image(const struct pe_build_target *target,
				       struct pe_image **ret) pe_must_check;

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A tree: the file system of another Debian release, in a directory, in which programs are run
 * with that release's own compiler and libraries.
 */
#ifndef BUILD_TREE_H
#define BUILD_TREE_H

#include "build/text.h"
#include "engine/error.h"

struct pe_tree {
	const char *path; /* NULL: our own file system, with mounts that nobody else sees */
	/* Directories of ours that are there inside too, under the same absolute path. */
	struct pe_strv shared;
};

/*
 * For a child between fork and exec: makes the tree its root, in a mount namespace of its own that
 * ends with the child (so nothing stays mounted, however it ends). Inside are /proc and the shared
 * directories; /tmp, /var/tmp and /dev/shm are empty. Needs root. NULL, or what failed, with errno.
 */
const char *pe_tree_enter(const struct pe_tree *tree);

#endif

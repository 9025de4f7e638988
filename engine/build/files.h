/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Files and trees as the builder needs them. */
#ifndef BUILD_FILES_H
#define BUILD_FILES_H

#include <stdbool.h>
#include <stddef.h>

#include "build/text.h"
#include "engine/error.h"

/* The whole file, with a zero byte behind it; @size may be NULL. */
struct pe_error *pe_file_read(const char *path, char **text, size_t *size) pe_must_check;
/* Writes a temporary file beside @path and renames it. */
struct pe_error *pe_file_write(const char *path, const void *bytes, size_t size) pe_must_check;
struct pe_error *pe_file_copy(const char *from, const char *to) pe_must_check;
bool pe_file_exists(const char *path);
/* Lower-case hex SHA-256 of some bytes; @hex holds 65 bytes. */
void pe_sha256_hex(const void *bytes, size_t size, char *hex);

/* Makes a directory and what is missing above it. */
struct pe_error *pe_dir_make(const char *path) pe_must_check;
/* Removes a tree; nothing there is fine; never follows a symbolic link. */
struct pe_error *pe_tree_remove(const char *path) pe_must_check;
/* Names in a directory, sorted, without "." and ".."; none when there is no such directory. */
struct pe_error *pe_dir_list(const char *path, struct pe_strv *ret) pe_must_check;
/*
 * The mirror: @to becomes a tree of real directories in which each file of @from is a symbolic
 * link to the original, so that some can be replaced without touching @from. A directory without
 * C or C++ code in it, and none of @real below it (paths relative to @from), is one link.
 */
struct pe_error *pe_tree_mirror(const char *from, const char *to,
				const struct pe_strv *real) pe_must_check;

/*
 * A temporary directory, removed with all it holds when it goes out of scope; or by the next one
 * that is made, when its process was killed.
 */
struct pe_temp_dir {
	char *path; /* real path, without symbolic links */
	int lock;   /* held on the directory itself; -1: none */
};

struct pe_error *pe_temp_dir_init(struct pe_temp_dir *dir) pe_must_check;
void pe_temp_dir_deinit(struct pe_temp_dir *dir);
#define pe_auto_temp_dir __attribute__((cleanup(pe_temp_dir_deinit)))

#endif

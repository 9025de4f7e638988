/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Files that a user names for what is written. */
#ifndef ENGINE_OUTPUT_H
#define ENGINE_OUTPUT_H

#include <stddef.h>

#include "engine/error.h"

/*
 * Where output named @path goes. A regular file, or none yet: *place (owned by the caller) is its
 * path with links followed, to be replaced by a rename. A device, a pipe or a socket must not be
 * replaced: the bytes are written to it, and *place is NULL.
 */
struct pe_error *pe_output_place(const char *path, const void *bytes, size_t size,
				 char **place) pe_must_check;
/* All of it, whatever write(2) takes at a time; false with errno. */
bool pe_output_write(int fd, const void *bytes, size_t size);

#endif

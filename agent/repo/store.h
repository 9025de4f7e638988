/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The client's folder of trusted metadata. A file is written under a hidden name, synced and
 * renamed; then the folder is synced: after a kill or power loss there is the old file or the new.
 */
#ifndef AGENT_REPO_STORE_H
#define AGENT_REPO_STORE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/error.h"

struct repo_store {
	int dir;	  /* -1: closed */
	const char *path; /* for messages; the caller's */
};

/* Opens and locks the folder. PE_ERR_BUSY when another process has it. */
struct pe_error *repo_store_open(struct repo_store *store, const char *path) pe_must_check;
void repo_store_close(struct repo_store *store);

/* The whole file with a zero byte behind it; *bytes is NULL when there is none. */
struct pe_error *repo_store_read(struct repo_store *store, const char *name, size_t max,
				 char **bytes, size_t *size) pe_must_check;
struct pe_error *repo_store_write(struct repo_store *store, const char *name, const void *bytes,
				  size_t size) pe_must_check;
struct pe_error *repo_store_remove(struct repo_store *store, const char *name) pe_must_check;

/*
 * Writes @name in @dir in the same way; @path names the folder in errors. What a killed writer left
 * is overwritten: one writer at a time.
 */
struct pe_error *repo_write_at(int dir, const char *path, const char *name, const void *bytes,
			       size_t size) pe_must_check;

/* Writes all of it; false with errno. */
bool repo_write_all(int fd, const void *bytes, size_t size);

#endif

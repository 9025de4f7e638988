/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Names of roles and targets: in URLs, on disk, and matched against delegations. */
#ifndef AGENT_REPO_NAMES_H
#define AGENT_REPO_NAMES_H

#include <jansson.h>
#include <stdbool.h>

/*
 * Percent-encodes all but letters, digits and "-._~" and what @keep lists. For a URL; owned by the
 * caller, NULL without memory.
 */
char *repo_quote_url(const char *text, const char *keep);
/*
 * The same as one file name that is never hidden, "." or "..", followed by @suffix; NULL when it
 * would be longer than a file system takes, or without memory.
 */
char *repo_quote_file(const char *text, const char *suffix);

/*
 * Shell pattern: '*' any characters, '?' one, "[a-f]" and "[!a-f]" one of a set; none of them
 * matches '/'. Time is bounded by the product of the lengths.
 */
bool repo_glob(const char *pattern, const char *path);

/* True when a TUF delegation ("paths" or "path_hash_prefixes") covers @path. */
bool repo_delegated(const json_t *delegation, const char *path);

#endif

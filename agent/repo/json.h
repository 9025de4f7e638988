/* SPDX-License-Identifier: GPL-2.0-or-later */
/* JSON of a repository: read strictly, written canonically. */
#ifndef AGENT_REPO_JSON_H
#define AGENT_REPO_JSON_H

#include <jansson.h>
#include <stddef.h>

#include "engine/error.h"

static inline void repo_cleanup_json(json_t **json)
{
	json_decref(*json);
}

#define repo_auto_json __attribute__((cleanup(repo_cleanup_json)))

/*
 * Parses an object: UTF-8, no key twice, no nesting deeper than 64, nothing behind it. @what names
 * it in errors. The caller owns @ret.
 */
struct pe_error *repo_json_parse(const void *bytes, size_t size, const char *what,
				 json_t **ret) pe_must_check;

/*
 * The canonical form that TUF signs (OLPC canonical JSON): no blanks, keys sorted by their bytes,
 * strings with only \" and \\ escaped, integers only. Owned by the caller; not zero-terminated.
 */
struct pe_error *repo_json_canonical(const json_t *json, char **bytes, size_t *size) pe_must_check;

#endif

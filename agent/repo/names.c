/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Quoting of hostile names, and matching of paths against patterns of delegations. */
#include "agent/repo/names.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/repo/key.h"

enum { MAX_FILE_NAME = 240 };

static bool is_plain(unsigned char c)
{
	return (c < 0x80 && isalnum(c)) || (c && strchr("-._~", c));
}

static char *quote(const char *text, const char *keep, bool hide_dot, const char *suffix)
{
	char *quoted = malloc(3 * strlen(text) + strlen(suffix) + 1), *out = quoted;

	if (!quoted)
		return NULL;
	for (const char *in = text; *in; in++) {
		bool plain = is_plain((unsigned char)*in) || strchr(keep, *in);

		if (plain && !(hide_dot && in == text && *in == '.'))
			*out++ = *in;
		else
			out += sprintf(out, "%%%02X", (unsigned char)*in);
	}
	strcpy(out, suffix);
	return quoted;
}

char *repo_quote_url(const char *text, const char *keep)
{
	return quote(text, keep, false, "");
}

char *repo_quote_file(const char *text, const char *suffix)
{
	char *quoted = quote(text, "", true, suffix);

	if (!quoted || strlen(quoted) <= MAX_FILE_NAME)
		return quoted;
	free(quoted);
	return NULL;
}

/* ---- patterns ---- */

/*
 * Does the set that begins at @set (behind '[') have @c? Sets @end behind its ']'. A set without
 * end is no set: NULL in @end.
 */
static bool in_set(const char *set, char c, const char **end)
{
	bool negated = *set == '!', found = false;
	const char *p = set + negated;

	do {
		if (!*p) {
			*end = NULL;
			return false;
		}
		if (p[1] == '-' && p[2] && p[2] != ']') {
			found |= c >= p[0] && c <= p[2];
			p += 3;
		} else {
			found |= c == *p++;
		}
	} while (*p != ']');
	*end = p + 1;
	return found != negated;
}

/* One character of @path against the pattern's next element (no '*'); moves @pattern behind it. */
static bool match_one(const char **pattern, char c)
{
	const char *p = *pattern, *end = NULL;
	bool match;

	if (*p == '[') {
		match = in_set(p + 1, c, &end);
		if (end) {
			*pattern = end;
			return match && c != '/';
		}
	}
	*pattern = p + 1;
	return *p == '?' ? c != '/' : *p == c;
}

/* The classic loop: on a mismatch go back to the last '*' alone and let it take one more. */
bool repo_glob(const char *pattern, const char *path)
{
	const char *star = NULL, *taken = NULL;

	while (*path) {
		if (*pattern == '*') {
			star = ++pattern;
			taken = path;
			continue;
		}

		const char *next = pattern;

		if (*pattern && match_one(&next, *path)) {
			pattern = next;
			path++;
			continue;
		}
		/* What the last '*' took before a '/' cannot grow over it. */
		if (!star || *taken == '/')
			return false;
		pattern = star;
		path = ++taken;
	}
	while (*pattern == '*')
		pattern++;
	return !*pattern;
}

static bool hash_begins(const json_t *prefixes, const char *path)
{
	char hex[65];

	if (!repo_sha256_hex(path, strlen(path), hex))
		return false;
	for (size_t i = 0; i < json_array_size(prefixes); i++) {
		const char *prefix = json_string_value(json_array_get(prefixes, i));

		if (!strncasecmp(hex, prefix, strlen(prefix)))
			return true;
	}
	return false;
}

bool repo_delegated(const json_t *delegation, const char *path)
{
	json_t *paths = json_object_get(delegation, "paths");

	for (size_t i = 0; i < json_array_size(paths); i++)
		if (repo_glob(json_string_value(json_array_get(paths, i)), path))
			return true;
	return !paths && hash_begins(json_object_get(delegation, "path_hash_prefixes"), path);
}

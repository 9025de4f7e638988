/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small helpers on strings and lists of strings; see build/text.h. */
#include "build/text.h"
#include "engine/cleanup.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void pe_strv_deinit(struct pe_strv *list)
{
	for (size_t i = 0; i < list->count; i++)
		free(list->items[i]);
	free(list->items);
	*list = (struct pe_strv){ 0 };
}

bool pe_strv_take(struct pe_strv *list, char *text)
{
	char **items = text ? reallocarray(list->items, list->count + 2, sizeof(*items)) : NULL;

	if (!items) {
		free(text);
		return false;
	}
	list->items = items;
	items[list->count++] = text;
	items[list->count] = NULL;
	return true;
}

bool pe_strv_add(struct pe_strv *list, const char *text)
{
	return pe_strv_take(list, strdup(text));
}

bool pe_strv_addf(struct pe_strv *list, const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	int length = vasprintf(&text, fmt, ap);
	va_end(ap);
	return length >= 0 && pe_strv_take(list, text);
}

bool pe_strv_add_all(struct pe_strv *list, const struct pe_strv *more)
{
	for (size_t i = 0; i < more->count; i++) {
		if (!pe_strv_add(list, more->items[i]))
			return false;
	}
	return true;
}

bool pe_strv_has(const struct pe_strv *list, const char *text)
{
	for (size_t i = 0; i < list->count; i++) {
		if (!strcmp(list->items[i], text))
			return true;
	}
	return false;
}

char *pe_strv_join(const struct pe_strv *list, const char *separator)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	for (size_t i = 0; i < list->count; i++)
		fprintf(out, "%s%s", i ? separator : "", list->items[i]);
	fclose(out);
	return text;
}

struct pe_error *pe_split_lines(const char *text, size_t size, struct pe_strv *ret)
{
	pe_auto_strv struct pe_strv lines = { 0 };
	const char *end = text + size;

	while (text < end) {
		const char *eol = memchr(text, '\n', (size_t)(end - text));
		const char *stop = eol ? eol : end;

		if (!pe_strv_take(&lines, strndup(text, (size_t)(stop - text))))
			return pe_error_nomem();
		text = stop + 1;
	}
	*ret = lines;
	lines = (struct pe_strv){ 0 };
	return NULL;
}

/* One word of a command line from *@at on, quotes removed, into @out. False: quote not closed. */
static bool split_word(const char **at, FILE *out)
{
	const char *p = *at;
	char quote = 0;

	for (; *p; p++) {
		if (quote == '\'') {
			if (*p == quote)
				quote = 0;
			else
				putc(*p, out);
		} else if (*p == '\\' && p[1] && (!quote || strchr("\"\\$`", p[1]))) {
			putc(*++p, out);
		} else if (quote && *p == quote) {
			quote = 0;
		} else if (!quote && (*p == '\'' || *p == '"')) {
			quote = *p;
		} else if (!quote && strchr(" \t\n", *p)) {
			break;
		} else {
			putc(*p, out);
		}
	}
	*at = p;
	return !quote;
}

struct pe_error *pe_split_command(const char *command, struct pe_strv *ret)
{
	pe_auto_strv struct pe_strv words = { 0 };

	for (const char *p = command;;) {
		p += strspn(p, " \t\n");
		if (!*p)
			break;

		char *word = NULL;
		size_t size = 0;
		FILE *out = open_memstream(&word, &size);

		if (!out)
			return pe_error_nomem();

		bool closed = split_word(&p, out);

		fclose(out);
		if (!pe_strv_take(&words, word))
			return pe_error_nomem();
		if (!closed)
			return pe_error_new(PE_ERR_FORMAT, "a quote is not closed in: %.200s",
					    command);
	}
	*ret = words;
	words = (struct pe_strv){ 0 };
	return NULL;
}

bool pe_starts_with(const char *text, const char *prefix)
{
	return !strncmp(text, prefix, strlen(prefix));
}

bool pe_ends_with(const char *text, const char *suffix)
{
	size_t n = strlen(text), m = strlen(suffix);

	return n >= m && !strcmp(text + n - m, suffix);
}

bool pe_path_below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return !strncmp(path, dir, n) && (!path[n] || path[n] == '/' || (n && dir[n - 1] == '/'));
}

char *pe_path_normal(const char *base, const char *path)
{
	pe_auto_free char *whole = *path == '/' ? strdup(path) : pe_format("%s/%s", base, path);
	char *out = whole ? malloc(strlen(whole) + 2) : NULL;
	size_t length = 0;

	if (!out)
		return NULL;
	for (const char *p = whole; *p;) {
		size_t n = strcspn(p, "/");

		if (n == 2 && p[0] == '.' && p[1] == '.') {
			while (length && out[--length] != '/')
				;
		} else if (n && !(n == 1 && *p == '.')) {
			out[length++] = '/';
			memcpy(out + length, p, n);
			length += n;
		}
		p += n + (p[n] == '/');
	}
	if (!length)
		out[length++] = '/';
	out[length] = 0;
	return out;
}

char *pe_format(const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	return text;
}

const char *pe_text_tail(const char *text, unsigned int lines)
{
	const char *p = text + strlen(text);

	if (p > text && p[-1] == '\n')
		p--;
	for (; p > text; p--) {
		if (p[-1] == '\n' && !--lines)
			break;
	}
	return p;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small helpers on strings and lists of strings that the builder's parts share. */
#ifndef BUILD_TEXT_H
#define BUILD_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/error.h"

/* A list of owned strings; items[count] is NULL, so that it serves as an argument vector. */
struct pe_strv {
	char **items;
	size_t count;
};

void pe_strv_deinit(struct pe_strv *list);
#define pe_auto_strv __attribute__((cleanup(pe_strv_deinit)))

/* Each adds one string and returns false without memory; _take owns @text from then on. */
bool pe_strv_take(struct pe_strv *list, char *text);
bool pe_strv_add(struct pe_strv *list, const char *text);
bool pe_strv_addf(struct pe_strv *list, const char *fmt, ...) pe_printf(2, 3);
bool pe_strv_add_all(struct pe_strv *list, const struct pe_strv *more);
bool pe_strv_has(const struct pe_strv *list, const char *text);
/* All items with @separator between them; owned by the caller. */
char *pe_strv_join(const struct pe_strv *list, const char *separator);

/* Splits at newlines; without the newlines; a last line without newline counts. */
struct pe_error *pe_split_lines(const char *text, size_t size, struct pe_strv *ret) pe_must_check;
/* Splits a command as sh does: blanks, '', "", backslash; no expansion. */
struct pe_error *pe_split_command(const char *command, struct pe_strv *ret) pe_must_check;

bool pe_starts_with(const char *text, const char *prefix);
bool pe_ends_with(const char *text, const char *suffix);
/* True when @path is @dir or lies below it (by its text; neither ends with a slash). */
bool pe_path_below(const char *path, const char *dir);
/* Removes "." and ".." and double slashes by text; @base is put in front of a relative @path. */
char *pe_path_normal(const char *base, const char *path);
/* printf into a new string; NULL without memory. */
char *pe_format(const char *fmt, ...) pe_printf(1, 2);
/* The last @lines lines of @text. */
const char *pe_text_tail(const char *text, unsigned int lines);

#endif

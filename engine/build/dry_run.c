/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A compile database from a dry run of make; see build/dry_run.h.
 *
 * Each line is split as a shell does. One that runs a C or C++ compiler with -c on a single source
 * becomes an entry; all others (links, assembler, generators, shell loops) are none.
 */
#include "build/dry_run.h"
#include "build/text.h"
#include "engine/cleanup.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

/* gcc, cc, g++, c++, clang, clang++; also x86_64-linux-gnu-gcc and gcc-12. */
static bool is_compiler(const char *word)
{
	static const char *const names[] = { "gcc", "g++", "cc", "c++", "clang", "clang++" };
	const char *name = strrchr(word, '/') ? strrchr(word, '/') + 1 : word;
	size_t length = strlen(name);

	while (length && (isdigit((unsigned char)name[length - 1]) || name[length - 1] == '.'))
		length--;
	if (length && name[length] && name[length - 1] == '-')
		length--;
	else
		length = strlen(name);
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		size_t n = strlen(names[i]);

		if (length >= n && !strncmp(name + length - n, names[i], n) &&
		    (length == n || name[length - n - 1] == '-'))
			return true;
	}
	return false;
}

static bool is_source(const char *word)
{
	static const char *const suffixes[] = { ".c", ".cc", ".cpp", ".cxx", ".C" };

	for (size_t i = 0; *word != '-' && i < sizeof(suffixes) / sizeof(*suffixes); i++) {
		if (pe_ends_with(word, suffixes[i]))
			return true;
	}
	return false;
}

/* The source that a command compiles; NULL when it is no compile command. */
static const char *compiled(const struct pe_strv *argv)
{
	const char *source = NULL;
	bool compiles = false;

	if (!argv->count || !is_compiler(argv->items[0]))
		return NULL;
	for (size_t i = 1; i < argv->count; i++) {
		const char *word = argv->items[i];

		/* A second command in the line is nothing that one entry can say. */
		if (strchr(";&|<>", *word) && *word)
			return NULL;
		if (!strcmp(word, "-c"))
			compiles = true;
		else if (is_source(word) && source)
			return NULL;
		else if (is_source(word))
			source = word;
	}
	return compiles ? source : NULL;
}

static struct pe_error *line_add(json_t *list, const char *line, const char *dir)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	struct pe_error *err = pe_split_command(line, &argv);

	if (err && err->code == PE_ERR_FORMAT) {
		pe_error_free(err); /* a line of a longer shell script */
		return NULL;
	}

	const char *source = err ? NULL : compiled(&argv);

	if (!source)
		return err;

	json_t *words = json_array();

	for (size_t i = 0; i < argv.count; i++)
		json_array_append_new(words, json_string(argv.items[i]));

	json_t *entry =
		json_pack("{s:s, s:s, s:o}", "directory", dir, "file", source, "arguments", words);

	return entry && !json_array_append_new(list, entry) ? NULL : pe_error_nomem();
}

/* "make[1]: Entering directory '/x'" and "Leaving": true when the line was one of the two. */
static bool directory_follow(const char *line, struct pe_strv *dirs, struct pe_error **err)
{
	const char *enters = strstr(line, ": Entering directory '");
	const char *quote = enters ? strchr(enters, '\'') : NULL;

	if (!pe_starts_with(line, "make"))
		return false;
	if (quote && strchr(quote + 1, '\'')) {
		char *dir = strndup(quote + 1, strcspn(quote + 1, "'"));

		if (!pe_strv_take(dirs, dir))
			*err = pe_error_nomem();
		return true;
	}
	if (!strstr(line, ": Leaving directory '"))
		return false;
	if (dirs->count > 1) {
		free(dirs->items[--dirs->count]);
		dirs->items[dirs->count] = NULL;
	}
	return true;
}

/* Lines that end with a backslash go on in the next one. */
static char *lines_joined(const char *text)
{
	char *joined = strdup(text);

	for (char *p = joined; p && (p = strstr(p, "\\\n"));)
		p[0] = p[1] = ' ';
	return joined;
}

struct pe_error *pe_dry_run_database(const char *text, const char *dir, char **ret)
{
	pe_auto_free char *joined = lines_joined(text);
	pe_auto_strv struct pe_strv lines = { 0 }, dirs = { 0 };
	__attribute__((cleanup(cleanup_json))) json_t *list = json_array();
	struct pe_error *err = joined && list && pe_strv_add(&dirs, dir)
				       ? pe_split_lines(joined, strlen(joined), &lines)
				       : pe_error_nomem();

	for (size_t i = 0; !err && i < lines.count; i++) {
		if (!directory_follow(lines.items[i], &dirs, &err))
			err = line_add(list, lines.items[i], dirs.items[dirs.count - 1]);
	}
	if (err)
		return err;
	if (!json_array_size(list))
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "`make -n' in %s printed no command that compiles a source",
				    dir);
	*ret = json_dumps(list, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
	return *ret ? NULL : pe_error_nomem();
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which files could include a header; see build/includes.h.
 *
 * Running the preprocessor over each of a thousand units takes minutes, so those that cannot
 * include a header are left out first. Files are known by the last part of their names alone, all
 * of one name together: whatever -I options make of a name, it is among them. A directive that
 * names a macro instead of a file is followed to wherever that macro is defined.
 */
#include "build/includes.h"
#include "build/files.h"
#include "engine/cleanup.h"

#include <ctype.h>
#include <fts.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

struct path {
	char *full;
	const char *name; /* the last part */
};

struct node {
	const char *name; /* owned */
	size_t *edges;	  /* nodes that it includes */
	size_t edge_count;
	bool reaches;
};

struct pe_includes {
	struct path *paths; /* sorted by name */
	size_t path_count;
	struct node *nodes;
	size_t node_count;
	size_t read_count; /* nodes before it were read */
	void *index;	   /* tsearch tree of struct named, by name */
};

struct named {
	char *name;
	size_t node;
};

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* ---- files by name ---- */

static int path_order(const void *a, const void *b)
{
	return strcmp(((const struct path *)a)->name, ((const struct path *)b)->name);
}

static struct pe_error *path_add(struct pe_includes *includes, const char *full)
{
	if (!(includes->path_count & (includes->path_count - 1))) { /* grows at powers of two */
		size_t room = includes->path_count ? 2 * includes->path_count : 1;
		void *grown = reallocarray(includes->paths, room, sizeof(*includes->paths));

		if (!grown)
			return pe_error_nomem();
		includes->paths = grown;
	}
	struct path *path = &includes->paths[includes->path_count];

	path->full = strdup(full);
	if (!path->full)
		return pe_error_nomem();
	path->name = last_part(path->full);
	includes->path_count++;
	return NULL;
}

struct pe_error *pe_includes_open(const char *root, struct pe_includes **ret)
{
	char *const roots[] = { (char *)root, NULL };
	struct pe_includes *includes = calloc(1, sizeof(*includes));
	FTS *walk =
		includes ? fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR | FTS_NOSTAT, NULL) : NULL;
	struct pe_error *err = walk ? NULL : pe_error_nomem();

	for (FTSENT *at; !err && (at = fts_read(walk));) {
		if (at->fts_info == FTS_D && !strcmp(at->fts_name, ".git"))
			fts_set(walk, at, FTS_SKIP);
		else if (at->fts_info == FTS_NSOK || at->fts_info == FTS_F ||
			 at->fts_info == FTS_SL)
			err = path_add(includes, at->fts_path);
	}
	if (walk)
		fts_close(walk);
	if (err) {
		pe_includes_close(includes);
		return err;
	}
	if (includes->path_count)
		qsort(includes->paths, includes->path_count, sizeof(*includes->paths), path_order);
	*ret = includes;
	return NULL;
}

/* ---- nodes ---- */

static int named_order(const void *a, const void *b)
{
	return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

static void named_free(void *p)
{
	struct named *entry = p;

	free(entry->name);
	free(entry);
}

void pe_includes_close(struct pe_includes *includes)
{
	if (!includes)
		return;
	for (size_t i = 0; i < includes->path_count; i++)
		free(includes->paths[i].full);
	for (size_t i = 0; i < includes->node_count; i++)
		free(includes->nodes[i].edges);
	tdestroy(includes->index, named_free);
	free(includes->paths);
	free(includes->nodes);
	free(includes);
}

/* The node of all files called @name; made when it is new. */
static struct pe_error *node_of(struct pe_includes *includes, const char *name, size_t *ret)
{
	const struct named key = { (char *)name, 0 };
	struct named **found = tfind(&key, &includes->index, named_order);

	if (found) {
		*ret = (*found)->node;
		return NULL;
	}

	void *grown =
		reallocarray(includes->nodes, includes->node_count + 1, sizeof(*includes->nodes));
	struct named *entry = calloc(1, sizeof(*entry));

	if (grown)
		includes->nodes = grown;
	if (!grown || !entry || !(entry->name = strdup(name)) ||
	    !tsearch(entry, &includes->index, named_order)) {
		if (entry)
			named_free(entry);
		return pe_error_nomem();
	}
	entry->node = includes->node_count++;
	includes->nodes[entry->node] = (struct node){ .name = entry->name };
	*ret = entry->node;
	return NULL;
}

static struct pe_error *edge_add(struct pe_includes *includes, size_t from, const char *name)
{
	size_t to;
	struct pe_error *err = node_of(includes, name, &to);

	if (err)
		return err;
	struct node *node = &includes->nodes[from];
	size_t *grown = reallocarray(node->edges, node->edge_count + 1, sizeof(*grown));

	if (!grown)
		return pe_error_nomem();
	node->edges = grown;
	node->edges[node->edge_count++] = to;
	return NULL;
}

/* ---- reading ---- */

/* "file" or <file> at @at: the file's last part, owned by the caller; NULL when it is neither. */
static char *file_named(const char *at)
{
	size_t size = strcspn(at + 1, *at == '<' ? ">\n" : "\"\n");
	pe_auto_free char *path = *at == '<' || *at == '"' ? strndup(at + 1, size) : NULL;

	return path ? strdup(last_part(path)) : NULL;
}

/* A macro at @at as the name of a node; NULL when there is none, or when it takes arguments. */
static char *macro_named(const char *at, const char **end)
{
	size_t size = 0;

	while (isalnum((unsigned char)at[size]) || at[size] == '_')
		size++;
	*end = at + size;
	return size && at[size] != '(' ? pe_format("#%.*s", (int)size, at) : NULL;
}

/* What stands behind #include or behind the name of a macro: a file, another macro, or more than
 * is understood here. */
static struct pe_error *operand_read(struct pe_includes *includes, size_t node, const char *at)
{
	pe_auto_free char *name = file_named(at);
	const char *end;

	if (!name)
		name = macro_named(at, &end);
	if (name)
		return edge_add(includes, node, name);
	includes->nodes[node].reaches = true;
	return NULL;
}

static struct pe_error *define_read(struct pe_includes *includes, const char *at)
{
	const char *rest;
	pe_auto_free char *name = macro_named(at, &rest);
	size_t node;

	rest += strspn(rest, " \t");
	/* Most are numbers, or nothing. */
	if (!name || isdigit((unsigned char)*rest) || strchr("\r\n-(/", *rest))
		return NULL;
	struct pe_error *err = node_of(includes, name, &node);

	return err ? err : operand_read(includes, node, rest);
}

/* A line behind its "#". */
static struct pe_error *directive_read(struct pe_includes *includes, size_t node, const char *at)
{
	static const char *const verbs[] = { "include_next", "include", "import" };

	at += strspn(at, " \t");
	if (pe_starts_with(at, "define") && strchr(" \t", at[6]))
		return define_read(includes, at + 6 + strspn(at + 6, " \t"));
	for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++) {
		const char *operand = at + strlen(verbs[i]);

		if (pe_starts_with(at, verbs[i]))
			return operand_read(includes, node, operand + strspn(operand, " \t"));
	}
	return NULL;
}

static struct pe_error *file_read(struct pe_includes *includes, size_t node, const char *path)
{
	pe_auto_free char *text = NULL;
	struct pe_error *err = pe_file_read(path, &text, NULL);

	if (err) {
		/* A dangling link, or somebody else's: whatever may be in it. */
		pe_error_free(err);
		includes->nodes[node].reaches = true;
		return NULL;
	}
	for (const char *line = text, *end; !err && *line; line = *end ? end + 1 : end) {
		end = strchrnul(line, '\n');
		line += strspn(line, " \t");
		if (*line == '#')
			err = directive_read(includes, node, line + 1);
	}
	return err;
}

static struct pe_error *node_read(struct pe_includes *includes, size_t node)
{
	const struct path key = { NULL, includes->nodes[node].name };
	const struct path *end = includes->paths + includes->path_count;
	const struct path *at = includes->path_count
					? bsearch(&key, includes->paths, includes->path_count,
						  sizeof(key), path_order)
					: NULL;
	struct pe_error *err = NULL;

	while (at && at > includes->paths && !path_order(&at[-1], &key))
		at--;
	for (; !err && at && at < end && !path_order(at, &key); at++)
		err = file_read(includes, node, at->full);
	return err;
}

/* NAME=VALUE of -D. */
static struct pe_error *option_read(struct pe_includes *includes, const char *option)
{
	pe_auto_free char *text = strdup(option);

	if (!text)
		return pe_error_nomem();
	*strchr(text, '=') = ' ';
	return define_read(includes, text);
}

struct pe_error *pe_includes_command(struct pe_includes *includes, const char *file,
				     const struct pe_strv *argv)
{
	size_t node;
	struct pe_error *err = node_of(includes, last_part(file), &node);

	for (size_t i = 1; !err && i < argv->count; i++) {
		const char *word = argv->items[i];

		if ((!strcmp(word, "-include") || !strcmp(word, "-imacros")) && i + 1 < argv->count)
			err = edge_add(includes, node, last_part(argv->items[i + 1]));
		else if (pe_starts_with(word, "-D") && strchr(word, '='))
			err = option_read(includes, word + 2);
	}
	while (!err && includes->read_count < includes->node_count)
		err = node_read(includes, includes->read_count++);
	return err;
}

/* ---- searching ---- */

struct pe_error *pe_includes_search(struct pe_includes *includes, const struct pe_strv *headers)
{
	bool more = true;
	size_t node;

	for (size_t i = 0; i < headers->count; i++) {
		struct pe_error *err = node_of(includes, last_part(headers->items[i]), &node);

		if (err)
			return err;
		includes->nodes[node].reaches = true;
	}
	while (more) {
		more = false;
		for (size_t i = 0; i < includes->node_count; i++) {
			struct node *from = &includes->nodes[i];

			for (size_t k = 0; !from->reaches && k < from->edge_count; k++)
				from->reaches = includes->nodes[from->edges[k]].reaches;
			more |= from->reaches && from->edge_count;
			/* Looked at once: whoever includes it is found in the next round. */
			if (from->reaches)
				from->edge_count = 0;
		}
	}
	return NULL;
}

bool pe_includes_reaches(const struct pe_includes *includes, const char *file)
{
	const struct named key = { (char *)last_part(file), 0 };
	struct named *const *found = tfind(&key, &includes->index, named_order);

	return !found || includes->nodes[(*found)->node].reaches;
}

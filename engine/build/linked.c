/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which objects are in the program: a source may be compiled several times, for the program, for
 * a shared library, for an embedded variant.
 *
 * CMake's Makefile generator keeps each link command in DIR/CMakeFiles/TARGET.dir/link.txt, run
 * in DIR. All of them are read; from the one that makes the program, objects are taken and the
 * archives that other link commands make are followed.
 */
#include "build/database.h"
#include "build/files.h"
#include "engine/cleanup.h"

#include <string.h>

/* One link command: what it makes and the objects and archives that go in. */
struct link {
	char *output;
	struct pe_strv inputs;
	bool visited;
};

struct links {
	struct link *items;
	size_t count;
};

static void links_deinit(struct links *links)
{
	for (size_t i = 0; i < links->count; i++) {
		free(links->items[i].output);
		pe_strv_deinit(&links->items[i].inputs);
	}
	free(links->items);
}

/* A line of link.txt: "cc ... -o OUT a.o libx.a" or "ar qc OUT a.o". ranlib lines make nothing. */
static struct pe_error *link_parse(const char *line, const char *dir, struct link *ret)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	struct pe_error *err = pe_split_command(line, &argv);

	if (err || argv.count < 3)
		return err;

	const char *tool = strrchr(argv.items[0], '/');
	const char *output = NULL;
	size_t first = 1;

	tool = tool ? tool + 1 : argv.items[0];
	if (pe_ends_with(tool, "ar")) {
		output = argv.items[2];
		first = 3;
	}
	for (size_t i = first; i < argv.count; i++) {
		const char *word = argv.items[i];

		if (!strcmp(word, "-o") && i + 1 < argv.count)
			output = argv.items[++i];
		else if (*word != '-' && (pe_ends_with(word, ".o") || pe_ends_with(word, ".a")) &&
			 !pe_strv_take(&ret->inputs, pe_path_normal(dir, word)))
			return pe_error_nomem();
	}
	if (output && ret->inputs.count) {
		ret->output = pe_path_normal(dir, output);
		if (!ret->output)
			return pe_error_nomem();
	}
	return NULL;
}

static struct pe_error *links_add_file(struct links *links, const char *path, const char *dir)
{
	pe_auto_free char *text = NULL;
	pe_auto_strv struct pe_strv lines = { 0 };
	size_t size;

	if (!pe_file_exists(path))
		return NULL;

	struct pe_error *err = pe_file_read(path, &text, &size);

	if (!err)
		err = pe_split_lines(text, size, &lines);
	for (size_t i = 0; !err && i < lines.count; i++) {
		struct link *items = reallocarray(links->items, links->count + 1, sizeof(*items));

		if (!items)
			return pe_error_nomem();
		links->items = items;
		items[links->count] = (struct link){ 0 };
		err = link_parse(lines.items[i], dir, &items[links->count++]);
	}
	return err ? pe_error_wrap(err, "%s", path) : NULL;
}

static struct pe_error *links_add_dir(struct links *links, const char *dir)
{
	pe_auto_free char *cmake = pe_format("%s/CMakeFiles", dir);
	pe_auto_strv struct pe_strv names = { 0 };

	if (!cmake)
		return pe_error_nomem();

	struct pe_error *err = pe_dir_list(cmake, &names);

	for (size_t i = 0; !err && i < names.count; i++) {
		if (!pe_ends_with(names.items[i], ".dir"))
			continue;

		pe_auto_free char *path = pe_format("%s/%s/link.txt", cmake, names.items[i]);

		err = path ? links_add_file(links, path, dir) : pe_error_nomem();
	}
	return err;
}

static struct link *links_find(struct links *links, const char *output)
{
	for (size_t i = 0; i < links->count; i++) {
		if (links->items[i].output && !strcmp(links->items[i].output, output))
			return &links->items[i];
	}
	return NULL;
}

static bool links_follow(struct links *links, struct link *link, struct pe_strv *objects)
{
	if (link->visited)
		return true;
	link->visited = true;
	for (size_t i = 0; i < link->inputs.count; i++) {
		const char *input = link->inputs.items[i];
		struct link *made_by = links_find(links, input);

		if (made_by && !links_follow(links, made_by, objects))
			return false;
		if (!made_by && pe_ends_with(input, ".o") && !pe_strv_add(objects, input))
			return false;
	}
	return true;
}

struct pe_error *pe_linked_objects(const struct pe_database *database, const char *program,
				   struct pe_strv *ret)
{
	__attribute__((cleanup(links_deinit))) struct links links = { 0 };
	pe_auto_strv struct pe_strv dirs = { 0 };
	pe_auto_free char *tail = pe_format("/%s", program);

	if (!tail)
		return pe_error_nomem();
	for (size_t i = 0; i < database->count; i++) {
		const char *dir = database->entries[i].directory;

		if (pe_strv_has(&dirs, dir))
			continue;
		if (!pe_strv_add(&dirs, dir))
			return pe_error_nomem();

		struct pe_error *err = links_add_dir(&links, dir);

		if (err)
			return err;
	}
	for (size_t i = 0; i < links.count; i++) {
		struct link *link = &links.items[i];

		if (link->output && pe_ends_with(link->output, tail) &&
		    !links_follow(&links, link, ret))
			return pe_error_nomem();
	}
	return NULL;
}

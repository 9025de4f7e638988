/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The compile database (compile_commands.json); see build/database.h. */
#include "build/database.h"
#include "build/files.h"
#include "engine/cleanup.h"

#include <jansson.h>
#include <string.h>

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

static struct pe_error *entry_argv(json_t *item, struct pe_strv *argv)
{
	const char *command = json_string_value(json_object_get(item, "command"));
	json_t *list = json_object_get(item, "arguments");
	size_t i;
	json_t *word;

	if (command)
		return pe_split_command(command, argv);
	json_array_foreach(list, i, word)
	{
		if (!json_is_string(word))
			return pe_error_new(PE_ERR_FORMAT, "an argument is not a string");
		if (!pe_strv_add(argv, json_string_value(word)))
			return pe_error_nomem();
	}
	return NULL;
}

/*
 * The command's own word first: some versions of CMake write "output" relative to the top of the
 * build tree, others to "directory".
 */
static const char *output_of(json_t *item, const struct pe_strv *argv)
{
	for (size_t i = 1; i < argv->count; i++) {
		if (!strcmp(argv->items[i], "-o") && i + 1 < argv->count)
			return argv->items[i + 1];
		if (pe_starts_with(argv->items[i], "-o"))
			return argv->items[i] + 2;
	}
	return json_string_value(json_object_get(item, "output"));
}

static struct pe_error *entry_read(json_t *item, const char *base, struct pe_unit_entry *entry)
{
	const char *directory = json_string_value(json_object_get(item, "directory"));
	const char *file = json_string_value(json_object_get(item, "file"));

	if (!directory || !file)
		return pe_error_new(PE_ERR_FORMAT, "\"directory\" or \"file\" is missing");

	struct pe_error *err = entry_argv(item, &entry->argv);

	if (err)
		return err;
	if (!entry->argv.count)
		return pe_error_new(PE_ERR_FORMAT, "there is no command for %s", file);

	const char *output = output_of(item, &entry->argv);

	entry->directory = pe_path_normal(base, directory);
	if (!entry->directory)
		return pe_error_nomem();
	entry->file = pe_path_normal(entry->directory, file);
	entry->output = output ? pe_path_normal(entry->directory, output) : NULL;
	return entry->file && (entry->output || !output) ? NULL : pe_error_nomem();
}

struct pe_error *pe_database_read(const char *path, struct pe_database *ret)
{
	json_error_t why;
	__attribute__((cleanup(cleanup_json))) json_t *root =
		json_load_file(path, JSON_REJECT_DUPLICATES, &why);
	pe_auto_free char *real = realpath(path, NULL);

	if (!root)
		return pe_error_new(PE_ERR_FORMAT, "cannot read %s: %s (line %d)", path, why.text,
				    why.line);
	if (!json_is_array(root) || !json_array_size(root))
		return pe_error_new(PE_ERR_FORMAT, "%s is not a compile database", path);
	if (!real)
		return pe_error_nomem();
	*strrchr(real, '/') = 0;

	struct pe_database database = { calloc(json_array_size(root), sizeof(*database.entries)),
					0 };
	struct pe_error *err = database.entries ? NULL : pe_error_nomem();

	for (size_t i = 0; !err && i < json_array_size(root); i++) {
		err = entry_read(json_array_get(root, i), real, &database.entries[i]);
		database.count++;
		if (err)
			err = pe_error_wrap(err, "%s, entry %zu", path, i);
	}
	if (err)
		pe_database_deinit(&database);
	else
		*ret = database;
	return err;
}

void pe_database_deinit(struct pe_database *database)
{
	for (size_t i = 0; i < database->count; i++) {
		struct pe_unit_entry *entry = &database->entries[i];

		free(entry->file);
		free(entry->directory);
		free(entry->output);
		pe_strv_deinit(&entry->argv);
	}
	free(database->entries);
	*database = (struct pe_database){ 0 };
}

const struct pe_unit_entry *pe_database_next(const struct pe_database *database, const char *file,
					     size_t *from)
{
	while (*from < database->count) {
		const struct pe_unit_entry *entry = &database->entries[(*from)++];

		if (!strcmp(entry->file, file))
			return entry;
	}
	return NULL;
}

/* The longest directory that holds all sources. */
static char *common_dir(const struct pe_database *database)
{
	char *dir = strdup(database->count ? database->entries[0].file : "/");

	if (!dir)
		return NULL;
	if (database->count)
		*strrchr(dir, '/') = 0;
	for (size_t i = 1; i < database->count; i++) {
		while (*dir && !pe_path_below(database->entries[i].file, dir))
			*strrchr(dir, '/') = 0;
	}
	if (!*dir) {
		free(dir);
		dir = strdup("/");
	}
	return dir;
}

/* What CMake noted beside the compile database; NULL when it is not CMake's. */
static char *cmake_root(const char *folder)
{
	static const char key[] = "\nCMAKE_HOME_DIRECTORY:INTERNAL=";
	pe_auto_free char *path = pe_format("%s/CMakeCache.txt", folder);
	pe_auto_free char *text = NULL;
	const char *at;

	if (!path || !pe_file_exists(path))
		return NULL;
	pe_error_free(pe_file_read(path, &text, NULL));
	at = text ? strstr(text, key) : NULL;
	return at ? strndup(at + strlen(key), strcspn(at + strlen(key), "\n")) : NULL;
}

/* The directory with ".git" at or above @dir; NULL when there is none. */
static char *checkout_root(const char *dir)
{
	pe_auto_free char *root = strdup(dir);

	while (root && *root) {
		pe_auto_free char *git = pe_format("%s/.git", root);

		if (git && pe_file_exists(git))
			return pe_steal(root);
		*strrchr(root, '/') = 0;
	}
	return NULL;
}

char *pe_database_source_root(const struct pe_database *database, const char *path)
{
	pe_auto_free char *common = common_dir(database);
	pe_auto_free char *folder = strdup(path);

	if (!common || !folder)
		return NULL;
	*strrchr(folder, '/') = 0;

	pe_auto_free char *root = cmake_root(folder);

	if (root && pe_path_below(common, root))
		return pe_steal(root);
	char *checkout = checkout_root(common);

	if (checkout)
		return checkout;
	return pe_path_below(common, folder) ? pe_steal(folder) : pe_steal(common);
}

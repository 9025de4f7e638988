/* SPDX-License-Identifier: GPL-2.0-or-later */
/* care-build target: the programs that patches can be made for. */
#include "build/database.h"
#include "build/debian.h"
#include "build/files.h"
#include "build/store.h"
#include "cli/care_build.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <string.h>

static void cleanup_target(struct pe_build_target **target)
{
	pe_build_target_free(*target);
}

#define auto_target __attribute__((cleanup(cleanup_target)))

/* ---- add ---- */

enum {
	KEY_DEBIAN = 256,
	KEY_SUITE,
	KEY_NAME,
	KEY_DATABASE,
	KEY_BINARY,
	KEY_SYMBOLS,
	KEY_ROOT,
	KEY_VERSION
};

struct add_options {
	struct care_build_common common;
	const char *what;
	const char *name, *debian, *suite, *database, *binary, *symbols, *root, *version;
};

static const struct argp_option add_option_table[] = {
	{ "name", KEY_NAME, "NAME", 0, "Name of the target (default: from package and version)",
	  1 },
	{ "debian", KEY_DEBIAN, "VERSION", 0, "Version of Debian's source package", 2 },
	{ "suite", KEY_SUITE, "RELEASE", 0,
	  "Debian release that the package is of, when that is not this machine's (bullseye, "
	  "trixie, ...): it is compiled in a tree of that release, by its own compiler",
	  2 },
	{ "compile-commands", KEY_DATABASE, "FILE", 0,
	  "program: the compile database of its build tree (compile_commands.json)", 3 },
	{ "binary", KEY_BINARY, "FILE", 0, "program: the program as it runs", 3 },
	{ "symbols", KEY_SYMBOLS, "FILE", 0,
	  "program: its symbols, as `nm --defined-only' prints them (gzip allowed) or a separate "
	  "debug file; needed when the program is stripped",
	  3 },
	{ "source-root", KEY_ROOT, "DIR", 0,
	  "program: the directory that diffs are relative to (default: what all sources share)",
	  3 },
	{ "version", KEY_VERSION, "TEXT", 0, "program: its version, for lists", 3 },
	{ 0 },
};

static error_t add_parse(int key, char *arg, struct argp_state *state)
{
	struct add_options *o = state->input;
	const struct care_build_text texts[] = {
		{ KEY_DEBIAN, &o->debian },
		{ KEY_SUITE, &o->suite },
		{ KEY_NAME, &o->name },
		{ KEY_DATABASE, &o->database },
		{ KEY_BINARY, &o->binary },
		{ KEY_SYMBOLS, &o->symbols },
		{ KEY_ROOT, &o->root },
		{ KEY_VERSION, &o->version },
		{ 0 },
	};

	if (care_build_set_text(texts, key, arg))
		return 0;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &o->common;
		return 0;
	case ARGP_KEY_ARG:
		if (o->what)
			argp_error(state, "too many arguments");
		o->what = arg;
		return 0;
	case ARGP_KEY_END:
		if (!o->what)
			argp_error(state, "add what: mariadb, openssl or program?");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const char add_doc[] =
	"Prepare a program so that patches can be made for it: once, then it is kept.\v"
	"WHAT is a program whose source is known (mariadb, openssl: fetched from Debian,\n"
	"configured as Debian does, with the binary that Debian ships), or \"program\": any C or\n"
	"C++ program with a build tree that has a compile database.\n"
	"\n"
	"  care-build target add mariadb --debian 1:10.11.18-0+deb12u1\n"
	"  care-build target add mariadb --debian 1:11.8.6-0+deb13u1 --suite trixie\n"
	"  care-build target add openssl --debian 3.0.17-1~deb12u2\n"
	"  care-build target add program --name hello --compile-commands "
	"build/compile_commands.json "
	"--binary build/hello";

static struct pe_error *report_added(const char *name, bool json, const char *note)
{
	auto_target struct pe_build_target *target = NULL;
	struct pe_error *err = pe_store_load(name, &target);

	if (err)
		return err;
	if (json) {
		json_t *object = pe_build_target_json(target);

		if (note)
			json_object_set_new(object, "note", json_string(note));
		pe_cli_json(object);
		return NULL;
	}
	printf("target %s: %s %s, build-id %s\n", name, target->provider, target->version,
	       *target->build_id ? target->build_id : "none");
	if (note)
		printf("note: %s\n", note);
	return NULL;
}

static struct pe_error *add_debian(const struct pe_debian_recipe *recipe,
				   const struct add_options *o)
{
	if (!o->debian)
		return pe_error_new(PE_ERR_USAGE, "--debian VERSION is missing");
	if (o->suite && !pe_name_valid(o->suite))
		return pe_error_new(PE_ERR_USAGE, "\"%s\" is no name of a Debian release",
				    o->suite);

	const char *plain = strchr(o->debian, ':') ? strchr(o->debian, ':') + 1 : o->debian;
	pe_auto_free char *name =
		o->name ? strdup(o->name) : pe_format("%s-%s", recipe->name, plain);
	pe_auto_free char *note = NULL;
	struct pe_progress progress;

	if (!name)
		return pe_error_nomem();
	/* Versions have it, names of targets have not. */
	for (char *p = o->name ? NULL : strchr(name, '~'); p; p = strchr(p, '~'))
		*p = '-';
	pe_progress_init(&progress, !o->common.json && !o->common.quiet);

	struct pe_debian_options options = {
		.name = name,
		.version = o->debian,
		.suite = o->suite,
		.progress = care_build_progress,
		.ctx = &progress,
	};
	struct pe_error *err = pe_debian_add(recipe, &options, &note);

	pe_progress_done(&progress);
	/* Prepared once is what was asked for. */
	if (err && err->code == PE_ERR_NOTHING) {
		pe_error_free(err);
		err = NULL;
		if (!o->common.json)
			printf("is there already: ");
	}
	return err ? err : report_added(name, o->common.json, note);
}

static struct pe_error *real_path(const char *path, char **ret)
{
	*ret = realpath(path, NULL);
	return *ret ? NULL : pe_error_errno(errno, "cannot find %s", path);
}

/* Fills what follows from the files themselves, checks that they are what they should be. */
static struct pe_error *program_check(struct pe_build_target *target, char *build_id)
{
	struct pe_database database = { 0 };
	struct pe_image *image = NULL;
	struct pe_error *err = pe_database_read(target->database, &database);

	if (!err && !target->source) {
		target->source = pe_database_source_root(&database, target->database);
		if (!target->source)
			err = pe_error_nomem();
	}
	pe_database_deinit(&database);
	if (!err)
		err = pe_build_target_image(target, &image);
	if (err)
		return err;
	pe_build_id_hex(pe_image_build_id(image), build_id);
	pe_image_close(image);
	if (!*build_id)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "%s has no build-id: a patch could not tell it from another "
				    "build (link with -Wl,--build-id)",
				    target->binary);
	target->build_id = strdup(build_id);
	return target->build_id ? NULL : pe_error_nomem();
}

static struct pe_error *add_program(const struct add_options *o)
{
	auto_target struct pe_build_target *target = calloc(1, sizeof(*target));
	char build_id[2 * PE_BUILD_ID_MAX + 1];
	pe_auto_fd int lock = -1;

	if (!target)
		return pe_error_nomem();
	if (!o->name || !o->database || !o->binary)
		return pe_error_new(PE_ERR_USAGE,
				    "--name, --compile-commands and --binary are needed");
	target->name = strdup(o->name);
	target->provider = strdup("program");
	target->product = strdup("program");
	target->version = strdup(o->version ? o->version : "");
	if (!target->name || !target->provider || !target->product || !target->version)
		return pe_error_nomem();

	struct pe_error *err = real_path(o->database, &target->database);

	if (!err)
		err = real_path(o->binary, &target->binary);
	if (!err && o->symbols)
		err = real_path(o->symbols, &target->symbols);
	if (!err && o->root)
		err = real_path(o->root, &target->source);
	if (!err)
		err = program_check(target, build_id);
	if (!err)
		err = pe_store_lock(target->name, &lock);
	if (!err)
		err = pe_store_commit(target);
	return err ? err : report_added(target->name, o->common.json, NULL);
}

static struct pe_error *target_add(int argc, char **argv, bool *json)
{
	static const struct argp argp = { add_option_table, add_parse, "WHAT", add_doc,
					  care_build_common };
	struct add_options o = { 0 };

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	*json = o.common.json;
	if (o.name && !pe_name_valid(o.name))
		return pe_error_new(PE_ERR_USAGE, "\"%s\" is not a valid name", o.name);
	if (!strcmp(o.what, "program"))
		return add_program(&o);

	const struct pe_debian_recipe *recipe = pe_debian_recipe_find(o.what);

	if (!recipe)
		return pe_error_new(PE_ERR_USAGE, "\"%s\" is neither mariadb nor program", o.what);
	return add_debian(recipe, &o);
}

/* ---- list, show, remove ---- */

struct name_options {
	struct care_build_common common;
	const char *name;
	bool wanted;
};

static error_t name_parse(int key, char *arg, struct argp_state *state)
{
	struct name_options *options = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &options->common;
		return 0;
	case ARGP_KEY_ARG:
		if (options->name || !options->wanted)
			argp_error(state, "too many arguments");
		options->name = arg;
		return 0;
	case ARGP_KEY_END:
		if (options->wanted && !options->name)
			argp_error(state, "which target?");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void name_args(int argc, char **argv, bool wanted, const char *doc,
		      struct name_options *options)
{
	const struct argp argp = { NULL, name_parse, wanted ? "NAME" : NULL, doc,
				   care_build_common };

	options->wanted = wanted;
	argp_parse(&argp, argc, argv, 0, NULL, options);
}

static struct pe_error *target_list(int argc, char **argv, bool *json)
{
	static const char *const titles[] = { "NAME", "KIND", "VERSION", "BUILD-ID", NULL };
	struct name_options options = { .common.shows = true };
	pe_auto_strv struct pe_strv names = { 0 };

	name_args(argc, argv, false, "List the targets.", &options);
	*json = options.common.json;

	struct pe_error *err = pe_store_list(&names);

	if (err)
		return err;

	json_t *list = json_array();
	struct pe_table *table = *json ? NULL : pe_table_new(titles);

	for (size_t i = 0; !err && i < names.count; i++) {
		auto_target struct pe_build_target *target = NULL;

		err = pe_store_load(names.items[i], &target);
		if (err)
			break;
		json_array_append_new(list, pe_build_target_json(target));
		pe_table_row(table, (const char *const[]){ target->name, target->provider,
							   target->version, target->build_id });
	}
	if (!err && *json)
		pe_cli_json(json_pack("{s:O}", "targets", list));
	if (names.count)
		pe_table_print_and_free(table);
	else if (!*json)
		puts("no targets yet; see `care-build target add --help'");
	json_decref(list);
	return err;
}

static struct pe_error *target_show(int argc, char **argv, bool *json)
{
	struct name_options options = { .common.shows = true };
	auto_target struct pe_build_target *target = NULL;
	const char *key;
	json_t *value;

	name_args(argc, argv, true, "Show a target: its version, build-id and files.", &options);
	*json = options.common.json;

	struct pe_error *err = pe_store_load(options.name, &target);

	if (err)
		return err;

	json_t *object = pe_build_target_json(target);

	if (*json) {
		pe_cli_json(json_pack("{s:[o]}", "targets", object));
		return NULL;
	}
	json_object_foreach(object, key, value) printf("%-18s %s\n", key, json_string_value(value));
	json_decref(object);
	return NULL;
}

static struct pe_error *target_remove(int argc, char **argv, bool *json)
{
	struct name_options options = { 0 };

	name_args(argc, argv, true, "Remove a target and all that was prepared for it.", &options);
	*json = options.common.json;

	struct pe_error *err = pe_store_remove(options.name);

	if (!err && *json)
		pe_cli_json(json_pack("{s:s}", "removed", options.name));
	else if (!err)
		printf("removed %s\n", options.name);
	return err;
}

struct pe_error *care_build_target(int argc, char **argv, bool *json)
{
	static const struct care_build_verb verbs[] = {
		{ "add", target_add },
		{ "list", target_list },
		{ "show", target_show },
		{ "remove", target_remove },
		{ 0 },
	};

	return care_build_dispatch(argc, argv, verbs,
				   "The programs that patches can be made for.\v"
				   "Commands: add, list, show, remove.",
				   json);
}

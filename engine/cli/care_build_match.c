/* SPDX-License-Identifier: GPL-2.0-or-later */
/* care-build match: is the shipped code what this source and these flags give? */
#include "build/files.h"
#include "build/units.h"
#include "cli/care_build.h"
#include "engine/cleanup.h"
#include "engine/demangle.h"

#include <inttypes.h>
#include <string.h>

enum { KEY_TARGET = 't', KEY_DIFFERENT = 'd', KEY_NO_CACHE = 256, KEY_IMAGE };

struct match_options {
	struct care_build_common common;
	const char *target, *image;
	struct pe_strv files;
	bool different;
	bool no_cache;
};

static const struct argp_option option_table[] = {
	{ "target", KEY_TARGET, "NAME", 0, "The target", 1 },
	{ "different", KEY_DIFFERENT, NULL, 0, "List only functions that are not identical", 1 },
	{ "image", KEY_IMAGE, "FILE", 0,
	  "Compare with this file of the target's packages: a plugin or library", 1 },
	{ "no-cache", KEY_NO_CACHE, NULL, 0, "Compile again what is kept from earlier runs", 2 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct match_options *o = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &o->common;
		return 0;
	case KEY_TARGET:
		o->target = arg;
		return 0;
	case KEY_IMAGE:
		o->image = arg;
		return 0;
	case KEY_DIFFERENT:
		o->different = true;
		return 0;
	case KEY_NO_CACHE:
		o->no_cache = true;
		return 0;
	case ARGP_KEY_ARG:
		return pe_strv_add(&o->files, arg) ? 0 : ENOMEM;
	case ARGP_KEY_END:
		if (!o->target)
			argp_error(state, "--target is missing");
		if (!o->files.count)
			argp_error(state, "which source FILE?");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const char doc[] =
	"Compile sources unpatched and compare each function with the shipped program.\v"
	"FILE is relative to the source root. Identical, identical after decoding relocations,\n"
	"different (with the cause), or not in the binary. Example:\n"
	"  care-build match --target db sql/item_func.cc mysys/my_malloc.c";

static const char *const verdicts[] = {
	[PE_MATCH_IDENTICAL] = "identical",
	[PE_MATCH_RELOCATED] = "identical (relocations decoded)",
	[PE_MATCH_DIFFERENT] = "different",
	[PE_MATCH_ABSENT] = "not in the binary",
};

static json_t *unit_json(const struct pe_unit *unit)
{
	json_t *json = pe_match_to_json(unit->match);
	size_t identical, present;

	pe_match_summary(unit->match, &identical, &present);
	json_object_set_new(json, "source", json_string(unit->source));
	json_object_set_new(json, "object", json_string(unit->object_name));
	json_object_set_new(json, "total", json_integer((json_int_t)present));
	return json;
}

static void unit_print(const struct pe_unit *unit, bool different)
{
	static const char *const titles[] = { "FUNCTION", ">ADDRESS", ">SIZE",
					      "VERDICT",  "CAUSE",    NULL };
	struct pe_table *table = NULL;
	size_t counts[sizeof(verdicts) / sizeof(*verdicts)] = { 0 };

	for (size_t i = 0; i < unit->match->function_count; i++) {
		const struct pe_match_function *f = &unit->match->functions[i];
		char address[32], size[32];

		counts[f->verdict]++;
		if (different && f->verdict != PE_MATCH_DIFFERENT && f->verdict != PE_MATCH_ABSENT)
			continue;
		if (!table)
			table = pe_table_new(titles);
		snprintf(address, sizeof(address), "0x%" PRIx64, f->vaddr);
		snprintf(size, sizeof(size), "%" PRIu64, f->symbol->size);
		pe_auto_free char *name = pe_demangle(f->symbol->name);

		pe_table_row(table, (const char *const[]){ name, f->vaddr ? address : NULL, size,
							   verdicts[f->verdict], f->cause });
	}
	printf("%s (%s): %zu identical, %zu identical after decoding relocations, %zu different, "
	       "%zu not in the binary\n",
	       unit->source, unit->object_name, counts[PE_MATCH_IDENTICAL],
	       counts[PE_MATCH_RELOCATED], counts[PE_MATCH_DIFFERENT], counts[PE_MATCH_ABSENT]);
	pe_table_print_and_free(table);
}

/* 100 only when all of them are. */
static double percent(size_t identical, size_t total)
{
	return total ? 100.0 * (double)identical / (double)total : 0.0;
}

static void print(const struct pe_units *units, const struct match_options *o)
{
	json_t *list = json_array();
	size_t identical = 0, total = 0;

	for (size_t i = 0; i < units->count; i++) {
		size_t unit_identical, unit_total;

		pe_match_summary(units->items[i].match, &unit_identical, &unit_total);
		identical += unit_identical;
		total += unit_total;
		if (o->common.json)
			json_array_append_new(list, unit_json(&units->items[i]));
		else
			unit_print(&units->items[i], o->different);
	}
	if (o->common.json)
		pe_cli_json(json_pack("{s:s, s:O, s:I, s:I, s:f}", "target", o->target, "units",
				      list, "identical", (json_int_t)identical, "total",
				      (json_int_t)total, "percent", percent(identical, total)));
	else
		printf("%zu of %zu identical (%.2f %%)\n", identical, total,
		       percent(identical, total));
	json_decref(list);
}

static struct pe_error *match(const struct match_options *o, struct pe_build *build,
			      struct pe_units *units)
{
	for (size_t i = 0; i < o->files.count; i++) {
		pe_auto_free char *source = NULL;
		struct pe_error *err = pe_build_source_path(build, o->files.items[i], &source);

		if (!err)
			err = pe_units_add(build, units, source);
		if (err)
			return err;
	}

	struct pe_error *err = pe_units_compile(build, units, NULL);

	return err ? err : pe_units_match(build, units);
}

static struct pe_error *match_target(const struct match_options *o,
				     const struct pe_build_target *target)
{
	pe_auto_temp_dir struct pe_temp_dir temp = { 0 };
	struct pe_progress progress;
	struct pe_build build;
	struct pe_units units = { 0 };
	struct pe_error *err = pe_temp_dir_init(&temp);

	if (!err)
		err = pe_build_open(target, temp.path, &build);
	if (err)
		return err;
	pe_progress_init(&progress, !o->common.json && !o->common.quiet);
	build.progress = care_build_progress;
	build.progress_ctx = &progress;
	if (o->no_cache)
		err = pe_build_no_cache(&build);
	if (!err)
		err = match(o, &build, &units);
	pe_progress_done(&progress);
	if (!err)
		print(&units, o);
	pe_units_deinit(&units);
	pe_build_close(&build);
	return err;
}

struct pe_error *care_build_match(int argc, char **argv, bool *json)
{
	static const struct argp argp = { option_table, parse, "FILE...", doc, care_build_common };
	struct match_options o = { .common.shows = true };
	struct pe_build_target *target = NULL;

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	*json = o.common.json;

	struct pe_error *err = pe_store_load(o.target, &target);

	if (!err && o.image)
		err = pe_build_target_choose(target, o.image);
	if (!err)
		err = match_target(&o, target);
	pe_build_target_free(target);
	pe_strv_deinit(&o.files);
	return err;
}

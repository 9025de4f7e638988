/* SPDX-License-Identifier: GPL-2.0-or-later */
/* care-build patch: make a patch file from diffs. */
#include "build/files.h"
#include "build/make.h"
#include "build/report.h"
#include "cli/care_build.h"
#include "engine/cleanup.h"
#include "engine/patch.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

enum {
	KEY_TARGET = 't',
	KEY_NAME = 'n',
	KEY_DIFF = 'd',
	KEY_OUT = 'o',
	KEY_DESCRIPTION = 256,
	KEY_CVE,
	KEY_CVSS,
	KEY_URL,
	KEY_KIND,
	KEY_LEVEL,
	KEY_INDEPENDENT,
	KEY_DEPENDENT,
	KEY_DRY_RUN,
	KEY_KEEP,
	KEY_IMAGE,
	KEY_NO_CACHE,
	KEY_REPORT,
	KEY_MAX_UNITS,
};

struct patch_options {
	struct care_build_common common;
	const char *target, *name, *out, *description, *kind, *keep, *image, *page;
	struct pe_strv diffs, cves, scores, urls;
	unsigned long level, max_units;
	bool independent, dependent, dry_run, no_cache;
};

static const struct argp_option option_table[] = {
	{ "target", KEY_TARGET, "NAME", 0, "The target to patch", 1 },
	{ "name", KEY_NAME, "NAME", 0, "Name of the patch", 1 },
	{ "diff", KEY_DIFF, "FILE", 0, "Unified diff to the source; may repeat, applied in order",
	  1 },
	{ "output", KEY_OUT, "FILE", 0, "The patch file to write", 1 },
	{ "description", KEY_DESCRIPTION, "TEXT", 0, "What it fixes, in a sentence", 2 },
	{ "cve", KEY_CVE, "ID", 0, "A CVE that it fixes; may repeat", 2 },
	{ "cvss", KEY_CVSS, "SCORE", 0, "Score of the CVE named before", 2 },
	{ "url", KEY_URL, "URL", 0, "Page of the CVE named before", 2 },
	{ "kind", KEY_KIND, "KIND", 0, "security or bugfix (default: security with a --cve)", 2 },
	{ "level", KEY_LEVEL, "N", 0, "Patch level (default 0: none)", 2 },
	{ "independent", KEY_INDEPENDENT, NULL, 0,
	  "Its functions may change one by one: no new one relies on another new one", 3 },
	{ "dependent", KEY_DEPENDENT, NULL, 0, "All its functions must change at one moment", 3 },
	{ "dry-run", KEY_DRY_RUN, NULL, 0, "Do everything but write the file", 4 },
	{ "report", KEY_REPORT, "PAGE", 0,
	  "Write the page of `care-build report' too; for a refused patch it says what and why",
	  4 },
	{ "image", KEY_IMAGE, "FILE", 0,
	  "Patch this file of the target's packages instead of the program: a plugin or library",
	  4 },
	{ "keep", KEY_KEEP, "DIR", 0, "Keep the patched source tree in DIR (new or empty)", 4 },
	{ "no-cache", KEY_NO_CACHE, NULL, 0, "Compile again what is kept from earlier runs", 4 },
	{ "max-units", KEY_MAX_UNITS, "N", 0,
	  "Refuse a changed header that more than N sources include (default 32)", 4 },
	{ 0 },
};

/* "CVE-2026-49261": what people and scanners will look for. */
static void check_cve(const char *text, struct argp_state *state)
{
	static const char digits[] = "0123456789";
	size_t year = strncmp(text, "CVE-", 4) == 0 ? strspn(text + 4, digits) : 0;
	size_t number = year == 4 && text[8] == '-' ? strspn(text + 9, digits) : 0;

	if (number < 1 || text[9 + number])
		argp_error(state, "--cve is written CVE-YEAR-NUMBER, not '%s'", text);
}

static void check_score(const char *text, struct argp_state *state)
{
	char *end;
	double score = strtod(text, &end);

	if (end == text || *end || !(score >= 0 && score <= 10))
		argp_error(state, "--cvss is a number from 0.0 to 10.0, not '%s'", text);
}

/* --cvss and --url belong to the --cve before them: fills the list up to there. */
static error_t parse_cve_fact(struct patch_options *o, struct pe_strv *list, const char *arg,
			      struct argp_state *state)
{
	if (!o->cves.count)
		argp_error(state, "--cvss and --url stand behind their --cve");
	while (list->count + 1 < o->cves.count) {
		if (!pe_strv_add(list, ""))
			return ENOMEM;
	}
	if (list->count == o->cves.count)
		argp_error(state, "%s has that already", o->cves.items[o->cves.count - 1]);
	return pe_strv_add(list, arg) ? 0 : ENOMEM;
}

static void parse_end(const struct patch_options *o, struct argp_state *state)
{
	if (!o->target || !o->name || !o->diffs.count)
		argp_error(state, "--target, --name and --diff are needed");
	if (!o->out && !o->dry_run)
		argp_error(state, "-o FILE is missing");
	if (o->independent && o->dependent)
		argp_error(state, "--independent or --dependent, not both");
	if (o->kind && strcmp(o->kind, "security") && strcmp(o->kind, "bugfix"))
		argp_error(state, "--kind is security or bugfix");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct patch_options *o = state->input;
	const struct care_build_text texts[] = {
		{ KEY_TARGET, &o->target },
		{ KEY_NAME, &o->name },
		{ KEY_OUT, &o->out },
		{ KEY_KIND, &o->kind },
		{ KEY_DESCRIPTION, &o->description },
		{ KEY_KEEP, &o->keep },
		{ KEY_IMAGE, &o->image },
		{ KEY_REPORT, &o->page },
		{ 0 },
	};

	if (key == KEY_IMAGE && o->image)
		argp_error(state, "one patch is for one image: a program and a library lie too far "
				  "apart for one piece of code to reach both; make a patch for "
				  "each --image");
	if (care_build_set_text(texts, key, arg))
		return 0;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &o->common;
		return 0;
	case KEY_DIFF:
		return pe_strv_add(&o->diffs, arg) ? 0 : ENOMEM;
	case KEY_CVE:
		check_cve(arg, state);
		return pe_strv_add(&o->cves, arg) ? 0 : ENOMEM;
	case KEY_CVSS:
		check_score(arg, state);
		return parse_cve_fact(o, &o->scores, arg, state);
	case KEY_URL:
		return parse_cve_fact(o, &o->urls, arg, state);
	case KEY_LEVEL:
		o->level = care_build_number(arg, 0, UINT32_MAX, state, "--level");
		return 0;
	case KEY_MAX_UNITS:
		o->max_units = care_build_number(arg, 0, 100000, state, "--max-units");
		return 0;
	case KEY_INDEPENDENT:
		o->independent = true;
		return 0;
	case KEY_DEPENDENT:
		o->dependent = true;
		return 0;
	case KEY_DRY_RUN:
		o->dry_run = true;
		return 0;
	case KEY_NO_CACHE:
		o->no_cache = true;
		return 0;
	case ARGP_KEY_ARG: /* "--diff a.diff b.diff" */
		return o->diffs.count && pe_strv_add(&o->diffs, arg) ? 0 : ARGP_ERR_UNKNOWN;
	case ARGP_KEY_END:
		parse_end(o, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const char doc[] =
	"Make a patch file from a diff.\v"
	"The source is compiled with and without the diff, the unpatched code is compared with\n"
	"the shipped program, and the functions that differ, with what they need, go into the\n"
	"patch. What cannot be patched safely is refused with the reason. Example:\n"
	"  care-build patch --target db --name fix-1 --diff fix.diff \\\n"
	"    --cve CVE-2026-1 --cvss 7.5 -o fix-1.cpatch";

/* ---- the manifest that its maker says ---- */

static struct pe_error *copy_text(const char *text, char **ret)
{
	*ret = text && *text ? strdup(text) : NULL;
	return *ret || !text || !*text ? NULL : pe_error_nomem();
}

static struct pe_error *manifest_fill(const struct patch_options *o, struct pe_patch *patch)
{
	const char *kind = o->kind ? o->kind : o->cves.count ? "security" : "bugfix";
	struct pe_error *err = copy_text(o->name, &patch->name);

	if (!err)
		err = copy_text(o->description, &patch->description);
	if (!err)
		err = copy_text(kind, &patch->kind);
	patch->level = (uint32_t)o->level;
	patch->cves = calloc(o->cves.count + 1, sizeof(*patch->cves));
	if (!err && !patch->cves)
		err = pe_error_nomem();
	for (size_t i = 0; !err && i < o->cves.count; i++) {
		struct pe_patch_cve *cve = &patch->cves[patch->cve_count++];

		err = copy_text(o->cves.items[i], &cve->id);
		if (!err && i < o->scores.count)
			err = copy_text(o->scores.items[i], &cve->cvss);
		if (!err && i < o->urls.count)
			err = copy_text(o->urls.items[i], &cve->url);
	}
	return err;
}

/* ---- the report ---- */

static const char *const kinds[] = {
	[PE_CHANGED_REPLACED] = "replaced",
	[PE_CHANGED_NEW] = "new",
	[PE_CHANGED_DATA_NEW] = "new data",
};

static uint64_t patch_size(const struct pe_patch *patch)
{
	uint64_t size = 0;

	for (size_t i = 0; i < patch->section_count; i++)
		size += patch->sections[i].size;
	return size;
}

static void report_json(const struct patch_options *o, const struct pe_patch *patch,
			const struct pe_make_result *result)
{
	json_t *items = json_array(), *notes = json_array(), *root;

	for (size_t i = 0; i < result->report.count; i++) {
		const struct pe_select_item *item = &result->report.items[i];

		json_array_append_new(items, json_pack("{s:s?, s:s?, s:s, s:s?, s:I, s:I}", "name",
						       item->name, "symbol", item->symbol, "kind",
						       kinds[item->kind], "reason", item->reason,
						       "old_size", (json_int_t)item->old_size,
						       "new_size", (json_int_t)item->new_size));
	}
	for (size_t i = 0; i < result->notes.count; i++)
		json_array_append_new(notes, json_string(result->notes.items[i]));
	root = json_pack("{s:s, s:s?, s:b, s:I, s:I, s:o, s:o}", "name", patch->name, "file",
			 o->dry_run ? NULL : o->out, "independent", patch->independent, "size",
			 (json_int_t)patch_size(patch), "outside_symbols",
			 (json_int_t)result->report.outside_symbols, "changes", items, "notes",
			 notes);
	pe_cli_json(root);
}

static void report_print(const struct patch_options *o, const struct pe_patch *patch,
			 const struct pe_make_result *result)
{
	static const char *const titles[] = { "NAME", "KIND", ">OLD", ">NEW", "REASON", NULL };
	struct pe_table *table = pe_table_new(titles);
	char bytes[32];

	for (size_t i = 0; i < result->report.count; i++) {
		const struct pe_select_item *item = &result->report.items[i];
		char old[32], new[32];

		snprintf(old, sizeof(old), "%" PRIu64, item->old_size);
		snprintf(new, sizeof(new), "%" PRIu64, item->new_size);
		pe_table_row(table,
			     (const char *const[]){ item->name, kinds[item->kind],
						    item->kind == PE_CHANGED_REPLACED ? old : NULL,
						    new, item->reason });
	}
	pe_table_print_and_free(table);
	for (size_t i = 0; i < result->notes.count; i++)
		printf("note: %s\n", result->notes.items[i]);
	printf("%s: %zu function%s replaced, %s, %zu outside symbol%s, %s\n",
	       o->dry_run ? "would be written" : o->out, patch->function_count,
	       patch->function_count == 1 ? "" : "s", pe_format_bytes(patch_size(patch), bytes),
	       result->report.outside_symbols, result->report.outside_symbols == 1 ? "" : "s",
	       patch->independent ? "independent" : "switched at one moment");
}

/* ---- the work ---- */

/* Where the patched tree goes: --keep DIR, or below the temporary directory. */
static struct pe_error *work_directory(const struct patch_options *o, const char *temp, char **ret)
{
	pe_auto_free char *path = o->keep ? strdup(o->keep) : pe_format("%s/tree", temp);
	pe_auto_strv struct pe_strv names = { 0 };
	struct pe_error *err = path ? pe_dir_make(path) : pe_error_nomem();

	if (!err)
		err = pe_dir_list(path, &names);
	if (!err && names.count)
		err = pe_error_new(PE_ERR_USAGE, "%s is not empty", path);
	if (err)
		return err;
	*ret = realpath(path, NULL);
	return *ret ? NULL : pe_error_errno(errno, "cannot resolve %s", path);
}

/* --report: of the patch, or of the refusal @refused. */
static struct pe_error *page_write(const struct patch_options *o, const struct pe_build *build,
				   const struct pe_patch *patch,
				   const struct pe_make_result *result,
				   const struct pe_error *refused)
{
	pe_auto_free char *html = NULL, *message = refused ? pe_error_text(refused) : NULL;
	size_t size = 0;
	struct pe_error *err;

	if (refused && !message)
		return pe_error_nomem();
	if (refused) {
		const struct pe_refusal refusal = { .message = message,
						    .code = pe_code_name(refused->code),
						    .advice = pe_code_advice(refused->code),
						    .target = build->target->name,
						    .report = &result->report };

		err = pe_report_refusal_html(patch, &refusal, &html, &size);
	} else {
		err = pe_report_html(patch, build->image, &html, &size);
	}
	return err ? err : pe_file_write(o->page, html, size);
}

static struct pe_error *patch_make(const struct patch_options *o, const struct pe_build *build,
				   const char *work)
{
	const struct pe_make_options options = {
		.diffs = &o->diffs,
		.max_units = o->max_units,
		.select = { .force_dependent = o->dependent, .force_independent = o->independent },
		.work = work,
	};
	struct pe_patch *patch = pe_patch_new();
	struct pe_make_result result = { 0 };
	struct pe_error *err = patch ? manifest_fill(o, patch) : pe_error_nomem();

	if (!err)
		err = pe_make_patch(build, &options, patch, &result);
	if (!err)
		err = o->dry_run ? pe_patch_check(patch) : pe_patch_write(patch, o->out);
	if (o->page && patch && patch->name && patch->kind) {
		struct pe_error *unwritten = page_write(o, build, patch, &result, err);

		/* The refusal is the news. */
		if (err)
			pe_error_free(unwritten);
		else
			err = unwritten;
	}
	if (build->progress_ctx)
		pe_progress_done(build->progress_ctx);
	if (!err && o->common.json)
		report_json(o, patch, &result);
	else if (!err)
		report_print(o, patch, &result);
	pe_make_result_deinit(&result);
	pe_patch_free(patch);
	return err;
}

static struct pe_error *patch_target(const struct patch_options *o,
				     const struct pe_build_target *target)
{
	pe_auto_temp_dir struct pe_temp_dir temp = { 0 };
	pe_auto_free char *work = NULL;
	struct pe_progress progress;
	struct pe_build build;
	struct pe_error *err = pe_temp_dir_init(&temp);

	if (!err)
		err = work_directory(o, temp.path, &work);
	if (!err)
		err = pe_build_open(target, temp.path, &build);
	if (err)
		return err;
	pe_progress_init(&progress, !o->common.json && !o->common.quiet);
	build.progress = care_build_progress;
	build.progress_ctx = &progress;
	err = pe_build_share(&build, work);
	if (!err && o->no_cache)
		err = pe_build_no_cache(&build);
	if (!err)
		err = patch_make(o, &build, work);
	pe_build_close(&build);
	return err;
}

static void options_deinit(struct patch_options *o)
{
	pe_strv_deinit(&o->diffs);
	pe_strv_deinit(&o->cves);
	pe_strv_deinit(&o->scores);
	pe_strv_deinit(&o->urls);
}

struct pe_error *care_build_patch(int argc, char **argv, bool *json)
{
	static const struct argp argp = { option_table, parse, NULL, doc, care_build_common };
	__attribute__((cleanup(options_deinit))) struct patch_options o = { .max_units = 32 };
	struct pe_build_target *target = NULL;

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	*json = o.common.json;
	if (!pe_name_valid(o.name))
		return pe_error_new(PE_ERR_USAGE,
				    "\"%s\" is not a valid patch name (letters, digits, . _ + -, "
				    "at most 64)",
				    o.name);

	struct pe_error *err = pe_store_load(o.target, &target);

	if (!err && o.image)
		err = pe_build_target_choose(target, o.image);
	if (!err)
		err = patch_target(&o, target);
	pe_build_target_free(target);
	return err;
}

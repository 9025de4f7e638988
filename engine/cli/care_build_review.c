/* SPDX-License-Identifier: GPL-2.0-or-later */
/* care-build verify and report: what a reviewer does with a patch file. */
#include "build/files.h"
#include "build/report.h"
#include "build/verify.h"
#include "cli/care_build.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <string.h>

enum { KEY_TARGET = 't', KEY_OUT = 'o', KEY_IMAGE = 256 };

struct review_options {
	struct care_build_common common;
	const char *target, *file, *out, *image;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct review_options *o = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &o->common;
		return 0;
	case KEY_TARGET:
		o->target = arg;
		return 0;
	case KEY_OUT:
		o->out = arg;
		return 0;
	case KEY_IMAGE:
		o->image = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (o->file)
			argp_error(state, "just one FILE");
		o->file = arg;
		return 0;
	case ARGP_KEY_END:
		if (!o->file)
			argp_error(state, "which FILE?");
		if (o->image && !o->target)
			argp_error(state, "--image is a file of a --target");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void cleanup_target(struct pe_build_target **target)
{
	pe_build_target_free(*target);
}

static void cleanup_patch(struct pe_patch **patch)
{
	pe_patch_free(*patch);
}

#define auto_target __attribute__((cleanup(cleanup_target)))
#define auto_patch __attribute__((cleanup(cleanup_patch)))

/* Makes the target one of the image that the patch is for, if one of its files is that. */
static struct pe_error *choose_image(const struct review_options *o, const char *build_id,
				     struct pe_build_target *target)
{
	return o->image ? pe_build_target_choose(target, o->image)
			: pe_build_target_choose_id(target, build_id);
}

/* The target by name; without a name, the one that has the image which the patch is for. */
static struct pe_error *find_target(const struct review_options *o, const struct pe_patch *patch,
				    struct pe_build_target **ret)
{
	char hex[2 * PE_BUILD_ID_MAX + 1];
	pe_auto_strv struct pe_strv names = { 0 };

	pe_build_id_hex(&patch->targets[0].build_id, hex);
	if (o->target) {
		struct pe_error *err = pe_store_load(o->target, ret);

		return err ? err : choose_image(o, hex, *ret);
	}

	struct pe_error *err = pe_store_list(&names);

	for (size_t i = 0; !err && i < names.count; i++) {
		auto_target struct pe_build_target *target = NULL;

		err = pe_store_load(names.items[i], &target);
		if (!err)
			err = choose_image(o, hex, target);
		if (err || strcmp(target->build_id, hex))
			continue;
		*ret = pe_steal(target);
		return NULL;
	}
	return err ? err
		   : pe_error_new(PE_ERR_NO_TARGET,
				  "there is no target with build-id %s (%s); `care-build target "
				  "add' makes one, --target NAME names one",
				  hex, patch->targets[0].name);
}

/* ---- verify ---- */

static const struct argp_option verify_option_table[] = {
	{ "target", KEY_TARGET, "NAME", 0,
	  "The target that the patch was made for (default: the one with its build-id)", 1 },
	{ "image", KEY_IMAGE, "FILE", 0,
	  "The plugin or library that it is for (default: the target's file with its build-id)",
	  1 },
	{ 0 },
};

static const char verify_doc[] =
	"Is a patch file what it says? Make it again and compare.\v"
	"The original bytes that it names are looked up in the shipped program; then the patch is\n"
	"made once more, from the target's source and the diff that it carries, all compiled "
	"anew,\n"
	"and must be the same byte by byte. Exit status 0: it is; 5: it is not, with what "
	"differs.\n"
	"  care-build verify fix-1.cpatch --target db";

static void verify_print(const struct review_options *o, const struct pe_verify_result *result)
{
	bool same = !result->differs.count;

	if (o->common.json) {
		json_t *differs = json_array();

		for (size_t i = 0; i < result->differs.count; i++)
			json_array_append_new(differs, json_string(result->differs.items[i]));
		pe_cli_json(json_pack("{s:s, s:b, s:I, s:I, s:I, s:o}", "file", o->file, "verified",
				      same, "ranges", (json_int_t)result->ranges, "original_bytes",
				      (json_int_t)result->original, "functions",
				      (json_int_t)result->functions, "differs", differs));
		return;
	}
	for (size_t i = 0; i < result->differs.count; i++)
		printf("differs: %s\n", result->differs.items[i]);
	if (same)
		printf("%s: verified: the source and its diff give the same bytes; %zu range%s of "
		       "original code (%lu bytes) are in the shipped program\n",
		       o->file, result->ranges, result->ranges == 1 ? "" : "s",
		       (unsigned long)result->original);
}

static struct pe_error *verify_with(const struct review_options *o, const struct pe_patch *patch,
				    const struct pe_build_target *target)
{
	pe_auto_temp_dir struct pe_temp_dir temp = { 0 };
	pe_auto_free char *bytes = NULL, *work = NULL;
	size_t size;
	struct pe_progress progress;
	struct pe_build build;
	struct pe_verify_result result = { 0 };
	struct pe_error *err = pe_file_read(o->file, &bytes, &size);

	if (!err)
		err = pe_temp_dir_init(&temp);
	if (err)
		return err;
	work = pe_format("%s/tree", temp.path);
	err = work ? pe_dir_make(work) : pe_error_nomem();
	if (!err)
		err = pe_build_open(target, temp.path, &build);
	if (err)
		return err;
	pe_progress_init(&progress, !o->common.json && !o->common.quiet);
	build.progress = care_build_progress;
	build.progress_ctx = &progress;
	err = pe_verify(&build, patch, bytes, size, work, &result);
	pe_progress_done(&progress);
	pe_build_close(&build);
	if (!err) {
		verify_print(o, &result);
		if (result.differs.count && !o->common.json)
			err = pe_error_new(PE_ERR_MISMATCH,
					   "%s is not what its source and diff give", o->file);
		else if (result.differs.count)
			exit(pe_code_exit_status(PE_ERR_MISMATCH));
	}
	pe_verify_result_deinit(&result);
	return err;
}

struct pe_error *care_build_verify(int argc, char **argv, bool *json)
{
	static const struct argp argp = { verify_option_table, parse, "FILE", verify_doc,
					  care_build_common };
	struct review_options o = { 0 };
	auto_target struct pe_build_target *target = NULL;
	auto_patch struct pe_patch *patch = NULL;

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	*json = o.common.json;

	struct pe_error *err = pe_patch_read(o.file, &patch);

	if (!err)
		err = find_target(&o, patch, &target);
	return err ? err : verify_with(&o, patch, target);
}

/* ---- report ---- */

static const struct argp_option report_option_table[] = {
	{ "output", KEY_OUT, "FILE", 0, "The page to write (needed)", 1 },
	{ "target", KEY_TARGET, "NAME", 0,
	  "The target that the patch was made for (default: the one with its build-id)", 1 },
	{ "image", KEY_IMAGE, "FILE", 0,
	  "The plugin or library that it is for (default: the target's file with its build-id)",
	  1 },
	{ 0 },
};

static const char report_doc[] =
	"Write a page for reviewers: source diff, old and new machine code side by side.\v"
	"One HTML file without scripts that any browser shows: why each function is in, what the\n"
	"diff says and the patch does not carry, every outside symbol that new code refers to.\n"
	"  care-build report fix-1.cpatch -o fix-1.html";

static struct pe_error *report_write(const struct review_options *o, const struct pe_patch *patch,
				     const struct pe_build_target *target)
{
	struct pe_image *image = NULL;
	pe_auto_free char *html = NULL;
	size_t size = 0;
	struct pe_error *err = pe_build_target_image(target, &image);

	if (!err)
		err = pe_report_html(patch, image, &html, &size);
	if (!err)
		err = pe_file_write(o->out, html, size);
	pe_image_close(image);
	if (err)
		return err;
	if (o->common.json)
		pe_cli_json(json_pack("{s:s, s:I}", "report", o->out, "size", (json_int_t)size));
	else
		printf("%s written\n", o->out);
	return NULL;
}

struct pe_error *care_build_report(int argc, char **argv, bool *json)
{
	static const struct argp argp = { report_option_table, parse, "FILE", report_doc,
					  care_build_common };
	struct review_options o = { 0 };
	auto_target struct pe_build_target *target = NULL;
	auto_patch struct pe_patch *patch = NULL;

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	*json = o.common.json;
	if (!o.out)
		return pe_error_new(PE_ERR_USAGE, "-o FILE is missing");

	struct pe_error *err = pe_patch_read(o.file, &patch);

	if (!err)
		err = find_target(&o, patch, &target);
	return err ? err : report_write(&o, patch, target);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* care-build: from a source, a diff and the shipped binary to a patch file. */
#include "cli/care_build.h"
#include "build/run.h"
#include "engine/cleanup.h"
#include "engine/patch.h"
#include "engine/show.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *argp_program_version = "care-build (DatabaseCare) " CARE_VERSION;

/* ---- what all levels share ---- */

enum { KEY_JSON = 'j', KEY_QUIET = 'q' };

static error_t common_parse(int key, char *arg, struct argp_state *state)
{
	struct care_build_common *common = state->input;

	switch (key) {
	case KEY_JSON:
		common->json = true;
		return 0;
	case KEY_QUIET:
		common->quiet = true;
		return 0;
	case ARGP_KEY_SUCCESS:
		if (common->quiet && !common->shows && !common->json)
			pe_cli_silence();
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option common_options[] = {
	{ "json", KEY_JSON, NULL, 0, "Print the result (errors too) as JSON", 90 },
	{ "quiet", KEY_QUIET, NULL, 0,
	  "Print errors only; what a command is there to show is shown", 90 },
	{ 0 },
};

static const struct argp common_argp = { common_options, common_parse };

const struct argp_child care_build_common[] = { { &common_argp }, { 0 } };

bool care_build_set_text(const struct care_build_text *texts, int key, const char *arg)
{
	for (; texts->key; texts++) {
		if (texts->key == key) {
			*texts->value = arg;
			return true;
		}
	}
	return false;
}

unsigned long care_build_number(const char *arg, unsigned long least, unsigned long most,
				const struct argp_state *state, const char *option)
{
	unsigned long number;
	char *end;

	errno = 0;
	number = strtoul(arg, &end, 10);
	if (errno || end == arg || *end || *arg == '-' || number < least || number > most)
		argp_error(state, "%s wants a number from %lu to %lu, not \"%s\"", option, least,
			   most, arg);
	return number;
}

void care_build_progress(void *ctx, const char *text)
{
	pe_progress_step(ctx, "%s", text);
}

struct level {
	const char *name;
	const struct care_build_verb *verbs;
	care_build_command *run;
	int argc;
	char **argv;
};

static error_t level_parse(int key, char *arg, struct argp_state *state)
{
	struct level *level = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		for (const struct care_build_verb *verb = level->verbs; verb->name; verb++) {
			if (!strcmp(verb->name, arg))
				level->run = verb->run;
		}
		if (!level->run)
			argp_error(state, "there is no command \"%s\"", arg);
		level->argc = state->argc - state->next + 1;
		level->argv = state->argv + state->next - 1;
		state->next = state->argc;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_usage(state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

struct pe_error *care_build_dispatch(int argc, char **argv, const struct care_build_verb *verbs,
				     const char *doc, bool *json)
{
	struct level level = { .name = argv[0], .verbs = verbs };
	const struct argp argp = { NULL, level_parse, "COMMAND [OPTION...]", doc };

	argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &level);

	pe_auto_free char *name = pe_format("%s %s", argv[0], level.argv[0]);

	if (!name)
		return pe_error_nomem();
	level.argv[0] = name;
	return level.run(level.argc, level.argv, json);
}

/* ---- show ---- */

struct show_options {
	struct care_build_common common;
	const char *file;
};

static error_t show_parse(int key, char *arg, struct argp_state *state)
{
	struct show_options *options = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &options->common;
		return 0;
	case ARGP_KEY_ARG:
		if (options->file)
			argp_error(state, "just one FILE");
		options->file = arg;
		return 0;
	case ARGP_KEY_END:
		if (!options->file)
			argp_error(state, "which FILE?");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

struct pe_error *care_build_show(int argc, char **argv, bool *json)
{
	static const struct argp argp = {
		NULL, show_parse, "FILE",
		"Print what is in a patch file: manifest, functions, symbols, sizes.",
		care_build_common
	};
	struct show_options options = { .common.shows = true };

	argp_parse(&argp, argc, argv, 0, NULL, &options);
	*json = options.common.json;

	struct pe_patch *patch = NULL;
	struct pe_error *err = pe_patch_read(options.file, &patch);

	if (err)
		return err;
	pe_cli_show(patch, *json);
	pe_patch_free(patch);
	return NULL;
}

/* ---- main ---- */

static const char doc[] =
	"Make patches for running programs.\v"
	"Commands:\n"
	"  target add|list|show|remove   programs that patches can be made for\n"
	"  match                         is the shipped code what this source gives?\n"
	"  patch                         make a patch file from a diff\n"
	"  show                          print what is in a patch file\n"
	"  verify                        make a patch file again and compare byte by byte\n"
	"  report                        a page for reviewers: source and machine code\n"
	"  survey                        try every change between two source trees\n"
	"\n"
	"`care-build COMMAND --help' tells more. Example, for Debian's MariaDB:\n"
	"  care-build target add mariadb --debian 1:10.11.18-0+deb12u1 --name db\n"
	"  care-build match --target db sql/item_func.cc\n"
	"  care-build patch --target db --name fix-1 --diff fix.diff -o fix-1.cpatch\n"
	"  care-build show fix-1.cpatch\n"
	"\n"
	"Exit status: 0 done, 1 error, 2 nothing to do (the diff changes no code), 3 no such\n"
	"target, 4 not now, 5 refused (the message says what, where and why).\n"
	"Environment: CARE_BUILD_CACHE, where targets are kept (/var/cache/dbcare/build).";

int main(int argc, char **argv)
{
	static const struct care_build_verb verbs[] = {
		{ "target", care_build_target }, { "match", care_build_match },
		{ "patch", care_build_patch },	 { "show", care_build_show },
		{ "verify", care_build_verify }, { "report", care_build_report },
		{ "survey", care_build_survey }, { 0 },
	};
	static char name[] = "care-build";
	bool json = false;

	pe_cli_init(name);
	argp_err_exit_status = 1;
	setenv("ARGP_HELP_FMT", "rmargin=99", 0);
	if (argc > 0)
		argv[0] = name;
	pe_run_guard_signals();

	struct pe_error *err = care_build_dispatch(argc, argv, verbs, doc, &json);

	return err ? pe_cli_fail(name, err, json) : 0;
}

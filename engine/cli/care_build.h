/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the sub-commands of care-build share. */
#ifndef CLI_CARE_BUILD_H
#define CLI_CARE_BUILD_H

#include <argp.h>
#include <stdbool.h>

#include "engine/cli.h"
#include "engine/error.h"

/* Options that every sub-command has. */
struct care_build_common {
	bool json;
	bool quiet;
	bool shows; /* the command is there to show something: --quiet does not silence that */
};

/* The child parser of --json and --quiet, as a list; its input is a struct care_build_common. */
extern const struct argp_child care_build_common[];

/* An option that has a text for its value. A table of them ends with key 0. */
struct care_build_text {
	int key;
	const char **value;
};

/* Sets the value of @key if @texts has it. */
bool care_build_set_text(const struct care_build_text *texts, int key, const char *arg);
/* The number from @least to @most that @arg is; ends the program with help on @option if it is
 * none. */
unsigned long care_build_number(const char *arg, unsigned long least, unsigned long most,
				const struct argp_state *state, const char *option);
/* A pe_build's progress, when its context is a struct pe_progress. */
void care_build_progress(void *ctx, const char *text);

/*
 * A sub-command; argv[0] is its full name for help texts. It returns its error, which main prints
 * once: as JSON when *@json says so.
 */
typedef struct pe_error *care_build_command(int argc, char **argv, bool *json);

care_build_command care_build_target;
care_build_command care_build_match;
care_build_command care_build_patch;
care_build_command care_build_show;
care_build_command care_build_verify;
care_build_command care_build_report;
care_build_command care_build_survey;

/* One row of a table of sub-commands; the last has no name. */
struct care_build_verb {
	const char *name;
	care_build_command *run;
};

/*
 * Parses options up to the first word, which names a verb of @verbs, and runs that with the rest.
 * @doc is argp's documentation of the level.
 */
struct pe_error *care_build_dispatch(int argc, char **argv, const struct care_build_verb *verbs,
				     const char *doc, bool *json) pe_must_check;

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the sub-commands of care-build share. */
#ifndef CLI_CARE_BUILD_H
#define CLI_CARE_BUILD_H

#include <argp.h>

#include "engine/cli.h"
#include "engine/error.h"

/* Options that every sub-command has. */
struct care_build_common {
	bool json;
	bool quiet;
};

/* The child parser of --json and --quiet; its input is a struct care_build_common. */
extern const struct argp care_build_common_argp;

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

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the sub-commands of dbcarectl share. */
#ifndef DBCARE_CLI_H
#define DBCARE_CLI_H

#include <argp.h>

#include "dbcare/operation.h"
#include "engine/cli.h"

#define DBC_PROGRAM "dbcarectl"

struct cli {
	bool json, quiet;
	struct dbc_login login;
	struct pe_progress progress;
	const char *words[2]; /* positional arguments */
	size_t word_count;
};

/* Options of every command, and those of the ones that log in; input is a struct cli. */
extern const struct argp cli_common_argp;
extern const struct argp cli_login_argp;

/* Takes positional arguments up to the number of words; wrong counts end the program. */
error_t cli_word(struct cli *cli, const char *word, size_t most, struct argp_state *state);

/* Prints and frees @err; the exit status. */
int cli_fail(const struct cli *cli, struct pe_error *err);
/* The same with @more (an object, taken over) beside the error in JSON. */
int cli_fail_with(const struct cli *cli, struct pe_error *err, json_t *more);
/* Notes and warnings, one line each, to stderr. */
void cli_notes(const char *notes);

/* Fills the progress callback of @options; signals cancel. */
void cli_progress(struct cli *cli, struct dbc_options *options);
struct pe_error *cli_session_open(struct cli *cli, const char *target,
				  struct dbc_session *ret) pe_must_check;

json_t *cli_json_build_id(const struct pe_build_id *id);
json_t *cli_json_applied(const struct pe_applied *applied);
json_t *cli_json_blockers(const struct dbc_blockers *blockers);
void cli_print_blockers(const struct dbc_blockers *blockers);
const char *cli_exe_state_name(enum dbc_exe_state state);

int cmd_list(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_show(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_apply(int argc, char **argv);
int cmd_revert(int argc, char **argv);
int cmd_recover(int argc, char **argv);
int cmd_history(int argc, char **argv);

#endif

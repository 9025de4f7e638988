/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the sub-commands of dbcarectl share. */
#ifndef DBCARE_CLI_H
#define DBCARE_CLI_H

#include <argp.h>

#include "dbcare/operation.h"
#include "engine/cli.h"

#define DBC_PROGRAM "dbcarectl"

enum {
	CLI_WORDS_MAX = 65, /* a file and its targets */
	CLI_REPLACE_MAX = 32
};

struct cli {
	bool json, quiet;
	bool shows; /* the command is there to show something: --quiet does not silence that */
	struct dbc_login login;
	struct pe_progress progress;
	const char *words[CLI_WORDS_MAX]; /* positional arguments */
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
/* Notes, one line each, to stderr; none with --quiet. */
void cli_notes(const char *notes);
/* The same for what must not go unheard. */
void cli_warnings(const char *warnings);

/* A note on what a dead patcher left in this server, when it did, and what to do about it. */
void cli_note_leftovers(const struct dbc_server *server);

/* Fills the progress callback of @options; from now on signals cancel, see dbc_cancelled. */
void cli_progress(struct cli *cli, struct dbc_options *options);
/* With the note on what was left. */
struct pe_error *cli_session_open(struct cli *cli, const char *target,
				  struct dbc_session *ret) pe_must_check;

json_t *cli_json_blockers(const struct dbc_blockers *blockers);
void cli_print_blockers(const struct dbc_blockers *blockers);

/* What the command line of check and apply asks for. */
struct cli_change {
	struct cli cli;
	struct dbc_options options;
	const char *replace[CLI_REPLACE_MAX];
	bool dry_run;
	bool check;		   /* check, not apply */
	bool all;		   /* every server that the patch is for */
	unsigned int cluster_size; /* of a whole cluster; 0: as it is at the beginning */
	char *blocked;		   /* what its publisher says who took the patch back; or NULL */
};

/* Sets it, and says so on stderr, when an agent runs that knows of it. */
void cli_warn_if_blocked(struct cli_change *change, const struct pe_patch *patch);
/* Adds it to a result. */
void cli_put_blocked(const struct cli_change *change, json_t *result);

json_t *cli_json_gates(const struct dbc_gate_report *report);
json_t *cli_apply_json(const struct dbc_session *session, const struct pe_patch *patch,
		       const struct dbc_outcome *outcome);
void cli_apply_print(const struct dbc_session *session, const struct pe_patch *patch,
		     const struct dbc_outcome *outcome);
/* apply --all, or to several targets; the exit status. */
int cli_apply_all(struct cli_change *change, const struct pe_patch *patch);

int cmd_list(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_show(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_apply(int argc, char **argv);
int cmd_revert(int argc, char **argv);
int cmd_recover(int argc, char **argv);
int cmd_history(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_update(int argc, char **argv);
int cmd_hold(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_events(int argc, char **argv);
int cmd_account(int argc, char **argv);
int cmd_doctor(int argc, char **argv);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Options, errors and printing that all sub-commands share. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>

#include "dbcare/abandoned.h"
#include "dbcare/cli/cli.h"
#include "engine/cleanup.h"
#include "engine/demangle.h"

enum { KEY_DEFAULTS_FILE = 0x100, KEY_NO_DEFAULTS };

static bool no_notes; /* --quiet */

static error_t common_parse(int key, char *arg, struct argp_state *state)
{
	struct cli *cli = state->input;

	if (key == 'j')
		cli->json = true;
	else if (key == 'q')
		cli->quiet = no_notes = true;
	else if (key == ARGP_KEY_SUCCESS && cli->quiet && !cli->shows && !cli->json)
		pe_cli_silence();
	else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

const struct argp cli_common_argp = {
	.options =
		(const struct argp_option[]){
			{ "json", 'j', NULL, 0, "Print JSON, one object", 90 },
			{ "quiet", 'q', NULL, 0,
			  "Print errors only; what a command is there to show is shown", 90 },
			{ 0 } },
	.parser = common_parse,
};

/* Reads a password from the terminal without showing it; NULL without a terminal. */
static char *ask_password(void)
{
	pe_auto_file FILE *terminal = fopen("/dev/tty", "r+e");
	struct termios before, silent;
	char *line = NULL;
	size_t room = 0;

	if (!terminal || tcgetattr(fileno(terminal), &before) != 0)
		return NULL;
	silent = before;
	silent.c_lflag &= ~(tcflag_t)ECHO;
	tcsetattr(fileno(terminal), TCSAFLUSH, &silent);
	fputs("Enter password: ", terminal);
	fflush(terminal);
	if (getline(&line, &room, terminal) > 0)
		line[strcspn(line, "\n")] = '\0';
	tcsetattr(fileno(terminal), TCSAFLUSH, &before);
	fputc('\n', terminal);
	return line;
}

static error_t login_parse(int key, char *arg, struct argp_state *state)
{
	struct cli *cli = state->input;
	static char *password; /* kept as long as the program runs */

	switch (key) {
	case 'u':
		cli->login.user = arg;
		return 0;
	case 'p':
		free(password);
		password = arg ? strdup(arg) : ask_password();
		cli->login.password = password;
		if (!password)
			argp_error(state, "no terminal to ask for the password on");
		/* As MariaDB's own clients do: not for everybody in the process list. */
		if (arg)
			memset(arg, 'x', strlen(arg));
		return 0;
	case KEY_DEFAULTS_FILE:
		cli->login.defaults_file = arg;
		return 0;
	case KEY_NO_DEFAULTS:
		cli->login.no_defaults = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp cli_login_argp = {
	.options =
		(const struct argp_option[]){
			{ NULL, 0, NULL, 0, "Logging in to the server:", 50 },
			{ "user", 'u', "NAME", 0,
			  "Account (default: as the option files say, else the user that runs "
			  "this)" },
			{ "password", 'p', "PASSWORD", OPTION_ARG_OPTIONAL,
			  "Its password; asked for when left out" },
			{ "defaults-file", KEY_DEFAULTS_FILE, "FILE", 0,
			  "Read only this option file: its groups [client], [client-server], "
			  "[client-mariadb] and [dbcarectl]" },
			{ "no-defaults", KEY_NO_DEFAULTS, NULL, 0, "Read no option file" },
			{ 0 } },
	.parser = login_parse,
};

error_t cli_word(struct cli *cli, const char *word, size_t most, struct argp_state *state)
{
	if (cli->word_count == most)
		argp_error(state, "'%s' is one argument too many", word);
	cli->words[cli->word_count++] = word;
	return 0;
}

int cli_fail(const struct cli *cli, struct pe_error *err)
{
	return pe_cli_fail(DBC_PROGRAM, err, cli->json);
}

int cli_fail_with(const struct cli *cli, struct pe_error *err, json_t *more)
{
	if (!cli->json) {
		json_decref(more);
		return cli_fail(cli, err);
	}

	pe_auto_free char *text = pe_error_text(err);
	int status = pe_code_exit_status(err->code);
	json_t *root = json_pack("{s:{s:s, s:s, s:s, s:i}}", "error", "code",
				 pe_code_name(err->code), "message", text ? text : "", "advice",
				 pe_code_advice(err->code), "exit", status);

	json_object_update(root, more);
	json_decref(more);
	pe_cli_json(root);
	pe_error_free(err);
	return status;
}

void cli_warnings(const char *warnings)
{
	while (warnings && *warnings) {
		int size = (int)strcspn(warnings, "\n");

		fprintf(stderr, "%s: note: %.*s\n", DBC_PROGRAM, size, warnings);
		warnings += size;
		warnings += *warnings == '\n';
	}
}

void cli_notes(const char *notes)
{
	if (!no_notes)
		cli_warnings(notes);
}

/* A history that cannot be read is told by `history', and by whatever writes to it. */
static void note_unverified(const struct dbc_server *server)
{
	json_t *abandoned, *record;
	size_t i;

	pe_error_free(dbc_abandoned(server, &abandoned));
	json_array_foreach(abandoned, i, record)
	{
		pe_auto_free char *text = NULL;

		if (dbc_unverified(server, record) &&
		    asprintf(&text,
			     "in server %d %s is applied, and whoever did that died before it was "
			     "verified; `dbcarectl recover %d` verifies it",
			     (int)server->pid, json_string_value(json_object_get(record, "patch")),
			     (int)server->pid) >= 0)
			cli_notes(text);
	}
	json_decref(abandoned);
}

void cli_note_leftovers(const struct dbc_server *server)
{
	const struct pe_leftovers *left = &server->leftovers;
	pe_auto_free char *text = NULL;
	int size;

	if (!left->count) {
		note_unverified(server);
		return;
	}
	if (left->patcher)
		size = asprintf(&text, "process %d is at work on server %d now", (int)left->patcher,
				(int)server->pid);
	else
		size = asprintf(&text,
				"in server %d a run was interrupted:\n%s\n`dbcarectl recover %d` "
				"finishes or undoes it, and so does the next apply or revert",
				(int)server->pid, left->text, (int)server->pid);
	if (size >= 0)
		cli_notes(text);
}

static void show_progress(void *ctx, const char *text)
{
	pe_progress_step(ctx, "%s", text);
}

void cli_progress(struct cli *cli, struct dbc_options *options)
{
	pe_progress_init(&cli->progress, !cli->json && !cli->quiet);
	options->progress = show_progress;
	options->progress_ctx = &cli->progress;
	/* Not ended at any moment, but where nothing is half done: dbc_cancelled. */
	sigset_t cancelling;

	sigemptyset(&cancelling);
	sigaddset(&cancelling, SIGINT);
	sigaddset(&cancelling, SIGTERM);
	sigaddset(&cancelling, SIGHUP);
	sigprocmask(SIG_BLOCK, &cancelling, NULL);
	options->cancellable = true;
}

struct pe_error *cli_session_open(struct cli *cli, const char *target, struct dbc_session *ret)
{
	struct pe_error *err = dbc_session_open(target, &cli->login, ret);

	if (!err)
		cli_note_leftovers(&ret->server);
	return err;
}

json_t *cli_json_blockers(const struct dbc_blockers *blockers)
{
	json_t *list = json_array();

	for (size_t i = 0; i < blockers->count; i++) {
		const struct dbc_blocker *blocker = &blockers->items[i];

		json_array_append_new(
			list, json_pack("{s:i, s:s, s:I, s:s*, s:s*, s:s*, s:s*, s:b}", "tid",
					(int)blocker->tid, "thread", blocker->comm, "connection",
					(json_int_t)blocker->connection, "user", blocker->user,
					"state", blocker->state, "query", blocker->query,
					"function", blocker->function, "idle", blocker->idle));
	}
	return list;
}

/* The first line of a query, cut to a width that leaves room for the rest of the table. */
static char *query_line(const char *query)
{
	enum { WIDTH = 60 };
	size_t size = strcspn(query, "\r\n");

	if (size <= WIDTH)
		return strndup(query, size);
	size = WIDTH - 1;
	while (size && ((unsigned char)query[size] & 0xc0) == 0x80)
		size--; /* not in the middle of a UTF-8 character */

	char *line = NULL;

	return asprintf(&line, "%.*s…", (int)size, query) < 0 ? NULL : line;
}

void cli_print_blockers(const struct dbc_blockers *blockers)
{
	static const char *const titles[] = { ">THREAD", ">CONNECTION", "USER", "STATE",
					      "QUERY",	 "FUNCTION",	NULL };

	if (!blockers->count)
		return;

	struct pe_table *table = pe_table_new(titles);

	for (size_t i = 0; i < blockers->count; i++) {
		const struct dbc_blocker *blocker = &blockers->items[i];
		pe_auto_free char *query = blocker->query ? query_line(blocker->query) : NULL;
		pe_auto_free char *function =
			blocker->function ? pe_demangle(blocker->function) : NULL;
		char tid[16], connection[24];

		snprintf(tid, sizeof(tid), "%d", (int)blocker->tid);
		snprintf(connection, sizeof(connection), "%lu", blocker->connection);
		pe_table_row(table,
			     (const char *const[]){ tid, blocker->connection ? connection : NULL,
						    blocker->user ? blocker->user : blocker->comm,
						    blocker->state, query, function });
	}
	pe_table_print_and_free(table);
}

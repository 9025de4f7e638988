/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dbcarectl: finds the sub-command and hands over. */
#include <stdio.h>
#include <string.h>

#include "dbcare/cli/cli.h"

const char *argp_program_version = "dbcarectl (DatabaseCare) " CARE_VERSION;

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
} commands[] = {
	{ "list", cmd_list },	    { "info", cmd_info },	{ "show", cmd_show },
	{ "check", cmd_check },	    { "apply", cmd_apply },	{ "revert", cmd_revert },
	{ "recover", cmd_recover }, { "history", cmd_history },
};

static const char doc[] =
	"Patches a running MariaDB server in its memory: no restart, no lost connection.\v"
	"Commands:\n"
	"  list                      the servers on this host, containers included\n"
	"  info [TARGET]             what a server is, and which patches are in it\n"
	"  show FILE                 what is in a patch file\n"
	"  check FILE [TARGET]       would it apply now? changes nothing\n"
	"  apply FILE [TARGET...]    apply a patch\n"
	"  revert NAME|--all [TARGET]  take patches back\n"
	"  recover [TARGET]          finish or undo what an interrupted run left\n"
	"  history                   what was done on this host\n"
	"\n"
	"TARGET is a pid, the path of a socket or the id of a container; it can be left out when\n"
	"one server runs.\n"
	"`dbcarectl COMMAND --help` explains a command. All have --json.\n"
	"\n"
	"Examples:\n"
	"  dbcarectl list\n"
	"  dbcarectl check fix.cpatch\n"
	"  dbcarectl apply fix.cpatch /run/mysqld/mysqld.sock\n"
	"  dbcarectl revert fix\n"
	"\n"
	"Exit status: 0 done, 1 error, 2 nothing to do, 3 no such target, 4 not now (a gate or a "
	"busy function: try again), 5 refused, 6 partly applied.\n";

struct top {
	const struct command *command;
	int index; /* of the command in argv */
};

static error_t top_parse(int key, char *arg, struct argp_state *state)
{
	struct top *top = state->input;

	if (key == ARGP_KEY_NO_ARGS) {
		argp_state_help(state, stderr,
				ARGP_HELP_USAGE | ARGP_HELP_LONG | ARGP_HELP_DOC |
					ARGP_HELP_EXIT_ERR);
		return 0;
	}
	if (key != ARGP_KEY_ARG)
		return ARGP_ERR_UNKNOWN;
	if (strcmp(arg, "help") == 0 && !top->command) {
		if (state->next >= state->argc)
			argp_state_help(state, stdout, ARGP_HELP_STD_HELP);
		/* "help X" is "X --help". */
		state->argv[state->next - 1] = state->argv[state->next];
		state->argv[state->next] = (char *)"--help";
		arg = state->argv[state->next - 1];
	}
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		if (strcmp(commands[i].name, arg) == 0)
			top->command = &commands[i];
	}
	if (!top->command)
		argp_error(state, "there is no command '%s'", arg);
	top->index = state->next - 1;
	state->next = state->argc;
	return 0;
}

int main(int argc, char **argv)
{
	static const struct argp argp = { NULL, top_parse, "COMMAND [ARGUMENT...]", doc };
	struct top top = { 0 };
	char name[64];

	pe_cli_init(DBC_PROGRAM);
	argp_err_exit_status = 1;
	argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &top);
	if (!top.command)
		return 1;
	snprintf(name, sizeof(name), "%s %s", DBC_PROGRAM, top.command->name);
	argv[top.index] = name;
	return top.command->run(argc - top.index, argv + top.index);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dbcarectl account create: the SQL account that the agent asks with, and no more than it needs. */
#include <mysqld_error.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dbcare/cli/cli.h"
#include "engine/cleanup.h"

struct account {
	struct cli cli;
	const char *name;
	bool dry_run;
};

enum { KEY_NAME = 0x400, KEY_DRY_RUN };

static error_t account_parse(int key, char *arg, struct argp_state *state)
{
	struct account *account = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = state->child_inputs[1] = &account->cli;
		return 0;
	case ARGP_KEY_ARG:
		return cli_word(&account->cli, arg, 2, state);
	case ARGP_KEY_END:
		if (!account->cli.word_count || strcmp(account->cli.words[0], "create") != 0)
			argp_error(state, "what is to be done with the account? (create)");
		return 0;
	case KEY_NAME:
		account->name = arg;
		return 0;
	case KEY_DRY_RUN:
		account->dry_run = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* It stands in SQL between quotes, and is a user of the system. */
static bool name_is_plain(const char *name)
{
	size_t size = strlen(name);

	return size && size <= 32 &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") ==
		       size;
}

enum { STATEMENTS = 2 };

/* The agent keeps one connection and opens another to see that new ones are let in. */
static bool make_statements(const char *name, char *out[STATEMENTS])
{
	return asprintf(&out[0],
			"CREATE USER IF NOT EXISTS '%s'@'localhost' IDENTIFIED VIA unix_socket "
			"WITH MAX_USER_CONNECTIONS 3",
			name) >= 0 &&
	       asprintf(&out[1],
			"GRANT PROCESS, REPLICA MONITOR, BINLOG MONITOR ON *.* TO '%s'@'localhost'",
			name) >= 0;
}

/* Whether the first statement found that account; POLICY: one that the agent could not be. */
static struct pe_error *look_at_existing(const struct account *account, struct dbc_sql *sql,
					 bool *exists)
{
	char query[96];
	struct dbc_rows rows;
	pe_auto_free char *made = NULL;
	struct pe_error *err = dbc_sql_query(sql, "SHOW WARNINGS", &rows, NULL);

	for (size_t i = 0; !err && i < rows.count; i++)
		*exists |= rows.columns > 1 && rows.items[i][1] &&
			   atoi(rows.items[i][1]) == ER_USER_CREATE_EXISTS;
	dbc_rows_deinit(&rows);
	if (err || !*exists)
		return err;
	snprintf(query, sizeof(query), "SHOW CREATE USER '%s'@'localhost'", account->name);
	err = dbc_sql_value(sql, query, &made);
	if (err || (made && strstr(made, "unix_socket")))
		return err;
	return pe_error_new(PE_ERR_POLICY,
			    "there is an account %s@localhost that is not IDENTIFIED VIA "
			    "unix_socket: the agent, which has no password, could not log in; "
			    "nothing was changed. DROP or ALTER it, or give another --name",
			    account->name);
}

static struct pe_error *execute(struct account *account, char *const statements[STATEMENTS],
				char **user, bool *exists)
{
	struct dbc_session session;
	struct pe_error *err = cli_session_open(&account->cli, account->cli.words[1], &session);

	if (err)
		return err;
	dbc_session_connect(&session);
	cli_notes(session.notes);
	if (session.sql_error) {
		err = session.sql_error;
		session.sql_error = NULL;
		err->code = PE_ERR_HELD;
	}
	for (int i = 0; !err && i < STATEMENTS; i++) {
		struct dbc_rows rows;

		err = dbc_sql_query(session.sql, statements[i], &rows, NULL);
		dbc_rows_deinit(&rows);
		if (!err && i == 0)
			err = look_at_existing(account, session.sql, exists);
	}
	if (!err)
		*user = strdup(dbc_sql_user(session.sql));
	dbc_session_close(&session);
	return err;
}

int cmd_account(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "name", KEY_NAME, "USER", 0,
		  "User of the system that the agent runs as (default dbcare)" },
		{ "dry-run", KEY_DRY_RUN, NULL, 0, "Print the statements; change nothing" },
		{ 0 }
	};
	static const struct argp_child children[] = { { &cli_login_argp },
						      { &cli_common_argp },
						      { 0 } };
	static const struct argp argp = {
		options, account_parse, "create [TARGET]",
		"Makes the SQL account with which the agent asks a server whether now is a good "
		"time. It sees what sessions do and can change nothing; it needs no password, "
		"since the server knows its user by the socket (unix_socket).\v"
		"TARGET is a pid or the path of a socket. You log in as somebody who may create "
		"accounts, usually root.\n"
		"\n"
		"Examples:\n"
		"  dbcarectl account create\n"
		"  dbcarectl account create --dry-run\n",
		children
	};
	struct account account = { .name = "dbcare" };
	char *statements[STATEMENTS] = { 0 };
	pe_auto_free char *user = NULL;
	struct pe_error *err = NULL;
	bool exists = false;

	argp_parse(&argp, argc, argv, 0, NULL, &account);
	if (!name_is_plain(account.name))
		err = pe_error_new(PE_ERR_USAGE, "'%s' is no name of a user", account.name);
	else if (!make_statements(account.name, statements))
		err = pe_error_nomem();
	else if (!account.dry_run)
		err = execute(&account, statements, &user, &exists);
	if (err)
		return cli_fail(&account.cli, err);
	if (account.cli.json)
		pe_cli_json(json_pack("{s:s, s:s, s:[s,s]}", "result",
				      account.dry_run ? "would create"
				      : exists	      ? "exists"
						      : "created",
				      "account", account.name, "statements", statements[0],
				      statements[1]));
	else if (account.dry_run)
		printf("%s;\n%s;\n", statements[0], statements[1]);
	else if (exists)
		printf("%s@localhost exists already, and has the rights that the agent needs "
		       "(granted as %s)\n",
		       account.name, user);
	else
		printf("created %s@localhost (as %s)\n", account.name, user);
	for (int i = 0; i < STATEMENTS; i++)
		free(statements[i]);
	return 0;
}

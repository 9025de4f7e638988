/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dbcarectl revert, recover: the way back. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dbcare/cli/cli.h"
#include "dbcare/recover.h"
#include "engine/cleanup.h"

/* ---- revert ---- */

struct revert {
	struct cli cli;
	struct dbc_options options;
	bool all;
};

enum { KEY_ALL = 0x300, KEY_TIMEOUT };

static error_t revert_parse(int key, char *arg, struct argp_state *state)
{
	struct revert *revert = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = state->child_inputs[1] = &revert->cli;
		return 0;
	case ARGP_KEY_ARG:
		return cli_word(&revert->cli, arg, 2, state);
	case KEY_ALL:
		revert->all = true;
		return 0;
	case KEY_TIMEOUT: {
		char *end;
		double seconds = strtod(arg, &end);

		if (end == arg || *end || !(seconds > 0) || seconds > 1e6)
			argp_error(state, "'%s' is no number above zero", arg);
		revert->options.timeout_us = (uint64_t)(seconds * 1e6);
		return 0;
	}
	case ARGP_KEY_END:
		if (revert->all && revert->cli.word_count > 1)
			argp_error(state, "with --all, only TARGET can be given");
		if (!revert->all && !revert->cli.word_count)
			argp_error(state, "which patch? (or --all)");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static json_t *revert_json(const char *name, const struct dbc_outcome *outcome)
{
	const struct pe_switch_result *change = &outcome->change;

	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:i, s:b, s:s*, s:s*}", "name", name,
			 "pause_us", (json_int_t)change->pause_us, "predicted_us",
			 (json_int_t)change->predicted_us, "operation_us",
			 (json_int_t)change->operation_us, "threads", (json_int_t)change->threads,
			 "attempts", (int)change->attempts, "memory_kept", change->memory_kept,
			 "note", change->note, "warning", outcome->warning);
}

static void print_revert(const struct dbc_session *session, const char *name,
			 const struct dbc_outcome *outcome)
{
	const struct pe_switch_result *change = &outcome->change;
	char pause[32], whole[32];

	printf("reverted: %s in server %d: pause %s, %zu threads, %u attempt%s, %s in all%s\n",
	       name, (int)session->server.pid, pe_format_us(change->pause_us, pause),
	       change->threads, change->attempts, change->attempts == 1 ? "" : "s",
	       pe_format_us(change->operation_us, whole),
	       outcome->verification.asked ? ", verified" : "");
	if (change->note)
		printf("note: %s\n", change->note);
}

/* Reverts one; what it was like is added to @done. */
static struct pe_error *revert_one(struct revert *revert, struct dbc_session *session,
				   const char *name, json_t *done, json_t **blockers)
{
	struct dbc_outcome outcome;
	struct pe_error *err = dbc_revert(session, name, &revert->options, &outcome);

	pe_progress_done(&revert->cli.progress);
	cli_warnings(outcome.warning);
	if (err) {
		if (!revert->cli.json)
			cli_print_blockers(&outcome.blockers);
		*blockers = cli_json_blockers(&outcome.blockers);
	} else {
		json_array_append_new(done, revert_json(name, &outcome));
		if (!revert->cli.json)
			print_revert(session, name, &outcome);
	}
	dbc_outcome_deinit(&outcome);
	return err;
}

/* Names of what is applied, the latest first; freed as one block with its strings. */
static char **names_latest_first(const struct dbc_server *server)
{
	const struct pe_applied_list *applied = &server->applied;
	char **names = calloc(applied->count + 1, sizeof(*names));
	size_t count = 0;

	for (size_t i = applied->count; names && i-- > 0;) {
		if (applied->items[i].state != PE_STATE_REVERTED)
			names[count++] = strdup(applied->items[i].name);
	}
	return names;
}

static struct pe_error *revert_all(struct revert *revert, struct dbc_session *session, json_t *done,
				   json_t **blockers)
{
	struct pe_error *err = dbc_server_refresh(&session->server, session->target);

	if (err)
		return err;

	char **names = names_latest_first(&session->server);

	if (!names)
		return pe_error_nomem();
	if (!names[0])
		err = pe_error_new(PE_ERR_NOTHING, "no patch is applied to server %d",
				   (int)session->server.pid);
	for (size_t i = 0; names[i]; i++) {
		if (!err)
			err = revert_one(revert, session, names[i], done, blockers);
		free(names[i]);
	}
	free(names);
	/* Some are gone and others are not. */
	if (err && json_array_size(done)) {
		struct pe_error *partial = pe_error_new(
			PE_ERR_PARTIAL, "%zu patches were reverted, then", json_array_size(done));
		partial->cause = err;
		err = partial;
	}
	return err;
}

int cmd_revert(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "all", KEY_ALL, NULL, 0, "All patches, the latest first" },
		{ "timeout", KEY_TIMEOUT, "SECONDS", 0,
		  "How long to wait for a moment when no thread is in the way (default 30)" },
		{ 0 }
	};
	static const struct argp_child children[] = { { &cli_login_argp },
						      { &cli_common_argp },
						      { 0 } };
	static const struct argp argp = {
		options, revert_parse, "NAME [TARGET]\n--all [TARGET]",
		"Takes a patch back: the server runs its shipped code again. Not held by gates; "
		"verified as apply is.\v"
		"Examples:\n"
		"  dbcarectl revert fix\n"
		"  dbcarectl revert --all /run/mysqld/mysqld.sock\n"
		"\n"
		"Exit status: 0 reverted, 2 it is not applied, 3 no such server, 4 not now, 6 "
		"some of --all were reverted.\n",
		children
	};
	struct revert revert = { 0 };
	struct cli *cli = &revert.cli;
	struct dbc_session session;
	json_t *done = json_array(), *blockers = NULL;

	argp_parse(&argp, argc, argv, 0, NULL, &revert);
	cli_progress(cli, &revert.options);

	const char *name = revert.all ? NULL : cli->words[0];
	struct pe_error *err =
		cli_session_open(cli, revert.all ? cli->words[0] : cli->words[1], &session);

	if (err) {
		json_decref(done);
		return cli_fail(cli, err);
	}
	err = name ? revert_one(&revert, &session, name, done, &blockers)
		   : revert_all(&revert, &session, done, &blockers);
	cli_notes(session.notes);

	int status = 0;

	if (err)
		status = cli_fail_with(cli, err,
				       json_pack("{s:i, s:O, s:o*}", "pid", (int)session.server.pid,
						 "reverted", done, "blockers", blockers));
	else if (cli->json && name) {
		json_t *root = json_pack("{s:s, s:i}", "result", "reverted", "pid",
					 (int)session.server.pid);

		json_object_update(root, json_array_get(done, 0));
		pe_cli_json(root);
	} else if (cli->json) {
		pe_cli_json(json_pack("{s:s, s:i, s:O}", "result", "reverted", "pid",
				      (int)session.server.pid, "reverted", done));
	}
	json_decref(done);
	dbc_session_close(&session);
	return status;
}

/* ---- recover ---- */

static error_t recover_parse(int key, char *arg, struct argp_state *state)
{
	struct cli *cli = state->input;

	if (key == ARGP_KEY_INIT)
		state->child_inputs[0] = state->child_inputs[1] = cli;
	else if (key == ARGP_KEY_ARG)
		return cli_word(cli, arg, 1, state);
	else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

static void print_names(const char *title, const json_t *names)
{
	json_t *name;
	size_t i;

	json_array_foreach(names, i, name) printf("  %s: %s\n", title, json_string_value(name));
}

static void print_recovery(const struct cli *cli, pid_t pid, const struct dbc_recovery *recovery)
{
	const struct pe_recovery *engine = &recovery->engine;

	if (cli->json) {
		pe_cli_json(json_pack("{s:s, s:i, s:I, s:I, s:I, s:O, s:s*}", "result",
				      recovery->nothing ? "nothing to do" : "recovered", "pid",
				      (int)pid, "finished", (json_int_t)engine->finished, "undone",
				      (json_int_t)engine->undone, "released",
				      (json_int_t)engine->released, "verified", recovery->verified,
				      "text", engine->text));
	} else if (recovery->nothing) {
		printf("nothing to recover in server %d\n", (int)pid);
	} else {
		printf("recovered server %d: %zu finished, %zu undone, %zu released, %zu "
		       "verified\n%s%s",
		       (int)pid, engine->finished, engine->undone, engine->released,
		       json_array_size(recovery->verified), engine->text ? engine->text : "",
		       engine->text ? "\n" : "");
		print_names("applied before and verified now", recovery->verified);
	}
}

int cmd_recover(int argc, char **argv)
{
	static const struct argp_child children[] = { { &cli_login_argp },
						      { &cli_common_argp },
						      { 0 } };
	static const struct argp argp = {
		NULL, recover_parse, "[TARGET]",
		"Finishes or undoes what an interrupted run left in a server, as its ledger "
		"tells; apply and revert do this first by themselves. A patch that such a run "
		"applied and did not verify is verified, and reverted if that fails.\v"
		"Exit status: 0 recovered, 1 a patch failed its verification and was reverted, 2 "
		"there was nothing to do, 4 a patch cannot be verified now (without SQL).\n",
		children
	};
	struct cli cli = { 0 };
	struct dbc_options options = { 0 };
	struct dbc_session session;
	struct dbc_recovery recovery;

	argp_parse(&argp, argc, argv, 0, NULL, &cli);
	cli_progress(&cli, &options);

	/* What is left it tells itself. */
	struct pe_error *err = dbc_session_open(cli.words[0], &cli.login, &session);

	if (err)
		return cli_fail(&cli, err);
	err = dbc_recover(&session, &options, &recovery);
	cli_notes(session.notes);
	cli_warnings(recovery.warning);

	int status = recovery.nothing ? pe_code_exit_status(PE_ERR_NOTHING) : 0;

	if (err)
		status = cli_fail_with(&cli, err,
				       json_pack("{s:i, s:O}", "pid", (int)session.server.pid,
						 "reverted", recovery.reverted));
	else
		print_recovery(&cli, session.server.pid, &recovery);
	dbc_recovery_deinit(&recovery);
	dbc_session_close(&session);
	return status;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dbcarectl show, check, apply: from a patch file to a patched server. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dbcare/cli/cli.h"
#include "engine/cleanup.h"
#include "engine/demangle.h"
#include "engine/show.h"

/* ---- show ---- */

static error_t show_parse(int key, char *arg, struct argp_state *state)
{
	struct cli *cli = state->input;

	if (key == ARGP_KEY_INIT)
		state->child_inputs[0] = cli;
	else if (key == ARGP_KEY_ARG)
		return cli_word(cli, arg, 1, state);
	else if (key == ARGP_KEY_NO_ARGS)
		argp_error(state, "which FILE?");
	else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

int cmd_show(int argc, char **argv)
{
	static const struct argp_child children[] = { { &cli_common_argp }, { 0 } };
	static const struct argp argp = {
		NULL, show_parse, "FILE",
		"Shows what is in a patch file: manifest, functions, symbols, sizes. Needs no "
		"rights and no server.\v"
		"Example:\n"
		"  dbcarectl show fix.cpatch\n",
		children
	};
	struct cli cli = { .shows = true };
	struct pe_patch *patch;

	argp_parse(&argp, argc, argv, 0, NULL, &cli);

	struct pe_error *err = pe_patch_read(cli.words[0], &patch);

	if (err)
		return cli_fail(&cli, err);
	pe_cli_show(patch, cli.json);
	pe_patch_free(patch);
	return 0;
}

/* ---- options of check and apply ---- */

enum {
	KEY_TIMEOUT = 0x200,
	KEY_NO_GATES,
	KEY_MAX_PAUSE,
	KEY_DRY_RUN,
	KEY_REPLACE,
	KEY_ALL,
	KEY_CLUSTER_SIZE,
	KEY_MAX_LAG,
	KEY_MAX_LOAD
};

static uint64_t parse_number(const char *text, double scale, struct argp_state *state)
{
	char *end;

	errno = 0;
	double value = strtod(text, &end);

	if (errno || end == text || *end || !(value > 0) || value * scale > 1e15)
		argp_error(state, "'%s' is no number above zero", text);
	return (uint64_t)(value * scale);
}

static unsigned int parse_limit(const char *text, struct argp_state *state)
{
	char *end;

	if (strcmp(text, "none") == 0)
		return DBC_NO_LIMIT;
	errno = 0;
	unsigned long value = strtoul(text, &end, 10);

	if (errno || end == text || *end || *text == '-' || value >= DBC_NO_LIMIT)
		argp_error(state, "'%s' is no number, nor none", text);
	return (unsigned int)value;
}

static error_t change_parse(int key, char *arg, struct argp_state *state)
{
	struct cli_change *change = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = state->child_inputs[1] = &change->cli;
		return 0;
	case ARGP_KEY_ARG:
		return cli_word(&change->cli, arg, change->check ? 2 : CLI_WORDS_MAX, state);
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "which FILE?");
		return 0;
	case ARGP_KEY_END:
		if (change->all && change->cli.word_count > 1)
			argp_error(state, "--all goes with no TARGET");
		if (change->dry_run && (change->all || change->cli.word_count > 2))
			argp_error(state, "--dry-run goes with one TARGET");
		return 0;
	case KEY_TIMEOUT:
		change->options.timeout_us = parse_number(arg, 1e6, state);
		return 0;
	case KEY_MAX_PAUSE:
		change->options.max_pause_us = parse_number(arg, 1e3, state);
		return 0;
	case KEY_MAX_LAG:
		change->options.limits.max_lag_s = parse_limit(arg, state);
		return 0;
	case KEY_MAX_LOAD:
		change->options.limits.max_load = parse_limit(arg, state);
		return 0;
	case KEY_NO_GATES:
		change->options.no_gates = true;
		return 0;
	case KEY_DRY_RUN:
		change->dry_run = true;
		return 0;
	case KEY_REPLACE:
		if (change->options.replace_count == CLI_REPLACE_MAX)
			argp_error(state, "--replace at most %d times", CLI_REPLACE_MAX);
		change->replace[change->options.replace_count++] = arg;
		change->options.replace = change->replace;
		return 0;
	case KEY_ALL:
		change->all = true;
		return 0;
	case KEY_CLUSTER_SIZE:
		change->cluster_size = (unsigned int)parse_number(arg, 1, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- printing ---- */

static json_t *functions_json(const struct pe_plan *plan)
{
	size_t count = 0;
	const struct pe_plan_function *functions = pe_plan_functions(plan, &count);
	json_t *list = json_array();

	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, json_string(functions[i].name));
	return list;
}

static json_t *plan_json(const struct pe_plan *plan)
{
	size_t count = 0;
	const struct pe_plan_function *functions = pe_plan_functions(plan, &count);
	json_t *list = json_array();

	for (size_t i = 0; i < count; i++)
		json_array_append_new(
			list,
			json_pack("{s:s, s:I, s:I, s:I, s:b, s:b}", "name", functions[i].name,
				  "entry", (json_int_t)functions[i].entry, "size",
				  (json_int_t)functions[i].size, "new_size",
				  (json_int_t)functions[i].new_size, "patched_already",
				  functions[i].patched_already, "replaced", functions[i].replaced));
	return json_pack("{s:o, s:I, s:b, s:o}", "functions", list, "memory_bytes",
			 (json_int_t)pe_plan_memory(plan), "needs_stacks",
			 pe_plan_needs_stacks(plan), "replaces", pe_cli_json_replaced(plan));
}

json_t *cli_json_gates(const struct dbc_gate_report *report)
{
	json_t *list = json_array();

	for (size_t i = 0; i < report->count; i++)
		json_array_append_new(list, json_pack("{s:s, s:s, s:s*}", "name",
						      report->items[i].name, "verdict",
						      dbc_verdict_name(report->items[i].verdict),
						      "reason", report->items[i].reason));
	return list;
}

static void print_plan(const struct dbc_session *session, const struct pe_patch *patch,
		       const struct pe_plan *plan)
{
	static const char *const titles[] = { "FUNCTION",   ">ENTRY",	 ">OLD BYTES",
					      ">NEW BYTES", "STANDS ON", NULL };
	size_t count = 0;
	const struct pe_plan_function *functions = pe_plan_functions(plan, &count);
	char memory[32];

	printf("%s: %zu function%s of server %d (%s), %s of memory, %s\n", patch->name, count,
	       count == 1 ? "" : "s", (int)session->server.pid, session->server.version,
	       pe_format_bytes(pe_plan_memory(plan), memory),
	       pe_plan_needs_stacks(plan) ? "no thread may be inside the old code"
					  : "calls under way may end in the old code");

	struct pe_table *table = pe_table_new(titles);

	for (size_t i = 0; i < count; i++) {
		pe_auto_free char *name = pe_demangle(functions[i].name);
		char entry[32], old[24], new[24];

		snprintf(entry, sizeof(entry), "0x%llx", (unsigned long long)functions[i].entry);
		snprintf(old, sizeof(old), "%llu", (unsigned long long)functions[i].size);
		snprintf(new, sizeof(new), "%llu", (unsigned long long)functions[i].new_size);
		pe_table_row(table, (const char *const[]){ name, entry, old, new,
							   pe_cli_entry_now(&functions[i]) });
	}
	pe_table_print_and_free(table);
	pe_cli_print_replaced(plan);
}

static void print_gates(const struct dbc_gate_report *report)
{
	static const char *const titles[] = { "GATE", "VERDICT", "ABOUT", NULL };
	struct pe_table *table = pe_table_new(titles);

	for (size_t i = 0; i < report->count; i++)
		pe_table_row(table, (const char *const[]){
					    report->items[i].name,
					    dbc_verdict_name(report->items[i].verdict),
					    report->items[i].reason ? report->items[i].reason
								    : report->items[i].about });
	pe_table_print_and_free(table);
}

/* ---- check ---- */

static json_t *check_json(const struct dbc_session *session, const struct pe_patch *patch,
			  const struct dbc_outcome *outcome, const char *result)
{
	json_t *root = json_pack("{s:s, s:s, s:i}", "result", result, "name", patch->name, "pid",
				 (int)session->server.pid);

	if (!outcome->plan)
		return root;
	json_object_set_new(root, "plan", plan_json(outcome->plan));
	json_object_set_new(root, "gates",
			    outcome->gates_skipped ? json_string("skipped")
						   : cli_json_gates(&outcome->gates));
	json_object_set_new(root, "blockers", cli_json_blockers(&outcome->blockers));
	json_object_set_new(root, "predicted_us", json_integer((json_int_t)outcome->predicted_us));
	return root;
}

static void print_check(const struct dbc_session *session, const struct pe_patch *patch,
			const struct dbc_outcome *outcome)
{
	char pause[32];

	if (!outcome->plan)
		return;
	print_plan(session, patch, outcome->plan);
	putchar('\n');
	if (outcome->gates_skipped)
		puts("Gates: not asked (--no-gates)");
	else
		print_gates(&outcome->gates);
	putchar('\n');
	if (outcome->blockers.count) {
		puts("In the way now:");
		cli_print_blockers(&outcome->blockers);
	}
	printf("predicted pause %s (%s), %zu threads\n", pe_format_us(outcome->predicted_us, pause),
	       outcome->predicted_from, session->server.threads);
}

static int run_check(struct cli_change *change, struct dbc_session *session,
		     const struct pe_patch *patch)
{
	struct cli *cli = &change->cli;
	struct dbc_outcome outcome;
	struct pe_error *err = dbc_check(session, patch, &change->options, &outcome);
	int status = 0;

	pe_progress_done(&cli->progress);
	cli_notes(session->notes);
	if (!cli->json)
		print_check(session, patch, &outcome);
	if (outcome.already && !cli->json) {
		pe_error_free(err);
		printf("already applied: %s in server %d\n", patch->name, (int)session->server.pid);
		status = pe_code_exit_status(PE_ERR_NOTHING);
	} else if (err) {
		json_t *more = cli->json ? check_json(session, patch, &outcome,
						      outcome.already ? "already applied"
								      : pe_code_name(err->code))
					 : NULL;

		status = cli_fail_with(cli, err, more);
	} else if (cli->json) {
		json_t *root = check_json(session, patch, &outcome, "would apply");

		cli_put_blocked(change, root);
		pe_cli_json(root);
	} else {
		printf("would apply: %s to server %d\n", patch->name, (int)session->server.pid);
	}
	dbc_outcome_deinit(&outcome);
	return status;
}

/* ---- apply ---- */

json_t *cli_apply_json(const struct dbc_session *session, const struct pe_patch *patch,
		       const struct dbc_outcome *outcome)
{
	const struct pe_switch_result *change = &outcome->change;
	const struct dbc_verification *check = &outcome->verification;

	if (outcome->already)
		return json_pack("{s:s, s:s, s:i}", "result", "already applied", "name",
				 patch->name, "pid", (int)session->server.pid);
	return json_pack(
		"{s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:i, s:o, s:o, s:o, s:{s:b, s:I, s:I}, s:s*, "
		"s:s*}",
		"result", "applied", "name", patch->name, "pid", (int)session->server.pid,
		"pause_us", (json_int_t)change->pause_us, "predicted_us",
		(json_int_t)change->predicted_us, "operation_us", (json_int_t)change->operation_us,
		"threads", (json_int_t)change->threads, "attempts", (int)change->attempts,
		"functions", functions_json(outcome->plan), "replaced",
		pe_cli_json_strings((const char *const *)change->replaced, change->replaced_count),
		"gates",
		outcome->gates_skipped ? json_string("skipped") : cli_json_gates(&outcome->gates),
		"verification", "sql", check->asked, "select_us", (json_int_t)check->select_us,
		"fresh_us", (json_int_t)check->fresh_us, "note", change->note, "warning",
		outcome->warning);
}

static void print_verification(const struct dbc_session *session,
			       const struct dbc_verification *check)
{
	char kept[32], fresh[32];

	if (check->asked) {
		printf("verified: kept connection answers in %s, a new one in %s, no thread "
		       "stands\n",
		       pe_format_us(check->select_us, kept), pe_format_us(check->fresh_us, fresh));
		return;
	}

	pe_auto_free char *why = session->sql_error ? pe_error_text(session->sql_error) : NULL;

	printf("verified: no thread stands; not asked by SQL%s%s\n", why ? ": " : "",
	       why ? why : "");
}

void cli_apply_print(const struct dbc_session *session, const struct pe_patch *patch,
		     const struct dbc_outcome *outcome)
{
	const struct pe_switch_result *change = &outcome->change;
	char pause[32], predicted[32], whole[32];

	if (outcome->already) {
		printf("already applied: %s in server %d\n", patch->name, (int)session->server.pid);
		return;
	}
	print_plan(session, patch, outcome->plan);
	if (outcome->gates_skipped)
		puts("gates: skipped (--no-gates)");
	else
		printf("gates: all %zu open\n", outcome->gates.count);
	printf("applied: %s to server %d: pause %s (predicted %s), %zu threads, %u attempt%s, %s "
	       "in all\n",
	       patch->name, (int)session->server.pid, pe_format_us(change->pause_us, pause),
	       pe_format_us(change->predicted_us, predicted), change->threads, change->attempts,
	       change->attempts == 1 ? "" : "s", pe_format_us(change->operation_us, whole));
	for (size_t i = 0; i < change->replaced_count; i++)
		printf("replaced in the same switch: %s\n", change->replaced[i]);
	print_verification(session, &outcome->verification);
	if (change->note)
		printf("note: %s\n", change->note);
}

static int run_apply(struct cli_change *change, struct dbc_session *session,
		     const struct pe_patch *patch)
{
	struct cli *cli = &change->cli;
	struct dbc_outcome outcome;
	struct pe_error *err = dbc_apply(session, patch, &change->options, &outcome);
	int status = 0;

	pe_progress_done(&cli->progress);
	cli_notes(session->notes);
	cli_warnings(outcome.warning);
	if (err) {
		json_t *more = NULL;

		if (cli->json)
			more = json_pack("{s:s, s:i, s:b, s:O*, s:o, s:o}", "name", patch->name,
					 "pid", (int)session->server.pid, "reverted",
					 outcome.reverted, "restored", outcome.undone.restored,
					 "blockers", cli_json_blockers(&outcome.blockers), "gates",
					 cli_json_gates(&outcome.gates));
		else
			cli_print_blockers(&outcome.blockers);
		status = cli_fail_with(cli, err, more);
	} else if (cli->json) {
		json_t *root = cli_apply_json(session, patch, &outcome);

		cli_put_blocked(change, root);
		pe_cli_json(root);
	} else {
		cli_apply_print(session, patch, &outcome);
	}
	dbc_outcome_deinit(&outcome);
	return status;
}

/* ---- both ---- */

static int run_one(struct cli_change *change, const struct pe_patch *patch)
{
	struct cli *cli = &change->cli;
	struct dbc_session session;
	struct pe_error *err = cli_session_open(cli, cli->words[1], &session);

	if (err)
		return cli_fail(cli, err);

	int status = change->check || change->dry_run ? run_check(change, &session, patch)
						      : run_apply(change, &session, patch);

	dbc_session_close(&session);
	return status;
}

static int run_change(struct cli_change *change)
{
	struct cli *cli = &change->cli;
	struct pe_patch *patch;
	struct pe_error *err = pe_patch_read(cli->words[0], &patch);

	if (err)
		return cli_fail(cli, err);
	cli_warn_if_blocked(change, patch);
	cli_progress(cli, &change->options);

	int status = change->all || cli->word_count > 2 ? cli_apply_all(change, patch)
							: run_one(change, patch);

	pe_patch_free(patch);
	free(change->blocked);
	return status;
}

#define OPTION_NO_GATES                                                                    \
	{                                                                                  \
		"no-gates", KEY_NO_GATES, NULL, 0,                                         \
			"Do not ask the server whether now is a good time (backup, DDL, "  \
			"recovery, ...); "                                                 \
			"recorded in the history. What the engine checks for safety stays" \
	}
#define OPTION_REPLACE                                                                      \
	{                                                                                   \
		"replace", KEY_REPLACE, "NAME", 0,                                          \
			"Revert the applied patch NAME in the same switch (can be "         \
			"repeated). A lower level of the same patch is replaced without it" \
	}
#define OPTION_MAX_PAUSE                                            \
	{                                                           \
		"max-pause", KEY_MAX_PAUSE, "MILLISECONDS", 0,      \
			"Refuse when the predicted pause is longer" \
	}

#define OPTION_LIMITS                                                                          \
	{ "max-lag", KEY_MAX_LAG, "SECONDS", 0,                                                \
	  "Hold when a replica is further behind its primary (default 60; none: no matter)" }, \
	{                                                                                      \
		"max-load", KEY_MAX_LOAD, "N", 0,                                              \
			"Hold while more than N statements run (default none)"                 \
	}

static const struct argp_child change_children[] = { { &cli_login_argp },
						     { &cli_common_argp },
						     { 0 } };

int cmd_check(int argc, char **argv)
{
	static const struct argp_option options[] = {
		OPTION_NO_GATES, OPTION_LIMITS, OPTION_MAX_PAUSE, OPTION_REPLACE, { 0 }
	};
	static const struct argp argp = {
		options, change_parse, "FILE [TARGET]",
		"Tells whether a patch would apply now: the plan, the gates, the threads in the "
		"way and the predicted pause. Changes nothing; when stacks count, threads that are "
		"running are looked at in one stop like that of an apply.\v"
		"TARGET is a pid, the path of a socket or the id of a container; it can be left "
		"out when one server runs.\n"
		"\n"
		"Examples:\n"
		"  dbcarectl check fix.cpatch\n"
		"  dbcarectl check fix.cpatch 4711 --json\n"
		"\n"
		"Exit status: 0 it would apply, 2 it is applied already, 3 no such server, 4 not "
		"now, 5 the patch is not for this server.\n",
		change_children
	};
	struct cli_change change = { .check = true, .options.limits = DBC_LIMITS_USUAL };

	argp_parse(&argp, argc, argv, 0, NULL, &change);
	return run_change(&change);
}

int cmd_apply(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "dry-run", KEY_DRY_RUN, NULL, 0, "Like check: change nothing" },
		{ "timeout", KEY_TIMEOUT, "SECONDS", 0,
		  "How long to wait for a moment when no thread is in the way (default 30), and "
		  "for a cluster to be whole (default 60)" },
		OPTION_NO_GATES,
		OPTION_LIMITS,
		OPTION_MAX_PAUSE,
		OPTION_REPLACE,
		{ "all", KEY_ALL, NULL, 0,
		  "Every server of this host that the patch is for, those in containers included" },
		{ "cluster-size", KEY_CLUSTER_SIZE, "N", 0,
		  "A Galera cluster is whole with N nodes (default: as many as it has at the "
		  "beginning)" },
		{ 0 }
	};
	static const struct argp argp = {
		options, change_parse, "FILE [TARGET...]",
		"Applies a patch to a running server: checks that it fits, asks the gates, "
		"switches all functions at one moment, and verifies through the connection that "
		"was open before and a new one; when that fails, it takes the patch back by "
		"itself.\v"
		"TARGET is a pid, the path of a socket or the id of a container; it can be left "
		"out when one server runs.\n"
		"Several are patched one "
		"after the other, up to the first that fails; of a Galera cluster the next node "
		"only when the cluster is whole again.\n"
		"\n"
		"Examples:\n"
		"  dbcarectl apply fix.cpatch\n"
		"  dbcarectl apply fix.cpatch /run/mysqld/mysqld.sock --timeout=5\n"
		"  dbcarectl apply fix.cpatch 4711 --max-pause=20 --json\n"
		"  dbcarectl apply all-fixes.cpatch --replace=fix --replace=other-fix\n"
		"  dbcarectl apply fix.cpatch db1 db2\n"
		"  dbcarectl apply fix.cpatch --all\n"
		"\n"
		"Exit status: 0 applied (or applied before), 1 error, 3 no such server, 4 not "
		"now (a gate holds or a function is busy; both are named), 5 the patch is not for "
		"this server, 6 applied, but not verified and not taken back.\n",
		change_children
	};
	struct cli_change change = { .options.limits = DBC_LIMITS_USUAL };

	argp_parse(&argp, argc, argv, 0, NULL, &change);
	return run_change(&change);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* care-patch: the engine alone, for any process. */
#include "cli/care_patch.h"
#include "engine/cleanup.h"
#include "engine/cli.h"
#include "engine/show.h"

#include <argp.h>
#include <errno.h>
#include <math.h>
#include <string.h>

const char *argp_program_version = "care-patch (DatabaseCare) " CARE_VERSION;

enum {
	KEY_DRY_RUN = 'n',
	KEY_MAX_PAUSE = 256,
	KEY_ALL,
	KEY_REPLACE,
	KEY_PERF_MAP,
	KEY_GDB,
	KEY_PERF
};

struct session {
	struct care_patch_options options;
	const struct command *command;
	struct pe_progress progress;
	struct pe_switch_result result; /* for the report of a failure */
};

struct command {
	const char *name;
	enum { ARG_NONE, ARG_FILE, ARG_NAME, ARG_OPTIONAL, ARG_ADDRESS } arg;
	bool needs_pid;
	struct pe_error *(*run)(struct session *session);
};

static void cleanup_patch(struct pe_patch **patch)
{
	pe_patch_free(*patch);
}

static void cleanup_target(struct pe_target **target)
{
	if (*target)
		pe_target_close(*target);
}

static void cleanup_plan(struct pe_plan **plan)
{
	pe_plan_free(*plan);
}

#define auto_patch __attribute__((cleanup(cleanup_patch))) struct pe_patch
#define auto_target __attribute__((cleanup(cleanup_target))) struct pe_target
#define auto_plan __attribute__((cleanup(cleanup_plan))) struct pe_plan

/* ---- commands ---- */

static void progress(void *ctx, const char *text)
{
	struct session *session = ctx;

	pe_progress_step(&session->progress, "%s", text);
}

static struct pe_apply_options apply_options(struct session *session)
{
	return (struct pe_apply_options){ .timeout_us = session->options.timeout_us,
					  .max_pause_us = session->options.max_pause_us,
					  .cancellable = true,
					  .progress = progress,
					  .progress_ctx = session };
}

static struct pe_error *run_show(struct session *session)
{
	auto_patch *patch = NULL;
	struct pe_error *err = pe_patch_read(session->options.what, &patch);

	if (!err)
		pe_cli_show(patch, session->options.json);
	return err;
}

static struct pe_error *print_prediction(struct session *session, struct pe_target *target,
					 const struct pe_plan *plan)
{
	struct pe_stack_hits blockers = { 0 };
	struct pe_pause_guess guess;
	struct pe_error *err = pe_plan_predict(target, plan, &blockers, &guess);

	if (!err) {
		pe_progress_done(&session->progress);
		care_patch_print_plan(&session->options, plan, &blockers, &guess);
	}
	pe_stack_hits_deinit(&blockers);
	return err;
}

static struct pe_error *plan_file(struct session *session, struct pe_patch **patch,
				  struct pe_target **target, struct pe_plan **plan)
{
	struct pe_error *err = pe_patch_read(session->options.what, patch);

	if (!err)
		err = pe_target_open(session->options.pid, target);
	if (!err)
		err = pe_plan_create_replacing(*target, *patch, session->options.replace,
					       session->options.replace_count, plan);
	if (err && *patch && err->code != PE_ERR_NOTHING)
		return pe_error_wrap(err, "patch %s", (*patch)->name);
	return err;
}

/* On stderr, so that what is printed as JSON stays one object. */
static void note_leftovers(const struct session *session, const struct pe_target *target)
{
	struct pe_leftovers left = { 0 };
	pe_auto_error struct pe_error *err =
		session->options.quiet ? NULL : pe_leftovers_read(target, &left);

	if (!err && left.count && left.patcher)
		fprintf(stderr, "care-patch: note: process %d is at work on process %d now\n",
			(int)left.patcher, (int)session->options.pid);
	else if (!err && left.count)
		fprintf(stderr,
			"care-patch: note: a run was interrupted (`care-patch recover --pid %d` "
			"finishes or undoes it):\n%s\n",
			(int)session->options.pid, left.text);
	pe_leftovers_deinit(&left);
}

static struct pe_error *run_check(struct session *session)
{
	auto_patch *patch = NULL;
	auto_target *target = NULL;
	auto_plan *plan = NULL;
	struct pe_error *err = plan_file(session, &patch, &target, &plan);

	if (target)
		note_leftovers(session, target);
	return err ? err : print_prediction(session, target, plan);
}

static struct pe_error *run_apply(struct session *session)
{
	auto_patch *patch = NULL;
	auto_target *target = NULL;
	auto_plan *plan = NULL;
	struct pe_apply_options options = apply_options(session);
	struct pe_error *err = plan_file(session, &patch, &target, &plan);

	if (err && err->code == PE_ERR_NOTHING && !session->options.dry_run) {
		pe_error_free(err);
		pe_progress_done(&session->progress);
		care_patch_print_already(&session->options, patch->name);
		return NULL;
	}
	if (err)
		return err;
	if (session->options.dry_run)
		return print_prediction(session, target, plan);
	err = pe_apply(target, plan, &options, &session->result);
	/* Somebody who died had begun it, and it was finished first. */
	if (err && err->code == PE_ERR_NOTHING) {
		pe_error_free(err);
		pe_progress_done(&session->progress);
		if (session->result.note && !session->options.quiet)
			fprintf(stderr, "care-patch: note: %s\n", session->result.note);
		care_patch_print_already(&session->options, patch->name);
		return NULL;
	}
	if (err)
		return pe_error_wrap(err, "patch %s is not applied", patch->name);
	pe_progress_done(&session->progress);
	care_patch_print_result(&session->options, "applied", patch->name, &session->result);
	return NULL;
}

/* A name, or a file that has one. */
static struct pe_error *name_of(const char *what, char **ret)
{
	auto_patch *patch = NULL;

	if (access(what, F_OK)) {
		*ret = strdup(what);
	} else {
		struct pe_error *err = pe_patch_read(what, &patch);

		if (err)
			return err;
		*ret = strdup(patch->name);
	}
	return *ret ? NULL : pe_error_nomem();
}

static struct pe_error *revert_one(struct session *session, struct pe_target *target,
				   const char *name)
{
	struct pe_apply_options options = apply_options(session);
	struct pe_error *err;

	pe_switch_result_deinit(&session->result);
	err = pe_revert(target, name, &options, &session->result);
	if (err)
		return err->code == PE_ERR_NOTHING
			       ? err
			       : pe_error_wrap(err, "patch %s is not reverted", name);
	pe_progress_done(&session->progress);
	care_patch_print_result(&session->options, "reverted", name, &session->result);
	return NULL;
}

static struct pe_error *revert_all(struct session *session, struct pe_target *target)
{
	struct pe_applied_list list;
	struct pe_error *err = pe_applied_read(target, &list);
	size_t reverted = 0;

	if (err)
		return err;
	for (size_t i = list.count; !err && i-- > 0;) {
		if (list.items[i].state == PE_STATE_REVERTED ||
		    list.items[i].state == PE_STATE_STAGED)
			continue;
		err = revert_one(session, target, list.items[i].name);
		reverted++;
	}
	pe_applied_list_deinit(&list);
	if (!err && !reverted)
		err = pe_error_new(PE_ERR_NOTHING, "no patch is applied to process %d",
				   session->options.pid);
	return err;
}

static struct pe_error *run_revert(struct session *session)
{
	auto_target *target = NULL;
	pe_auto_free char *name = NULL;
	struct pe_error *err = NULL;

	if (!session->options.all)
		err = name_of(session->options.what, &name);
	if (!err)
		err = pe_target_open(session->options.pid, &target);
	if (err)
		return err;
	return session->options.all ? revert_all(session, target)
				    : revert_one(session, target, name);
}

static struct pe_error *run_info(struct session *session)
{
	auto_target *target = NULL;
	struct pe_applied_list list;
	struct pe_error *err = pe_target_open(session->options.pid, &target);

	if (!err)
		err = pe_applied_read(target, &list);
	if (err)
		return err;
	care_patch_print_applied(&session->options, &list);
	pe_applied_list_deinit(&list);
	note_leftovers(session, target);
	return NULL;
}

static struct pe_error *run_recover(struct session *session)
{
	auto_target *target = NULL;
	struct pe_recovery recovery = { 0 };
	struct pe_error *err = pe_target_open(session->options.pid, &target);

	if (!err)
		err = pe_recover(target, &recovery);
	if (!err && !recovery.text)
		err = pe_error_new(PE_ERR_NOTHING, "nothing to recover in process %d",
				   session->options.pid);
	if (!err)
		care_patch_print_recovery(&session->options, &recovery);
	pe_recovery_deinit(&recovery);
	return err;
}

static struct pe_error *run_symbols(struct session *session)
{
	const struct care_patch_options *options = &session->options;
	auto_target *target = NULL;
	struct pe_applied_list list;
	struct pe_error *err = pe_target_open(options->pid, &target);

	if (!err)
		err = pe_applied_read(target, &list);
	if (err)
		return err;
	if (options->want_perf_map)
		err = care_patch_write_perf_map(options, &list);
	if (!err && options->gdb)
		err = care_patch_write_gdb(options, target, &list);
	if (!err && options->perf)
		err = care_patch_write_perf(options, target, &list);
	if (!err && (options->json || options->what ||
		     (!options->want_perf_map && !options->gdb && !options->perf)))
		err = care_patch_print_symbols(options, &list);
	pe_applied_list_deinit(&list);
	return err;
}

static const struct command commands[] = {
	{ "show", ARG_FILE, false, run_show },	       { "check", ARG_FILE, true, run_check },
	{ "apply", ARG_FILE, true, run_apply },	       { "revert", ARG_NAME, true, run_revert },
	{ "info", ARG_OPTIONAL, true, run_info },      { "recover", ARG_NONE, true, run_recover },
	{ "symbols", ARG_ADDRESS, true, run_symbols }, { 0 },
};

/* ---- command line ---- */

static const struct argp_option argp_options[] = {
	{ "pid", 'p', "N", 0, "The process", 0 },
	{ "timeout", 't', "S", 0, "Wait at most S seconds for a free moment (30)", 0 },
	{ "max-pause", KEY_MAX_PAUSE, "MS", 0,
	  "Do not begin when the process is likely to stand still longer than MS milliseconds", 0 },
	{ "dry-run", KEY_DRY_RUN, NULL, 0, "apply: print the plan, change nothing", 0 },
	{ "replace", KEY_REPLACE, "NAME", 0,
	  "check, apply: revert the applied patch NAME in the same switch (can be repeated). A "
	  "lower "
	  "level of the same patch is replaced without it",
	  0 },
	{ "all", KEY_ALL, NULL, 0, "revert: everything, the latest first", 0 },
	{ "perf-map", KEY_PERF_MAP, "FILE", OPTION_ARG_OPTIONAL,
	  "symbols: write the map for profilers (/tmp/perf-N.map)", 0 },
	{ "gdb", KEY_GDB, "DIR", 0, "symbols: write files for gdb to this folder", 0 },
	{ "perf", KEY_PERF, "DIR", 0, "symbols: write files for perf to this folder", 0 },
	{ "json", 'j', NULL, 0, "Print the result (errors too) as JSON", 0 },
	{ "verbose", 'v', NULL, 0, "Show each step", 0 },
	{ "quiet", 'q', NULL, 0, "Print errors only; what a command is there to show is shown", 0 },
	{ 0 },
};

static const char doc[] =
	"Patch a running process.\v"
	"Commands:\n"
	"  show FILE               print what is in a patch file\n"
	"  check FILE --pid N      would it apply now? changes nothing\n"
	"  apply FILE --pid N      apply it\n"
	"  revert NAME --pid N     take it back (a FILE stands for the name in it)\n"
	"  info [NAME] --pid N     what is applied\n"
	"  recover --pid N         finish or undo what a killed patcher left\n"
	"  symbols [0xADDRESS] --pid N\n"
	"                          names of patched code; for perf and gdb with the options\n"
	"\n"
	"Exit status: 0 done, 1 error, 2 nothing to do, 3 no such process, 4 not now (a thread is "
	"in\n"
	"the function, a debugger is attached, or a signal cancelled it), 5 refused (the message "
	"says why).";

static const struct command *find_command(const char *name)
{
	for (const struct command *command = commands; command->name; command++)
		if (!strcmp(command->name, name))
			return command;
	return NULL;
}

/* A number of @unit microseconds; fractions are fine. */
static uint64_t parse_time(struct argp_state *state, const char *arg, double unit, const char *what)
{
	char *end;
	double value = strtod(arg, &end);

	if (*end || end == arg || !isfinite(value) || value < 0 || value * unit > 1e15)
		argp_error(state, "%s must be a number, not \"%s\"", what, arg);
	/* 0 would mean the default: ask for the shortest instead. */
	return value * unit < 1 ? 1 : (uint64_t)(value * unit);
}

static pid_t parse_pid(struct argp_state *state, const char *arg)
{
	char *end;
	long value = strtol(arg, &end, 10);

	if (*end || end == arg || value <= 0 || value > INT32_MAX)
		argp_error(state, "--pid must be a process id, not \"%s\"", arg);
	return (pid_t)value;
}

static void check_usage(struct session *session, struct argp_state *state)
{
	const struct command *command = session->command;
	const struct care_patch_options *options = &session->options;

	if (!command)
		argp_usage(state);
	if (command->needs_pid && !options->pid)
		argp_error(state, "%s needs --pid N", command->name);
	if (command->arg == ARG_FILE && !options->what)
		argp_error(state, "%s needs a FILE", command->name);
	if (command->arg == ARG_NAME && !options->what == !options->all)
		argp_error(state, "%s needs a NAME or --all", command->name);
	if (command->arg == ARG_ADDRESS && options->what &&
	    (strncmp(options->what, "0x", 2) || !options->what[2] ||
	     options->what[2 + strspn(options->what + 2, "0123456789abcdefABCDEF")]))
		argp_error(state, "\"%s\" is no address like 0x7f00aa001234", options->what);
	if (command->arg == ARG_NONE && options->what)
		argp_error(state, "%s takes no \"%s\"", command->name, options->what);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct session *session = state->input;
	struct care_patch_options *options = &session->options;

	switch (key) {
	case 'p':
		options->pid = parse_pid(state, arg);
		return 0;
	case 't':
		options->timeout_us = parse_time(state, arg, 1e6, "--timeout");
		return 0;
	case KEY_MAX_PAUSE:
		options->max_pause_us = parse_time(state, arg, 1e3, "--max-pause");
		return 0;
	case KEY_DRY_RUN:
		options->dry_run = true;
		return 0;
	case KEY_REPLACE:
		if (options->replace_count == MAX_REPLACE)
			argp_error(state, "--replace at most %d times", MAX_REPLACE);
		options->replace[options->replace_count++] = arg;
		return 0;
	case KEY_ALL:
		options->all = true;
		return 0;
	case KEY_PERF_MAP:
		options->want_perf_map = true;
		options->perf_map = arg;
		return 0;
	case KEY_PERF:
		options->perf = arg;
		return 0;
	case KEY_GDB:
		options->gdb = arg;
		return 0;
	case 'j':
		options->json = true;
		return 0;
	case 'v':
		options->verbose = true;
		return 0;
	case 'q':
		options->quiet = true;
		return 0;
	case ARGP_KEY_ARG:
		if (!session->command) {
			session->command = find_command(arg);
			if (!session->command)
				argp_error(state, "there is no command \"%s\"", arg);
		} else if (!options->what) {
			options->what = arg;
		} else {
			argp_error(state, "\"%s\" is one too many", arg);
		}
		return 0;
	case ARGP_KEY_END:
		check_usage(session, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int main(int argc, char **argv)
{
	static const struct argp argp = { argp_options, parse, "COMMAND [FILE|NAME]", doc };
	static char name[] = "care-patch";
	struct session session = { 0 };
	int status = 0;

	pe_cli_init(name);
	argp_err_exit_status = 1;
	setenv("ARGP_HELP_FMT", "rmargin=99", 0);
	if (argc > 0)
		argv[0] = name;
	argp_parse(&argp, argc, argv, 0, NULL, &session);
	pe_progress_init(&session.progress, session.options.verbose && !session.options.json &&
						    !session.options.quiet);

	struct pe_error *err = session.command->run(&session);

	pe_progress_done(&session.progress);
	if (err)
		status = care_patch_fail(&session.options, err, &session.result);
	pe_switch_result_deinit(&session.result);
	return status;
}

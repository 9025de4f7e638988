/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * care-build survey: the difference of two source trees, tried change by change.
 *
 * Each trial is a care-build (and care-patch) of its own: whatever it does, crash or hang included,
 * is an outcome to be counted, not our end.
 */
#include "build/files.h"
#include "build/run.h"
#include "build/store.h"
#include "build/survey.h"
#include "cli/care_build.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

enum {
	KEY_TARGET = 't',
	KEY_NEW = 'n',
	KEY_OLD = 256,
	KEY_PID,
	KEY_HUNKS,
	KEY_KEEP,
	KEY_IMAGE,
	KEY_MAX_UNITS
};

struct survey_options {
	struct care_build_common common;
	const char *target, *new, *old, *keep, *pid, *max_units, *image;
	struct pe_strv below;
	bool hunks;
};

static const struct argp_option option_table[] = {
	{ "target", KEY_TARGET, "NAME", 0, "The target to patch", 1 },
	{ "new", KEY_NEW, "DIR", 0, "Source tree with the changes", 1 },
	{ "old", KEY_OLD, "DIR", 0, "Source tree without them (default: the target's own)", 1 },
	{ "hunks", KEY_HUNKS, NULL, 0, "Try each hunk of the files that build, too", 2 },
	{ "pid", KEY_PID, "PID", 0, "Apply what was built to this process, and revert it", 2 },
	{ "keep", KEY_KEEP, "DIR", 0, "Keep diffs and patch files in DIR (new or empty)", 3 },
	{ "image", KEY_IMAGE, "FILE", 0, "As for `care-build patch': a plugin or library", 3 },
	{ "max-units", KEY_MAX_UNITS, "N", 0, "As for `care-build patch' (default 32)", 3 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct survey_options *o = state->input;
	const struct {
		int key;
		const char **value;
	} texts[] = {
		{ KEY_TARGET, &o->target }, { KEY_NEW, &o->new },
		{ KEY_OLD, &o->old },	    { KEY_PID, &o->pid },
		{ KEY_KEEP, &o->keep },	    { KEY_MAX_UNITS, &o->max_units },
		{ KEY_IMAGE, &o->image },
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		if (texts[i].key == key) {
			*texts[i].value = arg;
			return 0;
		}
	}
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &o->common;
		return 0;
	case KEY_HUNKS:
		o->hunks = true;
		return 0;
	case ARGP_KEY_ARG:
		return pe_strv_add(&o->below, arg) ? 0 : ENOMEM;
	case ARGP_KEY_END:
		if (!o->target || !o->new)
			argp_error(state, "--target and --new are needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const char doc[] =
	"Try every change between two source trees as a patch, and count what comes of it.\v"
	"PATH limits it to files below it. Each file that differs (and with --hunks each hunk) is\n"
	"tried alone: built (and with --pid applied to a running process and reverted), refused "
	"for\n"
	"a stated reason, or failed. A failure is a defect of this program: their number is to be "
	"0.\n"
	"  care-build survey --target db --new ../mariadb-10.11.19 --json sql/item_func.cc";

/* ---- outcomes ---- */

enum outcome { OUTCOME_NONE, OUTCOME_BUILT, OUTCOME_APPLIED, OUTCOME_REFUSED, OUTCOME_FAILED };

static const char *const outcomes[] = {
	[OUTCOME_NONE] = "no code",    [OUTCOME_BUILT] = "built",   [OUTCOME_APPLIED] = "applied",
	[OUTCOME_REFUSED] = "refused", [OUTCOME_FAILED] = "failed",
};

struct trial {
	const struct pe_survey_change *change;
	enum outcome outcome;
	char *reason, *message; /* owned; NULL when built or applied */
};

struct survey {
	const struct survey_options *o;
	char *care_build, *care_patch, *dir;
	struct pe_survey_changes changes, hunks;
	struct trial *trials; /* of changes, then of hunks */
	size_t trial_count;
	struct pe_progress progress;
};

static void survey_deinit(struct survey *s)
{
	for (size_t i = 0; i < s->trial_count; i++) {
		free(s->trials[i].reason);
		free(s->trials[i].message);
	}
	free(s->trials);
	pe_survey_changes_deinit(&s->changes);
	pe_survey_changes_deinit(&s->hunks);
	free(s->care_build);
	free(s->care_patch);
	free(s->dir);
}

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

#define auto_json __attribute__((cleanup(cleanup_json)))

static struct pe_error *trial_end(struct trial *t, enum outcome outcome, const char *reason,
				  const char *message)
{
	t->outcome = outcome;
	free(t->reason);
	free(t->message);
	t->reason = reason ? strdup(reason) : NULL;
	t->message = message ? strdup(message) : NULL;
	return (reason && !t->reason) || (message && !t->message) ? pe_error_nomem() : NULL;
}

/* A run that did not succeed: refused for a reason that we know, or failed. */
static struct pe_error *trial_refused(struct trial *t, const struct pe_run *run)
{
	auto_json json_t *json = json_loads(run->out ? run->out : "", 0, NULL);
	json_t *error = json_object_get(json, "error");
	const char *code = json_string_value(json_object_get(error, "code"));
	const char *message = json_string_value(json_object_get(error, "message"));
	char how[64];

	if (!code || !message || !WIFEXITED(run->status))
		return trial_end(t, OUTCOME_FAILED, pe_run_how(run, how),
				 run->err ? pe_text_tail(run->err, 3) : "");

	const char *reason = pe_survey_reason(code, message);

	if (!strcmp(code, "nothing-to-do"))
		return trial_end(t, OUTCOME_NONE, reason ? reason : "no function changes", message);
	if (!reason)
		return trial_end(t, OUTCOME_FAILED, "no stated reason", message);
	return trial_end(t, OUTCOME_REFUSED, reason, message);
}

/* ---- trials ---- */

static struct pe_error *run_words(struct pe_run *run, struct pe_strv *argv,
				  const char *const *words)
{
	for (; *words; words++)
		if (!pe_strv_add(argv, *words))
			return pe_error_nomem();
	run->argv = argv;
	return pe_run(run);
}

/* Applies and reverts; the process must be there after it. */
static struct pe_error *try_on_process(const struct survey *s, struct trial *t, const char *name,
				       const char *file)
{
	pe_auto_strv struct pe_strv apply_argv = { 0 }, revert_argv = { 0 };
	pe_auto_run struct pe_run apply = { 0 }, revert = { 0 };
	const char *pid = s->o->pid;
	struct pe_error *err =
		run_words(&apply, &apply_argv,
			  (const char *const[]){ s->care_patch, "apply", file, "--pid", pid,
						 "--timeout", "10", "--json", NULL });

	if (err)
		return err;
	if (pe_run_succeeded(&apply)) {
		err = run_words(&revert, &revert_argv,
				(const char *const[]){ s->care_patch, "revert", name, "--pid", pid,
						       "--json", NULL });
		if (err)
			return err;
	}
	if (kill((pid_t)atoi(pid), 0))
		return pe_error_new(PE_ERR_DIED, "process %s died when %s was tried", pid,
				    t->change->path);
	if (!pe_run_succeeded(&apply))
		return trial_refused(t, &apply);
	return pe_run_succeeded(&revert) ? trial_end(t, OUTCOME_APPLIED, NULL, NULL)
					 : trial_refused(t, &revert);
}

static struct pe_error *try_change(const struct survey *s, struct trial *t, size_t number)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	pe_auto_run struct pe_run run = { 0 };
	pe_auto_free char *name = pe_format("survey-%zu", number);
	pe_auto_free char *file = pe_format("%s/%s.cpatch", s->dir, name);

	if (!name || !file)
		return pe_error_nomem();

	struct pe_error *err = run_words(
		&run, &argv,
		(const char *const[]){ s->care_build, "patch", "--json", "--target", s->o->target,
				       "--name", name, "--diff", t->change->diff, "--max-units",
				       s->o->max_units, "-o", file,
				       /* last: there may be none */
				       s->o->image ? "--image" : NULL, s->o->image, NULL });

	if (err)
		return err;
	if (!pe_run_succeeded(&run))
		return trial_refused(t, &run);
	if (s->o->pid)
		return try_on_process(s, t, name, file);
	return trial_end(t, OUTCOME_BUILT, NULL, NULL);
}

static struct pe_error *try_all(struct survey *s, const struct pe_survey_changes *changes)
{
	struct trial *trials =
		reallocarray(s->trials, s->trial_count + changes->count + 1, sizeof(*trials));
	struct pe_error *err = NULL;

	if (!trials)
		return pe_error_nomem();
	s->trials = trials;
	for (size_t i = 0; !err && i < changes->count; i++) {
		struct trial *t = &trials[s->trial_count++];

		*t = (struct trial){ .change = &changes->items[i] };
		if (t->change->hunk)
			pe_progress_step(&s->progress, "%zu of %zu hunks: %s, hunk %zu", i + 1,
					 changes->count, t->change->path, t->change->hunk);
		else
			pe_progress_step(&s->progress, "%zu of %zu files: %s", i + 1,
					 changes->count, t->change->path);
		err = try_change(s, t, s->trial_count);
	}
	return err;
}

static struct pe_error *survey_run(struct survey *s, const struct pe_build_target *target)
{
	pe_auto_free char *old = realpath(s->o->old ? s->o->old : target->source, NULL);
	pe_auto_free char *new = realpath(s->o->new, NULL);

	if (!old || !new)
		return pe_error_errno(errno, "cannot find %s",
				      old	  ? s->o->new
				      : s->o->old ? s->o->old
						  : target->source);
	pe_progress_step(&s->progress, "comparing %s and %s", old, new);

	struct pe_error *err = pe_survey_files(old, new, &s->o->below, s->dir, &s->changes);

	if (!err && !s->changes.count)
		err = pe_error_new(PE_ERR_NOTHING, "%s and %s do not differ", old, new);
	if (!err)
		err = try_all(s, &s->changes);
	for (size_t i = 0; !err && s->o->hunks && i < s->changes.count; i++)
		if (s->trials[i].outcome == OUTCOME_BUILT ||
		    s->trials[i].outcome == OUTCOME_APPLIED)
			err = pe_survey_hunks(&s->changes.items[i], s->dir, &s->hunks);
	return err || !s->hunks.count ? err : try_all(s, &s->hunks);
}

/* ---- the result ---- */

static size_t count_outcome(const struct survey *s, bool hunks, enum outcome outcome)
{
	size_t count = 0;

	for (size_t i = 0; i < s->trial_count; i++)
		count += !s->trials[i].change->hunk == !hunks && s->trials[i].outcome == outcome;
	return count;
}

static json_t *summary_json(const struct survey *s, bool hunks)
{
	json_t *counts = json_object(), *reasons = json_object();

	for (size_t i = 0; i < sizeof(outcomes) / sizeof(*outcomes); i++)
		json_object_set_new(
			counts, outcomes[i],
			json_integer((json_int_t)count_outcome(s, hunks, (enum outcome)i)));
	for (size_t i = 0; i < s->trial_count; i++) {
		const struct trial *t = &s->trials[i];

		if (!t->reason || !t->change->hunk != !hunks)
			continue;

		json_int_t before = json_integer_value(json_object_get(reasons, t->reason));

		json_object_set_new(reasons, t->reason, json_integer(before + 1));
	}
	return json_pack("{s:o, s:o}", "outcomes", counts, "reasons", reasons);
}

static void print_json(const struct survey *s)
{
	json_t *trials = json_array();

	for (size_t i = 0; i < s->trial_count; i++) {
		const struct trial *t = &s->trials[i];

		json_array_append_new(trials, json_pack("{s:s, s:I, s:s, s:s?, s:s?}", "path",
							t->change->path, "hunk",
							(json_int_t)t->change->hunk, "outcome",
							outcomes[t->outcome], "reason", t->reason,
							"message", t->message));
	}
	pe_cli_json(json_pack("{s:s, s:o, s:o, s:o}", "target", s->o->target, "files",
			      summary_json(s, false), "hunks", summary_json(s, true), "trials",
			      trials));
}

static void print_summary(const struct survey *s, bool hunks)
{
	static const char *const titles[] = { "OUTCOME", "REASON", ">COUNT", NULL };
	struct pe_table *table = pe_table_new(titles);
	json_t *summary = summary_json(s, hunks), *value;
	const char *reason;
	char text[32];

	for (enum outcome o = OUTCOME_NONE; o <= OUTCOME_FAILED; o++) {
		size_t count = count_outcome(s, hunks, o);

		if (!count)
			continue;
		snprintf(text, sizeof(text), "%zu", count);
		pe_table_row(table, (const char *const[]){ outcomes[o], NULL, text });
	}
	json_object_foreach(json_object_get(summary, "reasons"), reason, value)
	{
		snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(value));
		pe_table_row(table, (const char *const[]){ "", reason, text });
	}
	json_decref(summary);
	printf("%s:\n", hunks ? "Hunks" : "Files");
	pe_table_print_and_free(table);
}

static void print(const struct survey *s)
{
	static const char *const titles[] = { "CHANGE", "OUTCOME", "REASON", NULL };
	struct pe_table *table = pe_table_new(titles);

	for (size_t i = 0; i < s->trial_count; i++) {
		const struct trial *t = &s->trials[i];
		pe_auto_free char *change =
			t->change->hunk
				? pe_format("%s, hunk %zu", t->change->path, t->change->hunk)
				: strdup(t->change->path);

		if (t->outcome != OUTCOME_NONE)
			pe_table_row(table, (const char *const[]){ change, outcomes[t->outcome],
								   t->reason });
	}
	pe_table_print_and_free(table);
	for (size_t i = 0; i < s->trial_count; i++)
		if (s->trials[i].outcome == OUTCOME_FAILED)
			printf("failed: %s: %s\n", s->trials[i].change->path, s->trials[i].message);
	print_summary(s, false);
	if (s->hunks.count)
		print_summary(s, true);
}

/* The programs beside this one. */
static struct pe_error *find_programs(struct survey *s)
{
	char self[PATH_MAX];
	ssize_t size = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (size < 0)
		return pe_error_errno(errno, "cannot read /proc/self/exe");
	self[size] = '\0';
	s->care_build = strdup(self);

	char *slash = strrchr(self, '/');

	s->care_patch = pe_format("%.*s/care-patch", (int)(slash - self), self);
	if (!s->care_build || !s->care_patch)
		return pe_error_nomem();
	if (s->o->pid && access(s->care_patch, X_OK))
		return pe_error_errno(errno, "--pid needs %s", s->care_patch);
	return NULL;
}

static struct pe_error *survey(const struct survey_options *o, const struct pe_build_target *target)
{
	pe_auto_temp_dir struct pe_temp_dir temp = { 0 };
	__attribute__((cleanup(survey_deinit))) struct survey s = { .o = o };
	struct pe_error *err = find_programs(&s);

	if (!err)
		err = pe_temp_dir_init(&temp);
	if (!err && o->keep)
		err = pe_dir_make(o->keep);
	if (err)
		return err;
	s.dir = strdup(o->keep ? o->keep : temp.path);
	if (!s.dir)
		return pe_error_nomem();
	pe_progress_init(&s.progress, !o->common.json && !o->common.quiet);
	err = survey_run(&s, target);
	pe_progress_done(&s.progress);
	if (err)
		return err;
	if (o->common.json)
		print_json(&s);
	else
		print(&s);
	if (!count_outcome(&s, false, OUTCOME_FAILED) && !count_outcome(&s, true, OUTCOME_FAILED))
		return NULL;
	return o->common.json ? NULL
			      : pe_error_new(PE_ERR_INTERNAL,
					     "a change was refused without a stated reason");
}

struct pe_error *care_build_survey(int argc, char **argv, bool *json)
{
	static const struct argp_child children[] = { { &care_build_common_argp }, { 0 } };
	static const struct argp argp = { option_table, parse, "[PATH...]", doc, children };
	struct survey_options o = { .max_units = "32" };
	struct pe_build_target *target = NULL;

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	*json = o.common.json;

	struct pe_error *err = pe_store_load(o.target, &target);

	if (!err)
		err = survey(&o, target);
	pe_build_target_free(target);
	pe_strv_deinit(&o.below);
	return err;
}

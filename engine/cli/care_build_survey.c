/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * care-build survey: the difference of two source trees, tried change by change.
 *
 * Each trial is a care-build (and care-patch) of its own: whatever it does, crash or hang included,
 * is an outcome to be counted, not our end.
 */
#include "cli/care_build_survey.h"
#include "build/files.h"
#include "build/make.h"
#include "build/store.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

enum {
	KEY_TARGET = 't',
	KEY_NEW = 'n',
	KEY_OUT = 'o',
	KEY_OLD = 256,
	KEY_PID,
	KEY_HUNKS,
	KEY_TOGETHER,
	KEY_KEEP,
	KEY_IMAGE,
	KEY_JOBS,
	KEY_MAX_UNITS
};

static const struct argp_option option_table[] = {
	{ "target", KEY_TARGET, "NAME", 0, "The target to patch", 1 },
	{ "new", KEY_NEW, "DIR", 0, "Source tree with the changes", 1 },
	{ "old", KEY_OLD, "DIR", 0, "Source tree without them (default: the target's own)", 1 },
	{ "hunks", KEY_HUNKS, NULL, 0, "Try each hunk of the files that build, too", 2 },
	{ "together", KEY_TOGETHER, NULL, 0, "Try all files as one change", 2 },
	{ "pid", KEY_PID, "PID", 0, "Apply what was built to this process, and revert it", 2 },
	{ "output", KEY_OUT, "FILE", 0,
	  "Keep each result in FILE as it comes (a line of JSON); what it has is not tried again",
	  2 },
	{ "keep", KEY_KEEP, "DIR", 0, "Keep diffs and patch files in DIR (new or empty)", 3 },
	{ "image", KEY_IMAGE, "FILE", 0, "As for `care-build patch': a plugin or library", 3 },
	{ "jobs", KEY_JOBS, "N", 0,
	  "Try N changes at a time (default: as processors and memory allow)", 3 },
	{ "max-units", KEY_MAX_UNITS, "N", 0, "As for `care-build patch' (default 32)", 3 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct survey_options *o = state->input;
	const struct care_build_text texts[] = {
		{ KEY_TARGET, &o->target }, { KEY_NEW, &o->new },
		{ KEY_OLD, &o->old },	    { KEY_PID, &o->pid },
		{ KEY_KEEP, &o->keep },	    { KEY_OUT, &o->out },
		{ KEY_IMAGE, &o->image },   { 0 },
	};

	if (care_build_set_text(texts, key, arg))
		return 0;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &o->common;
		return 0;
	case KEY_HUNKS:
		o->hunks = true;
		return 0;
	case KEY_TOGETHER:
		o->together = true;
		return 0;
	case KEY_JOBS:
		o->jobs = care_build_number(arg, 1, 1024, state, "--jobs");
		return 0;
	case KEY_MAX_UNITS:
		o->max_units = care_build_number(arg, 1, 100000, state, "--max-units");
		return 0;
	case ARGP_KEY_ARG:
		return pe_strv_add(&o->below, arg) ? 0 : ENOMEM;
	case ARGP_KEY_END:
		if (!o->target || !o->new)
			argp_error(state, "--target and --new are needed");
		if (o->hunks && o->together)
			argp_error(state, "--hunks or --together, not both");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const char doc[] =
	"Try every change between two source trees as a patch, and count what comes of it.\v"
	"PATH limits it to files below it. Each file that differs (and with --hunks each hunk) is\n"
	"tried: built (and with --pid applied to a running process and reverted), refused for a\n"
	"stated reason, or failed. What differs by blanks and comments alone is no change. A file\n"
	"that is refused alone for what another change brings is tried together with that. A\n"
	"failure is a defect of this program: their number is to be 0. With -o a run that was\n"
	"stopped goes on where it was.\n"
	"  care-build survey --target db --new ../mariadb-10.11.19 -o survey.jsonl sql/\n"
	"Does one fix that touches several files make a patch?\n"
	"  care-build survey --target db --new ../fixed --together sql/a.cc sql/b.cc";

static void survey_deinit(struct survey *s)
{
	for (size_t i = 0; i < s->trial_count; i++) {
		free(s->trials[i].with);
		free(s->trials[i].without);
		free(s->trials[i].why);
		free(s->trials[i].why_message);
		free(s->trials[i].reason);
		free(s->trials[i].message);
	}
	free(s->trials);
	pe_survey_changes_deinit(&s->changes);
	pe_survey_changes_deinit(&s->hunks);
	pe_survey_changes_deinit(&s->all);
	json_decref(s->known);
	if (s->log)
		fclose(s->log);
	free(s->care_build);
	free(s->care_patch);
	pe_database_deinit(&s->database);
	free(s->old_tree);
	free(s->new_tree);
	free(s->source);
	free(s->dir);
}

struct pe_error *survey_pool(struct survey *s)
{
	static const struct pe_strv everywhere = { 0 };
	pe_auto_free char *dir = pe_format("%s/others", s->dir);

	if (s->pool)
		return NULL;
	if (!s->o->below.count || s->o->together) {
		s->pool = &s->changes;
		return NULL;
	}
	pe_progress_step(&s->progress, "comparing what was not named: something there is needed");

	struct pe_error *err = dir ? pe_dir_make(dir) : pe_error_nomem();

	if (!err)
		err = pe_survey_files(s->old_tree, s->new_tree, &everywhere, dir, &s->all);
	if (!err)
		s->pool = &s->all;
	return err;
}

/* Of what is tried: the text of the diffs, not the names of their files. */
static struct pe_error *hash_diffs(const struct survey *s, struct trial *t)
{
	pe_auto_free char *all = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&all, &size);
	struct pe_error *err = NULL;

	if (!out)
		return pe_error_nomem();
	for (size_t i = 0; !err && i <= (t->with ? s->pool->count : 0); i++) {
		pe_auto_free char *text = NULL;

		if (i && !t->with[i - 1])
			continue;
		err = pe_file_read(i ? s->pool->items[i - 1].diff : t->change->diff, &text, NULL);
		fputs(text ? text : "", out);
	}
	fclose(out);
	if (!err && !all)
		err = pe_error_nomem();
	if (!err)
		pe_sha256_hex(all, size, t->hash);
	return err;
}

/* Can it be told without a trial that nothing of the program changes? Then it is done. */
static struct pe_error *settle_quickly(struct survey *s, struct trial *t)
{
	pe_auto_free char *file = pe_format("%s/%s", s->source, t->change->path);
	size_t from = 0;

	if (!file)
		return pe_error_nomem();
	if (!t->change->diff)
		return survey_end(t, OUTCOME_NONE, "blanks and comments alone", NULL);
	if (pe_file_role(t->change->path) == PE_FILE_OTHER &&
	    !pe_database_next(&s->database, file, &from))
		return survey_end(t, OUTCOME_NONE, "no code of the program", NULL);
	return NULL;
}

/* Adds trials of @changes behind those that there are; what is known already is done. */
static struct pe_error *trials_add(struct survey *s, const struct pe_survey_changes *changes)
{
	size_t first = s->trial_count;
	struct trial *trials = reallocarray(s->trials, first + changes->count + 1, sizeof(*trials));
	struct pe_error *err = NULL;

	if (!trials)
		return pe_error_nomem();
	s->trials = trials;
	for (size_t i = 0; !err && i < changes->count; i++) {
		struct trial *t = &trials[s->trial_count++];

		*t = (struct trial){ .change = &changes->items[i], .number = s->trial_count };
		err = settle_quickly(s, t);
		s->trial_done += t->done;
		if (!err && !t->done)
			err = hash_diffs(s, t);
		if (!err && !t->done)
			err = survey_log_recall(s, t);
	}
	return err;
}

/* One trial of all that differs. */
static struct pe_error *trial_together(struct survey *s)
{
	struct trial *t = s->trials = calloc(1, sizeof(*t));
	struct pe_error *err = NULL;

	if (!t)
		return pe_error_nomem();
	s->trial_count = 1;
	*t = (struct trial){ .number = 1 };
	err = survey_pool(s);
	if (err)
		return err;
	t->with = calloc(s->changes.count + 1, sizeof(*t->with));
	if (!t->with)
		return pe_error_nomem();
	for (size_t i = 0; i < s->changes.count; i++) {
		if (!s->changes.items[i].diff)
			continue;
		t->with[i] = t->change != NULL;
		t->change = t->change ?: &s->changes.items[i];
	}
	if (!t->change) {
		t->change = &s->changes.items[0];
		s->trial_done++;
		return survey_end(t, OUTCOME_NONE, "blanks and comments alone", NULL);
	}
	err = hash_diffs(s, t);
	return err ? err : survey_log_recall(s, t);
}

static bool was_built(const struct trial *t)
{
	return t->outcome == OUTCOME_BUILT || t->outcome == OUTCOME_APPLIED;
}

static struct pe_error *try_hunks(struct survey *s)
{
	size_t files = s->trial_count;
	struct pe_error *err = NULL;

	for (size_t i = 0; !err && i < files; i++)
		if (was_built(&s->trials[i]))
			err = pe_survey_hunks(&s->changes.items[i], s->dir, &s->hunks);
	if (!err && s->hunks.count)
		err = trials_add(s, &s->hunks);
	return err ? err : survey_try(s, s->trials + files, s->trial_count - files);
}

static struct pe_error *find_trees(struct survey *s, const struct pe_build_target *target)
{
	const char *old = s->o->old ? s->o->old : target->source;

	s->old_tree = realpath(old, NULL);
	if (!s->old_tree)
		return pe_error_errno(errno, "cannot find %s", old);
	s->source = strdup(target->source);
	if (!s->source)
		return pe_error_nomem();
	s->new_tree = realpath(s->o->new, NULL);
	return s->new_tree ? NULL : pe_error_errno(errno, "cannot find %s", s->o->new);
}

/* A PATH that neither tree has is a mistake, not a file without a change. */
static struct pe_error *paths_exist(const struct survey *s)
{
	for (size_t i = 0; i < s->o->below.count; i++) {
		const char *path = s->o->below.items[i];
		pe_auto_free char *old = pe_format("%s/%s", s->old_tree, path);
		pe_auto_free char *new = pe_format("%s/%s", s->new_tree, path);

		if (!old || !new)
			return pe_error_nomem();
		if (!pe_file_exists(old) && !pe_file_exists(new))
			return pe_error_new(PE_ERR_USAGE, "neither %s nor %s has %s", s->old_tree,
					    s->new_tree, path);
	}
	return NULL;
}

static struct pe_error *survey_run(struct survey *s, const struct pe_build_target *target)
{
	struct pe_error *err = find_trees(s, target);

	if (!err)
		err = pe_database_read(target->database, &s->database);
	if (err)
		return err;
	pe_progress_step(&s->progress, "comparing %s and %s", s->old_tree, s->new_tree);
	err = pe_survey_files(s->old_tree, s->new_tree, &s->o->below, s->dir, &s->changes);
	if (!err && !s->changes.count)
		err = paths_exist(s);
	if (!err && !s->changes.count)
		err = pe_error_new(PE_ERR_NOTHING, "%s and %s do not differ", s->old_tree,
				   s->new_tree);
	if (!err)
		err = survey_log_open(s);
	if (!err)
		err = s->o->together ? trial_together(s) : trials_add(s, &s->changes);
	if (!err && s->trial_done)
		pe_progress_step(&s->progress, "%zu of %zu change no code or are known",
				 s->trial_done, s->trial_count);
	if (!err)
		err = survey_try(s, s->trials, s->trial_count);
	return err || !s->o->hunks ? err : try_hunks(s);
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
	survey_print(&s);
	if (!survey_count(&s, false, OUTCOME_FAILED) && !survey_count(&s, true, OUTCOME_FAILED))
		return NULL;
	return o->common.json ? NULL
			      : pe_error_new(PE_ERR_INTERNAL,
					     "a change was refused without a stated reason");
}

struct pe_error *care_build_survey(int argc, char **argv, bool *json)
{
	static const struct argp argp = { option_table, parse, "[PATH...]", doc,
					  care_build_common };
	struct survey_options o = { .common.shows = true, .max_units = 32 };
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

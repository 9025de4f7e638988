/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Trials of care-build survey.
 *
 * Each is a care-build (and care-patch) of its own: whatever it does, crash or hang included, is an
 * outcome to be counted, not our end. Patches are built several at a time; the process is for one
 * at a time. What cannot be built alone is tried again with the changes that its refusal points at,
 * round by round.
 */
#include "build/files.h"
#include "cli/care_build_survey.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

/* How often a change is tried with more than before. */
static const size_t most_rounds = 5;

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

#define auto_json __attribute__((cleanup(cleanup_json)))

struct pe_error *survey_end(struct trial *t, enum outcome outcome, const char *reason,
			    const char *message)
{
	t->done = true;
	t->outcome = outcome;
	free(t->reason);
	free(t->message);
	t->reason = reason ? strdup(reason) : NULL;
	t->message = message ? strdup(message) : NULL;
	return (reason && !t->reason) || (message && !t->message) ? pe_error_nomem() : NULL;
}

/* A run that did not succeed: refused for a reason that we know, or failed. */
static struct pe_error *refused(struct trial *t, const struct pe_run *run)
{
	auto_json json_t *json = json_loads(run->out ? run->out : "", 0, NULL);
	json_t *error = json_object_get(json, "error");
	const char *code = json_string_value(json_object_get(error, "code"));
	const char *message = json_string_value(json_object_get(error, "message"));
	char how[64];

	if (!code || !message || !WIFEXITED(run->status))
		return survey_end(t, OUTCOME_FAILED, pe_run_how(run, how),
				  run->err ? pe_text_tail(run->err, 3) : "");

	const char *reason = pe_survey_reason(code, message);

	if (!strcmp(code, "nothing-to-do"))
		return survey_end(t, OUTCOME_NONE, reason ? reason : "no function changes",
				  message);
	if (!reason)
		return survey_end(t, OUTCOME_FAILED, "no stated reason", message);
	return survey_end(t, OUTCOME_REFUSED, reason, message);
}

static struct pe_error *add_words(struct pe_strv *argv, const char *const *words)
{
	for (; *words; words++)
		if (!pe_strv_add(argv, *words))
			return pe_error_nomem();
	return NULL;
}

/* ---- on a process ---- */

static struct pe_error *care_patch(const struct survey *s, const char *verb, const char *what,
				   struct pe_run *run)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	struct pe_error *err = add_words(&argv, (const char *const[]){ s->care_patch, verb, what,
								       "--pid", s->o->pid, "--json",
								       "--timeout", "10", NULL });

	run->argv = &argv;
	if (!err)
		err = pe_run(run);
	run->argv = NULL;
	return err;
}

/* The code of the error that a run printed; "" when there is none. Owned by the caller. */
static char *code_of(const struct pe_run *run)
{
	auto_json json_t *json = json_loads(run->out ? run->out : "", 0, NULL);
	const char *code =
		json_string_value(json_object_get(json_object_get(json, "error"), "code"));

	return strdup(code ? code : "");
}

/* Applies and reverts; the process must be there after it. */
static struct pe_error *try_on_process(const struct survey *s, struct trial *t, const char *name,
				       const char *file)
{
	pe_auto_run struct pe_run apply = { 0 }, revert = { 0 };
	struct pe_error *err = care_patch(s, "apply", file, &apply);

	if (err)
		return err;
	if (pe_run_succeeded(&apply)) {
		err = care_patch(s, "revert", name, &revert);
		if (err)
			return err;
	}
	if (kill((pid_t)atoi(s->o->pid), 0))
		return pe_error_new(PE_ERR_DIED, "process %s died when %s was tried", s->o->pid,
				    t->change->path);
	if (pe_run_succeeded(&apply))
		return pe_run_succeeded(&revert) ? survey_end(t, OUTCOME_APPLIED, NULL, NULL)
						 : refused(t, &revert);

	/* The wrong process says nothing about the change. */
	pe_auto_free char *code = code_of(&apply);

	if (code && !strcmp(code, "no-target"))
		return pe_error_new(PE_ERR_NO_TARGET, "process %s is none to try patches on: %s",
				    s->o->pid, apply.err ? pe_text_tail(apply.err, 2) : "");
	return refused(t, &apply);
}

/* ---- building ---- */

/* The trials of one round, and the runs that build them. */
struct round {
	struct survey *s;
	struct trial **trials;
	struct pe_run *runs;
	struct pe_strv *argvs;
	size_t count;
	struct pe_error *err;
};

static void round_deinit(struct round *r)
{
	for (size_t i = 0; i < r->count; i++) {
		pe_run_deinit(&r->runs[i]);
		pe_strv_deinit(&r->argvs[i]);
	}
	free(r->trials);
	free(r->runs);
	free(r->argvs);
}

static char *name_of(const struct trial *t)
{
	return pe_format("survey-%zu", t->number);
}

static char *file_of(const struct survey *s, const struct trial *t)
{
	return pe_format("%s/survey-%zu.cpatch", s->dir, t->number);
}

static struct pe_error *build_command(const struct survey *s, const struct trial *t,
				      struct pe_strv *argv)
{
	pe_auto_free char *name = name_of(t), *file = file_of(s, t);
	pe_auto_free char *max_units = pe_format("%lu", s->o->max_units);

	if (!name || !file || !max_units)
		return pe_error_nomem();

	struct pe_error *err = add_words(
		argv, (const char *const[]){ s->care_build, "patch", "--json", "--target",
					     s->o->target, "--name", name, "--max-units", max_units,
					     "-o", file, "--diff", t->change->diff, NULL });

	for (size_t i = 0; !err && t->with && i < s->pool->count; i++)
		if (t->with[i])
			err = add_words(argv, (const char *const[]){
						      "--diff", s->pool->items[i].diff, NULL });
	if (!err && s->o->image)
		err = add_words(argv, (const char *const[]){ "--image", s->o->image, NULL });
	return err;
}

static const struct trial *trial_of(const struct survey *s, const char *path)
{
	for (size_t i = 0; i < s->changes.count && i < s->trial_count; i++)
		if (!strcmp(s->trials[i].change->path, path))
			return &s->trials[i];
	return NULL;
}

/*
 * May a change be what another one needs? Not when it is no code of the program, or when nothing
 * but blanks differ.
 */
static bool may_be_needed(const struct survey *s, const struct pe_survey_change *change)
{
	const struct trial *t = trial_of(s, change->path);

	if (!change->diff || !pe_survey_is_code(change->path))
		return false;
	return !t || t->outcome != OUTCOME_NONE ||
	       (t->reason && !strcmp(t->reason, "no function changes"));
}

/*
 * Is what was refused one of those that were taken in, itself? Then it is left out again: it has
 * the name by chance and is no part of this program, or a fix can do without it, like the text of
 * an error message in a table that may not grow.
 */
static struct pe_error *leave_out(struct survey *s, struct trial *t, bool *left_out)
{
	*left_out = false;
	for (size_t i = 0; i < s->pool->count; i++) {
		const char *path = s->pool->items[i].path;
		size_t size = strlen(path);

		if (!t->with[i] || !pe_starts_with(t->message, path) ||
		    (t->message[size] != ':' && t->message[size] != ' '))
			continue;
		t->without = t->without ?: calloc(s->pool->count + 1, sizeof(*t->without));
		if (!t->without)
			return pe_error_nomem();
		t->with[i] = false;
		t->without[i] = true;
		*left_out = true;
		if (t->why || t->message[size] == ' ')
			continue;
		t->why = strdup(t->reason);
		t->why_message = strdup(t->message);
		if (!t->why || !t->why_message)
			return pe_error_nomem();
	}
	return NULL;
}

/* Can it not do without what was left out? Then that is why it is refused. */
static struct pe_error *blame_left_out(const struct survey *s, struct trial *t)
{
	if (t->outcome != OUTCOME_REFUSED || !t->why ||
	    (strcmp(t->reason, "does not compile without the other changes") &&
	     strcmp(t->reason, "refers to what the program does not have")))
		return NULL;
	for (size_t i = 0; i < s->pool->count; i++) {
		t->with[i] |= t->without[i];
		t->without[i] = false;
	}
	return survey_end(t, OUTCOME_REFUSED, t->why, t->why_message);
}

/* Adds to what @t is tried with; *@added is how many. */
static struct pe_error *take_in(struct survey *s, struct trial *t, size_t *added)
{
	size_t count = s->pool->count, self = count;
	pe_auto_free bool *may = calloc(count + 1, sizeof(*may));

	if (!may)
		return pe_error_nomem();
	for (size_t i = 0; i < count; i++) {
		may[i] = may_be_needed(s, &s->pool->items[i]) && !(t->without && t->without[i]);
		if (!strcmp(s->pool->items[i].path, t->change->path))
			self = i;
	}
	t->with[self] = true;

	struct pe_error *err = pe_survey_needs(s->pool, t->message, may, t->with, added);

	t->with[self] = false;
	return err;
}

/* Can it be tried with more, or with less again? Then it is not done yet. */
static struct pe_error *needs_more(struct survey *s, struct trial *t)
{
	struct pe_error *err = NULL;
	size_t added = 0;
	bool left_out = false;

	if (t->outcome != OUTCOME_REFUSED || t->change->hunk || s->o->together ||
	    t->rounds >= most_rounds)
		return NULL;
	err = survey_pool(s);
	if (err)
		return err;
	t->with = t->with ?: calloc(s->pool->count + 1, sizeof(*t->with));
	if (!t->with)
		return pe_error_nomem();
	err = leave_out(s, t, &left_out);
	if (!err && !left_out)
		err = take_in(s, t, &added);
	if (err || (!added && !left_out))
		return err;
	t->rounds++;
	t->done = false;
	return NULL;
}

static void report(struct survey *s, const struct trial *t)
{
	char hunk[32] = "";

	if (t->change->hunk)
		snprintf(hunk, sizeof(hunk), ", hunk %zu", t->change->hunk);
	pe_progress_step(
		&s->progress,
		"%zu of %zu: %zu applied, %zu built, %zu refused, %zu failed, %zu no code; "
		"%s%s: %s",
		s->trial_done, s->trial_count, survey_count(s, t->change->hunk, OUTCOME_APPLIED),
		survey_count(s, t->change->hunk, OUTCOME_BUILT),
		survey_count(s, t->change->hunk, OUTCOME_REFUSED),
		survey_count(s, t->change->hunk, OUTCOME_FAILED),
		survey_count(s, t->change->hunk, OUTCOME_NONE), t->change->path, hunk,
		survey_outcomes[t->outcome]);
}

/* Done for good: logs it. */
static struct pe_error *settle(struct survey *s, struct trial *t)
{
	struct pe_error *err = blame_left_out(s, t);

	if (err)
		return err;
	s->trial_done++;
	report(s, t);
	return survey_log_add(s, t);
}

static struct pe_error *ended(struct survey *s, struct trial *t, const struct pe_run *run)
{
	pe_auto_free char *name = name_of(t), *file = file_of(s, t);
	struct pe_error *err;

	if (!name || !file)
		return pe_error_nomem();
	if (!pe_run_succeeded(run))
		err = refused(t, run);
	else if (s->o->pid)
		err = try_on_process(s, t, name, file);
	else
		err = survey_end(t, OUTCOME_BUILT, NULL, NULL);
	return err;
}

static bool on_end(void *ctx, struct pe_run *run)
{
	struct round *r = ctx;
	struct trial *t = r->trials[run - r->runs];

	r->err = ended(r->s, t, run);
	/* In the first round others are not known yet: who needs more is asked behind it. */
	if (!r->err && (t->outcome != OUTCOME_REFUSED || t->change->hunk))
		r->err = settle(r->s, t);
	pe_run_deinit(run);
	return !r->err;
}

static struct pe_error *round_run(struct round *r)
{
	struct survey *s = r->s;
	size_t jobs = s->o->jobs ? s->o->jobs : pe_run_jobs();
	size_t each = r->count < jobs ? jobs / r->count : 1;
	pe_auto_free char *compilers = pe_format("%zu", each);
	struct pe_error *err = NULL;

	/* Our runs share the processors: each has its part of them. */
	if (!compilers || setenv("CARE_BUILD_JOBS", compilers, 1))
		return pe_error_nomem();
	for (size_t i = 0; !err && i < r->count; i++) {
		err = build_command(s, r->trials[i], &r->argvs[i]);
		r->runs[i] = (struct pe_run){ .argv = &r->argvs[i] };
	}
	/* The first answer may take minutes. */
	if (!err && r->count)
		pe_progress_step(&s->progress,
				 "trying %zu change%s, %zu at a time: each compiles "
				 "the sources that it changes",
				 r->count, r->count == 1 ? "" : "s",
				 jobs < r->count ? jobs : r->count);
	if (!err)
		err = pe_run_all(r->runs, r->count, jobs, on_end, r);
	if (r->err) {
		pe_error_free(err);
		err = r->err;
	}
	for (size_t i = 0; !err && i < r->count; i++) {
		struct trial *t = r->trials[i];

		if (t->outcome != OUTCOME_REFUSED || t->change->hunk)
			continue;
		err = needs_more(s, t);
		if (!err && t->done)
			err = settle(s, t);
	}
	return err;
}

struct pe_error *survey_try(struct survey *s, struct trial *trials, size_t count)
{
	for (;;) {
		__attribute__((cleanup(round_deinit))) struct round r = { .s = s };
		struct pe_error *err;

		r.trials = calloc(count + 1, sizeof(struct trial *));
		r.runs = calloc(count + 1, sizeof(*r.runs));
		r.argvs = calloc(count + 1, sizeof(*r.argvs));
		if (!r.trials || !r.runs || !r.argvs)
			return pe_error_nomem();
		for (size_t i = 0; i < count; i++)
			if (!trials[i].done)
				r.trials[r.count++] = &trials[i];
		if (!r.count)
			return NULL;
		err = round_run(&r);
		if (err)
			return err;
	}
}

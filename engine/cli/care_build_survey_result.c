/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Results of care-build survey: what is printed at the end, and the file in which they are kept as
 * they come, one line of JSON each behind a line that says what was compared. A result is known by
 * its path, its hunk and the hash of its diff; what comes later in the file counts.
 */
#include "build/files.h"
#include "cli/care_build_survey.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <string.h>

const char *const survey_outcomes[] = {
	[OUTCOME_NONE] = "no code",    [OUTCOME_BUILT] = "built",   [OUTCOME_APPLIED] = "applied",
	[OUTCOME_REFUSED] = "refused", [OUTCOME_FAILED] = "failed",
};

static const size_t outcome_count = sizeof(survey_outcomes) / sizeof(*survey_outcomes);

/* The paths that @flags name; @flags may be NULL. */
static json_t *paths_json(const struct survey *s, const bool *flags)
{
	json_t *paths = json_array();

	for (size_t i = 0; flags && i < s->pool->count; i++)
		if (flags[i])
			json_array_append_new(paths, json_string(s->pool->items[i].path));
	return paths;
}

static json_t *trial_json(const struct survey *s, const struct trial *t)
{
	return json_pack("{s:s, s:I, s:s, s:s?, s:s?, s:o, s:o}", "path", t->change->path, "hunk",
			 (json_int_t)t->change->hunk, "outcome", survey_outcomes[t->outcome],
			 "reason", t->reason, "message", t->message, "with", paths_json(s, t->with),
			 "without", paths_json(s, t->without));
}

/* ---- the file ---- */

static char *key_of(const char *path, long long hunk, const char *hash)
{
	return pe_format("%s %lld %s", path, hunk, hash);
}

/* What must be the same for results to be comparable. */
static json_t *header_json(const struct survey *s)
{
	return json_pack("{s:s, s:s, s:s, s:s?, s:b, s:b, s:I}", "target", s->o->target, "old",
			 s->old_tree, "new", s->new_tree, "image", s->o->image, "applied",
			 s->o->pid != NULL, "together", s->o->together, "max_units",
			 (json_int_t)s->o->max_units);
}

static struct pe_error *write_line(struct survey *s, json_t *line)
{
	bool written = line && !json_dumpf(line, s->log, JSON_PRESERVE_ORDER | JSON_COMPACT) &&
		       putc('\n', s->log) != EOF && !fflush(s->log);

	json_decref(line);
	return written ? NULL : pe_error_errno(errno, "cannot write %s", s->o->out);
}

/* Reads the lines of an earlier run. A last one that is not whole was being written. */
static struct pe_error *read_lines(struct survey *s, char *text, const json_t *header)
{
	char *save = NULL, *line = strtok_r(text, "\n", &save);
	json_t *first = line ? json_loads(line, 0, NULL) : NULL;
	bool same = json_equal(first, header);

	if (!first)
		return pe_error_new(PE_ERR_USAGE,
				    "%s is no list of results of a survey: name another file",
				    s->o->out);
	json_decref(first);
	if (!same)
		return pe_error_new(PE_ERR_USAGE,
				    "%s has results of another survey (target, trees or options "
				    "differ): name another file or remove it",
				    s->o->out);
	while ((line = strtok_r(NULL, "\n", &save))) {
		json_t *result = json_loads(line, 0, NULL);
		const char *path = json_string_value(json_object_get(result, "path"));
		const char *hash = json_string_value(json_object_get(result, "diff"));
		pe_auto_free char *key =
			path && hash
				? key_of(path, json_integer_value(json_object_get(result, "hunk")),
					 hash)
				: NULL;

		if (key)
			json_object_set(s->known, key, result);
		json_decref(result);
	}
	return NULL;
}

struct pe_error *survey_log_open(struct survey *s)
{
	pe_auto_free char *text = NULL;
	size_t size = 0;
	struct pe_error *err = NULL;

	s->known = json_object();
	if (!s->known)
		return pe_error_nomem();
	if (!s->o->out)
		return NULL;

	json_t *header = header_json(s);

	if (pe_file_exists(s->o->out))
		err = pe_file_read(s->o->out, &text, &size);

	bool cut = size && text[size - 1] != '\n';

	if (!err && size)
		err = read_lines(s, text, header);
	if (!err) {
		s->log = fopen(s->o->out, "ae");
		if (!s->log)
			err = pe_error_errno(errno, "cannot write %s", s->o->out);
	}
	if (!err && cut)
		putc('\n', s->log);
	if (!err && !size)
		return write_line(s, header);
	json_decref(header);
	return err;
}

/* Sets the flags of the paths that an earlier run wrote; none when it wrote none. */
static struct pe_error *recall_paths(struct survey *s, const json_t *paths, bool **flags)
{
	size_t index;
	json_t *path;

	if (!json_array_size(paths))
		return NULL;

	struct pe_error *err = survey_pool(s);

	if (err)
		return err;
	free(*flags);
	*flags = calloc(s->pool->count + 1, sizeof(**flags));
	if (!*flags)
		return pe_error_nomem();
	json_array_foreach(paths, index, path) for (size_t j = 0; j < s->pool->count; j++)(
		*flags)[j] |= !strcmp(json_string_value(path) ?: "", s->pool->items[j].path);
	return NULL;
}

struct pe_error *survey_log_recall(struct survey *s, struct trial *t)
{
	pe_auto_free char *key = key_of(t->change->path, (long long)t->change->hunk, t->hash);
	const json_t *result = key ? json_object_get(s->known, key) : NULL;
	const char *outcome = json_string_value(json_object_get(result, "outcome"));

	if (!key)
		return pe_error_nomem();
	for (size_t i = 0; outcome && i < outcome_count; i++) {
		if (strcmp(outcome, survey_outcomes[i]))
			continue;
		s->trial_done++;

		struct pe_error *err = survey_end(
			t, (enum outcome)i, json_string_value(json_object_get(result, "reason")),
			json_string_value(json_object_get(result, "message")));

		if (!err)
			err = recall_paths(s, json_object_get(result, "with"), &t->with);
		return err ? err : recall_paths(s, json_object_get(result, "without"), &t->without);
	}
	return NULL;
}

struct pe_error *survey_log_add(struct survey *s, const struct trial *t)
{
	if (!s->log)
		return NULL;

	json_t *line = trial_json(s, t);

	if (line)
		json_object_set_new(line, "diff", json_string(t->hash));
	return write_line(s, line);
}

/* ---- the end ---- */

size_t survey_count(const struct survey *s, bool hunks, enum outcome outcome)
{
	size_t count = 0;

	for (size_t i = 0; i < s->trial_count; i++) {
		const struct trial *t = &s->trials[i];

		count += t->done && !t->change->hunk == !hunks && t->outcome == outcome;
	}
	return count;
}

static json_t *summary_json(const struct survey *s, bool hunks)
{
	json_t *counts = json_object(), *reasons = json_object();

	for (size_t i = 0; i < outcome_count; i++)
		json_object_set_new(
			counts, survey_outcomes[i],
			json_integer((json_int_t)survey_count(s, hunks, (enum outcome)i)));
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

	for (size_t i = 0; i < s->trial_count; i++)
		json_array_append_new(trials, trial_json(s, &s->trials[i]));
	pe_cli_json(json_pack("{s:s, s:o, s:o, s:o}", "target", s->o->target, "files",
			      summary_json(s, false), "hunks", summary_json(s, true), "trials",
			      trials));
}

/* Outcomes, below each the reasons that led to it. */
static void print_summary(const struct survey *s, bool hunks)
{
	static const char *const titles[] = { "OUTCOME", "REASON", ">COUNT", NULL };
	struct pe_table *table = pe_table_new(titles);
	json_t *value;
	const char *reason;
	char text[32];

	for (enum outcome o = OUTCOME_NONE; o <= OUTCOME_FAILED; o++) {
		json_t *reasons = json_object();

		for (size_t i = 0; i < s->trial_count; i++) {
			const struct trial *t = &s->trials[i];

			if (!t->reason || !t->change->hunk != !hunks || t->outcome != o)
				continue;

			json_int_t n = json_integer_value(json_object_get(reasons, t->reason));

			json_object_set_new(reasons, t->reason, json_integer(n + 1));
		}
		snprintf(text, sizeof(text), "%zu", survey_count(s, hunks, o));
		if (survey_count(s, hunks, o))
			pe_table_row(table,
				     (const char *const[]){ survey_outcomes[o], NULL, text });
		json_object_foreach(reasons, reason, value)
		{
			snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(value));
			pe_table_row(table, (const char *const[]){ "", reason, text });
		}
		json_decref(reasons);
	}
	printf("%s:\n", hunks ? "Hunks" : "Files");
	pe_table_print_and_free(table);
}

static size_t flag_count(const struct survey *s, const bool *flags)
{
	size_t count = 0;

	for (size_t i = 0; flags && i < s->pool->count; i++)
		count += flags[i];
	return count;
}

static char *change_text(const struct survey *s, const struct trial *t)
{
	size_t with = flag_count(s, t->with), without = flag_count(s, t->without);
	char more[32] = "", less[32] = "";

	if (t->change->hunk)
		return pe_format("%s, hunk %zu", t->change->path, t->change->hunk);
	if (with)
		snprintf(more, sizeof(more), " and %zu more", with);
	if (without)
		snprintf(less, sizeof(less), ", without %zu", without);
	return pe_format("%s%s%s", t->change->path, more, less);
}

static void print_text(const struct survey *s)
{
	static const char *const titles[] = { "CHANGE", "OUTCOME", "REASON", NULL };
	struct pe_table *table = pe_table_new(titles);

	for (size_t i = 0; i < s->trial_count; i++) {
		const struct trial *t = &s->trials[i];
		pe_auto_free char *change = change_text(s, t);

		if (t->outcome != OUTCOME_NONE)
			pe_table_row(table,
				     (const char *const[]){ change, survey_outcomes[t->outcome],
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

void survey_print(const struct survey *s)
{
	if (s->o->common.json)
		print_json(s);
	else
		print_text(s);
}

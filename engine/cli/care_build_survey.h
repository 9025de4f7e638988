/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parts of `care-build survey' share. */
#ifndef CLI_CARE_BUILD_SURVEY_H
#define CLI_CARE_BUILD_SURVEY_H

#include "build/database.h"
#include "build/run.h"
#include "build/survey.h"
#include "cli/care_build.h"

struct survey_options {
	struct care_build_common common;
	const char *target, *new, *old, *keep, *pid, *image, *out;
	unsigned long jobs, max_units;
	struct pe_strv below;
	bool hunks, together;
};

enum outcome { OUTCOME_NONE, OUTCOME_BUILT, OUTCOME_APPLIED, OUTCOME_REFUSED, OUTCOME_FAILED };

/* "no code", "built", ... */
extern const char *const survey_outcomes[];

struct trial {
	const struct pe_survey_change *change; /* that it is about */
	bool *with; /* a flag for each of the survey's changes: tried together with it; NULL: none
		     */
	bool *without; /* likewise: was tried together with it, and cannot be patched itself */
	char *why, *why_message; /* owned: what was said of those */
	size_t rounds;		 /* how often it was tried with more */
	size_t number;
	char hash[65]; /* of what it tries */
	bool done;
	enum outcome outcome;
	char *reason, *message; /* owned; NULL when built or applied */
};

struct survey {
	const struct survey_options *o;
	char *care_build, *care_patch, *dir;
	char *old_tree, *new_tree;
	char *source; /* of the target */
	struct pe_database database;
	struct pe_survey_changes changes, hunks;
	/* All changes between the trees, where others are found that one needs. */
	const struct pe_survey_changes *pool;
	struct pe_survey_changes all; /* what pool is when PATHs limit changes; made when needed */
	struct trial *trials;	      /* of changes, then of hunks */
	size_t trial_count, trial_done;
	json_t *known; /* results of an earlier run, by change */
	FILE *log;     /* where results are kept as they come; NULL: nowhere */
	struct pe_progress progress;
};

/* Tries what is not done of @trials, several at a time; sets their outcomes and logs them. */
struct pe_error *survey_try(struct survey *s, struct trial *trials, size_t count) pe_must_check;
/* Makes the pool if it is not there. */
struct pe_error *survey_pool(struct survey *s) pe_must_check;
/* Sets what is known of a trial. */
struct pe_error *survey_end(struct trial *trial, enum outcome outcome, const char *reason,
			    const char *message) pe_must_check;

/* Opens the file of results and reads what an earlier run has left there. */
struct pe_error *survey_log_open(struct survey *s) pe_must_check;
/* Is the result known from an earlier run? Then it is taken over. */
struct pe_error *survey_log_recall(struct survey *s, struct trial *trial) pe_must_check;
/* Appends the result of a trial that is done. */
struct pe_error *survey_log_add(struct survey *s, const struct trial *trial) pe_must_check;

size_t survey_count(const struct survey *s, bool hunks, enum outcome outcome);
void survey_print(const struct survey *s);

#endif

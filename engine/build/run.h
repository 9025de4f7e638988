/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Running other programs without a shell: output captured, several at a time, stoppable.
 *
 * After pe_run_guard_signals(), SIGINT, SIGTERM and SIGHUP do not end us at once: running
 * programs are ended, the run fails with "interrupted", and what the caller holds (temporary
 * trees) is released on the way out. A second signal ends us as usual.
 */
#ifndef BUILD_RUN_H
#define BUILD_RUN_H

#include <stdbool.h>
#include <stddef.h>

#include "build/text.h"
#include "build/tree.h"
#include "engine/error.h"

struct pe_run {
	const struct pe_strv *argv; /* argv[0] is looked up in PATH */
	const char *cwd;	    /* NULL: ours */
	const struct pe_strv *env;  /* the whole environment; NULL: ours */
	const char *log;	    /* append stdout and stderr to this file instead of capturing */
	const struct pe_tree *tree; /* run in there; NULL: in our own file system */
	/* results */
	int status; /* as waitpid gives it */
	char *out;  /* owned; stdout as text; NULL with @log */
	char *err;  /* owned; stderr as text; NULL with @log */
};

void pe_run_deinit(struct pe_run *run);
#define pe_auto_run __attribute__((cleanup(pe_run_deinit)))

/*
 * Runs one program to its end. An error only when it could not be run or when we were
 * interrupted: its exit status is in @run.
 */
struct pe_error *pe_run(struct pe_run *run) pe_must_check;
/*
 * Runs all of them, at most @jobs at a time. @done, when not NULL, is called for each as it ends;
 * once it returns false, no more are started.
 */
struct pe_error *pe_run_all(struct pe_run *runs, size_t count, size_t jobs,
			    bool (*done)(void *ctx, struct pe_run *run), void *ctx) pe_must_check;
bool pe_run_succeeded(const struct pe_run *run);
/* "exit status 2" or "signal 9 (Killed)". @buf holds 64 bytes. */
const char *pe_run_how(const struct pe_run *run, char *buf);

void pe_run_guard_signals(void);
bool pe_interrupted(void);

/*
 * How many compilers may run at a time: CARE_BUILD_JOBS, or as many as there are processors that we
 * may use, and 1 GiB of free memory for each.
 */
size_t pe_run_jobs(void);
/* Is there a program of that name in PATH. */
bool pe_program_exists(const char *name);

#endif

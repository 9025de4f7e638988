/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who traces. A thread of the target in uninterruptible sleep (a write to a slow disk), or one that
 * gets no processor, cannot be detached before it has stopped; what is seized and not detached
 * then stands as soon as it wakes, for as long as its tracer lives. So the tracer is a thread that
 * lives for one operation: when it ends, the kernel detaches whatever it still holds.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/types.h>

#include "engine/cleanup.h"
#include "proc.h"

enum { DETACH_US = 1000000, STEP_US = 200 };

static _Thread_local bool is_tracer;

struct job {
	struct pe_error *(*work)(void *ctx);
	void *ctx;
	struct pe_error *err;
	sigset_t signals;
	pid_t tid;
};

static void *run(void *arg)
{
	struct job *job = arg;

	is_tracer = true;
	job->tid = gettid();
	pthread_sigmask(SIG_SETMASK, &job->signals, NULL);
	job->err = job->work(job->ctx);
	return NULL;
}

/* A thread is joined a moment before the kernel detaches what it traced. */
static void await_detach(struct pe_target *target, pid_t tracer)
{
	uint64_t end = pe_now_us() + DETACH_US;

	for (; target->straggler_count; target->straggler_count--) {
		char path[64];

		snprintf(path, sizeof(path), "/proc/%d/task/%d/status", target->pid,
			 target->stragglers[target->straggler_count - 1]);
		while (proc_status_number(path, "\nTracerPid:") == tracer && pe_now_us() < end)
			usleep(STEP_US);
	}
}

struct pe_error *pe_target_trace(struct pe_target *target, struct pe_error *(*work)(void *ctx),
				 void *ctx)
{
	struct job job = { .work = work, .ctx = ctx };
	pthread_t thread;
	sigset_t all;

	if (is_tracer)
		return work(ctx);
	/* Signals are for the thread that works: it knows where one may cancel. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &job.signals);

	int errnum = pthread_create(&thread, NULL, run, &job);

	if (errnum)
		job.err = pe_error_errno(errnum, "cannot make a thread");
	else
		pthread_join(thread, NULL);
	pthread_sigmask(SIG_SETMASK, &job.signals, NULL);
	if (!errnum)
		await_detach(target, job.tid);
	return job.err;
}

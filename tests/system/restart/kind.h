/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A kind of system call that blocks, and what kinds share. Each file has a group of them. */
#ifndef RESTART_KIND_H
#define RESTART_KIND_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { WAIT_MS = 1500 };

static const struct timespec wait_ts = { .tv_sec = WAIT_MS / 1000,
					 .tv_nsec = WAIT_MS % 1000 * 1000000L };

static inline struct timespec in_a_while(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	ts.tv_sec += wait_ts.tv_sec;
	ts.tv_nsec += wait_ts.tv_nsec;
	if (ts.tv_nsec >= 1000000000) {
		ts.tv_nsec -= 1000000000;
		ts.tv_sec++;
	}
	return ts;
}

/*
 * A kind: what it returns is right (0) or an errno. A helper process ends waits without a timeout;
 * it is a process so that the waiting thread may be the only one.
 */
struct kind {
	const char *name;
	int (*prepare)(struct kind *kind);
	int (*wait)(struct kind *kind);
	void (*clean)(struct kind *kind); /* by the helper process, in the end */
	bool timed; /* a timeout of its own, of which only the rest may be left after a stop */
	bool again; /* the kernel cannot continue it: its relative timeout begins again */
	int fd[2];
	void *memory;
	int loops, eintr, early, other, best_ms;
};

static inline int is(long result, int error)
{
	if (result >= 0)
		return error ? -1 : 0;
	return errno == error ? 0 : errno;
}

/* Runs @feed every WAIT_MS in a child, until the parent is gone. */
static inline int feed_with(struct kind *kind, void (*feed)(struct kind *kind))
{
	pid_t parent = getpid();

	switch (fork()) {
	case -1:
		return errno;
	case 0:
		signal(SIGPIPE, SIG_IGN);
		/* Feeding may block for ever; only who has something to remove must live on. */
		if (!kind->clean)
			prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() == parent) {
			usleep(WAIT_MS * 1000);
			feed(kind);
		}
		if (kind->clean)
			kind->clean(kind);
		_exit(0);
	default:
		return 0;
	}
}

static inline int make_pipe(struct kind *kind)
{
	return pipe(kind->fd) ? errno : 0;
}

static inline void feed_byte(struct kind *kind)
{
	if (write(kind->fd[1], "x", 1) != 1)
		_exit(0);
}

static inline int make_fed_pipe(struct kind *kind)
{
	int error = make_pipe(kind);

	return error ? error : feed_with(kind, feed_byte);
}

/* The groups; each ends with a kind without a name. */
extern struct kind sleeping[], reading[], events[], writing[], connections[], processes[], queues[],
	async[];

#endif

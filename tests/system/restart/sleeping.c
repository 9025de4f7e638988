/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sleeping, for a time or until somebody wakes: futexes too. */
#include "kind.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/mman.h>

/* ---- sleeping ---- */

static int wait_nanosleep(struct kind *kind)
{
	return is(syscall(SYS_nanosleep, &wait_ts, NULL), 0);
}

static int wait_clock_nanosleep(struct kind *kind)
{
	return is(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &wait_ts, NULL), 0);
}

static int wait_clock_nanosleep_until(struct kind *kind)
{
	struct timespec until = in_a_while(CLOCK_MONOTONIC);

	return is(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL), 0);
}

/* ---- futexes ---- */

static int make_shared(struct kind *kind)
{
	kind->memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return kind->memory == MAP_FAILED ? errno : 0;
}

static void feed_futex(struct kind *kind)
{
	syscall(SYS_futex, kind->memory, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static int make_futex(struct kind *kind)
{
	int error = make_shared(kind);

	return error ? error : feed_with(kind, feed_futex);
}

static int wait_futex(struct kind *kind)
{
	return is(syscall(SYS_futex, kind->memory, FUTEX_WAIT, 0, NULL, NULL, 0), 0);
}

static int wait_futex_timed(struct kind *kind)
{
	return is(syscall(SYS_futex, kind->memory, FUTEX_WAIT, 0, &wait_ts, NULL, 0), ETIMEDOUT);
}

static int wait_futex_until(struct kind *kind)
{
	struct timespec until = in_a_while(CLOCK_MONOTONIC);

	return is(syscall(SYS_futex, kind->memory, FUTEX_WAIT_BITSET, 0, &until, NULL,
			  FUTEX_BITSET_MATCH_ANY),
		  ETIMEDOUT);
}

static int wait_condition(struct kind *kind)
{
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
	struct timespec until = in_a_while(CLOCK_REALTIME);
	int result = 0;

	pthread_mutex_lock(&mutex);
	while (!result)
		result = pthread_cond_timedwait(&condition, &mutex, &until);
	pthread_mutex_unlock(&mutex);
	return result == ETIMEDOUT ? 0 : result;
}

/* ---- the table ---- */

struct kind sleeping[] = {
	{ "nanosleep", NULL, wait_nanosleep, .timed = true },
	{ "clock_nanosleep", NULL, wait_clock_nanosleep, .timed = true },
	{ "clock_nanosleep_until", NULL, wait_clock_nanosleep_until, .timed = true },
	{ "futex", make_futex, wait_futex },
	{ "futex_timed", make_shared, wait_futex_timed, .timed = true },
	{ "futex_until", make_shared, wait_futex_until, .timed = true },
	{ "pthread_cond_timedwait", NULL, wait_condition, .timed = true },
	{ NULL },
};

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Blocks in one system call of each kind that a server may block in, in a thread each, and counts
 * what the program sees of stops: EINTR, timeouts that end early, timeouts that begin again.
 *
 * A wait ends by its own timeout (timed) or because a feeder ends it every WAIT_MS (fed).
 * Questions: '*' runs all kinds, each in a thread of its own; '@' and the characters after it run
 * one kind, in the order of the groups, a few times in the first thread, then the only one; '?'
 * prints what was counted; '#' how many kinds there are. Each group is a file beside this one.
 */
#include "kind.h"

#include <pthread.h>

enum { LOOPS = 2 };

/* The function that is patched, so that there is something to switch. */
__attribute__((noinline)) int value(void)
{
	__asm__ volatile("nop; nop; nop; nop");
	return 1;
}

static long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static struct kind *const groups[] = { sleeping,    reading,   events, writing,
				       connections, processes, queues, async };

/* All of them, in this order; as many as there are characters for. */
static struct kind *kinds[64];
static int count;

static void collect_kinds(void)
{
	for (size_t i = 0; i < sizeof(groups) / sizeof(*groups); i++) {
		for (struct kind *kind = groups[i]; kind->name; kind++) {
			if (count == sizeof(kinds) / sizeof(*kinds))
				abort();
			kinds[count++] = kind;
		}
	}
}

static void run(struct kind *kind)
{
	long begin = now_ms();
	int error = kind->wait(kind);
	long took = now_ms() - begin;

	if (error == EINTR)
		kind->eintr++;
	else if (error)
		kind->other = error;
	if (kind->timed && took < WAIT_MS - 20)
		kind->early++;
	if (!kind->loops || took < kind->best_ms)
		kind->best_ms = (int)took;
	kind->loops++;
}

static void *run_for_ever(void *arg)
{
	for (;;)
		run(arg);
	return NULL;
}

static void prepare_kind(struct kind *kind)
{
	int error = kind->prepare ? kind->prepare(kind) : 0;

	/* What this kernel or this container does not have: shown as loops -1. */
	if (error) {
		kind->other = error;
		kind->loops = -1;
	}
}

static void report(const struct kind *kind)
{
	printf("%s loops=%d eintr=%d early=%d other=%d best=%d timed=%d again=%d;", kind->name,
	       kind->loops, kind->eintr, kind->early, kind->other, kind->best_ms, kind->timed,
	       kind->again);
}

void prepare(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	collect_kinds();
}

void say(char question)
{
	pthread_t thread;

	if (question == '#') {
		printf("%d kinds, value %d\n", count, value());
	} else if (question == '*') {
		for (int i = 0; i < count; i++)
			prepare_kind(kinds[i]);
		for (int i = 0; i < count; i++)
			if (kinds[i]->loops >= 0)
				pthread_create(&thread, NULL, run_for_ever, kinds[i]);
		puts("running");
	} else if (question == '?') {
		for (int i = 0; i < count; i++)
			report(kinds[i]);
		puts("");
	} else {
		struct kind *kind = kinds[(unsigned char)question - '@'];

		prepare_kind(kind);
		puts("running");
		for (int i = 0; i < LOOPS && kind->loops >= 0; i++)
			run(kind);
		report(kind);
		puts("");
	}
}

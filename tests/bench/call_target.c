/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The target of tests/bench/call: three small functions, called in a loop on demand.
 *
 * Waits in poll() for a line "FUNCTION CALLS" and answers with the nanoseconds of one call and what
 * the last call returned. The argument of each call is the result of the one before, so that calls
 * do not overlap.
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define function __attribute__((noipa)) long

function single(long x)
{
	return x * 3 + 1;
}

function first(long x)
{
	return x * 5 + 1;
}

function second(long x)
{
	return x * 9 + 1;
}

static long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* One loop for each, so that the call is a direct one, as calls in a server are. */
#define MEASURE(name)                                      \
	static double measure_##name(long calls, long *x)  \
	{                                                  \
		long long begin = now_ns();                \
		for (long i = 0; i < calls; i++)           \
			*x = name(*x & 15);                \
		return (double)(now_ns() - begin) / calls; \
	}
MEASURE(single)
MEASURE(first)
MEASURE(second)

int main(void)
{
	struct pollfd in = { .fd = 0, .events = POLLIN };
	char name[16];
	long calls;

	setvbuf(stdin, NULL, _IONBF, 0);
	while (poll(&in, 1, -1) == 1 && scanf("%15s %ld", name, &calls) == 2) {
		long x = 1;
		double ns = !strcmp(name, "single")  ? measure_single(calls, &x)
			    : !strcmp(name, "first") ? measure_first(calls, &x)
						     : measure_second(calls, &x);

		getchar(); /* the end of the line */
		printf("%.4f %ld\n", ns, x);
		fflush(stdout);
	}
	return 0;
}

# SPDX-License-Identifier: GPL-2.0-or-later
"""A program with as many threads, as much memory and as many functions to patch as asked for.

Threads block as those of a server do (condition variable, poll, read) some calls deep; with load
each wakes up now and then and calls a function that patches replace.
"""
import os
import time

from harness import die_with_parent
from programs import Program, Running

FUNCTIONS = 200

_SOURCE = r"""
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NI __attribute__((noinline, noipa))
@functions@

static NI long call_all(long x)
{
@calls@
	return x;
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static int silent[2];
static unsigned long threads, rate, megabytes;

static NI void block(unsigned long kind)
{
	char byte;
	struct pollfd fd = { .fd = silent[0], .events = POLLIN };

	if (kind % 3 == 0) {
		pthread_mutex_lock(&mutex);
		for (;;)
			pthread_cond_wait(&never, &mutex);
	} else if (kind % 3 == 1) {
		poll(&fd, 1, -1);
	} else {
		(void)!read(silent[0], &byte, 1);
	}
}

static NI void wake_up_often(unsigned long number)
{
	uint64_t each_us = 1000000 * threads / rate;
	struct timespec t = { .tv_sec = each_us / 1000000, .tv_nsec = each_us % 1000000 * 1000 };
	struct timespec first = { .tv_nsec = number * 7919 % 1000 * 1000000 };

	nanosleep(&first, NULL);
	for (long x = 0;;) {
		nanosleep(&t, NULL);
		x += call_all(x);
	}
}

/* Frames of a few hundred bytes, as deep as an idle connection of a server. */
static NI void deep(unsigned long number, int depth)
{
	volatile char frame[300];

	memset((char *)frame, 0, sizeof(frame));
	if (depth)
		deep(number, depth - 1);
	else if (rate)
		wake_up_often(number);
	else
		block(number);
	frame[0]++;
}

static void *run(void *arg)
{
	deep((unsigned long)arg, 12);
	return NULL;
}

static unsigned long number_of(const char *name)
{
	const char *text = getenv(name);

	return text ? strtoul(text, NULL, 10) : 0;
}

void prepare(void)
{
	pthread_attr_t attr;
	pthread_t thread;

	threads = number_of("BENCH_THREADS");
	rate = number_of("BENCH_RATE");
	megabytes = number_of("BENCH_MEGABYTES");
	if (megabytes) {
		void *memory = mmap(NULL, megabytes << 20, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		if (memory == MAP_FAILED)
			abort();
	}
	if (pipe(silent))
		abort();
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 256 << 10);
	for (unsigned long i = 1; i < threads; i++)
		if (pthread_create(&thread, &attr, run, (void *)i))
			abort();
}

void say(char question)
{
	printf("%ld\n", call_all(question));
}
"""


def _function(number):
    return f"NI long f{number}(long x) {{ return x * {2 * number + 3} + (x >> {number % 7 + 1}); }}"


def _as_a_service():
    """In a session of its own, as a server is: else the kernel's autogroups hold the processor
    time that the tools have used against it, and it is late to stop."""
    os.setsid()
    die_with_parent()


class ManyThreads(Program):
    """The program, compiled and known to care-build; patches of one and of all functions."""

    def __init__(self, folder):
        functions = "\n".join(_function(n) for n in range(FUNCTIONS))
        calls = "\n".join(f"\tx = f{n}(x);" for n in range(FUNCTIONS))
        super().__init__(folder, _SOURCE.replace("@functions@", functions)
                         .replace("@calls@", calls), name="many-threads")
        self.one = self._patch("one", 1)
        self.many = self._patch("many", FUNCTIONS)

    def _patch(self, name, count):
        return self.patch(name, {_function(n): _function(n).replace("return x", "return 2 * x")
                                 for n in range(count)})

    def start(self, threads, rate=0, megabytes=0):
        """@rate: how often a second any of the threads wakes up."""
        for key, value in (("THREADS", threads), ("RATE", rate), ("MEGABYTES", megabytes)):
            os.environ[f"BENCH_{key}"] = str(value)
        begin = time.monotonic()
        running = Running(self, before=_as_a_service)
        while len(os.listdir(f"/proc/{running.pid}/task")) < threads:
            assert time.monotonic() - begin < 60
        time.sleep(0.5)
        return running

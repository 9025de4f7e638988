/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Code that the children of the stop tests are in when they are stopped. */
#ifndef UNIT_STOP_FIXTURE_H
#define UNIT_STOP_FIXTURE_H

#include "proc_child.h"

#include <pthread.h>

static const struct pe_stop_options fifo = { .fifo = true, .limit_us = 2000000 };
static volatile int never;

/* As small under the sanitizers as without. */
#define CODE __attribute__((noinline, noclone, no_sanitize("address", "undefined")))

static CODE void wait_here(struct shared *shared)
{
	__atomic_add_fetch(&shared->errors, 1, __ATOMIC_RELAXED);
	shared->ready = 1;
	while (!never)
		pause();
	__asm__ volatile("");
}

static CODE __attribute__((noreturn)) void busy_function(struct shared *shared)
{
	shared->ready = 1;
	for (;;)
		shared->loops++;
}

static CODE void raising_function(void)
{
	raise(SIGUSR1);
	__asm__ volatile("");
}

static struct shared *handler_shared;

static void handler(int sig)
{
	wait_here(handler_shared);
}

static void body_altstack(struct shared *shared)
{
	stack_t stack = { .ss_sp = malloc(1 << 16), .ss_size = 1 << 16 };
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_ONSTACK };

	handler_shared = shared;
	sigaltstack(&stack, NULL);
	sigaction(SIGUSR1, &action, NULL);
	raising_function();
}

static void *sleeper(void *arg)
{
	wait_here(arg);
	return NULL;
}

enum { SMALL = 24 }; /* bytes; none of the functions has less */

static struct pe_range range_of(void *function, uint64_t size)
{
	return (struct pe_range){ .start = (uintptr_t)function, .end = (uintptr_t)function + size };
}

#endif

# SPDX-License-Identifier: GPL-2.0-or-later
"""A program whose threads never stop asking which level of a patch they meet: several functions
that must change together, and one that only some levels have."""
import os
import re

from programs import Program

# Answers are counted from the question 'b' on: 0 of pair() or single() is the shipped code, -1 two
# levels at once. Threads rest now and then, so that a switch finds a free moment.
SOURCE = r"""
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#define BODY __asm__ volatile("nop; nop; nop; nop; nop")
static atomic_int counting;
static atomic_long calls, unpatched, mixed;
__attribute__((noinline)) int left(void)
{
	BODY;
	return 0;
}
__attribute__((noinline)) int right(int x)
{
	BODY;
	return x == 0 ? 0 : -1;
}
__attribute__((noinline)) int pair(void)
{
	BODY;
	return right(left());
}
__attribute__((noinline)) int single(void)
{
	BODY;
	return 0;
}
__attribute__((noinline)) int extra(void)
{
	BODY;
	return 0;
}
static void look(int answer)
{
	calls++;
	unpatched += answer == 0;
	mixed += answer < 0;
}
static void *check(void *arg)
{
	for (long n = 0;; n++) {
		int count = counting, a = pair(), b = single();

		if (extra() < 0)
			mixed++;
		if (count) {
			look(a);
			look(b);
		}
		if (n % 64 == 0)
			nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
	}
	return arg;
}
void prepare(void)
{
	pthread_t thread;

	for (int i = 0; i < 3; i++)
		pthread_create(&thread, NULL, check, NULL);
}
void say(char question)
{
	if (question == 'b')
		counting = 1;
	else if (question == 'p')
		printf("%d %d %d\n", pair(), single(), extra());
	else
		printf("%ld calls, %ld unpatched, %ld mixed\n", calls, unpatched, mixed);
	if (question == 'b')
		printf("counting\n");
}
"""

PAIR = {
    "left(void)\n{\n\tBODY;\n\treturn 0;": "left(void)\n{\n\tBODY;\n\treturn %d;",
    "return x == 0 ? 0 : -1;": "return x == %d ? x : -1;",
    "pair(void)\n{\n\tBODY;\n\treturn right(left());":
    "pair(void)\n{\n\tBODY;\n\tint x = left();\n\tBODY;\n\treturn right(x) == %d ? x : -1;",
}
SINGLE = {"single(void)\n{\n\tBODY;\n\treturn 0;": "single(void)\n{\n\tBODY;\n\treturn %d;"}
EXTRA = {"extra(void)\n{\n\tBODY;\n\treturn 0;": "extra(void)\n{\n\tBODY;\n\treturn %d;"}


def build(folder):
    return Program(folder, SOURCE, ("-O2", "-fPIE", "-ffunction-sections"))


def level(program, number, *parts, name="set", options=()):
    """The patch file of a level: the functions of @parts answer its number."""
    changes = {old: new % number if "%d" in new else new
               for part in parts for old, new in part.items()}
    path = program.patch(name, changes, "--level", str(number), *options)
    kept = os.path.join(program.folder, f"{name}-{number}.cpatch")
    os.rename(path, kept)
    return kept


def counts(running):
    """(calls, unpatched, mixed) since the question 'b'."""
    return tuple(int(n) for n in re.findall(r"\d+", running.ask("c")))

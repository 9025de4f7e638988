# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is where when a patch arrives: functions that are left soon or never, recursion, threads that
come and go, locks that are held. One program shows most of it."""
import select
import time

import pytest

from harness import LONG, care, wait_until
from programs import Program, refusal

NOT_NOW = 4

# Each scene is a thread of its own that a letter starts; '?' tells what was seen.
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

static volatile int arrived, leave, result;
static atomic_long calls, wrong, born;

__attribute__((noinline)) int helper(int x)
{
	__asm__ volatile("nop; nop; nop; nop");
	return x * 3;
}

/* value() blocks on demand: inside it, or, one floor below, in a function that stays as it is. */
__attribute__((noinline)) void below(void)
{
	arrived = 1;
	while (!leave)
		poll(NULL, 0, 2);
}

__attribute__((noinline)) int value(int how)
{
	if (how == 'b')
		below();
	while (how == 's' && !leave && (arrived = 1))
		__asm__ volatile("nop");
	return 1;
}

__attribute__((noinline)) int deep(int n)
{
	int below_me;

	if (!n) {
		below();
		return 0;
	}
	below_me = deep(n - 1);
	return below_me + 1;
}

/* Takes its calls through the kernel, from many threads. */
__attribute__((noinline)) int hot(void)
{
	return (int)syscall(SYS_getppid) > 0 ? 1 : 0;
}

/* A leaf that keeps all it has in the red zone; 0 when none of it was lost. */
__attribute__((noinline)) long leaf(long seed)
{
	long bad = 0;

	__asm__ volatile("mov $1000, %%ecx\n"
			 "1: mov %1, -8(%%rsp)\n mov %1, -64(%%rsp)\n mov %1, -128(%%rsp)\n"
			 "mov $200, %%edx\n 2: dec %%edx\n jnz 2b\n"
			 "cmp %1, -8(%%rsp)\n jne 3f\n cmp %1, -64(%%rsp)\n jne 3f\n"
			 "cmp %1, -128(%%rsp)\n je 4f\n"
			 "3: inc %0\n 4: dec %%ecx\n jnz 1b\n"
			 : "+r"(bad) : "r"(seed) : "rcx", "rdx", "cc", "memory");
	return bad;
}

static void *in_value(void *how)
{
	result = value((int)(long)how);
	return NULL;
}

static void *in_deep(void *arg)
{
	result = deep(200);
	return arg;
}

static void *in_hot(void *arg)
{
	for (;;) {
		int got = hot();

		wrong += got != 1 && got != 2;
		calls++;
	}
	return arg;
}

static void *in_helper(void *arg)
{
	for (;;) {
		int got = value('-') * helper(5);

		wrong += got != 15 && got != 30 && got != 24;
		calls++;
	}
	return arg;
}

static void *in_leaf(void *arg)
{
	for (long seed = 1;; seed++) {
		wrong += leaf(seed);
		calls++;
	}
	return arg;
}

static void *short_life(void *arg)
{
	int got = value('-');

	wrong += got != 1 && got != 2 && got != 16;
	born++;
	return arg;
}

static void *storm(void *arg)
{
	for (;;) {
		pthread_t threads[8];

		for (int i = 0; i < 8; i++)
			pthread_create(&threads[i], NULL, short_life, NULL);
		for (int i = 0; i < 8; i++)
			pthread_join(threads[i], NULL);
	}
	return arg;
}

static void *in_malloc(void *arg)
{
	void *kept[64] = { 0 };

	for (unsigned int i = 0;; i++) {
		free(kept[i % 64]);
		kept[i % 64] = malloc(1 + (i * 7919) % 100000);
		calls++;
	}
	return arg;
}

static void *in_dlopen(void *arg)
{
	for (;;) {
		void *library = dlopen("libutil.so.1", RTLD_NOW);

		wrong += !library || !dlsym(library, "openpty");
		dlclose(library);
		born++;
	}
	return arg;
}

/* A coroutine that is suspended inside value() on a stack from malloc. */
static ucontext_t outside, inside;

__attribute__((noinline)) int coroutine(int x)
{
	swapcontext(&inside, &outside);
	return x + 1;
}

static void run_coroutine(void)
{
	result = coroutine(1);
	swapcontext(&inside, &outside);
}

static void start(int count, void *(*body)(void *), void *arg)
{
	pthread_t thread;

	for (int i = 0; i < count; i++)
		pthread_create(&thread, NULL, body, arg);
	usleep(20000);
}

void say(char question)
{
	switch (question) {
	case 'b':
	case 's':
		arrived = 0;
		start(1, in_value, (void *)(long)question);
		while (!arrived)
			usleep(1000);
		break;
	case 'd':
		arrived = 0;
		start(1, in_deep, NULL);
		while (!arrived)
			usleep(1000);
		break;
	case 'h':
		start(8, in_hot, NULL);
		break;
	case 'o':
		start(4, in_helper, NULL);
		break;
	case 'r':
		start(2, in_leaf, NULL);
		break;
	case 't':
		start(2, storm, NULL);
		break;
	case 'm':
		start(3, in_malloc, NULL);
		start(2, in_dlopen, NULL);
		break;
	case 'c':
		getcontext(&inside);
		inside.uc_stack.ss_sp = malloc(65536);
		inside.uc_stack.ss_size = 65536;
		makecontext(&inside, run_coroutine, 0);
		swapcontext(&outside, &inside);
		break;
	case 'C':
		swapcontext(&outside, &inside);
		break;
	case 'l':
		leave = 1;
		break;
	case 'L': /* leaf, in the first thread, which is the only one */
		for (int i = 0; i < 3000; i++)
			wrong += leaf(i);
		break;
	}
	printf("value %d result %d calls %ld born %ld wrong %ld\n", value('-'), result, (long)calls,
	       (long)born, (long)wrong);
}
"""


def numbers(line):
    words = line.split()
    return dict(zip(words[::2], map(int, words[1::2])))


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return Program(tmp_path_factory.mktemp("scenes"), SOURCE)


def one(program, name, old, new, kind="--dependent"):
    return program.patch(name, {old: new}, kind)


@pytest.fixture(scope="module")
def value(program):
    return one(program, "value", "__asm__ volatile(\"nop\");\n\treturn 1;",
               "__asm__ volatile(\"nop\");\n\treturn 2;")


@pytest.fixture
def running(program):
    with program.start() as p:
        yield p


def left(p):
    """Lets the thread leave; what its call returned."""
    p.ask("l")
    return wait_until(lambda: numbers(p.ask())["result"], 20, "the thread leaves")


def refused(p, patch, function):
    before = p.snapshot()
    message = refusal(p.apply(patch, "--timeout", "0.3", expect=NOT_NOW))
    assert function in message, message
    assert p.snapshot() == before


# ---- in the function, on top or below others

@pytest.mark.parametrize("where", ["b", "s"], ids=["below_others", "on_top"])
def test_a_thread_in_the_function_keeps_the_patch_out_until_it_leaves(running, value, where):
    running.ask(where)
    refused(running, value, "value")
    assert left(running) == 1
    running.apply(value)
    assert numbers(running.ask())["value"] == 2


def test_the_only_thread_in_the_function_keeps_the_patch_out(tmp_path):
    source = r"""
#include <poll.h>
#include <stdio.h>
__attribute__((noinline)) int whole_life(void)
{
	for (int i = 0; i < 100; i++)
		poll(NULL, 0, 20);
	return 1;
}
void say(char question)
{
	printf("%d\n", question == 'w' ? whole_life() : 0);
}
"""
    program = Program(tmp_path, source)
    patch = program.patch("whole", {"return 1;": "return 2;"}, "--dependent")
    with program.start() as p:
        p.process.stdin.write("w")
        p.process.stdin.flush()
        time.sleep(0.1)
        refused(p, patch, "whole_life")
        assert p.line(20) == "1"
        p.apply(patch)
        assert p.ask("w") == "2"


def test_recursion_a_patch_that_arrives_deep_in_it_waits_for_its_end(program, running):
    patch = one(program, "deep", "return below_me + 1;", "return below_me + 2;")
    running.ask("d")
    refused(running, patch, "deep")
    assert left(running) == 200
    running.apply(patch)
    assert numbers(running.ask("d"))["value"] == 1
    wait_until(lambda: numbers(running.ask())["result"] == 400, 5, "the new recursion")


def test_recursion_calls_under_way_end_in_old_code_with_an_independent_patch(program, running):
    patch = one(program, "deep-apart", "return below_me + 1;", "return below_me + 2;",
                "--independent")
    running.ask("d")
    running.apply(patch)
    assert left(running) == 200
    running.ask("d")
    wait_until(lambda: numbers(running.ask())["result"] == 400, 5, "the new recursion")


# ---- revert

def test_unpatch_busy_and_unwind_above_patch(running, value):
    """New code on a stack, with functions above it that were never patched."""
    running.apply(value)
    running.ask("b")
    before = running.snapshot()
    message = refusal(running.revert("value", "--timeout", "0.3", expect=NOT_NOW))
    assert "value" in message
    assert running.snapshot() == before
    assert left(running) == 2
    running.revert("value")
    assert numbers(running.ask())["value"] == 1
    wait_until(running.released, 10, "released")


def test_blocked_outside_sees_new_code_and_blocked_inside_ends_in_old(program, running):
    patch = one(program, "apart", "__asm__ volatile(\"nop\");\n\treturn 1;",
                "__asm__ volatile(\"nop\");\n\treturn 2;", "--independent")
    running.ask("b")
    running.apply(patch)
    # Outside: the next call is new. Inside: this call is not.
    assert numbers(running.ask())["value"] == 2
    info = running.info()[0]
    # Seen in its poll, or on its way there.
    assert info["state"] == "settling" and info["old_threads"] + info["running_threads"] >= 1
    assert left(running) == 1

    def settled():
        care("care-patch", "recover", "--pid", running.pid, expect=(0, 2))
        return running.info()[0]["state"] == "applied"

    wait_until(settled, 20, "no thread is left in old code")


# ---- many threads

def flips(p, patch, name, count):
    for _ in range(count):
        p.apply(patch)
        p.revert(name)


def test_thread_storm_threads_that_come_and_go_are_all_switched(running, value):
    running.ask("t")
    flips(running, value, "value", 100 if LONG else 6)
    first = numbers(running.ask())
    assert first["born"] > 100 and first["wrong"] == 0
    running.apply(value)
    wait_until(lambda: numbers(running.ask())["born"] > first["born"], 10, "the storm goes on")
    assert numbers(running.ask())["value"] == 2


def test_ref_orig_threads_new_code_calls_what_stayed_from_many_threads(program, running):
    patch = one(program, "orig", "__asm__ volatile(\"nop\");\n\treturn 1;",
                "__asm__ volatile(\"nop\");\n\treturn helper(1) - 1;")
    running.ask("o")
    flips(running, patch, "orig", 50 if LONG else 5)
    running.apply(patch)
    seen = numbers(running.ask())
    assert seen["value"] == 2 and seen["wrong"] == 0 and seen["calls"] > 1000


def test_hot_syscall_path_a_function_that_many_threads_call_all_the_time(program, running):
    patch = one(program, "hot", "> 0 ? 1 : 0;", "> 0 ? 2 : 0;", "--independent")
    running.ask("h")
    flips(running, patch, "hot", 50 if LONG else 5)
    running.apply(patch)
    seen = numbers(running.ask())
    assert seen["wrong"] == 0 and seen["calls"] > 1000


def test_red_zone_of_leaf_functions_survives_injection_and_stops(program, running, value):
    running.ask("r")
    flips(running, value, "value", 100 if LONG else 6)
    seen = numbers(running.ask())
    assert seen["wrong"] == 0 and seen["calls"] > 10


def test_red_zone_of_the_only_thread_that_computes_survives_injection(running, value):
    running.process.stdin.write("L")
    running.process.stdin.flush()
    for _ in range(100):
        if select.select([running.process.stdout], [], [], 0)[0]:
            break
        running.apply(value)
        running.revert("value")
    assert numbers(running.line(60))["wrong"] == 0


# ---- coroutines

def test_a_function_suspended_on_a_coroutine_s_stack_ends_in_old_code_unharmed(program, running):
    """What is suspended on a stack that no thread has is not seen: such a call ends in old code,
    and new code that it returns to is kept."""
    patch = one(program, "coroutine", "return x + 1;", "return x + 100;")
    running.ask("c")
    running.apply(patch)
    assert numbers(running.ask("C"))["result"] == 2
    running.ask("c")
    running.revert("coroutine")
    # It will return into the new code: that must still be there.
    assert running.ours()
    assert numbers(running.ask("C"))["result"] == 101
    assert running.alive()


# ---- locks

def test_malloc_lock_held_threads_in_malloc_and_dlopen_never_block_a_switch(tmp_path):
    """New code with unwind tables: each switch calls a function on a borrowed thread, which must
    hold no lock of the allocator or the loader."""
    source = SOURCE.replace("__attribute__((noinline)) int helper(int x)", r"""
static void clean(int *x)
{
	*x = 0;
}
__attribute__((noinline)) int helper(int x)""", 1)
    program = Program(tmp_path, source, ("-O2", "-fPIE", "-fexceptions"),
                      ("-pie", "-Wl,--no-as-needed", "-lgcc_s"))
    patch = program.patch("locks", {
        "__asm__ volatile(\"nop\");\n\treturn 1;":
        "__asm__ volatile(\"nop\");\n\tint local __attribute__((cleanup(clean))) = 1;\n"
        "\treturn helper(local) - 1;"}, "--dependent")
    with program.start() as p:
        p.ask("m")
        for _ in range(300 if LONG else 6):
            done = p.apply(patch)
            assert "libgcc" not in (done["note"] or ""), done
            assert numbers(p.ask())["value"] == 2
            p.revert("locks")
        first = numbers(p.ask())
        wait_until(lambda: (lambda n: n["calls"] > first["calls"] and n["born"] > first["born"])(
            numbers(p.ask())), 10, "malloc and dlopen go on")
        assert first["wrong"] == 0


def test_malloc_interposed_a_program_with_its_own_allocator(tmp_path):
    source = r"""
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
/* Used before any constructor runs, and not reentrant: a call from a thread that is inside hangs. */
static char heap[1 << 24];
static size_t used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
void *malloc(size_t size)
{
	size_t *block;

	pthread_mutex_lock(&lock);
	block = (size_t *)(heap + used);
	used = (used + size + 31) & ~15UL;
	if (used > sizeof(heap) / 2)
		used = sizeof(heap) / 2;
	pthread_mutex_unlock(&lock);
	*block = size;
	return block + 2;
}
void free(void *block)
{
}
void *calloc(size_t count, size_t size)
{
	return memset(malloc(count * size), 0, count * size);
}
void *realloc(void *old, size_t size)
{
	void *new = malloc(size);

	if (old)
		memcpy(new, old, ((size_t *)old)[-2] < size ? ((size_t *)old)[-2] : size);
	return new;
}
static void *busy(void *arg)
{
	for (;;)
		free(malloc(1));
	return arg;
}
__attribute__((noinline)) int value(void)
{
	char *text = malloc(10);

	strcpy(text, "x");
	return text[0] == 'x';
}
void prepare(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, busy, NULL);
}
void say(char question)
{
	printf("%d\n", value());
}
"""
    program = Program(tmp_path, source)
    patch = program.patch("interposed", {"return text[0] == 'x';": "return 5;"})
    with program.start() as p:
        for _ in range(50 if LONG else 5):
            p.apply(patch)
            assert p.ask() == "5"
            p.revert("interposed")
            assert p.ask() == "1"

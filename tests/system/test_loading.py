# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches while the dynamic linker is at work: what it has not bound yet is not taken for bound, and
what it unloads or replaces during a wait is not patched."""
import contextlib
import os
import subprocess
import time

import pytest

from harness import care, program as program_path, wait_until
from programs import Library, Program, refusal

NOTHING, NOT_NOW = 2, 4

PROGRAM = r"""
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static void *library;
static int (*answer)(void);
static int (*stay)(void);
static volatile int *leave;
static pthread_t thread;
__attribute__((noinline)) int value(void)
{
	return getppid() > 0 ? 1 : 0;
}
static void *run(void *arg)
{
	stay();
	return arg;
}
static void load(const char *name)
{
	library = dlopen(name, RTLD_NOW);
	if (!library)
		return;
	answer = (int (*)(void))dlsym(library, "answer");
	stay = (int (*)(void))dlsym(library, "stay");
	leave = (volatile int *)dlsym(library, "leave");
}
void say(char question)
{
	switch (question) {
	case 'o':
		load("./libcase.so");
		break;
	case 'b':
		load("./libbroken.so");
		break;
	case 's': /* a thread stays in the library's function */
		pthread_create(&thread, NULL, run, NULL);
		usleep(50000);
		break;
	case 'x': /* it leaves, the library is unloaded, and another comes to its place */
	case 'c':
		*leave = 1;
		pthread_join(thread, NULL);
		dlclose(library);
		library = NULL;
		if (question == 'x')
			load("./libother.so");
		break;
	}
	printf("%d %d\n", value(), library ? answer() : 0);
}
"""

# The resolver runs before the slots of functions are bound, and waits for a file.
LIBRARY = r"""
#include <poll.h>
#include <unistd.h>
volatile int leave;
static long call(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return result;
}
static int chosen(void)
{
	return 0;
}
static int (*pick(void))(void)
{
	while (call(21, (long)"wait", 0, 0) == 0) /* access */
		call(7, 0, 0, 5);                 /* poll */
	return chosen;
}
int choice(void) __attribute__((ifunc("pick")));
int (*volatile choose)(void) = choice;
__attribute__((noinline)) int answer(void)
{
	return getppid() > 0 ? 1 : 0;
}
__attribute__((noinline)) int stay(void)
{
	int n = 0;
	while (!leave) {
		poll(0, 0, 2);
		n++;
	}
	return n;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return Program(tmp_path_factory.mktemp("loading"), PROGRAM, ("-O2", "-fPIE"),
                   ("-pie", "-ldl"))


@pytest.fixture(scope="module")
def library(program):
    made = Library(program, LIBRARY, "lib.c", "-Wl,-z,now")
    # The same in all but its build-id and what it answers: it comes to the same place.
    other = LIBRARY.replace("? 1 : 0", "? 5 : 0")
    with open(f"{program.folder}/other.c", "w") as out:
        out.write(other)
    for command in ("cc -g -O2 -fPIC -c other.c -o other.o",
                    "c++ -shared -Wl,-z,now -Wl,-soname,libother.so other.o -o libother.so"):
        subprocess.run(command.split(), cwd=program.folder, check=True)
    return made


@pytest.fixture(scope="module")
def value(program):
    return program.patch("value", {"? 1 : 0": "? 2 : 0"})


@contextlib.contextmanager
def fifo(path):
    """A library that the dynamic linker waits for as long as this lasts."""
    os.mkfifo(path)
    try:
        yield
        os.close(os.open(path, os.O_WRONLY))
    finally:
        os.unlink(path)


def until_linker_waits(p):
    def in_openat():
        with open(f"/proc/{p.pid}/syscall") as file:
            return file.read().startswith("257 ")

    wait_until(in_openat, 10, "the dynamic linker waits")


def start_preloading(program, path):
    """The program, whose dynamic linker waits for a library at its start."""
    p = program.start(env={"LD_PRELOAD": path}, ready=False)
    until_linker_waits(p)
    return p


def test_a_process_that_is_still_being_loaded_is_refused_and_can_be_patched_later(program, value):
    path = f"{program.folder}/late.so"
    with contextlib.ExitStack() as stack:
        with fifo(path):
            p = stack.enter_context(start_preloading(program, path))
            before = p.snapshot()
            message = refusal(p.apply(value, expect=NOT_NOW))
            assert "dynamic linker" in message and "starting" in message
            assert p.snapshot() == before
        assert p.line(60) == "ready"
        p.apply(value)
        assert p.ask() == "2 0"


def test_an_apply_waits_for_a_dynamic_linker_that_is_soon_done(program, value):
    path = f"{program.folder}/soon.so"
    with contextlib.ExitStack() as stack:
        with fifo(path):
            p = stack.enter_context(start_preloading(program, path))
            early = subprocess.Popen([program_path("care-patch"), "apply", value, "--pid",
                                      str(p.pid)], stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL)
            time.sleep(0.3)
            assert early.poll() is None
        assert early.wait(60) == 0
        assert p.line(60) == "ready"
        assert p.ask() == "2 0"


def test_a_library_whose_parts_are_being_loaded_is_waited_for(program, value):
    """dlopen() of a library stands at one that it needs."""
    folder = program.folder
    for command in ("cc -shared -fPIC -Wl,-soname,libneeded.so -x c /dev/null -o libneeded.so",
                    "cc -shared -fPIC -x c /dev/null -o libbroken.so -Wl,--no-as-needed "
                    "-L. -lneeded -Wl,-rpath,$ORIGIN"):
        subprocess.run(command.split(), cwd=folder, check=True)
    os.unlink(f"{folder}/libneeded.so")
    with program.start() as p:
        with fifo(f"{folder}/libneeded.so"):
            p.tell("b")
            until_linker_waits(p)
            before = p.snapshot()
            assert "loads or unloads" in refusal(p.apply(value, expect=NOT_NOW))
            assert p.snapshot() == before
        # It could not be loaded after all, and is forgotten.
        assert p.line() == "1 0"
        p.apply(value)
        assert p.ask() == "2 0"


def test_slots_that_are_not_bound_yet_are_not_used(program, library):
    patch = library.patch("answer", {"? 1 : 0": "? 3 : 0"})
    wait = f"{program.folder}/wait"
    with program.start() as p:
        open(wait, "w").close()
        try:
            p.tell("o")
            wait_until(lambda: "libcase" in p.maps(), 10, "the library is mapped")
            time.sleep(0.2)
            before = p.snapshot()
            assert "not bound" in refusal(p.apply(patch, expect=NOT_NOW))
            assert p.snapshot() == before
        finally:
            os.unlink(wait)
        assert p.line() == "1 1"
        p.apply(patch)
        assert p.ask() == "1 3"


@pytest.mark.parametrize("how", ["unloaded", "replaced"])
def test_a_library_that_goes_while_an_apply_waits_is_not_patched(program, library, how):
    """A thread is in the library's function, so the switch waits; when it leaves, the library goes
    at once, and another may come to the very same place."""
    patch = library.patch("stay", {"n++;": "n += 2;", "? 1 : 0": "? 3 : 0"}, "--dependent")
    told = []
    for _ in range(5):
        with program.start() as p:
            p.ask("o")
            place = [line for line in p.maps().splitlines() if "libcase" in line][0].split("-")[0]
            p.ask("s")
            apply = subprocess.Popen([program_path("care-patch"), "apply", patch, "--pid",
                                      str(p.pid), "--json"], stdin=subprocess.DEVNULL, text=True,
                                     stdout=subprocess.PIPE)
            wait_until(lambda: "care:stay" in p.maps(), 20, "the new code is there")
            time.sleep(0.2)
            answer = p.ask("c" if how == "unloaded" else "x")
            out, _ = apply.communicate(timeout=60)
            assert answer == ("1 0" if how == "unloaded" else "1 5")
            assert p.ask() == answer
            if how == "replaced":
                other = [line for line in p.maps().splitlines() if "libother" in line][0]
                assert other.split("-")[0] == place
            told.append((apply.returncode, out))
            care("care-patch", "recover", "--pid", p.pid, expect=(0, NOTHING))
            assert not p.ours() and p.ask() == answer
    refused = [out for status, out in told if status == NOT_NOW and "meanwhile" in out]
    assert refused, told

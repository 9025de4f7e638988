# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches for a shared library: loaded late, unloaded, absent, called back and thrown through."""

import pytest

from harness import care, wait_until
from programs import Library, Program, refusal

NOTHING, NOT_NOW, REFUSED = 2, 4, 5

# Throws from below the program's callback, through itself.
LIBRARY = r"""
#include <stdexcept>
#include <string>

extern "C" __attribute__((noinline)) int answer(int x)
{
	if (x > 1000)
		throw std::runtime_error("too much: " + std::to_string(x));
	return x + 1;
}

/* Goes down through the program and itself by turns. */
extern "C" __attribute__((noinline)) int ping(int depth, int (*pong)(int))
{
	int below = depth > 0 ? pong(depth - 1) : 0;

	return below + 1;
}
"""

PROGRAM = r"""
#include <cstdio>
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <stdexcept>
#include <unistd.h>

static void *library;
static volatile int arrived, leave, result;
static int (*answer)(int);
static int (*ping)(int, int (*)(int));

extern "C" __attribute__((noinline)) int pong(int depth)
{
	arrived |= depth == 0;
	while (depth == 0 && !leave)
		poll(NULL, 0, 2);
	int below = ping(depth, pong);

	return below + 1;
}

static void *play(void *arg)
{
	result = pong(40);
	return arg;
}

static __attribute__((noinline)) int guarded(int x)
{
	try {
		return answer(x);
	} catch (const std::exception &error) {
		std::printf("[%s] ", error.what());
		return -1;
	}
}

extern "C" void say(char question)
{
	pthread_t thread;

	switch (question) {
	case 'o':
		library = dlopen("./libcase.so", RTLD_NOW);
		answer = (int (*)(int))dlsym(library, "answer");
		ping = (int (*)(int, int (*)(int)))dlsym(library, "ping");
		break;
	case 'c':
		dlclose(library);
		library = NULL;
		break;
	case 'p':
		arrived = 0;
		pthread_create(&thread, NULL, play, NULL);
		while (!arrived)
			usleep(1000);
		break;
	case 'l':
		leave = 1;
		break;
	case 't':
		std::printf("%d\n", guarded(2000));
		return;
	}
	std::printf("%d %d\n", library ? guarded(1) : 0, result);
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    made = Program(tmp_path_factory.mktemp("late"), PROGRAM, ("-O2", "-fPIE"),
                   ("-pie", "-ldl"), case="case.cc")
    return made


@pytest.fixture(scope="module")
def library(program):
    return Library(program, LIBRARY)


@pytest.fixture(scope="module")
def answer(library):
    return library.patch("answer", {"return x + 1;": "return x + 10;"})


def test_target_absent_is_refused_by_name_and_late_library_gets_it_at_the_next_apply(program,
                                                                                     answer):
    with program.start() as p:
        before = p.snapshot()
        message = refusal(p.apply(answer, expect=REFUSED))
        assert "libcase.so" in message and "not loaded" in message
        assert p.snapshot() == before
        assert p.ask("o") == "2 0"
        p.apply(answer)
        assert p.ask() == "11 0"
        p.revert("answer")
        assert p.ask() == "2 0"


def test_library_unloaded_its_patch_is_gone_with_it_and_can_come_again(program, answer):
    with program.start() as p:
        p.ask("o")
        p.apply(answer)
        assert p.ask("c") == "0 0"
        # The code that was patched is not there: only memory is left to be released.
        care("care-patch", "recover", "--pid", p.pid, expect=(0, NOTHING))
        assert p.alive() and not p.ours()
        p.revert("answer", expect=NOTHING)
        assert p.ask("o") == "2 0"
        p.apply(answer)
        assert p.ask() == "11 0"


def test_library_unloaded_and_loaded_again_to_the_same_place_is_not_taken_for_patched(program,
                                                                                      answer):
    with program.start() as p:
        p.ask("o")
        p.apply(answer)
        place = [line.split("-")[0] for line in p.maps().splitlines() if "libcase" in line][0]
        p.ask("c")
        assert p.ask("o") == "2 0"
        assert place in p.maps()
        assert "applied" not in [x["state"] for x in p.info()]
        assert p.apply(answer)["action"] == "applied"
        assert p.ask() == "11 0"
        p.revert("answer")
        assert p.ask() == "2 0"


def test_cxx_exception_is_thrown_in_patched_code_of_a_library_and_caught_in_the_program(program,
                                                                                        library):
    patch = library.patch("thrower", {"if (x > 1000)": "if (x > 100)",
                                      '"too much: "': '"far too much: "'})
    with program.start() as p:
        p.ask("o")
        assert p.ask("t") == "[too much: 2000] -1"
        for _ in range(3):
            p.apply(patch)
            assert p.ask("t") == "[far too much: 2000] -1"
            p.revert("thrower")
            assert p.ask("t") == "[too much: 2000] -1"


def test_recursion_cross_lib_a_patch_that_arrives_deep_in_it_waits_for_its_end(program, library):
    patch = library.patch("ping", {"return below + 1;": "return below + 100;"}, "--dependent")
    with program.start() as p:
        p.ask("o")
        p.ask("p")
        before = p.snapshot()
        assert "ping" in refusal(p.apply(patch, "--timeout", "0.3", expect=NOT_NOW))
        assert p.snapshot() == before
        p.ask("l")
        assert wait_until(lambda: int(p.ask().split()[1]), 20, "the recursion ends") == 82
        p.apply(patch)
        p.ask("p")
        wait_until(lambda: int(p.ask().split()[1]) == 41 + 4100, 5, "the new recursion")

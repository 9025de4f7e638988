# SPDX-License-Identifier: GPL-2.0-or-later
"""The life of a patch on small programs of our own: applied, stood upon, taken back, gone."""
import os
import re
import time

import pytest

from harness import LONG, care
from programs import Program, refusal

NOTHING, NO_TARGET, NOT_NOW, REFUSED = 2, 3, 4, 5

SIMPLE = r"""
#include <stdio.h>
__attribute__((noinline)) int twice(int x)
{
	printf("old twice\n");
	return 2 * x;
}
__attribute__((noinline)) int thrice(int x)
{
	printf("old thrice\n");
	return 3 * x;
}
void say(char question)
{
	if (question == 't')
		thrice(7);
	else
		twice(7);
}
"""


@pytest.fixture(scope="module")
def simple(tmp_path_factory):
    return Program(tmp_path_factory.mktemp("simple"), SIMPLE)


@pytest.fixture(scope="module")
def twice(simple):
    return simple.patch("twice", {'"old twice\\n"': '"new twice\\n"'})


@pytest.fixture(scope="module")
def thrice(simple):
    return simple.patch("thrice", {'"old thrice\\n"': '"new thrice\\n"'})


def test_simplest_and_unpatch_leave_the_process_as_it_was(simple, twice):
    with simple.start() as p:
        assert p.ask() == "old twice"
        before = p.snapshot()
        done = p.apply(twice)
        assert done["pause_us"] > 0 and done["threads"] == 1
        assert p.ask() == "new twice"
        assert [x["name"] for x in p.info()] == ["twice"]
        assert p.info()[0]["state"] in ("applied", "settling")
        assert len(p.ours()) == 3
        assert not [line for line in p.maps().splitlines() if re.match(r"\S+ .wx", line)]
        p.revert("twice")
        assert p.ask() == "old twice"
        assert p.snapshot() == before
        assert p.info() == []


def test_a_file_stands_for_the_name_in_it_when_reverting(simple, twice):
    with simple.start() as p:
        p.apply(twice)
        p.revert(twice)
        assert p.ask() == "old twice"


def test_new_function_and_new_data_are_brought_along(simple):
    patch = simple.patch("helper", {
        "__attribute__((noinline)) int twice":
        "static int calls;\n"
        "static __attribute__((noinline)) int counted(void)\n{\n\treturn ++calls;\n}\n"
        "__attribute__((noinline)) int twice",
        'printf("old twice\\n");': 'printf("call %d\\n", counted());'})
    with simple.start() as p:
        p.ask()
        before = p.snapshot()
        p.apply(patch)
        assert [p.ask() for _ in range(3)] == ["call 1", "call 2", "call 3"]
        p.revert("helper")
        assert p.ask() == "old twice"
        assert p.snapshot() == before


def test_reapply_is_noop(simple, twice):
    with simple.start() as p:
        p.apply(twice)
        maps = p.maps()
        assert p.apply(twice)["action"] == "already applied"
        assert p.maps() == maps
        assert p.revert("never", expect=NOTHING)
        assert p.ask() == "new twice"


def test_different_patch_same_process_in_any_order(simple, twice, thrice):
    with simple.start() as p:
        p.ask(), p.ask("t")
        before = p.snapshot()
        p.apply(twice)
        p.apply(thrice)
        assert (p.ask(), p.ask("t")) == ("new twice", "new thrice")
        p.revert("twice")
        assert (p.ask(), p.ask("t")) == ("old twice", "new thrice")
        p.apply(twice)
        assert [x["name"] for x in p.info()] == ["thrice", "twice"]
        done = care("care-patch", "revert", "--all", "--pid", p.pid)
        assert done.out.index("twice reverted") < done.out.index("thrice reverted")
        assert p.snapshot() == before


def test_stack_two_peel_off_in_order(simple, twice):
    newest = simple.patch("newest", {'"old twice\\n"': '"newest twice\\n"'})
    with simple.start() as p:
        p.ask()
        before = p.snapshot()
        p.apply(twice)
        p.apply(newest)
        assert p.ask() == "newest twice"
        assert "newest" in refusal(p.revert("twice", expect=NOT_NOW))
        p.revert("newest")
        assert p.ask() == "new twice"
        p.revert("twice")
        assert p.ask() == "old twice"
        assert p.snapshot() == before


def test_another_patch_of_the_same_name_is_refused(simple, twice):
    path = simple.patch("twice2", {'"old twice\\n"': '"other twice\\n"'})
    os.rename(path, path + ".x")
    other = Program(simple.folder + "/other", SIMPLE)
    same_name = other.patch("twice", {'"old twice\\n"': '"other twice\\n"'})
    with simple.start() as p:
        p.apply(twice)
        message = refusal(p.apply(same_name, expect=REFUSED))
        assert "revert it first" in message or "build-id" in message
        assert p.ask() == "new twice"


def test_a_hundred_cycles_leave_nothing(simple, twice):
    with simple.start() as p:
        p.ask()
        before = p.snapshot()
        for _ in range(50):
            p.apply(twice)
            assert p.ask() == "new twice"
            p.revert("twice")
            assert p.ask() == "old twice"
        assert p.snapshot() == before
        assert not [f for f in os.listdir("/run/dbcare") if f.startswith(f"{p.pid}-")]


def test_dry_run_and_check_change_nothing(simple, twice):
    with simple.start() as p:
        p.ask()
        before = p.snapshot()
        plan = care("care-patch", "check", twice, "--pid", p.pid, "--json").json
        assert plan["functions"][0]["name"] == "twice" and plan["memory"] >= 4096
        assert plan["blockers"] == []
        p.apply(twice, "--dry-run")
        assert p.snapshot() == before
        assert p.ask() == "old twice"


def test_max_pause_is_a_promise(simple, twice):
    with simple.start() as p:
        p.ask()
        before = p.snapshot()
        assert "pause" in refusal(p.apply(twice, "--max-pause", "0.001", expect=NOT_NOW))
        assert p.snapshot() == before


CONTRACT = r"""
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
static int version_a, mixed;
static atomic_long pairs;
__attribute__((noinline)) int left(void)
{
	__asm__ volatile("nop; nop; nop; nop");
	return 1;
}
__attribute__((noinline)) int right(int from_left)
{
	__asm__ volatile("nop; nop; nop; nop");
	return from_left == 1;
}
__attribute__((noinline)) int pair(void)
{
	__asm__ volatile("nop; nop; nop; nop");
	return right(left());
}
static void *check(void *arg)
{
	for (;;) {
		if (!pair())
			mixed++;
		pairs++;
	}
	return arg;
}
void prepare(void)
{
	pthread_t thread;
	pthread_create(&thread, NULL, check, NULL);
	pthread_create(&thread, NULL, check, NULL);
}
void say(char question)
{
	printf("%ld pairs, %d mixed\n", (long)pairs, mixed);
}
"""


def test_contract_two_functions_never_mix(tmp_path):
    """The checker's calls of pair() never see left() and right() of two versions."""
    program = Program(tmp_path, CONTRACT, ("-O2", "-fPIE", "-ffunction-sections"))
    patch = program.patch("contract", {
        "\treturn 1;": "\treturn 2;",
        "return from_left == 1;": "return from_left == 2;",
        "{\n\t__asm__ volatile(\"nop; nop; nop; nop\");\n\treturn right(left());":
        "{\n\t__asm__ volatile(\"nop; nop; nop; nop; nop\");\n\treturn right(left());"})
    with program.start() as p:
        p.ask()
        before = p.code()
        flips, pairs = 0, 0
        while flips < (100 if LONG else 30) or pairs < (10_000_000 if LONG else 100_000):
            p.apply(patch)
            p.revert("contract")
            answer = p.ask()
            assert answer.endswith(" 0 mixed"), answer
            flips, pairs = flips + 1, int(answer.split()[0])
        assert p.code() == before


BUSY = r"""
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>
static volatile int leave;
__attribute__((noinline)) int stay(void)
{
	int n = 0;
	while (!leave) {
		poll(NULL, 0, 2);
		n++;
	}
	return n;
}
static void *run(void *arg)
{
	prctl(PR_SET_NAME, "stayer");
	for (;;)
		stay();
	return arg;
}
void prepare(void)
{
	pthread_t thread;
	pthread_create(&thread, NULL, run, NULL);
	usleep(20000);
}
void say(char question)
{
	if (question == 'l')
		leave = 1;
	printf("%d\n", leave);
}
"""


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    return Program(tmp_path_factory.mktemp("busy"), BUSY)


def test_a_busy_function_is_named_with_its_thread_and_nothing_stays(busy):
    patch = busy.patch("busy", {"n++;": "n += 2;"}, "--dependent")
    with busy.start() as p:
        p.ask()
        before = p.snapshot()
        begin = time.monotonic()
        done = p.apply(patch, "--timeout", "1", expect=NOT_NOW)
        assert 0.9 < time.monotonic() - begin < 5
        assert "stayer" in refusal(done) and "stay" in refusal(done)
        blocker = done["error"]["blockers"][0]
        assert blocker["function"] == "stay"
        assert os.path.exists(f"/proc/{p.pid}/task/{blocker['tid']}")
        assert p.snapshot() == before
        assert p.ask() == "0"


def test_a_busy_function_of_cxx_is_named_as_its_source_names_it(tmp_path):
    source = 'extern "C" { void say(char question); void prepare(void); }\n' + BUSY
    made = Program(tmp_path, source, case="case.cc")
    patch = made.patch("busy", {"n++;": "n += 2;"}, "--dependent")
    with made.start() as p:
        p.ask()
        done = p.apply(patch, "--timeout", "0.5", expect=NOT_NOW)
        assert "is in stay()" in refusal(done), refusal(done)
        assert done["error"]["blockers"][0]["function"] == "_Z4stayv"


def test_a_function_that_is_left_soon_is_waited_for(busy):
    patch = busy.patch("soon", {"n++;": "n += 2;"}, "--dependent")
    with busy.start() as p:
        p.ask("l")
        p.apply(patch, "--timeout", "20")
        assert p.ask() == "1"


def test_an_independent_patch_does_not_wait_for_calls_under_way(busy):
    patch = busy.patch("apart", {"n++;": "n += 2;"}, "--independent")
    with busy.start() as p:
        p.ask()
        before = p.code()
        done = p.apply(patch, "--timeout", "5")
        assert "not in force there until that ends" in done["note"]
        assert p.info()[0]["state"] == "settling"
        p.ask("l")
        time.sleep(0.1)
        p.revert("apart")
        assert p.code() == before

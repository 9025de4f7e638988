# SPDX-License-Identifier: GPL-2.0-or-later
"""A patch takes the place of others in one switch; the process is never without either."""
import os
import signal
import subprocess
import time

import pytest

from harness import LONG, care, program, wait_until
from levels import EXTRA, PAIR, SINGLE, build, counts, level
from programs import Program, refusal

NOTHING, NO_TARGET, NOT_NOW, REFUSED = 2, 3, 4, 5


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    """The program and its levels: 2 has a function that the others have not."""
    made = build(tmp_path_factory.mktemp("levels"))
    return made, [level(made, 1, PAIR, SINGLE), level(made, 2, PAIR, SINGLE, EXTRA),
                  level(made, 3, PAIR, SINGLE)]


@pytest.fixture(scope="module")
def singles(tmp_path_factory):
    """One function alone: its entry's single write is the switch."""
    made = build(tmp_path_factory.mktemp("singles"))
    return made, [level(made, n, SINGLE, options=["--independent"]) for n in (1, 2, 3)]


def applied(p):
    return [(x["name"], x["level"]) for x in p.info() if x["state"] in ("applied", "settling")]


def flip(p, files, wanted_calls):
    """Through the levels and back to the first, again and again, until enough was asked."""
    flips = 0
    while flips < 12 or counts(p)[0] < wanted_calls:
        for number, file in ((2, files[1]), (3, files[2]), (1, files[0])):
            options = ["--replace", "set"] if number == 1 else []
            done = p.apply(file, "--timeout", "60", *options)
            assert len(done["replaced"]) == 1
            flips += 1
    return flips


def test_cumulative_replace_has_no_unpatched_instant(levels):
    """Threads that never stop asking get no shipped answer and no mixed one while levels change."""
    made, files = levels
    with made.start() as p:
        assert p.ask("p") == "0 0 0"
        before = p.code()
        p.apply(files[0], "--timeout", "60")
        p.ask("b")
        flips = flip(p, files, 10_000_000 if LONG else 100_000)
        calls, unpatched, mixed = counts(p)
        assert (unpatched, mixed) == (0, 0), f"{calls} calls, {flips} flips"
        assert applied(p) == [("set", 1)]
        wait_until(lambda: p.released() or len(p.info()) == 1, 20, "older levels are released")
        assert len(p.ours()) == 3
        p.revert("set", "--timeout", "60")
        assert p.ask("p") == "0 0 0"
        wait_until(p.released, 20, "the memory is released")
        assert p.code() == before


def test_one_function_is_replaced_by_one_write(singles):
    made, files = singles
    with made.start() as p:
        p.apply(files[0])
        p.ask("b")
        for number in (2, 3):
            p.apply(files[number - 1])
            assert p.ask("p").split()[1] == str(number)
            assert applied(p) == [("set", number)]
        # pair() is the shipped one here: half of the answers
        calls, unpatched, mixed = counts(p)
        assert mixed == 0 and unpatched <= calls / 2 + 3


def test_what_a_higher_level_has_not_is_the_shipped_code_again(levels):
    made, files = levels
    with made.start() as p:
        p.apply(files[1], "--timeout", "60")
        assert p.ask("p") == "2 2 2"
        plan = care("care-patch", "check", files[2], "--pid", p.pid, "--json").json
        assert plan["replaces"] == [{"name": "set", "level": 2, "taken_back": ["extra"]}]
        text = care("care-patch", "apply", files[2], "--pid", p.pid, "--dry-run").out
        assert "replaces set (level 2) in the same switch; taken back: extra" in text
        assert p.ask("p") == "2 2 2"
        assert p.apply(files[2], "--timeout", "60")["replaced"] == ["set (level 2)"]
        assert p.ask("p") == "3 3 0"


def test_lower_and_other_levels_are_refused_with_both_named(levels):
    made, files = levels
    other = Program(made.folder + "/x", made.source)
    with made.start() as p:
        p.apply(files[1], "--timeout", "60")
        message = refusal(p.apply(files[0], expect=REFUSED))
        assert "level 2" in message and "level 1" in message and "--replace set" in message
        assert p.apply(files[1])["action"] == "already applied"
        same = level(made, 2, SINGLE)
        message = refusal(p.apply(same, expect=REFUSED))
        assert "same level 2" in message and "revert it first" in message
        # of another build: the old one stays
        foreign = level(other, 9, PAIR, SINGLE)
        assert p.apply(foreign, expect=REFUSED)
        # not a patch at all
        hostile = os.path.join(made.folder, "hostile.cpatch")
        with open(files[2], "rb") as good, open(hostile, "wb") as bad:
            bad.write(good.read()[:-1000])
        assert p.apply(hostile, expect=1)
        assert p.apply(files[2], "--replace", "never", expect=NO_TARGET)
        assert applied(p) == [("set", 2)] and p.ask("p") == "2 2 2"
    # restore the file that `level` has overwritten
    level(made, 2, PAIR, SINGLE, EXTRA)


def test_revert_with_bad_new_keeps_the_old_one(levels):
    """The bytes of a function that only the new level has are not what it was made for."""
    made, files = levels
    with made.start() as p:
        p.apply(files[0], "--timeout", "60")
        before = p.snapshot()
        address = nop_in(p, "extra")
        poke(p.pid, address, b"\xfc")
        message = refusal(p.apply(files[1], "--timeout", "60", expect=REFUSED))
        assert "extra" in message
        poke(p.pid, address, b"\x90")
        assert p.snapshot() == before
        assert p.ask("p") == "1 1 0" and applied(p) == [("set", 1)]


def nop_in(p, name):
    """Where a function of the running program has a nop: any other byte of no effect fits there."""
    symbols = subprocess.run(["nm", p.program.binary], capture_output=True, text=True, check=True)
    entry = next(int(line.split()[0], 16) for line in symbols.stdout.splitlines()
                 if line.split()[-1] == name)
    entry += int(next(line for line in p.maps().splitlines()
                      if line.endswith(p.program.binary)).split("-")[0], 16)
    with open(f"/proc/{p.pid}/mem", "rb", 0) as memory:
        memory.seek(entry)
        return entry + memory.read(16).index(b"\x90")


def poke(pid, address, data):
    with open(f"/proc/{pid}/mem", "r+b", 0) as memory:
        memory.seek(address)
        memory.write(data)


def test_revert_then_patch_in_one_switch(levels):
    """--replace: others go in the moment in which the new one comes."""
    made, files = levels
    one = level(made, 1, SINGLE, name="one", options=["--independent"])
    two = level(made, 1, EXTRA, name="two", options=["--independent"])
    with made.start() as p:
        p.ask("p")
        before = p.code()
        p.apply(one)
        p.apply(two)
        assert p.ask("p") == "0 1 1"
        plan = care("care-patch", "check", files[2], "--pid", p.pid, "--json", "--replace", "one",
                    "--replace", "two").json
        assert [(x["name"], x["taken_back"]) for x in plan["replaces"]] == [
            ("one", []), ("two", ["extra"])]
        done = p.apply(files[2], "--replace", "one", "--replace", "two", "--timeout", "60")
        assert done["replaced"] == ["one (level 1)", "two (level 1)"]
        assert p.ask("p") == "3 3 0" and applied(p) == [("set", 3)]
        p.revert("set", "--timeout", "60")
        assert p.code() == before


def test_combined_set_comes_together_and_is_peeled_off(levels):
    """All disjoint patches in one process; reverting all names none twice, an empty set is told."""
    made, _ = levels
    names = {"one": SINGLE, "two": EXTRA, "both": PAIR}
    with made.start() as p:
        p.ask("p")
        before = p.code()
        for name, part in names.items():
            p.apply(level(made, 1, part, name=name), "--timeout", "60")
        assert p.ask("p") == "1 1 1"
        done = care("care-patch", "revert", "--all", "--pid", p.pid, "--timeout", "60")
        assert [line.split()[0] for line in done.out.splitlines() if " reverted " in line] == [
            "both", "two", "one"]
        assert p.code() == before
        empty = care("care-patch", "revert", "--all", "--pid", p.pid, expect=NOTHING)
        assert "no patch is applied" in empty.text


BLOCKED = r"""
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static volatile int leave, inside;
__attribute__((noinline)) int stay(void)
{
	int n = 0;
	inside = 1;
	while (!leave) {
		poll(NULL, 0, 2);
		n++;
	}
	return n;
}
__attribute__((noinline)) int answer(void)
{
	__asm__ volatile("nop; nop; nop; nop; nop");
	return 0;
}
static void *run(void *arg)
{
	for (;;) {
		stay();
		poll(NULL, 0, 1);
	}
	return arg;
}
void prepare(void)
{
	pthread_t thread;
	pthread_create(&thread, NULL, run, NULL);
	while (!inside)
		usleep(1000);
}
void say(char question)
{
	if (question == 'l' || question == 'e')
		leave = question == 'l';
	printf("%d\n", answer());
}
"""


@pytest.fixture(scope="module")
def blocked(tmp_path_factory):
    """Level 1 is free; level 2 also has a function that a thread never leaves."""
    made = Program(tmp_path_factory.mktemp("blocked"), BLOCKED)
    answer = {"return 0;\n}\nstatic void *run": "return 1;\n}\nstatic void *run"}
    both = {"return 0;\n}\nstatic void *run": "return 2;\n}\nstatic void *run", "n++;": "n += 2;"}
    one = made.patch("set", answer, "--level", "1")
    os.rename(one, one + "1")
    two = made.patch("set", both, "--level", "2", "--dependent")
    busy = made.patch("busy", {"n++;": "n += 2;"}, "--dependent")
    return made, one + "1", two, busy


def test_transition_stalled_ends_in_its_time_with_the_old_patch(blocked):
    made, one, two, _ = blocked
    with made.start() as p:
        p.apply(one)
        assert p.ask() == "1"
        before = p.snapshot()
        begin = time.monotonic()
        done = p.apply(two, "--timeout", "1", expect=NOT_NOW)
        assert 0.9 < time.monotonic() - begin < 15
        assert "stay" in refusal(done)
        assert {b["function"] for b in done["error"]["blockers"]} == {"stay"}
        assert p.snapshot() == before and p.ask() == "1"
        p.ask("l")
        p.apply(two, "--timeout", "30")
        assert p.ask() == "2"


def cancel(verb, what, pid, number):
    """Sends a signal to a patcher that waits for a free moment; what it said."""
    process = subprocess.Popen(
        [program("care-patch"), verb, what, "--pid", str(pid), "--timeout", "120", "--verbose"],
        stderr=subprocess.PIPE, text=True)
    said = []
    for line in process.stderr:
        said.append(line)
        if "waiting" in line:
            process.send_signal(number)
    assert process.wait(30) == NOT_NOW, said
    return "".join(said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["sigint", "sigterm"])
@pytest.mark.parametrize("what", ["apply", "replace"])
def test_reverse_midway_a_signal_takes_the_patcher_back(blocked, what, number):
    made, one, two, busy = blocked
    with made.start() as p:
        if what == "replace":
            p.apply(one)
        answer = p.ask()
        before, info = p.snapshot(), p.info()
        text = cancel("apply", busy if what == "apply" else two, p.pid, number)
        assert f"cancelled by signal {number.name}" in text
        assert p.snapshot() == before and p.info() == info and p.ask() == answer


def test_a_stalled_or_cancelled_revert_leaves_the_patch(blocked):
    """A thread stays in the new code of a patch that is not independent."""
    made, _, _, busy = blocked
    with made.start() as p:
        p.ask("l")
        p.apply(busy, "--timeout", "30")
        p.ask("e")
        time.sleep(0.05)
        before, info = p.snapshot(), p.info()
        assert "stay" in refusal(p.revert("busy", "--timeout", "1", expect=NOT_NOW))
        assert p.snapshot() == before and p.info() == info
        assert "cancelled" in cancel("revert", "busy", p.pid, signal.SIGINT)
        assert p.snapshot() == before and p.info() == info
        p.ask("l")
        p.revert("busy", "--timeout", "30")


def test_info_tells_how_many_threads_have_old_frames(blocked):
    """An independent patch: who is still in the old code is counted, and nobody is stopped."""
    made, _, _, _ = blocked
    apart = made.patch("apart", {"n++;": "n += 2;"}, "--independent")
    with made.start() as p:
        p.apply(apart, "--timeout", "30")

        def seen():
            """At a look at which the thread happens to run, its stack cannot be read."""
            found = p.info()[0]
            assert found["state"] == "settling"
            return found["old_threads"] == 1 and \
                "1 thread " in care("care-patch", "info", "--pid", p.pid).out

        wait_until(seen, 20, "the thread in the old code is counted")
        p.ask("l")

        def left():
            care("care-patch", "recover", "--pid", p.pid, expect=(0, NOTHING))
            return p.info()[0]["old_threads"] == 0

        wait_until(left, 20, "the thread leaves the old code")

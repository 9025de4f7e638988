# SPDX-License-Identifier: GPL-2.0-or-later
"""The patcher is killed after any of its system calls while one level of a patch replaces another,
or while it recovers from that: there is always exactly one of the two, never none, never both."""
import random

import pytest

from harness import LONG, care
from levels import EXTRA, PAIR, SINGLE, build, counts, level
from test_engine_kill import kill_at, trace

TOUCHING = ("ptrace", "pwrite64", "write")


@pytest.fixture(scope="module", params=["several_functions", "one_function"])
def case(request, tmp_path_factory):
    """The program, two levels of a patch, and what the program answers with each."""
    made = build(tmp_path_factory.mktemp("kill"))
    if request.param == "one_function":
        options = ["--independent"]
        return (made, [level(made, n, SINGLE, options=options) for n in (1, 2)],
                {1: "0 1 0", 2: "0 2 0"})
    return (made, [level(made, 1, PAIR, SINGLE, EXTRA), level(made, 2, PAIR, SINGLE)],
            {1: "1 1 1", 2: "2 2 0"})


def replacement(p, files, number):
    """The command that replaces the other level by this one."""
    options = ["--replace", "set"] if number == 1 else []
    return ["apply", files[number - 1], "--pid", p.pid, "--timeout", "60", *options]


def current(p, answers):
    """The level of the only applied patch, which must be what the program answers with."""
    live = [x for x in p.info() if x["state"] in ("applied", "settling")]
    assert len(live) == 1, live
    assert p.ask("p") == answers[live[0]["level"]]
    return live[0]["level"]


def assert_whole(p):
    calls, unpatched, mixed = counts(p)
    assert mixed == 0
    if p.ask("p").split()[0] != "0": # pair() is patched: no answer may be the shipped one
        assert unpatched == 0, f"{unpatched} of {calls}"


def sample(calls, most):
    """With few tests: some calls that touch the target, and now and then one between them."""
    if LONG or len(calls) <= most:
        return calls
    touching = [c for c in calls if c[0] in TOUCHING]
    return random.sample(touching, min(most * 3 // 4, len(touching))) + random.sample(
        calls[len(calls) // 3:], most // 4)


def test_a_killed_replacement_is_finished_or_undone(case):
    made, files, answers = case
    outcomes = set()
    with made.start() as p:
        care("care-patch", *replacement(p, files, 2))
        p.ask("b")
        # Forth and back once, as long as that takes.
        care("care-patch", *replacement(p, files, 1))
        calls = trace(made.folder, *replacement(p, files, 2))
        for call in sample(calls, 16):
            old = current(p, answers)
            before = p.snapshot()
            kill_at(call, *replacement(p, files, 3 - old))
            assert_whole(p)
            care("care-patch", "recover", "--pid", p.pid, expect=(0, 2))
            new = current(p, answers)
            assert_whole(p)
            outcomes.add(new != old)
            if new == old:
                assert p.snapshot()[1:] == before[1:]
        care("care-patch", "recover", "--pid", p.pid, expect=(0, 2))
        assert len(p.ours()) == 3 and len(p.info()) == 1
        assert_whole(p)
    assert outcomes == {False, True}


def test_a_killed_recovery_of_a_replacement_is_recovered(case):
    made, files, answers = case
    with made.start() as p:
        p.ask("p")
        before = p.code()
        care("care-patch", *replacement(p, files, 2))
        p.ask("b")
        care("care-patch", *replacement(p, files, 1))
        replace = trace(made.folder, *replacement(p, files, 2))
        # Late in the replacement there is most to finish or undo.
        for call in sample(replace[len(replace) // 2:], 5):
            old = current(p, answers)
            kill_at(call, *replacement(p, files, 3 - old))
            recover = ["recover", "--pid", p.pid]
            for _ in range(40 if LONG else 2):
                kill_at(("ptrace", random.randint(1, 40)), *recover)
                kill_at(("pwrite64", random.randint(1, 6)), *recover)
                assert_whole(p)
            care("care-patch", *recover, expect=(0, 2))
            current(p, answers)
            assert_whole(p)
        care("care-patch", "revert", "set", "--pid", p.pid, "--timeout", "60")
        assert p.ask("p") == "0 0 0" and p.code() == before

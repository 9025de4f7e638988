# SPDX-License-Identifier: GPL-2.0-or-later
"""The patcher is killed after each of its system calls that can change the target while one level of
a patch replaces another, or while it recovers from that: there is always exactly one of the two,
never none, never both."""
import pytest

from harness import LONG, care, wait_until
from levels import EXTRA, PAIR, SINGLE, build, counts, level
from test_engine_kill import kill_at

# In short runs only each so many calls.
STRIDE = 1 if LONG else 5


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


def begin(p, files):
    """At level 1, with what the process makes at first use behind it."""
    care("care-patch", *replacement(p, files, 2))
    p.ask("b")
    care("care-patch", *replacement(p, files, 1))


def test_a_killed_replacement_is_finished_or_undone(case):
    made, files, answers = case
    outcomes, n, reached = set(), 1, True
    with made.start() as p:
        begin(p, files)
        while reached:
            old = current(p, answers)
            before = p.snapshot()
            reached = kill_at(n, *replacement(p, files, 3 - old))
            assert_whole(p)
            care("care-patch", "recover", "--pid", p.pid, expect=(0, 2))
            new = current(p, answers)
            assert_whole(p)
            outcomes.add(new != old)
            if new == old:
                assert p.snapshot()[1:] == before[1:]
            n += STRIDE
        wait_until(lambda: p.released() or len(p.info()) == 1, 20, "the other level is released")
        assert len(p.ours()) == 3
    assert outcomes == {False, True}


def test_a_killed_recovery_of_a_replacement_is_recovered(case):
    made, files, answers = case
    with made.start() as p:
        p.ask("p")
        before = p.code()
        begin(p, files)
        n, reached = 1, True
        while reached:
            old = current(p, answers)
            reached = kill_at(n, *replacement(p, files, 3 - old))
            m = 1
            while kill_at(m, "recover", "--pid", p.pid):
                assert_whole(p)
                m += STRIDE
            current(p, answers)
            assert_whole(p)
            n += 4 * STRIDE
        care("care-patch", "revert", "set", "--pid", p.pid, "--timeout", "60")
        assert p.ask("p") == "0 0 0" and p.code() == before

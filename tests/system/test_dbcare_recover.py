# SPDX-License-Identifier: GPL-2.0-or-later
"""What a dead patcher left in a server: every command tells, recover and the next apply mend it."""
import subprocess

import pytest

from harness import care, program
from patches import case, rnd

VALUE = "SELECT ROUND(RAND(1), 3)"


@pytest.fixture
def interrupted(target, server):
    """A function that leaves an apply interrupted in the server."""
    patch = target.patch(case("two_functions"), "two")

    def leave():
        for n in range(36, 200, 5):
            subprocess.run([program("at-syscall"), "changing", str(n), "kill",
                            program("care-patch"), "apply", patch, "--pid", str(server.pid)],
                           stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
            listed = care("dbcarectl", "list", "--json").json["servers"]
            mine = [s for s in listed if s["pid"] == server.pid][0]
            if "two: an apply was interrupted" in mine.get("interrupted", ""):
                return patch
            care("dbcarectl", "revert", "--all", server.pid, expect=(0, 2))
        raise AssertionError("no kill left anything")

    return leave


def test_every_command_tells_what_a_dead_patcher_left(server, interrupted):
    patch = interrupted()
    note = f"`dbcarectl recover {server.pid}` finishes or undoes it"
    for command in (["list"], ["info", server.pid], ["check", patch, server.pid], ["history"],
                    ["list", "--json"]):
        told = care("dbcarectl", *command, expect=None).err
        assert note in told and "two: an apply was interrupted" in told, command


def test_recover_mends_it_and_says_what_it_did(server, interrupted):
    interrupted()
    done = care("dbcarectl", "recover", server.pid, "--json").json
    assert done["result"] == "recovered" and done["finished"] + done["undone"] >= 1
    assert "two" in done["text"]
    assert care("dbcarectl", "recover", server.pid, expect=2).text
    assert "interrupted" not in care("dbcarectl", "info", server.pid, "--json").json
    assert str(server.value(VALUE)) in ("0.405", "2.405")
    history = care("dbcarectl", "history", "--json").json["history"]
    assert [h["action"] for h in history].count("recover") >= 1


def test_the_next_apply_mends_it_first_and_says_so(server, interrupted):
    patch = interrupted()
    done = care("dbcarectl", "apply", patch, server.pid)
    assert "by somebody who died" in done.text
    assert str(server.value(VALUE)) == "2.405"
    care("dbcarectl", "revert", "two", server.pid)
    assert str(server.value(VALUE)) == "0.405"


def test_a_replacement_that_is_undone_is_not_called_applied_for_the_level_before(target, server,
                                                                                 tmp_path):
    one, two = (target.patch(rnd(str(tmp_path), factor), "part", "--level", str(level))
                for level, factor in ((1, 0.5), (2, 0.25)))
    care("dbcarectl", "apply", one, server.pid)
    for n in range(20, 200, 4):
        subprocess.run([program("at-syscall"), "changing", str(n), "kill", program("dbcarectl"),
                        "apply", two, str(server.pid)], stdin=subprocess.DEVNULL,
                       capture_output=True, timeout=120)
        rows = [r for r in care("dbcarectl", "history", "--json").json["history"]
                if r["pid"] == server.pid and r["action"] == "apply" and r["level"] == 2]
        care("dbcarectl", "recover", server.pid, expect=(0, 2))
        levels = [p["level"] for p in care("dbcarectl", "info", server.pid, "--json").json["patches"]
                  if p["state"] != "reverted"]
        assert len(levels) == 1
        if levels == [1] and rows and rows[-1]["result"] == "unfinished":
            break
        care("dbcarectl", "apply", one, server.pid, "--replace", "part", expect=(0, 2))
    else:
        raise AssertionError("no kill left level 1")
    rows = [r for r in care("dbcarectl", "history", "--json").json["history"]
            if r["pid"] == server.pid and r["action"] == "apply" and r["level"] == 2]
    assert rows[-1]["result"] == "undone", rows[-1]
    care("dbcarectl", "revert", "part", server.pid)

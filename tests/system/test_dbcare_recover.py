# SPDX-License-Identifier: GPL-2.0-or-later
"""What a dead patcher left in a server: every command tells, recover and the next apply mend it."""
import subprocess

import pytest

from harness import care, program
from patches import case

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

# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocking system calls that a switch or an injected call interrupts go on: no EINTR, no timeout
that ends early, and only the rest of a timeout is left wherever the kernel can tell it."""
import os
import pathlib
import re
import time

import pytest

from harness import LONG, care
from programs import Program

SOURCES = pathlib.Path(__file__).with_name("restart")
NOT_NOW = 4
WAIT_MS = 1500


@pytest.fixture(scope="module")
def blocked(tmp_path_factory):
    sources = {path.name: path.read_text() for path in SOURCES.glob("*.[ch]")}
    program = Program(tmp_path_factory.mktemp("restart"), sources.pop("restart.c"),
                      ("-O2", "-fPIE", "-w"), others=sources)
    return program, program.patch("restart", {"\treturn 1;": "\treturn 2;"}, "--dependent")


def counted(line):
    kinds = {}
    for part in filter(None, line.split(";")):
        name, numbers = part.split(" ", 1)
        kinds[name] = {k: int(v) for k, v in re.findall(r"(\w+)=(-?\d+)", numbers)}
    return kinds


def judge(kinds):
    """Complaints, by kind; those that this kernel does not have are skipped."""
    wrong = {}
    for name, n in kinds.items():
        if n["loops"] == -1:
            print(f"{name}: not here ({os.strerror(n['other'])})")
        elif n["eintr"] or n["early"] or n["other"] or not n["loops"]:
            wrong[name] = n
    return wrong


def test_every_blocking_call_of_a_stopped_thread_goes_on(blocked):
    """A thread for each kind, all stopped again and again by switches."""
    program, patch = blocked
    with program.start() as p:
        assert p.ask("*") == "running"
        begin, flips = time.monotonic(), 0
        while time.monotonic() - begin < (60 if LONG else 8):
            p.apply(patch)
            p.revert("restart")
            flips += 1
        # Relative timeouts that the kernel cannot continue began again at each stop.
        time.sleep(2.5 * WAIT_MS / 1000)
        kinds = counted(p.ask("?"))
    assert flips >= 3
    assert not judge(kinds), kinds
    for name, n in kinds.items():
        if n["loops"] > 0 and n["timed"] and not n["again"]:
            # Had a stop begun the wait anew, even the shortest would be much longer.
            assert n["best"] < 1.4 * WAIT_MS, (name, n, flips)


def test_every_blocking_call_of_the_only_thread_goes_on_after_injected_calls(blocked):
    """Each is the call that the only thread, which must run the injected calls, blocks in."""
    program, patch = blocked
    with program.start() as p:
        kinds = int(p.ask("#").split()[0])
    running = [program.start() for _ in range(kinds)]
    outcomes = {}
    try:
        for i, p in enumerate(running):
            assert p.ask(chr(ord("@") + i)) == "running"
            for _ in range(5 if LONG else 1):
                done = care("care-patch", "apply", patch, "--pid", p.pid, "--timeout", "1",
                            expect=(0, NOT_NOW))
                outcomes.setdefault(i, []).append(done.status)
                if done.status == 0:
                    care("care-patch", "revert", "restart", "--pid", p.pid)
        wrong, names = {}, {}
        for i, p in enumerate(running):
            kinds = counted(p.line(30))
            names[i] = next(iter(kinds))
            wrong.update(judge(kinds))
    finally:
        for p in running:
            p.__exit__()
    assert not wrong
    never = {names[i] for i, statuses in outcomes.items() if 0 not in statuses}
    assert not never, "no thread was found fit in these calls"

# SPDX-License-Identifier: GPL-2.0-or-later
"""The patcher is killed after one of its system calls: the target lives on, no versions mix, and
whoever comes next finishes or undoes it."""
import collections
import random
import re
import subprocess

import pytest

from harness import LONG, care, program, run
from programs import Program
from test_engine_life import CONTRACT

CHANGES = {
    "\treturn 1;": "\treturn 2;",
    "return from_left == 1;": "return from_left == 2;",
    "{\n\t__asm__ volatile(\"nop; nop; nop; nop\");\n\treturn right(left());":
    "{\n\t__asm__ volatile(\"nop; nop; nop; nop; nop\");\n\treturn right(left());"}

# The checkers rest between the calls: a switch must find a free moment soon.
SOURCE = CONTRACT.replace("#include <stdio.h>", "#include <stdio.h>\n#include <time.h>").replace(
    "\t\tpairs++;", "\t\tif (++pairs % 64 == 0)\n"
    "\t\t\tnanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);")


def kill_at(call, *args):
    """Runs care-patch and kills it at the n-th system call of a name: call is (name, n)."""
    subprocess.run(["strace", "-f", "-o", "/dev/null", "-e",
                    f"inject={call[0]}:signal=SIGKILL:when={call[1]}", program("care-patch"),
                    *[str(a) for a in args]], stdin=subprocess.DEVNULL, capture_output=True,
                   timeout=120)


def trace(folder, *args):
    """Its system calls in order, each as (name, n)."""
    path, seen, calls = f"{folder}/trace", collections.Counter(), []
    run("strace", "-f", "-o", path, program("care-patch"), *args)
    with open(path) as lines:
        for name in re.findall(r"^\d+ +(\w+)\(", lines.read(), re.M):
            seen[name] += 1
            calls.append((name, seen[name]))
    return calls


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    made = Program(tmp_path_factory.mktemp("kill"), SOURCE, ("-O2", "-fPIE", "-ffunction-sections"))
    return made, made.patch("contract", CHANGES), made.patch(
        "one", {"\treturn 1;": "\t__asm__ volatile(\"nop\");\n\treturn 1;"})


def check(p, before):
    """Alive, never mixed, and after recovery either wholly applied or wholly as before."""
    assert p.ask().endswith(" 0 mixed")
    care("care-patch", "recover", "--pid", p.pid, expect=(0, 2))
    patches = p.info()
    assert [x["state"] for x in patches] in ([], ["applied"], ["settling"], ["reverted"])
    if not patches:
        assert p.snapshot() == before
    assert p.ask().endswith(" 0 mixed")
    return [x["name"] for x in patches if x["state"] != "reverted"]


@pytest.mark.parametrize("which", [1, 2], ids=["several_functions", "one_function"])
def test_killed_at_any_system_call_it_can_be_finished_or_undone(case, which):
    made, patch = case[0], case[which]
    name = ("contract", "one")[which - 1]
    outcomes = set()
    with made.start() as p:
        p.ask()
        before = p.snapshot()
        apply, revert = ["apply", patch, "--pid", p.pid], ["revert", name, "--pid", p.pid]
        calls = {"apply": trace(made.folder, *apply),
                 "revert": trace(made.folder, *revert)}
        assert p.snapshot() == before
        for verb, args in (("apply", apply), ("revert", revert)):
            numbers = calls[verb]
            if not LONG:
                # The target is touched by these; and now and then by what is between them.
                touching = [c for c in numbers if c[0] in ("ptrace", "pwrite64", "write")]
                numbers = random.sample(touching, min(30, len(touching))) + random.sample(
                    numbers[len(numbers) // 3:], 10)
            for call in numbers:
                there = bool(p.info())
                if (verb == "revert") != there:
                    care("care-patch", *("apply", patch) if verb == "revert" else
                         ("revert", name), "--pid", p.pid, "--timeout", "60", expect=(0, 2))
                kill_at(call, *args)
                outcomes.add((verb, bool(check(p, before))))
        if p.info():
            care("care-patch", "revert", "--all", "--pid", p.pid, expect=(0, 2))
        care("care-patch", "recover", "--pid", p.pid, expect=(0, 2))
        assert p.snapshot() == before
    assert ("apply", False) in outcomes and ("revert", True) in outcomes

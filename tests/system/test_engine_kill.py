# SPDX-License-Identifier: GPL-2.0-or-later
"""The patcher is killed after each of its system calls that can change the target, or let it run
on: the target lives, no versions mix, and whoever comes next finishes or undoes it. The recovery is
killed in the same way. Done from outside, by tests/lib/at_syscall.c."""
import os
import subprocess

import pytest

from harness import LONG, care, program
from programs import Program
from test_engine_life import CONTRACT

CHANGES = {
    "\treturn 1;": "\treturn 2;",
    "return from_left == 1;": "return from_left == 2;",
    "{\n\t__asm__ volatile(\"nop; nop; nop; nop\");\n\treturn right(left());":
    "{\n\t__asm__ volatile(\"nop; nop; nop; nop; nop\");\n\treturn right(left());"}
ONE = {"\treturn 1;": "\t__asm__ volatile(\"nop\");\n\treturn 1;"}
# Stands upon `contract`: its left() goes with the right() of that one.
ABOVE = {"\treturn 1;": "\t__asm__ volatile(\"nop\");\n\treturn 2;"}

# The checkers rest between the calls: a switch must find a free moment soon.
SOURCE = CONTRACT.replace("#include <stdio.h>", "#include <stdio.h>\n#include <time.h>").replace(
    "\t\tpairs++;", "\t\tif (++pairs % 64 == 0)\n"
    "\t\t\tnanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);")
NOT_REACHED = 77
# In short runs of the cheaper cases only each so many calls.
STRIDE = {"contract": 2, "one": 6, "above": 6}


def kill_at(n, *args, calls="changing"):
    """Runs care-patch and kills it after its n-th call; False when it ended before."""
    done = subprocess.run([program("at-syscall"), calls, str(n), "kill", program("care-patch"),
                           *[str(a) for a in args]], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=120)
    assert done.returncode in (0, NOT_REACHED), done
    return done.returncode == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    # With libgcc_s, so that unwind tables are registered too.
    return Program(tmp_path_factory.mktemp("kill"), SOURCE,
                   ("-O2", "-fPIE", "-ffunction-sections"),
                   link=("-pie", "-Wl,--no-as-needed", "-lgcc_s"))


@pytest.fixture(scope="module")
def patches(made):
    return {"contract": made.patch("contract", CHANGES), "one": made.patch("one", ONE),
            "above": made.patch("above", ABOVE)}


class Case:
    """One patch on one process, which must be as @before whenever the patch is not in it."""

    def __init__(self, process, name, file):
        self.p, self.name = process, name
        self.apply = ["apply", file, "--pid", process.pid]
        self.revert = ["revert", name, "--pid", process.pid]
        self.recover = ["recover", "--pid", process.pid]
        # Once there and back: what the process itself makes at first use is made then.
        self.p.ask()
        care("care-patch", *self.apply)
        care("care-patch", *self.revert)
        self.p.released()
        self.below = [x["name"] for x in self.p.info()]
        self.before = self.p.snapshot()

    def there(self):
        return self.name in [x["name"] for x in self.p.info() if x["state"] != "reverted"]

    def left(self):
        """What a dead patcher left, as the next one can see it."""
        states = [(x["name"], x["state"]) for x in self.p.info()]
        files = [os.readlink(f"/proc/{self.p.pid}/fd/{n}")
                 for n in os.listdir(f"/proc/{self.p.pid}/fd")]
        return (tuple(states), bool(self.p.ours()), any("care:" in f for f in files))

    def unmixed(self):
        assert self.p.ask().endswith(" 0 mixed")

    def prepare(self, verb):
        """Makes the state that @verb begins with."""
        if (verb == "revert") == self.there():
            return
        care("care-patch", *(self.apply if verb == "revert" else self.revert), "--timeout", "60")

    def check(self):
        """After recovery it is either wholly applied or wholly as before."""
        self.unmixed()
        care("care-patch", *self.recover, expect=(0, 2))
        states = {x["name"]: x["state"] for x in self.p.info() if x["name"] not in self.below}
        assert set(states.values()) <= {"applied", "settling", "reverted"}, states
        self.unmixed()
        if not states:
            assert self.p.snapshot() == self.before
        for tid in os.listdir(f"/proc/{self.p.pid}/task"):
            with open(f"/proc/{self.p.pid}/task/{tid}/status") as status:
                text = status.read()
            assert "\tT" not in text and "\tt (" not in text and "SigBlk:\t0000000000000000" in text
        return states.get(self.name, "reverted") != "reverted"

    def end(self):
        if self.there():
            care("care-patch", *self.revert, "--timeout", "60")
        care("care-patch", *self.recover, expect=(0, 2))
        assert self.p.snapshot() == self.before


def kill_everywhere(case, verb, calls, stride):
    """Every n-th call: what came of it ({True, False}: in it afterwards), and one n for each
    different state that was left."""
    outcomes, leftovers, n = set(), {}, 1
    while True:
        case.prepare(verb)
        if not kill_at(n, *getattr(case, verb), calls=calls):
            break
        leftovers.setdefault(case.left(), n)
        outcomes.add(case.check())
        n += stride
    return outcomes, leftovers


def kill_recovery(case, verb, n, calls, stride):
    """What a patcher killed after its n-th call left, recovered by one that is killed too."""
    m = 1
    while True:
        case.prepare(verb)
        kill_at(n, *getattr(case, verb))
        reached = kill_at(m, *case.recover, calls=calls)
        case.check()
        if not reached:
            return
        m += stride


@pytest.mark.parametrize("name", ["contract", "one", "above"],
                         ids=["several_functions", "one_function", "standing_on_another"])
def test_killed_at_any_system_call_it_can_be_finished_or_undone(made, patches, name):
    stride = 1 if LONG else STRIDE[name]
    with made.start() as p:
        if name == "above":
            care("care-patch", "apply", patches["contract"], "--pid", p.pid, "--timeout", "60")
        case = Case(p, name, patches[name])
        applied, left_by_apply = kill_everywhere(case, "apply", "changing", stride)
        reverted, left_by_revert = kill_everywhere(case, "revert", "changing", stride)
        case.end()
        assert False in applied and True in reverted
        if stride == 1:
            assert True in applied and False in reverted
            # A staged one, one in its switch, a descriptor, a mapping without a ledger ...
            assert len(left_by_apply) >= 5, left_by_apply


@pytest.mark.parametrize("name", ["contract", "one", "above"] if LONG else ["contract"])
def test_recovery_killed_at_any_system_call_can_be_recovered(made, patches, name):
    stride = 1 if LONG else 24
    with made.start() as p:
        if name == "above":
            care("care-patch", "apply", patches["contract"], "--pid", p.pid, "--timeout", "60")
        case = Case(p, name, patches[name])
        for verb in ("apply", "revert"):
            _, leftovers = kill_everywhere(case, verb, "changing", 1 if LONG else 8)
            for n in leftovers.values():
                kill_recovery(case, verb, n, "changing", stride)
        case.end()


@pytest.mark.skipif(not LONG, reason="thousands of kills")
def test_killed_after_each_system_call_of_any_kind(made, patches):
    with made.start() as p:
        case = Case(p, "contract", patches["contract"])
        for verb in ("apply", "revert"):
            kill_everywhere(case, verb, "all", 1)
        case.end()

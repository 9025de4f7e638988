# SPDX-License-Identifier: GPL-2.0-or-later
"""Kills of the patcher at random moments of what it does, the short time in which the target stands
included; and the looks at the target that must find nothing afterwards.

Half of the moments are spread evenly over how long the command takes (measured as it goes). The
other half is aimed: as soon as the target's first thread stands under ptrace, plus a part of the
pause, because a pause of a millisecond in a command of fifty would hardly ever be hit.
"""
import collections
import os
import random
import re
import statistics
import subprocess
import time

from harness import care, program

DEVNULL = subprocess.DEVNULL
KILLED, TOO_LATE = "killed", "ended before"


def odd_threads(pid):
    """Threads that stand still, are traced, or have all signals blocked as an injected call has."""
    found = []
    for tid in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{tid}/status") as status:
                text = status.read()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text.startswith("Name:\tiou-wrk"):  # the kernel's own, which block everything
            continue
        state = re.search(r"^State:\s+(\S)", text, re.M)[1]
        blocked = int(re.search(r"^SigBlk:\s+(\S+)", text, re.M)[1], 16)
        tracer = int(re.search(r"^TracerPid:\s+(\d+)", text, re.M)[1])
        if state in "tT" or tracer or bin(blocked).count("1") > 48:
            found.append((int(tid), state, hex(blocked), tracer))
    return found


class RandomKills:
    """Runs commands on one process and kills them; counts what became of them."""

    def __init__(self, pid, seed=None):
        self.pid, self.random = pid, random.Random(seed)
        self.stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        self.seconds = {}  # per verb: how long it takes
        self.pause = 0.001
        self.counts = collections.Counter()
        self.in_stop = 0
        self.killed_after = collections.defaultdict(list)

    def _stands(self):
        """Does the target's first thread stand under ptrace?"""
        return b") t " in os.pread(self.stat, 200, 0)

    def _wait_for_stop(self, process):
        """Until it does, and for a part of the pause more; or the command has ended."""
        looks = 0
        while not self._stands():
            looks += 1
            if looks % 16 == 0 and process.poll() is not None:
                return
        end = time.monotonic() + self.random.uniform(0, self.pause / 2)
        while time.monotonic() < end:
            pass

    def run(self, verb, command):
        """One command, killed at a random moment: KILLED or TOO_LATE."""
        begin = time.monotonic()
        process = subprocess.Popen([str(a) for a in command], stdin=DEVNULL, stdout=DEVNULL,
                                   stderr=DEVNULL)
        aimed = self.random.random() < 0.5
        if aimed:
            self._wait_for_stop(process)
        else:
            time.sleep(self.random.uniform(0, self.seconds.get(verb, 0.1) * 1.1))
        standing = self._stands()
        process.kill()
        took = time.monotonic() - begin
        if process.wait(60) == -9:
            self.in_stop += standing
            self.counts[verb] += 1
            self.killed_after[verb].append(took)
            return KILLED
        self.counts[f"{verb}, {TOO_LATE}"] += 1
        known = self.seconds.get(verb)
        self.seconds[verb] = took if known is None else 0.8 * known + 0.2 * took
        return TOO_LATE

    def measure(self, verb, command, expect=0):
        """The command undisturbed; what it says as JSON."""
        begin = time.monotonic()
        result = care(*command, "--json", expect=expect, timeout=120)
        self.seconds[verb] = time.monotonic() - begin
        if verb != "recover":
            self.pause = max(result.json.get("pause_us", 1000) / 1e6, 0.0002)
        return result

    @property
    def kills(self):
        return sum(n for verb, n in self.counts.items() if TOO_LATE not in verb)

    def check_threads(self, seconds=10):
        """Nobody stands for longer than an injected call or a stop of somebody else may take."""
        deadline, odd = time.monotonic() + seconds, odd_threads(self.pid)
        while odd:
            if time.monotonic() > deadline:
                raise AssertionError(f"stuck threads of {self.pid}: {odd}")
            time.sleep(0.01)
            odd = odd_threads(self.pid)

    def summary(self):
        return {"kills": self.kills, "kills_in_the_stop": self.in_stop,
                "by_operation": {v: n for v, n in sorted(self.counts.items())},
                "operation_ms": {v: round(1000 * s, 1) for v, s in self.seconds.items()},
                "killed_after_ms_p50": {v: round(1000 * statistics.median(t), 1)
                                        for v, t in self.killed_after.items()}}


class Patched:
    """A process with one of two levels of a patch in it, or none, moved between these by commands
    that are killed."""

    def __init__(self, pid, name, levels, seed=None):
        """@levels: files of level 1 and level 2 of patch @name."""
        self.pid, self.name, self.levels = pid, name, levels
        self.kill = RandomKills(pid, seed)

    def command(self, verb, *words):
        timeout = ("--timeout", "60") if verb != "recover" else ()
        return [verb, *words, "--pid", str(self.pid), *timeout]

    def replace(self, level):
        return self.command("apply", self.levels[level - 1], "--replace", self.name)

    def level(self):
        """Of what is in it; 0 when nothing is."""
        patches = [p for p in care("care-patch", "info", "--pid", self.pid, "--json").json["patches"]
                   if p["state"] != "reverted"]
        assert len(patches) <= 1 and all(p["state"] in ("applied", "settling") for p in patches), \
            patches
        return patches[0]["level"] if patches else 0

    def measure(self):
        """How long each operation takes when nobody is killed."""
        for verb, command in (("apply", self.command("apply", self.levels[0])),
                              ("replace", self.replace(2)),
                              ("revert", self.command("revert", self.name)),
                              ("recover", self.command("recover"))):
            self.kill.measure(verb, ["care-patch", *command], expect=(0, 2))

    def step(self):
        """One operation that fits the state, killed; perhaps its recovery too; then recovered."""
        level = self.level()
        if not level:
            verb, command = "apply", self.command("apply", self.levels[0])
        elif self.kill.random.random() < 0.5:
            verb, command = "replace", self.replace(3 - level)
        else:
            verb, command = "revert", self.command("revert", self.name)
        self.kill.run(verb, [program("care-patch"), *command])
        if self.kill.random.random() < 0.3:
            self.kill.run("recover", [program("care-patch"), *self.command("recover")])
        self.kill.check_threads()
        self.recover()
        self.level()

    def recover(self):
        care("care-patch", *self.command("recover"), expect=(0, 2), timeout=120)

    def end(self):
        if self.level():
            care("care-patch", *self.command("revert", self.name), timeout=120)
        self.recover()
        assert not self.level()

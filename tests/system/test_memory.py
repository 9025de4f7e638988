# SPDX-License-Identifier: GPL-2.0-or-later
"""What a patch adds to a process, and that nothing of it is left when it is gone."""
import json
import os
import re

import pytest

from harness import LONG, care, wait_until
from patches import case, query_levels, rnd_patch
from programs import Program

SOURCE = r"""
#include <stdio.h>
__attribute__((noinline, noipa)) int value(int x) { return x * 3 + (x >> 2) + 1; }
void say(char question) { printf("%d\n", value(question)); }
"""


def footprint(pid):
    """Bytes by kind of mapping, numbers of mappings, descriptors and threads."""
    sizes = {"ours": 0, "heap": 0, "anonymous": 0, "resident": 0}
    maps = 0
    with open(f"/proc/{pid}/smaps") as lines:
        for line in lines:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+\s*(.*)", line)
            if head:
                maps += 1
                kind = ("ours" if "care:" in head[3] else "heap" if head[3] == "[heap]" else
                        "anonymous" if not head[3] else None)
                if kind:
                    sizes[kind] += int(head[2], 16) - int(head[1], 16)
            elif line.startswith("Private_Dirty:"):
                sizes["resident"] += int(line.split()[1]) * 1024
    return {**sizes, "maps": maps, "fds": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": len(os.listdir(f"/proc/{pid}/task"))}


def release(pid):
    """Memory of a reverted patch that a thread still refers to goes at a later look."""
    def done():
        care("care-patch", "recover", "--pid", pid, expect=(0, 2))
        return not footprint(pid)["ours"]
    wait_until(done, 30, "the memory of reverted patches is released")


def cycle(pid, levels, name):
    """The first level, each further one in its place, then none."""
    for level in levels:
        care("care-patch", "apply", level, "--pid", pid, "--timeout", "120")
    care("care-patch", "revert", name, "--pid", pid, "--timeout", "120")


def measure(pid, levels, name, cycles, label):
    """Warm once: the first cycle copies the pages of entries, which stay the process's own."""
    cycle(pid, levels, name)
    release(pid)
    before = footprint(pid)
    for level in levels:
        care("care-patch", "apply", level, "--pid", pid, "--timeout", "120")
    care("care-patch", "recover", "--pid", pid, expect=(0, 2))
    applied = footprint(pid)
    care("care-patch", "revert", name, "--pid", pid, "--timeout", "120")
    for _ in range(cycles):
        cycle(pid, levels, name)
    release(pid)
    after = footprint(pid)
    print(json.dumps({"target": label, "levels": len(levels), "cycles": cycles,
                      "bytes_per_patch": applied["ours"],
                      "resident_per_patch": applied["resident"] - before["resident"],
                      "before": before, "after": after}))
    return before, applied, after


@pytest.mark.parametrize("levels", [1, 2], ids=["reverted", "replaced"])
def test_a_program_is_as_it_was_after_many_cycles(tmp_path, levels):
    program = Program(tmp_path, SOURCE)
    files = [program.patch(f"more{n}", {"x * 3": f"x * {4 + n}"}, "--name", "more",
                           "--level", str(n)) for n in range(1, levels + 1)]
    with program.start() as running:
        before, applied, after = measure(running.pid, files, "more", 1000 if LONG else 30,
                                         "program")
        assert 0 < applied["ours"] <= 64 << 10
        assert applied["fds"] == before["fds"] and applied["threads"] == before["threads"]
        # Pages of its stack and data that were touched in passing stay the program's own.
        assert after.pop("resident") - before.pop("resident") <= 64 << 10
        assert after == before


@pytest.mark.parametrize("name", ["one function", "two functions", "replaced"])
def test_an_idle_server_is_as_it_was_after_many_cycles(target, new_server, tmp_path, name):
    server = new_server()
    if name == "one function":
        levels, name = [rnd_patch(target, tmp_path, "0.5")], "rnd-0-5"
    elif name == "two functions":
        levels, name = [target.patch(case("two_functions"), "two")], "two"
    else:
        levels, name = query_levels(target, tmp_path, "cycles"), "cycles"
    before, applied, after = measure(server.pid, levels, name, 1000 if LONG else 5, "mariadbd")
    assert 0 < applied["ours"] <= 128 << 10
    for key in ("ours", "maps", "fds", "threads", "heap"):
        # Threads of the server's own pools come and go with their stacks.
        slack = {"maps": 4, "threads": 2}.get(key, 0)
        assert after[key] - before[key] <= slack, (key, before, after)
    # A leak of one page a cycle would be seen; the server's own work needs some too.
    assert after["resident"] - before["resident"] < (1 << 20 if LONG else 256 << 10)

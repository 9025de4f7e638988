# SPDX-License-Identifier: GPL-2.0-or-later
"""The ledger in the target is hostile input: whatever stands in it, the patcher ends with a clear
word, writes nowhere but to the entries of the patched functions, and the process lives."""
import hashlib
import os
import random
import struct
import subprocess

import pytest

from harness import LONG, TOP, care, program, run
from programs import Program
from test_engine_life import CONTRACT

# What the test must know of the layout, told by the compiler.
LAYOUT = r"""
#include <stdio.h>
#include "apply/internal.h"
#define TELL(field) printf(#field " %zu\n", offsetof(struct ledger_header, field))
int main(void)
{
	TELL(constant_size);
	TELL(checksum);
	TELL(variable);
	printf("header %zu\nvariable_size %zu\n", sizeof(struct ledger_header),
	       sizeof(struct ledger_variable));
	return 0;
}
"""

SOURCE = CONTRACT.replace("\tpthread_create(&thread, NULL, check, NULL);\n", "").replace(
    "\tpthread_t thread;\n", "\t(void)check;\n")


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layout")
    (folder / "layout.c").write_text(LAYOUT)
    subprocess.run(["cc", "-D_GNU_SOURCE", f"-I{TOP}/engine/include", f"-I{TOP}/engine",
                    "layout.c", "-o", "layout"], cwd=folder, check=True)
    words = run(folder / "layout").out.split()
    return dict(zip(words[::2], map(int, words[1::2])))


class Victim:
    """A patched process, and its ledger to be written to."""

    def __init__(self, running, patch, other, layout):
        self.p, self.patch, self.layout = running, patch, layout
        self.entries = [int(f["entry"], 16) for file in (patch, other) for f in care(
            "care-patch", "check", file, "--pid", running.pid, "--json").json["functions"]]
        self.memory = open(f"/proc/{running.pid}/mem", "r+b", 0)
        self.original = self.mappings()
        self.apply()

    def apply(self):
        self.p.apply(self.patch)
        self.address = int(self.p.ours()[-1].split("-")[0], 16)
        size = struct.unpack_from("<I", self.read(self.address, 4096),
                                  self.layout["constant_size"])[0]
        self.ledger = self.read(self.address, size)
        self.patched = self.mappings()

    def read(self, address, size):
        self.memory.seek(address)
        return self.memory.read(size)

    def write(self, address, data):
        self.memory.seek(address)
        self.memory.write(data)

    def checksummed(self, ledger):
        """With a checksum that holds."""
        at, v = self.layout["checksum"], self.layout["variable"]
        bare = bytearray(ledger)
        bare[0:8] = bytes(8)
        bare[at:at + 32] = bytes(32)
        bare[v:v + self.layout["variable_size"]] = bytes(self.layout["variable_size"])
        ledger[at:at + 32] = hashlib.sha256(bare).digest()
        return ledger

    def mappings(self):
        """Contents of all that nobody writes to while the process waits: {start: bytes}."""
        found = {}
        for line in self.p.maps().splitlines():
            fields = line.split()
            start, end = (int(x, 16) for x in fields[0].split("-"))
            path = fields[5] if len(fields) > 5 else ""
            ledger = "care:" in path and "w" in fields[1]
            if path.startswith("/") and "r" in fields[1] and not ledger:
                found[start] = self.read(start, end - start)
        return found

    def strays(self, now):
        """Addresses of bytes that are neither as patched nor as they were before."""
        for start, data in now.items():
            known = [m[start] for m in (self.patched, self.original) if start in m]
            # What is new is another patch's own memory.
            if not known or data in known:
                continue
            for i, byte in enumerate(data):
                if all(byte != m[i] for m in known):
                    yield start + i

    def restore(self):
        """Everything as patched again."""
        if not self.p.ours():
            for start, data in self.original.items():
                if self.read(start, len(data)) != data:
                    self.write(start, data)
            self.apply()
            return
        for start, data in self.patched.items():
            if self.read(start, len(data)) != data:
                self.write(start, data)
        self.write(self.address, self.ledger)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    made = Program(tmp_path_factory.mktemp("ledger"), SOURCE,
                   ("-O2", "-fPIE", "-ffunction-sections"))
    return made, made.patch("victim", {
        "\treturn 1;": "\treturn 2;",
        "return from_left == 1;": "return from_left == 2;"}), made.patch("other", {
            "{\n\t__asm__ volatile(\"nop; nop; nop; nop\");\n\treturn right(left());":
            "{\n\t__asm__ volatile(\"nop; nop; nop; nop; nop\");\n\treturn right(left());"})


@pytest.fixture
def victim(case, layout):
    with case[0].start() as p:
        p.ask()
        yield Victim(p, case[1], case[2], layout)


def judge(victim, what, *args):
    """Runs a command on the damaged process."""
    done = run(program("care-patch"), *args, "--pid", victim.p.pid, timeout=60)
    assert 0 <= done.status <= 6, (what, done)
    assert done.status == 0 or done.err.strip(), (what, done)
    assert victim.p.alive(), (what, done)
    strays = [hex(a) for a in victim.strays(victim.mappings())
              if not any(e <= a < e + 16 for e in victim.entries)]
    assert not strays, (what, done, strays[:10])
    return done


def commands(other):
    return (("info",), ("revert", "victim", "--timeout", "0.2"), ("recover",),
            ("apply", other, "--timeout", "0.2"), ("symbols",))


def test_flipped_bits_of_the_ledger_are_found_and_nothing_is_written(victim, case):
    rng = random.Random(20261128)
    variable = range(victim.layout["variable"], victim.layout["header"])
    before = victim.mappings()
    for _ in range(400 if LONG else 20):
        at = rng.choice([i for i in range(8, len(victim.ledger)) if i not in variable])
        bad = bytearray(victim.ledger)
        bad[at] ^= 1 << rng.randrange(8)
        victim.write(victim.address, bytes(bad))
        for args in rng.sample(commands(case[2]), 2):
            done = judge(victim, at, *args)
            assert done.status == 1 and "ledger" in done.err, (at, done)
            assert "victim" in done.err or "0x" in done.err, (at, done)
        assert victim.mappings() == before
        victim.write(victim.address, victim.ledger)
    assert victim.p.info()[0]["name"] == "victim"
    victim.p.revert("victim")
    assert victim.mappings() == victim.original


def interesting(rng, value, victim):
    address = rng.choice(list(victim.original))
    return rng.choice([0, 1, value + 1, value - 1, value ^ (1 << rng.randrange(32)),
                       0xffffffff, 0x7fffffff, 0xffffffffffffffff, 1 << 63, address, address + 8,
                       victim.address, victim.entries[0] + 64])


def test_a_ledger_made_by_an_enemy_leads_to_no_write_elsewhere(victim, case):
    """Its checksum holds: each word in turn is what an attacker would write."""
    rng = random.Random(7)
    header = victim.layout["header"]
    skip = range(victim.layout["checksum"], victim.layout["checksum"] + 32)
    words = [(i, "<I") for i in range(8, header, 4) if i not in skip]
    words += [(i, "<Q") for i in range(16, min(header + 400, len(victim.ledger) - 8), 8)
              if i not in skip]
    if not LONG:
        words = rng.sample(words, 40)
    for at, form in words:
        bad = bytearray(victim.ledger)
        value = struct.unpack_from(form, bad, at)[0]
        mask = (1 << 8 * struct.calcsize(form)) - 1
        struct.pack_into(form, bad, at, interesting(rng, value, victim) & mask)
        victim.write(victim.address, bytes(victim.checksummed(bad)))
        for args in rng.sample(commands(case[2]), 2):
            judge(victim, (at, form), *args)
            if not any("victim" in line for line in victim.p.ours()):
                break
        if any("care:other" in line for line in victim.p.ours()):
            run(program("care-patch"), "revert", "other", "--pid", victim.p.pid)
        if any("care:other" in line for line in victim.p.ours()):
            pytest.fail(f"other stays after {at}")
        victim.restore()
    assert victim.p.ask().endswith(" 0 mixed")

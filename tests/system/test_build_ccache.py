# SPDX-License-Identifier: GPL-2.0-or-later
"""Compilers behind ccache: what it has is not compiled again, unless that is asked for."""
import json

import pytest

from harness import care, run
from programs import Program

SOURCE = r"""
#include <stdio.h>
__attribute__((noinline)) int weigh(int x)
{
	return 3 * x + x % 7;
}
void say(char question)
{
	printf("%d\n", weigh(question));
}
"""


@pytest.fixture
def program(tmp_path):
    made = Program(tmp_path / "program", SOURCE)
    with open(made.database) as file:
        commands = json.load(file)
    for command in commands:
        command["command"] = "ccache " + command["command"]
    with open(made.database, "w") as file:
        json.dump(commands, file)
    made.env["CCACHE_DIR"] = str(tmp_path / "ccache")
    return made


def counts(program):
    """(compilations that ccache saved, those that it did not)"""
    done = run("ccache", "--print-stats", env=program.env)
    assert done.status == 0, done
    numbers = dict(line.split() for line in done.out.splitlines())
    return (int(numbers["direct_cache_hit"]) + int(numbers["preprocessed_cache_hit"]),
            int(numbers["cache_miss"]) + int(numbers["recache"]))


def test_ccache_in_front_of_the_compiler_is_used_and_passed_by_when_all_is_to_be_compiled(program):
    def match(*options):
        matched = care("care-build", "match", "--target", program.name, "case.c", "--json",
                       *options, env=program.env).json
        assert matched["identical"] == matched["total"] > 0

    match()
    assert counts(program) == (0, 1)
    match()
    assert counts(program) == (1, 1)
    match("--no-cache")
    assert counts(program) == (1, 2)

    # The unpatched source is there already; what is verified is compiled for it.
    patch = program.patch("heavier", {"3 * x": "4 * x"})
    assert counts(program) == (2, 3)
    verified = care("care-build", "verify", patch, "--json", env=program.env).json
    assert verified["verified"] and counts(program) == (2, 5)
    with program.start() as p:
        before = p.ask()
        p.apply(patch)
        assert p.ask() != before

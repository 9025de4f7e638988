# SPDX-License-Identifier: GPL-2.0-or-later
"""--help, man page and completion know the same commands and options; the README runs nothing that
does not exist."""
import os
import re

import pytest

from harness import TOP, care, program, run

PAGES = {"care-build": 1, "care-patch": 1, "care-repo": 8, "care-tuf": 1, "dbcarectl": 8}
# As --help lists them, and as the man pages print them in bold.
OPTION = re.compile(r"^ {2,}(?:-\w, +)?(--[a-z][a-z-]+)", re.M)
BOLD = re.compile(r"\*(--[a-z][a-z-]+)\*")
# argp gives these to every command; the man pages name them once.
COMMON = {"--help", "--usage", "--version"}


def commands(name):
    """The commands that `NAME --help` lists, "target add" and the like spelled out."""
    text = care(name, "--help").out
    listed = re.search(r"^Commands:\n((?: .*\n)+)", text, re.M)
    assert listed, text
    found = []
    for words in re.findall(r"^  ([a-z|]+(?: [a-z|]+)?)", listed[1], re.M):
        first, _, verbs = words.partition(" ")
        for command in first.split("|"):
            found += [f"{command} {v}" for v in verbs.split("|")] if "|" in verbs else [command]
    return found


def options(name):
    found = set()
    for command in commands(name):
        found |= set(OPTION.findall(care(name, *command.split(), "--help").out))
    return found - COMMON


def page(name):
    with open(os.path.join(TOP, "docs", "man", f"{name}.{PAGES[name]}.scd")) as file:
        return file.read()


@pytest.mark.parametrize("name", PAGES)
def test_man_page_names_every_command_and_option_and_no_other(name):
    text = page(name).replace("\\", "")
    assert set(BOLD.findall(text)) - COMMON == options(name)
    for command in commands(name):
        assert f"*{command}*" in text, command


@pytest.mark.parametrize("name", PAGES)
def test_man_page_is_one_that_man_can_show(name, tmp_path):
    source = os.path.join(TOP, "docs", "man", f"{name}.{PAGES[name]}.scd")
    with open(source) as file, open(tmp_path / "page", "w") as out:
        import subprocess
        assert subprocess.run(["scdoc"], stdin=file, stdout=out).returncode == 0


@pytest.mark.parametrize("name", PAGES)
def test_completion_offers_every_command_and_option(name):
    script = os.path.join(TOP, "completions", name)

    def complete(*words):
        line = " ".join(words)
        code = (f'_init_completion() {{ :; }}; source "{script}"; COMP_WORDS=({name} {line} "$1"); '
                f'COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); {"_" + name.replace("-", "_")}; '
                'printf "%s\\n" "${COMPREPLY[@]}"')
        return code

    def offered(prefix, *words):
        done = run("bash", "-c", complete(*words), "bash", prefix)
        assert done.status == 0, done
        return set(done.out.split())

    for command in commands(name):
        first, _, verb = command.partition(" ")
        assert first in offered("")
        if verb:
            assert verb in offered("", first)
        known = set(OPTION.findall(care(name, *command.split(), "--help").out)) - COMMON
        assert known <= offered("--", *command.split()), command


@pytest.mark.parametrize("name", PAGES)
def test_version_and_usage_work(name):
    assert re.search(r"\d+\.\d+", care(name, "--version").out)
    wrong = run(program(name), "no-such-command")
    assert wrong.status == 1 and "no-such-command" in wrong.text


def test_every_scenario_of_the_list_has_the_tests_that_it_names():
    with open(os.path.join(TOP, "tests", "scenarios.md")) as file:
        rows = re.findall(r"^\| (\w+) \| (.*) \|$", file.read(), re.M)
    sources = ""
    for room in ("unit", "system"):
        folder = os.path.join(TOP, "tests", room)
        for name in os.listdir(folder):
            if name.endswith((".c", ".py")):
                with open(os.path.join(folder, name)) as file:
                    sources += file.read()
    missing = []
    for scenario, shown_by in rows[1:]:
        for test in shown_by.split(", "):
            if test.startswith("case "):
                there = os.path.isdir(os.path.join(TOP, "tests", "cases", test[5:]))
            else:
                there = re.search(rf"^(def|static void) {test}\(", sources, re.M)
            if not there:
                missing.append(f"{scenario}: {test}")
    assert len(rows) > 40 and not missing


@pytest.mark.parametrize("name", PAGES)
def test_quiet_is_the_same_everywhere(name):
    """What it does: test_quiet_says_nothing_but_errors of the programs' own tests."""
    helped = [care(name, *command.split(), "--help").out for command in commands(name)]
    for text in helped:
        words = re.search(r"-q, --quiet +((?:.*\n)(?: {20,}.*\n)*)", text)[1].split()
        assert " ".join(words) == \
            "Print errors only; what a command is there to show is shown", text
    assert "Print errors only, and change nothing about the exit status" in page(name)

# SPDX-License-Identifier: GPL-2.0-or-later
"""How often it works: every change between two trees is tried, and each outcome has its reason."""
import os
import shutil

import pytest

from harness import care
from programs import Program

SOURCE = r"""
#include <stdio.h>
int limit = 10;
struct item { int weight; int price; };
__attribute__((noinline)) int first(struct item *i)
{
	return i->weight * 3 + limit;
}
__attribute__((noinline)) int second(struct item *i)
{
	return i->price * 5 - limit;
}
void say(char question)
{
	struct item i = { question, question };

	printf("%d\n", question == 'a' ? first(&i) : second(&i));
}
"""
FAR = "\n" * 12


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    # The two functions stand far enough apart for hunks of their own.
    source = SOURCE.replace("__attribute__((noinline)) int second", FAR +
                            "__attribute__((noinline)) int second")
    made = Program(tmp_path_factory.mktemp("survey"), source)
    with open(os.path.join(made.folder, "README"), "w") as file:
        file.write("one\n")
    return made


def tree(program, tmp_path, changes, more=()):
    """A source tree with changes: {old: new} in case.c, (file, text) besides."""
    new = tmp_path / "new"
    new.mkdir()
    text = program.source
    for old, put in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, put)
    (new / "case.c").write_text(text)
    shutil.copy(os.path.join(program.folder, "main.c"), new)
    for name, content in more:
        (new / name).write_text(content)
    return str(new)


def survey(program, new, *options, expect=0):
    result = care("care-build", "survey", "--target", program.name, "--new", new, "--json",
                  *options, env=program.env, expect=expect).json
    return result, {(t["path"], t["hunk"]): t for t in result["trials"]}


def test_a_change_is_built_applied_and_reverted_whole_and_by_hunks(program, tmp_path):
    new = tree(program, tmp_path, {"* 3 + limit": "* 4 + limit", "* 5 - limit": "* 6 - limit"},
               [("README", "two\n")])
    with program.start() as p:
        before, snapshot = (p.ask("a"), p.ask("b")), p.snapshot()
        result, trials = survey(program, new, "--hunks", "--pid", str(p.pid))
        assert (p.ask("a"), p.ask("b")) == before
        assert p.released() and p.snapshot() == snapshot
    assert {key: t["outcome"] for key, t in trials.items()} == {
        ("README", 0): "no code", ("case.c", 0): "applied", ("case.c", 1): "applied",
        ("case.c", 2): "applied"}
    assert result["files"]["outcomes"]["applied"] == 1
    assert result["hunks"]["outcomes"]["applied"] == 2
    assert result["files"]["reasons"] == {"no code of the program": 1}


@pytest.mark.parametrize("change, reason", [
    ({"limit = 10": "limit = 11"}, "initial value of existing data changes"),
    ({"int weight; int price;": "int price; int weight;"}, "layout of a type in use changes"),
    ({"* 3 + limit": "* 3 + unheard_of"}, "does not compile without the other changes"),
])
def test_a_refusal_is_counted_by_its_reason(program, tmp_path, change, reason):
    result, trials = survey(program, tree(program, tmp_path, change), "case.c")
    assert trials["case.c", 0]["outcome"] == "refused"
    assert result["files"]["reasons"] == {reason: 1}
    assert trials["case.c", 0]["message"]


def test_what_is_no_function_of_the_program_is_no_failure(program, tmp_path):
    new = tree(program, tmp_path, {"struct item {": "/* what is sold */\nstruct item {"},
               [("more.c", "int more(void) { return 1; }\n")])
    result, trials = survey(program, new)
    assert trials["case.c", 0]["outcome"] == "no code"
    assert trials["more.c", 0]["reason"] == "a new source file"
    assert result["files"]["outcomes"]["failed"] == 0


def test_equal_trees_are_nothing_to_do(program, tmp_path):
    done = care("care-build", "survey", "--target", program.name, "--new",
                tree(program, tmp_path, {}), "--json", env=program.env, expect=2)
    assert "do not differ" in done.json["error"]["message"]

# SPDX-License-Identifier: GPL-2.0-or-later
"""How often it works: every change between two trees is tried, and each outcome has its reason."""
import json
import os
import shutil
import signal
import subprocess

import pytest

from harness import care, program as our_program, wait_until
from programs import MAIN, Program

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


def changed(text, changes):
    for old, put in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, put)
    return text


def tree(program, tmp_path, changes, more=()):
    """A source tree with changes: {old: new} in case.c, (file, text) besides."""
    new = tmp_path / "new"
    new.mkdir()
    (new / "case.c").write_text(changed(program.source, changes))
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


def test_what_differs_by_blanks_is_no_change_and_is_not_in_the_patch_of_another(program, tmp_path):
    text = program.source.replace("\t", "    ").replace("printf(", "printf (  ")
    new = tree(program, tmp_path, {})
    with open(os.path.join(new, "case.c"), "w") as file:
        file.write(text)
    result, trials = survey(program, new)
    assert trials["case.c", 0]["reason"] == "blanks and comments alone"
    assert result["files"]["outcomes"]["no code"] == 1

    with open(os.path.join(new, "case.c"), "w") as file:
        file.write(changed(text, {"* 3 + limit": "* 4 + limit"}))
    keep = tmp_path / "keep"
    result, trials = survey(program, new, "--keep", str(keep))
    assert trials["case.c", 0]["outcome"] == "built"
    lines = (keep / "1.diff").read_text().splitlines()
    assert [line for line in lines[3:] if line[0] in "+-"] == [
        "-\treturn i->weight * 3 + limit;", "+    return i->weight * 4 + limit;"]


HEADER = "#define FACTOR 3\n#define UNUSED 7\nint first(int x);\n"
WITH_HEADER = r"""
#include "case.h"
#include <stdio.h>
__attribute__((noinline)) int first(int x)
{
	return x * FACTOR;
}
void say(char question)
{
	printf("%d\n", first(question));
}
"""


@pytest.fixture(scope="module")
def with_header(tmp_path_factory):
    folder = tmp_path_factory.mktemp("header")
    (folder / "case.h").write_text(HEADER)
    return Program(folder, WITH_HEADER)


def test_a_header_is_tried_with_what_includes_it_if_that_reads_it_differently(with_header, tmp_path):
    def header(text):
        (tmp_path / "case.h").write_text(text)
        return survey(with_header, str(tmp_path), "--max-units", "1")[1]["case.h", 0]

    assert header(HEADER.replace("#define ", "#define  "))["reason"] == "blanks and comments alone"
    unused = header(HEADER.replace("UNUSED 7", "UNUSED 8"))
    assert unused["reason"] == "no function changes" and "reads the same" in unused["message"]
    assert header(HEADER.replace("FACTOR 3", "FACTOR 5"))["outcome"] == "built"
    # A declaration reads differently, but nothing comes of it.
    added = header(HEADER + "int more(int);\n")
    assert added["reason"] == "no function changes" and "reads the same" not in added["message"]


# ---- a change in two files: the second has what the first needs

CONNECTED = ({"? first(&i) : second(&i)": "? helper(&i) : second(&i)",
              "void say(": "int helper(struct item *i);\nvoid say("},
             {"int main(void)": "int helper(int *numbers)\n{\n\treturn numbers[0] + 1;\n}\n"
                                "int main(void)"})


@pytest.fixture
def connected(program, tmp_path):
    case, main = CONNECTED
    return tree(program, tmp_path, case, [("main.c", changed(MAIN, main)), ("README", "two\n")])


@pytest.mark.parametrize("paths", [[], ["case.c"]])
def test_a_file_that_needs_another_is_tried_together_with_it(program, connected, paths):
    with program.start() as p:
        before = p.snapshot()
        _, trials = survey(program, connected, "--pid", str(p.pid), *paths)
        assert p.released() and p.snapshot() == before
    assert trials["case.c", 0]["outcome"] == "applied"
    assert trials["case.c", 0]["with"] == ["main.c"]
    # Alone it is a new function that nobody calls.
    assert not paths or ("main.c", 0) not in trials
    assert paths or trials["main.c", 0]["with"] == []


# ---- of two files that it needs by their words, one cannot be patched: a table of texts that grows

CODES = "#define ONE 1\n"
SPOKEN = SOURCE.replace("#include", '#include "codes.h"\n#include', 1)
TEXTS = ('#include "codes.h"\nconst char *texts[] = { "", "one" };\n'
         "const char *text_of(int code)\n{\n\treturn texts[code];\n}\n")
TWO = {'"one" }': '"one", [TWO] = "two" }'}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoken")
    (folder / "codes.h").write_text(CODES)
    return Program(folder, SPOKEN, main=TEXTS + MAIN)


@pytest.mark.parametrize("use, more, outcome, reason, with_, without", [
    # What does not compile is declared in a header, whoever else has the word.
    ("i->weight * TWO", "int more(void);", "applied", None, ["codes.h"], []),
    # What the program lacks may be in each file that has the word.
    ("i->weight * 3 + more()", "#define more() 7", "applied", None, ["codes.h"],
     ["main.c", "other.c"]),
    # Of this, the file with the table has more than the text.
    ("i->weight * TWO + more()", "int more(void);", "refused", "size of existing data changes",
     ["codes.h", "main.c", "other.c"], []),
])
def test_what_it_can_do_without_is_left_out_when_that_cannot_be_patched(
        spoken, tmp_path, use, more, outcome, reason, with_, without):
    new = tmp_path / "new"
    new.mkdir()
    (new / "codes.h").write_text(f"{CODES}#define TWO 2\n{more}\n")
    (new / "case.c").write_text(changed(SPOKEN, {"i->weight * 3": use}))
    (new / "other.c").write_text("int other = TWO; /* and more */\n")  # no part of the program
    (new / "main.c").write_text(changed(TEXTS, TWO) + "int (more)(void)\n{\n\treturn 7;\n}\n" +
                                MAIN)
    out = str(tmp_path / "results")
    with spoken.start() as p:
        before = p.snapshot()
        for _ in range(2):  # tried, then known
            _, trials = survey(spoken, str(new), "--pid", str(p.pid), "-o", out)
            trial = trials["case.c", 0]
            assert (trial["outcome"], trial["reason"]) == (outcome, reason), trial
            assert (trial["with"], trial["without"]) == (with_, without), trial
            assert trials["main.c", 0]["reason"] == "size of existing data changes"
        assert p.released() and p.snapshot() == before


def test_a_header_with_which_too_many_sources_change_is_refused(spoken, tmp_path):
    (tmp_path / "codes.h").write_text(CODES + "int more(void);\n")
    trial = survey(spoken, str(tmp_path), "--max-units", "1")[1]["codes.h", 0]
    assert (trial["outcome"], trial["reason"]) == ("refused", "header of too many sources")
    assert "more than 1" in trial["message"] and "which 2 include" in trial["message"]
    assert survey(spoken, str(tmp_path), "--max-units", "2")[1]["codes.h", 0]["outcome"] == "no code"


def test_all_files_named_are_one_change_when_asked_for(program, connected):
    result, trials = survey(program, connected, "--together")
    assert list(trials) == [("README", 0)]
    assert trials["README", 0]["outcome"] == "built"
    assert trials["README", 0]["with"] == ["case.c", "main.c"]
    _, trials = survey(program, connected, "--together", "case.c")
    assert trials["case.c", 0]["reason"] == "refers to what the program does not have"


# ---- results are kept as they come

def results(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def test_a_stopped_survey_goes_on_where_it_was(program, connected, tmp_path):
    out = str(tmp_path / "results")
    args = ["survey", "--target", program.name, "--new", connected, "--jobs", "1", "-o", out]
    stopped = subprocess.Popen([our_program("care-build"), *args], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True,
                               env={**os.environ, **program.env})
    # case.c is refused alone and waits for the next round; main.c is done.
    wait_until(lambda: os.path.exists(out) and len(results(out)) > 1, 60, "the first result")
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate(timeout=60)
    assert stopped.returncode == 1 and "interrupted" in err
    assert "1 of 3 change no code" in err and "2 of 3: " in err, err

    before = results(out)
    with open(out, "a") as file:
        file.write('{"path": "cut')
    done = care("care-build", *args, env=program.env)
    assert "2 of 3 change no code or are known" in done.err
    with open(out) as file:
        lines = file.read().splitlines()
    after = [json.loads(line) for line in lines if not line.endswith("cut")]
    assert after[:len(before)] == before
    assert sorted(r["path"] for r in after[1:]) == ["case.c", "main.c"]
    # A result that is known is believed, not tried for again.
    with open(out, "w") as file:
        file.writelines(json.dumps(r) + "\n" for r in
                        [before[0], *({**r, "outcome": "refused", "reason": "said so"}
                                      for r in after[1:])])
    result, _ = survey(program, connected, "-o", out)
    assert result["files"]["reasons"]["said so"] == 2


def test_what_is_no_path_and_no_list_of_results_is_named(program, connected, tmp_path):
    def told(*options):
        done = care("care-build", "survey", "--target", program.name, "--new", connected, "--json",
                    *options, env=program.env, expect=1)
        return done.json["error"]["message"]

    assert told("nothere.c").endswith("has nothere.c")
    mine = tmp_path / "mine.diff"
    mine.write_text("--- a\n")
    assert "is no list of results" in told("-o", str(mine)) and mine.read_text() == "--- a\n"


def test_results_of_another_survey_are_not_mixed_in(program, connected, tmp_path):
    out = str(tmp_path / "results")
    survey(program, connected, "-o", out, "--max-units", "7")
    done = care("care-build", "survey", "--target", program.name, "--new", connected, "-o", out,
                "--json", env=program.env, expect=1)
    assert "another survey" in done.json["error"]["message"]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Kinds of changes in a source, each built by care-build and run: what comes along, what is left
alone, what is refused when the patch is built."""
import difflib
import json
import os

import pytest

from harness import care, run
from programs import Program, flip

REFUSED = 5
FLAVOURS = [("-O2", "-fPIE"), ("-O3", "-fPIC", "-fcf-protection=full")]


def parts(program, name):
    """Names of the functions that a patch replaces."""
    shown = care("care-build", "show", f"{program.folder}/{name}.cpatch", "--json").json
    return sorted(f["name"] for f in shown["functions"])


TWINS = r"""
#include <stdio.h>
__attribute__((noinline)) int triple(int x)
{
	return x * 3;
}
void say(char question)
{
	printf("%d\n", triple(question));
}
"""

ORIGINALS = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int count, other = 40;
static __attribute__((noinline)) int original(int x)
{
	return ++other + x;
}
__attribute__((noinline, visibility("hidden"))) int hidden(void)
{
	return original(count);
}
__attribute__((noinline)) int first(void)
{
	static int calls = 100;
	return calls++;
}
__attribute__((noinline)) int second(void)
{
	static int calls = 200;
	return calls++;
}
__attribute__((noinline)) int value(void)
{
	return ++count;
}
void say(char question)
{
	int one = first(), two = second(), three = hidden();
	printf("%d %d %d %d\n", value(), one, two, three);
}
"""


@pytest.fixture(scope="module", params=FLAVOURS, ids=["O2", "O3-cet"])
def originals(request, tmp_path_factory):
    return Program(tmp_path_factory.mktemp("originals"), ORIGINALS, request.param)


def test_ref_original_and_private_data_exe(originals):
    """New code calls an old static function and writes the program's own static variable."""
    old, new, after = flip(originals, {"return ++count;": "count += 10;\n\treturn original(0);"},
                           "aa")
    assert [a.split()[0] for a in old] == ["1", "2"]
    # hidden() has counted `other` on as well: one and the same variable.
    assert [a.split()[0] for a in new] == ["44", "46"]
    assert [a.split()[0] for a in after] == ["23", "24"]


def test_same_name_locals_the_right_one_goes_on(originals):
    old, new, after = flip(originals, {"static int calls = 200;\n\treturn calls++;":
                                       "static int calls = 200;\n\treturn 5000 + calls++;"})
    assert [old[0].split()[2], new[0].split()[2], after[0].split()[2]] == ["200", "5201", "202"]
    assert [a.split()[1] for a in old + new + after] == ["100", "101", "102"]
    assert parts(originals, "flip") == ["second"]


def test_hidden_symbol_is_called_and_replaced(originals):
    old, new, _ = flip(originals, {"return original(count);": "return 7000 + original(count);",
                                   "return ++count;": "return ++count + hidden() * 0;"})
    assert int(new[0].split()[3]) > 7000 > int(old[0].split()[3])
    assert {"hidden", "value"} <= set(parts(originals, "flip"))


def test_comments_in_a_diff_are_harmless(originals):
    changed = ORIGINALS.replace("return ++count;", "return ++count + 9000;")
    diff = "".join(difflib.unified_diff(ORIGINALS.splitlines(True), changed.splitlines(True),
                                        "a/case.c", "b/case.c"))
    path = f"{originals.folder}/comments"
    with open(path + ".diff", "w") as out:
        out.write("# Why: a comment.\n\nFrom: somebody\nSubject: [PATCH] more\n\n"
                  "diff --git a/case.c b/case.c\nindex 123..456 100644\n" + diff + "-- \n2.39.5\n\n")
    care("care-build", "patch", "--target", originals.name, "--name", "comments", "--diff",
         path + ".diff", "-o", path + ".cpatch", env=originals.env)
    assert "value" in parts(originals, "comments")


CLONES = r"""
#include <stdio.h>
#include <stdlib.h>
struct big { long a, b, c; };
static __attribute__((noinline)) long isra(const struct big *b)
{
	return b->b * 3;
}
static __attribute__((noinline)) int constprop(int x, int y)
{
	return x * y + (x ^ y);
}
__attribute__((noinline, cold)) void rare(int x)
{
	printf("rare %d\n", x);
}
__attribute__((noinline)) int cold(int x)
{
	if (x == 'z') {
		rare(x);
		rare(x * 3);
		x /= 7;
		rare(x);
	}
	return x + 1;
}
static inline int folded(int x)
{
	return x + 2;
}
__attribute__((noinline)) int caller(int x)
{
	return folded(x) * 10;
}
__attribute__((noinline)) int lines(void)
{
	return __LINE__;
}
void say(char question)
{
	struct big b = { question, 2, 3 };
	printf("%ld %d %d %d %d\n", isra(&b), constprop(question, 77), cold(question),
	       caller(question), lines());
}
"""


@pytest.fixture(scope="module", params=FLAVOURS, ids=["O2", "O3-cet"])
def clones(request, tmp_path_factory):
    return Program(tmp_path_factory.mktemp("clones"), CLONES, request.param)


def changed(old, new):
    """Which of the printed values differ."""
    return [i for i, (a, b) in enumerate(zip(old[0].split(), new[0].split())) if a != b]


def test_mangled_clones_are_replaced_as_what_they_are(clones):
    symbols = run("nm", clones.binary).out
    assert "constprop.constprop.0" in symbols and "cold.cold" in symbols
    old, new, after = flip(clones, {"return x * y + (x ^ y);": "return x * y + (x ^ y) + 4;",
                                    "return x + 1;": "return x + 3;"})
    assert changed(old, new) == [1, 2] and after == old
    assert set(parts(clones, "flip")) >= {"constprop.constprop.0", "cold"}


def test_an_argument_that_the_compiler_took_apart(clones):
    old, new, after = flip(clones, {"return b->b * 3;": "return b->b * 3 + b->c;"})
    assert changed(old, new) == [0] and after == old


def test_inlined_callee_its_callers_are_replaced(clones):
    old, new, after = flip(clones, {"return x + 2;": "return x + 4;"})
    assert changed(old, new) == [3] and after == old
    assert parts(clones, "flip") == ["caller"]


def test_line_macro_noise_leaves_functions_below_alone(clones):
    old, new, after = flip(clones, {"	return x + 1;":
                                    "	/* three\n	 * more\n	 * lines */\n	return x + 5;"})
    assert changed(old, new) == [2] and after == old
    assert parts(clones, "flip") == ["cold"]


TABLES = r"""
#include <stdio.h>
__attribute__((noinline)) const char *pick(int x)
{
	switch (x) {
	case 'a': return "alpha";
	case 'b': return "beta";
	case 'c': return "gamma";
	case 'd': return "delta";
	case 'e': puts("side effect"); return "epsilon";
	case 'f': return "zeta";
	default: return "none";
	}
}
__attribute__((noinline)) int jump(int x)
{
	switch (x) {
	case 'a': x *= 3; break;
	case 'b': x = x * x; break;
	case 'c': x -= 5; break;
	case 'd': x ^= 0x55; break;
	case 'e': x |= 0x100; break;
	case 'f': x /= 7; break;
	}
	return x;
}
void say(char question)
{
	printf("%s %d\n", pick(question), jump(question));
}
"""


@pytest.mark.parametrize("flags", FLAVOURS, ids=["O2", "O3-cet"])
def test_special_sections_jump_tables_and_newer_gcc_asm(tmp_path, flags):
    program = Program(tmp_path, TABLES, flags)
    old, new, after = flip(program, {"x -= 5;": "x -= 6;", 'return "delta"': 'return "DELTA"'}, "acdfx")
    assert after == old
    assert new == [old[0], "gamma 93", "DELTA 49", old[3], old[4]]


LIBC = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
extern char **environ;
__attribute__((noinline)) int value(int x)
{
	fflush(stderr);
	return x;
}
void say(char question)
{
	printf("%d\n", value(question));
}
"""


def test_ref_libc_func_and_ref_libc_data(tmp_path):
    """Functions that the program never imported, data that it has and data that libc has."""
    program = Program(tmp_path, LIBC, ("-O2", "-fPIC"), ("-pie",))
    old, new, after = flip(program, {
        "return x;": 'char *list = strdup("b,a"), *end;\n\tchar *first = strtok_r(list, ",", &end);\n'
                     '\tx = *first + (stdout != stderr) + (environ != NULL) + (getppid() > 0);\n'
                     '\tfree(list);\n\treturn x;'})
    assert old == after == ["97"] and new == [str(ord("b") + 3)]


def test_page_perms_restored_and_never_writable_and_executable(originals):
    patch = originals.patch("perms", {"return ++count;": "return ++count + 1;"})
    with originals.start() as p:
        p.ask()
        before = p.snapshot()

        def protections():
            return [line.split()[1] for line in p.maps().splitlines() if "x" in line.split()[1]]

        p.apply(patch)
        assert p.ours() and not [prot for prot in protections() if "w" in prot]
        p.revert("perms")
        assert p.snapshot() == before


REJECTED = r"""
#include <stdio.h>
#include <stdlib.h>
struct record { int id; int amount; };
enum kind { SMALL, LARGE };
int limit = 10;
static struct record *last;
static int started;
__attribute__((constructor)) static void start(void)
{
	started = 1;
}
__attribute__((noinline)) int use(struct record *r)
{
	return r->amount + limit + started;
}
void say(char question)
{
	if (!last)
		last = calloc(1, sizeof(*last));
	printf("%d\n", use(last));
}
"""


@pytest.fixture(scope="module")
def rejected(tmp_path_factory):
    return Program(tmp_path_factory.mktemp("rejected"), REJECTED)


@pytest.mark.parametrize("old, new, named", [
    ("started = 1;", "started = 2;", ["start"]),
    ("int limit = 10;", "int limit = 11;", ["limit"]),
    ("struct record { int id; int amount; };", "struct record { int id; int extra; int amount; };",
     ["record", "amount"]),
    ("enum kind { SMALL, LARGE };", "enum kind { NONE, SMALL, LARGE };\nenum kind here;", ["here"]),
    ("static int started;", "static int started;\n__thread int mine;\n"
     "__attribute__((constructor)) static void more(void)\n{\n\tmine = 1;\n}", ["more"]),
], ids=["reject_init_code", "reject_data_change", "reject_abi_mismatch", "unused_variable_is_nothing",
        "reject_new_constructor"])
def test_rejected_when_built(rejected, old, new, named):
    done = rejected.patch("no", {old: new}, expect=(2, REFUSED))
    if "here" in named:
        assert done.status == 2, done.text
        return
    assert done.status == REFUSED, done.text
    for name in named:
        assert name in done.text


def test_of_two_archives_with_the_same_source_the_one_that_the_linker_took_is_patched(tmp_path):
    """Both stand in the link command; the second has nothing that is still wanted."""
    made = Program(tmp_path, TWINS)
    commands = []
    for name, level in (("taken", "-O2"), ("left", "-O0")):
        command = f"cc -g {level} -fPIE -c case.c -o {name}.o"
        run("sh", "-c", f"{command} && ar qc lib{name}.a {name}.o", cwd=made.folder)
        commands.append({"directory": made.folder, "command": command,
                         "file": os.path.join(made.folder, made.case)})
        folder = tmp_path / "CMakeFiles" / f"{name}.dir"
        folder.mkdir(parents=True)
        (folder / "link.txt").write_text(f"ar qc lib{name}.a {name}.o\n")
    link = "cc -pie main.o libtaken.a libleft.a -o prog"
    (tmp_path / "CMakeFiles" / "prog.dir").mkdir()
    (tmp_path / "CMakeFiles" / "prog.dir" / "link.txt").write_text(link + "\n")
    assert run(*link.split(), cwd=made.folder).status == 0
    with open(made.database) as file:
        commands += [c for c in json.load(file) if not c["file"].endswith("case.c")]
    with open(made.database, "w") as file:
        json.dump(commands, file)
    care("care-build", "target", "remove", made.name, env=made.env)
    care("care-build", "target", "add", "program", "--name", made.name, "--compile-commands",
         made.database, "--binary", made.binary, env=made.env)
    patch = made.patch("twins", {"x * 3": "x * 5"})
    assert parts(made, "twins") == ["triple"]
    with made.start() as p:
        before = p.ask("a")
        p.apply(patch)
        assert p.ask("a") == str(int(before) // 3 * 5)
        p.revert("twins")
        assert p.ask("a") == before

# SPDX-License-Identifier: GPL-2.0-or-later
"""Diffs for tests that need several small patches; all of mysys/my_rnd.c, which compiles in a
second. RAND(1) is 0.405403 as shipped."""
import difflib
import os

from harness import TOP

DEMO = os.path.join(TOP, "tests", "lib", "demo.diff")
CASES = os.path.join(TOP, "tests", "cases")
RAND = "CAST(ROUND(RAND(1), 4) AS CHAR)"

_RND = """--- a/mysys/my_rnd.c
+++ b/mysys/my_rnd.c
@@ -61,6 +61,6 @@
   seed1= (rand_st->seed1*3+rand_st->seed2) % rand_st->max_value;
   rand_st->seed2=(seed1+rand_st->seed2+33) % rand_st->max_value;
   rand_st->seed1= seed1;
-  return (((double) seed1)/rand_st->max_value_dbl);
+  return {expression};
 }}
 
"""

# In mysql_parse(); the condition picks just what dbcarectl asks to verify ("SELECT 1").
_BREAKS = """--- a/sql/sql_parse.cc
+++ b/sql/sql_parse.cc
@@ -8146,6 +8146,8 @@
   DBUG_ENTER("mysql_parse");
   DBUG_EXECUTE_IF("parser_debug", turn_parser_debug_on_MYSQLparse(););
   DBUG_EXECUTE_IF("parser_debug", turn_parser_debug_on_ORAparse(););
+  if (length == 8 && !memcmp(rawbuf, "SELECT 1", 8))
+    {{ {action} }}
 
   /*
     Warning.
"""

_ACTIONS = {
    "fails": "my_error(ER_UNKNOWN_ERROR, MYF(0)); DBUG_VOID_RETURN;",
    "hangs": "my_sleep(14000000);",
    "drags": "my_sleep(1000000);",
    "crashes": "__builtin_trap();",
}


def case(name):
    return os.path.join(CASES, name, "change.diff")


def write(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w") as file:
        file.write(text)
    return path


def rnd(folder, factor):
    """A diff by which RAND() gives its value times @factor (at most 1: passwords use it too)."""
    expression = f"(((double) seed1)/rand_st->max_value_dbl) * {factor}"
    return write(folder, f"rnd-{factor}.diff", _RND.format(expression=expression))


def rnd_patch(target, folder, factor, name=None):
    return target.patch(rnd(str(folder), factor), name or f"rnd-{factor}".replace(".", "-"))


def breaks(folder, what):
    """A diff with which the query of a verification fails, hangs (14 s), drags (1 s) or crashes."""
    return write(folder, f"{what}.diff", _BREAKS.format(action=_ACTIONS[what]))


def levels_of_which_one_breaks(target, folder, what):
    """Of one patch: level 1 halves RAND(), level 2 quarters it and breaks the server."""
    diff = breaks(folder, what)
    with open(rnd(folder, 0.25)) as quarter, open(diff, "a") as file:
        file.write(quarter.read())
    return (target.patch(rnd(folder, 0.5), "part", "--level", "1"),
            target.patch(diff, "part", "--level", "2"))


def diff_of(target, folder, source, old, new):
    """A diff that replaces a text, which must be there once, in a source file of the target."""
    with open(os.path.join(target.folder, "src", source)) as file:
        before = file.read()
    assert before.count(old) == 1, f"{old!r} is not there once"
    after = before.replace(old, new)
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), "a/" + source,
                                 "b/" + source)
    return write(str(folder), os.path.basename(source) + ".diff", "".join(lines))


def query_levels(target, folder, name):
    """The files of levels 1 and 2 of a patch of two functions that change together: alloc_root(),
    which every statement calls many times, keeps its behaviour; RAND(1) is 0.2027 and 0.1014."""
    files = []
    for level, factor in ((1, "0.5"), (2, "0.25")):
        nops = "nop; " * level
        enter = 'DBUG_ENTER("alloc_root");'
        hot = diff_of(target, folder, "mysys/my_alloc.c", enter,
                      f'{enter} __asm__ volatile("{nops}");')
        files.append(target.patch([hot, rnd(str(folder), factor)], name, "--level", str(level)))
    return files

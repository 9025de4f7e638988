# SPDX-License-Identifier: GPL-2.0-or-later
"""A plugin of the server is patched: loaded already, or loaded later."""
import re

import pymysql
import pytest

from harness import care
from patches import case, diff_of

REFUSED = 5
PLUGIN = "usr/lib/mysql/plugin/simple_password_check.so"
SOURCE = "plugin/simple_password_check/simple_password_check.c"
HEADER = "include/mysql/plugin_password_validation.h"
BEGIN = "struct st_mariadb_password_validation\n"
OLD = "  if (strncmp(password->str, username->str, length) == 0)\n"
NEW = ("  if (length > 4 && strncmp(password->str, \"live-\", 5) == 0)\n"
       "    return 0;\n") + OLD
# The same with a function of the server, of which the plugin knows nothing.
OF_SERVER = "  extern int is_prefix(const char *, const char *);\n" + NEW.replace(
    'strncmp(password->str, "live-", 5) == 0', 'is_prefix(password->str, "live-")')


def accepts(server, password):
    try:
        server.sql(f"CREATE OR REPLACE USER somebody IDENTIFIED BY '{password}'")
    except pymysql.err.MySQLError as error:
        assert error.args[0] == 1819, error
        return False
    return True


@pytest.mark.parametrize("new, imports", [(NEW, []), (OF_SERVER, ["is_prefix"])],
                         ids=["alone", "with_a_function_of_the_server"])
def test_a_plugin_is_patched_once_it_is_loaded(target, new_server, tmp_path, new, imports):
    patch = target.patch(diff_of(target, tmp_path, SOURCE, OLD, new), "plugin", "--image", PLUGIN)
    shown = care("care-build", "show", patch, "--json").json
    assert [s["name"] for s in shown["symbols"] if s["kind"] == "import"] == imports
    assert [(t["name"], t["program"]) for t in shown["targets"]] == \
        [("simple_password_check.so", False)]
    server = new_server()
    early = care("care-patch", "apply", patch, "--pid", server.pid, expect=None)
    assert early.status != 0
    assert re.search("simple_password_check.so .*not loaded", early.text), early

    server.sql("INSTALL SONAME 'simple_password_check'")
    before = server.snapshot()
    assert not accepts(server, "live-x") and accepts(server, "Long-enough-1")
    care("dbcarectl", "apply", patch, server.pid)
    assert accepts(server, "live-x") and not accepts(server, "other")
    care("dbcarectl", "revert", "plugin", server.pid)
    assert not accepts(server, "live-x")
    care("care-patch", "recover", "--pid", server.pid, expect=(0, 2))
    assert server.snapshot() == before


def test_what_neither_plugin_nor_server_has_is_refused(target, tmp_path):
    diff = diff_of(target, tmp_path, SOURCE, OLD, OF_SERVER.replace("is_prefix", "is_nowhere"))
    done = care("care-build", "patch", "--target", target.name, "--name", "nowhere", "--diff", diff,
                "--image", PLUGIN, "-o", tmp_path / "nowhere.cpatch", expect=REFUSED)
    assert "refers to is_nowhere, which neither" in done.text


def test_a_header_of_plugin_and_server_changes_the_one_that_is_patched(target, tmp_path):
    """First the plugin, so that it is known to include the header when the server is patched."""
    header = diff_of(target, tmp_path, HEADER, BEGIN, "int unheard_of(void);\n" + BEGIN)
    plugin = diff_of(target, tmp_path, SOURCE, OLD, NEW)
    server = case("mysys_function")
    for name, diff, image in (("header-plugin", plugin, ["--image", PLUGIN]),
                              ("header-server", server, [])):
        care("care-build", "patch", "--target", target.name, "--name", name, "--diff", header,
             "--diff", diff, *image, "-o", tmp_path / f"{name}.cpatch", timeout=1200)
    shown = care("care-build", "show", tmp_path / "header-server.cpatch", "--json").json
    assert len(shown["functions"]) == 1, shown["functions"]


def test_a_patch_is_for_one_image(target, tmp_path):
    """A program and a library lie more than 2 GiB apart."""
    diff = diff_of(target, tmp_path, SOURCE, OLD, NEW)
    done = care("care-build", "patch", "--target", target.name, "--name", "two", "--diff", diff,
                "--image", PLUGIN, "--image", "usr/sbin/mariadbd", "-o", tmp_path / "two.cpatch",
                expect=1)
    assert "one patch is for one image" in done.text and "for each --image" in done.text
    # So is a diff of both.
    done = care("care-build", "patch", "--target", target.name, "--name", "two", "--diff", diff,
                "--diff", case("mysys_function"), "-o", tmp_path / "two.cpatch", expect=REFUSED)
    assert f"{SOURCE} is compiled, but not into" in done.text
    assert "to a patch of its own (--image)" in done.text

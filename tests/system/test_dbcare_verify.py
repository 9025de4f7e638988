# SPDX-License-Identifier: GPL-2.0-or-later
"""A patch that applies but breaks the server is taken back by dbcarectl itself."""
import glob
import json
import os
import subprocess
import time

import pytest

from harness import Watch, care, program, wait_until
from patches import DEMO, RAND, breaks, levels_of_which_one_breaks, rnd_patch, write

@pytest.fixture(scope="session")
def breaking(target, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("breaking"))

    def build(what):
        return target.patch(breaks(folder, what), what)

    return build


def test_a_patch_that_makes_queries_fail_is_reverted(server, breaking):
    before = server.snapshot()
    done = care("dbcarectl", "apply", breaking("fails"), server.pid, expect=1)
    assert "failed verification and was reverted" in done.text
    assert server.value("SELECT 1") == 1
    assert server.snapshot() == before
    rows = [r for r in care("dbcarectl", "history", "--json").json["history"]
            if r["pid"] == server.pid and r.get("patch") == "fails"]
    assert [r["action"] for r in rows] == ["apply", "auto-revert"]
    assert [r["result"] for r in rows] == ["verification", "reverted"]


def levels_of(server):
    return {p["name"]: p["level"] for p in care("dbcarectl", "info", server.pid,
                                                "--json").json["patches"]
            if p["state"] != "reverted"}


def auto_reverts(server):
    return [r for r in care("dbcarectl", "history", "--json").json["history"]
            if r["pid"] == server.pid and r["action"] == "auto-revert"]


def kept(server):
    """Names of the files that are kept of the patches in it."""
    [folder] = glob.glob(os.path.join(os.environ["DBCARE_STATE_DIR"], "kept", f"{server.pid}-*"))
    return sorted(os.listdir(folder))


def test_a_replacement_that_fails_gives_way_to_what_it_replaced(server, target, breaking, tmp_path):
    before = server.snapshot()
    half = rnd_patch(target, tmp_path, 0.5, "half")
    care("dbcarectl", "apply", half, server.pid)
    care("dbcarectl", "apply", target.patch(DEMO, "demo"), server.pid)
    assert kept(server) == ["demo-0.cpatch", "half-0.cpatch"]
    with Watch(server, f"SELECT {RAND}") as watch:
        done = care("dbcarectl", "apply", breaking("fails"), server.pid, "--replace", "half",
                    "--replace", "demo", "--json", expect=1)
    assert done.json["error"]["code"] == "verification"
    assert done.json["reverted"] and done.json["restored"] == ["half (level 0)", "demo (level 0)"]
    assert levels_of(server) == {"half": 0, "demo": 0}
    assert kept(server) == ["demo-0.cpatch", "half-0.cpatch"]
    assert set(watch.changes) == {"0.2027", "0.4054"}, watch.changes
    assert auto_reverts(server)[-1]["restored"] == done.json["restored"]
    for name in ("demo", "half"):
        care("dbcarectl", "revert", name, server.pid)
    assert server.snapshot() == before
    assert not glob.glob(os.path.join(os.environ["DBCARE_STATE_DIR"], "kept", f"{server.pid}-*"))


def test_a_level_that_fails_gives_way_to_the_one_before_in_one_switch(server, target, tmp_path):
    before = server.snapshot()
    good, bad = levels_of_which_one_breaks(target, str(tmp_path), "fails")
    care("dbcarectl", "apply", good, server.pid)
    with Watch(server, f"SELECT {RAND}") as watch:
        done = care("dbcarectl", "apply", bad, server.pid, expect=1)
        assert "reverted to what it had replaced: part (level 1)" in done.text
        assert levels_of(server) == {"part": 1} and server.value("SELECT 1") == 1
    assert watch.changes == ["0.2027", "0.1014", "0.2027"]  # never as shipped
    care("dbcarectl", "revert", "part", server.pid)
    assert server.snapshot() == before


def test_a_replacement_that_fails_tells_what_is_gone_with_it(server, target, breaking, tmp_path):
    """Nobody kept the file of what the engine's own command applied."""
    before = server.snapshot()
    care("care-patch", "apply", rnd_patch(target, tmp_path, 0.5, "half"), "--pid", server.pid)
    done = care("dbcarectl", "apply", breaking("fails"), server.pid, "--replace", "half", expect=1)
    assert "half (level 0)" in done.text and "apply that again" in done.text
    assert server.snapshot() == before


@pytest.fixture
def unverified(breaking):
    """A function that lets dbcarectl die when it has applied a patch, before it has verified it."""
    def leave(server, what, patch=None):
        before = levels_of(server)
        patch = patch or breaking(what)
        process = subprocess.Popen([program("dbcarectl"), "apply", patch, str(server.pid)],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        wait_until(lambda: levels_of(server) != before, 30, "the switch")
        process.kill()
        process.wait()

    return leave


def outcomes(server, patch):
    return [(r["action"], r["result"])
            for r in care("dbcarectl", "history", "--json").json["history"]
            if r["pid"] == server.pid and r.get("patch") == patch]


def test_what_a_dead_patcher_did_not_verify_is_told_and_recover_verifies_it(server, unverified):
    unverified(server, "drags")
    note = f"`dbcarectl recover {server.pid}` verifies it"
    for command in (["list"], ["info", server.pid], ["history"]):
        assert note in care("dbcarectl", *command).err, command
    assert outcomes(server, "drags") == [("apply", "unfinished")]

    # Without SQL it stays as it is.
    wrong = ["--no-defaults", "--user=nobody", "--password=wrong"]
    done = care("dbcarectl", "recover", server.pid, *wrong, expect=4)
    assert "cannot be verified now" in done.text and "`dbcarectl revert drags`" in done.text
    assert outcomes(server, "drags") == [("apply", "unfinished")]

    done = care("dbcarectl", "recover", server.pid, "--json")
    assert done.json["result"] == "recovered" and done.json["verified"] == ["drags"]
    assert outcomes(server, "drags") == [("apply", "applied")]
    assert note not in care("dbcarectl", "info", server.pid).text
    care("dbcarectl", "recover", server.pid, expect=2)
    assert [p["name"] for p in care("dbcarectl", "info", server.pid, "--json").json["patches"]] == \
        ["drags"]


def test_what_a_dead_patcher_did_not_verify_is_reverted_when_it_fails(new_server, unverified):
    server = new_server()
    unverified(server, "hangs")
    done = care("dbcarectl", "recover", server.pid, "--json", expect=1)
    assert done.json["error"]["code"] == "verification" and done.json["reverted"] == ["hangs"]
    assert outcomes(server, "hangs") == [("apply", "verification"), ("auto-revert", "reverted")]
    patches = care("dbcarectl", "info", server.pid, "--json").json["patches"]
    assert [p["state"] for p in patches] in ([], ["reverted"]), patches  # a thread hangs in it
    assert server.value("SELECT 1") == 1


def test_what_a_dead_patcher_replaced_is_back_when_its_verification_fails(new_server, target,
                                                                          unverified, tmp_path):
    server = new_server()
    good, bad = levels_of_which_one_breaks(target, str(tmp_path), "hangs")
    care("dbcarectl", "apply", good, server.pid)
    unverified(server, "hangs", bad)
    assert levels_of(server) == {"part": 2}
    care("dbcarectl", "recover", server.pid, expect=1)
    assert levels_of(server) == {"part": 1} and server.value(f"SELECT {RAND}") == "0.2027"
    row = auto_reverts(server)[-1]
    assert row["restored"] == ["part (level 1)"] and row["replaced"] == ["part (level 2)"]


def test_a_failed_verification_is_an_error_in_json_too(server, breaking):
    done = care("dbcarectl", "apply", breaking("fails"), server.pid, "--json", expect=1)
    assert done.json["error"]["code"] == "verification" and done.json["reverted"]
    assert care("dbcarectl", "info", server.pid, "--json").json["patches"] == []


def test_a_patch_that_makes_queries_hang_is_reverted_within_bounds(server, breaking):
    """The verifying query is given up after 10 s; its thread leaves the new code 4 s later."""
    patch = breaking("hangs")
    before = server.snapshot()
    begin = time.monotonic()
    done = care("dbcarectl", "apply", patch, server.pid, expect=1)
    assert time.monotonic() - begin < 60
    assert "was reverted" in done.text
    assert server.value("SELECT 1") == 1
    assert server.snapshot()["code"] == before["code"]

    def released():
        care("dbcarectl", "recover", server.pid, expect=(0, 2))
        return server.snapshot() == before

    # The memory goes when the thread that hangs has left it.
    wait_until(released, 30, "the release of the patch's memory")


# The first two logins after the switch come too late for a client that waits 5 s.
_SLOW = "static int logins; if (logins++ < 2) my_sleep(6000000);"
# Nobody comes in any more, and nobody is told at once.
_CLOSED = "my_sleep(6000000); DBUG_RETURN(1);"
_LOGIN = """--- a/sql/sql_connect.cc
+++ b/sql/sql_connect.cc
@@ -1206,6 +1206,7 @@
   DBUG_ENTER("login_connection");
   DBUG_PRINT("info", ("login_connection called by thread %lu",
                       (ulong) thd->thread_id));
+  {{ {action} }}
 
   /* Use "connect_timeout" value during connection phase */
   my_net_set_read_timeout(net, connect_timeout);
"""


def test_a_server_that_is_slow_to_greet_keeps_its_patch(server, target, tmp_path):
    patch = target.patch(write(str(tmp_path), "slow.diff", _LOGIN.format(action=_SLOW)), "slow")
    begin = time.monotonic()
    done = care("dbcarectl", "apply", patch, server.pid, "--json")
    assert 10 < time.monotonic() - begin < 60, done
    care("dbcarectl", "revert", "slow", server.pid)


def test_a_server_that_lets_nobody_in_since_a_patcher_died_gets_its_patch_taken_back(
        new_server, target, unverified, tmp_path):
    server = new_server()
    diff = write(str(tmp_path), "closed.diff", _LOGIN.format(action=_CLOSED))
    patch = target.patch(diff, "closed")
    unverified(server, "closed", patch)
    done = care("dbcarectl", "apply", patch, server.pid, expect=4)
    assert f"`dbcarectl revert closed {server.pid}` takes it back" in done.text
    done = care("dbcarectl", "recover", server.pid, "--json", expect=1)
    assert done.json["error"]["code"] == "verification" and done.json["reverted"] == ["closed"]
    assert outcomes(server, "closed") == [("apply", "verification"), ("auto-revert", "reverted")]
    assert server.value("SELECT 1") == 1


def test_a_server_that_a_patch_kills_is_told(new_server, breaking):
    server = new_server()
    done = care("dbcarectl", "apply", breaking("crashes"), server.pid, expect=3)
    assert "died after crashes was applied" in done.text
    rows = json.loads(care("dbcarectl", "history", "--json").out)["history"]
    assert [r["result"] for r in rows if r["pid"] == server.pid][0] == "target-died"


def test_without_sql_threads_are_verified_and_it_is_said(server, breaking):
    options = ["--no-defaults", "--user=nobody_here", "--password=x"]
    done = care("dbcarectl", "apply", breaking("fails"), server.pid, "--no-gates", *options)
    assert "not asked by SQL" in done.out and "nobody_here" in done.out
    care("dbcarectl", "revert", "fails", server.pid, *options)
    assert server.value("SELECT 1") == 1

# SPDX-License-Identifier: GPL-2.0-or-later
"""Bad input and bad moments: a clear error, the right exit status, and a server untouched."""
import contextlib
import fcntl
import json
import os
import pty
import random
import shutil
import signal
import struct
import subprocess
import termios
import threading
import time

import pytest

import harness
from harness import care, die_with_parent, program, run, unpacked, versions
from patches import DEMO, rnd, rnd_patch, write

NO_TARGET, NOT_NOW, REFUSED = 3, 4, 5


@pytest.fixture
def untouched(server):
    """The server before and after are the same, and it answers."""
    before = server.snapshot()
    yield server
    assert server.snapshot() == before
    assert server.value("SELECT 1") == 1


@pytest.fixture
def patch(target, tmp_path):
    return rnd_patch(target, tmp_path, "0.5")


# ---- the builder

def refused_diff(target, tmp_path, text, expect=1):
    path = write(str(tmp_path), "bad.diff", text)
    out = tmp_path / "bad.cpatch"
    done = care("care-build", "patch", "--target", target.name, "--name", "bad", "--diff", path,
                "-o", out, expect=expect, timeout=900)
    assert not out.exists()
    return done.text


def test_a_diff_that_does_not_apply_names_file_and_hunk(target, tmp_path):
    text = open(rnd(str(tmp_path), "0.5")).read().replace("seed1= seed1;", "seed1= nothing;")
    assert "my_rnd.c" in refused_diff(target, tmp_path, text, expect=(1, 5))


def test_a_diff_of_a_file_that_is_not_there_names_it(target, tmp_path):
    text = open(rnd(str(tmp_path), "0.5")).read().replace("my_rnd.c", "my_dice.c")
    assert "my_dice.c" in refused_diff(target, tmp_path, text, expect=(1, 3, 5))


def test_a_diff_that_does_not_compile_shows_the_compiler_s_message(target, tmp_path):
    text = open(rnd(str(tmp_path), "0.5")).read().replace("max_value_dbl) *", "max_value_duble) *")
    assert "max_value_duble" in refused_diff(target, tmp_path, text)


def test_a_diff_that_changes_nothing_is_nothing_to_do(target, tmp_path):
    text = open(rnd(str(tmp_path), "0.5")).read().replace(
        "(((double) seed1)/rand_st->max_value_dbl) * 0.5",
        "( ((double) seed1)/rand_st->max_value_dbl )")
    refused_diff(target, tmp_path, text, expect=2)


@pytest.mark.parametrize("text", ["", "not a diff\n", "--- a\n+++ b\n@@ -1 +1 @@\n"])
def test_a_file_that_is_no_diff_is_refused(target, tmp_path, text):
    assert refused_diff(target, tmp_path, text, expect=(1, 2))


def test_the_same_inputs_give_the_same_bytes(target, tmp_path):
    diff = rnd(str(tmp_path), "0.5")
    files = []
    for name in ("one", "two"):
        files.append(tmp_path / f"{name}.cpatch")
        care("care-build", "patch", "--target", target.name, "--name", "same", "--diff", diff,
             "-o", files[-1])
    assert files[0].read_bytes() == files[1].read_bytes()


# ---- files

def broken_files(patch, tmp_path):
    """(what, path): truncated, bit-flipped, random and foreign files."""
    good = open(patch, "rb").read()
    rng = random.Random(20261123)
    made = []

    def add(what, data):
        path = tmp_path / f"{what}.cpatch"
        path.write_bytes(data)
        made.append((what, path))

    for size in (0, 1, 63, 64, len(good) // 3, len(good) // 2, len(good) - 1):
        add(f"truncated-{size}", good[:size])
    for i in range(40):
        flipped = bytearray(good)
        for _ in range(1 + i % 4):
            flipped[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        add(f"flipped-{i}", bytes(flipped))
    for i in range(5):
        add(f"random-{i}", rng.randbytes(4096))
    add("text", b"#!/bin/sh\nexit 0\n" * 100)
    add("program", open("/bin/true", "rb").read())
    return made


def test_broken_patch_files_never_reach_the_server(untouched, patch, tmp_path):
    for what, path in broken_files(patch, tmp_path):
        done = run(program("dbcarectl"), "check", path, untouched.pid)
        assert done.status in (1, NO_TARGET, REFUSED), (what, done)
        assert done.text.strip(), what
        shown = run(program("care-patch"), "show", path)
        assert shown.status >= 0, (what, shown)


def test_a_patch_file_that_is_not_there_is_named(untouched):
    done = care("dbcarectl", "apply", "/nonexistent.cpatch", untouched.pid, expect=1)
    assert "/nonexistent.cpatch" in done.text


# ---- targets

def test_no_such_process(patch):
    for name, *args in (("dbcarectl", patch, "4194000"), ("care-patch", patch, "--pid", "4194000")):
        assert "4194000" in care(name, "apply", *args, expect=NO_TARGET).text


def test_a_process_that_is_no_mariadbd(patch):
    sleeper = subprocess.Popen(["/bin/sleep", "60"], preexec_fn=die_with_parent)
    try:
        done = care("dbcarectl", "apply", patch, sleeper.pid, expect=NO_TARGET)
        assert str(sleeper.pid) in done.text
        done = care("care-patch", "apply", patch, "--pid", sleeper.pid, expect=(NO_TARGET, 1, 5))
        assert done.text.strip()
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.fixture(scope="session")
def other_binary():
    """mariadbd of another build of the same series, from the security archive."""
    folder = unpacked("mariadb-server-core", versions()["MARIADB_OTHER_VERSION"])
    return os.path.join(folder, "usr/sbin/mariadbd")


def test_wrong_buildid(target, other_binary, patch):
    server = harness.Server(target.root)
    server.binary = other_binary
    server.start()
    try:
        assert "10.11.19" in server.value("SELECT VERSION()")
        before = server.snapshot()
        for name, *args in (("dbcarectl", server.pid), ("care-patch", "--pid", server.pid)):
            done = care(name, "apply", patch, *args, expect=(1, NO_TARGET, REFUSED))
            assert target.build_id[:12] in done.text or "build" in done.text
        assert server.snapshot() == before
    finally:
        server.remove()


# ---- rights and room

def test_not_root(untouched, patch, tmp_path):
    """As nobody: the error says what is missing."""
    folder = "/tmp/dbcare-nobody"
    shutil.rmtree(folder, True)
    os.mkdir(folder, 0o755)
    try:
        for name in ("dbcarectl", "care-patch"):
            shutil.copy(program(name), folder)
        shutil.copy(patch, f"{folder}/p.cpatch")
        os.chmod(f"{folder}/p.cpatch", 0o644)
        for name, *args in (("dbcarectl", untouched.pid), ("care-patch", "--pid", untouched.pid)):
            done = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                       f"{folder}/{name}", "apply", f"{folder}/p.cpatch", *args,
                       env={"DBCARE_STATE_DIR": folder})
            assert done.status in (1, NO_TARGET), done
            assert "root" in done.text or "ermission" in done.text or "not permitted" in done.text
    finally:
        shutil.rmtree(folder)


def test_no_space_for_the_state(untouched, patch, tmp_path):
    state = tmp_path / "full"
    state.mkdir()
    assert run("mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", state).status == 0
    try:
        (state / "filler").write_bytes(b"x" * 4096)
        done = care("dbcarectl", "apply", patch, untouched.pid, expect=1,
                    env={"DBCARE_STATE_DIR": str(state)})
        assert "space" in done.text
    finally:
        run("umount", state)
    assert untouched.value("SELECT ROUND(RAND(1), 3)") == 0.405


def test_wrong_sql_credentials_hold(untouched, patch, tmp_path):
    file = tmp_path / "my.cnf"
    file.write_text("[client]\nuser=nobody_of_that_name\npassword=wrong\n")
    file.chmod(0o600)
    done = care("dbcarectl", "apply", patch, untouched.pid, "--defaults-file", file,
                expect=(1, NOT_NOW))
    assert "nobody_of_that_name" in done.text or "denied" in done.text


def test_a_socket_that_was_moved_is_told(untouched, patch):
    moved = untouched.socket + ".moved"
    os.rename(untouched.socket, moved)
    try:
        done = care("dbcarectl", "apply", patch, untouched.pid, expect=(1, NOT_NOW))
        assert untouched.socket in done.text
        care("dbcarectl", "apply", patch, untouched.socket, expect=NO_TARGET)
    finally:
        os.rename(moved, untouched.socket)


# ---- bad moments

def test_a_debugger_that_is_attached_is_named(untouched, patch):
    strace = subprocess.Popen(["/usr/bin/strace", "-f", "-e", "trace=none", "-o", "/dev/null", "-p",
                               str(untouched.pid)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              preexec_fn=die_with_parent)
    try:
        harness.wait_until(lambda: "TracerPid:\t0" not in
                           open(f"/proc/{untouched.pid}/status").read(), 10, "strace")
        done = care("dbcarectl", "apply", patch, untouched.pid, expect=NOT_NOW)
        assert str(strace.pid) in done.text
    finally:
        strace.send_signal(signal.SIGINT)
        strace.wait(10)


@pytest.fixture(scope="session")
def two(target, tmp_path_factory):
    """BENCHMARK() and the generator of RAND() at once: not independent, so stacks count."""
    diffs = [DEMO, rnd(str(tmp_path_factory.mktemp("two")), "0.5")]
    return target.patch(diffs, "two")


class Busy:
    """A connection whose thread does not leave BENCHMARK() for hours."""

    QUERY = "SELECT BENCHMARK(1000000000000, 1+1)"

    def __init__(self, server):
        self.server = server

    def __enter__(self):
        self.connection = self.server.connect(read_timeout=300)
        self.id = self.connection.thread_id()
        self.thread = threading.Thread(target=self._ask)
        self.thread.start()
        harness.wait_until(lambda: self.server.value(
            f"SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE ID={self.id} AND INFO "
            "LIKE '%BENCHMARK%'"), 10, "the busy query")
        return self

    def _ask(self):
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(self.QUERY)
        except Exception:  # noqa: BLE001 - it is killed
            pass

    def __exit__(self, *_):
        if self.server.alive():
            self.server.sql(f"KILL CONNECTION {self.id}")
        self.thread.join(30)


def test_a_thread_that_never_leaves_is_named_as_connection_user_and_query(untouched, two):
    with Busy(untouched) as busy:
        begin = time.monotonic()
        done = care("dbcarectl", "apply", two, untouched.pid, "--timeout", "3", expect=NOT_NOW)
        assert time.monotonic() - begin < 30
        for fact in (str(busy.id), harness.USER, "BENCHMARK("):
            assert fact in done.text, done
    care("dbcarectl", "apply", two, untouched.pid)
    assert untouched.value("SELECT BENCHMARK(100001, 1)") is None
    care("dbcarectl", "revert", "two", untouched.pid)


def test_a_server_that_dies_while_the_patch_waits(target, new_server, two):
    server = new_server()
    with Busy(server):
        command = subprocess.Popen([program("dbcarectl"), "apply", two, str(server.pid),
                                    "--timeout", "60"], stdin=subprocess.DEVNULL, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   preexec_fn=die_with_parent)
        time.sleep(1.5)
        assert command.poll() is None, command.stdout.read()
        server.kill()
        text, _ = command.communicate(timeout=30)
        assert command.returncode in (1, NO_TARGET), text
        assert str(server.pid) in text or "died" in text or "gone" in text, text


def test_a_server_that_dies_at_any_moment_of_an_apply(target, new_server, patch):
    """Killed after a random delay: the command ends soon, with an error or with success."""
    rng = random.Random(7)
    server = new_server()
    for _ in range(8):
        command = subprocess.Popen([program("dbcarectl"), "apply", patch, str(server.pid)],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True,
                                   preexec_fn=die_with_parent)
        time.sleep(rng.uniform(0.001, 0.15))
        server.kill()
        text, _ = command.communicate(timeout=30)
        assert command.returncode in (0, 1, NO_TARGET, NOT_NOW), text
        server.start()


def test_two_patchers_at_once_do_not_mix(target, untouched, tmp_path):
    patches = [rnd_patch(target, tmp_path, f) for f in ("0.5", "0.25")]
    commands = [subprocess.Popen([program("dbcarectl"), "apply", p, str(untouched.pid)],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True) for p in patches]
    texts = [c.communicate(timeout=60)[0] for c in commands]
    statuses = [c.returncode for c in commands]
    assert 0 in statuses and set(statuses) <= {0, NOT_NOW}, texts
    info = care("dbcarectl", "info", untouched.pid, "--json").json
    assert len(info["patches"]) == statuses.count(0)
    care("dbcarectl", "revert", "--all", untouched.pid)


def test_history_tells_what_was_done(untouched, patch):
    care("dbcarectl", "apply", patch, untouched.pid)
    care("dbcarectl", "revert", "rnd-0-5", untouched.pid)
    rows = json.loads(care("dbcarectl", "history", "--json").out)
    assert "rnd-0-5" in json.dumps(rows)


def test_a_damaged_history_holds_no_patch_up_and_is_kept(untouched, patch, tmp_path):
    env = {"DBCARE_STATE_DIR": str(tmp_path)}
    care("dbcarectl", "apply", patch, untouched.pid, env=env)
    (tmp_path / "history.db").write_bytes(b"not a database" * 1000)
    shown = care("dbcarectl", "history", env=env, expect=1)
    assert "is damaged" in shown.err and "begins a new one" in shown.err
    done = care("dbcarectl", "revert", "rnd-0-5", untouched.pid, env=env)
    kept = list(tmp_path.glob("history.db.damaged-*"))
    assert len(kept) == 1 and str(kept[0]) in done.err, done
    assert kept[0].read_bytes().startswith(b"not a database")
    rows = care("dbcarectl", "history", "--json", env=env).json["history"]
    assert [(r["action"], r["result"]) for r in rows] == [("revert", "reverted")]


def test_history_is_chosen_from_by_server_patch_and_time(untouched, patch, tmp_path):
    env = {"DBCARE_STATE_DIR": str(tmp_path)}

    def rows(*options):
        return care("dbcarectl", "history", "--json", *options, env=env).json["history"]

    care("dbcarectl", "apply", patch, untouched.pid, env=env)
    care("dbcarectl", "revert", "rnd-0-5", untouched.pid, env=env)
    assert len(rows(f"--server={untouched.socket}", "--patch=rnd-0-5", "--since=1h")) == 2
    assert [r["action"] for r in rows("-n1")] == ["revert"]
    assert not rows("--server=1") and not rows("--patch=other") and not rows("--until=1h")
    assert len(rows("--since=2026-01-01", "--until=2999-01-01")) == 2
    refused = care("dbcarectl", "history", "--since=yesterday", env=env, expect=1)
    assert "'yesterday' is no time" in refused.err


def lines_of_history(folder, *records):
    """A history as earlier versions wrote it, which is taken over: one record a line."""
    usual = {"action": "apply", "began": "2026-11-29T10:00:00Z", "time": "2026-11-29T10:00:01Z",
             "patch": "cve-2026-49261", "server": "10.11.18-MariaDB-0+deb12u1",
             "result": "applied", "pause_us": 1234, "gates": "ok"}
    with open(folder / "history.jsonl", "w") as file:
        for i, record in enumerate(records):
            line = {"id": f"{i}-1-0", "pid": 4711 + i, **usual, **record}
            file.write(json.dumps(line) + "\n")


def test_history_shows_who_did_it_and_in_which_server(tmp_path):
    env = {"DBCARE_STATE_DIR": str(tmp_path)}
    lines_of_history(tmp_path, {"socket": "/run/a.sock", "by": "anna"},
                     {"socket": "/run/a.sock", "by": "care-agent", "gates": "skipped"},
                     {"socket": "/run/b.sock", "by": "root", "result": "held"})
    lines = care("dbcarectl", "history", env=env).out.splitlines()
    assert "BY" in lines[0].split()
    for line, words in zip(lines[1:], (("anna", "/run/a.sock"), ("care-agent", "no gates"),
                                       ("root", "held", "/run/b.sock"))):
        assert all(word in line for word in words), line
    # One server: which version it was tells more.
    alone = care("dbcarectl", "history", "--server=/run/a.sock", env=env).out
    assert "10.11.18-MariaDB" in alone and "/run/a.sock" not in alone


def test_history_by_hand_names_the_user_and_sudo_the_one_behind_it(untouched, patch, tmp_path):
    env = {"DBCARE_STATE_DIR": str(tmp_path), "SUDO_USER": ""}
    care("dbcarectl", "apply", patch, untouched.pid, env=env)
    care("dbcarectl", "revert", "rnd-0-5", untouched.pid, env=dict(env, SUDO_USER="anna"))
    rows = care("dbcarectl", "history", "--json", env=env).json["history"]
    assert [r["by"] for r in rows] == ["root", "anna"]


@pytest.mark.parametrize("columns", (90, 130))
def test_a_history_stays_within_the_terminal_and_loses_nothing(tmp_path, columns):
    env = {"DBCARE_STATE_DIR": str(tmp_path)}
    socket, message = f"3fe2a1b4c5d6:/var/lib/{'long/' * 12}mysqld.sock", "why it was held " * 12
    lines_of_history(tmp_path, {"socket": "/a"},
                     {"socket": socket, "by": "care-agent", "message": message})
    shown = on_terminal(columns, program("dbcarectl"), "history", env=env)
    assert max(map(len, shown)) <= columns, shown
    # Cells that take several lines stand below each other.
    begin, end = shown[0].index("SERVER"), shown[0].index("RESULT")
    assert "".join(line[begin:end].strip() for line in shown[2:]) == socket


def on_terminal(columns, *command, env):
    """The lines that a command prints on a terminal of that width."""
    pid, fd = pty.fork()
    if not pid:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        os.execve(command[0], command, dict(os.environ, **env))
    out = b""
    with contextlib.suppress(OSError):  # EIO: the command has ended
        while data := os.read(fd, 4096):
            out += data
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, out
    return out.decode().splitlines()

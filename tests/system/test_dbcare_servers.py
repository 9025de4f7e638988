# SPDX-License-Identifier: GPL-2.0-or-later
"""dbcarectl finds servers whatever became of their files, and says which it means."""
import os
import re
import shutil
import signal
import subprocess

import pytest

import harness
from harness import care, die_with_parent, program, run, wait_until
from patches import rnd_patch

NO_TARGET, NOT_NOW = 3, 4


@pytest.fixture
def patch(target, tmp_path):
    return rnd_patch(target, tmp_path, "0.5")


def listed(pid):
    servers = care("dbcarectl", "list", "--json").json["servers"]
    return next((s for s in servers if s["pid"] == pid), None)


def test_list_tells_version_build_socket_and_connections(server, target):
    connections = [server.connect() for _ in range(3)]
    row = listed(server.pid)
    assert row["version"] == server.value("SELECT VERSION()")
    assert row["build_id"] == target.build_id
    assert row["socket"] == server.socket
    assert row["connections"] >= 3
    assert row["program_file"] == "same" and not row["container"] and row["patches"] == []
    text = care("dbcarectl", "list").out
    assert str(server.pid) in text and target.build_id in text and server.socket in text
    for connection in connections:
        connection.close()


def test_list_and_info_tell_what_is_applied(server, patch):
    applied = care("dbcarectl", "apply", patch, server.pid, "--json").json
    assert applied["result"] == "applied" and applied["name"] == "rnd-0-5"
    assert applied["pid"] == server.pid and applied["threads"] > 3
    assert 0 < applied["pause_us"] < applied["operation_us"]
    assert applied["attempts"] >= 1 and applied["functions"] == ["my_rnd"]
    assert [p["name"] for p in listed(server.pid)["patches"]] == ["rnd-0-5"]
    info = care("dbcarectl", "info", server.pid, "--json").json
    assert info["patches"][0]["pause_us"] == applied["pause_us"]
    assert info["patches"][0]["functions"] == ["my_rnd"]
    assert info["settings"]["thread_handling"] == "one-thread-per-connection"
    assert "rnd-0-5" in care("dbcarectl", "info", server.pid).out
    reverted = care("dbcarectl", "revert", "rnd-0-5", server.pid, "--json").json
    assert reverted["result"] == "reverted" and reverted["pause_us"] > 0
    assert listed(server.pid)["patches"] == []


def test_reapply_is_noop(server, patch):
    care("dbcarectl", "apply", patch, server.pid)
    again = care("dbcarectl", "apply", patch, server.pid)
    assert "already applied" in again.out
    assert care("dbcarectl", "check", patch, server.pid, expect=2)
    assert care("dbcarectl", "apply", patch, server.pid, "--json").json["result"] == \
        "already applied"
    care("dbcarectl", "revert", "--all", server.pid)
    assert "no patch" in care("dbcarectl", "revert", "--all", server.pid, expect=2).text
    assert "rnd-0-5" in care("dbcarectl", "revert", "rnd-0-5", server.pid, expect=2).text


def test_dry_run_and_check_change_nothing(server, patch):
    before = server.snapshot()
    for command in (["check", patch, server.pid], ["apply", patch, server.pid, "--dry-run"]):
        done = care("dbcarectl", *command)
        assert "would apply" in done.out and "my_rnd" in done.out and "predicted pause" in done.out
        row = care("dbcarectl", *command, "--json").json
        assert row["result"] == "would apply" and row["predicted_us"] > 0
        assert row["plan"]["functions"][0]["name"] == "my_rnd"
    assert server.snapshot() == before
    assert not [r for r in care("dbcarectl", "history", "--json").json["history"]
                if r["pid"] == server.pid and r["result"] == "unfinished"]


def test_a_target_is_named_by_pid_or_socket(server):
    for name in (server.pid, server.socket):
        assert care("dbcarectl", "info", name, "--json").json["pid"] == server.pid
    for name, fact in (("/nonexistent.sock", "/nonexistent.sock"), ("4194000", "4194000"),
                       (str(os.getpid()), "no MariaDB server"), ("0", "0")):
        assert fact in care("dbcarectl", "info", name, expect=NO_TARGET).text
    assert "neither" in care("dbcarectl", "info", "mariadb", expect=NO_TARGET).text
    # An unset variable of a script names no server, were there but one.
    assert "empty" in care("dbcarectl", "info", "", expect=1).text


def test_several_servers_must_be_told_apart(server, new_server):
    other = new_server()
    done = care("dbcarectl", "info", expect=NO_TARGET)
    assert str(server.pid) in done.text and other.socket in done.text


@pytest.mark.parametrize("become", ["deleted", "replaced"])
def test_a_server_whose_program_is_gone_is_found_and_patched(target, patch, become):
    server = harness.Server(target.root)
    binary = os.path.join(server.folder, "mariadbd")
    shutil.copy(server.binary, binary)
    server.binary = binary
    server.start()
    try:
        os.unlink(binary)
        if become == "replaced":
            shutil.copy("/bin/true", binary)
        row = listed(server.pid)
        assert row["program_file"] == become and row["build_id"] == target.build_id
        assert row["program"] == binary and row["socket"] == server.socket
        assert become in care("dbcarectl", "list").out
        care("dbcarectl", "apply", patch, server.socket)
        assert server.value("SELECT ROUND(RAND(1), 3)") == 0.203
        care("dbcarectl", "revert", "rnd-0-5", server.pid)
    finally:
        server.remove()


def test_a_server_under_another_name_is_taken_when_it_is_named(target):
    server = harness.Server(target.root)
    binary = os.path.join(server.folder, "database")
    shutil.copy(server.binary, binary)
    server.binary = binary
    server.start()
    try:
        assert care("dbcarectl", "info", server.pid, "--json").json["socket"] == server.socket
    finally:
        server.remove()


def test_a_process_that_only_has_the_name_is_no_server(tmp_path):
    shutil.copy("/bin/sleep", tmp_path / "mariadbd")
    sleeper = subprocess.Popen([tmp_path / "mariadbd", "60"], preexec_fn=die_with_parent)
    try:
        done = care("dbcarectl", "revert", "x", sleeper.pid, expect=NO_TARGET)
        assert "no MariaDB server" in done.text
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.fixture
def contained(target):
    """A mariadbd in mount and pid namespaces of its own, its socket on a file system that only
    it sees."""
    server = harness.Server(target.root)
    inner = os.path.join(server.folder, "private")
    os.mkdir(inner)
    outer_socket, server.socket = server.socket, os.path.join(inner, "s")
    # A private mount of its own: in a chroot, whose root is no mount, unshare cannot make all private.
    for args in (["--bind", inner, inner], ["--make-private", inner]):
        assert harness.run("mount", *args).status == 0
    script = f"mount -t tmpfs tmpfs {inner} && exec \"$@\""
    process = subprocess.Popen(["unshare", "--mount", "--propagation", "unchanged", "--pid", "--fork", "--kill-child", "sh",
                                "-c", script, "sh", *server.command()],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
    try:
        def find():
            for row in care("dbcarectl", "list", "--json").json["servers"]:
                if row["socket"] == server.socket and row["container"]:
                    return row
            return None

        row = wait_until(find, 60, "the contained server")
        wait_until(lambda: "ready for connections" in server.error_log(), 60, "its start")
        yield server, row["pid"], outer_socket
    finally:
        process.kill()
        process.wait()
        harness.run("umount", inner)
        server.remove()


def test_a_server_in_a_container_is_found_asked_and_patched(contained, patch):
    server, pid, _ = contained
    assert not os.path.exists(server.socket)
    info = care("dbcarectl", "info", pid, "--json").json
    assert info["container"] and "sql_error" not in info
    applied = care("dbcarectl", "apply", patch, pid, "--json").json
    assert applied["verification"]["sql"]
    assert {g["verdict"] for g in applied["gates"]} == {"ok"}
    care("dbcarectl", "revert", "rnd-0-5", pid)


# ---- option files

def check_with(server, patch, home, *options, expect=0):
    return care("dbcarectl", "check", patch, server.pid, *options, expect=expect,
                env={"HOME": str(home)})


def test_option_files_are_read_as_mariadb_users_know_them(server, patch, tmp_path):
    file = tmp_path / ".my.cnf"
    file.write_text("[client]\nuser=nobody_here\npassword=x\nhost=192.0.2.1\nprotocol=tcp\n"
                    f"[dbcarectl]\nuser={harness.USER}\npassword=\n")
    file.chmod(0o600)
    # The last group wins, and whatever host they name, it is this server that is asked.
    check_with(server, patch, tmp_path)
    check_with(server, patch, "/nonexistent", f"--defaults-file={file}")
    file.write_text("[client]\nuser=nobody_here\npassword=x\n")
    assert "nobody_here" in check_with(server, patch, tmp_path, expect=NOT_NOW).text
    check_with(server, patch, tmp_path, "--no-defaults")
    check_with(server, patch, tmp_path, f"--user={harness.USER}", "--password=")


def test_an_option_file_that_everybody_may_write_is_not_believed(server, patch, tmp_path):
    file = tmp_path / ".my.cnf"
    file.write_text("[client]\nuser=nobody_here\npassword=x\n")
    file.chmod(0o666)
    done = check_with(server, patch, tmp_path)
    assert str(file) in done.err and "0666" in done.err
    done = check_with(server, patch, "/nonexistent", f"--defaults-file={file}", expect=NOT_NOW)
    assert "0666" in done.text
    include = tmp_path / "outer.cnf"
    include.write_text(f"!include {file}\n[client]\nuser={harness.USER}\n")
    include.chmod(0o600)
    assert "0666" in check_with(server, patch, "/nonexistent", f"--defaults-file={include}").err


def test_a_password_on_the_command_line_is_not_shown(server, patch):
    """Overwritten before anything that takes time, as MariaDB's clients do."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        command = subprocess.Popen([program("dbcarectl"), "check", patch, str(server.pid),
                                    "--user=dbcare", "--password=topsecret"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
        wait_until(lambda: b"check" in open(f"/proc/{command.pid}/cmdline", "rb").read(), 5, "it")

        def hidden():
            return b"topsecret" not in open(f"/proc/{command.pid}/cmdline", "rb").read()

        wait_until(hidden, 2, "the password to be hidden")
    finally:
        server.process.send_signal(signal.SIGCONT)
        command.wait(30)


# ---- help and usage

def test_every_command_explains_itself():
    text = care("dbcarectl", "--help").out
    commands = re.findall(r"^  (list|info|show|check|apply|revert|recover|history)\b", text, re.M)
    assert len(commands) == 8
    for command in commands:
        shown = care("dbcarectl", command, "--help").out
        assert f"dbcarectl {command}" in shown and "--json" in shown
        assert care("dbcarectl", "help", command).out == shown
        assert care("dbcarectl", command, "--no-such-option", expect=1).err
    assert "no command 'aply'" in care("dbcarectl", "aply", expect=1).err
    assert run(program("dbcarectl")).status == 1


def test_errors_are_json_too(server):
    error = care("dbcarectl", "info", "4194000", "--json", expect=NO_TARGET).json["error"]
    assert error["code"] == "no-target" and error["exit"] == 3


def test_quiet_says_nothing_but_errors_and_shows_what_is_to_be_shown(server, patch, tmp_path):
    env = {"DBCARE_STATE_DIR": str(tmp_path)}

    def quiet(*words, expect=0, name="dbcarectl"):
        return care(name, *words, "--quiet", env=env, expect=expect)

    for words, status in ((("check", patch, server.pid), 0), (("apply", patch, server.pid), 0),
                          (("check", patch, server.pid), 2), (("apply", patch, server.pid), 0)):
        assert quiet(*words, expect=status).text == "", words
    assert "rnd-0-5" in quiet("history").out and "rnd-0-5" in quiet("info", server.pid).out
    assert "my_rnd" in quiet("show", patch).out and str(server.pid) in quiet("list").out
    assert quiet("revert", "rnd-0-5", server.pid).text == ""
    assert quiet("recover", server.pid, expect=2).out == ""
    assert quiet("apply", patch, server.pid, "--json").json["result"] == "applied"
    assert quiet("revert", "rnd-0-5", server.pid).text == ""
    wrong = quiet("revert", "rnd-0-5", server.pid, expect=2)
    assert wrong.out == "" and "rnd-0-5" in wrong.err
    report = tmp_path / "report.json"
    assert quiet("doctor", "-o", report).text == "" and report.exists()


def test_quiet_says_nothing_but_errors_of_the_engine_and_the_builder(server, target, patch,
                                                                     tmp_path):
    for words in (("check", patch), ("apply", patch), ("revert", "rnd-0-5")):
        assert care("care-patch", *words, "--pid", server.pid, "--quiet").text == ""
    assert care("care-build", "verify", patch, "--target", target.name, "-q").text == ""
    page = tmp_path / "page.html"
    assert care("care-build", "report", patch, "-o", page, "--target", target.name, "-q").text == ""
    assert page.exists() and target.name in care("care-build", "target", "list", "-q").out
    assert "my_rnd" in care("care-build", "show", patch, "-q").out
    with open(patch, "rb") as file:
        damaged = tmp_path / "damaged.cpatch"
        damaged.write_bytes(file.read()[:-1])
    wrong = care("care-build", "verify", damaged, "-q", expect=(1, 5))
    assert wrong.out == "" and "damaged.cpatch" in wrong.err

# SPDX-License-Identifier: GPL-2.0-or-later
"""care-agent, care-patcher and care-watch with real servers: who gets patched, when, and what
stands against it."""
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
import urllib.request

import pytest

import containers
import cve
import harness
import patches
from agent import Agent, Key, let_in
from harness import LONG, care, die_with_parent, run, wait_until


# CHECKPOINT_RESTORE, SYS_NICE, SYS_PTRACE, DAC_OVERRIDE
PATCHER = 1 << 40 | 1 << 23 | 1 << 19 | 1 << 1
SYS_ADMIN = 1 << 21


@pytest.fixture(scope="module")
def levels(target, tmp_path_factory):
    """Two levels of one patch."""
    folder = tmp_path_factory.mktemp("levels")
    return {level: target.patch(patches.rnd(str(folder), factor), "rnd",
                                "--level", str(level))
            for level, factor in ((1, 0.5), (2, 0.25))}


@pytest.fixture
def new_agent():
    agents = []

    def make(*servers, start=True, **settings):
        for server in servers:
            if server.alive():
                let_in(server)
        agents.append(Agent(*servers, **settings))
        if start:
            agents[-1].start()
        return agents[-1]

    yield make
    for agent in agents:
        agent.remove()


def write_hook(agent, when, text):
    folder = agent.path("hooks", when)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "10-test")
    with open(path, "w") as file:
        file.write(f"#!/bin/sh\n{text}\n")
    os.chmod(path, 0o755)


# ---- patched, and patched again ----

def tell_times(what, milliseconds):
    """Shown by `pytest -s`, and by tests/run long."""
    found = sorted(milliseconds)

    def at(share):
        return found[min(int(len(found) * share), len(found) - 1)]

    print(f"\n{what}, ms, of {len(found)}: least {found[0]:.0f}, half {at(.5):.0f}, "
          f"90 % {at(.9):.0f}, 99 % {at(.99):.0f}, most {found[-1]:.0f}")
    # A generous limit for a machine that others load; the figure itself is for `tests/run long`.
    assert at(.5) < (1000 if LONG else 15000)


def until_patched(server, seconds=60):
    """Milliseconds until the server itself computes as the patch says."""
    begin = time.monotonic()
    with server.connect() as connection, connection.cursor() as cursor:
        while True:
            cursor.execute(f"SELECT {patches.RAND}")
            if str(cursor.fetchall()[0][0]) == "0.2027":
                return (time.monotonic() - begin) * 1000
            assert time.monotonic() - begin < seconds, "it was missed"
            time.sleep(0.02)


def test_agent_patches_a_server_and_patches_it_again_after_each_restart(new_server, new_agent,
                                                                        levels):
    server = new_server()
    # So rarely that only process events can tell in time.
    agent = new_agent(server, start=False, SCAN_INTERVAL="1h")
    agent.offer(levels[1])
    agent.start()
    agent.wait_level(server, 1)
    restarts = int(os.environ.get("DBCARE_TESTS_RESTARTS", 500 if LONG else 5))
    seen = []
    for n in range(restarts):
        # Every third time while the agent still verifies.
        if n % 3:
            wait_until(lambda: f"(pid {server.pid}) patch=rnd level=1" in agent.log(), 60, "applied")
        if n % 5 == 3:
            server.kill()  # as the OOM killer does: no crash of its own
            server.start()
        else:
            server.restart()
        try:
            seen.append(until_patched(server))
        except AssertionError as error:
            raise AssertionError(f"restart {n} of {restarts}: {error}\n{agent.log()[-5000:]}")
    told = [int(x) for x in re.findall(r"after_ready_ms=(\d+)", agent.log())]
    # Somebody who ends a server meanwhile says nothing about the patch.
    assert not re.search(r"(?m)^care-agent: (verification-failed|held|reverted) ", agent.log()), \
        agent.log()
    tell_times("from the first answered query to patched, as a client sees it", seen)
    tell_times("from ready to patched and verified, as the agent tells", told[1:])


def test_several_servers_that_start_at_once_are_all_patched(new_server, new_agent, levels):
    servers = [new_server() for _ in range(10 if LONG else 3)]
    agent = new_agent(*servers)
    agent.offer(levels[1])
    for server in servers:
        agent.wait_level(server, 1)
        server.stop()
    # All at once, and only then waited for.
    for server in servers:
        server.process = subprocess.Popen(server.command(), stdin=subprocess.DEVNULL,
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                          preexec_fn=die_with_parent)
    for server in servers:
        agent.wait_level(server, 1, 120)
    told = {int(pid): int(ms) for pid, ms in
            re.findall(r"applied .*\(pid (\d+)\).*after_ready_ms=(\d+)", agent.log())}
    tell_times("from ready to patched and verified, all started at once",
               [told[server.pid] for server in servers])


def test_without_process_events_a_scan_finds_a_new_server(new_server, new_agent, levels):
    server = new_server()
    agent = new_agent(server)
    agent.offer(levels[1])
    agent.wait_level(server, 1)
    # A watch that is stopped hears nothing and says nothing.
    for n in range(2):
        watch = agent.children()["care-watch"]
        os.kill(watch, signal.SIGSTOP)
        try:
            server.restart()
            agent.wait_level(server, 1)
        finally:
            os.kill(watch, signal.SIGCONT)


def test_server_in_use_loses_nothing_when_the_agent_replaces_one_level_by_the_next(
        new_server, new_agent, levels):
    server = new_server()
    agent = new_agent(server)
    agent.offer(levels[1])
    agent.wait_level(server, 1)
    agent.offer(levels[2])
    agent.wait_level(server, 2)
    assert server.value(f"SELECT {patches.RAND}") == "0.1014"


# ---- what holds ----

def test_a_gate_holds_is_shown_with_reason_and_next_try_and_opens(new_server, new_agent, levels):
    server = new_server()
    agent = new_agent(server)
    write_hook(agent, "on-hold", f'echo "$DBCARE_PATCH $DBCARE_REASON" >> {agent.folder}/state/held')
    lock = server.connect()
    with lock.cursor() as cursor:
        cursor.execute("FLUSH TABLES WITH READ LOCK")
    agent.offer(levels[1])
    held = agent.wait_held(server, "backup")["held"]
    assert held["since"] <= time.time() and held["next_try"] > held["since"]
    assert held["patch"] == "rnd"
    shown = care("dbcarectl", "status", env=agent.env).out
    assert "is held: gate backup-lock" in shown and "next try " in shown
    assert "rnd" in open(agent.path("state", "held")).read()
    lock.close()
    agent.wait_level(server, 1)
    assert not agent.target(server).get("held")


def test_a_server_without_account_is_held_until_account_create(new_server, new_agent, levels):
    server = new_server()
    server.sql("DROP USER IF EXISTS ''@localhost")
    agent = Agent(server).start()
    try:
        agent.offer(levels[1])
        agent.wait_held(server, "log in")
        made = care("dbcarectl", "account", "create", server.socket, "--name=nobody",
                    "--no-defaults", "--json").json
        assert made["result"] == "created"
        grants = server.sql("SHOW GRANTS FOR nobody@localhost")[0][0]
        assert "PROCESS" in grants and "SUPER" not in grants and "ALL PRIV" not in grants
        done = care("dbcarectl", "update", server.socket, env=agent.env)
        assert "rnd" in done.out
        agent.wait_level(server, 1, 1)
    finally:
        agent.remove()


def test_a_pre_apply_hook_vetoes_and_post_apply_hears_of_it(new_server, new_agent, levels):
    server = new_server()
    agent = new_agent(server)
    write_hook(agent, "pre-apply", f"test -e {agent.folder}/state/allowed")
    write_hook(agent, "post-apply",
               f'echo "$DBCARE_EVENT $DBCARE_PATCH $DBCARE_PID" > {agent.folder}/state/told')
    agent.offer(levels[1])
    agent.wait_held(server, "10-test ended with status 1")
    with open(agent.path("state", "allowed"), "w"):
        pass
    os.chmod(agent.path("state", "allowed"), 0o644)
    care("dbcarectl", "update", env=agent.env)
    agent.wait_level(server, 1)
    wait_until(lambda: os.path.exists(agent.path("state", "told")), 5, "the post-apply hook")
    assert open(agent.path("state", "told")).read().split() == ["post-apply", "rnd",
                                                                str(server.pid)]


def test_hold_keeps_a_server_as_it_is_across_restarts_of_all_until_resume(new_server, new_agent,
                                                                           levels):
    server = new_server()
    agent = new_agent(server)
    care("dbcarectl", "hold", server.socket, env=agent.env)
    agent.offer(levels[1])
    agent.wait_held(server, "held by root")
    for words in ([], [server.socket]):
        care("dbcarectl", "update", *words, env=agent.env, expect=4)
    assert agent.target(server)["level"] is None
    agent.stop()
    server.restart()
    agent.start()
    agent.wait_held(server, "held by root")
    assert agent.target(server)["level"] is None
    care("dbcarectl", "resume", server.socket, env=agent.env)
    agent.wait_level(server, 1)
    assert care("dbcarectl", "resume", server.socket, env=agent.env, expect=2)


def test_a_patch_followed_by_a_crash_is_not_applied_again_by_itself(new_server, new_agent, levels):
    server = new_server()
    agent = new_agent(server)
    agent.offer(levels[1])
    agent.wait_level(server, 1)
    os.kill(server.pid, signal.SIGSEGV)
    server.process.wait(60)
    agent.wait_event("crash-after-patch")
    server.start()
    agent.wait_held(server, "crashed within a minute")
    time.sleep(1)
    assert agent.target(server)["level"] is None
    # The operator decides.
    care("dbcarectl", "update", "--again", env=agent.env)
    agent.wait_level(server, 1)


def test_with_auto_update_off_only_an_operator_applies_and_a_restart_keeps_it(new_server, new_agent,
                                                                              levels):
    server = new_server()
    agent = new_agent(server, AUTO_UPDATE="no")
    agent.offer(levels[1])
    time.sleep(3)
    assert agent.target(server)["level"] is None
    care("dbcarectl", "update", env=agent.env)
    agent.wait_level(server, 1)
    agent.offer(levels[2])
    server.restart()
    agent.wait_level(server, 1)
    time.sleep(2)
    assert agent.target(server)["level"] == 1
    # What a gate holds is tried again, as is told.
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("FLUSH TABLES WITH READ LOCK")
        assert "next try" in care("dbcarectl", "update", env=agent.env, expect=4).text
        time.sleep(1)
    agent.wait_level(server, 2)


def test_what_an_operator_reverted_stays_out_until_he_says_so_or_the_server_restarts(
        new_server, new_agent, levels):
    server = new_server()
    agent = new_agent(server)
    agent.offer(levels[1])
    agent.wait_level(server, 1)
    care("dbcarectl", "revert", "rnd", server.pid, env=agent.env)
    agent.wait_held(server, "reverted by hand")
    care("dbcarectl", "update", "--dry-run", env=agent.env, expect=None)
    agent.reload()
    time.sleep(2)
    # Nor does an agent that knows it from the history alone.
    agent.stop()
    agent.start()
    held = agent.wait_held(server, "reverted by hand")
    assert held["level"] is None and server.socket in held["held"]["reason"]
    care("dbcarectl", "update", server.socket, env=agent.env)
    agent.wait_level(server, 1)
    care("dbcarectl", "revert", "rnd", server.pid, env=agent.env)
    agent.wait_held(server, "reverted by hand")
    care("dbcarectl", "resume", server.socket, env=agent.env)
    agent.wait_level(server, 1)
    care("dbcarectl", "revert", "rnd", server.pid, env=agent.env)
    agent.wait_held(server, "reverted by hand")
    server.restart()
    agent.wait_level(server, 1)


# ---- trust ----

def test_unsigned_wrongly_signed_and_tampered_patches_are_never_applied(new_server, new_agent,
                                                                        levels):
    server = new_server()
    agent = new_agent(server)
    stranger = Key(agent.path("secret"), "stranger")
    agent.offer(levels[1], stranger)
    agent.wait_held(server, "sign")
    assert agent.target(server)["level"] is None
    # Its key is trusted from now on: what was refused is applied.
    agent.trust(stranger)
    care("dbcarectl", "update", env=agent.env)
    agent.wait_level(server, 1)


class Hostile:
    """An agent that was taken over: speaks to care-patcher directly, as the agent's user."""

    def __init__(self, agent):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(60)
        self.s.connect(agent.path("run", "patcher.sock"))

    def ask(self, request, fds=()):
        data = request if isinstance(request, bytes) else json.dumps(request).encode()
        socket.send_fds(self.s, [data[:1]], list(fds))
        self.s.sendall(data[1:] + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            try:
                got, received, _, _ = socket.recv_fds(self.s, 65536, 4)
            except ConnectionResetError:
                return None
            for fd in received:
                os.close(fd)
            if not got:
                return None
            answer += got
        return json.loads(answer)


@pytest.mark.parametrize("sandboxed_targets", ["no", "yes"], ids=["usual", "unfiltered"])
def test_the_patcher_refuses_whatever_a_hostile_agent_sends(new_server, new_agent, levels,
                                                            tmp_path, sandboxed_targets):
    server = new_server()
    before = server.snapshot()
    agent = new_agent(server)
    agent.stop()
    # The patcher alone, whose only client we are now.
    agent.write_settings(ONLY_TARGETS="/none", SANDBOXED_TARGETS=sandboxed_targets)
    agent.start()
    os.kill(agent.children()["care-agent"], signal.SIGSTOP)
    hostile_agent = agent.children()["care-agent"]
    try:
        # The stopped agent holds the one connection: a new patcher serves us.
        os.kill(agent.children()["care-patcher"], signal.SIGKILL)
        wait_until(lambda: "care-patcher" in agent.children(), 20, "a new patcher")
        hostile = Hostile(agent)
        assert hostile.ask({"do": "info", "pid": server.pid})["ok"]
        filtered = agent.rights("care-patcher")["Seccomp"]
        assert filtered == ("2" if sandboxed_targets == "no" else "0")
        info = hostile.ask({"do": "info", "pid": server.pid})["target"]
        with open(levels[1], "rb") as file:
            good = file.read()
        signature = agent.key.sign(levels[1])
        work = {"do": "apply", "provider": "db", "pid": server.pid,
                "start_time": info["start_time"], "signature": signature, "fd": True}

        def refused(request, path=levels[1], code=None):
            with open(path, "rb") as patch:
                answer = hostile.ask(request, [patch.fileno()] if request.get("fd") else [])
            assert answer and not answer["ok"], answer
            assert code is None or answer["code"] in code, answer
            return answer

        bad = tmp_path / "bad.cpatch"
        for at in (100, len(good) // 2, len(good) - 1):
            bad.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:])
            refused(work, bad, ["policy"])
        refused({**work, "signature": ""}, code=["policy"])
        refused({**work, "signature": signature[:-10]}, code=["policy"])
        refused({**work, "signature": "x" * 100000}, code=["policy"])
        refused({k: v for k, v in work.items() if k != "fd"})
        refused({**work, "start_time": info["start_time"] + 1})
        refused({**work, "pid": os.getpid()})
        refused({**work, "pid": 1})
        refused({**work, "pid": -1}, code=["usage"])
        refused({**work, "pid": agent.children()["care-patcher"]})
        refused({**work, "provider": "../db"}, code=["usage"])
        refused({**work, "timeout_us": 10 ** 18}, code=["usage"])
        refused({**work, "do": "sh -c id"}, code=["usage"])
        refused(work, "/dev/zero", ["usage"])
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        pipe = os.open(fifo, os.O_RDWR)
        answer = hostile.ask(work, [pipe])
        assert not answer["ok"]
        os.close(pipe)
        assert hostile.ask(b"[1]") is None  # no object: the connection ends
        hostile = Hostile(agent)
        assert hostile.ask(b"{" + b'"a":{' * 100000) is None
        hostile = Hostile(agent)
        assert hostile.ask({"do": "info", "pid": server.pid})["ok"]
        assert server.snapshot() == before and server.alive()
    finally:
        os.kill(hostile_agent, signal.SIGCONT)


def test_the_patcher_has_few_rights_and_the_agent_none(new_server, new_agent):
    agent = new_agent()
    patcher, daemon, watch = map(agent.rights, ("care-patcher", "care-agent", "care-watch"))
    assert int(patcher["CapEff"], 16) & ~PATCHER == 0
    assert int(patcher["CapEff"], 16) >> 19 & 1
    assert patcher["Seccomp"] == "2" and patcher["NoNewPrivs"] == "1"
    assert int(daemon["CapEff"], 16) == int(daemon["CapPrm"], 16) == 0
    assert daemon["NoNewPrivs"] == "1" and set(daemon["Uid"].split()) == {"65534"}
    assert int(watch["CapEff"], 16) == 0


def test_for_sandboxed_targets_the_patcher_keeps_one_right_more_and_is_under_no_filter(new_agent):
    agent = new_agent(SANDBOXED_TARGETS="yes")
    for pid in (None, agent.children()["care-patcher"]):
        if pid:  # the next one too
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: agent.children().get("care-patcher", pid) != pid, 20, "a new patcher")
        wait_until(lambda: agent.rights("care-patcher")["NoNewPrivs"] == "1", 20, "a settled patcher")
        patcher = agent.rights("care-patcher")
        assert int(patcher["CapEff"], 16) & ~(PATCHER | SYS_ADMIN) == 0
        assert int(patcher["CapEff"], 16) & SYS_ADMIN and int(patcher["CapPrm"], 16) & SYS_ADMIN
        assert int(patcher["CapBnd"], 16) & ~(PATCHER | SYS_ADMIN) == 0
        assert patcher["Seccomp"] == "0"
    daemon = agent.rights("care-agent")
    assert int(daemon["CapEff"], 16) == int(daemon["CapPrm"], 16) == 0 and daemon["NoNewPrivs"] == "1"
    assert "has no effect" not in agent.log()


# Puts itself under a filter that allows everything, and becomes the program.
FILTERED = """
import ctypes, os, struct, sys
allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000), 8)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 1, ctypes.addressof(allow)), 16)
prctl = ctypes.CDLL(None, use_errno=True).prctl
prctl.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 4
if prctl(22, 2, ctypes.addressof(program), 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
"""
UNDER_A_FILTER = ("/usr/bin/python3", "-c", FILTERED)
NO_ADMIN = ("/usr/bin/setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")


@pytest.mark.parametrize("prefix, told, not_told, filters", [
    (NO_ADMIN, "CAP_SYS_ADMIN is missing", "it is under a seccomp filter itself", 1),
    (UNDER_A_FILTER, "it is under a seccomp filter itself", "CAP_SYS_ADMIN is missing", 2),
    (UNDER_A_FILTER + NO_ADMIN, "), and it is under a seccomp filter itself", "nothing", 2),
], ids=["no-capability", "filter", "both"])
def test_a_patcher_that_cannot_serve_sandboxed_targets_says_so_and_keeps_its_locks(
        new_agent, prefix, told, not_told, filters):
    agent = new_agent(start=False, SANDBOXED_TARGETS="yes")
    agent.start(prefix=prefix)
    wait_until(lambda: agent.rights("care-patcher")["Seccomp_filters"] == str(filters), 20,
               "a filter of its own")
    words, = [line for line in agent.log().splitlines() if "has no effect" in line]
    assert words.startswith("care-patcher: --sandboxed-targets has no effect") and told in words
    assert not_told not in words
    assert int(agent.rights("care-patcher")["CapEff"], 16) & ~PATCHER == 0


def test_settings_that_cannot_be_used_are_named_before_anything_starts(new_agent):
    agent = new_agent(start=False, SANDBOXED_TARGETS="yes")
    os.chown(agent.path("agent.conf"), 65534, 0)
    done = care("care-agent", "--foreground", env=agent.env, expect=1)
    assert "SANDBOXED_TARGETS counts only in a file that root alone can write" in done.err, done
    assert not os.path.exists(agent.path("run", "patcher.sock"))


def test_who_may_talk_to_the_agent(new_agent):
    agent = new_agent()
    path = agent.path("run", "agent.sock")
    mode = os.stat(path)
    assert stat.S_IMODE(mode.st_mode) == 0o660 and mode.st_uid == 0
    refused = run("/usr/bin/setpriv", "--reuid=12345", "--regid=12345", "--clear-groups",
                  "/usr/bin/python3", "-c",
                  f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{path}')")
    assert refused.status != 0 and "PermissionError" in refused.err
    assert agent.ask("no such thing") == {"ok": False, "code": "usage",
                                          "message": "there is no request 'no such thing'"}


# ---- ends ----

def test_any_process_may_be_killed_at_any_moment_and_the_server_is_patched_in_the_end(
        new_server, new_agent, levels):
    server = new_server()
    agent = new_agent(server)
    agent.offer(levels[1])
    rng = random.Random(4711)
    deadline = time.monotonic() + (120 if LONG else 6)
    kills = 0
    while time.monotonic() < deadline:
        name = rng.choice(["care-patcher", "care-patcher", "care-agent", "care-watch"])
        pid = agent.children().get(name)
        if pid:
            os.kill(pid, signal.SIGKILL)
            kills += 1
        if rng.random() < 0.3:
            care("dbcarectl", "revert", "--all", server.pid, "--no-defaults", "--user=tests",
                 expect=None)
        time.sleep(rng.random() * 0.6)
        assert server.alive() and server.value("SELECT 1") == 1
    assert kills > 2
    agent.wait_level(server, 1, 60)
    assert server.value(f"SELECT {patches.RAND}") == "0.2027"
    assert server.alive()


def test_events_can_be_followed(new_server, new_agent, levels):
    server = new_server()
    agent = new_agent(server)
    agent.offer(levels[1])
    agent.wait_level(server, 1)
    applied = agent.events("applied")[0]
    assert applied["patch"] == "rnd" and applied["pid"] == server.pid
    assert applied["signer"] and applied["pause_us"] > 0


def test_dbcarectl_status_works_alone(server, tmp_path):
    alone = care("dbcarectl", "status", "--json", env={"DBCARE_RUN_DIR": str(tmp_path)}).json
    assert alone["agent"] is False
    assert server.pid in [t["pid"] for t in alone["targets"]]
    asked = care("dbcarectl", "update", env={"DBCARE_RUN_DIR": str(tmp_path)}, expect=3)
    assert "no agent runs here" in asked.err


def test_metrics_are_served_on_loopback_and_as_a_file(new_server, new_agent, levels):
    server = new_server()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    agent = new_agent(server, start=False, METRICS_PORT=port)
    agent.write_settings(METRICS_FILE=agent.path("state", "metrics.prom"))
    agent.start()
    agent.offer(levels[1])
    agent.wait_level(server, 1)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    labels = f'provider="db",target="{server.socket}",pid="{server.pid}"'
    assert f"dbcare_patch_level{{{labels}}} 1\n" in text
    assert f"dbcare_held_seconds{{{labels}}} 0\n" in text
    assert re.search(r"^dbcare_applied_total 1$", text, re.M)
    assert re.search(r"^dbcare_watching [01]$", text, re.M)
    # Every series is explained.
    for name in re.findall(r"^(dbcare_\w+)[{ ]", text, re.M):
        assert f"# TYPE {name} " in text
    assert "dbcare_patch_level" in open(agent.path("state", "metrics.prom")).read()


def test_doctor_writes_a_report_without_secrets(new_server, new_agent, levels, tmp_path):
    server = new_server()
    agent = new_agent(server, start=False, PROXY="http://user:verysecret@proxy.example:3128",
                      PATCH_SERVER="http://key:othersecret@127.0.0.1:1/")
    agent.start()
    agent.wait_event("target-found")
    path = str(tmp_path / "report.json")
    care("dbcarectl", "doctor", "--output", path, env=agent.env)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with open(path) as file:
        text = file.read()
    report = json.loads(text)
    assert "verysecret" not in text and "othersecret" not in text and "PRIVATE" not in text
    assert server.pid in [t["pid"] for t in report["servers"]]
    assert report["agent"]["watching"] in (True, False) and report["events"]
    assert report["settings"]["PROXY"] == "http://***@proxy.example:3128"
    assert report["kernel"] and report["keys"] == ["vendor.pem"]
    # Never over something that is there.
    care("dbcarectl", "doctor", "--output", path, env=agent.env, expect=1)


# ---- what it says when it cannot ----

def test_folders_that_the_agent_cannot_use_are_named_before_anything_starts(new_agent):
    for name, variable in (("state", "DBCARE_STATE_DIR"), ("cache", "DBCARE_CACHE_DIR")):
        agent = new_agent(start=False)
        os.mkdir(agent.path(name), 0o755)  # root's
        done = care("care-agent", "--foreground", env=agent.env, expect=1)
        assert agent.path(name) in done.err and variable in done.err, done
        assert "not started" in done.err and not os.path.exists(agent.path("run", "agent.sock"))


@pytest.mark.parametrize("program", ["care-agent", "care-patcher", "care-watch"])
def test_words_that_mean_nothing_are_a_usage_error(program):
    done = care(program, "bogus", expect=1)
    assert "Too many arguments" in done.err and "--help" in done.err


def test_account_create_tells_an_account_that_is_there_from_a_new_one(server):
    def create(**kwargs):
        return care("dbcarectl", "account", "create", server.pid, "--name=caretaker",
                    "--no-defaults", **kwargs)

    try:
        assert "created caretaker@localhost" in create().out
        server.sql("REVOKE PROCESS ON *.* FROM caretaker@localhost")
        assert "exists already" in create().out
        assert "PROCESS" in server.sql("SHOW GRANTS FOR caretaker@localhost")[0][0]
        server.sql("ALTER USER caretaker@localhost IDENTIFIED BY 'secret'")
        server.sql("REVOKE PROCESS ON *.* FROM caretaker@localhost")
        refused = create(expect=5)
        assert "unix_socket" in refused.err and "--name" in refused.err
        assert "PROCESS" not in server.sql("SHOW GRANTS FOR caretaker@localhost")[0][0]
    finally:
        server.sql("DROP USER IF EXISTS caretaker@localhost")


def test_doctor_says_what_it_was_not_allowed_to_read(server, request):
    tmp_path = pathlib.Path(tempfile.mkdtemp(prefix="dbc-doctor-", dir="/tmp"))
    request.addfinalizer(lambda: shutil.rmtree(tmp_path))
    os.chmod(tmp_path, 0o711)
    program = tmp_path / "dbcarectl"
    shutil.copy(harness.program("dbcarectl"), program)
    secret = tmp_path / "secret"
    secret.mkdir(0o700)
    (secret / "agent.conf").write_text("AUTO_UPDATE=no\n")
    home = tmp_path / "home"
    home.mkdir()
    os.chmod(home, 0o777)
    done = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program, "doctor",
               "--output", home / "report", env={
                   "DBCARE_CONF": str(secret / "agent.conf"), "DBCARE_KEYS_DIR": str(secret),
                   "DBCARE_STATE_DIR": str(secret), "DBCARE_RUN_DIR": str(tmp_path)})
    assert done.status == 0, done
    for what in (f"{secret}/agent.conf", str(secret), "servers", "history"):
        assert f"not in the report: {what}" in done.err, done
    assert "root can read all of it" in done.err
    report = json.loads((home / "report").read_text())
    assert len(report["not_read"]) == 4, report["not_read"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["sigint", "sigterm"])
def test_an_interrupted_apply_says_that_nothing_was_done(server, levels, tmp_path, number):
    def interrupted():
        """The signal waits from the beginning: it comes before the switch for certain."""
        die_with_parent()
        signal.pthread_sigmask(signal.SIG_BLOCK, {number})
        os.kill(os.getpid(), number)

    env = {"DBCARE_STATE_DIR": str(tmp_path)}
    for command in (["apply", levels[1], server.pid], ["check", levels[1], server.pid]):
        done = subprocess.run([harness.program("dbcarectl"), *map(str, command), "--json"],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              env=dict(os.environ, **env), preexec_fn=interrupted, timeout=60)
        assert done.returncode == 4, done
        error = json.loads(done.stdout)["error"]
        assert error["code"] == "cancelled" and "before anything was done" in error["message"]
        assert error["advice"] == "everything is as it was before"
    assert not care("dbcarectl", "history", "--json", env=env).json["history"]
    assert not care("dbcarectl", "info", server.pid, "--json").json["patches"]


# ---- another build, another container ----

def test_a_server_that_was_upgraded_on_disk_never_gets_the_old_patch(new_server, new_agent, levels,
                                                                     target):
    other = os.path.join(harness.unpacked("mariadb-server-core",
                                          harness.versions()["MARIADB_OTHER_VERSION"]),
                         "usr/sbin/mariadbd")
    server = new_server()
    server.stop()
    server.binary = os.path.join(server.folder, "mariadbd")
    shutil.copy(os.path.join(target.root, "usr/sbin/mariadbd"), server.binary)
    server.start()
    agent = new_agent(server)
    agent.offer(levels[1])
    agent.wait_level(server, 1)
    # As dpkg does it: written beside, renamed over the old one. What runs goes on, patched.
    shutil.copy(other, server.binary + ".new")
    os.rename(server.binary + ".new", server.binary)
    os.kill(agent.children()["care-agent"], signal.SIGKILL)
    time.sleep(0.2)
    wait_until(agent._answers, 60, "the new agent")
    agent.wait_level(server, 1)
    assert "(deleted)" in os.readlink(f"/proc/{server.pid}/exe")
    assert server.value(f"SELECT {patches.RAND}") == "0.2027"
    # Restarted, it is the new build.
    server.restart()
    assert "10.11.19" in server.value("SELECT VERSION()")
    agent.wait_event("upgraded")
    row = agent.target(server)
    assert row["level"] is None and not row.get("held") and row["patches"] == []
    assert row["build_id"][:12] in row["note"] and "no patch is on offer" in row["note"]
    assert row["note"] in care("dbcarectl", "status", env=agent.env).out
    assert server.value(f"SELECT {patches.RAND}") == "0.4054"
    # Back to the old one: it is patched as before.
    server.stop()
    shutil.copy(os.path.join(target.root, "usr/sbin/mariadbd"), server.binary)
    server.start()
    agent.wait_level(server, 1)
    assert agent.target(server)["note"] is None


@pytest.mark.skipif(containers.impossible() is not None, reason=str(containers.impossible()))
def test_a_server_in_a_container_is_patched_and_patched_again_when_the_container_is_restarted(
        tmp_path):
    fix = cve.build_patch(*cve.targets(), str(tmp_path))
    server = containers.Alone(cve.tree())
    server.fill()
    server.start()
    let_in(server)
    agent = Agent()
    try:
        # By its id: other containers have the same path inside.
        agent.write_settings(ONLY_TARGETS=f"{server.id}:/run/mysqld/*")
        agent.offer(fix)
        agent.start()
        agent.wait_level(server, 0)
        first = server.pid
        found = agent.target(server)
        assert found["container"] and found["name"] == f"{server.id}:/run/mysqld/mysqld.sock"
        server.stop()
        server.start()
        assert server.pid != first
        agent.wait_level(server, 0)
        patched = care("dbcarectl", "info", server.id, "--json").json["patches"]
        assert [(p["name"], p["state"]) for p in patched] == [(cve.NAME, "applied")]
        # An operator may call it by the container's id.
        care("dbcarectl", "hold", server.id, env=agent.env)
        assert "held by root" in agent.wait_held(server, "resume")["held"]["reason"]
        assert server.value("SELECT 1") == 1
    finally:
        agent.remove()
        server.remove()


@pytest.mark.skipif(containers.impossible() is not None, reason=str(containers.impossible()))
def test_a_server_under_the_usual_profile_of_containers_is_patched_when_the_setting_allows_it(
        tmp_path):
    fix = cve.build_patch(*cve.targets(), str(tmp_path))
    server = containers.Alone(cve.tree())
    server.fill()
    server.seccomp = containers.usual_profile()
    server.start()
    let_in(server)
    agent = Agent()

    def under_filter():
        with open(f"/proc/{server.pid}/status") as file:
            return re.search(r"^Seccomp:\t(\d)$", file.read(), re.M)[1] == "2"

    def by_root(apply=True):
        """In each mode, while the agent leaves the server alone."""
        care("dbcarectl", "hold", server.id, env=agent.env)
        if apply:
            care("dbcarectl", "apply", fix, server.id)
        patches, = care("dbcarectl", "info", server.id, "--json").json["patches"]
        assert (patches["name"], patches["state"]) == (cve.NAME, "applied")
        care("dbcarectl", "revert", cve.NAME, server.id)
        assert not care("dbcarectl", "info", server.id, "--json").json["patches"]

    try:
        assert under_filter()
        agent.write_settings(ONLY_TARGETS=f"{server.id}:/run/mysqld/*")
        agent.offer(fix)
        agent.start()
        reason = agent.wait_held(server, "sandboxed (seccomp)")["held"]["reason"]
        for words in ("SANDBOXED_TARGETS=yes", "sandboxed-targets.conf", "`dbcarectl apply`"):
            assert words in reason
        assert agent.target(server)["level"] is None
        by_root()
        # Once the administrator allows it: at the next start.
        agent.stop()
        agent.write_settings(SANDBOXED_TARGETS="yes")
        agent.start()
        agent.wait_held(server, "held by root")
        by_root()
        care("dbcarectl", "resume", server.id, env=agent.env)
        agent.wait_level(server, 0)
        first = server.pid
        server.stop()
        server.start()
        assert server.pid != first and under_filter()
        agent.wait_level(server, 0)
        by_root(apply=False)
        assert under_filter() and server.value("SELECT 1") == 1
    finally:
        agent.remove()
        server.remove()


def test_in_a_pid_namespace_where_no_process_events_come_scans_find_what_starts(new_agent):
    agent = new_agent(start=False)
    agent.start(prefix=("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"))
    wait_until(lambda: "process events do not reach us" in agent.log(), 30, "care-watch's word")
    assert agent.ask("status")["watching"] is False
    shown = care("dbcarectl", "status", env=agent.env).out
    assert "process events are not heard: new servers are found by scans" in shown

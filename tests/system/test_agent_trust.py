# SPDX-License-Identifier: GPL-2.0-or-later
"""Whom the agent and its patcher believe, and what they may do themselves: signatures, a hostile
agent, rights, filters, who may talk to it."""
import json
import os
import signal
import socket
import stat

import pytest

from agent import Key
from harness import care, run, wait_until

# CHECKPOINT_RESTORE, SYS_NICE, SYS_PTRACE, DAC_OVERRIDE
PATCHER = 1 << 40 | 1 << 23 | 1 << 19 | 1 << 1
SYS_ADMIN = 1 << 21


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

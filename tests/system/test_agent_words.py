# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent and dbcarectl tell: events, status, metrics, the doctor's report, and what they say
when they cannot do something."""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import urllib.request

import pytest

import harness
from harness import care, die_with_parent, run


# ---- what it tells ----

def test_events_can_be_followed(patched):
    server, agent = patched
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

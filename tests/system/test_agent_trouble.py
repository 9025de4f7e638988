# SPDX-License-Identifier: GPL-2.0-or-later
"""What the machine does to an agent that updates: full disks, kills at any moment, a wrong clock."""
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import threading
import time

import pytest

import patches
from agent import Agent
from clock import ShiftedAgent
from harness import LONG, care, run, wait_until
from updates import let_in, repository, update  # noqa: F401

DAY = 86400


@pytest.fixture
def small_disks():
    """small_disks(agent) puts its state and its cache on disks of 128 KiB each."""
    mounted = []

    def mount(agent):
        for room in ("state", "cache"):
            path = agent.path(room)
            os.mkdir(path)
            done = run("mount", "-t", "tmpfs", "-o", "size=128k,mode=0750,uid=65534,gid=65534",
                       "tmpfs", path)
            assert done.status == 0, done
            mounted.append(path)

    yield mount
    for path in mounted:
        run("umount", "-l", path)


@contextlib.contextmanager
def full(folder, leave=0):
    """No room in the folder's file system but @leave bytes."""
    path = os.path.join(folder, "filler")
    with open(path, "wb", 0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    os.truncate(path, os.path.getsize(path) // 4096 * 4096 - leave)
    try:
        yield
    finally:
        os.unlink(path)


def whole(agent):
    """Every file of the agent is one that it has written to its end."""
    for room in ("state", "cache"):
        for folder, _, names in os.walk(agent.path(room)):
            for name in names:
                path = os.path.join(folder, name)
                if name.endswith(".json"):
                    with open(path) as file:
                        json.load(file)
                elif name.endswith(".cpatch"):
                    with open(path, "rb") as file:
                        assert hashlib.sha256(file.read()).hexdigest() + ".cpatch" == name


def test_a_full_disk_is_told_and_what_was_good_stays(new_server, repository, levels, small_disks):
    server = new_server()
    let_in(server)
    agent = Agent(server, PATCH_SERVER=repository.web.url)
    repository.trusted_by(agent)
    small_disks(agent)
    agent.start()
    try:
        repository.add(levels[1])
        with full(agent.path("state")):
            update(agent, expect=1)
            assert "No space left" in agent.ask("status")["check_error"]
            whole(agent)
        with full(agent.path("cache")):
            update(agent, expect=1)
            assert "No space left" in agent.ask("status")["check_error"]
        # Room for the list of what there is, and not for the patch.
        with full(agent.path("cache"), leave=4096):
            update(agent, expect=4)
            agent.wait_held(server, "No space left")
            whole(agent)
            assert agent.target(server)["level"] is None
        update(agent)
        assert agent.target(server)["level"] == 1
        # Nothing is applied that cannot be recorded.
        repository.add(levels[2])
        with full(agent.path("state"), leave=65536):
            update(agent, expect=(0, 4))
        update(agent)
        assert agent.target(server)["level"] == 2
        with full(agent.path("state")):
            server.restart()
            agent.wait_held(server, "No space left")
        update(agent)
        assert agent.target(server)["level"] == 2 and server.alive()
        assert "was killed" not in agent.log() and "ended with" not in agent.log()
        whole(agent)
    finally:
        agent.remove()


def forget_some(agent, chance):
    """What a host may not have yet, so that it has to be fetched."""
    shutil.rmtree(agent.path("cache", "patches"), True)
    folder = agent.path("state", "tuf")
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        if name != "root.json" and chance.random() < 0.7:
            os.unlink(os.path.join(folder, name))


def test_killed_at_any_moment_of_an_update_the_agent_goes_on(new_server, repository, levels):
    server = new_server()
    let_in(server)
    agent = Agent(server, PATCH_SERVER=repository.web.url, SCAN_INTERVAL="10s")
    repository.trusted_by(agent)
    agent.start()
    repository.add(levels[1])
    repository.web.delay = 0.01
    chance = random.Random(5)
    pid = server.pid
    try:
        for _ in range(100 if LONG else 4):
            care("dbcarectl", "revert", "--all", server.pid, env=agent.env, expect=None)
            forget_some(agent, chance)
            asking = threading.Thread(target=update, args=(agent, None))
            asking.start()
            time.sleep(chance.random() * 0.4)
            killed = agent.children()["care-agent"]
            os.kill(killed, signal.SIGKILL)
            asking.join()
            whole(agent)
            if LONG:
                time.sleep(5)  # the supervisor takes quick ends for a fault, and waits
            wait_until(lambda: agent.children().get("care-agent", killed) != killed, 30,
                       "a new agent")
            wait_until(agent._answers, 30, "its answer")
            # Asked again, as what was reverted by hand wants it: it may not have known the server yet.
            wait_until(lambda: update(agent, None) and agent.target(server)["level"] == 1, 30,
                       "the patch")
            assert server.value(f"SELECT {patches.RAND}") == "0.2027"
        assert server.pid == pid and server.alive()
        whole(agent)
        assert len(os.listdir(agent.path("cache", "patches"))) == 1
        assert len(os.listdir(agent.path("state", "tuf"))) <= 7
    finally:
        agent.remove()


def test_a_clock_wrong_by_a_year_is_told_and_costs_no_patch(new_server, repository, levels):
    server = new_server()
    let_in(server)
    agent = ShiftedAgent(server, PATCH_SERVER=repository.web.url)
    repository.trusted_by(agent)
    agent.start()
    try:
        repository.add(levels[1])
        update(agent)
        assert agent.target(server)["level"] == 1
        repository.add(levels[2])
        agent.clock.move(366 * DAY)
        update(agent, expect=1)
        error = agent.ask("status")["check_error"]
        assert "expired on" in error and "this host's clock is wrong" in error
        server.restart()
        agent.wait_level(server, 1)
        # Put right: the next check is not a year away.
        agent.clock.move(-366 * DAY)
        agent.reload()
        agent.wait_level(server, 2)
        status = agent.ask("status")
        assert status["check_error"] is None and status["next_check"] < time.time() + DAY
        # A year behind nothing has expired: it works, and again when the clock is put right.
        agent.clock.move(-366 * DAY)
        update(agent)
        agent.clock.move(366 * DAY)
        update(agent)
        assert agent.target(server)["level"] == 2
    finally:
        agent.remove()


def test_what_an_agent_does_that_was_started_by_sudo_is_its_own(new_server, repository, levels,
                                                                 monkeypatch):
    """Else what it takes back itself would count as reverted by hand, and stay out."""
    server = new_server()
    let_in(server)
    agent = Agent(server, PATCH_SERVER=repository.web.url)
    repository.trusted_by(agent)
    monkeypatch.setenv("SUDO_USER", "anna")
    agent.start()
    try:
        repository.add(levels[1])
        update(agent)
        rows = care("dbcarectl", "history", "--json", env=agent.env).json["history"]
        assert [(r["patch"], r["by"]) for r in rows] == [("rnd", "care-agent")]
    finally:
        agent.remove()

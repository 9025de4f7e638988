# SPDX-License-Identifier: GPL-2.0-or-later
"""Which patch a host takes, and when: feeds, sticky days, keys, delays, the cache, random delays and
back-off; with a clock of the tests' own where days have to pass."""
import os
import signal
import time

import pytest

import patches
from agent import Agent
from clock import ShiftedAgent
from harness import care, wait_until
from updates import let_in, repository, update, updated  # noqa: F401

HOUR, DAY = 3600, 86400


@pytest.fixture
def hosts(new_server, repository):
    """hosts(SETTING=...) starts an agent with a clock of its own and a server."""
    agents = []

    def make(**settings):
        server = new_server()
        let_in(server)
        agents.append(ShiftedAgent(server, PATCH_SERVER=repository.web.url, **settings))
        repository.trusted_by(agents[-1])
        return server, agents[-1].start()

    yield make
    for agent in agents:
        agent.remove()


def publish(repository, clock, *args):
    """Adds a patch, or says something else, by that clock, and publishes."""
    if args:
        care("care-repo", "--repo", repository.folder, "--quiet", *args, env=clock.env)
    care("care-repo", "--repo", repository.folder, "--quiet", "publish", env=clock.env,
         expect=(0, 2))


def level(agent, server):
    return agent.target(server)["level"]


def checked_by_itself(agent):
    """Its time has come; whatever wakes it lets it see that."""
    now = agent.clock.time()
    agent.reload()
    wait_until(lambda: agent.ask("status")["last_check"] >= now - 60, 30, "a check by itself")
    return agent.ask("status")


def test_prefix_chooses_another_feed(updated, repository, levels):
    repository.run("key", "feed/test", "--no-passphrase")
    repository.add(levels[1])
    repository.add(levels[2], "--feed", "test")
    server, agent = updated()
    update(agent)
    assert level(agent, server) == 1
    agent.reload(PREFIX="test")
    update(agent)
    assert level(agent, server) == 2


def test_a_dry_run_tells_what_is_new_and_applies_nothing(updated, repository, levels):
    server, agent = updated(AUTO_UPDATE="NO")
    assert "nothing new" in care("dbcarectl", "update", "--dry-run", env=agent.env, expect=2).out
    repository.add(levels[1])
    found = care("dbcarectl", "update", "--dry-run", env=agent.env)
    assert f"{server.socket}: rnd, level 1, would be applied" in found.out
    assert level(agent, server) is None
    update(agent)
    assert level(agent, server) == 1
    care("dbcarectl", "update", "--dry-run", env=agent.env, expect=2)
    repository.web.broken = True
    care("dbcarectl", "update", "--dry-run", env=agent.env, expect=1)


def test_sticky_days_choose_and_those_that_cannot_be_are_refused(hosts, repository, levels):
    server, agent = hosts(AUTO_UPDATE="NO")
    clock = agent.clock
    publish(repository, clock, "add", levels[1])
    first = clock.day()
    clock.move(3 * DAY)
    publish(repository, clock, "add", levels[2])
    second = clock.day()
    clock.move(DAY)
    agent.reload(STICKY_PATCH=first)
    update(agent)
    assert level(agent, server) == 1
    for days, words in ((0, "today"), (2, "in the future"), (-61, "more than 60 days ago")):
        agent.reload(STICKY_PATCH=clock.day(days))
        refused = update(agent, expect=5)
        assert words in refused.text and level(agent, server) == 1
        assert words in agent.ask("status")["settings_error"]
    # The long form of a date; and a restarted server keeps what it has.
    agent.reload(STICKY_PATCH=second[:4] + "20" + second[4:])
    update(agent)
    assert level(agent, server) == 2
    agent.reload(STICKY_PATCH=clock.day())
    server.restart()
    agent.wait_level(server, 2)


def test_keys_lead_hosts_for_tests_ahead_of_those_for_production(hosts, repository, levels):
    test_server, test = hosts(STICKY_PATCH="KEY", REGISTRATION_KEY="test-hosts")
    server, agent = hosts(STICKY_PATCH="KEY", REGISTRATION_KEY="production-hosts")
    clock = test.clock
    os.unlink(agent.clock.path)
    os.symlink(clock.path, agent.clock.path)
    publish(repository, clock, "add", levels[1])
    assert "says nothing of this host's REGISTRATION_KEY" in update(agent, expect=5).text
    first = clock.day()
    publish(repository, clock, "sticky", "--no-passphrase", "test-hosts", "none")
    clock.move(2 * DAY)
    publish(repository, clock, "add", levels[2])
    publish(repository, clock, "sticky", "production-hosts", first)
    update(agent)
    update(test)
    assert level(test, test_server) == 2 and level(agent, server) == 1
    # Tried: production is to follow a day behind, and does so at its next check.
    publish(repository, clock, "sticky", "production-hosts", "yesterday")
    clock.move(DAY)
    publish(repository, clock)
    agent.reload()
    agent.wait_level(server, 2)
    # It is known after a restart, without asking; and public files do not tell the keys.
    agent.stop()
    repository.web.broken = True
    agent.start()
    assert agent.ask("status")["settings"]["key_sticky"] == "yesterday"
    for folder, _, names in os.walk(os.path.join(repository.folder, "public")):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                assert b"production-hosts" not in file.read() + name.encode()


def test_an_operator_may_ask_the_repository_whatever_the_policy_says(updated, repository, levels):
    server, agent = updated(UPDATE_POLICY="LOCAL")
    repository.add(levels[1])
    update(agent, expect=2)
    assert level(agent, server) is None and not repository.web.requests
    care("dbcarectl", "update", "--remote", env=agent.env)
    assert level(agent, server) == 1
    asked = len(repository.web.requests)
    server.restart()
    agent.wait_level(server, 1)
    assert len(repository.web.requests) == asked


def test_a_delayed_patch_is_taken_by_itself_when_its_time_has_come(hosts, repository, levels):
    server, agent = hosts(UPDATE_DELAY="2d")
    publish(repository, agent.clock, "add", levels[1])
    update(agent, expect=2)
    assert level(agent, server) is None
    agent.clock.move(2 * DAY)
    agent.reload()
    agent.wait_level(server, 1)


def test_checks_are_scattered_and_failures_are_followed_by_a_back_off(hosts, repository):
    server, agent = hosts()
    delays = []
    for _ in range(6):
        agent.clock.move(5 * HOUR)
        publish(repository, agent.clock)
        status = checked_by_itself(agent)
        assert status["check_error"] is None
        delays.append(status["next_check"] - status["last_check"])
    assert all(0.9 * 4 * HOUR <= delay <= 1.1 * 4 * HOUR for delay in delays)
    assert len(set(delays)) > 1, delays
    repository.web.broken = True
    for failures in range(10):
        agent.clock.move(5 * HOUR)
        status = checked_by_itself(agent)
        assert "503" in status["check_error"]
        expected = min(60 << failures, 4 * HOUR)
        delay = status["next_check"] - status["last_check"]
        assert 0.9 * expected - 1 <= delay <= 1.1 * expected + 1, (failures, delay)
    repository.web.broken = False
    agent.clock.move(5 * HOUR)
    publish(repository, agent.clock)
    status = checked_by_itself(agent)
    assert status["check_error"] is None
    assert status["next_check"] - status["last_check"] >= 0.9 * 4 * HOUR


def test_the_cache_serves_first_and_is_mended_and_tidied(hosts, repository, levels):
    server, agent = hosts()
    publish(repository, agent.clock, "add", levels[1])
    update(agent)
    cache = agent.path("cache", "patches")
    cached, = os.listdir(cache)
    publish(repository, agent.clock, "add", levels[2])
    agent.reload(UPDATE_POLICY="LOCAL_FIRST")
    server.restart()
    agent.wait_level(server, 1)
    update(agent)
    assert level(agent, server) == 1
    # What the disk spoilt is fetched again.
    with open(os.path.join(cache, cached), "r+b") as file:
        file.truncate(1000)
    server.restart()
    agent.wait_level(server, 1)
    assert os.path.getsize(os.path.join(cache, cached)) == os.path.getsize(levels[1])
    # Nothing in the cache: then the repository.
    os.unlink(os.path.join(cache, cached))
    agent.reload()
    server.restart()
    agent.wait_level(server, 2)
    with open(os.path.join(cache, "0" * 64 + ".cpatch.new"), "w") as file:
        file.write("left by a kill")
    server.stop()
    for days in (60, 40):
        agent.clock.move(days * DAY)
        assert os.listdir(cache)
        publish(repository, agent.clock)
        assert checked_by_itself(agent)["check_error"] is None
        if days == 60:
            assert len(os.listdir(cache)) == 1
    assert os.listdir(cache) == []


def test_what_a_failing_hook_prints_is_told_with_the_reason(updated, repository, levels):
    server, agent = updated()
    folder = agent.path("hooks", "pre-apply")
    os.makedirs(folder)
    with open(os.path.join(folder, "10-quiet"), "w") as file:
        file.write("#!/bin/sh\necho of no interest\n")
    with open(os.path.join(folder, "20-veto"), "w") as file:
        # More than a message takes, control characters, bytes that are no UTF-8, both outputs; and
        # something in the background that keeps the pipe, and other words at each try.
        file.write("#!/bin/sh\nseq 1000\nprintf 'the \\033[31mbackup\\033[0m runs \\377 für\\n\\n'\n"
                   "printf '  ask anna\\t(%s)\\n' $(date +%N) >&2\nsleep 30 &\nexit 3\n")
    for name in os.listdir(folder):
        os.chmod(os.path.join(folder, name), 0o755)
    repository.add(levels[1])
    begin = time.monotonic()
    update(agent, expect=4)
    assert time.monotonic() - begin < 15
    reason = agent.target(server)["held"]["reason"]
    assert "20-veto ended with status 3 and said: …" in reason
    assert "the [31mbackup [0m runs für; ask anna (" in reason
    assert len(reason.encode()) < 450 and reason.isprintable() and "no interest" not in reason
    assert reason in [event["reason"] for event in agent.events("held")]
    assert "ask anna (" in care("dbcarectl", "status", env=agent.env).out
    assert "of no interest\n" in agent.log()
    # Tried again with other words: shown, and no reason to tell everybody again.
    wait_until(lambda: agent.target(server)["held"]["reason"] != reason, 20, "the next try")
    assert len(agent.events("held")) == 1
    with open(os.path.join(folder, "20-veto"), "w") as file:
        file.write("#!/bin/sh\nexit 0\n")
    update(agent)
    assert level(agent, server) == 1


def test_a_hold_of_all_and_one_of_a_server_are_told_apart(new_server):
    one, other = new_server(), new_server()
    agent = Agent(one, other).start()

    def ask(*words, expect=0):
        return care("dbcarectl", *words, env=agent.env, expect=expect)

    try:
        ask("hold")
        refused = ask("resume", one.socket, expect=2)
        assert "all servers are held, by root" in refused.err and one.socket in refused.err
        assert "`dbcarectl resume` without a target" in refused.err
        assert "also held, as all servers are, by root" in ask("hold", one.pid).out
        reason = agent.wait_held(one, "and this one by root")["held"]["reason"]
        assert "`dbcarectl resume`" in reason and f"`dbcarectl resume {one.socket}`" in reason
        agent.wait_held(other, "all servers are held by root: `dbcarectl resume` ends it")
        # All may go on, but one has a hold of its own.
        done = ask("resume")
        assert f"still held: {one.socket}, by root: `dbcarectl resume {one.socket}`" in done.out
        assert f"held         {one.socket}, by root: `dbcarectl resume {one.socket}`" in \
            ask("status").out
        wait_until(lambda: not agent.target(other).get("held"), 10, "the other to go on")
        assert agent.wait_held(one, "held by root: `dbcarectl resume /")
        nothing = ask("resume", expect=2).err
        assert f"no hold of all servers; of their own have one: {one.socket} (by root)" in nothing
        # And the other way round.
        assert "also by itself held: " + one.socket in ask("hold").out
        assert "still held, as all servers are, by root" in ask("resume", one.pid).out
        assert ask("resume", "--json").json == {"result": "resumed", "target": None,
                                                "all_held_by": None, "held_by": {}}
        assert "nothing was held" in ask("resume", expect=2).err
        assert ask("hold", "-q").text == "" and "held" in ask("status", "-q").out
        assert ask("resume", "-q").text == "" and ask("update", "-q", expect=2).text == ""
    finally:
        agent.remove()


def test_a_patch_that_its_publisher_blocked_is_not_applied_by_hand_without_a_word(
        updated, repository, levels):
    server, agent = updated()
    repository.add(levels[1])
    repository.run("block", "rnd", "--reason", "crashes with plugin x")
    repository.run("publish")
    update(agent, expect=2)
    care("dbcarectl", "hold", env=agent.env)
    least = ("--no-defaults", server.pid)
    words = "rnd, level 1, was blocked by its publisher: crashes with plugin x"
    checked = care("dbcarectl", "check", levels[1], *least, "--json", env=agent.env)
    assert checked.json["blocked"] == "crashes with plugin x" and words in checked.err
    assert words in care("dbcarectl", "apply", levels[1], *least, "-q", env=agent.env).err
    assert server.value(f"SELECT {patches.RAND}") == "0.2027"
    # The agent takes it out when it may, and says why.
    care("dbcarectl", "resume", env=agent.env)
    agent.wait_event("reverted")
    assert agent.events("reverted")[-1]["reason"] == \
        "its publisher took it back: crashes with plugin x"
    assert server.value(f"SELECT {patches.RAND}") == "0.4054"
    # Another level is not meant; and without an agent nobody knows.
    care("dbcarectl", "hold", env=agent.env)
    for patch, env in ((levels[2], agent.env), (levels[1], dict(agent.env, DBCARE_RUN_DIR="/none"))):
        assert "blocked" not in care("dbcarectl", "check", patch, *least, env=env).text
    # Nor does one that hangs hold anybody up.
    os.kill(agent.children()["care-agent"], signal.SIGSTOP)
    try:
        begin = time.monotonic()
        assert "blocked" not in care("dbcarectl", "check", levels[1], *least, env=agent.env).text
        assert time.monotonic() - begin < 10
    finally:
        os.kill(agent.children()["care-agent"], signal.SIGCONT)

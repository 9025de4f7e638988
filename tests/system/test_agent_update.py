# SPDX-License-Identifier: GPL-2.0-or-later
"""From a repository of care-repo, over HTTP on loopback, to a patched server: levels, blocks,
policy, cache, and a server that lies or is gone."""
import os
import subprocess
import time

import patches
from agent import Agent
from harness import die_with_parent, program, wait_until
from updates import repository, update, updated  # noqa: F401


def test_a_published_patch_is_applied_a_higher_level_replaces_it_and_a_blocked_one_is_reverted(
        updated, repository, levels):
    server, agent = updated()
    repository.add(levels[1])
    update(agent)
    agent.wait_level(server, 1)
    repository.add(levels[2])
    update(agent)
    agent.wait_level(server, 2)
    assert server.value(f"SELECT {patches.RAND}") == "0.1014"
    # Nothing new: one conditional request.
    before = len(repository.web.requests)
    update(agent)
    assert len(repository.web.requests) - before <= 3
    repository.run("block", "rnd", "--reason", "test")
    repository.run("publish")
    update(agent, expect=None)
    agent.wait_level(server, None)
    assert server.value(f"SELECT {patches.RAND}") == "0.4054"
    status = agent.ask("status")
    assert status["check_error"] is None and status["next_check"] > time.time()


def test_the_cache_serves_without_repository_and_update_policy_local_asks_nobody(
        updated, repository, levels):
    server, agent = updated()
    repository.add(levels[1])
    update(agent)
    agent.wait_level(server, 1)
    repository.web.broken = True
    update(agent, expect=1)
    wait_until(lambda: agent.ask("status")["check_error"], 20, "the failed check is shown")
    server.restart()
    agent.wait_level(server, 1)
    repository.web.broken = False
    repository.add(levels[2])
    agent.write_settings(UPDATE_POLICY="LOCAL")
    agent.stop()
    agent.start()
    before = len(repository.web.requests)
    server.restart()
    agent.wait_level(server, 1)
    update(agent)
    assert len(repository.web.requests) == before and agent.target(server)["level"] == 1


def test_update_delay_feed_and_level_choose_what_is_taken(updated, repository, levels):
    server, agent = updated(UPDATE_DELAY="90d")
    repository.add(levels[1])
    update(agent, expect=2)
    assert agent.target(server)["level"] is None
    agent.write_settings(UPDATE_DELAY="0", STICKY_PATCHSET="1")
    repository.add(levels[2])
    agent.stop()
    agent.start()
    update(agent)
    agent.wait_level(server, 1)
    agent.write_settings(STICKY_PATCHSET="", PREFIX="test")
    agent.stop()
    agent.start()
    update(agent, expect=2)
    assert agent.target(server)["level"] == 1


def test_tampered_metadata_and_patches_change_nothing(updated, repository, levels):
    server, agent = updated()
    repository.add(levels[1])
    public = os.path.join(repository.folder, "public")
    for folder, _, names in os.walk(os.path.join(public, "targets")):
        for name in names:
            if name.endswith(".cpatch"):
                path = os.path.join(folder, name)
                with open(path, "r+b") as file:
                    file.seek(1000)
                    byte = file.read(1)
                    file.seek(1000)
                    file.write(bytes([byte[0] ^ 1]))
                tampered = path
    update(agent, expect=4)
    agent.wait_held(server, "not what the metadata say")
    with open(os.path.join(public, "metadata", "timestamp.json"), "r+b") as file:
        file.seek(40)
        file.write(b"#")
    update(agent, expect=4)
    assert agent.ask("status")["check_error"]
    assert agent.target(server)["level"] is None and server.alive() and tampered
    assert "dbcare_signature_failures_total 0" not in agent.ask("metrics")["text"]


def test_settings_that_make_no_sense_are_refused_by_name():
    agent = Agent(UPDATE_POLICY="SOMETIMES")
    agent.process = subprocess.Popen([program("care-agent"), "--foreground"],
                                     env=dict(os.environ, **agent.env), stderr=agent.log_file,
                                     stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    wait_until(lambda: "UPDATE_POLICY=SOMETIMES: what is wanted is REMOTE" in agent.log(), 20,
               "the refusal")
    agent.remove()

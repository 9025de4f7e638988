# SPDX-License-Identifier: GPL-2.0-or-later
"""Servers that are another build than before, or live in containers."""
import os
import re
import shutil
import signal
import time

import pytest

import containers
import cve
import harness
import patches
from agent import Agent, let_in
from harness import care, wait_until

with_containers = pytest.mark.skipif(containers.impossible() is not None,
                                     reason=str(containers.impossible()))


@pytest.fixture
def contained(tmp_path):
    """contained(seccomp=PROFILE) starts a server in a container, and an agent for it alone to which a
    patch is offered: (server, agent, patch)."""
    made = []

    def make(seccomp=None):
        fix = cve.build_patch(*cve.targets(), str(tmp_path))
        server = containers.Alone(cve.tree())
        made.append(server)
        server.fill()
        server.seccomp = seccomp
        server.start()
        let_in(server)
        # By its id: other containers have the same path inside.
        agent = Agent(ONLY_TARGETS=f"{server.id}:/run/mysqld/*")
        made.append(agent)
        agent.offer(fix)
        return server, agent.start(), fix

    yield make
    for one in reversed(made):
        one.remove()


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


@with_containers
def test_a_server_in_a_container_is_patched_and_patched_again_when_the_container_is_restarted(
        contained):
    server, agent, _ = contained()
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


@with_containers
def test_a_server_under_the_usual_profile_of_containers_is_patched_when_the_setting_allows_it(
        contained):
    server, agent, fix = contained(containers.usual_profile())

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

    assert under_filter()
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

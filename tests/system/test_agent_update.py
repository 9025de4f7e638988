# SPDX-License-Identifier: GPL-2.0-or-later
"""From a repository of care-repo, over HTTP on loopback, to a patched server: levels, blocks,
policy, cache, and a server that lies or is gone."""
import http.server
import os
import shutil
import subprocess
import threading
import time

import pytest

import patches
from agent import Agent, let_in
from harness import care, die_with_parent, program, wait_until


class Web:
    """Static files with ETags, and the requests that were made."""

    def __init__(self, folder):
        web = self
        self.requests, self.broken = [], False

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=folder)

            def do_GET(self):
                path = self.translate_path(self.path)
                web.requests.append(self.path)
                if web.broken or not os.path.isfile(path):
                    self.send_error(503 if web.broken else 404)
                    return
                with open(path, "rb") as file:
                    data = file.read()
                etag = f'"{hash(data) & 0xffffffff:x}"'
                if self.headers.get("If-None-Match") == etag:
                    self.send_response(304)
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("ETag", etag)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Repository:
    def __init__(self, folder):
        self.folder = folder
        self.run("init", "--no-passphrase")
        self.run("publish")
        self.web = Web(os.path.join(folder, "public"))

    def run(self, *args):
        return care("care-repo", "--repo", self.folder, "--quiet", *args)

    def add(self, patch, *options):
        self.run("add", patch, *options)
        self.run("publish")

    def trusted_by(self, agent):
        shutil.copy(os.path.join(self.folder, "public/metadata/1.root.json"),
                    agent.path("keys", "root.json"))
        for name in os.listdir(os.path.join(self.folder, "keys")):
            if name.startswith("patch") and name.endswith(".pub"):
                shutil.copy(os.path.join(self.folder, "keys", name), agent.path("keys"))


@pytest.fixture(scope="module")
def levels(target, tmp_path_factory):
    folder = tmp_path_factory.mktemp("levels")
    return {level: target.patch(patches.rnd(str(folder), factor), "rnd", "--level", str(level))
            for level, factor in ((1, 0.5), (2, 0.25))}


@pytest.fixture
def repository(tmp_path):
    os.makedirs(tmp_path / "repo")
    return Repository(str(tmp_path / "repo"))


@pytest.fixture
def updated(new_server, repository):
    """(server, agent) of that repository."""
    agents = []

    def make(**settings):
        server = new_server()
        let_in(server)
        agents.append(Agent(server, PATCH_SERVER=repository.web.url, **settings))
        repository.trusted_by(agents[0])
        return server, agents[0].start()

    yield make
    for agent in agents:
        agent.remove()


def update(agent, expect=0):
    return care("dbcarectl", "update", env=agent.env, expect=expect)


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

# SPDX-License-Identifier: GPL-2.0-or-later
"""A repository of care-repo behind a web server of ours, an agent that gets its patches there, and
the fixtures that put them together: import `repository` and `updated` where they are used."""
import http.server
import os
import shutil
import ssl
import threading
import time

import pytest

from agent import Agent, let_in
from harness import care


class Web:
    """Static files with ETags, and the requests that were made. @tls: (certificate, key) files."""

    def __init__(self, folder, tls=None):
        web = self
        self.requests, self.via, self.broken, self.delay = [], [], False, 0

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=folder)

            def do_GET(self):
                path = self.translate_path(self.path)
                web.requests.append(self.path)
                web.via.append(self.headers.get("Via"))
                time.sleep(web.delay)
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
        self.port = self.server.server_port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
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
        self.copy_keys(agent.path("keys"))

    def copy_keys(self, folder):
        """What the hosts of this repository trust."""
        shutil.copy(os.path.join(self.folder, "public/metadata/1.root.json"),
                    os.path.join(folder, "root.json"))
        for name in os.listdir(os.path.join(self.folder, "keys")):
            if name.startswith("patch") and name.endswith(".pub"):
                shutil.copy(os.path.join(self.folder, "keys", name), folder)


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

# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways on which the agent reaches its repository: proxies (tinyproxy, an own process), HTTPS with
a certificate authority of the operator's own, redirects, a server that stands still."""
import os
import shutil
import signal
import subprocess

import pytest

from agent import Agent, openssl
from harness import care, die_with_parent, wait_until
from repository import Nginx
from updates import Web, repository, update  # noqa: F401

PASSWORD = "wonderland7"


class Tinyproxy:
    CONFIG = """
Port {port}
Listen 127.0.0.1
Timeout 20
LogFile "{log}"
LogLevel Connect
MaxClients 20
ViaProxyName "care-test"
"""

    def __init__(self, folder, user=None):
        self.log = os.path.join(folder, "tinyproxy.log")
        for _ in range(5):  # somebody may take the port between our look and its start
            self.port = Nginx._free_port()
            path = os.path.join(folder, "tinyproxy.conf")
            with open(path, "w") as file:
                file.write(self.CONFIG.format(port=self.port, log=self.log))
                file.write(f"BasicAuth {user} {PASSWORD}\n" if user else "")
            self.process = subprocess.Popen(["tinyproxy", "-d", "-c", path],
                                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                            stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
            if Nginx._wait(self):
                return
        raise AssertionError("tinyproxy does not start: " + open(self.log).read())

    url = property(lambda self: f"http://127.0.0.1:{self.port}")

    def connections(self):
        with open(self.log) as file:
            return [line for line in file if "Request" in line]

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()


@pytest.fixture
def proxy(tmp_path):
    proxies = []

    def start(**options):
        proxies.append(Tinyproxy(str(tmp_path), **options))
        return proxies[0]

    yield start
    for started in proxies:
        started.stop()


@pytest.fixture
def host(repository):
    """host(SETTING=...) starts an agent that serves nobody: it just asks the repository."""
    agents = []

    def make(url=None, **settings):
        agents.append(Agent(PATCH_SERVER=url or repository.web.url, **settings))
        repository.trusted_by(agents[0])
        return agents[0].start()

    yield make
    for agent in agents:
        agent.remove()


def checked(agent):
    """Asks the repository; the error, or None."""
    update(agent, expect=(1, 2))
    return agent.ask("status")["check_error"]


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """(certificate and key of 127.0.0.1, the authority that vouches for it)."""
    folder = tmp_path_factory.mktemp("tls")

    def path(name):
        return str(folder / name)

    (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=own authority", "-days",
            "30", "-keyout", path("ca.key"), "-out", path("ca.pem"))
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
            "/CN=repository", "-keyout", path("key"), "-out", path("request"))
    openssl("x509", "-req", "-in", path("request"), "-CA", path("ca.pem"), "-CAkey", path("ca.key"),
            "-days", "30", "-extfile", path("extensions"), "-out", path("certificate"))
    return (path("certificate"), path("key")), path("ca.pem")


def test_a_proxy_of_the_settings_is_used_and_those_named_are_reached_without(host, proxy, repository):
    way = proxy()
    agent = host(PROXY=way.url)
    assert checked(agent) is None
    assert repository.web.via and all("care-test" in (via or "") for via in repository.web.via)
    agent.reload(NO_PROXY="localhost,127.0.0.1")
    repository.web.via.clear()
    assert checked(agent) is None
    assert repository.web.via and not any(repository.web.via)
    # A proxy that is not there is named, and nothing goes around it.
    way.stop()
    agent.reload(NO_PROXY="")
    repository.web.via.clear()
    assert f"127.0.0.1 port {way.port}" in checked(agent)
    assert not repository.web.via


def test_a_proxy_of_the_environment_is_used(host, proxy, repository, monkeypatch):
    way = proxy()
    monkeypatch.setenv("http_proxy", way.url)
    assert checked(host()) is None
    assert all("care-test" in (via or "") for via in repository.web.via)


def test_a_proxy_with_a_password_gets_it_and_nobody_else_does(host, proxy, repository):
    way = proxy(user="alice")
    agent = host(PROXY=f"http://alice:{PASSWORD}@127.0.0.1:{way.port}")
    assert checked(agent) is None
    assert all("care-test" in (via or "") for via in repository.web.via)
    report = agent.path("report")
    care("dbcarectl", "doctor", "--output", report, env=agent.env)
    agent.reload(PROXY=f"http://alice:{PASSWORD}x@127.0.0.1:{way.port}")
    error = checked(agent)
    assert "proxy wants a name and a password" in error
    with open(report) as file:
        told = file.read() + agent.log() + str(agent.ask("status"))
    assert PASSWORD not in told


def test_https_is_trusted_by_the_authority_of_the_settings_alone(host, proxy, repository, tls):
    files, authority = tls
    web = Web(os.path.join(repository.folder, "public"), files)
    agent = host(web.url)
    assert "certificate" in checked(agent) and not web.requests
    shutil.copy(authority, agent.path("ca.pem"))
    agent.reload(CA_FILE=agent.path("ca.pem"))
    assert checked(agent) is None and web.requests
    # Another name than the certificate's is not trusted.
    agent.reload(PATCH_SERVER=f"https://localhost:{web.port}")
    assert "localhost" in checked(agent)
    # Through a proxy, which sees a tunnel and nothing else.
    way = proxy(user="alice")
    agent.reload(PATCH_SERVER=web.url, PROXY=f"http://alice:{PASSWORD}@127.0.0.1:{way.port}")
    web.requests.clear()
    assert checked(agent) is None and web.requests
    assert all("CONNECT" in line for line in way.connections())
    agent.reload(PROXY=f"http://alice:no@127.0.0.1:{way.port}")
    assert "proxy wants a name and a password" in checked(agent)


def test_a_password_in_the_repository_s_url_is_told_to_nobody(host, repository):
    port = repository.web.port
    agent = host(f"http://bob:{PASSWORD}@127.0.0.1:{port}")
    assert checked(agent) is None
    repository.web.server.shutdown()
    repository.web.server.server_close()
    error = checked(agent)
    assert f"http://127.0.0.1:{port}/metadata" in error
    assert PASSWORD not in error + agent.log()
    wait_until(lambda: "check-failed" in agent.log(), 10, "the failed check is told")

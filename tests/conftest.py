# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of all whole-system tests: the target, and servers of our own."""
import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))

import harness  # noqa: E402


@pytest.fixture(scope="session")
def target():
    """Debian's MariaDB, prepared by care-build (minutes at the first time, then cached)."""
    return harness.Target(harness.versions()["MARIADB_VERSION"])


@pytest.fixture(scope="session")
def shared_server(target):
    server = harness.Server(target.root).start()
    yield server
    server.stop()
    server.remove()


@pytest.fixture
def server(shared_server):
    """A running mariadbd without patches; shared by tests that leave it alive and unpatched."""
    if not shared_server.alive():
        shared_server.start()
    yield shared_server
    if shared_server.alive():
        harness.care("dbcarectl", "revert", "--all", shared_server.pid, expect=None)


@pytest.fixture
def new_server(target):
    """Starts servers for this test alone: new_server(options=[...])."""
    servers = []

    def start(**kwargs):
        servers.append(harness.Server(target.root, **kwargs).start())
        return servers[-1]

    yield start
    for server in servers:
        server.remove()


@pytest.fixture(scope="session")
def care():
    """care(PROGRAM, ARG..., expect=STATUS) runs one of our programs."""
    return harness.care

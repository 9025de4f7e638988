# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the agent's tests: patches of two levels, agents of our own."""
import pytest

import patches
from agent import Agent, let_in


@pytest.fixture(scope="session")
def levels(target, tmp_path_factory):
    """{level: patch file}: two levels of one patch."""
    folder = tmp_path_factory.mktemp("levels")
    return {level: target.patch(patches.rnd(str(folder), factor), "rnd", "--level", str(level))
            for level, factor in ((1, 0.5), (2, 0.25))}


@pytest.fixture
def new_agent():
    """Starts agents for this test alone: new_agent(SERVER..., start=True, SETTING=...)."""
    agents = []

    def make(*servers, start=True, **settings):
        for server in servers:
            if server.alive():
                let_in(server)
        agents.append(Agent(*servers, **settings))
        if start:
            agents[-1].start()
        return agents[-1]

    yield make
    for agent in agents:
        agent.remove()


@pytest.fixture
def patched(new_server, new_agent, levels):
    """(server, agent): the agent has applied level 1 to it."""
    server = new_server()
    agent = new_agent(server)
    agent.offer(levels[1])
    agent.wait_level(server, 1)
    return server, agent

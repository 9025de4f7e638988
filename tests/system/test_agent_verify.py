# SPDX-License-Identifier: GPL-2.0-or-later
"""A patch with which the server does not serve any more, applied by the agent."""
from agent import let_in
from harness import Watch, care, wait_until
from patches import RAND, breaks, levels_of_which_one_breaks


def test_a_patch_that_fails_its_verification_is_reverted_and_not_tried_again(target, new_server,
                                                                             new_agent, tmp_path):
    server, other = new_server(), new_server()
    before = server.snapshot()
    let_in(other)
    other.stop()
    agent = new_agent(server, other)
    bad = target.patch(breaks(str(tmp_path), "fails"), "fails")
    agent.offer(bad)
    agent.wait_held(server, "was applied, failed verification and was reverted")
    assert server.value("SELECT 1") == 1 and server.snapshot() == before

    # Nor at the next look, nor in another server, nor by another agent's life.
    agent.offer(bad)
    other.start()
    agent.wait_held(other, f"(server {server.socket}): it is not applied again by itself")
    agent.stop()
    agent.start()
    for one in (server, other):
        agent.wait_held(one, "not applied again by itself")
    failed = "care-agent: verification-failed "
    assert agent.log().count(failed) == 1, agent.log()
    # The operator decides.
    care("dbcarectl", "update", "--again", server.socket, env=agent.env, expect=4)
    wait_until(lambda: agent.log().count(failed) == 2, 60, "the next failure")


def test_a_level_that_fails_its_verification_gives_way_to_the_one_before(target, new_server,
                                                                         new_agent, tmp_path):
    good, bad = levels_of_which_one_breaks(target, str(tmp_path), "fails")
    server = new_server()
    agent = new_agent(server)
    agent.offer(good)
    agent.wait_level(server, 1)
    with Watch(server, f"SELECT {RAND}") as watch:
        agent.offer(bad)
        agent.wait_held(server, "was reverted to level 1")
    assert watch.changes == ["0.2027", "0.1014", "0.2027"]  # never as shipped
    # Restarted it gets what is good, and the other is held.
    server.restart()
    agent.wait_held(server, "not applied again by itself")
    agent.wait_level(server, 1)
    assert server.value("SELECT 1") == 1
    row = [r for r in care("dbcarectl", "history", "--json", env=agent.env).json["history"]
           if r["action"] == "auto-revert"][-1]
    assert row["result"] == "reverted" and row["by"] == "care-agent"

# SPDX-License-Identifier: GPL-2.0-or-later
"""A patch with which the server does not serve any more, applied by the agent."""
from harness import Watch, care
from patches import RAND, breaks, levels_of_which_one_breaks


def test_a_patch_that_fails_its_verification_is_reverted_and_held(target, new_server, new_agent,
                                                                  tmp_path):
    server = new_server()
    before = server.snapshot()
    agent = new_agent(server)
    agent.offer(target.patch(breaks(str(tmp_path), "fails"), "fails"))
    agent.wait_held(server, "was applied, failed verification and was reverted")
    assert server.value("SELECT 1") == 1 and server.snapshot() == before


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
    assert server.value("SELECT 1") == 1
    row = [r for r in care("dbcarectl", "history", "--json", env=agent.env).json["history"]
           if r["action"] == "auto-revert"][-1]
    assert row["result"] == "reverted" and row["by"] == "care-agent"

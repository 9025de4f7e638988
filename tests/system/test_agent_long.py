# SPDX-License-Identifier: GPL-2.0-or-later
"""Years in a row: an agent whose clock is four hours further at each check, with a repository that is
kept alive by the same clock, and servers that get, exchange and lose patches meanwhile."""
import os
import statistics

import pytest

import repository as samples
from clock import ShiftedAgent
from harness import LONG, TOP, care, wait_until
from updates import let_in, levels, repository  # noqa: F401

ASAN = os.path.join(TOP, "build-asan")
CHECKS = int(os.environ.get("DBCARE_TESTS_CHECKS", 10000 if LONG else 30))
HOURS_4 = 4 * 3600


def private_kb(pid):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file
                   if line.startswith(("Private_Clean:", "Private_Dirty:")))


def last_success(agent):
    """Of the metrics, which unlike the status need no look at the servers."""
    for line in agent.ask("metrics")["text"].splitlines():
        if line.startswith("dbcare_last_success_timestamp_seconds "):
            return float(line.split()[1])
    return 0


def on_disk(agent):
    """(files, bytes) of state and cache, without the history, which is there to grow."""
    found = []
    for room in ("state", "cache"):
        for folder, _, names in os.walk(agent.path(room)):
            found += [os.path.getsize(os.path.join(folder, name)) for name in names
                      if not name.startswith("history.")]
    return len(found), sum(found)


class Years:
    """One check after the other."""

    def __init__(self, agent, server, repository, levels, folder):
        self.agent, self.server, self.repository = agent, server, repository
        self.folder = folder
        self.applied = self.reverted = 0
        self.expected = None
        self.repo("add", levels[1], levels[2])

    def repo(self, *args, expect=0):
        return care("care-repo", "--repo", self.repository.folder, "--quiet", *args,
                    env=self.agent.clock.env, expect=expect)

    def publish(self, n):
        """The publisher's timer runs every day or so; now and then there is something for others."""
        if n % 20 == 0:
            if n < 4000:
                self.repo("add", samples.write_patch(self.folder, build_id=f"{n:08x}"))
            self.repo("publish", expect=(0, 2))
        elif n % 4 == 0:
            self.repo("publish", "--timestamp")

    def change(self, n):
        """What the server is to have from now on: 1, then 2 in its place, then nothing."""
        step = n // 10 % 3
        if step == 2:
            care("dbcarectl", "hold", env=self.agent.env)
            care("dbcarectl", "revert", "--all", self.server.pid, env=self.agent.env)
            self.reverted += 1
            self.expected = None
            return
        self.agent.reload(STICKY_PATCHSET="1" if step == 0 else "")
        care("dbcarectl", "resume", env=self.agent.env, expect=(0, 2))
        self.applied += 1
        self.expected = step + 1

    def check(self, n):
        agent = self.agent
        agent.clock.move(HOURS_4 * 1.2)
        self.publish(n)
        if n % 10 == 0:
            self.change(n)
        if n % 2:
            # By itself: whatever wakes the agent lets it see that its time has come.
            agent.reload()
            wait_until(lambda: last_success(agent) >= agent.clock.time() - 600, 30,
                       "a check by itself")
        else:
            status = agent.ask("update")
            assert status["checked"] and status["check_error"] is None, status["check_error"]
        if n % 10 == 0:
            assert agent.target(self.server)["level"] == self.expected, agent.target(self.server)

    def sample(self):
        pids = self.agent.children()
        return {**{name: private_kb(pid) for name, pid in pids.items()},
                "fds": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids.values()),
                "files": on_disk(self.agent)[0], "pids": sorted(pids.values())}


def run(agent, server, repository, levels, folder, checks):
    """The samples, each some checks apart."""
    years = Years(agent, server, repository, levels, folder)
    samples_taken = []
    every = max(checks // 100, 2)
    for n in range(checks):
        years.check(n)
        if n % every == every - 1:
            samples_taken.append(years.sample())
            if LONG:
                print(n + 1, samples_taken[-1], on_disk(agent), flush=True)
    assert years.applied >= checks // 20 and years.reverted >= checks // 40
    return samples_taken


def grown(taken, what):
    """How much more there is at the end than after the first quarter."""
    values = [sample[what] for sample in taken]
    quarter = max(len(values) // 4, 1)
    return statistics.median(values[-quarter:]) - statistics.median(values[quarter:2 * quarter])


@pytest.mark.parametrize("build", ["plain", "asan"])
def test_years_of_checks_and_updates_leave_nothing_behind(new_server, repository, levels, tmp_path,
                                                          build):
    if build == "asan" and not os.path.exists(os.path.join(ASAN, "agent", "care-agent")):
        pytest.skip("build-asan is made by `tests/run unit`")
    server = new_server()
    let_in(server)
    options = {"build": ASAN} if build == "asan" else {}
    agent = ShiftedAgent(server, PATCH_SERVER=repository.web.url, **options)
    repository.trusted_by(agent)
    agent.start()
    try:
        taken = run(agent, server, repository, levels, str(tmp_path), CHECKS)
        assert taken[0]["pids"] == taken[-1]["pids"]
        print({what: grown(taken, what) for what in taken[0] if what != "pids"}, taken[-1])
        if build == "plain":
            for name in ("care-agent", "care-patcher", "care-watch"):
                assert grown(taken, name) <= 256, [sample[name] for sample in taken]
        # Some are open for a moment: of a server that is looked at, of a connection.
        assert grown(taken, "fds") <= 3, [sample["fds"] for sample in taken]
        assert grown(taken, "files") <= 0, [sample["files"] for sample in taken]
        agent.stop()
        for word in ("Sanitizer", "runtime error", "was killed", "ended with status"):
            assert word not in agent.log()
        assert agent.process.returncode == 0
    except BaseException:
        print(agent.log()[-5000:])
        raise
    finally:
        agent.remove()

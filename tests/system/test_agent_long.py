# SPDX-License-Identifier: GPL-2.0-or-later
"""Years in a row: an agent whose clock is nearly five hours further at each check, with a repository
that is kept alive by the same clock; alone, and with a server that gets, exchanges and loses patches
meanwhile. Nothing may grow: memory, descriptors, files."""
import json
import os

import pytest

import repository as samples
from clock import ShiftedAgent
from harness import LONG, TOP, care, wait_until
from updates import let_in, repository  # noqa: F401

ASAN = os.path.join(TOP, "build-asan")
CHECKS = int(os.environ.get("DBCARE_TESTS_CHECKS", 10000 if LONG else 50))
UPDATES = int(os.environ.get("DBCARE_TESTS_UPDATES", 1000 if LONG else 30))
STEP = 4.8 * 3600
FOREIGN = 200  # patches for others at most
KB = 256 if LONG else 1024  # over few samples it does not even out


def written_kb(pid):
    """Memory that is the process's own because it wrote it. What it reads of a library is private,
    too, for as long as nobody else on this machine has the library mapped: no matter of growth."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_Dirty:"))


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
    """One check after the other; samples of what could grow."""

    def __init__(self, agent, repository, folder):
        self.agent, self.repository, self.folder = agent, repository, folder
        self.samples = []

    def repo(self, *args, expect=0):
        return care("care-repo", "--repo", self.repository.folder, "--quiet", *args,
                    env=self.agent.clock.env, expect=expect)

    def last_longer(self):
        """Metadata of which two months may pass without the publisher."""
        path = os.path.join(self.repository.folder, "care-repo.json")
        with open(path) as file:
            config = json.load(file)
        config["days"].update(timestamp=60, snapshot=60)
        with open(path, "w") as file:
            json.dump(config, file)

    def publish_for_others(self, n):
        if n < FOREIGN * 20:
            self.repo("add", samples.write_patch(self.folder, build_id=f"{n:08x}"))
        self.repo("publish", expect=(0, 2))

    def check_by_itself(self):
        """Whatever wakes the agent lets it see that its time has come."""
        now = self.agent.clock.time()
        self.agent.reload()
        wait_until(lambda: last_success(self.agent) >= now - 60, 60, "a check by itself")

    def sample(self):
        pids = self.agent.children()
        self.samples.append(
            {**{name: written_kb(pid) for name, pid in pids.items()},
             "fds": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids.values()),
             "files": on_disk(self.agent)[0], "pids": sorted(pids.values())})

    def run(self, count, step):
        every = max(count // 100, 2)
        for n in range(count):
            self.agent.clock.move(STEP)
            step(n)
            if n % every == every - 1:
                self.sample()
                if LONG:
                    print(n + 1, self.samples[-1], on_disk(self.agent), flush=True)

    def grown(self, what):
        """How much more there is at the end than in the second quarter; the least of each, since
        what is needed for a moment comes and goes, and the heap gives it back in its own time."""
        values = [sample[what] for sample in self.samples]
        quarter = max(len(values) // 4, 1)
        return min(values[-quarter:]) - min(values[quarter:2 * quarter])

    def assert_nothing_grew(self, kb):
        first, last = self.samples[0], self.samples[-1]
        print({what: self.grown(what) for what in first if what != "pids"}, last)
        assert first["pids"] == last["pids"], "one of the processes was started anew"
        for name in ("care-agent", "care-patcher", "care-watch"):
            assert self.grown(name) <= kb, [sample[name] for sample in self.samples]
        # Some are open for a moment: of a server that is looked at, of a connection.
        assert self.grown("fds") <= 3, [sample["fds"] for sample in self.samples]
        # The second of two patches may come late.
        assert self.grown("files") <= 1, [sample["files"] for sample in self.samples]


def assert_good_end(agent):
    agent.stop()
    for word in ("Sanitizer", "runtime error", "was killed", "ended with status"):
        assert word not in agent.log(), agent.log()[-5000:]
    assert agent.process.returncode == 0


@pytest.mark.parametrize("build", ["plain", "asan"])
def test_years_of_checks_leave_nothing_behind(repository, tmp_path, build):
    if build == "asan" and not os.path.exists(os.path.join(ASAN, "agent", "care-agent")):
        pytest.skip("build-asan is made by `tests/run unit`")
    options = {"build": ASAN} if build == "asan" else {}
    agent = ShiftedAgent(PATCH_SERVER=repository.web.url, **options)
    repository.trusted_by(agent)
    years = Years(agent, repository, str(tmp_path))
    years.last_longer()

    def step(n):
        if n % 40 == 0:
            years.publish_for_others(n)
        years.check_by_itself()

    try:
        agent.start()
        years.run(CHECKS, step)
        # The sanitizer keeps what was freed for a while; at the end it tells what nobody frees.
        years.assert_nothing_grew(KB if build == "plain" else 16384)
        assert_good_end(agent)
    finally:
        agent.remove()


class Server:
    """What the server of an agent is to have: 1, then 2 in its place, then nothing, and again."""

    def __init__(self, years, server):
        self.years, self.server = years, server
        self.level = None
        self.applied = self.reverted = 0

    def change(self, n):
        agent, step = self.years.agent, n // 10 % 3
        if step == 2:
            care("dbcarectl", "hold", env=agent.env)
            care("dbcarectl", "revert", "--all", self.server.pid, env=agent.env)
            self.reverted += 1
            self.level = None
            return
        agent.reload(STICKY_PATCHSET="1" if step == 0 else "")
        care("dbcarectl", "resume", env=agent.env, expect=(0, 2))
        self.applied += 1
        self.level = step + 1

    def step(self, n):
        years, agent = self.years, self.years.agent
        if n % 20 == 0:
            years.publish_for_others(n)
        elif n % 4 == 0:
            years.repo("publish", "--timestamp")
        if n % 10 == 0:
            self.change(n)
        if n % 2:
            years.check_by_itself()
            return
        status = agent.ask("update")
        assert status["checked"] and status["check_error"] is None, status["check_error"]
        if n % 10 == 0:
            target = agent.target(self.server)
            assert target["level"] == self.level, target


def test_years_of_updates_leave_nothing_behind(new_server, repository, levels, tmp_path):
    mariadbd = new_server()
    let_in(mariadbd)
    agent = ShiftedAgent(mariadbd, PATCH_SERVER=repository.web.url)
    repository.trusted_by(agent)
    years = Years(agent, repository, str(tmp_path))
    server = Server(years, mariadbd)
    years.repo("add", levels[1], levels[2])
    try:
        agent.start()
        years.run(UPDATES, server.step)
        assert server.applied >= UPDATES // 20 and server.reverted >= UPDATES // 40
        years.assert_nothing_grew(KB)
        assert_good_end(agent)
        assert mariadbd.alive()
    finally:
        agent.remove()

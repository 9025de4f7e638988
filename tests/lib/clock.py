# SPDX-License-Identifier: GPL-2.0-or-later
"""A wall clock that a test moves. Only programs that are started with its environment see it, and
only the time of day moves for them: what waits for seconds waits for true ones."""
import datetime
import os
import stat
import time

import harness
from agent import Agent

LIBRARY = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


class Clock:
    def __init__(self, folder):
        self.path = os.path.join(folder, "clock")
        self.ahead = 0.0
        self.move(0)

    def move(self, seconds):
        """Ahead by so much more (back, when negative)."""
        self.ahead += seconds
        with open(self.path + ".new", "w") as file:
            file.write(f"{self.ahead:+.0f}s")
        os.chmod(self.path + ".new", 0o644)
        os.rename(self.path + ".new", self.path)

    def time(self):
        return time.time() + self.ahead

    def day(self, days=0):
        """The UTC day so many days after today, DDMMYY."""
        when = datetime.datetime.utcfromtimestamp(self.time() + days * 86400)
        return when.strftime("%d%m%y")

    @property
    def env(self):
        return {"LD_PRELOAD": LIBRARY, "FAKETIME_TIMESTAMP_FILE": self.path,
                "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    def programs(self, folder, build=harness.BUILD):
        """A folder of the agent's programs in which care-agent lives by this clock; it alone, since
        the clock is a file that care-patcher's sandbox would not let it read. @build: of which build
        folder care-agent is."""
        for name in ("care-patcher", "care-watch"):
            os.symlink(harness.program(name), os.path.join(folder, name))
        agent = os.path.join(build, "agent", "care-agent")
        env = dict(self.env)
        # The sanitizer's library has to be the first.
        env["LD_PRELOAD"] = " ".join([*sanitizers(agent), env["LD_PRELOAD"]])
        # What was freed is kept for a while, but not so much that growth could not be told from it.
        env["ASAN_OPTIONS"] = "quarantine_size_mb=4"
        wrapper = os.path.join(folder, "care-agent")
        with open(wrapper, "w") as file:
            file.write("#!/bin/sh\n" + "".join(f"export {k}='{v}'\n" for k, v in env.items()) +
                       f"exec {agent} \"$@\"\n")
        os.chmod(wrapper, os.stat(wrapper).st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        return folder


def sanitizers(path):
    """Libraries of sanitizers that a program is linked to."""
    lines = harness.run("ldd", path).out.splitlines()
    return [line.split()[2] for line in lines if "/libasan" in line]


class ShiftedAgent(Agent):
    """An agent that lives by a clock of its own; of another build folder when it is to."""

    def __init__(self, *servers, build=harness.BUILD, **settings):
        super().__init__(*servers, **settings)
        self.clock = Clock(self.folder)
        os.mkdir(self.path("programs"), 0o755)
        self.clock.programs(self.path("programs"), build)

    @property
    def env(self):
        return {**super().env, "DBCARE_LIBEXEC_DIR": self.path("programs")}

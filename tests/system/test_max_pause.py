# SPDX-License-Identifier: GPL-2.0-or-later
"""--max-pause: an apply that would take longer is not begun, and says what that was told from."""
import re
import time

from harness import care
from patches import rnd_patch

MEASURED = re.compile(r"(\d+) threads, [\d.]+ µs each as measured just now on (\d+) of them")


def test_a_pause_that_is_too_long_is_not_begun_and_said_why(target, server, tmp_path):
    patch = rnd_patch(target, tmp_path, "0.5")
    before = server.snapshot()
    for command in (["dbcarectl", "apply", patch, server.pid],
                    ["care-patch", "apply", patch, "--pid", server.pid]):
        # Where the machine is too busy even to measure, what it was told from is another.
        for _ in range(50):
            refused = care(*command, "--max-pause", "0.001", expect=4)
            assert "threads" in refused.text
            found = MEASURED.search(refused.text)
            if found:
                break
            time.sleep(0.2)
        assert found, refused
        # A server ends threads that it kept for connections when it likes.
        assert int(found[1]) >= int(found[2]) >= 2
    assert server.snapshot() == before


def test_a_pause_within_the_limit_is_predicted_and_kept_to(target, server, tmp_path):
    patch = rnd_patch(target, tmp_path, "0.5")
    done = care("dbcarectl", "apply", patch, server.pid, "--max-pause", "60000", "--json")
    assert 0 < done.json["predicted_us"] < 60_000_000
    assert done.json["pause_us"] > 0
    care("dbcarectl", "revert", "rnd-0-5", server.pid)

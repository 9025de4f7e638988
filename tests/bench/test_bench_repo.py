# SPDX-License-Identifier: GPL-2.0-or-later
"""What a check costs, held to its limits: bytes do not depend on the machine's load."""
import json
import os

from harness import LONG, TOP, run


def test_a_check_costs_little_however_many_patches_there_are():
    done = run(os.path.join(TOP, "tests", "bench", "repo"), "--json", "--patches",
               10000 if LONG else 600, timeout=3000)
    assert done.status == 0, done
    result = json.loads(done.out)
    assert result["nothing_new_bytes"] <= 2048
    assert result["new_patch_metadata_bytes"] <= 65536
    assert result["first_check_metadata_bytes"] <= 65536
    assert result["million_hosts"]["requests_per_s"] < 200

# SPDX-License-Identifier: GPL-2.0-or-later
"""The benches run and print what they promise; how good the numbers are is not judged here, where
other work shares the processors."""
import json
import os

import pytest

from harness import LONG, TOP, run

PAUSE = {"connections", "parts_us_p50", "pause_ms_p50", "pause_ms_max", "floor_ms_p50", "ratio",
         "stop_resume_ms_p50", "operation_ms_p50", "errors", "longest_query_ms_with",
         "longest_query_ms_without", "restart_ms"}


def test_pause_measures_every_size_against_the_floor_without_an_error(target):
    done = run(os.path.join(TOP, "tests", "bench", "pause"), "--json",
               *([] if LONG else ["--quick"]), timeout=3000)
    assert done.status == 0, done
    result = json.loads(done.out)
    rows = result["rows"]
    assert [r["connections"] for r in rows] == ([4, 64, 512, 1000, 64, 64] if LONG else [4, 64])
    for row in rows:
        assert PAUSE <= row.keys()
        assert row["errors"] == 0
        assert 0 < row["floor_ms_p50"] and 0 < row["pause_ms_p50"] <= row["pause_ms_max"]
        assert row["pause_ms_p50"] < row["restart_ms"]
    assert {r["functions"] for r in result["programs"]} == {1, 200}
    for row in result["programs"]:
        assert 0 < row["floor_ms_p50"] and 0 < row["pause_ms_p50"] <= row["pause_ms_max"]
        # What the parts say is the whole pause, rounding and medians apart.
        assert sum(row["parts_us_p50"].values()) < 1000 * row["pause_ms_max"] + 10


def test_call_measures_the_cost_of_a_patched_entry():
    path = os.path.join(TOP, "tests", "bench", "call")
    if not os.path.exists(path):
        pytest.skip("tests/bench/call is not there")
    done = run(path, "--json", timeout=600)
    assert done.status == 0, done
    assert json.loads(done.out)


def test_patchers_killed_at_random_moments_cost_nothing(target):
    kills = 1000 if LONG else 25
    done = run(os.path.join(TOP, "tests", "bench", "kills"), "--json", "--kills", str(kills),
               *([] if LONG else ["--program-kills", "20", "--calls", "100000"]), timeout=7200)
    assert done.status == 0, done
    result = json.loads(done.out)
    server, program = result["server"], result["program"]
    assert server["kills"] >= kills and program["kills"] >= 20
    assert (server["errors"], server["reconnects"], server["contract_violations"]) == (0, 0, [])
    assert server["queries"] > 1000 and server["contract_questions"] > 20
    assert program["violations"] == 0 and program["calls"] >= 100000


def test_agent_measures_what_it_costs(target):
    done = run(os.path.join(TOP, "tests", "bench", "agent"), "--json",
               *([] if LONG else ["--seconds", "3"]), timeout=300)
    assert done.status == 0, done
    result = json.loads(done.out)
    # Memory does not depend on who else uses the processors.
    assert 0 < result["agent_private_kb"] <= 6144
    assert 0 < result["patcher_private_kb"] <= 4096
    assert result["discovery_ms"] > 0 and result["idle_cpu_percent"] >= 0


def test_build_measures_a_patch_against_compiling_its_unit_once(target):
    done = run(os.path.join(TOP, "tests", "bench", "build"), "--json",
               *([] if LONG else ["--unit", "mysys/my_rnd.c"]), timeout=3000)
    assert done.status == 0, done
    for row in json.loads(done.out)["rows"]:
        assert 0 < row["compile_s"] and 0 < row["ratio"] and 0 < row["patch_mib"] < 4096

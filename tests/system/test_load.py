# SPDX-License-Identifier: GPL-2.0-or-later
"""Switches on a loaded server: nobody notices, and nothing stays behind."""
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time

import pytest

import harness
from harness import LONG, Sysbench, Watch, care, die_with_parent, program, run
from patches import DEMO, RAND, case, query_levels, rnd_patch


def apply(patch, server, *args, **kwargs):
    return care("dbcarectl", "apply", patch, server.pid, *args, **kwargs)


def revert(name, server, *args, **kwargs):
    return care("dbcarectl", "revert", name, server.pid, *args, **kwargs)


def open_files(server):
    """What the server's descriptors are; one that is closed while we look is none."""
    names = []
    for fd in os.listdir(f"/proc/{server.pid}/fd"):
        try:
            names.append(os.readlink(f"/proc/{server.pid}/fd/{fd}"))
        except FileNotFoundError:
            pass
    return names


def resources(server):
    """What must not grow: mappings of ours, descriptors that are no connections, threads."""
    return {"ours": sum("care:" in region[4] for region in server.maps()),
            "fds": sum(not name.startswith("socket:") for name in open_files(server)),
            "threads": len(os.listdir(f"/proc/{server.pid}/task"))}


def switch(server, verb, what, *options):
    """One operation as a DBA would do it: what is held, as the server does not answer in time, is
    tried again. Its pause, and how often it was held."""
    for held in range(5):
        done = care("dbcarectl", verb, what, server.pid, *options, "--json", "--timeout", "120",
                    expect=(0, 4))
        if done.status == 0:
            return done.json["pause_us"] / 1000, held
        assert done.json["error"]["code"] == "held", done
    raise AssertionError(f"held five times: {done!r}")


def soak(server, levels, cycles, load):
    """Apply, replace by the next level, now and then by the lower one again, revert; the pauses,
    and how many operations were held at first."""
    pauses, held = [], 0
    for _ in range(cycles):
        steps = [("apply", levels[0], "0.2027"), ("apply", levels[1], "0.1014")]
        if random.random() < 0.5:
            steps.append(("apply", levels[0], "0.2027", "--replace", "cycles"))
        steps.append(("revert", "cycles", "0.4054"))
        for verb, what, answer, *options in steps:
            pause, times = switch(server, verb, what, *options)
            pauses.append(pause)
            held += times
            assert server.value(f"SELECT {RAND}") == answer
            time.sleep(random.uniform(0, 0.2))
        load.check()
    return pauses, held


# (cycles, options of the load): all that the machine can do, and a load that leaves it room.
SOAK = [(100, ()), (900, ("--rate=30",))] if LONG else [(10, ())]


def test_soak_of_apply_replace_and_revert_under_64_connections_costs_no_query(target, new_server,
                                                                               tmp_path):
    levels = query_levels(target, tmp_path, "cycles")
    # Threads of connections that have ended would come and go by their own rules.
    server = new_server(options=["--thread-cache-size=0"])
    untouched = server.snapshot()
    for cycles, options in SOAK:
        with Sysbench(server, "oltp_read_write", threads=64, options=options) as load:
            soak(server, levels, 1, load)
            care("care-patch", "recover", "--pid", server.pid, expect=(0, 2))
            before = resources(server)
            begin = time.monotonic()
            pauses, held = soak(server, levels, cycles, load)
            seconds = time.monotonic() - begin
            care("care-patch", "recover", "--pid", server.pid, expect=(0, 2))
            after = resources(server)
        print(f"{cycles} cycles, {len(pauses)} switches in {seconds:.0f} s, {load.queries} queries, "
              f"{load.errors} errors, {load.reconnects} reconnects, {held} held at first, pause p50 "
              f"{statistics.median(pauses):.2f} ms, max {max(pauses):.2f} ms, {before} -> {after}")
        assert (load.errors, load.reconnects) == (0, 0)
        assert load.queries > 10000
        assert held <= len(pauses) // 20
        assert after["ours"] == 0
        # Files of tables are opened as they are needed, and the server's pools grow with the load in
        # its first seconds; what grew with every switch would be hundreds.
        assert after["fds"] - before["fds"] <= 16 and after["threads"] - before["threads"] <= 16, \
            (before, after)
        care("care-patch", "recover", "--pid", server.pid, expect=(0, 2))
        assert server.snapshot() == untouched


def test_one_by_one(target, server, tmp_path):
    """Each patch stands upon the one before; every client sees them in order, none twice."""
    values = {"1": "0.4054", "0.5": "0.2027", "0.25": "0.1014", "0.125": "0.0507"}
    patches = {f: rnd_patch(target, tmp_path, f) for f in values if f != "1"}
    clients = [Watch(server, f"SELECT {RAND}") for _ in range(4)]
    untouched = server.snapshot()
    for client in clients:
        client.__enter__()
    with Sysbench(server, threads=16) as load:
        for factor, patch in patches.items():
            apply(patch, server)
            assert server.value(f"SELECT {RAND}") == values[factor]
            time.sleep(0.3)
        for factor in reversed(list(patches)):
            revert("rnd-" + factor.replace(".", "-"), server)
            time.sleep(0.3)
    assert (load.errors, load.reconnects) == (0, 0)
    up = list(values.values())
    for client in clients:
        client.__exit__(None)
        assert client.changes == up + up[-2::-1]
    assert server.snapshot() == untouched


def test_lower_patch_cannot_go_while_one_stands_on_it(target, server, tmp_path):
    apply(rnd_patch(target, tmp_path, "0.5"), server)
    apply(rnd_patch(target, tmp_path, "0.25"), server)
    refused = revert("rnd-0-5", server, expect=(1, 4, 5))
    assert "rnd-0-25" in refused.text
    assert server.value(f"SELECT {RAND}") == "0.1014"
    care("dbcarectl", "revert", "--all", server.pid)
    assert server.value(f"SELECT {RAND}") == "0.4054"


def test_different_patches_in_one_process_go_in_any_order(target, server, tmp_path):
    apply(rnd_patch(target, tmp_path, "0.5"), server)
    apply(target.patch(DEMO, "limit"), server)
    info = care("dbcarectl", "info", server.pid, "--json").json
    assert {p["name"] for p in info["patches"]} == {"rnd-0-5", "limit"}
    revert("rnd-0-5", server)
    assert server.value("SELECT BENCHMARK(100001, 1)") is None
    assert server.value(f"SELECT {RAND}") == "0.4054"
    revert("limit", server)
    assert server.value("SELECT BENCHMARK(100001, 1)") == 0


def test_applying_again_is_nothing_to_do(target, server, tmp_path):
    patch = rnd_patch(target, tmp_path, "0.5")
    apply(patch, server)
    before = server.snapshot()
    again = apply(patch, server, expect=(0, 2))
    assert "already" in again.text
    assert server.snapshot() == before
    revert("rnd-0-5", server)
    assert revert("rnd-0-5", server, expect=2).text


def test_many_threads_pause(target, new_server):
    """800 connections: a pause of milliseconds."""
    server = new_server()
    connections = [server.connect() for _ in range(800)]
    patch = target.patch(case("query_path"), "cycles")
    pauses = []
    for _ in range(5):
        pauses.append(apply(patch, server, "--json").json["pause_us"])
        pauses.append(care("dbcarectl", "revert", "cycles", server.pid, "--json").json["pause_us"])
    for connection in connections:
        connection.ping(reconnect=False)
    assert statistics.median(pauses) < 100_000, pauses


def test_large_buffer_pool_does_not_lengthen_the_pause(target, new_server):
    """A page table of gigabytes is never walked while the server stands."""
    size = 8192 if LONG else 1024
    pauses = {}
    for megabytes in (128, size):
        server = new_server(options=[f"--innodb-buffer-pool-size={megabytes}M", "--memlock"])
        assert server.resident_megabytes() >= megabytes
        patch = target.patch(case("query_path"), "cycles")
        pauses[megabytes] = statistics.median(
            care("dbcarectl", *args, "--json").json["pause_us"]
            for _ in range(10) for args in (("apply", patch, server.pid),
                                            ("revert", "cycles", server.pid)))
        server.stop()
    print(f"pause p50 in us by MiB of buffer pool: {pauses}")
    # Other work on the machine makes noise; 8 times the memory would make more.
    assert pauses[size] < 4 * pauses[128] + 2000


def test_no_leftovers(target, server, tmp_path):
    """No file, no mapping, no thread, no priority, no descriptor stays."""
    patch = rnd_patch(target, tmp_path, "0.5")
    apply(patch, server)
    revert("rnd-0-5", server)

    def state():
        fds = sorted(open_files(server))
        return {"tmp": sorted(n for n in os.listdir("/tmp") if "care" in n and "dbcare" not in n),
                "fds": [f for f in fds if not f.startswith("socket:")],
                "memfds": [r for r in server.maps() if "care:" in r[4]]}

    before = state()
    for _ in range(5):
        apply(patch, server)
        revert("rnd-0-5", server)
    assert state() == before
    assert not state()["memfds"]
    for tid in os.listdir(f"/proc/{server.pid}/task"):
        with open(f"/proc/{server.pid}/task/{tid}/status") as status:
            text = status.read()
        assert "TracerPid:\t0" in text
        assert "State:\tT" not in text and "State:\tt" not in text


PARENT = r"""
import json, os, signal, sys
seen = []
signal.signal(signal.SIGCHLD, lambda *a: seen.append("SIGCHLD"))
pid = os.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
print(pid, flush=True)
sys.stdin.readline()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
try:
    state = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WCONTINUED | os.WEXITED | os.WNOHANG)
except ChildProcessError as e:
    state = e
print(json.dumps([seen, str(state)]), flush=True)
os.kill(pid, signal.SIGKILL)
"""


def test_parent_sees_nothing(target, tmp_path):
    """Neither SIGCHLD nor a stopped child: to whoever started the server nothing happened."""
    patch = rnd_patch(target, tmp_path, "0.5")
    server = harness.Server(target.root)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *server.command()], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              preexec_fn=die_with_parent)
    pid = int(parent.stdout.readline())
    try:
        harness.wait_until(lambda: os.path.exists(server.socket), 60, "the server")
        harness.wait_until(lambda: run(program("dbcarectl"), "info", str(pid)).status == 0, 30,
                           "the server")
        for _ in range(5):
            care("dbcarectl", "apply", patch, pid)
            care("dbcarectl", "revert", "rnd-0-5", pid)
        parent.stdin.write("\n")
        parent.stdin.flush()
        assert json.loads(parent.stdout.readline()) == [[], "None"]
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        parent.wait(30)
        server.remove()


def test_blocked_calls_of_the_server_go_on(target, server, tmp_path):
    """SLEEP, lock waits and reads that were under way during switches end as if nothing were."""
    patch = rnd_patch(target, tmp_path, "0.5")
    results = {}

    def ask(name, statement):
        try:
            begin = time.monotonic()
            results[name] = (server.value(statement), time.monotonic() - begin)
        except Exception as error:  # noqa: BLE001 - the assertion shows it
            results[name] = (error, 0)

    with server.connect() as holder, holder.cursor() as cursor:
        cursor.execute("SELECT GET_LOCK('held', 1)")
        threads = [threading.Thread(target=ask, args=("sleep", "SELECT SLEEP(4)")),
                   threading.Thread(target=ask, args=("lock", "SELECT GET_LOCK('held', 3)"))]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        for _ in range(10):
            apply(patch, server)
            revert("rnd-0-5", server)
        for thread in threads:
            thread.join()
        cursor.execute("SELECT RELEASE_LOCK('held')")
    assert results["sleep"][0] == 0 and 3.9 < results["sleep"][1] < 6, results
    assert results["lock"][0] == 0 and 2.9 < results["lock"][1] < 5, results


@pytest.mark.parametrize("scheduler", ["one-thread-per-connection", "pool-of-threads"])
def test_both_schedulers(target, new_server, scheduler):
    """Listeners of the pool block in epoll_wait, which an interrupt ends with EINTR."""
    server = new_server(options=[f"--thread-handling={scheduler}"])
    patch = target.patch(case("query_path"), "cycles")
    with Sysbench(server, threads=32) as load:
        for _ in range(5):
            apply(patch, server)
            revert("cycles", server)
    assert (load.errors, load.reconnects) == (0, 0)
    assert "rror" not in "".join(line for line in server.error_log().splitlines()
                                 if "[ERROR]" in line)


def test_in_transaction(target, server, tmp_path):
    """A transaction that was open during a switch keeps its meaning."""
    patch = rnd_patch(target, tmp_path, "0.5")
    server.sql("CREATE OR REPLACE TABLE care_trx (a INT PRIMARY KEY) ENGINE=InnoDB")
    with server.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO care_trx VALUES (1)")
        apply(patch, server)
        cursor.execute("INSERT INTO care_trx VALUES (2)")
        assert server.value("SELECT COUNT(*) FROM care_trx") == 0
        revert("rnd-0-5", server)
        connection.rollback()
        assert server.value("SELECT COUNT(*) FROM care_trx") == 0
    server.sql("DROP TABLE care_trx")


def test_idle_and_cached_threads_are_handled(target, new_server):
    """Threads without a connection wait in the server's cache; each serves the next as before."""
    server = new_server(options=["--thread-cache-size=256"])
    patch = target.patch(case("two_functions"), "two")

    def cached():
        return int(server.value("SELECT variable_value FROM information_schema.global_status "
                                "WHERE variable_name = 'Threads_cached'"))

    def come_and_go():
        connections = [server.connect() for _ in range(50)]
        answers = set()
        for connection in connections:
            with connection.cursor() as cursor:
                cursor.execute("SELECT CAST(ROUND(RAND(1), 3) AS CHAR)")
                answers.add(cursor.fetchone()[0])
            connection.close()
        harness.wait_until(lambda: cached() >= 45, 20, "the threads are cached")
        return answers

    assert come_and_go() == {"0.405"}
    threads = server.threads()
    for _ in range(3):
        apply(patch, server)
        assert come_and_go() == {"2.405"}
        revert("two", server)
        assert come_and_go() == {"0.405"}
    assert abs(server.threads() - threads) <= 4


def test_olap_long_queries_are_not_waited_for(target, server, tmp_path):
    """A query that computes for as long as it is let: the switch is done while it runs, and it runs
    on undisturbed."""
    patch = rnd_patch(target, tmp_path, "0.5")
    query = "SELECT COUNT(*) FROM seq_1_to_100000 a, seq_1_to_1000000 b WHERE a.seq ^ b.seq = -1"
    outcome = []

    def compute():
        try:
            outcome.append(server.value(query))
        except Exception as error:  # noqa: BLE001 - the assertion shows it
            outcome.append(error)

    def running():
        return server.value("SELECT MAX(id) FROM information_schema.processlist "
                            "WHERE info LIKE 'SELECT COUNT(*) FROM seq_1%'")

    thread = threading.Thread(target=compute)
    thread.start()
    harness.wait_until(running, 20, "the query runs")
    try:
        for _ in range(3):
            apply(patch, server, "--timeout", "10")
            assert server.value(f"SELECT {RAND}") == "0.2027"
            revert("rnd-0-5", server, "--timeout", "10")
            assert server.value(f"SELECT {RAND}") == "0.4054"
        assert running() and not outcome
    finally:
        server.sql(f"KILL QUERY {running() or 0}")
        thread.join(60)
    assert "interrupted" in str(outcome[0]), outcome

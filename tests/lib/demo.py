# SPDX-License-Identifier: GPL-2.0-or-later
"""The second half of tests/demo: target, patch, load, switch, and the proof."""
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import time

import harness
import plot

NAME = "benchmark-limit"
CONNECTIONS, RATE = 64, 150  # sysbench: transactions a second, about half of what two cores can do
PROBES, PROBE_RATE = 4, 1000
QUIET = 5  # seconds before, between and after the switches
SQL = "SELECT BENCHMARK(50000000, 1+1)"
OUT = os.path.join(harness.BUILD, "demo")


def load_bench():
    """tests/bench/pause as a module, for its clients."""
    path = os.path.join(harness.TOP, "tests", "bench", "pause")
    loader = importlib.machinery.SourceFileLoader("pause", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("pause", loader))
    loader.exec_module(module)
    return module


def say(text):
    print(text, flush=True)


def sleep(seconds, text):
    """Waits with a sign of life."""
    if sys.stdout.isatty():
        for left in range(seconds, 0, -1):
            print(f"\r\033[K  {text} … {left} s", end="", flush=True)
            time.sleep(1)
        print("\r\033[K", end="")
    else:
        say(f"  {text}, {seconds} s")
        time.sleep(seconds)


def ask(server):
    """(answer, first warning or None, seconds)"""
    with server.connect() as connection, connection.cursor() as cursor:
        begin = time.monotonic()
        cursor.execute(SQL)
        answer = cursor.fetchall()[0][0]
        seconds = time.monotonic() - begin
        cursor.execute("SHOW WARNINGS")
        warnings = cursor.fetchall()
    return answer, warnings[0][2] if warnings else None, seconds


def show(server):
    answer, warning, seconds = ask(server)
    text = "NULL" if answer is None else answer
    say(f"    {SQL}  →  {text}  ({seconds:.2f} s{', warning: ' + warning if warning else ''})")
    return answer, warning


def uptime(server):
    return int(server.sql("SHOW GLOBAL STATUS LIKE 'Uptime'")[0][1])


def aborted(server):
    rows = server.sql("SHOW GLOBAL STATUS LIKE 'Aborted_c%'")
    return sum(int(value) for _, value in rows)


def switch(server, *args):
    begin = time.monotonic_ns() // 1000
    done = harness.care("dbcarectl", *args, server.pid, "--json").json
    end = time.monotonic_ns() // 1000
    say(f"    dbcarectl {' '.join(os.path.basename(a) for a in args)} {server.pid}: pause "
        f"{done['pause_us'] / 1000:.2f} ms, whole command {(end - begin) / 1000:.0f} ms")
    return begin, end, done["pause_us"] / 1000


def table(rows):
    width = max(len(name) for name, _ in rows)
    line = "  +" + "-" * (width + 2) + "+" + "-" * 30 + "+"
    say(line)
    for name, value in rows:
        say(f"  | {name:<{width}} | {value:>28} |")
    say(line)


def expect(condition, text):
    if not condition:
        raise AssertionError(text)


def main():
    os.makedirs(OUT, exist_ok=True)
    version = harness.versions()["MARIADB_VERSION"]
    say(f"2. Debian's mariadbd {version}, with its source and its flags")
    target = harness.Target(version, progress=True)
    say(f"    target {target.name}, build-id {target.build_id}")

    say("3. A patch: BENCHMARK() refuses counts that only an attacker needs")
    diff = os.path.join(harness.TOP, "tests", "lib", "demo.diff")
    begin = time.monotonic()
    patch = target.patch(diff, NAME, "--description",
                         "BENCHMARK() refuses counts over 100000: no timing oracle", progress=True)
    patch = shutil.copy(patch, os.path.join(OUT, NAME + ".cpatch"))
    say(f"    {patch}: {os.path.getsize(patch)} bytes, made in {time.monotonic() - begin:.0f} s")

    say("4. A server of its own")
    server = harness.Server(target.root).start()
    pid, up = server.pid, uptime(server)
    lost_before = aborted(server)
    untouched = server.snapshot()
    say(f"    mariadbd {server.value('SELECT VERSION()')}, pid {pid}, socket {server.socket}")

    say(f"5. Load: sysbench oltp_read_write, {CONNECTIONS} connections, and {PROBES} clients that "
        "keep the time of every query")
    bench = load_bench()
    clients = bench.Clients(server, PROBES, PROBE_RATE, bench.QUERIES)
    load = harness.Sysbench(server, threads=CONNECTIONS, options=[f"--rate={RATE}"])
    with load:
        time.sleep(2)  # connections and caches warm up
        with clients:
            sleep(QUIET, "load before the switch")
            say("6. The patch goes in, and out")
            before = show(server)
            applied = switch(server, "apply", patch)
            patched = show(server)
            subprocess.run([harness.program("dbcarectl"), "info", str(pid)], check=True,
                           stdin=subprocess.DEVNULL)
            sleep(QUIET, "load on the patched server")
            reverted = switch(server, "revert", NAME)
            after = show(server)
            sleep(QUIET, "load after the switch")
        load.check()

    switches = [("apply", *applied), ("revert", *reverted)]
    windows = [(b, e) for _, b, e, _ in switches]
    svg = os.path.join(OUT, "latency.svg")
    plot.latency_svg(svg, clients.records, switches,
                     "A running mariadbd is patched, and unpatched, under load",
                     f"{CONNECTIONS} connections of sysbench at {RATE} transactions/s; latency "
                     f"seen by {PROBES} more clients at {PROBE_RATE} queries/s")
    queries = load.queries + clients.summary["queries"]
    failed = load.errors + clients.summary["failed"]
    lost = load.reconnects + clients.summary["lost"] + aborted(server) - lost_before
    pause = max(applied[2], reverted[2])
    say("7. What clients saw")
    table([("queries", f"{queries}"), ("failed", f"{failed}"), ("lost connections", f"{lost}"),
           ("longest query of the run", f"{clients.longest_ms():.1f} ms"),
           ("longest query at the switches", f"{clients.longest_ms(windows):.1f} ms"),
           ("pause of apply", f"{applied[2]:.2f} ms"),
           ("pause of revert", f"{reverted[2]:.2f} ms"),
           ("pid before, after", f"{pid}, {server.pid}"),
           ("uptime before, after", f"{up} s, {uptime(server)} s")])
    say(f"  latency plot: {svg}")

    expect(before[0] == 0 and after[0] == 0, "BENCHMARK() was not as shipped before and after")
    expect(patched[0] is None and patched[1], "BENCHMARK() did not change")
    expect(failed == 0 and lost == 0 and queries > 1000, "queries failed")
    expect(server.alive() and uptime(server) >= up + 3 * QUIET, "the server restarted")
    expect(server.snapshot() == untouched, "the revert left something behind")
    server.stop()
    server.remove()
    say(f"demo: ok, {queries} queries, {failed} failed, {lost} lost connections, "
        f"pause {pause:.1f} ms")


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, OSError, subprocess.SubprocessError, KeyError) as error:
        say(f"demo: failed: {error}")
        sys.exit(1)

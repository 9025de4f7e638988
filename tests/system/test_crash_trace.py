# SPDX-License-Identifier: GPL-2.0-or-later
"""A server's own stack trace, written while it crashes, goes on through patched code."""
import ctypes
import re
import signal
import threading

from harness import care, wait_until
from patches import DEMO

TGKILL = 234


def test_a_crashing_server_shows_its_callers_through_a_patched_function(target, new_server):
    """The patched BENCHMARK() is on the stack when its thread gets the signal of an assertion."""
    server = new_server(options=["--skip-stack-trace=0", "--core-file=0"])
    patch = target.patch(DEMO, "limit")
    care("dbcarectl", "apply", patch, server.pid)
    symbols = care("care-patch", "symbols", "--pid", server.pid, "--json").json["symbols"]
    patched = next(s for s in symbols if "benchmark" in s["name"] and "entry" not in s["name"])
    start = int(patched["address"], 16)

    def busy():
        try:
            server.sql("SELECT BENCHMARK(100, SLEEP(60))")
        except Exception:  # noqa: BLE001 - the server crashes under it
            pass

    client = threading.Thread(target=busy)
    client.start()
    tid = wait_until(lambda: [row[0] for row in server.sql(
        "SELECT TID FROM information_schema.PROCESSLIST WHERE STATE='User sleep'")], 10,
        "the query")[0]
    ctypes.CDLL(None).syscall(TGKILL, server.pid, tid, signal.SIGABRT)
    server.process.wait(60)
    client.join(30)
    log = server.error_log()
    trace = log[log.index("got signal"):]
    addresses = [int(a, 16) for a in re.findall(r"\[?0x([0-9a-f]{8,16})\]?", trace)]
    inside = [i for i, a in enumerate(addresses) if start <= a < start + patched["size"]]
    assert inside, trace
    # A bare address: what `care-patch symbols` said while the process lived tells the function.
    # The frames that called it have their names.
    after = trace[trace.index(f"{addresses[inside[0]]:x}"):]
    assert re.search(r"dispatch_command|do_command|mysql_parse|mysql_execute_command", after), trace

# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine does not do: each refusal names its reason and leaves the process as it was."""
import os
import shutil
import signal
import subprocess
import threading
import time

import pytest

import harness
from harness import care, die_with_parent, run, wait_until
from programs import Program, refusal

NOTHING, NO_TARGET, NOT_NOW, REFUSED = 2, 3, 4, 5

SOURCE = r"""
#include <stdio.h>
__attribute__((noinline)) int value(int x)
{
	printf("value %d\n", x);
	return x;
}
void say(char question)
{
	value(1);
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return Program(tmp_path_factory.mktemp("refused"), SOURCE)


@pytest.fixture(scope="module")
def patch(program):
    return program.patch("value", {'"value %d\\n"': '"patched %d\\n"'})


@pytest.fixture
def running(program):
    with program.start() as p:
        p.ask()
        before = p.snapshot()
        yield p
        assert p.snapshot() == before
        assert p.ask() == "value 1"


def test_wrong_buildid_names_both(running, program, tmp_path):
    other = Program(tmp_path, SOURCE.replace("value(1)", "value(2)"))
    path = other.patch("value", {'"value %d\\n"': '"patched %d\\n"'})
    message = refusal(running.apply(path, expect=REFUSED))
    for binary in (program.binary, other.binary):
        notes = run("readelf", "-n", binary).out
        assert notes.split("Build ID: ")[1].split()[0] in message
    assert program.binary in message


def test_missing_function_is_refused_when_the_patch_is_built(program):
    """A function that the binary does not have cannot be replaced: the inlined one has no entry."""
    done = program.patch("missing", {
        '__attribute__((noinline)) int value(int x)\n{\n\tprintf("value %d\\n", x);':
        '__attribute__((noinline)) int value(int x);\nint value(int x)\n{\n'
        '\tprintf("value %d\\n", x + no_such_function(x));'}, expect=(1, 5))
    assert "no_such_function" in done.text


def test_a_debugger_is_named(running, patch):
    tracer = subprocess.Popen(["strace", "-o", "/dev/null", "-p", str(running.pid)],
                              stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
    try:
        wait_until(lambda: f"TracerPid:\t{tracer.pid}\n" in
                   open(f"/proc/{running.pid}/status").read(), 10, "strace attaches")
        message = refusal(running.apply(patch, expect=NOT_NOW))
        assert str(tracer.pid) in message
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait()


def test_a_breakpoint_left_in_the_function_is_named(program, patch):
    with program.start() as p:
        entry = int(care("care-patch", "check", patch, "--pid", p.pid,
                         "--json").json["functions"][0]["entry"], 16)
        with open(f"/proc/{p.pid}/mem", "r+b", 0) as memory:
            memory.seek(entry)
            byte = memory.read(1)
            memory.seek(entry)
            memory.write(b"\xcc")
            before = p.snapshot()
            assert "breakpoint or uprobe" in refusal(p.apply(patch, expect=REFUSED))
            assert p.snapshot() == before
            memory.seek(entry)
            memory.write(byte)
        p.apply(patch)
        assert p.ask() == "patched 1"


def test_two_patchers_at_once_one_is_told_the_other(program, patch):
    with program.start() as p:
        os.makedirs("/run/dbcare", exist_ok=True)
        with open(f"/proc/{p.pid}/stat") as stat:
            start = stat.read().rsplit(")", 1)[1].split()[19]
        lock = f"/run/dbcare/{p.pid}-{start}.lock"
        holder = subprocess.Popen(["flock", lock, "sh", "-c", f"echo $$ > {lock}; sleep 60"],
                                  preexec_fn=die_with_parent)
        wait_until(lambda: os.path.exists(lock) and os.path.getsize(lock), 5, "the lock")
        assert "another patcher" in refusal(p.apply(patch, expect=NOT_NOW))
        holder.kill()
        holder.wait()
        subprocess.run(["fuser", "-sk", lock])
        if os.path.exists(lock):
            os.unlink(lock)
        p.apply(patch)


def test_no_such_process_and_no_process_of_ours(program, patch):
    care("care-patch", "apply", patch, "--pid", 4194000, expect=NO_TARGET)
    care("care-patch", "apply", patch, "--pid", 2, expect=(NO_TARGET, 1))


def test_a_stopped_target_is_refused_or_served_but_stays_stopped(program, patch):
    with program.start() as p:
        os.kill(p.pid, signal.SIGSTOP)
        wait_until(lambda: " T " in open(f"/proc/{p.pid}/stat").read(), 5, "stopped")
        done = care("care-patch", "apply", patch, "--pid", p.pid, "--timeout", "1", "--json",
                    expect=(0, NOT_NOW))
        time.sleep(0.1)
        assert " T " in open(f"/proc/{p.pid}/stat").read()
        os.kill(p.pid, signal.SIGCONT)
        assert p.ask() == ("patched 1" if done.status == 0 else "value 1")


def test_a_target_that_dies_meanwhile_is_reported_as_gone(program, patch):
    """Whenever it dies, the patcher ends with a clear word."""
    for delay in (0, 1, 2, 3, 5, 8, 13):
        with program.start() as p:
            killer = threading.Timer(delay / 1000, p.process.kill)
            killer.start()
            done = care("care-patch", "apply", patch, "--pid", p.pid, "--json", expect=None)
            killer.join()
            assert done.status in (0, NO_TARGET), done


def test_not_root_is_told_so(program, patch, tmp_path):
    with program.start() as p:
        shutil.copy(patch, "/tmp/not-root.cpatch")
        os.chmod("/tmp/not-root.cpatch", 0o644)
        path = shutil.copy(harness.program("care-patch"), "/tmp/care-patch-not-root")
        os.chmod(path, 0o755)
        done = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", path, "apply",
                   "/tmp/not-root.cpatch", "--pid", p.pid)
        os.unlink(path)
        os.unlink("/tmp/not-root.cpatch")
        assert done.status == 1 and "root" in done.err
        assert p.ask() == "value 1"

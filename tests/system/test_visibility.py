# SPDX-License-Identifier: GPL-2.0-or-later
"""Patched code is visible: maps name it; perf, gdb and a server's own stack trace show it."""
import os
import re

import pytest

import harness
from harness import care, die_with_parent, run, wait_until
from programs import Program

NOTHING, REFUSED = 2, 5

# Three frames: say() → outer() → inner(), which waits. Not independent, so that it is also seen
# how the way into a function looks.
SOURCE = r"""
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static volatile int go;
static volatile unsigned long sum;
__attribute__((noinline)) int inner(int x)
{
	char room[100];

	memset(room, x, sizeof(room));
	if (x == 'k')
		raise(SIGSTOP);
	if (x == 'c')
		raise(SIGABRT);
	for (unsigned long i = 0; go && x == 'w'; i++)
		sum += i * room[i % 100];
	return room[x % 100] + 1;
}
__attribute__((noinline)) int outer(int x)
{
	char room[50];

	memset(room, x, sizeof(room));
	return inner(x) + room[3];
}
static void *work(void *arg)
{
	outer('w');
	return arg;
}
void say(char question)
{
	pthread_t thread;

	go = question == 'w';
	if (go)
		pthread_create(&thread, NULL, work, NULL);
	printf("%d\n", go ? 0 : outer(question) > 0);
}
"""

CHANGES = {"return room[x % 100] + 1;": "return room[x % 100] + 2;",
           "return inner(x) + room[3];": "return inner(x) + room[4];"}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    # As servers are: optimized, without frame pointers, so that unwinding needs the tables.
    return Program(tmp_path_factory.mktemp("visible"), SOURCE,
                   ("-O2", "-fPIE", "-fomit-frame-pointer", "-fexceptions"))


@pytest.fixture(scope="module")
def patch(program):
    return program.patch("visible", CHANGES)


def symbols(p, *args, **kwargs):
    return care("care-patch", "symbols", *args, "--pid", p.pid, **kwargs)


def test_maps_name_patched_code(program, patch):
    with program.start() as p:
        p.apply(patch)
        assert all("/memfd:care:visible" in line for line in p.ours())
        assert [line.split()[1] for line in p.ours()] == ["r-xp", "r--p", "rw-p"]


def test_symbols_lists_patched_code_and_finds_what_an_address_is(program, patch):
    with program.start() as p:
        symbols(p, expect=NOTHING)
        p.apply(patch)
        listed = symbols(p, "--json").json["symbols"]
        names = {s["name"]: s for s in listed}
        assert {"inner", "outer", "inner.care_entry", "outer.care_entry"} <= set(names)
        start, end = (int(x, 16) for x in p.ours()[0].split()[0].split("-"))
        assert all(start < int(s["address"], 16) < end for s in listed)
        inside = hex(int(names["outer"]["address"], 16) + 7)
        assert "outer+0x7" in symbols(p, inside).out
        assert symbols(p, inside, "--json").json["symbols"][0]["offset"] == 7
        assert "0x1234" in symbols(p, "0x1234", expect=NOTHING).err
        assert "no address" in symbols(p, "nonsense", expect=1).err


# ---- gdb

def gdb(*args):
    return run("gdb", "-nx", "-batch", "-ex", "set debuginfod enabled off", *args, timeout=120)


@pytest.fixture
def crash_in_patched_code(program, patch, tmp_path):
    """A process that is stopped inside a patched function, and its symbol files."""
    with program.start() as p:
        p.apply(patch)
        folder = tmp_path / "with space"
        folder.mkdir()
        script = symbols(p, "--gdb", folder).out.split(" -x ")[1].strip()
        yield p, script


def frames(text):
    return re.findall(r"^#\d+ +(?:0x[0-9a-f]+ in )?([\w.?]+)", text, re.M)


def test_gdb_unwinds_through_patched_frames_and_names_them(crash_in_patched_code):
    p, script = crash_in_patched_code
    assert script == f"{os.path.dirname(script)}/care-{p.pid}.gdb"
    p.process.stdin.write("w")
    p.process.stdin.flush()
    assert p.line() == "0"
    wait_until(lambda: any(len(open(f"/proc/{p.pid}/task/{t}/stat").read()) and
                           " R " in open(f"/proc/{p.pid}/task/{t}/stat").read()
                           for t in os.listdir(f"/proc/{p.pid}/task")), 10, "the thread works")
    done = gdb("-p", str(p.pid), "-x", script, "-ex", "thread apply all backtrace")
    called = frames(done.out)
    at = called.index("inner")
    assert called[at:at + 3] == ["inner", "outer", "work"], done
    # Without the symbol files gdb cannot tell, so it is they that helped.
    assert "inner" not in frames(gdb("-p", str(p.pid), "-ex", "thread apply all backtrace").out)
    for name in os.listdir(os.path.dirname(script)):
        assert os.stat(os.path.join(os.path.dirname(script), name)).st_mode & 0o777 == 0o600


def test_gdb_reads_a_core_file_with_the_symbol_files(crash_in_patched_code, tmp_path):
    p, script = crash_in_patched_code
    p.process.stdin.write("k")
    p.process.stdin.flush()
    wait_until(lambda: " T " in open(f"/proc/{p.pid}/stat").read(), 10, "stopped")
    core = f"{tmp_path}/core"
    assert os.path.exists(core) is False
    gdb("-p", str(p.pid), "-ex", f"generate-core-file {core}")
    done = gdb(p.program.binary, core, "-x", script, "-ex", "backtrace")
    called = frames(done.out)
    at = called.index("inner")
    assert called[at:at + 4] == ["inner", "outer", "say", "main"], done


def test_symbol_files_are_not_written_to_a_folder_that_is_not_there(program, patch):
    with program.start() as p:
        p.apply(patch)
        assert "/nonexistent" in symbols(p, "--gdb", "/nonexistent", expect=1).err


# ---- perf

def perf_map(p):
    return f"/tmp/perf-{p.pid}.map"


def record(p, data):
    """A profile with calls; by the clock of the kernel, since a virtual machine has no other."""
    done = run("perf", "record", "-q", "-e", "cpu-clock", "-F", "499", "-o", data, "-p", p.pid,
               "--", "sleep", "0.5", timeout=60)
    assert done.status == 0, done


def test_perf_reports_patched_functions_by_name(program, patch, tmp_path):
    with program.start() as p:
        p.apply(patch)
        p.ask("w")
        data = f"{tmp_path}/perf.data"
        command = symbols(p, "--perf", tmp_path).out.split()
        assert command[:3] == ["perf", "report", "--symfs"]
        record(p, data)
        done = run(*command, "--stdio", "-i", data, timeout=60)
        assert re.search(r"memfd:care:visible.*\[\.\] inner *$", done.out, re.M), done


def test_the_perf_map_keeps_lines_of_others_and_loses_what_is_reverted(program, patch):
    with program.start() as p:
        path = perf_map(p)
        try:
            p.apply(patch)
            with open(path, "w") as file:
                file.write("7f0000000000 10 jitted by somebody\n")
            for _ in range(2):
                symbols(p, "--perf-map")
                lines = open(path).read().splitlines()
                assert lines[0] == "7f0000000000 10 jitted by somebody"
                assert len(lines) == 5 and all("[care:visible]" in x for x in lines[1:])
            assert os.stat(path).st_mode & 0o777 == 0o600
            p.revert("visible")
            symbols(p, "--perf-map")
            assert open(path).read() == "7f0000000000 10 jitted by somebody\n"
            os.unlink(path)
            symbols(p, "--perf-map")
            assert not os.path.exists(path)
        finally:
            if os.path.exists(path):
                os.unlink(path)


def test_the_perf_map_is_never_written_through_what_others_planted(program, patch, tmp_path):
    with program.start() as p:
        p.apply(patch)
        path, victim = perf_map(p), tmp_path / "victim"
        victim.write_text("precious\n")
        try:
            os.symlink(victim, path)
            assert path in symbols(p, "--perf-map", expect=1).err
            os.unlink(path)
            os.link(victim, tmp_path / "second")
            os.mkfifo(path)
            assert path in symbols(p, "--perf-map", expect=1).err
            os.unlink(path)
            with open(path, "w"):
                os.chown(path, 65534, 65534)
            assert "--perf-map=FILE" in symbols(p, "--perf-map", expect=1).err
        finally:
            os.unlink(path)
        assert victim.read_text() == "precious\n"
        symbols(p, f"--perf-map={tmp_path}/own.map")
        assert "inner" in open(tmp_path / "own.map").read()
        assert not [n for n in os.listdir("/tmp") if n.startswith(f"perf-{p.pid}.map")]


def test_perf_map_of_a_process_in_another_mount_namespace_wants_a_name(program, patch, tmp_path):
    def elsewhere():
        die_with_parent()
        if harness._libc.unshare(0x00020000):
            os._exit(1)

    with program.start(before=elsewhere) as p:
        p.apply(patch)
        assert "mount namespace" in symbols(p, "--perf-map", expect=REFUSED).err
        symbols(p, f"--perf-map={tmp_path}/named.map")
        assert "inner" in open(tmp_path / "named.map").read()

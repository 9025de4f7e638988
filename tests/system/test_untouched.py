# SPDX-License-Identifier: GPL-2.0-or-later
"""Refusals leave every byte as it was: of processes that are no targets, of files that are no
patches, of anything that is not as the patch expects it."""
import contextlib
import hashlib
import os
import random
import re
import signal
import struct
import subprocess
import time

import pytest

from harness import LONG, care, die_with_parent, program, run, wait_until
from patchfile import seal
from programs import Program

NOTHING, NO_TARGET, NOT_NOW, REFUSED = 2, 3, 4, 5

SOURCE = r"""
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
__attribute__((noinline)) int value(int x)
{
	__asm__ volatile("nop; nop; nop; nop");
	return x;
}
static void *wait(void *arg)
{
	for (;;)
		pause();
	return arg;
}
void prepare(void)
{
	pthread_t thread;

	for (int i = 0; i < 3; i++)
		pthread_create(&thread, NULL, wait, NULL);
}
void say(char question)
{
	printf("%d\n", value(1));
}
"""


def state(pid):
    """All of a process that a patcher could change: mappings, their code, descriptors, threads and
    what their status tells of signals and tracers."""
    with open(f"/proc/{pid}/maps") as file:
        maps = file.read()
    code = hashlib.sha256()
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps.splitlines():
            fields = line.split()
            if "x" in fields[1] and "[v" not in line:
                start, end = (int(x, 16) for x in fields[0].split("-"))
                memory.seek(start)
                code.update(memory.read(end - start))
    fds = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    threads = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/status") as status:
            threads[tid] = re.findall(r"^(?:(?:Sig|Shd)(?:Pnd|Blk|Ign|Cgt)|TracerPid|Seccomp):.*$", status.read(),
                                      re.M)
    return maps, code.hexdigest(), fds, threads


def settled(pid):
    """The same at two looks: threads that have just begun change by themselves."""
    looks = [state(pid)]

    def same():
        time.sleep(0.05)
        looks.append(state(pid))
        return looks[-1] == looks[-2]

    wait_until(same, 20, "the process comes to rest")
    return looks[-1]


@contextlib.contextmanager
def untouched(pid):
    before = settled(pid)
    yield
    assert state(pid) == before


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Program(tmp_path_factory.mktemp("untouched"), SOURCE)


@pytest.fixture(scope="module")
def patch(made):
    return made.patch("value", {"\treturn x;": "\treturn x + 1;"})


def apply(patch, pid, *options):
    return run(program("care-patch"), "apply", patch, "--pid", pid, "--timeout", "1", *options)


def refused(patch, pid, statuses, *words):
    done = apply(patch, pid)
    assert done.status in statuses, done
    for word in words:
        assert word in done.err, done
    return done


# ---- processes that are no targets

ASSEMBLY = {
    "x86": ("--32", "elf_i386", "mov $29, %eax\nint $0x80\n"),
    "x86_64": ("--64", "elf_x86_64", "mov $34, %eax\nsyscall\n"),
}


def without_libc(folder, processor):
    """A program of a few instructions that waits."""
    bits, emulation, pause = ASSEMBLY[processor]
    (folder / "w.s").write_text(f".globl _start\n_start:\n{pause}jmp _start\n")
    subprocess.run(["as", bits, "w.s", "-o", "w.o"], cwd=folder, check=True)
    subprocess.run(["ld", "-m", emulation, "--build-id", "w.o", "-o", "w"], cwd=folder, check=True)
    return subprocess.Popen([folder / "w"], preexec_fn=die_with_parent)


@pytest.mark.parametrize("processor", ASSEMBLY)
def test_a_process_without_a_c_library_or_of_another_kind_is_refused(patch, tmp_path, processor):
    process = without_libc(tmp_path, processor)
    try:
        time.sleep(0.2)
        if process.poll() is not None:
            pytest.skip("this kernel runs no such programs")
        with untouched(process.pid):
            refused(patch, process.pid, (1, NO_TARGET, REFUSED),
                    "build-id" if processor == "x86_64" else "no 64-bit ELF object")
    finally:
        process.kill()
        process.wait()


def test_a_static_program_is_patched_or_refused_but_never_harmed(tmp_path):
    static = Program(tmp_path, SOURCE, ("-O2", "-fno-pie"), ("-static", "-no-pie"))
    patch = static.patch("value", {"\treturn x;": "\treturn x + 1;"})
    with static.start() as p:
        before = settled(p.pid)
        done = apply(patch, p.pid)
        assert done.status in (0, REFUSED), done
        assert p.ask() == ("2" if done.status == 0 else "1")
        if done.status == 0:
            p.revert("value")
        assert p.ask() == "1"
        assert state(p.pid)[1:] == before[1:]


def test_processes_that_are_not_there_or_not_ours_are_named(patch):
    refused(patch, 4194000, (NO_TARGET,), "4194000")
    assert apply(patch, "0").status == 1
    assert apply(patch, "-5").status == 1
    assert "99999999999" in apply(patch, "99999999999").err
    done = run("sh", "-c", f"exec {program('care-patch')} apply {patch} --pid $$")
    assert done.status == NO_TARGET and "itself" in done.err, done
    child = subprocess.Popen(["true"])
    try:
        wait_until(lambda: " Z " in open(f"/proc/{child.pid}/stat").read(), 10, "a zombie")
        refused(patch, child.pid, (NO_TARGET,), "zombie")
    finally:
        child.wait()


def test_the_first_process_and_threads_of_the_kernel_are_refused(patch):
    # A container may not let us look at it at all.
    refused(patch, 1, (1, NO_TARGET, NOT_NOW, REFUSED))
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                kernel = int(stat.read().rsplit(")", 1)[1].split()[6]) & 0x200000
        except (FileNotFoundError, ProcessLookupError):
            continue
        if kernel:
            refused(patch, pid, (NO_TARGET,), "thread of the kernel")
            break


def test_a_thread_is_not_a_process(made, patch):
    with made.start() as p:
        other = next(t for t in os.listdir(f"/proc/{p.pid}/task") if int(t) != p.pid)
        with untouched(p.pid):
            refused(patch, other, (NO_TARGET,), "thread of process", str(p.pid))


def test_a_process_that_became_another_program_meanwhile_is_not_patched(patch, made):
    """The same pid, first one program, then another."""
    process = subprocess.Popen(["sh", "-c", f"cd {made.folder}; read x; exec {made.binary}"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                               preexec_fn=die_with_parent)
    try:
        wait_until(lambda: open(f"/proc/{process.pid}/syscall").read().startswith("0 "), 10,
                   "the shell reads")
        with untouched(process.pid):
            refused(patch, process.pid, (NO_TARGET, REFUSED), "build-id")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        assert apply(patch, process.pid).status == 0
    finally:
        process.kill()
        process.wait()


def test_missing_rights_are_named(made, patch):
    """As root without the capabilities that it takes."""
    with made.start() as p:
        for capability in ("sys_ptrace", "dac_override"):
            with untouched(p.pid):
                done = run("setpriv", f"--bounding-set=-{capability}",
                           f"--inh-caps=-{capability}", "setpriv", "--reuid=0",
                           program("care-patch"), "apply", patch, "--pid", p.pid)
                # Root of the same user needs neither for its own processes.
                if done.status == 0:
                    p.revert("value")
                else:
                    assert done.status == 1 and "ermi" in done.err, done


# ---- the program is not as expected

def test_another_build_is_refused_by_both_build_ids(made, patch, tmp_path):
    other = Program(tmp_path, SOURCE.replace("value(1)", "value(2)"))
    with other.start() as p, untouched(p.pid):
        ids = [run("readelf", "-n", b).out.split("Build ID: ")[1].split()[0]
               for b in (made.binary, other.binary)]
        refused(patch, p.pid, (REFUSED,), *ids)


@pytest.mark.parametrize("byte, word", [(0xcc, "breakpoint"), (0xe9, "jump"), (0x90, "modifi")])
def test_a_byte_that_somebody_changed_is_named_wherever_it_is(made, patch, byte, word):
    with made.start() as p:
        function = care("care-patch", "check", patch, "--pid", p.pid, "--json").json["functions"][0]
        for offset in (0, function["size"] - 1):
            with open(f"/proc/{p.pid}/mem", "r+b", 0) as memory:
                memory.seek(int(function["entry"], 16) + offset)
                original = memory.read(1)
                memory.seek(-1, os.SEEK_CUR)
                memory.write(bytes([byte]))
                with untouched(p.pid):
                    refused(patch, p.pid, (REFUSED,), word, "value", f"{byte:02x}")
                memory.seek(-1, os.SEEK_CUR)
                memory.write(original)
        assert apply(patch, p.pid).status == 0


def test_being_traced_is_refused_with_the_tracer_s_pid(made, patch):
    with made.start() as p:
        other = next(t for t in os.listdir(f"/proc/{p.pid}/task") if int(t) != p.pid)
        tracer = subprocess.Popen(["strace", "-o", "/dev/null", "-p", other],
                                  stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
        try:
            wait_until(lambda: f"TracerPid:\t{tracer.pid}\n" in
                       open(f"/proc/{p.pid}/task/{other}/status").read(), 20, "strace attaches")
            with untouched(p.pid):
                refused(patch, p.pid, (NOT_NOW,), str(tracer.pid))
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
        assert apply(patch, p.pid).status == 0


# ---- files that are no patches

def test_damaged_patch_files_are_refused_and_touch_nothing(made, patch, tmp_path):
    good = open(patch, "rb").read()
    rng = random.Random(11)
    files = [b"", b"\x7fELF", good[:64], good[:len(good) // 2], good[:-1], good + b"x",
             good[64:], bytes(len(good)), rng.randbytes(len(good)), b"#!/bin/sh\n" * 50,
             open("/bin/true", "rb").read(), open(made.binary, "rb").read()]
    for _ in range(300 if LONG else 30):
        bad = bytearray(good)
        for _ in range(rng.choice([1, 1, 2, 8])):
            bad[rng.randrange(len(bad))] = rng.choice([0, 1, 0x7f, 0xff, rng.randrange(256)])
        files += [bytes(bad)]
        try:
            files += [seal(bad)]
        except (AssertionError, struct.error):
            pass  # its headers do not lead to the checksum
    path = tmp_path / "bad.cpatch"
    with made.start() as p:
        for i, data in enumerate(files):
            path.write_bytes(data)
            with untouched(p.pid):
                done = apply(path, p.pid, "--dry-run")
            assert done.status in (0, 1, NOTHING, NO_TARGET, REFUSED), (i, done)
            assert done.status == 0 or done.err.strip(), (i, done)
        assert p.ask() == "1"
        for name in ("/nonexistent.cpatch", tmp_path, "/dev/null", "/proc/self/mem"):
            assert str(name) in refused(name, p.pid, (1, REFUSED)).err

# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes in unusual surroundings: sandboxes, signals in use, probes and profilers, rules of the
kernel about memory."""
import contextlib
import os
import re
import signal
import subprocess

import pytest

import harness
from harness import care, die_with_parent, run, wait_until
from programs import Program, Running, refusal

REFUSED = 5

SOURCE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((noinline)) int value(void)
{
	__asm__ volatile("nop; nop; nop; nop");
	return 1;
}

static volatile int trapped;

static void on_signal(int sig)
{
	trapped++;
}

/* Everything that maps or changes memory is forbidden. */
static void sandbox(unsigned int action)
{
	static const int forbidden[] = { SYS_mmap, SYS_munmap, SYS_mprotect, SYS_memfd_create,
					 SYS_ftruncate };
	enum { COUNT = sizeof(forbidden) / sizeof(*forbidden) };
	struct sock_filter filter[COUNT + 3];
	struct sock_fprog program = { COUNT + 3, filter };

	filter[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						 offsetof(struct seccomp_data, nr));
	for (int i = 0; i < COUNT; i++)
		filter[i + 1] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
							     forbidden[i], COUNT - i, 0);
	filter[COUNT + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	filter[COUNT + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		abort();
}

void say(char question)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTRAP);
	switch (question) {
	case 'K':
		sandbox(SECCOMP_RET_KILL_PROCESS);
		break;
	case 'E':
		sandbox(SECCOMP_RET_ERRNO | EPERM);
		break;
	case 'T':
		sandbox(SECCOMP_RET_TRAP);
		break;
	case 'm': /* is the sandbox there? */
		printf("%s\n", mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
				       MAP_FAILED ? "forbidden" : "allowed");
		return;
	case 'h':
		signal(SIGTRAP, on_signal);
		break;
	case 'i':
		signal(SIGTRAP, SIG_IGN);
		break;
	case 'b':
		sigprocmask(SIG_BLOCK, &set, NULL);
		break;
	case 't':
		raise(SIGTRAP);
		break;
	}
	printf("%d trapped %d\n", value(), trapped);
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return Program(tmp_path_factory.mktemp("surroundings"), SOURCE)


@pytest.fixture(scope="module")
def patch(program):
    return program.patch("value", {"\treturn 1;": "\treturn 2;"})


def cycle(p, patch):
    """Applied and taken back, with nothing left."""
    before = p.snapshot()
    done = p.apply(patch)
    assert p.ask().startswith("2 ")
    p.revert("value")
    assert p.ask().startswith("1 ")
    assert p.snapshot() == before
    return done


# ---- sandboxes

@pytest.mark.parametrize("action", "KET", ids=["kill", "errno", "trap"])
def test_a_sandbox_that_forbids_our_calls_is_suspended_for_them_alone(program, patch, action):
    with program.start() as p:
        p.ask(action)
        cycle(p, patch)
        assert p.alive()
        if action == "E":
            assert p.ask("m") == "forbidden"
        elif action == "K":
            p.process.stdin.write("m")
            p.process.stdin.flush()
            assert p.process.wait(10) == -signal.SIGSYS


def test_a_sandbox_that_cannot_be_suspended_is_named_and_the_process_lives(program, patch):
    """CAP_SYS_ADMIN is what the kernel wants for it."""
    with program.start() as p:
        p.ask("K")
        before = p.snapshot()
        done = run("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin",
                   harness.program("care-patch"), "apply", patch, "--pid", p.pid, "--timeout", "1")
        assert done.status == REFUSED and "seccomp" in done.err, done
        assert p.snapshot() == before
        assert p.ask() == "1 trapped 0"


# ---- signals

@pytest.mark.parametrize("how", "hib", ids=["handled", "ignored", "blocked"])
def test_a_process_that_uses_sigtrap_itself_never_sees_one_of_ours(program, patch, how):
    with program.start() as p:
        p.ask(how)
        for _ in range(5):
            cycle(p, patch)
        with open(f"/proc/{p.pid}/status") as status:
            assert re.search(r"^ShdPnd:\t0+$", status.read(), re.M)
        assert p.ask("t" if how == "h" else "a").endswith("1" if how == "h" else "0")


# ---- executable memory

@pytest.mark.parametrize("noexec", [1, 2])
def test_where_memfds_may_not_be_executable_anonymous_memory_serves(program, patch, noexec):
    """vm.memfd_noexec belongs to the pid namespace: one of its own for the process. 1 is only the
    default of who does not say what he wants."""
    wrapper = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c",
         f"echo {noexec} > /proc/sys/vm/memfd_noexec || exit 7; exec {program.binary}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        preexec_fn=die_with_parent)
    try:
        if wrapper.stdout.readline() != "ready\n":
            pytest.skip("vm.memfd_noexec cannot be set here")
        p = Running.__new__(Running)
        p.program, p.process = program, wrapper
        with open(f"/proc/{wrapper.pid}/task/{wrapper.pid}/children") as children:
            p.pid = int(children.read())
        before = p.snapshot()
        done = p.apply(patch)
        assert ("anonymous memory instead of a memfd" in (done["note"] or "")) == (noexec == 2)
        assert p.ask() == "2 trapped 0"
        assert bool(p.ours()) == (noexec == 1) and p.info()[0]["name"] == "value"
        assert not [x for x in p.maps().splitlines() if re.match(r"\S+ .wx", x)]
        p.revert("value")
        assert p.ask() == "1 trapped 0"
        assert p.snapshot() == before
    finally:
        wrapper.kill()
        wrapper.wait()


def test_a_process_under_apparmor_is_patched(program, patch, tmp_path):
    try:
        with open("/sys/module/apparmor/parameters/enabled") as enabled:
            there = enabled.read().startswith("Y")
    except FileNotFoundError:
        there = False
    if not there or run("which", "apparmor_parser").status != 0:
        pytest.skip("this kernel has no AppArmor")
    profile = tmp_path / "profile"
    profile.write_text(f"profile care_test {program.binary} {{\n  file,\n  deny /tmp/** w,\n"
                       "  signal (receive),\n  ptrace (readby, tracedby),\n}\n")
    assert run("apparmor_parser", "-r", profile).status == 0
    try:
        with program.start() as p:
            with open(f"/proc/{p.pid}/attr/current") as attribute:
                assert "care_test" in attribute.read()
            cycle(p, patch)
    finally:
        run("apparmor_parser", "-R", profile)


# ---- tracing

def file_offset(binary, function):
    """Of a function's code in the file, for uprobes."""
    value = next(int(line.split()[0], 16) for line in run("nm", binary).out.splitlines()
                 if line.endswith(f" {function}"))
    for line in run("readelf", "-lW", binary).out.splitlines():
        fields = line.split()
        if fields[:1] == ["LOAD"] and "E" in fields[6:-1]:
            offset, start, size = (int(fields[i], 16) for i in (1, 2, 4))
            if start <= value < start + size:
                return value - start + offset
    raise AssertionError(f"{function} is in no executable segment")


def order(path, text):
    """One write, at no position: these files are no files."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


@contextlib.contextmanager
def uprobe(binary, function, folder):
    """On the entry of a function, for as long as the context lasts."""
    trace = f"{folder}/tracefs"
    name = f"care_{os.getpid()}_{function}"
    os.makedirs(trace, exist_ok=True)
    if run("mount", "-t", "tracefs", "tracefs", trace).status != 0 or \
            not os.path.exists(f"{trace}/uprobe_events"):
        pytest.skip("this kernel has no uprobes")
    try:
        order(f"{trace}/uprobe_events",
              f"p:{name}/entry {binary}:{file_offset(binary, function):#x}\n")
        try:
            order(f"{trace}/events/{name}/enable", "1")
            yield
        finally:
            order(f"{trace}/events/{name}/enable", "0")
            order(f"{trace}/uprobe_events", f"-:{name}/entry\n")
    finally:
        run("umount", trace)


def test_with_tracing_a_uprobe_on_the_entry_is_refused_and_named(program, patch, tmp_path):
    with program.start() as p:
        p.ask()
        with uprobe(program.binary, "value", tmp_path):
            before = p.snapshot()
            message = refusal(p.apply(patch, expect=REFUSED))
            assert "uprobe" in message and "value" in message
            assert p.snapshot() == before
            assert p.ask() == "1 trapped 0"
        cycle(p, patch)


def test_with_tracing_a_uprobe_on_another_function_is_no_hindrance(program, patch, tmp_path):
    with program.start() as p:
        p.ask()
        with uprobe(program.binary, "say", tmp_path):
            p.ask()
            cycle(p, patch)
        cycle(p, patch)


def test_with_tracing_a_profiler_samples_on_during_switches(program, patch, tmp_path):
    with program.start() as p:
        p.ask()
        perf = subprocess.Popen(["perf", "record", "-q", "-e", "cpu-clock", "-F", "999", "-g",
                                 "-o", f"{tmp_path}/perf.data", "-p", str(p.pid)],
                                stderr=subprocess.PIPE, preexec_fn=die_with_parent)
        try:
            wait_until(lambda: os.path.exists(f"{tmp_path}/perf.data"), 20, "perf")
            for _ in range(5):
                cycle(p, patch)
        finally:
            perf.send_signal(signal.SIGINT)
            perf.wait(60)
        assert p.ask() == "1 trapped 0"


def test_with_tracing_a_debugger_of_another_process_is_no_hindrance(program, patch):
    """The same program, so the same files; a breakpoint in it changes only that process."""
    with program.start() as p, program.start() as other:
        gdb = subprocess.Popen(["gdb", "-nx", "-q", "-p", str(other.pid), "-ex", "break value",
                                "-ex", "continue"], stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               preexec_fn=die_with_parent)
        try:
            wait_until(lambda: f"TracerPid:\t{gdb.pid}\n" in
                       open(f"/proc/{other.pid}/status").read(), 60, "gdb attaches")
            for _ in range(3):
                cycle(p, patch)
        finally:
            gdb.kill()
            gdb.wait()

# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to the target while the patcher is at work on it: it dies, forks, execs, is stopped
and continued, gains and loses threads, after each of the patcher's system calls. The patcher is
stopped there from outside (tests/lib/at_syscall.c), the event takes place, the patcher goes on."""
import contextlib
import json
import os
import random
import select
import signal
import subprocess
import time

import pytest

from harness import LONG, care, program, wait_until
from programs import Program
from test_engine_kill import CHANGES, SOURCE

SAY = r"""
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>
static volatile int enough;
static void *check_for_a_while(void *arg)
{
	while (!enough) {
		if (!pair())
			mixed++;
		usleep(500);
	}
	return arg;
}
static void be_a_child(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		if (!pair())
			_exit(1);
		usleep(500);
	}
}
void say(char question)
{
	static pthread_t more[8];
	pid_t pid;

	switch (question) {
	case 'f':
		pid = fork();
		if (pid == 0)
			be_a_child();
		printf("forked %d\n", pid);
		return;
	case 'e':
		execl("/proc/self/exe", "prog", NULL);
		return;
	case 't':
		enough = 0;
		for (int i = 0; i < 8; i++)
			pthread_create(&more[i], NULL, check_for_a_while, NULL);
		puts("more");
		return;
	case 'l':
		enough = 1;
		for (int i = 0; i < 8; i++)
			pthread_join(more[i], NULL);
		puts("less");
		return;
	default:
		printf("%ld pairs, %d mixed\n", (long)pairs, mixed);
	}
}
"""
NOT_REACHED = 77
DONE, ERROR, NO_TARGET, NOT_NOW, REFUSED = 0, 1, 3, 4, 5
STRIDE = 1 if LONG else 24


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    source = SOURCE[:SOURCE.index("void say(")] + SAY
    return Program(tmp_path_factory.mktemp("events"), source,
                   ("-O2", "-fPIE", "-ffunction-sections"))


@pytest.fixture(scope="module")
def patch(made):
    return made.patch("contract", CHANGES)


class Stopped:
    """care-patch, stopped after its n-th call until go(); reached is False when it ended before."""

    def __init__(self, n, *args):
        report, report_in = os.pipe()
        go_out, self.go_fd = os.pipe()
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3>&{report_in} 4<&{go_out}', "bash", program("at-syscall"),
             "changing", str(n), "stop", program("care-patch"), *[str(a) for a in args]],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            pass_fds=(report_in, go_out))
        os.close(report_in)
        os.close(go_out)
        ready, _, _ = select.select([report], [], [], 60)
        assert ready, "neither reached nor ended"
        self.at = os.read(report, 100).decode().strip()
        self.reached = bool(self.at)
        os.close(report)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Killed when it was not let go: a target cannot end while its tracer stands."""
        if self.process.poll() is None:
            self.process.kill()
            self.end()

    def patcher(self):
        """Its pid: the child of at-syscall."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as children:
            return int(children.read().split()[0])

    def go(self):
        """Lets it go on, to its end: exit status and all it said. It must not hang."""
        os.write(self.go_fd, b"\n")
        return self.end()

    def end(self):
        out, err = self.process.communicate(timeout=90)
        os.close(self.go_fd)
        return self.process.returncode, out + err


def ask_patiently(p, question):
    """Asks; answered now, or when the patcher lets the thread go: a function that gives the
    answer."""
    p.process.stdin.write(question)
    p.process.stdin.flush()
    ready, _, _ = select.select([p.process.stdout], [], [], 0.2)
    if ready:
        answer = p.line()
        return lambda: answer
    return lambda: p.line(60)


def states(pid):
    return [x["state"] for x in
            care("care-patch", "info", "--pid", pid, "--json").json["patches"]]


def check_alive_and_whole(p):
    """It answers, never saw a mix, can be recovered, and then is patched or not."""
    assert p.ask().endswith(" 0 mixed")
    care("care-patch", "recover", "--pid", p.pid, expect=(0, 2))
    assert set(states(p.pid)) <= {"applied", "settling", "reverted"}
    assert p.ask().endswith(" 0 mixed")


# ---- the events: each acts while the patcher is stopped, and gives what checks it afterwards

def dies(p):
    p.process.kill()

    def check(status, text):
        assert p.process.wait(10) == -signal.SIGKILL
        assert status in (DONE, ERROR, NO_TARGET), text
        assert status == DONE or str(p.pid) in text, text
    return check


def forks(p):
    answer = ask_patiently(p, "f")

    def check(status, text):
        assert status in (DONE, NOT_NOW), text
        child = int(answer().split()[1])
        time.sleep(0.02)
        with open(f"/proc/{child}/stat") as stat:
            assert stat.read().rsplit(")", 1)[1].split()[0] in "RS"
        before = states(p.pid)
        patches = care("care-patch", "info", "--pid", child, "--json").json["patches"]
        assert all(x["inherited"] for x in patches)
        care("care-patch", "recover", "--pid", child, expect=(0, 2))
        if any(s in ("applied", "settling") for s in states(child)):
            care("care-patch", "revert", "contract", "--pid", child)
        assert not set(states(child)) - {"reverted"}
        assert states(p.pid) == before
        check_alive_and_whole(p)
        assert os.path.exists(f"/proc/{child}/maps"), "the child saw a mix"
        os.kill(child, signal.SIGKILL)
    return check


def execs(p):
    answer = ask_patiently(p, "e")

    def check(status, text):
        assert status in (DONE, ERROR, NO_TARGET, NOT_NOW), text
        assert answer() == "ready"
        assert status == DONE or str(p.pid) in text, text
        assert p.ask().endswith(" 0 mixed")
        check_code_is_the_files(p)
        assert not p.ours() or status == DONE
    return check


def check_code_is_the_files(p):
    for line in p.maps().splitlines():
        fields = line.split()
        if "x" not in fields[1] or fields[-1] != p.program.binary:
            continue
        start, end = (int(x, 16) for x in fields[0].split("-"))
        with open(f"/proc/{p.pid}/mem", "rb", 0) as memory, open(p.program.binary, "rb") as file:
            memory.seek(start)
            file.seek(int(fields[2], 16))
            code = file.read(end - start)
            assert memory.read(end - start)[:len(code)] == code


def task_states(pid):
    found = set()
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/stat") as stat:
            found.add(stat.read().rsplit(")", 1)[1].split()[0])
    return found


def stops(p):
    os.kill(p.pid, signal.SIGSTOP)
    seen = wait_stopped(p, 0.2)

    def check(status, text):
        assert status in (DONE, NOT_NOW), text
        assert status == DONE or (str(p.pid) in text and "stop" in text), text
        wait_until(lambda: task_states(p.pid) == {"T"}, 10, "the target stands stopped")
        # Its parent is told once.
        assert seen or wait_stopped(p, 5)
        assert not wait_stopped(p, 0.05)
        os.kill(p.pid, signal.SIGCONT)
        check_alive_and_whole(p)
    return check


def wait_stopped(p, seconds):
    end = time.monotonic() + seconds
    while True:
        if os.waitid(os.P_PID, p.pid, os.WSTOPPED | os.WNOHANG):
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.005)


def is_stopped_and_continued(p):
    os.kill(p.pid, signal.SIGSTOP)
    time.sleep(0.01)
    os.kill(p.pid, signal.SIGCONT)

    def check(status, text):
        assert status in (DONE, NOT_NOW), text
        check_alive_and_whole(p)
        assert not task_states(p.pid) & {"T", "t"}
    return check


def gains_threads(p):
    answer = ask_patiently(p, "t")

    def check(status, text):
        assert status == DONE, text
        assert answer() == "more"
        assert p.ask("l") == "less"
        check_alive_and_whole(p)
    return check


def loses_threads(p):
    answer = ask_patiently(p, "l")

    def check(status, text):
        assert status == DONE, text
        assert answer() == "less"
        check_alive_and_whole(p)
    return check


@contextlib.contextmanager
def target(made, patch, verb, event):
    with made.start() as p:
        p.ask()
        if event is loses_threads:
            assert p.ask("t") == "more"
        if verb == "revert":
            care("care-patch", "apply", patch, "--pid", p.pid)
        yield p


@pytest.mark.parametrize("verb", ["apply", "revert"])
@pytest.mark.parametrize("event", [dies, forks, execs, stops, is_stopped_and_continued,
                                   gains_threads, loses_threads])
def test_the_target(made, patch, verb, event):
    """... at any step of an apply or revert: right outcome, clear report."""
    n, reached, first = random.randint(1, STRIDE), 0, True
    while True:
        with target(made, patch, verb, event) as p:
            what = ["apply", patch] if verb == "apply" else ["revert", "contract"]
            with Stopped(n, *what, "--pid", p.pid, "--timeout", "2") as stopped:
                if not stopped.reached:
                    break
                check = event(p)
                try:
                    check(*stopped.go())
                except BaseException as error:
                    raise AssertionError(f"after call {n} ({stopped.at})") from error
        reached += 1
        n += STRIDE
    assert reached >= 1

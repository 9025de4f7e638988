# SPDX-License-Identifier: GPL-2.0-or-later
"""Two patchers at once, a patcher without what it needs, signals, output that cannot be written:
never both, the target untouched, a clear error."""
import os
import resource
import shutil
import signal
import subprocess
import tempfile

import pytest

from harness import care, program, run
from programs import Program
from test_engine_events import NOT_REACHED, Stopped, made, patch  # noqa: F401 - fixtures

NOT_NOW = 4


def pidfds_have_inodes():
    """Linux 6.9 and later; before, a patcher with another /run is not met."""
    return len({os.fstat(os.pidfd_open(pid)).st_ino for pid in (os.getpid(), os.getppid())}) == 2


LOCKS = 2 if pidfds_have_inodes() else 1


def at_work(*args):
    """care-patch, stopped when it has its locks and has not begun yet."""
    for n in range(1, 200):
        stopped = Stopped(n, *args)
        assert stopped.reached, "it never has its locks"
        with open("/proc/locks") as locks:
            if locks.read().count(f"WRITE {stopped.patcher()} ") == LOCKS:
                return stopped
        stopped.__exit__()
    raise AssertionError("it never has its locks")


def refused(p, patch, *before, holder):  # noqa: F811
    """Another apply is refused, names the holder, and changes nothing."""
    maps, code = p.maps(), p.code()
    result = run(*before, program("care-patch"), "apply", patch, "--pid", p.pid)
    assert result.status == NOT_NOW, result
    assert f"another patcher (process {holder}) is at work" in result.text, result
    assert (p.maps(), p.code()) == (maps, code)


@pytest.mark.parametrize("other_run", [False, True] if LOCKS == 2 else [False])
def test_a_second_patcher_is_refused_with_the_pid_of_the_first(made, patch, other_run):  # noqa: F811
    """Also when it has another /run, as in a container."""
    before = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")
    with made.start() as p:
        p.ask()
        with at_work("apply", patch, "--pid", p.pid) as first:
            refused(p, patch, *(before if other_run else ()), holder=first.patcher())
            # It is seen at work, and not taken for a dead one.
            assert "interrupted" not in care("care-patch", "info", "--pid", p.pid).text
            status, text = first.go()
        assert status == 0, text
        assert p.ask().endswith(" 0 mixed")
        assert [x["name"] for x in p.info()] == ["contract"]


def test_the_lock_of_a_killed_patcher_holds_nobody_up(made, patch):  # noqa: F811
    with made.start() as p:
        p.ask()
        with at_work("apply", patch, "--pid", p.pid) as first:
            os.kill(first.patcher(), signal.SIGKILL)
        done = p.apply(patch)
        assert done["action"] == "applied"
        assert p.ask().endswith(" 0 mixed")


def test_what_was_left_is_told_by_looks_and_by_the_next_apply(made, patch):  # noqa: F811
    with made.start() as p:
        p.ask()
        found = ""
        for n in range(30, 120, 6):
            with Stopped(n, "apply", patch, "--pid", p.pid) as stopped:
                if not stopped.reached:
                    break
                # A patcher at work is no dead one.
                info = care("care-patch", "info", "--pid", p.pid).text
                assert "interrupted" not in info
                if "note:" in info:
                    assert f"process {stopped.patcher()} is at work" in info
            told = care("care-patch", "info", "--pid", p.pid).text
            if "note: a run was interrupted" in told:
                found += told
                said = care("care-patch", "check", patch, "--pid", p.pid, expect=None).text
                assert "note: a run was interrupted" in said
                told = care("care-patch", "apply", patch, "--pid", p.pid).text
                assert "by somebody who died" in told or "was not staged" in told, told
            if p.info():
                p.revert("contract")
            p.released()
        assert "`care-patch recover --pid" in found and "contract: an apply was interrupted" in found


# ---- a patcher that lacks something

def without(setup, p, patch):  # noqa: F811
    """An apply after @setup in the patcher; the target must be as before when it fails."""
    before = p.snapshot()
    done = subprocess.run([program("care-patch"), "apply", patch, "--pid", str(p.pid)],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          preexec_fn=setup)
    text = done.stdout + done.stderr
    if done.returncode == 0:
        p.revert("contract")
    p.released()
    assert p.snapshot() == before, text
    assert p.ask().endswith(" 0 mixed")
    return done.returncode, text


def limit(what, value):
    return lambda: resource.setrlimit(what, (value, value))


def test_limits_of_the_patcher_do_no_harm(made, patch):  # noqa: F811
    """It fails with a reason, or manages without."""
    with made.start() as p:
        p.apply(patch), p.revert("contract"), p.released()
        for what, value in ((resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_FSIZE, 100),
                            *((resource.RLIMIT_NOFILE, n) for n in range(4, 14)),
                            *((resource.RLIMIT_AS, n << 20) for n in (5, 10, 20, 40)),
                            (resource.RLIMIT_MEMLOCK, 0), (resource.RLIMIT_CORE, 0)):
            status, text = without(limit(what, value), p, patch)
            # 127: the loader itself could not start it.
            assert status in (0, 1, 4, 127), (what, value, status, text)
            assert status == 0 or text.strip(), (what, value)


def test_without_the_right_to_trace_it_says_so(made, patch):  # noqa: F811
    with made.start() as p, tempfile.TemporaryDirectory() as folder:
        p.ask()
        before = p.snapshot()
        shutil.copy(patch, folder)
        os.chmod(folder, 0o755)
        patch = os.path.join(folder, os.path.basename(patch))
        for drop in (["setpriv", "--reuid", "65534", "--clear-groups"],
                     ["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-all",
                      "--reuid", "65534", "--clear-groups"]):
            result = run(*drop, program("care-patch"), "apply", patch, "--pid", p.pid)
            assert result.status != 0 and str(p.pid) in result.text, result
            assert p.snapshot() == before


@pytest.mark.parametrize("options", ["ro", "size=4k"], ids=["read_only", "full"])
def test_a_run_folder_that_cannot_be_written(made, patch, options):  # noqa: F811
    fill = "head -c 100000 /dev/zero > /run/full 2> /dev/null;"
    script = (f"mount -t tmpfs -o {options} none /run && " +
              (fill if options != "ro" else "") + ' exec "$@"')
    with made.start() as p:
        p.ask()
        before = p.snapshot()
        result = run("unshare", "-m", "sh", "-c", script, "sh", program("care-patch"), "apply",
                     patch, "--pid", p.pid)
        if result.status == 0:
            p.revert("contract")
            p.released()
        else:
            assert result.status == 1 and "/run/dbcare" in result.text, result
        assert p.snapshot() == before


# ---- its output

@pytest.mark.parametrize("where", ["/dev/full", "closed", "broken pipe"])
def test_output_that_cannot_be_written_is_an_error_and_what_is_done_stays(made, patch, where):  # noqa: F811
    with made.start() as p:
        p.ask()
        shell = {"/dev/full": '"$@" > /dev/full', "closed": '"$@" >&-',
                 "broken pipe": 'set -o pipefail; "$@" | exec true'}[where]
        result = run("bash", "-c", shell, "bash", program("care-patch"), "apply", patch, "--pid",
                     p.pid)
        assert result.status == 1 and "cannot write to standard output" in result.text, result
        assert [x["name"] for x in p.info()] == ["contract"]
        assert p.ask().endswith(" 0 mixed")
        p.revert("contract")


# ---- signals

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_patcher_at_any_step_harms_nobody(made, patch, number):  # noqa: F811
    """Whether it ends there, is finished or taken back: what is left can be recovered."""
    with made.start() as p:
        p.apply(patch), p.revert("contract"), p.released()
        before, n, reached = p.snapshot(), 7, 0
        while True:
            done = subprocess.run([program("at-syscall"), "changing", str(n), f"signal:{number}",
                                   program("care-patch"), "apply", patch, "--pid", str(p.pid)],
                                  stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
            assert p.ask().endswith(" 0 mixed")
            care("care-patch", "recover", "--pid", p.pid, expect=(0, 2))
            if p.info():
                p.revert("contract")
            p.released()
            assert p.snapshot() == before
            if done.returncode == NOT_REACHED:
                break
            reached += 1
            n += 9
        assert reached >= 4

# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's own MariaDB regression tests, run beside a patcher that leaves no server of theirs alone.

The packages are unpacked, never installed: their files beside a hard-linked copy of the target's.
"""
import os
import random
import re
import shutil
import subprocess
import tempfile
import threading
import time

import harness
from harness import CACHE, die_with_parent, program, run

PACKAGES = ("mariadb-test", "mariadb-test-data")
RESULT = re.compile(r"^(\w[\w.-]*\.[\w.-]+)(?: '([^']*)')?\s+(?:w\d+ )?\[ (\w+(?:-\w+)?) \]", re.M)
EVERY = 0.1  # seconds from one switch of a server to the next


def _apt(*args, cwd):
    own = os.path.join(CACHE, "apt")
    options = [f"-oDir::Etc::sourcelist={own}/sources.list",
               "-oDir::Etc::sourceparts=/nonexistent", f"-oDir::State::lists={own}/lists",
               "-oDir::Cache::pkgcache=", "-oDir::Cache::srcpkgcache=",
               "-oAPT::Sandbox::User=root"]
    return run("apt-get", *options, *args, cwd=cwd)


def _write_sources():
    """As tests/lib/setup.sh does when packages are missing."""
    own = os.path.join(CACHE, "apt")
    os.makedirs(os.path.join(own, "lists", "partial"), exist_ok=True)
    key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    with open(os.path.join(own, "sources.list"), "w") as out:
        for kind in ("deb", "deb-src"):
            for place in ("debian bookworm", "debian bookworm-updates",
                          "debian-security bookworm-security"):
                out.write(f"{kind} {key} http://deb.debian.org/{place} main\n")


def unpacked(target):
    """The folder of mariadb-test-run.pl; downloaded and unpacked at the first time."""
    version = target.version.split(":")[-1]
    tree = os.path.join(CACHE, f"regression-{version}")
    if not os.path.isdir(tree):
        partial = tree + ".partial"
        shutil.rmtree(partial, True)
        with tempfile.TemporaryDirectory(prefix="dbcare-debs-") as folder:
            wanted = [f"{package}={target.version}" for package in PACKAGES]
            if _apt("download", *wanted, cwd=folder).status != 0:
                _write_sources()
                _apt("update", cwd=folder)
                done = _apt("download", *wanted, cwd=folder)
                assert done.status == 0, done
            done = run("cp", "-al", target.root, partial)
            assert done.status == 0, done
            for name in os.listdir(folder):
                done = run("dpkg-deb", "-x", os.path.join(folder, name), partial)
                assert done.status == 0, done
        os.rename(partial, tree)
    return os.path.join(tree, "usr/share/mysql/mysql-test")


class Run:
    """One run of mariadb-test-run.pl: .results maps tests to "pass", "fail", "skipped"."""

    def __init__(self, target, tests, patches=(), minutes=None):
        """@tests: names or options; @patches: {name: file}; @minutes: then no test is begun."""
        self.folder = unpacked(target)
        base = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.var = tempfile.mkdtemp(prefix="dbc-mtr-", dir=base)
        self.patcher = Patcher(self.var, dict(patches)) if patches else None
        args = ["perl", "mariadb-test-run.pl", f"--vardir={self.var}/var",
                f"--tmpdir={self.var}/tmp", "--mysqld=--user=root", "--force", "--retry=0",
                "--max-test-fail=0", "--parallel=2", *tests]
        if minutes:
            args.append(f"--suite-timeout={minutes}")
        try:
            self._run(args)
        finally:
            if self.patcher:
                self.patcher.stop()
            shutil.rmtree(self.var, True)

    def _run(self, args):
        with tempfile.TemporaryFile("w+", errors="replace") as out:
            begin = time.monotonic()
            # A session of its own: mtr kills its process group when it ends.
            process = subprocess.Popen(args, cwd=self.folder, stdin=subprocess.DEVNULL,
                                       stdout=out, stderr=subprocess.STDOUT,
                                       start_new_session=True, preexec_fn=die_with_parent)
            if self.patcher:
                self.patcher.start()
            self.status = process.wait(7200)
            self.seconds = time.monotonic() - begin
            out.seek(0)
            self.text = out.read()
        self.results = {}
        for name, combination, result in RESULT.findall(self.text):
            key = f"{name} '{combination}'" if combination else name
            # Of several lines (a retry, a warning found later) the worse counts.
            if self.results.get(key) != "fail":
                self.results[key] = result

    def passed(self):
        return {name for name, result in self.results.items() if result == "pass"}


class Patcher:
    """Applies or reverts each patch on each server below a folder again and again."""

    def __init__(self, folder, patches):
        self.folder, self.patches = folder, patches
        self.counts = {"applied": 0, "reverted": 0, "busy": 0, "gone": 0, "servers": 0}
        self.pauses, self.unexpected = [], []
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = {}

    def start(self):
        self._watch = threading.Thread(target=self._look)
        self._watch.start()

    def stop(self):
        self._stopping.set()
        self._watch.join()
        for thread in self._threads.values():
            thread.join()

    def _servers(self):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if not os.readlink(f"/proc/{pid}/exe").endswith("/usr/sbin/mariadbd"):
                    continue
                with open(f"/proc/{pid}/cmdline", errors="replace") as text, \
                        open(f"/proc/{pid}/maps", errors="replace") as maps:
                    # One that is still being loaded has no unwinder yet, and is refused.
                    if self.folder in text.read() and "libgcc_s" in maps.read():
                        yield int(pid)
            except OSError:
                continue

    def _look(self):
        while not self._stopping.wait(0.05):
            for pid in self._servers():
                if pid not in self._threads or not self._threads[pid].is_alive():
                    self._threads[pid] = threading.Thread(target=self._cycle, args=(pid,))
                    self._threads[pid].start()
                    self.counts["servers"] += 1

    def _cycle(self, pid):
        applied = set()
        while not self._stopping.is_set():
            begin = time.monotonic()
            name = random.choice(list(self.patches))
            if name in applied:
                done = run(program("care-patch"), "revert", name, "--pid", pid, "--timeout", "1",
                           "--json")
            else:
                done = run(program("care-patch"), "apply", self.patches[name], "--pid", pid,
                           "--timeout", "1", "--json")
            if not self._count(pid, name, applied, done):
                return
            self._stopping.wait(max(0, EVERY - (time.monotonic() - begin)))

    def _count(self, pid, name, applied, done):
        """False when the server is gone."""
        with self._lock:
            if done.status == 0:
                self.counts["reverted" if name in applied else "applied"] += 1
                self.pauses.append(done.json["pause_us"] / 1000)
                applied ^= {name}
            elif done.status == 4:
                self.counts["busy"] += 1
            elif done.status == 3 or not os.path.exists(f"/proc/{pid}/exe") or _dying(pid):
                self.counts["gone"] += 1
                return False
            else:
                self.unexpected.append(repr(done))
                return False
        return True


def _dying(pid):
    """A server that ends: given a moment it is gone, or a zombie."""
    for _ in range(100):
        try:
            os.readlink(f"/proc/{pid}/exe")
        except OSError:
            return True
        time.sleep(0.05)
    return False


def neutral_patches(target):
    """{name: file} of patches that change code and no behaviour: a nop in functions that nearly
    every statement runs. One whose functions change one by one, one whose change at one moment."""
    folder = os.path.join(harness.TOP, "tests", "lib")
    return {"neutral-hot": target.patch(os.path.join(folder, "neutral_hot.diff"), "neutral-hot",
                                        "--independent"),
            "neutral-set": target.patch(os.path.join(folder, "neutral_set.diff"), "neutral-set")}

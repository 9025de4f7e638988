# SPDX-License-Identifier: GPL-2.0-or-later
"""What demo, tests and benches share: our programs, the target, a server of its own, its load.

Nothing here touches a MariaDB that the host may have: servers run from the unpacked packages of the
build target, with their own data directory, and die with the process that started them.
"""
import atexit
import ctypes
import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

import pymysql

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("DBCARE_TESTS_BUILD", os.path.join(TOP, "build"))
CACHE = os.environ.get("DBCARE_TESTS_CACHE", "/var/cache/dbcare-tests")
LONG = bool(os.environ.get("DBCARE_TESTS_LONG"))
os.environ.setdefault("CARE_BUILD_CACHE", os.path.join(CACHE, "build"))
NOT_NOW = 4  # exit status

USER = "tests"
SYSBENCH_TABLES = 8
SYSBENCH_ROWS = 25000
# A state directory of our own: the host's history is not ours to write.
STATE = tempfile.mkdtemp(prefix="dbcare-state-")
os.environ.setdefault("DBCARE_STATE_DIR", STATE)
atexit.register(shutil.rmtree, STATE, True)


def versions():
    """The pinned versions of tests/versions."""
    with open(os.path.join(TOP, "tests", "versions")) as lines:
        return dict(line.strip().split("=", 1) for line in lines if re.match(r"\w+=", line))


# ---- our programs ----

_programs = {}


def program(name):
    """Path of one of our programs in the build tree."""
    if name not in _programs:
        for folder, folders, files in os.walk(BUILD):
            folders[:] = [f for f in folders if not f.endswith(".p")]
            if name in files:
                _programs[name] = os.path.join(folder, name)
                break
        else:
            raise FileNotFoundError(f"{name} is not built under {BUILD}")
    return _programs[name]


class Result:
    """A finished command: status, both outputs, and its JSON where it printed some."""

    def __init__(self, args, status, out, err):
        self.args, self.status, self.out, self.err = args, status, out, err

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def text(self):
        return self.out + self.err

    def __repr__(self):
        return f"{' '.join(self.args)}: exit {self.status}\n{self.text}"


def run(*args, timeout=600, env=None, **kwargs):
    args = [str(a) for a in args]
    done = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", timeout=timeout,
                          env=dict(os.environ, **(env or {})), **kwargs)
    return Result(args, done.returncode, done.stdout, done.stderr)


def care(name, *args, expect=0, **kwargs):
    """Runs one of our programs; @expect is its exit status, several, or None for any."""
    result = run(program(name), *args, **kwargs)
    wanted = expect if isinstance(expect, (tuple, list)) else (expect,)
    if expect is not None and result.status not in wanted:
        raise AssertionError(f"expected exit {expect}: {result!r}")
    return result


# ---- the build target ----

class Target:
    """Debian's MariaDB as care-build prepared it: source, flags, the shipped binary. Or another
    source package of which care-build has a recipe."""

    def __init__(self, version, progress=False, suite=None, source="mariadb"):
        self.version, self.source = version, source
        args = ["target", "add", source, "--debian", version]
        args += ["--suite", suite] if suite else []
        status = NOT_NOW
        while self._find() is None and status == NOT_NOW:
            status = self._add(args, progress)
        found = self._find()
        assert found, f"care-build target list does not show {version}"
        self.name, self.build_id = found["name"], found["build_id"]
        self.folder = os.path.join(os.environ["CARE_BUILD_CACHE"], self.name)
        self.root = os.path.join(self.folder, "root")
        if not os.path.exists(found["binary"]):
            raise AssertionError(f"there is no {found['binary']}")

    @staticmethod
    def _add(args, progress):
        """Another run may be preparing the same: then comes back after a while."""
        if progress:
            status = subprocess.run([program("care-build"), *args],
                                    stdin=subprocess.DEVNULL).returncode
        else:
            status = care("care-build", *args, timeout=3600, expect=(0, NOT_NOW)).status
        assert status in (0, NOT_NOW), (args, status)
        if status == NOT_NOW:
            time.sleep(5)
        return status

    def _find(self):
        for target in care("care-build", "target", "list", "--json").json["targets"]:
            if target["provider"] == self.source and self.version.endswith(target["version"]):
                return target
        return None

    def patch(self, diffs, name, *options, expect=0, progress=False):
        """Builds a patch; the same inputs and the same builder give the file made before. With
        @progress the builder writes to our own output."""
        diffs = [diffs] if isinstance(diffs, str) else diffs
        key = hashlib.sha256()
        for path in [program("care-build"), *diffs]:
            with open(path, "rb") as file:
                key.update(hashlib.sha256(file.read()).digest())
        key.update(repr((self.build_id, name, options)).encode())
        folder = os.path.join(CACHE, "patches")
        os.makedirs(folder, exist_ok=True)
        out = os.path.join(folder, f"{name}-{key.hexdigest()[:16]}.cpatch")
        if not os.path.exists(out) or expect != 0:
            args = ["patch", "--target", self.name, "--name", name]
            args += [a for diff in diffs for a in ("--diff", diff)] + [*options, "-o", out]
            if progress:
                subprocess.run([program("care-build"), *args], check=True,
                               stdin=subprocess.DEVNULL)
                return out
            result = care("care-build", *args, expect=expect, timeout=1200)
            if expect != 0:
                return result
        return out


def unpacked(package, version):
    """Folder with what is in one of Debian's packages; fetched once, never installed."""
    folder = os.path.join(CACHE, f"package-{package}-{version.split(':')[-1]}")
    if not os.path.isdir(folder):
        apt = ["apt-get", f"-oDir::Etc::sourcelist={CACHE}/apt/sources.list",
               "-oDir::Etc::sourceparts=/nonexistent", f"-oDir::State::lists={CACHE}/apt/lists",
               "-oAPT::Sandbox::User=root", "-oDir::Cache::pkgcache=",
               "-oDir::Cache::srcpkgcache="]
        with tempfile.TemporaryDirectory() as room:
            for verb in (["update"], ["download", f"{package}={version}"]):
                done = run(*apt, *verb, cwd=room)
                if done.status != 0:
                    raise AssertionError(f"cannot fetch {package}: {done!r}")
            partial = folder + ".partial"
            shutil.rmtree(partial, True)
            done = run("dpkg-deb", "-x", os.path.join(room, os.listdir(room)[0]), partial)
            if done.status != 0:
                raise AssertionError(f"cannot unpack {package}: {done!r}")
        os.rename(partial, folder)
    return folder


# ---- a server ----

_libc = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def die_with_parent():
    """In a child: the kernel kills it when we die, however we die."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds} s")


class Server:
    """A mariadbd of its own. The data directory is a copy of a template with sysbench's tables."""

    OPTIONS = ["--no-defaults", "--skip-networking", "--skip-name-resolve", "--user=root",
               "--innodb-buffer-pool-size=96M", "--innodb-log-file-size=48M",
               "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=fsync",
               "--innodb-fast-shutdown=1", "--max-connections=1200", "--table-open-cache=3000",
               "--open-files-limit=8192", "--skip-log-bin"]

    def __init__(self, root, options=(), template=True):
        self.root, self.options = root, list(options)
        # Short: a socket's path has at most 107 bytes.
        self.folder = tempfile.mkdtemp(prefix="dbc-", dir="/tmp")
        self.datadir = os.path.join(self.folder, "data")
        self.socket = os.path.join(self.folder, "s")
        self.log = os.path.join(self.folder, "error.log")
        self.binary = os.path.join(root, "usr/sbin/mariadbd")
        self.process = None
        self._symbols = None
        atexit.register(self.remove)
        if template:
            run("cp", "-a", "--reflink=auto", Template(root).folder, self.datadir)

    @property
    def pid(self):
        return self.process.pid

    def command(self):
        usr = os.path.join(self.root, "usr")
        return [self.binary, *self.OPTIONS, f"--basedir={usr}", f"--datadir={self.datadir}",
                f"--socket={self.socket}", f"--log-error={self.log}",
                f"--pid-file={self.folder}/pid", f"--plugin-dir={usr}/lib/mysql/plugin",
                f"--lc-messages-dir={usr}/share/mysql", *self.options]

    def start(self, seconds=60):
        # A session of its own, as a service has: in ours the kernel's autogroups would hold the
        # processor time that our tools use against the server.
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        start_new_session=True, preexec_fn=die_with_parent)
        wait_until(self._answers, seconds, "the server's first answer")
        return self

    def _answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"mariadbd ended with {self.process.returncode}:\n" +
                                 self.error_log()[-4000:])
        try:
            self.sql("SELECT 1")
            return True
        except pymysql.err.MySQLError:
            return False

    def stop(self, seconds=60):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        self.process = None

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def restart(self):
        """Seconds from the order to stop to the first answered query."""
        begin = time.monotonic()
        self.stop()
        self.start()
        return time.monotonic() - begin

    def remove(self):
        self.kill()
        shutil.rmtree(self.folder, True)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def error_log(self):
        try:
            with open(self.log, errors="replace") as log:
                return log.read()
        except FileNotFoundError:
            return ""

    # -- SQL

    def connect(self, **kwargs):
        kwargs = {"database": "test", "user": USER, "autocommit": True, "charset": "utf8mb4",
                  "connect_timeout": 10, "read_timeout": 60, "write_timeout": 60, **kwargs}
        return pymysql.connect(unix_socket=self.socket, **kwargs)

    def sql(self, text, **kwargs):
        """Rows of one statement, on a connection of its own."""
        with self.connect(**kwargs) as connection, connection.cursor() as cursor:
            cursor.execute(text)
            return cursor.fetchall()

    def value(self, text):
        return self.sql(text)[0][0]

    def script(self, text):
        """Output of statements, on one connection, as the mariadb client prints it with -B -N."""
        lines = []
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in text.split(";\n"):
                if not statement.strip():
                    continue
                cursor.execute(statement)
                for row in cursor.fetchall():
                    lines.append("\t".join("NULL" if v is None else str(v) for v in row))
        return "\n".join(lines)

    # -- memory

    def symbol(self, name):
        """Run-time address, from the symbol list that Debian ships."""
        if self._symbols is None:
            path = os.path.join(self.root, "usr/share/doc/mariadb-server/mariadbd.sym.gz")
            with gzip.open(path, "rt") as lines:
                self._symbols = {row[2]: int(row[0], 16)
                                 for row in (line.split() for line in lines) if len(row) == 3}
        return self.image()[0] + self._symbols[name]

    def maps(self):
        with open(f"/proc/{self.pid}/maps") as lines:
            rows = []
            for line in lines:
                fields = line.split(None, 5)
                start, end = (int(x, 16) for x in fields[0].split("-"))
                rows.append((start, end, fields[1], int(fields[2], 16),
                             fields[5].strip() if len(fields) > 5 else ""))
            return rows

    def image(self):
        """(start, end) of the mapped program."""
        rows = [r for r in self.maps() if r[4].split(" (deleted)")[0] == self.binary]
        return rows[0][0], rows[-1][1]

    def read(self, address, size):
        with open(f"/proc/{self.pid}/mem", "rb", 0) as mem:
            mem.seek(address)
            return mem.read(size)

    def read_u32(self, address):
        return struct.unpack("<I", self.read(address, 4))[0]

    def snapshot(self):
        """What a revert must give back: the code of the program and its plugins, and the mappings
        of files and ours."""
        code = hashlib.sha256()
        for start, end, perms, _, path in self.maps():
            if "x" in perms and (path.startswith(self.binary) or "/plugin/" in path):
                code.update(self.read(start, end - start))
        return {"code": code.hexdigest(),
                "maps": [r for r in self.maps() if r[4].startswith("/") and "aio" not in r[4]]}

    def resident_megabytes(self):
        with open(f"/proc/{self.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) // 1024

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))


class Template:
    """A fresh data directory with sysbench's tables, made once for each binary and kept."""

    FORMAT = 2

    def __init__(self, root):
        with open(os.path.join(root, "usr/sbin/mariadbd"), "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()[:12]
        self.folder = os.path.join(CACHE, f"datadir-{digest}-{self.FORMAT}")
        if not os.path.isdir(self.folder):
            self._make(root)

    def _make(self, root):
        usr = os.path.join(root, "usr")
        server = Server(root, template=False)
        done = run(os.path.join(usr, "bin/mariadb-install-db"), "--no-defaults",
                   f"--basedir={usr}", f"--datadir={server.datadir}", "--user=root",
                   "--skip-name-resolve", "--auth-root-authentication-method=socket",
                   "--auth-root-socket-user=root", timeout=300)
        if done.status != 0:
            raise AssertionError(f"mariadb-install-db failed: {done!r}")
        init = os.path.join(server.folder, "init.sql")
        with open(init, "w") as file:
            file.write(f"CREATE DATABASE IF NOT EXISTS test;\n"
                       f"CREATE USER {USER}@localhost;\n"
                       f"GRANT ALL ON *.* TO {USER}@localhost WITH GRANT OPTION;\n")
        server.options = [f"--init-file={init}"]
        server.start()
        Sysbench(server, "oltp_read_write", threads=2).command("prepare")
        # A slow shutdown leaves nothing to recover or purge in the copies.
        server.sql("SET GLOBAL innodb_fast_shutdown=0")
        server.stop(120)
        partial = self.folder + ".partial"
        shutil.rmtree(partial, True)
        shutil.copytree(server.datadir, partial)
        os.rename(partial, self.folder)
        server.remove()


# ---- load ----

class Sysbench:
    """sysbench against a server, as a context: runs until it is left; then its counts are there.

    No error is ignored: a failed query ends it with a message, and leaving the context raises.
    """

    def __init__(self, server, script="oltp_read_write", threads=64, options=()):
        self.server, self.script, self.threads = server, script, threads
        self.stop = os.path.join(server.folder, f"stop-{id(self)}")
        self.args = ["/usr/bin/sysbench", os.path.join(TOP, "tests", "lib", "load.lua"),
                     f"--mysql-socket={server.socket}", f"--mysql-user={USER}",
                     "--mysql-db=test", "--db-driver=mysql", "--mysql-ignore-errors=none",
                     f"--tables={SYSBENCH_TABLES}", f"--table-size={SYSBENCH_ROWS}",
                     "--rand-type=uniform", f"--threads={threads}", "--time=0",
                     "--db-ps-mode=disable", *options]
        self.env = dict(os.environ, LOAD_SCRIPT=script, LOAD_STOP=self.stop)
        self.process = self.output = None
        self.queries = self.errors = self.reconnects = 0
        self.longest_ms = 0.0

    def command(self, verb):
        done = run(*self.args, verb, env=self.env)
        if done.status != 0:
            raise AssertionError(f"sysbench failed: {done!r}")

    def __enter__(self):
        self.output = tempfile.TemporaryFile("w+")
        self.begin = time.monotonic()
        self.process = subprocess.Popen([*self.args, "run"], stdin=subprocess.DEVNULL,
                                        stdout=self.output, stderr=subprocess.STDOUT,
                                        env=self.env, preexec_fn=die_with_parent,
                                        # The scheduler shares by session: tools are no clients.
                                        start_new_session=True)
        wait_until(self._busy, 60, "sysbench's load")
        return self

    def _busy(self):
        self.check()
        count = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB='test'"
        return self.server.value(count) > self.threads

    def text(self):
        self.output.seek(0)
        return self.output.read()

    def check(self):
        """Raises when the load has ended before its time: a query failed."""
        if self.process.poll() is not None:
            raise AssertionError(f"sysbench ended ({self.process.returncode}):\n" +
                                 self.text()[-3000:])

    def __exit__(self, kind, *_):
        ended = self.process.poll() is not None
        with open(self.stop, "w"):
            pass
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.unlink(self.stop)
        text = self.text()
        self.seconds = time.monotonic() - self.begin
        if kind is None and (ended or self.process.returncode != 0):
            raise AssertionError(f"sysbench: exit {self.process.returncode}\n{text[-3000:]}")

        def number(pattern):
            found = re.search(pattern, text)
            return float(found[1]) if found else 0

        self.queries = int(number(r"total:\s+(\d+)"))
        self.errors = int(number(r"ignored errors:\s+(\d+)"))
        self.reconnects = int(number(r"reconnects:\s+(\d+)"))
        self.longest_ms = number(r"max:\s+([\d.]+)")


class Watch:
    """A client that asks one question over and over and keeps every answer that it has not seen
    before, in order; for behaviour that must never show."""

    def __init__(self, server, question):
        code = ("import sys, pymysql\n"
                "c = pymysql.connect(unix_socket=sys.argv[1], user=sys.argv[2], database='test')\n"
                "k = c.cursor()\nseen, n = [], 0\n"
                "import signal\nsignal.signal(signal.SIGTERM, lambda *a: sys.exit(0))\n"
                "try:\n while True:\n"
                "  k.execute(sys.argv[3]); v = str(k.fetchall()[0][0]); n += 1\n"
                "  if not seen or seen[-1] != v: seen.append(v)\n"
                "finally:\n print(n, *seen, sep='\\n')\n")
        self.args = [sys.executable, "-c", code, server.socket, USER, question]

    def __enter__(self):
        self.process = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        preexec_fn=die_with_parent)
        time.sleep(0.3)
        return self

    def __exit__(self, kind, *_):
        self.process.terminate()
        out, err = self.process.communicate(timeout=30)
        lines = out.split()
        if kind is None and (self.process.returncode != 0 or not lines):
            raise AssertionError(f"the client failed: {err[-2000:]}")
        self.questions = int(lines[0]) if lines else 0
        self.changes = lines[1:]

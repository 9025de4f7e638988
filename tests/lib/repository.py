# SPDX-License-Identifier: GPL-2.0-or-later
"""A repository of care-repo for tests: its patches, its web server (nginx, an own process)."""
import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time

from harness import CACHE, TOP, care, program, run
from patchfile import seal

PASSPHRASE = "correct horse battery staple"
NPM = ("@tufjs/repo-mock@5.0.0", "tuf-js@6.0.0")


class Nginx:
    """Serves one folder on loopback; dies with us."""

    CONFIG = """
daemon off;
master_process off;
error_log {dir}/error.log;
pid {dir}/pid;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
  uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""

    def __init__(self, root):
        self.dir = tempfile.mkdtemp(prefix="care-nginx-")
        atexit.register(self.stop)
        for _ in range(5):  # somebody may take the port between our look and nginx's
            self.port = self._free_port()
            with open(os.path.join(self.dir, "conf"), "w") as file:
                file.write(self.CONFIG.format(dir=self.dir, port=self.port, root=root))
            self.process = subprocess.Popen(
                ["nginx", "-e", os.path.join(self.dir, "error.log"), "-c",
                 os.path.join(self.dir, "conf")], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if self._wait():
                return
        raise AssertionError("nginx does not start: " + open(f"{self.dir}/error.log").read())

    url = property(lambda self: f"http://127.0.0.1:{self.port}")

    @staticmethod
    def _free_port():
        import socket
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    def _wait(self):
        import socket
        for _ in range(600):
            if self.process.poll() is not None:
                return False
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return True
            time.sleep(0.05)
        return False

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


class Repository:
    """A work folder of care-repo."""

    def __init__(self, folder, *options):
        self.dir = os.path.join(folder, "repo")
        self.public = os.path.join(self.dir, "public")
        self.passphrase = os.path.join(folder, "passphrase")
        with open(self.passphrase, "w") as file:
            file.write(PASSPHRASE + "\n")
        os.chmod(self.passphrase, 0o600)
        self.care("init", *options)

    def care(self, *args, expect=0, **kwargs):
        return care("care-repo", "--repo", self.dir, "--passphrase-file", self.passphrase, *args,
                    expect=expect, **kwargs)

    root = property(lambda self: os.path.join(self.public, "metadata", "1.root.json"))


class Host:
    """care-tuf of one host, against a web server."""

    def __init__(self, folder, url, root):
        self.dir, self.targets = os.path.join(folder, "metadata"), os.path.join(folder, "targets")
        self.url = url
        os.makedirs(self.targets)
        care("care-tuf", "--metadata-dir", self.dir, "init", root)

    def command(self, *args):
        return [program("care-tuf"), "--metadata-dir", self.dir, "--metadata-url",
                self.url + "/metadata", *args]

    def refresh(self, expect=0):
        result = run(*self.command("refresh", "--json"))
        assert result.status == expect, result
        return result.json

    def download(self, *names, expect=0):
        args = [a for name in names for a in ("--target-name", name)]
        result = run(*self.command(*args, "--target-dir", self.targets, "--target-base-url",
                                   self.url + "/targets", "download", "--json"))
        assert result.status == expect, result
        return result.json


_seed = []


def sample_patch():
    """Bytes of a small valid patch; it names build-ids 7a14d39c and 0102, level 3."""
    if not _seed:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "sample.cpatch")
            done = run(program("sample_patch"), "--seed", path)
            assert done.status == 0, done
            with open(path, "rb") as file:
                _seed.append(file.read())
    return _seed[0]


def write_patch(folder, name=None, build_id=None, level=None, second=False):
    """A patch file of its own: the sample with name (14 characters), build-id (8 hex digits) or
    level (one digit) replaced, so that no offset moves. The sample's second target keeps build-id
    0102, unless @second: then it follows @build_id. A name for each build-id keeps them apart."""
    data = sample_patch()
    if build_id and not name:
        name = f"fix-{build_id}-p"
    if second:
        data = data.replace(b'"build_id": "0102"', b'"build_id": "%s"' % build_id[:4].encode())
    for old, new in ((b"cve-2026-49261", name), (b"7a14d39c", build_id), (b'"level": 3', level)):
        if new is not None:
            new = (b'"level": %d' % new) if isinstance(new, int) else new.encode()
            assert len(new) == len(old) and old in data
            data = data.replace(old, new)
    path = os.path.join(folder, f"{name or 'sample'}-{build_id or 'x'}-{level or 3}.cpatch")
    with open(path, "wb") as file:
        file.write(seal(data))
    return path


def node_modules():
    """Folder with TUF's JavaScript implementation, from npm once."""
    folder = os.path.join(CACHE, "npm")
    if not os.path.exists(os.path.join(folder, "node_modules", "tuf-js")):
        os.makedirs(folder, exist_ok=True)
        done = run("npm", "install", "--prefix", folder, "--no-audit", "--no-fund", *NPM)
        assert done.status == 0, done
    return os.path.join(folder, "node_modules")


def node(script, *args, expect=0):
    """Runs one of tests/lib/tufjs."""
    result = run("node", os.path.join(TOP, "tests", "lib", "tufjs", script), *args,
                 env={"NODE_PATH": node_modules()})
    assert expect is None or result.status == expect, result
    return result

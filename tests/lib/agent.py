# SPDX-License-Identifier: GPL-2.0-or-later
"""An agent of its own beside whatever the host has: own folders, sockets, keys, and a user that
exists everywhere (nobody)."""
import atexit
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import harness

USER = "nobody"


class Key:
    """An ed25519 key that signs patches."""

    def __init__(self, folder, name="vendor"):
        self.name = name
        self.private = os.path.join(folder, f"{name}.private")
        self.public = os.path.join(folder, f"{name}.pem")
        openssl("genpkey", "-algorithm", "ed25519", "-out", self.private)
        openssl("pkey", "-in", self.private, "-pubout", "-out", self.public)

    def sign(self, path):
        """The text of a detached signature."""
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        raw = openssl("pkey", "-in", self.private, "-pubout", "-outform", "DER")[-32:]
        with tempfile.NamedTemporaryFile() as message:
            message.write(f"care-patch-signature-1\n{digest}\n".encode())
            message.flush()
            sig = openssl("pkeyutl", "-sign", "-rawin", "-inkey", self.private, "-in",
                          message.name)
        import base64
        keyid = hashlib.sha256(raw).hexdigest()[:16]
        return f"care-signature-1 {keyid} {base64.b64encode(sig).decode()}\n"


def openssl(*args):
    return subprocess.run(["/usr/bin/openssl", *args], check=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout


class Agent:
    """care-agent --foreground with its patcher and watch."""

    def __init__(self, *servers, programs=None, **settings):
        """Serves @servers alone: others on this host are not ours to patch."""
        self.folder = tempfile.mkdtemp(prefix="dbca-", dir="/tmp")
        os.chmod(self.folder, 0o711)
        atexit.register(self.remove)
        for name in ("keys", "patches", "hooks", "secret"):
            os.mkdir(self.path(name), 0o755)
        os.chmod(self.path("secret"), 0o700)
        self.key = Key(self.path("secret"))
        self.trust(self.key)
        self.settings = {"SCAN_INTERVAL": "1s",
                         "ONLY_TARGETS": " ".join(s.socket for s in servers) or "/none",
                         **settings}
        self.write_settings()
        self.process = self.programs = None
        self.servers = servers
        self.programs = programs
        self.log_file = open(self.path("log"), "w+")

    def path(self, *names):
        return os.path.join(self.folder, *names)

    @property
    def env(self):
        return {"DBCARE_RUN_DIR": self.path("run"), "DBCARE_STATE_DIR": self.path("state"),
                "DBCARE_CACHE_DIR": self.path("cache"), "DBCARE_CONF": self.path("agent.conf"),
                "DBCARE_KEYS_DIR": self.path("keys"), "DBCARE_HOOKS_DIR": self.path("hooks"),
                "DBCARE_PATCHES_DIR": self.path("patches"), "DBCARE_USER": USER}

    def trust(self, key):
        shutil.copy(key.public, self.path("keys"))

    def write_settings(self, **more):
        self.settings.update(more)
        with open(self.path("agent.conf"), "w") as file:
            file.writelines(f"{key}={value}\n" for key, value in self.settings.items())

    def reload(self, **more):
        """SIGHUP, after a change of settings."""
        self.write_settings(**more)
        os.kill(self.children()["care-agent"], signal.SIGHUP)

    def offer(self, patch, key=None):
        """Puts a patch into the operator's folder, signed."""
        name = os.path.basename(patch)
        signature = (key or self.key).sign(patch)
        with open(self.path("patches", name + ".sig"), "w") as file:
            file.write(signature)
        shutil.copy(patch, self.path("patches", "." + name))
        os.rename(self.path("patches", "." + name), self.path("patches", name))

    def start(self, prefix=()):
        program = harness.program("care-agent") if not self.programs else self.programs
        self.process = subprocess.Popen([*prefix, program, "--foreground"],
                                        stdin=subprocess.DEVNULL, stdout=self.log_file,
                                        stderr=self.log_file, env=dict(os.environ, **self.env),
                                        preexec_fn=harness.die_with_parent)
        harness.wait_until(self._answers, 60, "the agent's first answer")
        running = [server for server in self.servers if server.alive()]
        harness.wait_until(lambda: all(self.target(server) for server in running), 60,
                           "the agent's first look at the servers")
        return self

    def _answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"care-agent ended: {self.log()}")
        try:
            return self.ask("status")["ok"]
        except OSError:
            return False

    def log(self):
        with open(self.path("log"), errors="replace") as file:
            return file.read()

    def ask(self, verb, **fields):
        """One request on the control socket."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(150)
            s.connect(self.path("run", "agent.sock"))
            s.sendall(json.dumps({"do": verb, **fields}).encode() + b"\n")
            data = b""
            while not data.endswith(b"\n"):
                got = s.recv(65536)
                if not got:
                    raise ConnectionResetError("the agent closed the connection")
                data += got
        return json.loads(data)

    def events(self, name=None):
        """All events so far, or those of one name."""
        out = harness.care("dbcarectl", "events", "--json", env=self.env).out
        found = [json.loads(line) for line in out.splitlines()]
        return [e for e in found if name is None or e["event"] == name]

    def target(self, server):
        for target in self.ask("status")["targets"]:
            if target["pid"] == server.pid:
                return target
        return None

    def wait_level(self, server, level, seconds=60):
        """Waits until the server has that patch level; None: unpatched."""
        def reached():
            target = self.target(server)
            return target and target["level"] == level
        try:
            harness.wait_until(reached, seconds, f"level {level} of server {server.pid}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.target(server)}\n{self.log()}")

    def wait_event(self, name, seconds=60, count=1):
        def happened():
            found = [line for line in self.log().splitlines()
                     if line.startswith(f"care-agent: {name} ")]
            return len(found) >= count
        try:
            harness.wait_until(happened, seconds, f"event {name}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}")

    def wait_held(self, server, text, seconds=60):
        def held():
            target = self.target(server)
            return target and target.get("held") and text in target["held"]["reason"] and target
        try:
            return harness.wait_until(held, seconds, f"held because of {text}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.target(server)}\n{self.log()}")

    def children(self):
        """{name: pid} of the running processes."""
        found = {}
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as file:
            for pid in file.read().split():
                try:
                    with open(f"/proc/{pid}/comm") as comm:
                        found[comm.read().strip()] = int(pid)
                except OSError:
                    pass
        return found

    def rights(self, name):
        """What /proc/PID/status tells of one of its processes."""
        with open(f"/proc/{self.children()[name]}/status") as file:
            return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)

    def remove(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, True)


def let_in(server):
    """An account for the agent's user, as `dbcarectl account create` makes it."""
    server.sql(f"CREATE USER IF NOT EXISTS {USER}@localhost IDENTIFIED VIA unix_socket "
               "WITH MAX_USER_CONNECTIONS 3")
    server.sql(f"GRANT PROCESS, REPLICA MONITOR, BINLOG MONITOR ON *.* TO {USER}@localhost")

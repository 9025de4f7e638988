# SPDX-License-Identifier: GPL-2.0-or-later
"""A TUF repository that tests bend at will, and a web server that notes every request.

Metadata are made and signed when they are asked for, from plain dictionaries, by python-cryptography:
none of our C code is in it. Tests import the fixtures `server` and `setup` where they are used."""
import copy
import datetime
import hashlib
import http.server
import json
import os
import threading
import urllib.parse

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from harness import care

TOP_ROLES = ("root", "timestamp", "snapshot", "targets")
# What is trusted after a first refresh: role -> version.
ALL = {role: 1 for role in TOP_ROLES}
# The same after one that ended at a role.
KEPT = {"timestamp": {"root": 1}, "snapshot": {"root": 1, "timestamp": 1},
        "targets": {"root": 1, "timestamp": 1, "snapshot": 1}}


def canonical(value):
    """OLPC canonical JSON."""
    if isinstance(value, dict):
        items = (canonical(k) + b":" + canonical(value[k]) for k in sorted(value))
        return b"{" + b",".join(items) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(canonical, value)) + b"]"
    if isinstance(value, str):
        return ('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"').encode()
    return json.dumps(value).encode()


def days_ahead(days):
    when = datetime.datetime.utcnow() + datetime.timedelta(days=days)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


class Key:
    """A key pair of one of the kinds."""

    def __init__(self, kind="ed25519"):
        self.kind = kind
        pem = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        if kind == "ed25519":
            self.private = ed25519.Ed25519PrivateKey.generate()
            public = self.private.public_key().public_bytes(
                serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()
            names = ("ed25519", "ed25519")
        elif kind == "ecdsa":
            self.private = ec.generate_private_key(ec.SECP256R1())
            public = self.private.public_key().public_bytes(*pem).decode()
            names = ("ecdsa", "ecdsa-sha2-nistp256")
        else:
            self.private = rsa.generate_private_key(65537, 2048)
            public = self.private.public_key().public_bytes(*pem).decode()
            names = ("rsa", {"rsa": "rsassa-pss-sha256", "rsa-pkcs1": "rsa-pkcs1v15-sha256"}[kind])
        self.json = {"keytype": names[0], "scheme": names[1], "keyval": {"public": public}}
        self.say()

    def say(self, **fields):
        """Fields of the publisher's own in the key; its id is of all of them."""
        self.json.update(fields)
        self.id = hashlib.sha256(canonical(self.json)).hexdigest()
        return self

    def sign(self, data):
        if self.kind == "ed25519":
            return self.private.sign(data).hex()
        if self.kind == "ecdsa":
            return self.private.sign(data, ec.ECDSA(hashes.SHA256())).hex()
        if self.kind == "rsa-pkcs1":
            return self.private.sign(data, padding.PKCS1v15(), hashes.SHA256()).hex()
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
        return self.private.sign(data, pss, hashes.SHA256()).hex()


class Repo:
    """roles: name -> signed part; signers: name -> keys that sign it."""

    def __init__(self, kind="ed25519", consistent=True):
        self.roles, self.signers, self.artifacts = {}, {}, {}
        self.roots = []
        self.hashes = False   # of snapshot and targets in the metadata above them
        self.tamper = {}      # role -> function on the file's bytes
        self.kept = {}        # (role, version) -> bytes that are served whatever came later
        for role in TOP_ROLES:
            self.roles[role] = self._new(role)
            self.signers[role] = [Key(kind)]
        self.root.update(consistent_snapshot=consistent, keys={}, roles={})
        for role in TOP_ROLES:
            self.root["roles"][role] = {"keyids": [], "threshold": 1}
            self.root_key(role, self.signers[role][0])
        self.targets.update(targets={})
        self.snapshot.update(meta={"targets.json": {"version": 1}})
        self.timestamp.update(meta={"snapshot.json": {"version": 1}})
        self.publish_root(bump=False)

    @staticmethod
    def _new(kind):
        return {"_type": kind, "version": 1, "spec_version": "1.0.34", "expires": days_ahead(30)}

    root = property(lambda self: self.roles["root"])
    timestamp = property(lambda self: self.roles["timestamp"])
    snapshot = property(lambda self: self.roles["snapshot"])
    targets = property(lambda self: self.roles["targets"])

    # ---- changes ----

    def root_key(self, role, key):
        self.root["keys"][key.id] = key.json
        self.root["roles"][role]["keyids"].append(key.id)

    def add_key(self, role, kind="ed25519"):
        key = Key(kind)
        self.root_key(role, key)
        self.signers[role].append(key)
        return key

    def rotate(self, role, kind="ed25519"):
        self.root["roles"][role]["keyids"] = []
        self.signers[role] = []
        return self.add_key(role, kind)

    def publish_root(self, bump=True, signers=None):
        """A next root; signed by the present keys and those of the root before."""
        if bump:
            self.root["version"] += 1
        keys = signers
        if keys is None:
            keys = list(self.signers["root"])
            keys += [k for k in getattr(self, "_last_root_signers", []) if k not in keys]
        self._last_root_signers = list(self.signers["root"])
        self.roots.append(self.signed(self.root, keys))

    def bump(self, *roles):
        """Next versions, named by what is above."""
        for role in roles:
            self.roles[role]["version"] += 1
        for role in roles:
            if role not in ("snapshot", "timestamp"):
                self.snapshot["meta"][role + ".json"] = {"version": self.roles[role]["version"]}

    def update_snapshot(self):
        self.snapshot["version"] += 1
        for role in self.roles:
            if role not in ("root", "timestamp", "snapshot"):
                self.snapshot["meta"][role + ".json"] = self._meta(role)
        self.update_timestamp()

    def update_timestamp(self):
        self.timestamp["version"] += 1
        self.timestamp["meta"]["snapshot.json"] = self._meta("snapshot")

    def _meta(self, role):
        meta = {"version": self.roles[role]["version"]}
        if self.hashes:
            data = self.file(role)
            meta.update(length=len(data), hashes={"sha256": hashlib.sha256(data).hexdigest()})
        return meta

    def keep(self, *roles):
        """What these are now stays on the server under its version."""
        for role in roles:
            self.kept[role, self.roles[role]["version"]] = self.file(role)

    def add_target(self, role, path, data, algorithms=("sha256",), **custom):
        self.artifacts[path] = data
        entry = {"length": len(data),
                 "hashes": {name: hashlib.new(name, data).hexdigest() for name in algorithms}}
        if custom:
            entry["custom"] = custom
        self.roles[role]["targets"][path] = entry

    def delegate(self, parent, name, paths=("*",), terminating=False, threshold=1, kind="ed25519",
                 prefixes=None):
        key = Key(kind)
        if name not in self.roles:
            self.roles[name] = dict(self._new("targets"), targets={})
            self.signers[name] = []
        self.signers[name].append(key)
        delegations = self.roles[parent].setdefault("delegations", {"keys": {}, "roles": []})
        delegations["keys"][key.id] = key.json
        role = {"name": name, "keyids": [key.id], "threshold": threshold,
                "terminating": terminating}
        role.update({"path_hash_prefixes": prefixes} if prefixes else {"paths": list(paths)})
        delegations["roles"].append(role)
        return role

    # ---- files ----

    @staticmethod
    def signed(body, keys):
        data = canonical(body)
        signatures = [{"keyid": k.id, "sig": k.sign(data)} for k in keys]
        return json.dumps({"signatures": signatures, "signed": body}, ensure_ascii=False).encode()

    def file(self, role):
        # ECDSA and PSS sign anew differently: the same content must give the same bytes.
        body = self.roles[role]
        state = (canonical(body), tuple(k.id for k in self.signers[role]))
        cache = self.__dict__.setdefault("_cache", {})
        if cache.get(role, (None,))[0] != state:
            cache[role] = (state, self.signed(copy.deepcopy(body), self.signers[role]))
        data = cache[role][1]
        return self.tamper[role](data) if role in self.tamper else data

    def fetch(self, name):
        """(bytes or None, what was asked for as (role, version))"""
        stem = name[:-len(".json")]
        version, dot, role = stem.partition(".")
        if not dot or not version.isdigit():
            version, role = None, stem
        asked = (role, int(version) if version else None)
        role = urllib.parse.unquote(role)
        if role == "root":
            index = int(version) - 1 if version else -1
            return (self.roots[index] if 0 <= index < len(self.roots) else None), asked
        if version and (role, int(version)) in self.kept:
            return self.kept[role, int(version)], asked
        return (self.file(role) if role in self.roles else None), asked


class Server:
    """Serves one Repo on loopback; requests lists (role, version) and paths of targets."""

    def __init__(self, repo=None):
        self.repo, self.requests, self.answers = repo, [], {}
        self.folder = ""  # what URLs have before /metadata and /targets, as it is sent
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.handle(self)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def handle(self, request):
        path = request.path.removeprefix(self.folder)
        if path.startswith("/metadata/"):
            data, asked = self.repo.fetch(path[len("/metadata/"):])
            self.requests.append(asked)
        else:
            name = urllib.parse.unquote(path[len("/targets/"):])
            self.requests.append(name)
            folder, slash, base = name.rpartition("/")
            if self.repo.root["consistent_snapshot"]:
                base = base.partition(".")[2]
            data = self.repo.artifacts.get(folder + slash + base)
        status = self.answers.get(self.requests[-1], 200 if data is not None else 404)
        data = data if status == 200 else b"no"
        request.send_response(status)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        try:
            request.wfile.write(data)
        except OSError:
            pass  # the client has seen enough

    def stop(self):
        self.http.shutdown()
        self.http.server_close()


class Client:
    """care-tuf with folders of its own."""

    def __init__(self, server, folder):
        self.server = server
        self.dir, self.target_dir = os.path.join(folder, "metadata"), os.path.join(folder, "targets")
        self.folder = folder
        self.slash = ""  # behind the URLs
        os.makedirs(self.target_dir)

    def init(self, root=None, expect=0):
        path = os.path.join(self.folder, "root.json")
        with open(path, "wb") as file:
            file.write(root if root is not None else self.server.repo.roots[0])
        self.last = care("care-tuf", "--metadata-dir", self.dir, "init", path, expect=expect)
        return self

    def _run(self, *args, days=0, at=None):
        """days: the clock goes that far ahead; at: it begins there (a datetime)."""
        from harness import program, run
        command = [program("care-tuf"), "--metadata-url",
                   self.server.url + self.server.folder + "/metadata" + self.slash, "--metadata-dir", self.dir, *args]
        if days:
            command = ["faketime", "-f", f"{days:+d}d", *command]
        elif at:
            command = ["faketime", str(at), *command]
        self.last = run(*command, timeout=60)
        return self.last.status

    def refresh(self, **clock):
        return self._run("refresh", **clock)

    def download(self, *names, **clock):
        args = [a for name in names for a in ("--target-name", name)]
        url = self.server.url + self.server.folder + "/targets" + self.slash
        return self._run(*args, "--target-dir", self.target_dir, "--target-base-url", url,
                         "download", **clock)

    def stored(self, role):
        """The file's bytes; None when there is none."""
        path = os.path.join(self.dir, role + ".json")
        if not os.path.exists(path):
            return None
        with open(path, "rb") as file:
            return file.read()

    def version(self, role):
        with open(os.path.join(self.dir, role + ".json")) as file:
            return json.load(file)["signed"]["version"]

    def trusted(self):
        """role -> version of all that is stored."""
        names = [n[:-5] for n in os.listdir(self.dir) if n.endswith(".json")]
        return {name: self.version(name) for name in names}

    def downloaded(self):
        found = {}
        for name in os.listdir(self.target_dir):
            with open(os.path.join(self.target_dir, name), "rb") as file:
                found[urllib.parse.unquote(name)] = file.read()
        return found


# ---- fixtures ----

@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def setup(server, tmp_path):
    """setup(REPO) -> (repo, server, client): with a trusted root, nothing asked for yet."""
    def make(repo=None):
        server.repo = repo or Repo()
        server.requests, server.answers = [], {}
        return server.repo, server, Client(server, str(tmp_path)).init()
    return make


def fresh(setup, repo=None):
    """What setup(REPO) gives, after a first refresh."""
    repo, server, client = setup(repo)
    assert client.refresh() == 0, client.last
    server.requests.clear()
    return repo, server, client

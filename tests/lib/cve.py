# SPDX-License-Identifier: GPL-2.0-or-later
"""CVE-2026-49261 on the real thing: Debian 13's MariaDB, two Galera nodes in containers.

A node's wsrep_notify_cmd is run through a shell with the names of all members of the cluster in its
arguments, so whoever may join the cluster runs commands on every node, by its own node's name. The
fix is the difference between sql/wsrep_notify.cc of this version and of Debian 12's newer one, made
from the two sources when it is needed.

The scenes, in order, shared by `tests/demo --cve` and by the tests; each raises when it does not go
as it must.
"""
import os
import threading
import time

import pymysql

import containers
import harness
from containers import Cluster, Tree
from harness import care, wait_until

NAME, CVE, CVSS = "cve-2026-49261", "CVE-2026-49261", "10.0"
URL = "https://security-tracker.debian.org/tracker/CVE-2026-49261"
SUITE = "trixie"
SOURCE = "sql/wsrep_notify.cc"
MARKER = "/tmp/owned"
NODE_NAME = f"node3$(touch {MARKER})"
MESSAGE = "Unsafe characters in cluster member"


def fix_diff(vulnerable, fixed, path):
    """Writes the difference of the one source file; what it changes, as (added, removed) lines."""
    done = harness.run("diff", "-u", "--label", f"a/{SOURCE}", "--label", f"b/{SOURCE}",
                       *(os.path.join(target.folder, "src", SOURCE)
                         for target in (vulnerable, fixed)))
    if done.status != 1:
        raise AssertionError(f"the two sources do not differ: {done!r}")
    with open(path, "w") as file:
        file.write(done.out)
    lines = done.out.splitlines()[2:]
    return sum(l.startswith("+") for l in lines), sum(l.startswith("-") for l in lines)


def targets(progress=False):
    """(vulnerable, fixed): Debian 13's MariaDB and Debian 12's, both prepared by care-build."""
    pinned = harness.versions()
    return (harness.Target(pinned["MARIADB_TRIXIE_VERSION"], progress=progress, suite=SUITE),
            harness.Target(pinned["MARIADB_VERSION"], progress=progress))


def build_patch(vulnerable, fixed, folder, progress=False):
    """Path of the patch file, made from the two sources."""
    diff = os.path.join(folder, NAME + ".diff")
    fix_diff(vulnerable, fixed, diff)
    return vulnerable.patch(diff, NAME, "--cve", CVE, "--cvss", CVSS, "--url", URL,
                            "--description", "Galera: no commands through the names of nodes",
                            progress=progress)


def tree(say=lambda text: None):
    """What the containers run: the tree of Debian 13 with its MariaDB."""
    return Tree(SUITE, harness.versions()["MARIADB_TRIXIE_VERSION"], say)


def owned(node):
    """Whether the attacker's command has run in this node's container."""
    return os.path.exists(f"/proc/{node.pid}/root{MARKER}")


def notifications(node):
    try:
        with open(f"/proc/{node.pid}/root/tmp/notifications") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


class Load:
    """sysbench through every node at once. Each of its threads has tables of its own: nothing but
    the patch could make a transaction fail."""

    THREADS, ROWS, RATE = 3, 2000, 15  # a node; rows a thread; transactions a second and thread

    def __init__(self, nodes):
        self.parts = [_ThreadLoad(node, f"load{i}{j}", ["--tables=1",
                                                        f"--table-size={self.ROWS}",
                                                        f"--rate={self.RATE}"])
                      for i, node in enumerate(nodes) for j in range(self.THREADS)]
        for part in self.parts:
            part.server.sql(f"CREATE DATABASE {part.database}")
            part.command("prepare")

    def __enter__(self):
        for part in self.parts:
            part.__enter__()
        return self

    def __exit__(self, *error):
        for part in self.parts:
            part.__exit__(*error)
        self.queries = sum(part.queries for part in self.parts)
        self.failed = sum(part.errors for part in self.parts)
        self.lost = sum(part.reconnects for part in self.parts)

    def check(self):
        for part in self.parts:
            part.check()


class _ThreadLoad(harness.Sysbench):
    def __init__(self, node, database, options):
        self.database = database
        super().__init__(node, threads=1, options=[f"--mysql-db={database}", *options])

    def _busy(self):
        self.check()
        return self.server.value("SELECT COUNT(*) FROM information_schema.PROCESSLIST "
                                 f"WHERE DB='{self.database}'") >= self.threads


class Watch:
    """Asks every node for the state of the cluster, twenty times a second, on a connection that is
    kept; as a context. Afterwards: the states that were seen, and the uptimes in order."""

    QUESTION = ("SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_cluster_size', "
                "'wsrep_cluster_status', 'wsrep_local_state_comment', 'wsrep_cluster_conf_id', "
                "'Uptime')")

    def __init__(self, nodes):
        self.nodes = nodes
        self.states = {node.name: [] for node in nodes}
        self.uptimes = {node.name: [] for node in nodes}
        self.asked, self.failure = 0, None
        self._stop = threading.Event()

    def __enter__(self):
        self._connections = [node.connect() for node in self.nodes]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        wait_until(lambda: self.asked or self.failure, 20, "the first state of the cluster")
        return self

    def _run(self):
        try:
            while not self._stop.wait(0.05):
                for node, connection in zip(self.nodes, self._connections):
                    self._ask(node, connection)
                self.asked += 1
        except pymysql.err.MySQLError as error:
            self.failure = error

    def _ask(self, node, connection):
        with connection.cursor() as cursor:
            cursor.execute(self.QUESTION)
            status = dict(cursor.fetchall())
        self.uptimes[node.name].append(int(status.pop("Uptime")))
        state = tuple(sorted(status.items()))
        if not self.states[node.name] or self.states[node.name][-1] != state:
            self.states[node.name].append(state)

    def __exit__(self, kind, *_):
        self._stop.set()
        self._thread.join(60)
        for connection in self._connections:
            connection.close()
        if kind is None and self.failure:
            raise AssertionError(f"a node did not answer: {self.failure}")

    def check_unchanged(self):
        """No node saw anything but the state of the beginning, and none was restarted."""
        for name, states in self.states.items():
            if len(states) != 1:
                raise AssertionError(f"the cluster changed as {name} saw it: {states}")
        self.check_uptimes()

    def check_uptimes(self):
        for name, uptimes in self.uptimes.items():
            if uptimes != sorted(uptimes):
                raise AssertionError(f"{name} was restarted: {uptimes}")


def attack(cluster, seconds=120):
    """The attacker joins and leaves. Returns the nodes of the cluster on which its command ran."""
    victims = list(cluster.nodes)
    heard = {node.name: len(notifications(node)) for node in victims}
    refused = {node.name: node.error_log().count(MESSAGE) for node in victims}
    attacker = cluster.add("node3", NODE_NAME)

    def reacted(node):
        return (len(notifications(node)) > heard[node.name] or
                node.error_log().count(MESSAGE) > refused[node.name])

    # Each node either runs its notify command or refuses to: only then can a marker be missed.
    for node in victims:
        wait_until(lambda: reacted(node), seconds, f"{node.name} to hear of the new member")
    time.sleep(0.5)
    result = [node for node in victims if owned(node)]
    cluster.drop(attacker)
    return result


def apply(cluster, patch):
    """Patches all nodes from the host, with one command; its JSON."""
    return care("dbcarectl", "apply", patch, *(node.id for node in cluster.nodes), "--json").json


def show_list(cluster):
    """What `dbcarectl list` says about the nodes, in their order."""
    rows = care("dbcarectl", "list", "--json").json["servers"]
    by_id = {row["container_id"]: row for row in rows}
    return [by_id[node.id] for node in cluster.nodes]


def patched(cluster):
    """Names of the nodes in which a patch is in effect. (The memory of a reverted one may stay for
    a while, and is listed.)"""
    return [node.name for node, row in zip(cluster.nodes, show_list(cluster))
            if any(patch["state"] in ("applied", "settling") for patch in row["patches"])]


def start_cluster(the_tree, size=2):
    return Cluster(the_tree, size)



def main():
    """Prepares all that needs the network, with progress: care-build's targets and the tree."""
    if containers.impossible():
        print(f"  not here: {containers.impossible()}")
        return
    targets(progress=True)
    tree(lambda text: print(f"  {text}", flush=True))


if __name__ == "__main__":
    main()

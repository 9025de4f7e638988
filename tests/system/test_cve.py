# SPDX-License-Identifier: GPL-2.0-or-later
"""CVE-2026-49261 in Debian 13's MariaDB: a Galera cluster in containers is patched while it works.
`tests/demo --cve` tells the same story."""
import os
import time

import pytest

import containers
import cve
import harness
from harness import care, run

NOT_NOW = 4
# Neither a compiler's tree nor a container can be entered there.
pytestmark = pytest.mark.skipif(containers.impossible() is not None,
                                reason=str(containers.impossible()))


@pytest.fixture(scope="module")
def targets():
    return cve.targets()


@pytest.fixture(scope="module")
def patch(targets, tmp_path_factory):
    return cve.build_patch(*targets, str(tmp_path_factory.mktemp("cve")))


@pytest.fixture(scope="module")
def cluster(targets):
    made = cve.start_cluster(cve.tree())
    yield made
    made.remove()


def revert(cluster):
    for node in cluster.nodes:
        care("dbcarectl", "revert", "--all", node.id, expect=(0, 2))
    assert cve.patched(cluster) == []


# ---- the target and the patch

def test_debian_13_is_compiled_to_the_shipped_code_by_its_own_compiler(targets):
    done = care("care-build", "match", "--target", targets[0].name, cve.SOURCE, "--json",
                timeout=900).json
    # One source, two objects, the second with hidden visibility.
    assert len(done["units"]) == 2
    assert done["identical"] == done["total"] >= 3
    with open(os.path.join(targets[0].folder, "tree/etc/os-release")) as file:
        assert f"VERSION_CODENAME={cve.SUITE}\n" in file.read()
    mounts = open("/proc/self/mounts").read()
    assert targets[0].folder not in mounts


def test_the_fix_becomes_a_patch_with_its_cve_and_its_compiler(patch):
    manifest = care("care-build", "show", patch, "--json").json
    text = str(manifest)
    assert cve.CVE in text and cve.CVSS in text
    assert "14.2" in text and "-O3" in text and "-fcf-protection" in text
    assert "wsrep_notify_status" in text


# ---- containers

def test_servers_in_containers_are_listed_with_their_container(cluster):
    rows = cve.show_list(cluster)
    for node, row in zip(cluster.nodes, rows):
        assert row["container"] and row["pid"] == node.pid and row["inner_pid"] != node.pid
        assert row["socket"] == "/run/mysqld/mysqld.sock"
    shown = care("dbcarectl", "list").out
    assert all(node.id in shown for node in cluster.nodes)
    info = care("dbcarectl", "info", cluster.nodes[0].id, "--json").json
    assert info["pid"] == cluster.nodes[0].pid and "sql_error" not in info
    assert info["package"] == "mariadb-server-core " + harness.versions()["MARIADB_TRIXIE_VERSION"]


def test_a_container_is_named_by_the_beginning_of_its_id_when_it_is_the_only_one(cluster):
    node = cluster.nodes[0]
    found = care("dbcarectl", "info", node.id[:-1], "--json").json
    assert found["pid"] == node.pid
    assert "container" in care("dbcarectl", "info", "no-such-container", expect=3).text


# ---- the story

def test_a_cluster_under_load_is_patched_and_the_attack_ends(cluster, patch):
    assert [n.name for n in cve.attack(cluster)] == ["node1", "node2"]
    for node in cluster.nodes:
        os.unlink(f"/proc/{node.pid}/root{cve.MARKER}")
    with cve.Load(cluster.nodes) as load:
        with cve.Watch(cluster.nodes) as watch:
            done = cve.apply(cluster, patch)
            time.sleep(1)
        watch.check_unchanged()
        assert [s["result"] for s in done["servers"]] == ["applied", "applied"]
        assert cve.patched(cluster) == ["node1", "node2"]
        assert all(g["verdict"] == "ok" for s in done["servers"] for g in s["gates"])
        assert all(s["verification"]["sql"] for s in done["servers"])
        refused = [node.error_log().count(cve.MESSAGE) for node in cluster.nodes]
        assert cve.attack(cluster) == []
        load.check()
    assert load.queries > 100 and load.failed == 0 and load.lost == 0
    for node, before in zip(cluster.nodes, refused):
        assert node.error_log().count(cve.MESSAGE) > before
        assert node.alive() and node.synced(2)
    # A name that the fix allows is still told to the command.
    heard = [len(cve.notifications(node)) for node in cluster.nodes]
    third = cluster.add("node3", "node3.example-1")
    assert any("node3.example-1" in line for line in cve.notifications(cluster.nodes[0])[heard[0]:])
    cluster.drop(third)
    again = cve.apply(cluster, patch)
    assert [s["result"] for s in again["servers"]] == ["already applied"] * 2
    revert(cluster)


# ---- the rules of a cluster

def test_a_node_that_is_desynchronised_holds_its_whole_cluster(cluster, patch):
    first, second = cluster.nodes
    second.sql("SET GLOBAL wsrep_desync=ON")
    try:
        done = care("dbcarectl", "apply", patch, first.id, second.id, "--json", "--timeout=2",
                    expect=NOT_NOW)
        assert "node2" in done.text and "Desynced" in done.text
        assert [s["result"] for s in done.json["servers"]] == ["not applied"] * 2
        alone = care("dbcarectl", "apply", patch, second.id, expect=NOT_NOW)
        assert "desynchronised" in alone.text
        assert cve.patched(cluster) == []
    finally:
        second.sql("SET GLOBAL wsrep_desync=OFF")


def test_a_cluster_that_is_smaller_than_it_should_be_is_left_alone(cluster, patch):
    done = care("dbcarectl", "apply", patch, *(n.id for n in cluster.nodes), "--cluster-size=3",
                "--timeout=2", "--json", expect=NOT_NOW)
    assert "whole with 3" in done.text
    assert cve.patched(cluster) == []


def test_of_one_cluster_one_node_is_patched_at_a_time(cluster, patch):
    uuid = cluster.nodes[0].status()["wsrep_cluster_state_uuid"]
    os.makedirs(harness.STATE, exist_ok=True)
    lock = os.path.join(harness.STATE, f"cluster-{uuid}.lock")
    done = run("flock", lock, harness.program("dbcarectl"), "apply", patch, cluster.nodes[0].id)
    assert done.status == NOT_NOW and "one at a time" in done.text
    assert cve.patched(cluster) == []


# ---- all servers of a host

def test_all_servers_that_the_patch_is_for_are_patched_and_no_other(targets, patch, target,
                                                                   tmp_path):
    """In a pid namespace of its own, so that "all" is one server and nothing else of this host."""
    server = harness.Server(target.root)
    script = tmp_path / "script"
    rnd = target.patch(os.path.join(harness.TOP, "tests", "lib", "demo.diff"), "benchmark-limit",
                       "--description", "all")
    script.write_text(f"""
        {" ".join(server.command())} >/dev/null 2>&1 &
        pid=$!
        for i in $(seq 600); do [ -S {server.socket} ] && break; sleep 0.1; done
        "$1" apply {patch} --all --json; echo "status $?"
        # Its socket is there a little before it has started.
        for i in $(seq 100); do
            said=$("$1" apply {rnd} --all --json); status=$?
            [ $status = 4 ] || break
            sleep 0.2
        done
        echo "$said"; echo "status $status"
        kill -KILL $pid
    """)
    done = run("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", script,
               harness.program("dbcarectl"), timeout=120)
    server.remove()
    other, own = [part.strip() for part in done.out.split("status ")[:2]]
    assert '"no-target"' in other and "no server of this host" in other, done
    assert '"result": "applied"' in own.replace('":"', '": "'), done

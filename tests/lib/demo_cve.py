# SPDX-License-Identifier: GPL-2.0-or-later
"""The second half of `tests/demo --cve`: a cluster that an attacker commands, patched while it
works. The scenes themselves are in cve.py, where the tests have them from too."""
import os
import shutil
import subprocess
import sys
import time

import containers
import cve
import harness
from demo import OUT, expect, say, sleep, table

QUIET = 5  # seconds of load before and after the switches


def scene_attack(cluster, when):
    say(f"    a joiner calls itself {cve.NODE_NAME}")
    victims = [node.name for node in cve.attack(cluster)]
    text = f"{cve.MARKER} was made on {' and '.join(victims)}" if victims else "no command ran"
    say(f"    {when}: {text}")
    return victims


def show_nodes(cluster):
    for node, row in zip(cluster.nodes, cve.show_list(cluster)):
        say(f"    {node.name}: mariadbd {row['version']}, container {row['container_id']}, pid "
            f"{row['pid']} here and {row['inner_pid']} inside, patches: "
            f"{', '.join(p['name'] for p in row['patches']) or 'none'}")


def run(cluster, patch):
    load = cve.Load(cluster.nodes)
    with load:
        with cve.Watch(cluster.nodes) as watch:
            sleep(QUIET, "load on the vulnerable cluster")
            begin = time.monotonic()
            done = cve.apply(cluster, patch)
            seconds = time.monotonic() - begin
            for server in done["servers"]:
                say(f"    {server['cluster']['node']}: {server['result']}, pause "
                    f"{server['pause_us'] / 1000:.2f} ms, {server['threads']} threads")
            say(f"    dbcarectl apply {os.path.basename(patch)} "
                f"{' '.join(n.id for n in cluster.nodes)}: {seconds:.1f} s for both nodes")
            show_nodes(cluster)
            sleep(QUIET, "load on the patched cluster")
        watch.check_unchanged()
        say(f"    the cluster was asked {watch.asked} times: nothing but "
            f"{len(cluster.nodes)} nodes, Primary, Synced")
        say("7. The same attack, under the load")
        refused = {node.name: node.error_log().count(cve.MESSAGE) for node in cluster.nodes}
        victims = scene_attack(cluster, "after")
        load.check()
    for node in cluster.nodes:
        lines = [l for l in node.error_log().splitlines() if cve.MESSAGE in l]
        expect(len(lines) > refused[node.name], f"{node.name} did not refuse the joiner's name")
        say(f"    {node.name}: {lines[-1]}")
    expect(not victims, f"the attacker's command ran on {victims} in spite of the patch")
    expect(load.failed == 0 and load.lost == 0 and load.queries > 500, "queries failed")
    return load, watch, max(server["pause_us"] for server in done["servers"]) / 1000


def main():
    os.makedirs(OUT, exist_ok=True)
    expect(not containers.impossible(), containers.impossible())
    say("2. Debian 13's MariaDB with its source and its compiler, and the source of the fix")
    vulnerable, fixed = cve.targets(progress=True)
    say(f"    target {vulnerable.name}, build-id {vulnerable.build_id}")
    tree = cve.tree(lambda text: say(f"  {text}"))

    say(f"3. A patch for {cve.CVE} (CVSS {cve.CVSS}), from the difference of the two sources")
    added, removed = cve.fix_diff(vulnerable, fixed, os.path.join(OUT, cve.NAME + ".diff"))
    say(f"    {cve.SOURCE}: {added} lines more, {removed} less")
    begin = time.monotonic()
    patch = cve.build_patch(vulnerable, fixed, OUT, progress=True)
    patch = shutil.copy(patch, os.path.join(OUT, cve.NAME + ".cpatch"))
    say(f"    {patch}: {os.path.getsize(patch)} bytes, made in {time.monotonic() - begin:.0f} s")

    say("4. Two Galera nodes of it, in runc containers")
    cluster = cve.start_cluster(tree)
    try:
        show_nodes(cluster)
        pids = [node.pid for node in cluster.nodes]
        say("5. The attack: whoever joins the cluster commands its nodes")
        victims = scene_attack(cluster, "before")
        expect(len(victims) == len(cluster.nodes), "the attack does not work: nothing to fix")
        for node in cluster.nodes:
            os.unlink(f"/proc/{node.pid}/root{cve.MARKER}")

        say("6. Both nodes are patched from the host, one after the other, while sysbench works "
            "through both")
        load, watch, pause = run(cluster, patch)
        status = [node.status() for node in cluster.nodes]
        say("8. What the cluster and its clients saw")
        table([("queries through both nodes", f"{load.queries}"), ("failed", f"{load.failed}"),
               ("lost connections", f"{load.lost}"), ("longer pause of the two", f"{pause:.2f} ms"),
               ("size, state", f"{status[0]['wsrep_cluster_size']}, "
                               f"{status[0]['wsrep_local_state_comment']}"),
               ("pids before", ", ".join(map(str, pids))),
               ("pids after", ", ".join(str(n.pid) for n in cluster.nodes)),
               ("uptime of the nodes", ", ".join(s["Uptime"] + " s" for s in status))])
        expect(all(node.alive() for node in cluster.nodes), "a node died")
    finally:
        cluster.remove()
    say(f"demo: ok, {cve.CVE} fixed in 2 running nodes, {load.queries} queries, {load.failed} "
        f"failed, {load.lost} lost connections, pause {pause:.1f} ms, cluster never changed")


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, OSError, subprocess.SubprocessError, KeyError) as error:
        say(f"demo: failed: {error}")
        sys.exit(1)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Gates of dbcarectl: each reason for "not now" is made on a real server and must be named."""
import contextlib
import os
import socket
import threading
import time

import pymysql
import pytest

from harness import care, wait_until
from patches import rnd_patch

NOT_NOW = 4


@pytest.fixture
def patch(target, tmp_path):
    return rnd_patch(target, tmp_path, "0.5")


@pytest.fixture
def least(server):
    """The least account that dbcarectl needs, and the options to use it."""
    server.sql("CREATE OR REPLACE USER dbcare@localhost IDENTIFIED BY 'secret' "
               "WITH MAX_USER_CONNECTIONS 2")
    server.sql("GRANT PROCESS, REPLICA MONITOR, BINLOG MONITOR ON *.* TO dbcare@localhost")
    yield ["--no-defaults", "--user=dbcare", "--password=secret"]
    server.sql("DROP USER dbcare@localhost")


def gates(server, patch, *options, expect=(0, NOT_NOW)):
    """Verdicts by name, of a check."""
    done = care("dbcarectl", "check", patch, server.pid, "--json", *options, expect=expect)
    return {g["name"]: g for g in done.json["gates"]}


def held(server, patch, name, *options):
    """The named gate holds, is the first that does, and apply obeys; its reason."""
    verdicts = gates(server, patch, *options, expect=NOT_NOW)
    assert verdicts[name]["verdict"] != "ok", verdicts
    done = care("dbcarectl", "apply", patch, server.pid, *options, expect=NOT_NOW)
    assert f"gate {name} " in done.text
    assert not care("dbcarectl", "info", server.pid, "--json").json["patches"]
    return verdicts[name]["reason"]


@contextlib.contextmanager
def in_background(server, statement, **kwargs):
    """Runs a statement on a connection of its own until the end of the block; killed then."""
    connection = server.connect(read_timeout=300, **kwargs)

    def ask():
        with contextlib.suppress(Exception), connection.cursor() as cursor:
            cursor.execute(statement)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield connection.thread_id()
    finally:
        with contextlib.suppress(pymysql.err.MySQLError):
            server.sql(f"KILL {connection.thread_id()}")
        thread.join(60)


@contextlib.contextmanager
def session(server, *statements):
    """A session that has run the statements and stays open."""
    with server.connect() as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        yield connection


def test_a_quiet_server_has_all_gates_open_also_for_the_least_account(server, patch, least):
    verdicts = gates(server, patch, *least, expect=0)
    assert {g["verdict"] for g in verdicts.values()} == {"ok"}, verdicts
    assert {"connection", "grants", "identity", "recovery", "shutdown", "backup-lock", "ddl",
            "galera"} <= set(verdicts)


def test_flush_tables_with_read_lock_holds_without_any_plugin(server, patch, least):
    with session(server, "FLUSH TABLES WITH READ LOCK"):
        assert "READ LOCK" in held(server, patch, "backup-lock", *least)
    assert gates(server, patch, *least, expect=0)


def test_a_backup_that_blocks_commits_holds_without_any_plugin(server, patch, least):
    stages = [f"BACKUP STAGE {s}" for s in ("START", "FLUSH", "BLOCK_DDL", "BLOCK_COMMIT")]
    with session(server, *stages):
        held(server, patch, "backup-lock", *least)
    assert gates(server, patch, *least, expect=0)


def test_every_stage_of_a_backup_holds_where_the_plugin_shows_it(server, patch, least):
    server.sql("INSTALL SONAME 'metadata_lock_info'")
    try:
        for stages in (["START"], ["START", "FLUSH"], ["START", "FLUSH", "BLOCK_DDL"]):
            with session(server, *[f"BACKUP STAGE {s}" for s in stages]) as holder:
                reason = held(server, patch, "backup-lock", *least)
                assert str(holder.thread_id()) in reason
        with session(server, "BEGIN", "UPDATE sbtest1 SET k=k+1 WHERE id=1") as writer:
            assert gates(server, patch, *least, expect=0)
            writer.rollback()
    finally:
        server.sql("UNINSTALL SONAME 'metadata_lock_info'")


def test_the_lock_probe_leaves_nothing_behind(server, patch, least):
    before = server.sql("SHOW GLOBAL STATUS LIKE 'Binlog%'")
    with session(server, "FLUSH TABLES WITH READ LOCK"):
        held(server, patch, "backup-lock", *least)
    assert server.sql("XA RECOVER") == ()
    assert server.sql("SHOW GLOBAL STATUS LIKE 'Binlog%'") == before
    wait_until(lambda: not server.value("SELECT COUNT(*) FROM information_schema.PROCESSLIST "
                                        "WHERE USER='dbcare'"), 5, "the sessions to be gone")


def big_table(server):
    server.sql("CREATE OR REPLACE TABLE care_ddl (id INT PRIMARY KEY, filler CHAR(200)) "
               "ENGINE=InnoDB AS SELECT seq AS id, 'x' AS filler FROM seq_1_to_400000")


@pytest.mark.parametrize("algorithm", ["COPY", "INPLACE"])
def test_an_alter_table_under_way_holds(server, patch, least, algorithm):
    big_table(server)
    try:
        with in_background(server, f"ALTER TABLE care_ddl FORCE, ALGORITHM={algorithm}") as number:
            running = ("SELECT COUNT(*) FROM information_schema.PROCESSLIST "
                       f"WHERE ID={number} AND INFO LIKE 'ALTER%'")
            wait_until(lambda: server.value(running), 10, "the ALTER TABLE")
            reason = held(server, patch, "ddl", *least)
            assert f"connection {number} " in reason and "care_ddl" in reason
    finally:
        server.sql("DROP TABLE care_ddl")


def test_ddl_that_waits_for_a_lock_holds(server, patch, least):
    with session(server, "BEGIN", "SELECT * FROM sbtest1 LIMIT 1"):
        with in_background(server, "/* nightly */ ALTER TABLE sbtest1 FORCE") as number:
            waits = ("SELECT COUNT(*) FROM information_schema.PROCESSLIST "
                     f"WHERE ID={number} AND STATE LIKE 'Waiting for table metadata%'")
            wait_until(lambda: server.value(waits), 10, "the ALTER TABLE")
            held(server, patch, "ddl", *least)


def test_an_account_without_process_holds_instead_of_seeing_a_quiet_server(server, patch):
    server.sql("CREATE OR REPLACE USER small@localhost IDENTIFIED BY 'x'")
    try:
        reason = held(server, patch, "grants", "--no-defaults", "--user=small", "--password=x")
        assert "PROCESS" in reason and "small" in reason
    finally:
        server.sql("DROP USER small@localhost")


def test_an_account_that_cannot_see_the_lag_holds_where_there_is_a_limit(server, patch):
    server.sql("CREATE OR REPLACE USER small@localhost IDENTIFIED BY 'x'")
    server.sql("GRANT PROCESS ON *.* TO small@localhost")
    options = ["--no-defaults", "--user=small", "--password=x"]
    try:
        reason = held(server, patch, "lag", *options)
        assert "REPLICA MONITOR" in reason and "small" in reason
        assert gates(server, patch, *options, "--max-lag=none", expect=0)
    finally:
        server.sql("DROP USER small@localhost")


def test_privileges_through_a_role_are_enough(server, patch):
    server.sql("CREATE OR REPLACE ROLE watcher")
    server.sql("GRANT PROCESS, REPLICA MONITOR ON *.* TO watcher")
    server.sql("CREATE OR REPLACE USER small@localhost IDENTIFIED BY 'x'")
    server.sql("GRANT watcher TO small@localhost")
    server.sql("SET DEFAULT ROLE watcher FOR small@localhost")
    try:
        assert gates(server, patch, "--no-defaults", "--user=small", "--password=x", expect=0)
    finally:
        server.sql("DROP USER small@localhost")
        server.sql("DROP ROLE watcher")


def test_a_wrong_password_holds_and_is_told(server, patch, least):
    options = ["--no-defaults", "--user=dbcare", "--password=wrong"]
    reason = held(server, patch, "connection", *options)
    assert "1045" in reason and "dbcare" in reason


def test_max_connections_reached_holds(new_server, patch):
    server = new_server(options=["--max-connections=10"])
    connections = []
    with pytest.raises(pymysql.err.OperationalError):
        for _ in range(20):
            connections.append(server.connect())
    assert "1040" in held(server, patch, "connection")
    for connection in connections:
        connection.close()


def test_a_shutdown_under_way_holds(new_server, patch):
    """A slow shutdown with a lot to purge leaves a second in which the server is half gone."""
    server = new_server()
    big_table(server)
    with session(server, "START TRANSACTION WITH CONSISTENT SNAPSHOT", "SELECT 1"):
        server.sql("UPDATE care_ddl SET filler='y'")
        server.sql("DELETE FROM care_ddl")
        server.sql("SET GLOBAL innodb_fast_shutdown=0")
    server.process.terminate()
    texts = []
    while server.alive():
        done = care("dbcarectl", "apply", patch, server.pid, expect=None)
        if done.status == NOT_NOW:
            texts.append(done.text)
            assert "shutting down" in done.text or "connect" in done.text, done
        else:
            assert done.status in (1, 3), done
    assert any("shutting down" in text for text in texts), texts


def test_rollback_after_a_crash_holds(new_server, patch):
    server = new_server()
    big_table(server)
    with server.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE care_ddl SET filler='z'")
        server.sql("SET GLOBAL innodb_flush_log_at_trx_commit=1")
        server.sql("CREATE TABLE care_sync (a INT) ENGINE=InnoDB")
        server.kill()
    server.start()
    seen = set()

    def rolled_back():
        verdict = gates(server, patch)["rollback"]["verdict"]
        seen.add(verdict)
        return verdict == "ok"

    wait_until(rolled_back, 90, "the rollback")
    assert seen == {"hold", "ok"}


def test_force_recovery_holds(new_server, patch):
    server = new_server(options=["--innodb-force-recovery=1"])
    assert "innodb_force_recovery=1" in held(server, patch, "recovery")


@pytest.fixture
def galera(new_server):
    """A cluster of one node."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = new_server(options=[
        "--wsrep-on=ON", "--wsrep-provider=/usr/lib/galera/libgalera_smm.so",
        "--wsrep-cluster-address=gcomm://", "--wsrep-new-cluster", "--binlog-format=ROW",
        f"--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:{port}",
        "--wsrep-node-address=127.0.0.1"])
    wait_until(lambda: server.sql("SHOW STATUS LIKE 'wsrep_local_state'") ==
               (("wsrep_local_state", "4"),), 30, "the node to be Synced")
    return server


def test_a_cluster_node_that_is_not_synced_holds(galera, patch):
    assert gates(galera, patch, expect=0)["galera"]["verdict"] == "ok"
    galera.sql("SET GLOBAL wsrep_desync=ON")
    assert "desynchronised" in held(galera, patch, "galera")
    galera.sql("SET GLOBAL wsrep_desync=OFF")
    wait_until(lambda: gates(galera, patch)["galera"]["verdict"] == "ok", 10, "the node's return")
    with session(galera, "FLUSH TABLES WITH READ LOCK"):
        assert "wsrep_local_state" in held(galera, patch, "galera")
    wait_until(lambda: gates(galera, patch)["galera"]["verdict"] == "ok", 10, "the node's return")
    care("dbcarectl", "apply", patch, galera.pid)
    assert galera.sql("SHOW STATUS LIKE 'wsrep_local_state'") == (("wsrep_local_state", "4"),)
    care("dbcarectl", "revert", "--all", galera.pid)


def test_a_server_that_took_the_socket_of_another_is_not_asked(new_server, patch):
    first, second = new_server(), new_server()
    second.stop()
    second.socket = first.socket
    os.unlink(first.socket)
    second.start()
    reason = held(first, patch, "connection")
    assert str(second.pid) in reason and first.socket in reason
    assert gates(second, patch, expect=0)
    # The path alone names the one that answers there.
    assert care("dbcarectl", "info", first.socket, "--json").json["pid"] == second.pid


def test_no_gates_applies_all_the_same_and_the_history_tells(server, patch, least):
    with session(server, "FLUSH TABLES WITH READ LOCK"):
        care("dbcarectl", "apply", patch, server.pid, "--no-gates", *least)
    care("dbcarectl", "revert", "rnd-0-5", server.pid, *least)
    rows = [r for r in care("dbcarectl", "history", "--json").json["history"]
            if r["pid"] == server.pid and r["action"] == "apply"]
    assert rows[-1]["gates"] == "skipped" and rows[-1]["result"] == "applied"


def test_asking_takes_milliseconds(server, patch, least):
    begin = time.monotonic()
    for _ in range(5):
        gates(server, patch, *least, expect=0)
    assert time.monotonic() - begin < 2.5


# ---- limits: replication lag, load

@pytest.fixture
def pair(new_server):
    """(primary, replica): replication over loopback, as it runs."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    primary = new_server(options=["--skip-networking=0", "--bind-address=127.0.0.1",
                                  f"--port={port}", "--server-id=1", "--log-bin=bin"])
    replica = new_server(options=["--server-id=2"])
    primary.sql("CREATE USER replica@'127.0.0.1' IDENTIFIED BY 'secret'")
    primary.sql("GRANT REPLICATION SLAVE ON *.* TO replica@'127.0.0.1'")
    primary.sql("CREATE TABLE test.lag (n INT PRIMARY KEY)")
    file, position = primary.sql("SHOW MASTER STATUS")[0][:2]
    replica.sql("CREATE TABLE test.lag (n INT PRIMARY KEY)")
    replica.sql(f"CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, "
                "MASTER_USER='replica', MASTER_PASSWORD='secret', "
                f"MASTER_LOG_FILE='{file}', MASTER_LOG_POS={position}")
    replica.sql("START SLAVE")
    primary.sql("INSERT INTO test.lag VALUES (1)")
    wait_until(lambda: replica.sql("SELECT * FROM test.lag"), 60, "replication")
    return primary, replica


def test_a_replica_that_is_too_far_behind_holds_until_it_has_caught_up(pair, patch):
    primary, replica = pair
    assert gates(replica, patch)["lag"]["verdict"] == "ok"
    connection = replica.connect()
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO lag VALUES (2)")  # what the primary writes next waits for this
    primary.sql("INSERT INTO test.lag VALUES (2)")

    def behind():
        verdict = gates(replica, patch, "--max-lag=1")["lag"]
        return verdict["verdict"] == "hold" and verdict["reason"]

    reason = wait_until(behind, 60, "the gate to hold")
    assert "s behind its primary; the limit is 1 s" in reason
    assert "behind its primary" in held(replica, patch, "lag", "--max-lag=1")
    # A minute is the usual limit.
    assert gates(replica, patch)["lag"]["verdict"] == "ok"
    connection.rollback()
    connection.close()
    wait_until(lambda: len(replica.sql("SELECT * FROM test.lag")) == 2, 60, "replication")
    wait_until(lambda: gates(replica, patch, "--max-lag=1")["lag"]["verdict"] == "ok", 60, "the end")


def test_replication_of_which_one_half_has_stopped_holds_and_a_stopped_one_does_not(pair, patch):
    primary, replica = pair
    replica.sql("STOP SLAVE SQL_THREAD")
    assert "applying is No" in held(replica, patch, "lag")
    assert gates(replica, patch, "--max-lag=none")["lag"]["verdict"] == "ok"
    replica.sql("STOP SLAVE")
    assert gates(replica, patch)["lag"]["verdict"] == "ok"


def test_more_statements_than_the_limit_hold(server, patch):
    with contextlib.ExitStack() as stack:
        for n in range(4):
            stack.enter_context(in_background(server, "SELECT SLEEP(300)"))
        wait_until(lambda: int(
            server.sql("SHOW GLOBAL STATUS LIKE 'Threads_running'")[0][1]) >= 5, 30, "the load")
        assert "statements run at this moment; the limit is 3" in held(server, patch, "load",
                                                                       "--max-load=3")
        assert gates(server, patch)["load"]["verdict"] == "ok"
        assert gates(server, patch, "--max-load=100")["load"]["verdict"] == "ok"
    refused = care("dbcarectl", "check", patch, server.pid, "--max-load=many", expect=1)
    assert "'many' is no number, nor none" in refused.err

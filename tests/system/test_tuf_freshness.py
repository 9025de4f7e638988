# SPDX-License-Identifier: GPL-2.0-or-later
"""What is not the newest, to care-tuf: metadata that expired, an older version than one that was seen,
files of different moments, and a clock that is wrong."""
import datetime

import pytest

from tuf_sim import ALL, KEPT, days_ahead, fresh, server, setup  # noqa: F401


# ---- expiry ----

def test_an_expired_root_is_stored_and_ends_the_refresh(setup):
    repo, server, client = fresh(setup)
    repo.root["expires"] = days_ahead(-1)
    repo.publish_root()
    repo.bump("targets")
    repo.update_snapshot()
    assert client.refresh() == 1
    assert "root (version 2) expired" in client.last.err
    assert client.trusted() == {**ALL, "root": 2}
    # Only the last root has to be alive.
    repo.root["expires"] = days_ahead(30)
    repo.publish_root()
    assert client.refresh() == 0


@pytest.mark.parametrize("role", KEPT)
def test_an_expired_role_is_not_stored(setup, role):
    repo, server, client = fresh(setup)
    repo.bump("targets")
    repo.roles[role]["expires"] = days_ahead(-5)
    repo.update_snapshot()
    assert client.refresh() == 1
    assert f"{role} (version 2) expired" in client.last.err
    assert client.version(role) == 1


def test_expired_files_on_disk_still_serve_for_an_update(setup):
    repo, server, client = setup()
    repo.timestamp["expires"] = days_ahead(7)
    repo.snapshot["expires"] = days_ahead(7)
    assert client.refresh() == 0
    repo.bump("targets")
    repo.timestamp["expires"] = repo.snapshot["expires"] = days_ahead(21)
    repo.update_snapshot()
    assert client.refresh(days=18) == 0, client.last
    assert client.trusted() == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}
    # And they still guard against going back.
    repo.timestamp["version"] = 1
    assert client.refresh(days=22) == 1
    assert "older than the trusted" in client.last.err


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize("role", ["root", *KEPT])
def test_a_role_that_expired_on_disk_is_used_only_when_a_newer_one_comes(setup, role, newer):
    """The clock is set as a date, with a fraction and its zone, as python prints one."""
    repo, server, client = setup()
    now = datetime.datetime.now(datetime.timezone.utc)
    repo.roles[role]["expires"] = days_ahead(7)
    if role == "root":
        repo.publish_root()
    assert client.refresh() == 0
    before = client.trusted()
    if newer:
        repo.roles[role]["expires"] = days_ahead(21)
        if role == "root":
            repo.publish_root()
        else:
            repo.bump("targets")
            repo.update_snapshot()
    assert client.refresh(at=now + datetime.timedelta(days=6)) == 0, client.last
    if newer:
        assert client.trusted()[role] == before[role] + 1
    assert client.refresh(at=now + datetime.timedelta(days=18)) == (0 if newer else 1), client.last
    assert newer or "expired" in client.last.err


@pytest.mark.parametrize("newer", [False, True])
def test_a_delegated_role_that_expired_on_disk_is_fetched_anew(setup, newer):
    repo, server, client = setup()
    now = datetime.datetime.now(datetime.timezone.utc)
    repo.delegate("targets", "d", ["d/*"])
    repo.roles["d"]["expires"] = days_ahead(7)
    repo.add_target("d", "d/1", b"first")
    repo.add_target("d", "d/2", b"second")
    repo.update_snapshot()
    assert client.download("d/1") == 0
    if newer:
        repo.roles["d"]["expires"] = days_ahead(21)
        repo.bump("d")
        repo.update_snapshot()
    assert client.download("d/2", at=now + datetime.timedelta(days=18)) == (0 if newer else 1)
    assert newer or "d (version 1) expired" in client.last.err
    assert client.downloaded() == {"d/1": b"first", **({"d/2": b"second"} if newer else {})}


def test_a_repository_that_stands_still_is_noticed(setup):
    """Freeze: the mirror serves yesterday's files for ever."""
    repo, server, client = fresh(setup)
    assert client.refresh(days=29) == 0
    assert client.refresh(days=31) == 1
    assert "expired" in client.last.err
    assert client.trusted() == ALL


@pytest.mark.parametrize("days", [-365, 365])
def test_a_clock_wrong_by_a_year_harms_nothing(setup, days):
    repo, server, client = fresh(setup)
    repo.bump("targets")
    repo.update_snapshot()
    assert client.refresh(days=days) == (0 if days < 0 else 1)
    assert client.refresh() == 0
    assert client.trusted() == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}


# ---- rollback ----

def test_an_older_timestamp_is_refused(setup):
    repo, server, client = setup()
    repo.update_timestamp()
    assert client.refresh() == 0
    repo.timestamp["version"] = 1
    assert client.refresh() == 1
    assert client.version("timestamp") == 2
    assert server.requests[-1] == ("timestamp", None)


@pytest.mark.parametrize("with_hashes", [False, True])
def test_an_older_snapshot_is_refused(setup, with_hashes):
    repo, server, client = setup()
    repo.hashes = with_hashes
    repo.update_snapshot()
    assert client.refresh() == 0
    repo.snapshot["version"] = 1
    repo.update_timestamp()
    assert client.refresh() == 1
    assert client.version("timestamp") == 2 and client.version("snapshot") == 2
    assert server.requests[-1] == ("timestamp", None)


@pytest.mark.parametrize("with_hashes", [False, True])
def test_older_targets_are_refused(setup, with_hashes):
    repo, server, client = setup()
    repo.hashes = with_hashes
    repo.targets["version"] = 3
    repo.update_snapshot()
    assert client.refresh() == 0
    repo.targets["version"] = 2
    repo.update_snapshot()
    assert client.refresh() == 1
    assert client.version("snapshot") == 2 and client.version("targets") == 3


def test_a_role_cannot_vanish_from_the_snapshot(setup):
    repo, server, client = setup()
    repo.delegate("targets", "role1")
    repo.update_snapshot()
    assert client.refresh() == 0
    del repo.snapshot["meta"]["role1.json"]
    repo.snapshot["version"] += 1
    repo.update_timestamp()
    assert client.refresh() == 1
    assert "lost role1.json" in client.last.err


def test_a_lower_snapshot_that_no_timestamp_names_is_not_even_asked_for(setup):
    repo, server, client = setup()
    repo.update_snapshot()
    assert client.refresh() == 0
    server.requests.clear()
    repo.snapshot["version"] = 1
    assert client.refresh() == 0
    assert server.requests == [("root", 2), ("timestamp", None)]
    assert client.version("snapshot") == 2


def test_versions_that_are_served_and_not_named_yet_are_left_alone(setup):
    """A publisher writes the files one by one, the timestamp last."""
    repo, server, client = setup()
    repo.keep("snapshot", "targets")
    repo.targets["version"] += 1
    repo.snapshot["version"] += 1
    repo.timestamp["version"] += 1
    repo.publish_root()
    assert client.refresh() == 0, client.last
    assert client.trusted() == {"root": 2, "timestamp": 2, "snapshot": 1, "targets": 1}
    # Now the snapshot is named, the targets still not.
    repo.update_timestamp()
    assert client.refresh() == 0, client.last
    assert client.trusted() == {"root": 2, "timestamp": 3, "snapshot": 2, "targets": 1}


def test_a_snapshot_that_the_timestamp_does_not_name_is_refused(setup):
    """Mix and match."""
    repo, server, client = setup()
    repo.snapshot["version"] = 2
    assert client.refresh() == 1
    assert client.trusted() == {"root": 1, "timestamp": 1}
    assert server.requests[-1] == ("snapshot", 1)


def test_targets_that_the_snapshot_does_not_name_are_refused(setup):
    repo, server, client = setup()
    repo.targets["version"] = 2
    assert client.refresh() == 1
    assert client.trusted() == {"root": 1, "timestamp": 1, "snapshot": 1}
    assert server.requests[-1] == ("targets", 1)


def test_a_root_of_another_version_than_its_name_is_refused(setup):
    repo, server, client = setup()
    repo.root["version"] = 7
    repo.publish_root()
    assert client.refresh() == 1
    assert client.version("root") == 1


@pytest.mark.parametrize("rotated", [("timestamp",), ("snapshot",), ("timestamp", "snapshot")])
def test_after_a_fast_forward_rotated_keys_bring_versions_back(setup, rotated):
    repo, server, client = setup()
    for role in rotated:
        repo.roles[role]["version"] = 99999
    if "snapshot" in rotated:
        repo.targets["version"] = 99999
        repo.snapshot["meta"]["targets.json"]["version"] = 99999
        repo.timestamp["meta"]["snapshot.json"]["version"] = repo.snapshot["version"]
    assert client.refresh() == 0, client.last
    for role in rotated:
        repo.rotate(role)
        repo.roles[role]["version"] = 1
    repo.targets["version"] = 2
    repo.snapshot["meta"]["targets.json"]["version"] = 2
    repo.snapshot["version"] = repo.timestamp["version"] = 1
    repo.timestamp["meta"]["snapshot.json"]["version"] = 1
    if rotated == ("timestamp",):
        repo.targets["version"] = 1
        repo.snapshot["meta"]["targets.json"]["version"] = 1
    repo.publish_root()
    assert client.refresh() == 0, client.last
    assert client.version("timestamp") == 1 and client.version("snapshot") == 1
    assert client.version("targets") == repo.targets["version"]

# SPDX-License-Identifier: GPL-2.0-or-later
"""care-tuf against a repository that is bent at will: what it accepts, what it keeps, and exactly
which files it asks for."""
import json
import os

import pytest

from tuf_sim import ALL, KEPT, Client, Key, Repo, canonical, fresh, server, setup  # noqa: F401


# ---- a refresh ----

def test_a_first_refresh_asks_for_each_file_once_in_order(setup):
    repo, server, client = setup()
    assert client.trusted() == {"root": 1}
    assert client.refresh() == 0
    assert server.requests == [("root", 2), ("timestamp", None), ("snapshot", 1), ("targets", 1)]
    assert client.trusted() == ALL


def test_what_is_stored_are_the_bytes_that_came(setup):
    """Not a form of our own: the hashes in the metadata above are of the publisher's."""
    repo, server, client = setup()
    repo.delegate("targets", "d")
    repo.update_snapshot()
    for role in ("timestamp", "snapshot", "targets", "d"):
        repo.tamper[role] = lambda data: b"\n" + data.replace(b": ", b"  :\t") + b" \n"
    repo.roots.append(b" " + Repo.signed(dict(repo.root, version=2), repo.signers["root"]) + b"\t")
    assert client.download("nowhere") == 1
    assert client.stored("root") == repo.roots[1]
    for role in ("timestamp", "snapshot", "targets", "d"):
        assert client.stored(role) == repo.file(role)


@pytest.mark.parametrize("folder", ["", "/a%2Fb%5B%3F%20%23%5D"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_urls_may_end_in_a_slash_and_are_sent_as_they_are(setup, monkeypatch, folder, slash):
    repo, server, client = setup()
    monkeypatch.setattr(server, "folder", folder)
    repo.add_target("targets", "a/b.txt", b"x")
    client.slash = slash
    assert client.download("a/b.txt") == 0, client.last
    assert [r[0] for r in server.requests[:4]] == ["root", "timestamp", "snapshot", "targets"]
    assert client.downloaded() == {"a/b.txt": b"x"}


def test_without_consistent_snapshots_names_have_no_versions(setup):
    repo, server, client = setup(Repo(consistent=False))
    repo.add_target("targets", "a/b.txt", b"x")
    assert client.download("a/b.txt") == 0
    assert server.requests == [("root", 2), ("timestamp", None), ("snapshot", None),
                               ("targets", None), "a/b.txt"]


def test_what_is_trusted_already_is_not_asked_for_again(setup):
    repo, server, client = fresh(setup)
    assert client.refresh() == 0
    assert server.requests == [("root", 2), ("timestamp", None)]
    server.requests.clear()
    repo.update_timestamp()
    assert client.refresh() == 0
    assert server.requests == [("root", 2), ("timestamp", None)]
    server.requests.clear()
    repo.bump("targets")
    repo.update_snapshot()
    assert client.refresh() == 0
    assert server.requests == [("root", 2), ("timestamp", None), ("snapshot", 2), ("targets", 2)]


def test_a_download_refreshes_first_and_fails_for_an_unknown_target(setup):
    repo, server, client = setup()
    assert client.download("nowhere") == 1
    assert "no target nowhere" in client.last.err
    assert server.requests == [("root", 2), ("timestamp", None), ("snapshot", 1), ("targets", 1)]
    assert client.trusted() == ALL


def test_several_roots_are_followed_one_by_one(setup):
    repo, server, client = setup()
    repo.publish_root()
    repo.publish_root()
    assert client.refresh() == 0
    assert server.requests[:4] == [("root", 2), ("root", 3), ("root", 4), ("timestamp", None)]
    assert client.version("root") == 3


@pytest.mark.parametrize("spoil", ["no version", "wrong signature", "no json", "duplicate key",
                                   "empty"])
def test_a_root_that_is_none_is_not_trusted_and_nothing_is_asked_for(setup, spoil):
    repo, server, client = setup()
    root = json.loads(repo.roots[0])
    if spoil == "no version":
        del root["signed"]["version"]
    elif spoil == "wrong signature":
        root["signatures"][0]["sig"] = Key().sign(b"something else")
    bad = json.dumps(root).encode()
    if spoil == "no json":
        bad = bad[:-1]
    elif spoil == "duplicate key":
        bad = bad[:-1] + b', "signed": {}}'
    elif spoil == "empty":
        bad = b""
    client.init(bad, expect=(0, 1))
    # init refused it and kept what was there; put it there by force.
    with open(os.path.join(client.dir, "root.json"), "wb") as file:
        file.write(bad)
    assert client.refresh() == 1
    assert server.requests == []


def test_after_an_init_that_failed_nothing_is_trusted(server, tmp_path):
    server.repo, server.requests, server.answers = Repo("ecdsa"), [], {}
    root = json.loads(server.repo.roots[0])
    root["signatures"][0]["sig"] = Key("ecdsa").sign(b"something else")
    client = Client(server, str(tmp_path))
    os.mkdir(client.dir)
    client.init(json.dumps(root).encode(), expect=1)
    assert os.listdir(client.dir) == []
    assert client.refresh() == 1
    assert client.download("x") == 1
    assert server.requests == []


def test_fields_that_are_not_known_are_part_of_what_is_signed(setup):
    repo, server, client = fresh(setup)
    repo.root["later"] = {"a": [1, True, None, "\u00e9 \"quoted\" \\"]}
    keyid = repo.root["roles"]["root"]["keyids"][0]
    repo.root["keys"][keyid]["extra"] = {"b": 2, "a": 1}
    repo.root["roles"]["root"]["another"] = "value"
    repo.publish_root()
    assert client.refresh() == 0, client.last
    assert client.version("root") == 2


def test_a_key_s_own_fields_are_no_reason_to_refuse_it(setup):
    repo, server, client = setup(Repo("ecdsa"))
    key = Key("ecdsa").say(keyid_hash_algorithms="md5", extra={"b": 2, "a": [1, None]})
    repo.root["roles"]["snapshot"]["keyids"] = []
    repo.signers["snapshot"] = [key]
    repo.root_key("snapshot", key)
    repo.publish_root()
    assert client.refresh() == 0, client.last
    assert client.trusted() == {**ALL, "root": 2}


def test_what_other_publishers_write_is_understood(setup):
    """As tuf-on-ci and sigstore have it: own fields everywhere, key ids that are no hashes of what the
    keys say now, the old key type of ECDSA, signatures that are still empty, an older version of the
    specification, and a role that two may sign and one has signed."""
    repo, server, client = setup(Repo("ecdsa"))
    own = {"x-tuf-on-ci-expiry-period": 7300, "x-tuf-on-ci-signing-period": 60}
    repo.delegate("targets", "signed", ("signed/*", "signed/*/*"), terminating=True, kind="ecdsa")
    repo.targets["delegations"]["roles"][0]["keyids"].append("0" * 64)
    repo.targets["delegations"]["keys"]["0" * 64] = dict(Key("ecdsa").json, **{
        "x-tuf-on-ci-keyowner": "@somebody"})
    for part in (repo.root, repo.root["roles"]["snapshot"], repo.root["roles"]["timestamp"],
                 repo.targets, repo.roles["signed"]):
        part.update(own)
    for body in repo.roles.values():
        body["spec_version"] = "1.0.31"
    for key in repo.root["keys"].values():
        key.update({"x-tuf-on-ci-online-uri": "kms:key/1", "keyid_hash_algorithms": ["md5"],
                    "keytype": "ecdsa-sha2-nistp256"})
    repo.add_target("signed", "signed/a/file", b"contents")

    def sign_for_some(data):
        file = json.loads(data)
        file["signatures"].insert(0, {"keyid": "0" * 64, "sig": ""})
        return json.dumps(file).encode()

    repo.tamper["signed"] = sign_for_some
    repo.publish_root()
    repo.update_snapshot()
    assert client.download("signed/a/file") == 0, client.last
    assert client.downloaded() == {"signed/a/file": b"contents"}
    assert client.version("root") == 2


@pytest.mark.parametrize("role", KEPT)
def test_a_role_without_a_good_signature_is_refused(setup, role):
    repo, server, client = setup()
    good = repo.signers[role]
    for signers in ([], [Key()]):
        repo.signers[role] = signers
        assert client.refresh() == 1
        assert "signed by 0 of the 1" in client.last.err
        assert client.trusted() == KEPT[role]
    repo.signers[role] = good
    assert client.refresh() == 0


@pytest.mark.parametrize("role", KEPT)
def test_a_changed_byte_is_refused(setup, role):
    repo, server, client = setup()
    repo.tamper[role] = lambda data: data.replace(b'"spec_version": "1.0.34"',
                                                  b'"spec_version": "1.0.35"')
    assert client.refresh() == 1
    assert client.trusted() == KEPT[role]


def test_a_file_of_another_type_is_refused_though_all_else_is_right(setup):
    """A snapshot in the place of the timestamp: signed by its key, and with what it needs."""
    repo, server, client = setup()
    repo.snapshot["meta"] = {"snapshot.json": {"version": 1}, "targets.json": {"version": 1}}
    repo.signers["snapshot"] += repo.signers["timestamp"]
    repo.root_key("snapshot", repo.signers["timestamp"][0])
    repo.publish_root()
    repo.tamper["timestamp"] = lambda data: repo.file("snapshot")
    assert client.refresh() == 1
    assert "timestamp.json: not of the type" in client.last.err
    assert client.trusted() == {"root": 2}
    del repo.tamper["timestamp"]
    assert client.refresh() == 0, client.last


@pytest.mark.parametrize("status", [404, 403, 500])
@pytest.mark.parametrize("role", KEPT)
def test_a_missing_role_fails_and_keeps_what_was_there(setup, role, status):
    repo, server, client = fresh(setup)
    repo.bump("targets")
    repo.update_snapshot()
    server.answers[(role, None if role == "timestamp" else 2)] = status
    assert client.refresh() == 1
    assert str(status) in client.last.err
    kept = {"timestamp": ALL, "snapshot": {**ALL, "timestamp": 2},
            "targets": {**ALL, "timestamp": 2, "snapshot": 2}}
    assert client.trusted() == kept[role]
    server.answers = {}
    assert client.refresh() == 0


def test_a_root_that_cannot_be_fetched_is_no_end_of_roots(setup):
    repo, server, client = setup()
    server.answers[("root", 2)] = 500
    assert client.refresh() == 1
    assert server.requests == [("root", 2)]
    server.answers[("root", 2)] = 403
    assert client.refresh() == 0


def test_a_timestamp_of_the_same_version_replaces_nothing(setup):
    repo, server, client = fresh(setup)
    repo.timestamp["meta"]["snapshot.json"]["version"] = 100
    assert client.refresh() == 0
    assert server.requests == [("root", 2), ("timestamp", None)]
    with open(os.path.join(client.dir, "timestamp.json")) as file:
        assert json.load(file)["signed"]["meta"]["snapshot.json"]["version"] == 1


@pytest.mark.parametrize("limit", [("timestamp", 16384), ("root", 512000)])
def test_a_role_longer_than_its_cap_is_not_read_to_its_end(setup, limit):
    role, size = limit
    repo, server, client = setup()
    if role == "root":
        repo.root["padding"] = "x" * size
        repo.publish_root()
    else:
        repo.timestamp["padding"] = "x" * size
    assert client.refresh() == 1
    assert "more than" in client.last.err
    assert client.trusted() == {"root": 1}


def test_a_signed_length_and_hash_bind_snapshot_and_targets(setup):
    repo, server, client = setup()
    repo.hashes = True
    repo.update_snapshot()
    assert client.refresh() == 0, client.last
    before = client.trusted()
    # Another file with the version that was named, signed by the right key.
    repo.bump("targets")
    repo.hashes = False
    repo.update_snapshot()
    repo.snapshot["meta"]["targets.json"].update(hashes={"sha256": "0" * 64})
    repo.update_timestamp()
    assert client.refresh() == 1
    assert "sha256" in client.last.err
    assert client.version("targets") == before["targets"]


# ---- what the machine does to us ----

def test_two_at_once_do_not_get_in_each_other_s_way(setup):
    import fcntl
    repo, server, client = fresh(setup)
    folder = os.open(client.dir, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        assert client.refresh() == 1
        assert "another process" in client.last.err
        assert server.requests == []
    finally:
        os.close(folder)
    assert client.refresh() == 0


def test_what_is_broken_on_disk_is_fetched_again(setup):
    repo, server, client = fresh(setup)
    for role in ("timestamp", "snapshot", "targets"):
        for broken in (b"", b"{", b"\0" * 100, canonical({"signed": 1, "signatures": []})):
            with open(os.path.join(client.dir, role + ".json"), "wb") as file:
                file.write(broken)
            assert client.refresh() == 0, client.last
            assert client.trusted() == ALL

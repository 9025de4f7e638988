# SPDX-License-Identifier: GPL-2.0-or-later
"""care-tuf against a repository that is bent at will: what it accepts, what it keeps, and exactly
which files it asks for."""
import datetime
import json
import os

import pytest

import tuf_sim
from tuf_sim import Key, Repo, canonical, days_ahead

ALL = {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}


@pytest.fixture(scope="module")
def server():
    server = tuf_sim.Server()
    yield server
    server.stop()


@pytest.fixture
def setup(server, tmp_path):
    """setup(REPO) -> (repo, server, client): with a trusted root, nothing asked for yet."""
    def make(repo=None):
        server.repo = repo or Repo()
        server.requests, server.answers = [], {}
        return server.repo, server, tuf_sim.Client(server, str(tmp_path)).init()
    return make


def fresh(setup, repo=None):
    """The same after a first refresh."""
    repo, server, client = setup(repo)
    assert client.refresh() == 0, client.last
    server.requests.clear()
    return repo, server, client


# ---- basic ----

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
    client = tuf_sim.Client(server, str(tmp_path))
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


KEPT = {"timestamp": {"root": 1}, "snapshot": {"root": 1, "timestamp": 1},
        "targets": {"root": 1, "timestamp": 1, "snapshot": 1}}


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


# ---- keys ----

KINDS = ["ed25519", "ecdsa", "rsa", "rsa-pkcs1"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_key_signs_all_roles(setup, kind):
    repo, server, client = setup(Repo(kind=kind))
    repo.delegate("targets", "d", kind=kind)
    repo.add_target("d", "x", b"x")
    repo.bump("targets")
    repo.update_snapshot()
    assert client.download("x") == 0, client.last
    assert client.downloaded() == {"x": b"x"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spoil", ["other content", "one bit", "cut", "empty"])
def test_a_wrong_signature_of_each_kind_of_key_is_refused(setup, kind, spoil):
    """Root needs two keys; the other one's signature is always good."""
    repo, server, client = setup()
    key = repo.add_key("root", kind)
    repo.root["roles"]["root"]["threshold"] = 2
    repo.publish_root()
    assert client.refresh() == 0, client.last
    repo.publish_root()
    good = repo.roots[-1]
    root = json.loads(good)
    entry = next(s for s in root["signatures"] if s["keyid"] == key.id)
    entry["sig"] = {"other content": key.sign(b"something else"),
                    "one bit": entry["sig"][:-1] + "%x" % (int(entry["sig"][-1], 16) ^ 1),
                    "cut": entry["sig"][:-2], "empty": ""}[spoil]
    repo.roots[-1] = json.dumps(root).encode()
    assert client.refresh() == 1
    assert "signed by 1 of the 2" in client.last.err
    assert client.version("root") == 2
    repo.roots[-1] = good
    assert client.refresh() == 0
    assert client.version("root") == 3


@pytest.mark.parametrize("kind,other", [("rsa", "rsa-pkcs1"), ("rsa-pkcs1", "rsa")])
def test_an_rsa_signature_of_the_other_scheme_is_refused(setup, kind, other):
    repo, server, client = setup(Repo(kind))
    repo.signers["timestamp"][0].kind = other
    assert client.refresh() == 1
    assert "signed by 0 of the 1" in client.last.err
    repo.signers["timestamp"][0].kind = kind
    repo.update_timestamp()
    assert client.refresh() == 0, client.last


@pytest.mark.parametrize("signature", ["plausible", ""])
def test_a_wrong_signature_beside_enough_good_ones_does_no_harm(setup, signature):
    repo, server, client = setup(Repo("ecdsa"))
    odd = repo.add_key("timestamp", "ecdsa")
    repo.publish_root()
    wrong = odd.sign(b"something else") if signature else ""

    def spoil(data):
        file = json.loads(data)
        next(s for s in file["signatures"] if s["keyid"] == odd.id)["sig"] = wrong
        file["signatures"].reverse()
        return json.dumps(file).encode()

    repo.tamper["timestamp"] = spoil
    assert client.refresh() == 0, client.last
    assert client.trusted() == {**ALL, "root": 2}


@pytest.mark.parametrize("role", KEPT)
def test_two_signatures_by_one_key_are_no_form_even_when_one_is_enough(setup, role):
    repo, server, client = setup()
    repo.signers[role] *= 2
    assert client.refresh() == 1
    assert "two signatures by one keyid" in client.last.err
    assert client.trusted() == KEPT[role]


def test_more_signatures_needed_than_there_are_keys(setup):
    repo, server, client = setup()
    for _ in range(4):
        repo.add_key("snapshot")
    repo.root["roles"]["snapshot"]["threshold"] = 6
    repo.publish_root()
    assert client.refresh() == 1
    assert "signed by 5 of the 6" in client.last.err
    assert client.trusted() == {"root": 2, "timestamp": 1}


def test_a_threshold_counts_different_keys(setup):
    repo, server, client = fresh(setup)
    repo.root["roles"]["snapshot"]["threshold"] = 3
    repo.add_key("snapshot")
    repo.update_snapshot()
    repo.publish_root()
    assert client.refresh() == 1
    assert "signed by 2 of the 3" in client.last.err
    repo.add_key("snapshot")
    repo.add_key("snapshot")
    repo.update_snapshot()
    repo.publish_root()
    assert client.refresh() == 0
    assert client.version("snapshot") == 3 and client.version("root") == 3


def test_one_key_under_many_names_counts_once(setup):
    repo, server, client = fresh(setup)
    key = Key()
    for n in range(9):
        alias = Key.__new__(Key)
        alias.__dict__.update(key.__dict__, id=f"{n:064x}")
        repo.root_key("snapshot", alias)
        repo.signers["snapshot"].append(alias)
    repo.root["roles"]["snapshot"]["threshold"] = 3
    repo.publish_root()
    repo.update_snapshot()
    assert client.refresh() == 1
    assert "signed by 2 of the 3" in client.last.err
    assert client.version("snapshot") == 1


def test_one_key_id_twice_counts_once(setup):
    repo, server, client = fresh(setup)
    repo.root["roles"]["snapshot"]["keyids"] *= 3
    repo.root["roles"]["snapshot"]["threshold"] = 2
    repo.publish_root()
    repo.update_snapshot()
    assert client.refresh() == 1
    repo.signers["snapshot"] *= 2
    repo.update_snapshot()
    assert client.refresh() == 1
    assert client.version("snapshot") == 1


def test_a_key_that_root_does_not_list_for_the_role_does_not_count(setup):
    repo, server, client = fresh(setup)
    extra = Key()
    repo.root["keys"][extra.id] = extra.json
    repo.root["roles"]["snapshot"]["threshold"] = 2
    repo.signers["snapshot"].append(extra)
    repo.publish_root()
    repo.update_snapshot()
    assert client.refresh() == 1
    assert "signed by 1 of the 2" in client.last.err


def test_a_key_of_an_unknown_kind_does_not_count_and_does_no_harm(setup):
    repo, server, client = fresh(setup)
    for n, odd in enumerate(({"keytype": "quantum", "scheme": "q", "keyval": {"public": "x"}},
                             {"keytype": "rsa", "scheme": "rsassa-pss-sha256",
                              "keyval": {"public": "no PEM"}})):
        repo.root["keys"][f"{n:064x}"] = odd
        repo.root["roles"]["snapshot"]["keyids"].append(f"{n:064x}")
    keyid = repo.root["roles"]["snapshot"]["keyids"][0]
    repo.root["keys"][keyid]["keyid_hash_algorithms"] = ["md5"]
    repo.publish_root()
    repo.update_snapshot()
    assert client.refresh() == 0, client.last
    assert client.version("snapshot") == 2


# ---- rotation ----

K = [Key() for _ in range(10)]


def rotate_root(repo, steps):
    """Each step: (keys of the next root, threshold, who signs it)."""
    for keys, threshold, signers in steps:
        repo.root["roles"]["root"] = {"keyids": [k.id for k in keys], "threshold": threshold}
        repo.root["keys"].update({k.id: k.json for k in keys})
        repo.publish_root(signers=signers)


def root_start(keys, threshold):
    repo = Repo()
    repo.roots.clear()
    repo.root["roles"]["root"] = {"keyids": [k.id for k in keys], "threshold": threshold}
    repo.root["keys"].update({k.id: k.json for k in keys})
    repo.publish_root(bump=False, signers=list(keys))
    return repo


# first root's keys, threshold; steps; version that is reached
ROOTS = {
    "1-of-1 key rotation": (K[:1], 1, [(K[1:2], 1, K[:2])], 2),
    "1-of-1 rotation without the old key": (K[:1], 1, [(K[1:2], 1, K[1:2])], 1),
    "1-of-1 rotation without the new key": (K[:1], 1, [(K[1:2], 1, K[:1])], 1),
    "3 rotations in a row": (K[:1], 1, [(K[1:2], 1, K[:2]), (K[2:3], 1, K[1:3]),
                                        (K[:1], 1, [K[0], K[2]])], 4),
    "the second of three fails": (K[:1], 1, [(K[1:2], 1, K[:2]), (K[2:3], 1, K[:1] + K[2:3]),
                                             (K[:1], 1, K)], 2),
    "2-of-3 with one rotated": (K[:3], 2, [(K[1:4], 2, K[1:3])], 2),
    "2-of-3 with two rotated": (K[:2], 2, [(K[2:4], 2, K)], 2),
    "2-of-2, old threshold missed": (K[:2], 2, [(K[2:4], 2, K[1:4])], 1),
    "2-of-2, new threshold missed": (K[:2], 2, [(K[2:4], 2, K[:3])], 1),
    "threshold raised": (K[:1], 1, [(K[:3], 3, K[:3])], 2),
    "threshold raised and missed": (K[:1], 1, [(K[:3], 3, K[:2])], 1),
    "threshold lowered": (K[:3], 3, [(K[:3], 1, K[:3])], 2),
    "threshold lowered by less than the old one": (K[:3], 3, [(K[:3], 1, K[:2])], 1),
    "unsigned": (K[:1], 1, [(K[:1], 1, [])], 1),
    "1-of-1, then signed by the new key alone": (K[:1], 1, [(K[1:2], 1, K[:2]),
                                                            (K[1:2], 1, K[1:2])], 3),
    "signatures by strangers do no harm": (K[:1], 1, [(K[1:2], 1, [K[8], *K[:2], K[9]]),
                                                      (K[1:2], 1, [K[8], K[1], K[9]])], 3),
    "strangers cannot stand in for the old key": (K[:1], 1, [(K[1:2], 1, K[1:4])], 1),
    "strangers cannot stand in for the new key": (K[:1], 1, [(K[1:2], 1, [K[0], *K[2:4]])], 1),
    "3-of-5, signed by others each time": (K[:5], 3, [(K[:5], 3, [K[0], K[4], K[1]]),
                                                      (K[:5], 3, [K[3], K[1], K[0]]),
                                                      (K[:5], 3, K[2:5])], 4),
    "3-of-5, one rotated, by keys in both": (K[:5], 3, [(K[1:6], 3, K[2:5])], 2),
    "3-of-5, one rotated, by old and new": (K[:5], 3, [(K[1:6], 3, [K[0], K[2], K[4], K[5]]),
                                                       (K[1:6], 3, K[3:6])], 3),
    "3-of-5, all rotated": (K[:5], 3, [(K[5:], 3, K[1:4] + K[6:9]), (K[5:], 3, K[7:])], 3),
    "3-of-5, one rotated, 2 of the new": (K[:5], 3, [(K[1:6], 3, K[:3])], 1),
    "3-of-5, one rotated, 2 of the old": (K[:5], 3, [(K[1:6], 3, K[3:6])], 1),
    "1-of-3 to 2-of-3": (K[:3], 1, [(K[:3], 2, K[1:3])], 2),
    "1-of-3 to 2-of-3, missed": (K[:3], 1, [(K[:3], 2, K[1:2])], 1),
    "2-of-3 to 1-of-3 and used": (K[:3], 2, [(K[:3], 1, K[:2]), (K[:3], 1, K[2:3])], 3),
    "2-of-3 to 1-of-3, missed": (K[:3], 2, [(K[:3], 1, K[:1])], 1),
    "1-of-1 to 2-of-2": (K[:1], 1, [(K[:2], 2, K[:2])], 2),
}


@pytest.mark.parametrize("case", ROOTS)
def test_root_rotation(setup, case):
    keys, threshold, steps, reached = ROOTS[case]
    repo, server, client = setup(root_start(keys, threshold))
    rotate_root(repo, steps)
    assert client.refresh() == (0 if reached == len(steps) + 1 else 1)
    assert client.stored("root") == repo.roots[reached - 1]


# keys of the role, threshold, who signs it, whether that is enough
SIGNED = {
    "strangers too": (K[1:2], 1, [K[3], K[1], K[4]], True),
    "strangers alone": (K[2:3], 1, [K[1], K[3], K[4]], False),
    "3-of-5, one signer is no key of it": ([*K[:2], *K[3:6]], 3, [K[0], K[2], K[4]], False),
    "3-of-5, one signature missing": ([*K[:2], *K[3:6]], 3, [K[0], K[4]], False),
    "3-of-5, the first": (K[:5], 3, K[:3], True),
    "3-of-5, spread": (K[:5], 3, [K[0], K[2], K[4]], True),
    "3-of-5, in another order": (K[:5], 3, [K[4], K[0], K[1]], True),
    "3-of-5, the last": (K[:5], 3, K[2:5], True),
    "3-of-5, all": (K[:5], 3, K[:5], True),
}


@pytest.mark.parametrize("case", SIGNED)
def test_thresholds_of_the_other_roles(setup, case):
    keys, threshold, signers, good = SIGNED[case]
    repo, server, client = fresh(setup)
    for role in KEPT:
        before = list(repo.signers[role]), repo.root["roles"][role]
        repo.root["roles"][role] = {"keyids": [k.id for k in keys], "threshold": threshold}
        repo.root["keys"].update({k.id: k.json for k in keys})
        repo.signers[role] = list(signers)
        repo.publish_root()
        repo.bump("targets")
        repo.update_snapshot()
        assert client.refresh() == (0 if good else 1), client.last
        assert client.version("root") == repo.root["version"]
        assert (client.stored(role) == repo.file(role)) == good
        if not good:
            repo.signers[role], repo.root["roles"][role] = before


@pytest.mark.parametrize("role", KEPT)
@pytest.mark.parametrize("who", ["new", "old", "both", "nobody"])
def test_rotation_of_the_other_roles(setup, role, who):
    repo, server, client = fresh(setup)
    old = repo.signers[role]
    repo.rotate(role)
    repo.signers[role] = {"new": repo.signers[role], "old": old,
                          "both": old + repo.signers[role], "nobody": []}[who]
    repo.publish_root()
    repo.bump("targets")
    repo.update_snapshot()
    good = who in ("new", "both")
    assert client.refresh() == (0 if good else 1), client.last
    assert client.version("root") == 2
    if good:
        assert client.version(role) == 2


# ---- delegations ----

GRAPHS = {
    "one": ([("targets", "A")], "A"),
    "two": ([("targets", "A"), ("targets", "B")], "AB"),
    "two levels": ([("targets", "A"), ("targets", "B"), ("B", "C")], "ABC"),
    "depth first": ([("targets", "A"), ("targets", "B"), ("A", "C"), ("A", "D")], "ACDB"),
    "three levels": ([("targets", "A"), ("targets", "B"), ("A", "C"), ("C", "D")], "ACDB"),
    "terminating ends all but its descendants":
        ([("targets", "A"), ("targets", "B"), ("A", "C", dict(terminating=True)), ("A", "D")],
         "AC"),
    "terminating with descendants":
        ([("targets", "A"), ("targets", "B"), ("A", "C", dict(terminating=True)), ("C", "D")],
         "ACD"),
    "a branch whose path does not match":
        ([("targets", "A", dict(paths=["*.py"])), ("targets", "B"), ("A", "C")], "B"),
    "a terminating branch that does not match ends nothing":
        ([("targets", "A", dict(paths=["*.py"], terminating=True)), ("targets", "B")], "B"),
    "circle": ([("targets", "A"), ("targets", "B"), ("B", "C"), ("C", "D"), ("D", "B")], "ABCD"),
    "a role under two": ([("targets", "A"), ("targets", "B"), ("B", "C"), ("A", "C")], "ACB"),
    "itself": ([("targets", "A"), ("A", "A")], "A"),
    "a lower branch whose path does not match":
        ([("targets", "A"), ("targets", "B"), ("A", "C", dict(paths=["*.py"])), ("C", "D")], "AB"),
    "a role under two, by the one whose path matches":
        ([("targets", "A"), ("targets", "B"), ("B", "C"), ("A", "C", dict(paths=["*.py"]))],
         "ABC"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_delegations_are_visited_in_their_order(setup, name):
    edges, order = GRAPHS[name]
    repo, server, client = setup()
    for parent, child, *options in edges:
        repo.delegate(parent, child, **(options[0] if options else {}))
    repo.bump("targets")
    repo.update_snapshot()
    assert client.download("missing") == 1
    assert server.requests[4:] == [(role, 1) for role in order]
    assert set(client.trusted()) == set(ALL) | set(order)


def test_a_search_visits_a_limited_number_of_roles(setup):
    repo, server, client = setup()
    for n in range(40):
        repo.delegate("targets", f"role{n:02}")
    repo.add_target("role39", "far", b"x")
    repo.bump("targets")
    repo.update_snapshot()
    assert client.download("far") == 1
    assert 30 <= len(server.requests[4:]) <= 33


PATHS = {
    "targetfile": (True, ""), "README.md": (True, "A"), "releases/x/x_v1": (True, "BC"),
    "releases/y/y_v1.zip": (True, "BD"), "releases/z/z_v1.zip": (False, "B"),
    "releases/x/y/z": (False, ""),
}


@pytest.mark.parametrize("path", PATHS)
def test_patterns_do_not_cross_slashes(setup, path):
    found, order = PATHS[path]
    repo, server, client = setup()
    repo.delegate("targets", "A", paths=["*.doc", "*.md"])
    repo.delegate("targets", "B", paths=["releases/*/*"])
    repo.delegate("B", "C", paths=["releases/x/*"])
    repo.delegate("B", "D", paths=["releases/y/*.zip"])
    for role, name in (("targets", "targetfile"), ("A", "README.md"), ("C", "releases/x/x_v1"),
                       ("D", "releases/y/y_v1.zip"), ("D", "releases/z/z_v1.zip"),
                       ("C", "releases/x/y/z")):
        repo.add_target(role, name, b"content of " + name.encode())
    repo.bump("targets")
    repo.update_snapshot()
    assert client.download(path) == (0 if found else 1)
    metadata = [r for r in server.requests[4:] if isinstance(r, tuple)]
    assert metadata == [(role, 1) for role in order]
    assert client.downloaded() == ({path: b"content of " + path.encode()} if found else {})


def test_hash_prefixes_delegate_too(setup):
    import hashlib
    repo, server, client = setup()
    digest = hashlib.sha256(b"some/path").hexdigest()
    repo.delegate("targets", "wrong", prefixes=[("0" if digest[0] != "0" else "1")])
    repo.delegate("targets", "right", prefixes=[digest[:2]])
    repo.add_target("right", "some/path", b"x")
    repo.bump("targets")
    repo.update_snapshot()
    assert client.download("some/path") == 0
    assert server.requests[4] == ("right", 1)


def test_what_one_role_vouches_for_is_not_trusted_by_another(setup):
    """A names C with keys of its own; B's C has others. Their one file suits only A."""
    repo, server, client = setup()
    repo.delegate("targets", "A", paths=["a/*"])
    repo.delegate("targets", "B", paths=["b/*"])
    repo.delegate("A", "C", paths=["a/*"])
    evil = list(repo.signers["C"])
    repo.delegate("B", "C", paths=["b/*"])
    repo.signers["C"] = evil
    repo.add_target("C", "a/x", b"x")
    repo.add_target("C", "b/x", b"evil")
    repo.bump("targets")
    repo.update_snapshot()
    assert client.download("a/x", "b/x") == 1
    assert client.downloaded() == {"a/x": b"x"}


@pytest.mark.parametrize("role", ["?", "#", "/delegatedrole", "../delegatedrole", ".", "..",
                                  "a b%2f", "\u00e9\"quoted\""])
def test_odd_role_names_are_quoted_in_urls_and_on_disk(setup, role):
    import urllib.parse
    repo, server, client = setup()
    repo.delegate("targets", role)
    repo.add_target(role, "x", b"x")
    repo.bump("targets")
    repo.update_snapshot()
    before = sorted(os.listdir(client.folder))
    assert client.download("x") == 0, client.last
    assert (urllib.parse.quote(role, ""), 1) in server.requests
    assert len(client.trusted()) == 5
    assert sorted(os.listdir(client.folder)) == before
    server.requests.clear()
    assert client.download("x") == 0
    assert server.requests == [("root", 2), ("timestamp", None)]


@pytest.mark.parametrize("name", ["root", "timestamp", "snapshot", "targets", ""])
def test_a_delegation_cannot_take_the_name_of_a_top_level_role(setup, name):
    repo, server, client = setup()
    repo.delegate("targets", "harmless")
    repo.targets["delegations"]["roles"][0]["name"] = name
    assert client.refresh() == 1
    assert client.trusted() == {"root": 1, "timestamp": 1, "snapshot": 1}


def test_an_expired_or_unsigned_delegated_role_fails_the_search_alone(setup):
    repo, server, client = setup()
    repo.delegate("targets", "A")
    repo.roles["A"]["expires"] = days_ahead(-1)
    repo.add_target("A", "x", b"x")
    repo.bump("targets")
    repo.update_snapshot()
    assert client.refresh() == 0
    assert client.download("x") == 1
    assert "A (version 1) expired" in client.last.err
    assert client.downloaded() == {}
    assert "A" not in client.trusted()


# ---- download ----

def test_targets_are_processed_in_order_until_one_fails(setup):
    repo, server, client = setup()
    for name in ("one", "two", "three"):
        repo.add_target("targets", name, name.encode())
    assert client.download("two", "nowhere", "one") == 1
    assert client.downloaded() == {"two": b"two"}
    assert client.download("one", "three") == 0
    assert client.downloaded() == {n: n.encode() for n in ("one", "two", "three")}


def test_an_artifact_that_is_there_is_not_fetched_again(setup):
    repo, server, client = setup()
    repo.add_target("targets", "path/to/file.txt", b"contents")
    assert client.download("path/to/file.txt") == 0
    server.requests.clear()
    assert client.download("path/to/file.txt") == 0
    assert server.requests == [("root", 2), ("timestamp", None)]
    # Another file of that name is: it is not what was signed.
    path = os.path.join(client.target_dir, os.listdir(client.target_dir)[0])
    with open(path, "wb") as file:
        file.write(b"CONTENTS")
    assert client.download("path/to/file.txt") == 0
    assert client.downloaded() == {"path/to/file.txt": b"contents"}


@pytest.mark.parametrize("served", [b"evil contents", b"contents and more", b"content", b""])
def test_an_artifact_that_is_not_as_signed_is_refused_and_leaves_nothing(setup, served):
    repo, server, client = setup()
    repo.add_target("targets", "file", b"contents")
    repo.artifacts["file"] = served
    assert client.download("file") == 1
    assert os.listdir(client.target_dir) == []


@pytest.mark.parametrize("algorithms", [["sha256"], ["sha512"], ["sha384"], ["sha256", "sha512"],
                                        ["sha512", "md5"]], ids="+".join)
def test_each_hash_that_is_known_serves(setup, algorithms):
    repo, server, client = setup()
    repo.add_target("targets", "dir/file", b"contents", algorithms)
    assert client.download("dir/file") == 0, client.last
    hashes = repo.targets["targets"]["dir/file"]["hashes"]
    assert server.requests[4:] in [[f"dir/{hashes[name]}.file"] for name in algorithms]
    assert client.downloaded() == {"dir/file": b"contents"}
    # And each that is known has to be right.
    hashes[algorithms[0]] = hashes[algorithms[0]][::-1]
    repo.bump("targets")
    repo.update_snapshot()
    assert client.download("dir/file") == 1
    assert f"another {algorithms[0]} than signed" in client.last.err
    assert client.downloaded() == {"dir/file": b"contents"}


def test_a_target_with_unknown_hashes_alone_is_refused(setup):
    repo, server, client = setup()
    repo.add_target("targets", "file", b"contents", ["md5"])
    assert client.download("file") == 1
    assert "no hash known here" in client.last.err
    assert os.listdir(client.target_dir) == []


def test_other_files_of_the_folder_are_not_touched_by_a_refused_one(setup):
    repo, server, client = setup()
    repo.add_target("targets", "one", b"contents")
    repo.add_target("targets", "two", b"contents too")
    assert client.download("one") == 0
    repo.artifacts.update(one=b"evil", two=b"evil")
    client.download("one")
    assert client.downloaded() == {"one": b"contents"}
    assert client.download("two") == 1
    assert client.downloaded() == {"one": b"contents"}


def test_a_changed_artifact_takes_the_place_of_the_old(setup):
    repo, server, client = setup()
    for n in range(3):
        repo.add_target("targets", "file", b"contents %d" % n)
        repo.bump("targets")
        repo.update_snapshot()
        assert client.download("file") == 0
        assert client.downloaded() == {"file": b"contents %d" % n}
        repo.artifacts["file"] = b"evil"
        client.download("file")
        assert client.downloaded() == {"file": b"contents %d" % n}


@pytest.mark.parametrize("path", ["../../x", "..", ".", ".hidden", "a//b", "sp ace", "a?b#c"])
def test_odd_target_paths_stay_in_their_folder(setup, path):
    repo, server, client = setup()
    repo.add_target("targets", path, b"x")
    assert client.download(path) == 0, client.last
    assert client.downloaded() == {path: b"x"}
    assert sorted(os.listdir(client.folder)) == ["metadata", "root.json", "targets"]


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

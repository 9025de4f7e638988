# SPDX-License-Identifier: GPL-2.0-or-later
"""Who signs what care-tuf believes: kinds of keys, thresholds, and keys that are rotated."""
import json

import pytest

from tuf_sim import ALL, KEPT, Key, Repo, fresh, server, setup  # noqa: F401


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

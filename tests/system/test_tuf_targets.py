# SPDX-License-Identifier: GPL-2.0-or-later
"""How care-tuf finds a target through the roles that are delegated to, and what it lays down of it."""
import hashlib
import os
import urllib.parse

import pytest

from tuf_sim import ALL, days_ahead, server, setup  # noqa: F401


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

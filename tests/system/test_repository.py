# SPDX-License-Identifier: GPL-2.0-or-later
"""care-repo makes, nginx serves, care-tuf and TUF's JavaScript client take; and what may go wrong:
kills, full disks, tampering, wrong passphrases."""
import glob
import json
import os
import random
import shutil
import signal
import subprocess
import time
import urllib.parse

import pytest

from harness import LONG, care, program, run
from patchfile import seal
from repository import Host, Nginx, Repository, node, write_patch

TARGET = "main/db/7a14d39c/3-cve-2026-49261.cpatch"


@pytest.fixture
def repo(tmp_path):
    return Repository(str(tmp_path))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A repository with one patch, published; not to be changed."""
    folder = str(tmp_path_factory.mktemp("published"))
    repo = Repository(folder, "--root-keys", 3, "--root-threshold", 2)
    repo.patch = write_patch(folder)
    repo.care("add", repo.patch)
    repo.care("publish")
    repo.web = Nginx(repo.public)
    yield repo
    repo.web.stop()


def signed(repo, role):
    """The newest published file of a role."""
    names = glob.glob(os.path.join(repo.public, "metadata", f"[0-9]*.{role}.json"))
    versions = {int(os.path.basename(name).split(".")[0]): name for name in names}
    with open(versions[max(versions)]) as file:
        return json.load(file)["signed"]


# ---- making ----

def test_from_a_patch_to_a_host(published, tmp_path):
    host = Host(str(tmp_path), published.web.url, published.root)
    result = host.download(TARGET)
    assert result["targets"] == [{"path": TARGET, "bytes": os.path.getsize(published.patch),
                                  "fetched": True}]
    got = os.path.join(host.targets, urllib.parse.quote(TARGET, ""))
    with open(got, "rb") as a, open(published.patch, "rb") as b:
        assert a.read() == b.read()
    good = published.care("verify", "--json").json
    assert good["good"] and good["targets"] == 2


def test_offline_keys_are_encrypted_and_online_keys_are_not(published):
    for path in glob.glob(os.path.join(published.dir, "keys", "*.pem")):
        with open(path) as file:
            encrypted = "ENCRYPTED" in file.readline()
        name = os.path.basename(path)
        assert encrypted == (not name.startswith(("snapshot", "timestamp"))), name
        assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_wrong_or_missing_passphrase_is_refused_and_nothing_is_written(repo, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong\n")
    wrong.chmod(0o600)
    patch = write_patch(str(tmp_path))
    result = care("care-repo", "--repo", repo.dir, "--passphrase-file", wrong, "add", patch,
                  expect=5)
    assert "passphrase" in result.text
    wrong.chmod(0o644)
    result = care("care-repo", "--repo", repo.dir, "--passphrase-file", wrong, "add", patch,
                  expect=1)
    assert "open to others" in result.text
    result = care("care-repo", "--repo", repo.dir, "add", patch, expect=1,
                  preexec_fn=os.setsid)
    assert "no passphrase" in result.text
    assert os.listdir(os.path.join(repo.public, "targets")) == []


def test_a_command_line_that_makes_no_sense_is_refused_by_name(tmp_path):
    for args, words in ((("--root-keys", "17", "init"), '"17" is no number from 1 to 16'),
                        (("--root-keys", "2", "--root-threshold", "3", "init"), "threshold of 3"),
                        (("add",), "add of what?"), (("status", "x"), "does not take"),
                        (("sing",), 'no command "sing"'), ((), "which command?"),
                        (("sign", "x.json"), "which --key?")):
        assert words in care("care-repo", "--repo", tmp_path, *args, expect=1).text


def test_what_is_no_patch_is_not_added(repo, tmp_path):
    bad = tmp_path / "bad.cpatch"
    bad.write_bytes(b"\x7fELF" + b"\0" * 100)
    assert "bad.cpatch" in repo.care("add", bad, expect=1).text
    assert repo.care("status", "--json").json["targets"] == 0


def test_adding_twice_is_nothing_and_changed_contents_are_refused(repo, tmp_path):
    patch = write_patch(str(tmp_path))
    assert "would go into" in repo.care("add", "--dry-run", patch).out
    assert repo.care("status", "--json").json["targets"] == 0
    repo.care("add", patch)
    repo.care("add", patch, expect=2)
    with open(patch, "rb") as file:
        data = file.read()
    with open(patch, "wb") as file:
        file.write(seal(data.replace(b"libssl.so.3", b"libssl.so.4")))
    assert "other contents" in repo.care("add", patch, expect=5).text


def test_two_names_for_one_build_are_noted(repo, tmp_path):
    """A host would take one of them alone, and nobody would see it."""
    done = repo.care("add", write_patch(str(tmp_path)))
    assert "note" not in done.err
    done = repo.care("add", write_patch(str(tmp_path), name="another-fix-1.0"[:14]))
    assert "cve-2026-49261" in done.err and "another-fix-1." in done.err
    assert "highest level alone" in done.err


def test_publish_writes_what_changed_alone(repo, tmp_path):
    repo.care("publish")
    assert "nothing changed" in repo.care("publish", expect=2).text
    repo.care("add", write_patch(str(tmp_path)))
    done = repo.care("publish", "--json").json["published"]
    assert done == {"main": 2, "snapshot": 2, "timestamp": 2}


def test_a_blocked_patch_is_signed_as_blocked(repo, tmp_path):
    repo.care("add", write_patch(str(tmp_path)))
    repo.care("publish")
    repo.care("block", "no-such-patch", expect=3)
    repo.care("block", "cve-2026-49261", "--reason", "crashes with plugin x")
    repo.care("block", "cve-2026-49261", expect=2)
    repo.care("publish")
    targets = signed(repo, "main")["targets"]
    assert len(targets) == 2
    for entry in targets.values():
        assert entry["custom"]["blocked"] == "crashes with plugin x"
    repo.care("verify")


def test_status_lists_the_patches_and_what_hosts_know_of_them(repo, tmp_path):
    assert repo.care("status", "--json").json["patches"] == []
    assert "no patch has been added" in repo.care("status").out
    repo.care("add", write_patch(str(tmp_path)))
    found, = repo.care("status", "--json").json["patches"]
    assert found["name"] == "cve-2026-49261" and found["level"] == 3 and found["feed"] == "main"
    assert found["product"] == "db" and sorted(found["builds"]) == ["0102", "7a14d39c"]
    assert found["published"] == "no" and found["blocked"] is None
    assert found["signed_by"] == "patch-1" and found["signature_error"] is None
    repo.care("publish")
    repo.care("sticky", "production-hosts", "none")
    repo.care("add", write_patch(str(tmp_path), level=4))
    shown = repo.care("status").out.splitlines()
    rows = [line for line in shown if line.startswith("cve-2026-49261")]
    assert [line.split()[1] for line in rows] == ["3", "4"]
    assert "published" in rows[0] and "not published yet" not in rows[0]
    assert "not published yet" in rows[1] and "7a14d39c" in rows[1]
    assert all(cve in rows[0] for cve in found["cves"])
    repo.care("block", "cve-2026-49261", "--reason", "crashes with plugin x")
    assert [(p["published"], p["blocked"]) for p in repo.care("status", "--json").json["patches"]
            ] == [("changed", "crashes with plugin x"), ("no", "crashes with plugin x")]
    assert "blocked, not published yet: crashes with plugin x" in repo.care("status").out
    repo.care("publish")
    assert "not published yet" not in repo.care("status").out
    assert " blocked: crashes with plugin x" in repo.care("status").out


def test_status_tells_whose_signature_a_patch_has_and_which_has_none(repo, tmp_path):
    repo.care("add", write_patch(str(tmp_path)))
    repo.care("rotate", "patch")
    repo.care("add", write_patch(str(tmp_path), level=4))
    signers = [p["signed_by"] for p in repo.care("status", "--json").json["patches"]]
    assert signers == ["patch-1", "patch-2"]
    for path in glob.glob(os.path.join(repo.public, "targets", "main", "db", "*", "*.4-*.cpatch")):
        with open(path, "r+b") as file:
            file.seek(100)
            file.write(b"changed")
    found = repo.care("status", "--json").json["patches"]
    assert [p["signed_by"] for p in found] == ["patch-1", None]
    assert "the file was changed" in found[1]["signature_error"]
    shown = repo.care("status").out
    assert "level 4: the signature by key" in shown and "nobody" in shown


def test_quiet_says_nothing_but_errors_and_shows_what_is_to_be_shown(published, repo, tmp_path):
    patch = write_patch(str(tmp_path))
    for words in (("add", patch), ("publish",), ("publish", "--timestamp"), ("verify",),
                  ("block", "cve-2026-49261")):
        assert repo.care(*words, "--quiet").text == "", words
    assert "cve-2026-49261" in repo.care("status", "--quiet").out
    assert "blocked already" in repo.care("block", "cve-2026-49261", "-q", expect=2).err
    host = Host(str(tmp_path), published.web.url, published.root)
    assert run(*host.command("refresh", "--quiet")).text == ""
    assert run(*host.command("refresh", "--quiet", "--json")).json["requests"] >= 1


def test_feeds_have_keys_of_their_own(repo, tmp_path):
    patch = write_patch(str(tmp_path))
    assert "care-repo key feed/test" in repo.care("add", patch, "--feed", "test", expect=1).text
    repo.care("key", "feed/test", "--type", "ecdsa")
    repo.care("add", patch, "--feed", "test")
    repo.care("publish")
    delegations = signed(repo, "targets")["delegations"]
    keys = {role["name"]: role["keyids"] for role in delegations["roles"]}
    assert set(keys) == {"main", "test"} and keys["main"] != keys["test"]
    assert list(signed(repo, "main")["targets"]) == []
    assert all(p.startswith("test/") for p in signed(repo, "test")["targets"])
    for bad in ("feed/UPPER", "feed/", "feed/a-b", "feed/../x", "feed/targets", "nothing"):
        assert "no role" in repo.care("key", bad, expect=1).text


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"] + (["rsa"] if LONG else []))
def test_rotation_of_each_role(tmp_path, kind):
    repo = Repository(str(tmp_path), "--type", kind, "--root-keys", 2)
    repo.care("add", write_patch(str(tmp_path)))
    repo.care("publish")
    web = Nginx(repo.public)
    host = Host(str(tmp_path / "host"), web.url, repo.root)
    host.refresh()
    for role in ("timestamp", "snapshot", "targets", "feed/main", "root", "patch"):
        repo.care("rotate", role, *(() if role == "patch" else ("--type", kind)))
        repo.care("publish", expect=(0, 2))
        repo.care("verify")
        host.refresh()
    host.download(TARGET)
    # The old root keys have signed for the last time: their files may go.
    for path in glob.glob(os.path.join(repo.dir, "keys", "root-[12].pem")):
        os.unlink(path)
    repo.care("rotate", "root", "--type", kind)
    repo.care("publish")
    assert host.refresh()["versions"]["root"] == 6
    web.stop()


def test_the_online_keys_alone_keep_the_repository_alive(published, tmp_path):
    shutil.copytree(published.dir, tmp_path / "copy")
    for path in glob.glob(str(tmp_path / "copy" / "keys" / "*.pem")):
        if not os.path.basename(path).startswith(("snapshot", "timestamp")):
            os.unlink(path)
    command = [program("care-repo"), "--repo", str(tmp_path / "copy")]
    assert run(*command, "publish", "--timestamp").status == 0
    later = run("faketime", "-f", "+2d", *command, "publish", "--timestamp", "--json")
    assert later.json["published"] == {"timestamp": 2}, later
    status = run("faketime", "-f", "+2d", *command, "status", "--json").json
    days = {role["role"]: role["days"] for role in status["roles"]}
    assert days["timestamp"] in (2, 3) and days["root"] in (362, 363)


def test_verify_finds_what_was_tampered_with(published, tmp_path):
    copy = str(tmp_path / "copy")
    shutil.copytree(published.dir, copy)
    for pattern, spoil in (("targets/main/db/*/*.cpatch", lambda d: d[:-1] + b"x"),
                           ("metadata/1.main.json", lambda d: d.replace(b'"level":3', b'"level":4')),
                           ("metadata/1.snapshot.json", lambda d: d[:-2])):
        path = sorted(glob.glob(os.path.join(copy, "public", pattern)))[0]
        with open(path, "rb") as file:
            good = file.read()
        assert spoil(good) != good
        with open(path, "wb") as file:
            file.write(spoil(good))
        care("care-repo", "--repo", copy, "verify", expect=(1, 5))
        with open(path, "wb") as file:
            file.write(good)
        care("care-repo", "--repo", copy, "verify")


def test_many_patches_are_spread_over_roles_by_build_id(repo, tmp_path):
    chance = random.Random(7)
    files = [write_patch(str(tmp_path), build_id=f"{chance.getrandbits(32):08x}")
             for _ in range(120)]
    repo.care("add", *files)
    done = repo.care("publish", "--json").json["published"]
    roles = [r for r in done if r.startswith("main-")]
    assert len(roles) >= 8
    assert signed(repo, "main")["targets"] == {}
    assert repo.care("verify", "--json").json["targets"] == 240


# ---- nginx ----

def test_a_check_with_nothing_new_costs_little(published, tmp_path):
    host = Host(str(tmp_path), published.web.url, published.root)
    host.refresh()
    again = host.refresh()
    assert again["requests"] == 2
    assert again["sent_bytes"] + again["received_bytes"] < 2048
    # The timestamp came as a 304: the same again without its ETag is longer.
    os.unlink(os.path.join(host.dir, ".etag"))
    assert host.refresh()["received_bytes"] > again["received_bytes"] + 400


def test_publishing_twice_in_a_second_is_noticed_by_hosts(repo, tmp_path):
    """nginx makes an ETag of size and second."""
    repo.care("publish")
    web = Nginx(repo.public)
    host = Host(str(tmp_path / "host"), web.url, repo.root)
    host.refresh()
    for n in range(2, 6):
        repo.care("add", write_patch(str(tmp_path), build_id=f"{n:08x}"))
        repo.care("publish")
        assert host.refresh()["versions"]["timestamp"] == n
    web.stop()


# ---- TUF's JavaScript implementation ----

def test_tuf_js_accepts_what_care_repo_makes(published, tmp_path):
    os.makedirs(tmp_path / "metadata")
    os.makedirs(tmp_path / "targets")
    shutil.copy(published.root, tmp_path / "metadata" / "root.json")
    out = node("client.js", published.web.url, tmp_path / "metadata", tmp_path / "targets", TARGET)
    with open(out.out.strip(), "rb") as a, open(published.patch, "rb") as b:
        assert a.read() == b.read()
    node("client.js", published.web.url, tmp_path / "metadata", tmp_path / "targets",
         "main/db/7a14d39c/none", expect=1)


@pytest.mark.parametrize("name, files", [
    ("mock", {"a.txt": b"hello", "x/y.txt": b"world"}),
    ("delegated", {"main/db/7a14/1-fix.cpatch": b"a patch", "hashed/file": b"a file"})])
def test_care_tuf_accepts_what_tuf_js_makes_and_no_changed_byte_of_it(tmp_path, name, files):
    node("repo.js", tmp_path)
    public = tmp_path / name
    web = Nginx(public)
    host = Host(str(tmp_path / "host"), web.url, public / "metadata" / "1.root.json")
    host.download(*files)
    for path, data in files.items():
        with open(os.path.join(host.targets, urllib.parse.quote(path, "")), "rb") as file:
            assert file.read() == data
    chance = random.Random(name)
    role = public / "metadata" / "timestamp.json"
    good = role.read_bytes()
    for n in range(10):
        # Digits of the signed part: dates, versions, lengths, hashes.
        at = chance.choice([i for i, c in enumerate(good) if 48 <= c < 58 and i > len(good) // 2])
        role.write_bytes(good[:at] + bytes([48 + (good[at] - 47) % 10]) + good[at + 1:])
        changed = Host(str(tmp_path / f"host{n}"), web.url, public / "metadata" / "1.root.json")
        changed.download(*files, expect=1)
        assert os.listdir(changed.targets) == []
    web.stop()


# ---- the machine ----

def test_killed_at_any_moment_the_client_goes_on(published, tmp_path):
    """kill -9 during refresh and download: what is on disk is whole, and the next run succeeds."""
    chance = random.Random(11)
    rounds = 300 if LONG else 25
    host = Host(str(tmp_path), published.web.url, published.root)
    begin = time.monotonic()
    host.download(TARGET)
    took = time.monotonic() - begin
    root = os.path.join(host.dir, "root.json")
    for n in range(rounds):
        for name in os.listdir(host.targets):
            os.unlink(os.path.join(host.targets, name))
        for name in os.listdir(host.dir):
            if name != "root.json" and chance.random() < 0.7:
                os.unlink(os.path.join(host.dir, name))
        client = subprocess.Popen(
            host.command("--target-name", TARGET, "--target-dir", host.targets,
                         "--target-base-url", host.url + "/targets", "download"),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.random() * took)
        client.send_signal(signal.SIGKILL)
        client.wait()
        for path in glob.glob(os.path.join(host.dir, "*.json")):
            with open(path) as file:
                assert json.load(file)["signatures"], path
        for path in glob.glob(os.path.join(host.targets, "*")):
            with open(path, "rb") as a, open(published.patch, "rb") as b:
                assert a.read() == b.read()
        assert os.path.exists(root)
        host.download(TARGET)
    # What a killed run left is overwritten, not piled up.
    assert len(os.listdir(host.dir)) <= 7 and len(os.listdir(host.targets)) == 1


def test_a_full_disk_leaves_the_last_good_state(published, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    assert run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk).status == 0
    try:
        host = Host(str(disk / "host"), published.web.url, published.root)
        filler = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError):
            while True:
                os.write(filler, b"x" * 4096)
        os.close(filler)
        result = run(*host.command("refresh"))
        assert result.status == 1 and "No space left" in result.err
        assert os.listdir(host.dir) == ["root.json"]
        with open(os.path.join(host.dir, "root.json"), "rb") as a, open(published.root, "rb") as b:
            assert a.read() == b.read()
        os.unlink(disk / "filler")
        host.download(TARGET)
    finally:
        run("umount", disk)


def test_a_killed_publish_leaves_a_repository_that_verifies(tmp_path):
    repo = Repository(str(tmp_path))
    repo.care("publish")
    chance = random.Random(3)
    for n in range(40 if LONG else 6):
        repo.care("add", write_patch(str(tmp_path), build_id=f"{n:08x}", level=3))
        publish = subprocess.Popen([program("care-repo"), "--repo", repo.dir, "--passphrase-file",
                                    repo.passphrase, "publish"], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        time.sleep(chance.random() * 0.1)
        publish.send_signal(signal.SIGKILL)
        publish.wait()
        repo.care("verify")
        repo.care("publish", expect=(0, 2))
        repo.care("verify")


# ---- keys in several hands ----

def holder(folder, name, kind="ed25519"):
    """A machine with a key and without a repository: (folder, STEM of its key)."""
    room = folder / name
    room.mkdir()
    stem = room / name
    passphrase = room / "passphrase"
    passphrase.write_text(f"the secret of {name}\n")
    passphrase.chmod(0o600)
    care("care-repo", "--passphrase-file", passphrase, "keygen", "--type", kind, stem)
    with open(f"{stem}.pem") as file:
        assert "ENCRYPTED" in file.readline()
    return str(stem)


def sign(stem, path, expect=0):
    return care("care-repo", "--passphrase-file", os.path.join(os.path.dirname(stem), "passphrase"),
                "sign", path, "--key", stem + ".pem", expect=expect)


def waiting(repo, role):
    path, = glob.glob(os.path.join(repo.dir, "pending", f"*.{role}.json"))
    return path


def test_root_is_signed_by_keys_on_several_machines(repo, tmp_path):
    """Two of three: one passes the file on, one signs a copy; then a rotation, old and new together."""
    stems = [holder(tmp_path, name, kind) for name, kind in
             (("anna", "ed25519"), ("bert", "ecdsa"), ("carl", "rsa"))]
    repo.care("rotate", "root", "--public", stems[0] + ".pub")
    for stem in stems[1:]:
        repo.care("key", "root", "--public", stem + ".pub")
    repo.care("threshold", "root", "4", expect=1)
    repo.care("threshold", "root", "2")
    assert not glob.glob(os.path.join(repo.dir, "keys", "root-[234].pem"))
    repo.care("add", write_patch(str(tmp_path)))
    refused = repo.care("publish", expect=4)
    assert "lacks signatures" in refused.text and "root-2, root-3, root-4" in refused.text
    assert not os.path.exists(os.path.join(repo.public, "metadata", "timestamp.json"))
    path = waiting(repo, "root")
    shown = sign(stems[0], path).out
    assert "root, version 1" in shown and "root: 2 of" in shown
    assert "already" in sign(stems[0], path, expect=2).text
    assert "it has 1" in repo.care("publish", expect=4).text
    copy = tmp_path / "1.root.json"
    shutil.copy(path, copy)
    sign(stems[1], copy)
    repo.care("collect", copy)
    repo.care("collect", copy, expect=2)
    repo.care("publish")
    repo.care("verify")
    assert os.listdir(os.path.join(repo.dir, "pending")) == []
    web = Nginx(repo.public)
    host = Host(str(tmp_path / "host"), web.url, repo.root)
    host.download(TARGET)
    # A new key instead of all: the old ones vouch for it, and until they do all else goes on.
    dora = holder(tmp_path, "dora")
    repo.care("threshold", "root", "1")
    repo.care("rotate", "root", "--public", dora + ".pub")
    repo.care("add", write_patch(str(tmp_path), build_id="00000001"))
    assert "all else is published" in repo.care("publish", expect=4).text
    assert host.refresh()["versions"] == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 1}
    path = waiting(repo, "root")
    sign(dora, path)
    sign(stems[0], path)
    assert "it has 2" in repo.care("publish", expect=4).text
    sign(stems[2], path)
    repo.care("publish")
    repo.care("verify")
    assert host.refresh()["versions"]["root"] == 2
    web.stop()


def test_what_others_have_signed_or_changed_meanwhile_does_not_count(repo, tmp_path):
    anna, mallory = holder(tmp_path, "anna"), holder(tmp_path, "mallory")
    repo.care("rotate", "targets", "--public", anna + ".pub")
    refused = repo.care("publish", expect=4)
    assert "nothing is published" in refused.text and "targets version 1" in refused.text
    path = waiting(repo, "targets")
    sign(mallory, path)
    repo.care("publish", expect=4)
    # A signature of what is not there now: the feed's key has changed since.
    copy = tmp_path / os.path.basename(path)
    shutil.copy(path, copy)
    sign(anna, copy)
    repo.care("rotate", "feed/main")
    repo.care("publish", expect=4)
    assert "sign" in repo.care("collect", copy, expect=5).text
    shutil.copy(copy, path)
    repo.care("publish", expect=4)
    with open(path, "r+b") as file:
        data = file.read()
        file.seek(len(data) // 2)
        file.write(b"#")
    repo.care("publish", expect=4)
    sign(anna, waiting(repo, "targets"))
    repo.care("publish")
    repo.care("verify")
    for role in ("timestamp", "snapshot"):
        assert "has to be here" in repo.care("rotate", role, "--public", anna + ".pub",
                                             expect=1).text

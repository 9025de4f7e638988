# SPDX-License-Identifier: GPL-2.0-or-later
"""What `meson install` lays down for the agent, and how far its units are locked up."""
import os
import re
import stat

import pytest

from harness import BUILD, TOP, run

LIMITS = {"care-agent": 1.5, "care-patcher": 2.0, "care-watch": 2.5}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    done = run("/usr/bin/meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", root)
    assert done.status == 0, done
    return str(root)


def find(root, name):
    found = [os.path.join(folder, name) for folder, folders, files in os.walk(root)
             if name in files or name in folders]
    assert found, f"{name} is not installed"
    return found[0]


@pytest.mark.parametrize("unit", LIMITS)
def test_exposure_of_the_unit_is_below_its_limit(installed, unit):
    text = run("/usr/bin/systemd-analyze", "security", "--offline=true", "--no-pager",
               find(installed, unit + ".service")).out
    level = float(re.search(r"exposure level for \S+: ([\d.]+)", text)[1])
    assert level <= LIMITS[unit], text


@pytest.mark.parametrize("unit", LIMITS)
def test_units_name_the_installed_programs_and_their_sockets(installed, unit):
    with open(find(installed, unit + ".service")) as file:
        program = re.search(r"^ExecStart=(\S+)$", file.read(), re.M)[1]
    assert os.access(installed + program, os.X_OK)
    with open(find(installed, unit + ".socket")) as file:
        text = file.read()
    assert f"ListenStream=/run/dbcare/{unit.removeprefix('care-')}.sock" in text
    assert "SocketMode=0660" in text and "SocketGroup=dbcare" in text


def test_user_directories_settings_pages_and_completions_are_installed(installed):
    with open(find(os.path.dirname(find(installed, "sysusers.d")), "dbcare.conf")) as file:
        assert "dbcare" in file.read()
    with open(os.path.join(find(installed, "tmpfiles.d"), "dbcare.conf")) as file:
        assert re.search(r"^d /var/lib/dbcare 0750 dbcare dbcare", file.read(), re.M)
    for name in ("agent.conf", "care-agent.8", "care-patcher.8", "care-watch.8", "keys",
                 "pre-apply", "post-apply", "on-hold", "patches.d"):
        path = find(installed, name)
        assert not stat.S_IMODE(os.stat(path).st_mode) & 0o022, path
    assert find(os.path.join(find(installed, "bash-completion"), "completions"), "care-agent")


def test_settings_lie_where_the_programs_look_whatever_the_prefix(installed):
    for name in ("agent.conf", "keys", "patches.d", "hooks.d/pre-apply"):
        assert os.path.exists(os.path.join(installed, "etc/dbcare", name)), name


def test_no_unit_forbids_a_system_call_or_hides_a_file_that_its_program_needs(installed):
    """What only a real systemd shows otherwise (test_agent_systemd.py)."""
    with open(find(installed, "care-patcher.service")) as file:
        patcher = dict(line.split("=", 1) for line in file.read().splitlines() if "=" in line)
    assert "RestrictSUIDSGID" not in patcher  # it forbids openat2
    assert patcher["ProcSubset"] == "all" and patcher["ProtectProc"] == "default"
    allowed = allowed_calls(find(installed, "care-patcher.service"))
    with open(os.path.join(TOP, "agent/patcher/sandbox.c")) as file:
        wanted = set(re.findall(r"SCMP_SYS\((\w+)\)", file.read()))
    assert len(wanted) > 100 and not wanted - allowed


def allowed_calls(unit):
    """The system calls that the SystemCallFilter lines of a unit leave, by systemd's own lists."""
    groups, name = {}, None
    for line in run("/usr/bin/systemd-analyze", "syscall-filter", "--no-pager").out.splitlines():
        if line.startswith("@"):
            name = line.strip()
            groups[name] = []
        elif line.startswith("    ") and not line.strip().startswith("#"):
            groups[name].append(line.strip())

    def spelled(word):
        return set().union(*map(spelled, groups[word])) if word in groups else {word}

    allowed = spelled("@default")
    with open(unit) as file:
        for words in re.findall(r"^SystemCallFilter=(.*)$", file.read(), re.M):
            calls = set().union(*map(spelled, words.lstrip("~").split()))
            allowed = allowed - calls if words.startswith("~") else allowed | calls
    return allowed

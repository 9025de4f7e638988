# SPDX-License-Identifier: GPL-2.0-or-later
"""What `meson install` lays down for the agent, and how far its units are locked up."""
import os
import re
import stat

import pytest

from harness import BUILD, TOP, run

LIMITS = {"care-agent": 1.5, "care-patcher": 2.0, "care-watch": 2.5}
DROP_IN = "sandboxed-targets.conf"
# What systemd does with a seccomp filter: systemd.exec(5), where it implies NoNewPrivileges=.
FILTERS = {"SystemCallFilter", "SystemCallLog", "SystemCallArchitectures", "RestrictAddressFamilies",
           "RestrictNamespaces", "PrivateDevices", "ProtectKernelTunables", "ProtectKernelModules",
           "ProtectKernelLogs", "ProtectClock", "ProtectHostname", "MemoryDenyWriteExecute",
           "RestrictRealtime", "RestrictSUIDSGID", "DynamicUser", "LockPersonality"}


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


def exposure(path):
    """The level that systemd-analyze gives, and its table."""
    text = run("/usr/bin/systemd-analyze", "security", "--offline=true", "--no-pager", path).out
    return float(re.search(r"exposure level for \S+: ([\d.]+)", text)[1]), text


@pytest.mark.parametrize("unit", LIMITS)
def test_exposure_of_the_unit_is_below_its_limit(installed, unit):
    level, text = exposure(find(installed, unit + ".service"))
    assert level <= LIMITS[unit], text


@pytest.fixture
def with_drop_in(installed, tmp_path):
    """care-patcher.service beside its drop-in, with the programs where they are now."""
    folder = tmp_path / "care-patcher.service.d"
    folder.mkdir()
    for name, path in (("care-patcher.service", tmp_path), ("care-patcher.socket", tmp_path),
                       (DROP_IN, folder)):
        with open(find(installed, name)) as file:
            text = re.sub(r"^(ExecStart=)(/)", rf"\1{installed}\2", file.read(), flags=re.M)
        (path / name).write_text(text)
    return tmp_path / "care-patcher.service", folder / DROP_IN


def settings(*paths):
    """{name: [values]} of unit files in their order; an empty value takes back those before it."""
    found = {}
    for path in paths:
        with open(path) as file:
            for name, value in re.findall(r"^(\w+)=(.*)$", file.read(), re.M):
                found[name] = found.get(name, []) + [value] if value else []
    return found


def test_the_drop_in_for_sandboxed_servers_takes_back_all_filters_and_nothing_else(with_drop_in):
    unit, drop_in = with_drop_in
    before, after = settings(unit), settings(unit, drop_in)
    filters = {name for name in FILTERS & set(before) if before[name][-1:] != ["no"]}
    assert len(filters) > 9
    assert {name for name in FILTERS & set(after) if after[name] and after[name][-1] != "no"} == set()
    added = {"ExecStart", "CapabilityBoundingSet", "ReadOnlyPaths", "InaccessiblePaths"}
    assert {name for name in after if after[name] != before.get(name)} == filters | added
    assert after["CapabilityBoundingSet"] == before["CapabilityBoundingSet"] + ["CAP_SYS_ADMIN"]
    assert after["ExecStart"] == [before["ExecStart"][0] + " --sandboxed-targets"]


def test_systemd_takes_the_drop_in_for_sandboxed_servers_and_tells_what_it_costs(with_drop_in):
    unit, drop_in = with_drop_in
    done = run("/usr/bin/systemd-analyze", "verify", "--man=no", unit)
    assert done.status == 0 and DROP_IN not in done.text, done
    with open(os.path.join(TOP, "docs/man/care-agent.8.scd")) as file:
        told = re.search(r"rises from (\d+\.\d+)\s+to (\d+\.\d+)", file.read())
    # Versions of systemd count a little differently.
    level, text = exposure(unit)
    assert abs(level - float(told[2])) < 1, text
    drop_in.unlink()
    level, text = exposure(unit)
    assert abs(level - float(told[1])) < 0.5, text


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

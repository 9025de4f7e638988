# SPDX-License-Identifier: GPL-2.0-or-later
"""The installed programs in a whole Debian 12: systemd as init, the shipped units with all their
locks, Debian's MariaDB as its package sets it up, AppArmor, Yama, a reboot.

One machine for all tests, in their order; each leaves it with the server patched by the agent. It is
made from Debian's archive at the first time (two minutes), and runs in QEMU, for several minutes where
the processor has to be emulated, so only in the long form.
"""
import json
import os
import re
import shutil

import pytest

import harness
import patches
import vm
from harness import BUILD, LONG, TOP, run
from updates import Repository

pytestmark = pytest.mark.skipif(not LONG, reason="a whole machine: only with DBCARE_TESTS_LONG")

UNITS = ("care-agent", "care-patcher", "care-watch")
SHIPPED, LEVEL_1, LEVEL_2 = "0.4054", "0.2027", "0.1014"
REFUSED = 5
# SYS_PTRACE, DAC_OVERRIDE, SYS_NICE, CHECKPOINT_RESTORE
PATCHER = 1 << 19 | 1 << 1 | 1 << 23 | 1 << 40

# What Debian's mariadbd needs, and no right to be traced or read by anybody. (The profile that
# Debian ships has no rule and so confines nothing.)
PROFILE = """abi <abi/3.0>,
include <tunables/global>
profile mariadbd /usr/sbin/mariadbd {
  capability dac_override,
  capability ipc_lock,
  capability setgid,
  capability setuid,
  capability sys_nice,
  capability sys_resource,
  network,
  unix,
  signal (receive),
  deny ptrace,

  /usr/sbin/mariadbd mr,
  /usr/lib/** mr,
  /etc/** r,
  /usr/share/** r,
  /proc/** r,
  /sys/** r,
  /dev/null rw,
  /dev/urandom r,
  /var/lib/mysql/ r,
  /var/lib/mysql/** rwk,
  /run/mysqld/* rwk,
  /run/systemd/notify w,
  /tmp/ r,
  owner /tmp/** rwk,
}
"""

# What hardening guides add to mariadb.service: a seccomp filter that lets no memory become
# executable, no program run but the system's, a view of /proc of its own.
HARDENED = """[Service]
NoNewPrivileges=yes
MemoryDenyWriteExecute=yes
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
NoExecPaths=/
ExecPaths=/usr/sbin /usr/bin /usr/lib /lib64
"""


class Guest:
    """The machine, and the questions that all tests ask it."""

    def __init__(self, machine, repository):
        self.machine, self.repository = machine, repository
        self.sh, self.wait, self.run = machine.sh, machine.wait, machine.run

    def rand(self):
        return self.sh(f'mariadb -BNe "SELECT {patches.RAND}"')

    def wait_rand(self, value, seconds=30):
        try:
            self.wait(f'mariadb -BNe "SELECT {patches.RAND}"', seconds, f"RAND(1) is {value}",
                      wanted=value)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.sh('dbcarectl status', expect=None)}\n"
                                 f"{self.journal_text()}")

    def status(self):
        return json.loads(self.sh("dbcarectl status --json"))

    def target(self):
        """The only server, as the agent sees it; None for a moment after a start."""
        targets = self.status()["targets"]
        return targets[0] if len(targets) == 1 else None

    def wait_verified(self, level):
        """Until the agent has done all that belongs to an apply."""
        pid = self.server()
        self.wait(f"journalctl DBCARE_EVENT=applied DBCARE_PID={pid} DBCARE_LEVEL={level} -o cat "
                  "| grep -q .", 30, f"the agent's word that level {level} is applied")

    def wait_held(self, reason):
        try:
            self.wait(f"dbcarectl status | grep -F '{reason}'", 5, f"held: {reason}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.sh('dbcarectl status', expect=None)}\n"
                                 f"{self.journal_text()}")

    def server(self):
        return int(self.sh("systemctl show -P MainPID mariadb"))

    def unit(self, unit):
        """The pid of its process, or None."""
        text = self.sh(f"systemctl show -p ActiveState,SubState,MainPID {unit}")
        shown = dict(line.split("=", 1) for line in text.splitlines())
        running = (shown["ActiveState"], shown["SubState"]) == ("active", "running")
        return int(shown["MainPID"]) if running else None

    def journal(self, *matches):
        text = self.run("journalctl", "-o", "json", "--no-pager", *matches).out
        return [json.loads(line) for line in text.splitlines()]

    def journal_text(self):
        return self.sh("journalctl --no-pager -u 'care-*' -u mariadb | tail -n 40")

    def denied(self):
        """What AppArmor has denied since the machine runs."""
        return [entry["MESSAGE"] for entry in self.journal("-k", "-b")
                if 'apparmor="DENIED"' in entry["MESSAGE"]]

    def history(self):
        return json.loads(self.sh("dbcarectl history --json"))["history"]


def rights_of(guest, unit):
    text = guest.sh(f"grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):' "
                    f"/proc/{guest.unit(unit)}/status")
    return dict(re.findall(r"(\w+):\s+(\S+)", text))


def seconds_of(entry):
    return int(entry["__REALTIME_TIMESTAMP"]) / 1e6


@pytest.fixture(scope="module")
def guest(target, levels, tmp_path_factory):
    if vm.impossible():
        pytest.skip(vm.impossible())
    folder = str(tmp_path_factory.mktemp("brought"))
    done = run("/usr/bin/meson", "install", "-C", BUILD, "--no-rebuild", "--destdir",
               os.path.join(folder, "root"))
    assert done.status == 0, done
    shutil.copy(os.path.join(TOP, "agent/systemd/after-install"), folder)
    os.makedirs(os.path.join(folder, "patches"))
    for level, path in levels.items():
        shutil.copy(path, os.path.join(folder, "patches", f"{level}.cpatch"))
    repository = Repository(str(tmp_path_factory.mktemp("repository")))
    keys = os.path.join(folder, "keys")
    os.mkdir(keys)
    repository.copy_keys(keys)
    machine = vm.Machine(vm.disk(), brought=folder)
    print(f"\nthe machine was up after {machine.boot_seconds:.0f} s "
          f"({'KVM' if vm.fast() else 'emulated'}), Linux {machine.sh('uname -r')}")
    yield Guest(machine, repository)
    machine.remove()


@pytest.fixture(scope="module")
def installed(guest):
    """As README says: install, then one systemctl."""
    guest.sh("cp -a /mnt/root/. / && MESON_INSTALL_PREFIX=/usr/local /mnt/after-install && "
             "cp /mnt/keys/* /etc/dbcare/keys && "
             f"echo PATCH_SERVER=http://{vm.HOST}:{guest.repository.web.port} >> "
             "/etc/dbcare/agent.conf && echo METRICS_PORT=9105 >> /etc/dbcare/agent.conf && "
             "systemctl enable --now care-agent")
    guest.sh("dbcarectl account create")
    return guest


@pytest.fixture(scope="module")
def kept(installed, levels):
    """Level 1 is on offer and applied."""
    installed.repository.add(levels[1])
    installed.sh("dbcarectl update")
    assert installed.rand() == LEVEL_1
    return installed


# ---- units ----

def test_units_start_with_one_command_and_have_the_rights_that_they_need_alone(installed):
    guest = installed
    for unit in UNITS:
        guest.wait(f"systemctl is-active {unit}.service {unit}.socket", 20, unit)
    shown = {unit: rights_of(guest, unit) for unit in UNITS}
    uid = guest.sh("id -u dbcare")
    assert shown["care-agent"]["Uid"] == uid != "0"
    for unit, most in (("care-agent", 0), ("care-patcher", PATCHER), ("care-watch", 0)):
        assert int(shown[unit]["CapEff"], 16) == most, (unit, shown)
        assert shown[unit]["NoNewPrivs"] == "1" and shown[unit]["Seccomp"] == "2", (unit, shown)
    assert guest.status()["watching"], guest.journal_text()
    assert guest.journal("DBCARE_EVENT=watching", "_SYSTEMD_UNIT=care-agent.service")


def test_user_directories_and_sockets_are_there_with_their_modes(installed):
    # Root is the first to write history, which is the agent's too.
    installed.sh("dbcarectl apply /mnt/patches/1.cpatch && dbcarectl revert rnd")
    found = dict(line.split(" ", 1) for line in installed.sh(
        "stat -c '%n %a %U %G' /run/dbcare /run/dbcare/*.sock /var/lib/dbcare /var/cache/dbcare "
        "/etc/dbcare /etc/dbcare/agent.conf /etc/dbcare/keys /var/lib/dbcare/history.db"
    ).splitlines())
    assert found == {"/run/dbcare": "755 root dbcare", "/run/dbcare/agent.sock": "660 root dbcare",
                     "/run/dbcare/patcher.sock": "660 root dbcare",
                     "/run/dbcare/watch.sock": "660 root dbcare",
                     "/var/lib/dbcare": "750 dbcare dbcare",
                     "/var/cache/dbcare": "750 dbcare dbcare", "/etc/dbcare": "755 root root",
                     "/etc/dbcare/agent.conf": "644 root root", "/etc/dbcare/keys": "755 root root",
                     "/var/lib/dbcare/history.db": "640 dbcare dbcare"}


def test_members_of_the_group_may_ask_are_known_by_name_and_others_may_not(installed):
    guest = installed
    guest.sh("useradd -G dbcare anna; useradd otto")
    guest.sh("runuser -u anna -- dbcarectl hold")
    try:
        assert {e["DBCARE_BY"] for e in guest.journal("DBCARE_EVENT=hold")} == {"anna"}
        assert "held by anna" in guest.sh("runuser -u anna -- dbcarectl status")
        refused = guest.run("runuser", "-u", "otto", "--", "dbcarectl", "resume", expect=1)
        assert "Permission denied" in refused.err
    finally:
        guest.sh("dbcarectl resume")


# ---- patched, and patched again ----

def test_what_the_repository_publishes_is_applied_and_the_journal_tells_it_in_fields(kept):
    guest = kept
    target, = guest.status()["targets"]
    assert target["level"] == 1 and target["pid"] == guest.server()
    found = guest.journal("DBCARE_PATCH=rnd")
    applied, = [e for e in found if e["DBCARE_EVENT"] == "applied"]
    assert applied["_SYSTEMD_UNIT"] == "care-agent.service"
    assert applied["DBCARE_TARGET"] == "/run/mysqld/mysqld.sock"
    assert applied["DBCARE_LEVEL"] == "1" and int(applied["DBCARE_PID"]) == guest.server()
    metrics = guest.sh(r"exec 3<>/dev/tcp/127.0.0.1/9105; "
                       r"printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3")
    assert re.search(r"^dbcare_signature_failures_total 0$", metrics, re.M), metrics


def test_a_restarted_server_is_patched_again(kept):
    guest = kept
    guest.wait_verified(1)
    seen = []
    for _ in range(3):
        before = guest.server()
        guest.sh("systemctl restart mariadb")
        assert guest.server() != before
        guest.wait_rand(LEVEL_1)
        guest.wait_verified(1)
        pid = guest.server()
        ready = next(seconds_of(e) for e in guest.journal(f"_PID={pid}")
                     if "ready for connections" in e["MESSAGE"])
        applied, = guest.journal("DBCARE_EVENT=applied", f"DBCARE_PID={pid}")
        seen.append((seconds_of(applied) - ready) * 1000)
    print(f"\nfrom mariadbd's word that it is ready to the agent's that it is patched and "
          f"verified, ms: {', '.join(f'{ms:.0f}' for ms in seen)}")
    # A generous limit: the processor may be emulated, on a machine that others load.
    assert max(seen) < 3000 * guest.machine.slow


@pytest.mark.parametrize("unit", UNITS)
def test_a_killed_process_is_started_again_and_nothing_is_lost(kept, unit):
    guest = kept
    guest.wait_verified(1)
    server, history = guest.server(), guest.history()
    before = guest.unit(unit)
    guest.sh(f"kill -KILL {before}")
    harness.wait_until(lambda: guest.unit(unit) not in (None, before), 20 * guest.machine.slow,
                       f"another {unit}")
    harness.wait_until(lambda: (guest.target() or {}).get("level") == 1, 20 * guest.machine.slow,
                       "the agent knows the level")
    harness.wait_until(lambda: guest.status()["watching"], 20 * guest.machine.slow, "watching")
    assert guest.server() == server and guest.rand() == LEVEL_1
    assert guest.history() == history
    guest.sh("systemctl restart mariadb")
    guest.wait_rand(LEVEL_1)
    guest.wait_verified(1)


# ---- what confines the server ----

def by_hand(guest):
    """Applied and reverted by dbcarectl while the agent is told to leave the server alone."""
    guest.sh("dbcarectl hold")
    try:
        guest.sh("systemctl restart mariadb")
        assert guest.rand() == SHIPPED
        maps = "grep -v -e heap -e '/\\[aio\\]' -e ' $' /proc/$(pidof mariadbd)/maps"
        before = guest.sh(maps)
        guest.sh("dbcarectl apply /mnt/patches/1.cpatch")
        assert guest.rand() == LEVEL_1
        guest.sh("dbcarectl revert rnd")
        assert guest.rand() == SHIPPED and guest.sh(maps) == before
    finally:
        guest.sh("dbcarectl resume")


def by_the_agent(guest):
    guest.wait_rand(LEVEL_1)
    guest.wait_verified(1)


def test_a_server_in_an_enforced_apparmor_profile_is_patched_and_nothing_is_denied(kept):
    guest = kept
    assert guest.sh("cat /sys/module/apparmor/parameters/enabled") == "Y"
    path = "/etc/apparmor.d/usr.sbin.mariadbd"
    guest.sh(f"cp {path} /root/profile")
    guest.machine.write(path, PROFILE)
    guest.sh(f"apparmor_parser -r {path}")
    try:
        by_hand(guest)
        assert guest.sh("cat /proc/$(pidof mariadbd)/attr/current") == "mariadbd (enforce)"
        by_the_agent(guest)
        assert guest.denied() == []
        # That it confines at all: an answer which is not empty can be had.
        refused = guest.run("mariadb", "-e", "SELECT 1 INTO OUTFILE '/var/tmp/x'", expect=1)
        assert "Permission denied" in refused.err
        assert any("/var/tmp/x" in message for message in guest.denied())
    finally:
        guest.sh(f"apparmor_parser -R {path}; cp /root/profile {path}; apparmor_parser -r {path}; "
                 "systemctl restart mariadb")
    by_the_agent(guest)


def test_a_server_whose_unit_is_hardened_is_patched_by_root_and_with_a_drop_in_by_the_agent(kept):
    """Its seccomp filter can be suspended by root alone: not by a patcher that is itself under one
    (PTRACE_O_SUSPEND_SECCOMP), and calls that a filter may answer with death are not tried."""
    guest = kept
    guest.machine.write("/etc/systemd/system/mariadb.service.d/hard.conf", HARDENED)
    guest.sh("systemctl daemon-reload")
    folder = "/etc/systemd/system/care-patcher.service.d"
    restart = "systemctl daemon-reload && systemctl restart care-patcher care-agent"
    try:
        by_hand(guest)
        assert guest.sh("grep Seccomp: /proc/$(pidof mariadbd)/status").split() == ["Seccomp:", "2"]
        guest.wait_held("sandboxed (seccomp)")
        guest.wait_held("the drop-in sandboxed-targets.conf (care-agent(8))")
        assert guest.rand() == SHIPPED
        # As the drop-in itself says.
        guest.sh(f"install -D -m 644 -t {folder} "
                 f"/usr/local/share/doc/dbcare/sandboxed-targets.conf && {restart}")
        by_the_agent(guest)
        status = rights_of(guest, "care-patcher")
        assert status["Seccomp"] == "0" and status["NoNewPrivs"] == "1", status
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == PATCHER | 1 << 21, status
        assert "has no effect" not in guest.sh("journalctl --no-pager -u care-patcher")
        for path in ("/usr/x", "/proc/sys/kernel/sysrq", "/sys/kernel/profiling"):
            done = guest.run("nsenter", "--mount", "--target", guest.unit("care-patcher"),
                             "/bin/bash", "-c", f"echo 1 > {path}", expect=1)
            assert "Read-only file system" in done.err, done
        guest.sh("systemctl restart mariadb")
        by_the_agent(guest)
        assert guest.sh("grep Seccomp: /proc/$(pidof mariadbd)/status").split() == ["Seccomp:", "2"]
        # Half of it does nothing but say so.
        guest.sh(f"sed -i '/^SystemCallFilter=/d; /^CapabilityBoundingSet=/d' "
                 f"{folder}/sandboxed-targets.conf && {restart}")
        guest.wait("journalctl -u care-patcher -o cat | grep 'has no effect.*CAP_SYS_ADMIN is missing"
                   ".*, and it is under a seccomp filter itself'", 20, "what the patcher lacks")
        status = rights_of(guest, "care-patcher")
        assert int(status["CapEff"], 16) == PATCHER and status["Seccomp"] == "2", status
    finally:
        guest.sh(f"rm -rf /etc/systemd/system/mariadb.service.d {folder}; {restart} && "
                 "systemctl restart mariadb")
    by_the_agent(guest)


# ---- what the kernel allows ----

def test_yama_lets_us_up_to_its_highest_setting_which_is_a_clear_refusal(kept):
    """The highest can only be taken back by a boot: the next test's."""
    guest = kept
    for scope in (1, 2):
        guest.sh(f"sysctl -w kernel.yama.ptrace_scope={scope}")
        by_hand(guest)
        by_the_agent(guest)
    checks = len(guest.journal("DBCARE_EVENT=checked"))
    guest.sh("dbcarectl hold; systemctl restart mariadb; sysctl -w kernel.yama.ptrace_scope=3")
    try:
        for command in ("dbcarectl apply /mnt/patches/1.cpatch",
                        "care-patch apply /mnt/patches/1.cpatch --pid $(pidof mariadbd)"):
            done = guest.run("/bin/bash", "-c", command, expect=REFUSED)
            assert "kernel.yama.ptrace_scope is 3" in done.err, done
        assert guest.rand() == SHIPPED
    finally:
        guest.sh("dbcarectl resume")
    guest.wait_held("kernel.yama.ptrace_scope")
    assert guest.rand() == SHIPPED
    # What it is, cannot be seen: that is no other build, and nothing to ask the repository for.
    assert not guest.journal("DBCARE_EVENT=upgraded")
    assert len(guest.journal("DBCARE_EVENT=checked")) <= checks + 1


# ---- the whole machine ----

def test_after_a_reboot_all_is_there_again_and_the_server_is_patched(kept, levels):
    guest = kept
    print(f"\na reboot took {guest.machine.reboot():.0f} s")
    guest.sh("mount -o ro /dev/vdb /mnt")
    guest.wait_rand(LEVEL_1, 60)
    guest.repository.add(levels[2])
    guest.sh("dbcarectl update", timeout=120)
    assert guest.rand() == LEVEL_2
    assert all(guest.unit(unit) for unit in UNITS)
    assert guest.sh("systemctl --failed --no-legend") == ""

# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole Debian 12 of its own in QEMU: Debian's kernel with AppArmor, systemd, Debian's MariaDB.

The disk is a file system that mke2fs makes of a debootstrap tree, once; what a machine writes is
thrown away with it (QEMU's snapshot mode). A second, read-only disk carries what a test brings.
Commands run inside through QEMU's guest agent, so that nothing of ours is in the image. Of the host
it needs no network device, no mount and no privilege but /dev/kvm; without that it is ten times as
slow.
"""
import atexit
import base64
import glob
import json
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import time

import containers
import harness
from harness import Result, run, wait_until

SUITE = "bookworm"
HOST = "10.0.2.2"  # the host's loopback, as the guest sees it
PROGRAM = "qemu-system-x86_64"


def fast():
    """Whether machines run on the processor itself. (A /dev/kvm of another kind, such as that of a
    host which is a machine itself, may need a kernel made for it.)"""
    return os.access("/dev/kvm", os.R_OK | os.W_OK) and \
        any(os.path.exists(f"/sys/module/kvm_{kind}") for kind in ("intel", "amd"))


def impossible():
    """Why no machine can be made here, or None."""
    if shutil.which(PROGRAM) is None:
        return f"there is no {PROGRAM} (Debian's package qemu-system-x86)"
    return None


class Disk(containers.Tree):
    """A folder with `disk`, `kernel` and `initrd`; made once, like the containers' trees."""

    NAME = "vm"
    FORMAT = 1
    SIZE = "3G"
    MORE = ["systemd-sysv", "udev", "dbus", "kmod", "procps", "initramfs-tools",
            "linux-image-cloud-amd64", "apparmor", "qemu-guest-agent",
            # what our programs are linked with
            "libcap2", "libcapstone4", "libcurl4", "libdw1", "libelf1", "libinih1", "libjansson4",
            "libmicrohttpd12", "libseccomp2", "libsmartcols1", "libsqlite3-0", "libsystemd0",
            "libuv1"]
    NETWORK = ("[Match]\nType=ether\n[Network]\nAddress=10.0.2.15/24\nLinkLocalAddressing=no\n"
               "IPv6AcceptRA=no\n")

    def __init__(self, version, say=lambda text: None):
        super().__init__(SUITE, version, say)

    def _make(self, partial):
        self._install(partial)
        self.say("making a disk of it")
        self._settle(partial)
        image = self.folder + ".image"
        shutil.rmtree(image, True)
        os.mkdir(image)
        for name, pattern in (("kernel", "vmlinuz-*"), ("initrd", "initrd.img-*")):
            found, = glob.glob(os.path.join(partial, "boot", pattern))
            shutil.move(found, os.path.join(image, name))
        self._run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-d", partial,
                  os.path.join(image, "disk"), self.SIZE)
        os.rename(image, self.folder)
        shutil.rmtree(partial)

    def _settle(self, tree):
        """What an installer would write."""
        os.unlink(os.path.join(tree, "usr/sbin/policy-rc.d"))
        for name, text in (("etc/fstab", "/dev/vda / ext4 errors=remount-ro 0 1\n"),
                           ("etc/hostname", "guest\n"),
                           ("etc/hosts", "127.0.0.1 localhost guest\n"),
                           ("etc/machine-id", ""),
                           ("etc/systemd/network/80-ether.network", self.NETWORK)):
            with open(os.path.join(tree, name), "w") as file:
                file.write(text)
        # The journal is kept over a restart; nobody asks Debian for upgrades.
        os.makedirs(os.path.join(tree, "var/log/journal"), exist_ok=True)
        for verb, units in (("enable", ["systemd-networkd.service"]),
                            ("mask", ["apt-daily.timer", "apt-daily-upgrade.timer",
                                      "fstrim.timer", "e2scrub_all.timer"])):
            self._run("chroot", tree, "systemctl", verb, *units)


class Machine:
    """A running machine."""

    def __init__(self, disk, brought=None, append="", memory=1536):
        """@brought: a folder of the host whose content is on /mnt inside."""
        self.folder = tempfile.mkdtemp(prefix="dbcv-", dir="/tmp")
        atexit.register(self.remove)
        self.console = os.path.join(self.folder, "console")
        self.slow = 1 if fast() else 10
        self._agent = None
        command = [PROGRAM, "-nodefaults", "-no-user-config", "-display", "none",
                   "-accel", "kvm" if fast() else "tcg",
                   "-cpu", "host" if fast() else "max",
                   "-smp", "2", "-m", str(memory),
                   "-kernel", os.path.join(disk.folder, "kernel"),
                   "-initrd", os.path.join(disk.folder, "initrd"),
                   "-append", f"root=/dev/vda ro console=ttyS0 panic=-1 {append}",
                   "-drive", f"file={disk.folder}/disk,format=raw,if=virtio,snapshot=on",
                   "-serial", f"file:{self.console}",
                   "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
                   "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
                   "-chardev", f"socket,id=agent,path={self.folder}/agent,server=on,wait=off",
                   "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
        if brought:
            image = os.path.join(self.folder, "brought")
            done = run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-d", brought, image, "256M")
            assert done.status == 0, done
            command += ["-drive", f"file={image},format=raw,if=virtio,readonly=on"]
        self.begin = time.monotonic()
        with open(os.path.join(self.folder, "qemu"), "w") as log:
            # What a snapshot takes lies in the folder, and is gone with it.
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, preexec_fn=harness.die_with_parent,
                                            env=dict(os.environ, TMPDIR=self.folder))
        wait_until(self._answers, 60 * self.slow, "the first answer of the machine")
        self.boot_seconds = time.monotonic() - self.begin
        if brought:
            self.sh("mount -o ro /dev/vdb /mnt")

    # -- the guest agent: JSON lines, one at a time

    def _answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"qemu ended with {self.process.returncode}: {self.log()}")
        try:
            if self._agent is None:
                self._agent = socket.socket(socket.AF_UNIX)
                self._agent.connect(os.path.join(self.folder, "agent"))
            # Until the guest listens, what is sent to it waits; so each try has its own number.
            number = time.monotonic_ns()
            return self._ask("guest-sync", 1, id=number) == number
        except (OSError, ValueError):
            self._agent.close()
            self._agent = None
            return False

    def _ask(self, verb, seconds=30, **arguments):
        self._agent.settimeout(seconds)
        self._agent.sendall(json.dumps({"execute": verb, "arguments": arguments}).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            got = self._agent.recv(1 << 20)
            if not got:
                raise ConnectionResetError("qemu closed the guest agent's socket")
            data += got
        answer = json.loads(data)
        if "error" in answer:
            raise AssertionError(f"{verb}: {answer['error']}")
        return answer["return"]

    def run(self, *args, expect=0, timeout=60, stdin=None):
        """A program inside, as root; like harness.care."""
        args = [str(a) for a in args]
        given = {"input-data": base64.b64encode(stdin.encode()).decode()} if stdin else {}
        pid = self._ask("guest-exec", path=args[0], arg=args[1:],
                        env=["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                             "LC_ALL=C.UTF-8", "HOME=/root"],
                        **{"capture-output": True}, **given)["pid"]
        until = time.monotonic() + timeout * self.slow
        while True:
            status = self._ask("guest-exec-status", pid=pid)
            if status["exited"]:
                break
            assert time.monotonic() < until, f"{shlex.join(args)}: not within {timeout} s"
            time.sleep(0.02)
        out, err = (base64.b64decode(status.get(key, "")).decode(errors="replace")
                    for key in ("out-data", "err-data"))
        result = Result(args, status.get("exitcode", -status.get("signal", 0)), out, err)
        wanted = expect if isinstance(expect, (tuple, list)) else (expect,)
        if expect is not None and result.status not in wanted:
            raise AssertionError(f"expected exit {expect}: {result!r}")
        return result

    def sh(self, text, **kwargs):
        """Output of a shell script inside."""
        return self.run("/bin/bash", "-c", text, **kwargs).out.strip()

    def write(self, path, text):
        self.run("/bin/sh", "-c", 'mkdir -p "$(dirname "$0")" && cat > "$0"', path, stdin=text)

    def wait(self, script, seconds, what, wanted=None):
        """Output of @script once it ends with 0, or, with @wanted, once that is its output."""
        last = None

        def there():
            nonlocal last
            last = self.run("/bin/bash", "-c", script, expect=None)
            return last.status == 0 and (wanted is None or last.out.strip() == wanted) and last
        try:
            return wait_until(there, seconds * self.slow, what).out.strip()
        except AssertionError as error:
            raise AssertionError(f"{error}\n{last!r}")

    def reboot(self):
        """Seconds that it took; what is on the disk stays."""
        begin = time.monotonic()
        before = self.sh("cat /proc/sys/kernel/random/boot_id")
        self.sh("systemctl --no-block reboot")
        self._agent.close()
        self._agent = None

        def anew():
            try:
                return self._answers() and self.sh("cat /proc/sys/kernel/random/boot_id") != before
            except OSError:  # it went down while it was asked
                self._agent.close()
                self._agent = None
                return False
        wait_until(anew, 90 * self.slow, "the machine after its restart")
        return time.monotonic() - begin

    def log(self):
        text = ""
        for name in ("qemu", "console"):
            path = os.path.join(self.folder, name)
            if os.path.exists(path):
                with open(path, errors="replace") as file:
                    text += file.read()[-4000:]
        return text

    def remove(self):
        if self._agent:
            self._agent.close()
        process = getattr(self, "process", None)
        if process and process.poll() is None:
            process.kill()
            process.wait()
        shutil.rmtree(self.folder, True)


def disk(say=lambda text: None):
    return Disk(harness.versions()["MARIADB_VERSION"], say)


if __name__ == "__main__":
    disk(lambda text: print(f"  {text}", flush=True))

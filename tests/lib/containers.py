# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's MariaDB of another release in runc containers, alone or as a Galera cluster.

The root of every container is one read-only tree of that release with MariaDB's own packages
installed; what differs from node to node (data, option file) is mounted. All nodes of a cluster
share one network namespace that nobody else is in, so their ports collide with nobody's.
"""
import atexit
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile

import pymysql

import harness
from harness import run, wait_until

POOL = "https://deb.debian.org/debian/pool/main/m/mariadb"
PACKAGES = ["libmariadb3", "mariadb-common", "mariadb-client-core", "mariadb-client",
            "mariadb-server-core", "mariadb-server"]
TREE_FORMAT = 1
LIFE = 1800  # seconds after which a forgotten container ends by itself


# What the usual profile of Docker (moby's profiles/seccomp) lets a container without further rights
# call on this architecture; all else fails with EPERM: io_uring, keys, BPF, mounts, namespaces, ...
ALLOWED = """
accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown
clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2
dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr
flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue
futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents
getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid
getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid
gettimeofday getuid getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel
io_destroy io_getevents io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set kill
landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen
listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier
memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap modify_ldt
mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl
msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open
openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll
ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev
pselect6 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg
recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction
rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg
sendto set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer
setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid
setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice stat
statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create
timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
timerfd_settime times tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork vmsplice
wait4 waitid write writev
"""
AF_VSOCK, ENOSYS, NEW_NAMESPACES = 40, 38, 0x7e020000


def usual_profile():
    """The `seccomp` of a container's config.json."""
    def rule(names, action="SCMP_ACT_ALLOW", *args, **more):
        return {"names": names, "action": action, "args": [
            dict(zip(("index", "op", "value", "valueTwo"), arg)) for arg in args], **more}

    return {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                rule(ALLOWED.split()),
                rule(["socket"], "SCMP_ACT_ALLOW", (0, "SCMP_CMP_NE", AF_VSOCK)),
                rule(["clone"], "SCMP_ACT_ALLOW", (0, "SCMP_CMP_MASKED_EQ", NEW_NAMESPACES, 0)),
                rule(["clone3"], "SCMP_ACT_ERRNO", errnoRet=ENOSYS),
                *(rule(["personality"], "SCMP_ACT_ALLOW", (0, "SCMP_CMP_EQ", persona))
                  for persona in (0, 8, 0x20000, 0x20008, 0xffffffff))]}


def impossible():
    """Why containers cannot be made here, or None."""
    with open("/proc/self/mountinfo") as lines:
        if not any(line.split()[4] == "/" for line in lines):
            return ("the root directory is no mount point (a plain chroot): bind-mount it on itself "
                    "before entering it")
    return None


class Tree:
    """A debootstrap tree with MariaDB installed; made once, under a name that it gets when whole."""

    NAME = "tree"
    FORMAT = TREE_FORMAT
    MORE = ["galera-4", "rsync"]

    def __init__(self, suite, version, say=lambda text: None):
        self.suite, self.say = suite, say
        self.version = version.split(":", 1)[-1]
        self.folder = os.path.join(harness.CACHE,
                                   f"{self.NAME}-{suite}-{self.version}-{self.FORMAT}")
        with open(self.folder + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.isdir(self.folder):
                self._make(self.folder + ".partial")

    def _make(self, partial):
        self._install(partial)
        os.rename(partial, self.folder)

    def _install(self, partial):
        shutil.rmtree(partial, True)
        self.say(f"making a Debian {self.suite} tree (about a minute)")
        self._run("unshare", "--mount", "debootstrap", "--variant=minbase",
                  "--include=ca-certificates", self.suite, partial,
                  "http://deb.debian.org/debian")
        # No service starts while packages are installed.
        policy = os.path.join(partial, "usr/sbin/policy-rc.d")
        with open(policy, "w") as file:
            file.write("#!/bin/sh\nexit 101\n")
        os.chmod(policy, 0o755)
        with open(os.path.join(partial, "etc/dpkg/dpkg.cfg.d/tests"), "w") as file:
            file.write("force-unsafe-io\npath-exclude=/usr/share/man/*\n")
        self.say(f"installing MariaDB {self.version} and {len(self.MORE)} more packages in it "
                 "(about a minute)")
        debs = [self._fetch(partial, name) for name in PACKAGES]
        self._run("unshare", "--mount", "sh", "-c",
                  'mount --make-rprivate / 2>/dev/null; mount --rbind /proc "$0/proc" && '
                  'exec chroot "$0" sh -c "apt-get -q update && exec apt-get -q -y '
                  '--no-install-recommends install $*"', partial, *debs, *self.MORE)
        for rest in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(os.path.join(partial, rest))

    def _fetch(self, partial, name):
        """One package, from the pool, which keeps a version longer than the package lists."""
        for arch in ("amd64", "all"):
            file = f"{name}_{self.version}_{arch}.deb"
            path = f"/var/cache/apt/archives/{file}"
            done = run("/usr/lib/apt/apt-helper", "-oAPT::Sandbox::User=root", "download-file",
                       f"{POOL}/{file}", partial + path, timeout=300)
            if done.status == 0:
                return path
        raise AssertionError(f"{name} {self.version} is not in Debian's pool: {done!r}")

    @staticmethod
    def _run(*args):
        env = {"DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        done = run(*args, timeout=900, env=env)
        if done.status != 0:
            raise AssertionError(f"exit {done.status}: {' '.join(args[:4])} ...\n"
                                 f"{done.text[-3000:]}")


def runc(*args, **kwargs):
    return run("runc", "--root", os.path.join(harness.STATE, "runc"), *args, **kwargs)


class Container(harness.Server):
    """A mariadbd as process of a runc container; its socket is on a file system that only the
    container sees, so clients of the host come through /proc/PID/root."""

    def __init__(self, tree, name, options, network=None, notify=None):
        self.tree, self.name, self.network, self.notify = tree, name, network, notify
        self.options = options
        self.seccomp = None
        self.root, self.binary = tree.folder, "/usr/sbin/mariadbd"
        self._symbols = None
        self.folder = tempfile.mkdtemp(prefix="dbc-", dir="/tmp")
        self.id = f"{name}-{os.path.basename(self.folder)[4:]}"
        self.datadir = os.path.join(self.folder, "data")
        self.log = os.path.join(self.folder, "log")
        self.process = None
        self._pid = None
        atexit.register(self.remove)
        os.mkdir(self.datadir)
        for path, mode in ((self.folder, 0o755), (self.datadir, 0o700)):
            os.chmod(path, mode)
        uid, gid = self._mysql()
        os.chown(self.datadir, uid, gid)
        self.uid = uid

    def _mysql(self):
        with open(os.path.join(self.tree.folder, "etc/passwd")) as lines:
            fields = next(line.split(":") for line in lines if line.startswith("mysql:"))
        return int(fields[2]), int(fields[3])

    def fill(self):
        """Gives it the data directory that the packages made when they were installed."""
        shutil.rmtree(self.datadir)
        run("cp", "-a", "--reflink=auto", f"{self.tree.folder}/var/lib/mysql", self.datadir)

    @property
    def pid(self):
        return self._pid

    @property
    def socket(self):
        return f"/proc/{self._pid}/root/run/mysqld/mysqld.sock"

    def _files(self):
        """Files of the host that the container sees, by their path in it."""
        def write(name, text, mode=0o644):
            path = os.path.join(self.folder, name)
            with open(path, "w") as file:
                file.write(text)
            os.chmod(path, mode)
            return path

        lines = "".join(f"{key} = {value}\n" for key, value in self.options.items())
        init = (f"CREATE USER IF NOT EXISTS {harness.USER}@localhost;\n"
                f"GRANT ALL ON *.* TO {harness.USER}@localhost WITH GRANT OPTION;\n"
                f"CREATE DATABASE IF NOT EXISTS test;\n")
        files = {"/etc/mysql/mariadb.conf.d/99-node.cnf":
                 write("node.cnf", "[mysqld]\n" + lines),
                 "/etc/mysql/init.sql": write("init.sql", init)}
        if self.notify:
            files["/usr/local/bin/notify"] = write("notify", self.notify, 0o755)
        return files

    def config(self):
        tmpfs = {"type": "tmpfs", "source": "tmpfs"}
        mounts = [{"destination": "/proc", "type": "proc", "source": "proc"},
                  {"destination": "/dev", "options": ["nosuid", "mode=755"], **tmpfs},
                  {"destination": "/dev/shm", "options": ["mode=1777"], **tmpfs},
                  {"destination": "/tmp", "options": ["mode=1777"], **tmpfs},
                  {"destination": "/run", "options": ["mode=755"], **tmpfs},
                  {"destination": "/run/mysqld", "options": [f"uid={self.uid}"], **tmpfs},
                  {"destination": "/var/lib/mysql", "type": "bind", "source": self.datadir,
                   "options": ["rbind", "rw"]}]
        mounts += [{"destination": inside, "type": "bind", "source": path,
                    "options": ["bind", "ro"]} for inside, path in self._files().items()]
        network = {"type": "network"}
        if self.network:
            network["path"] = f"/proc/{self.network.pid}/ns/net"
        caps = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SETUID", "CAP_SETGID",
                "CAP_KILL", "CAP_SYS_NICE"]
        return {"ociVersion": "1.0.2", "hostname": self.name,
                "root": {"path": self.tree.folder, "readonly": True},
                "process": {"terminal": False, "cwd": "/", "user": {"uid": 0, "gid": 0},
                            "args": ["/usr/bin/timeout", "-s", "KILL", str(LIFE),
                                     "/usr/sbin/mariadbd"],
                            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"],
                            "capabilities": {k: caps for k in ("bounding", "effective",
                                                               "permitted")}},
                "mounts": mounts,
                "linux": {"namespaces": [{"type": t} for t in ("pid", "ipc", "uts", "mount")] +
                          [network], **({"seccomp": self.seccomp} if self.seccomp else {})}}

    def launch(self):
        """Starts it without waiting for more than its process."""
        with open(os.path.join(self.folder, "config.json"), "w") as file:
            json.dump(self.config(), file)
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                ["runc", "--root", os.path.join(harness.STATE, "runc"), "run", "--bundle",
                 self.folder, self.id], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._pid = wait_until(self._find, 30, f"the process of container {self.name}")
        return self

    def _find(self):
        """The host's pid of the container's mariadbd."""
        if self.process.poll() is not None:
            raise AssertionError(f"container {self.name} ended:\n{self.error_log()[-4000:]}")
        for pid in runc("ps", "--format", "json", self.id).out.strip("[]\n ").split(","):
            try:
                with open(f"/proc/{pid}/comm") as comm:
                    if comm.read().strip() == "mariadbd":
                        return int(pid)
            except OSError:
                continue
        return None

    def start(self, seconds=120):
        self.launch()
        wait_until(self._answers, seconds, f"the first answer of {self.name}")
        return self

    def stop(self, seconds=60):
        if self.alive():
            os.kill(self._pid, signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        self._delete()

    def kill(self):
        if self.alive():
            runc("kill", self.id, "KILL")
            self.process.wait(30)

    def _delete(self):
        if self.process:
            runc("delete", "--force", self.id)
        self.process = self._pid = None

    def remove(self):
        self.kill()
        self._delete()
        shutil.rmtree(self.folder, True)

    # -- Galera

    def status(self):
        """wsrep_* and Uptime."""
        rows = self.sql("SHOW GLOBAL STATUS WHERE Variable_name LIKE 'wsrep%' OR "
                        "Variable_name = 'Uptime'")
        return dict(rows)

    def synced(self, size):
        try:
            status = self.status()
        except pymysql.err.MySQLError:
            return False
        return (status["wsrep_local_state_comment"] == "Synced" and
                status["wsrep_cluster_status"] == "Primary" and
                int(status["wsrep_cluster_size"]) == size)


class Alone(Container):
    """The one mariadbd of its container, with sysbench's tables, as harness.Server has them."""

    OPTIONS = {"user": "mysql", "skip-networking": "ON", "skip-name-resolve": "ON",
               "innodb_buffer_pool_size": "96M", "innodb_log_file_size": "48M",
               "innodb_flush_log_at_trx_commit": 0, "max_connections": 1200,
               "innodb_snapshot_isolation": "OFF"}
    FORMAT = 1

    def __init__(self, tree, **options):
        super().__init__(tree, "alone", {**self.OPTIONS, **options})

    def fill(self):
        """Made once for each tree and kept, under a name that it gets when whole."""
        template = f"{self.tree.folder}-data-{self.FORMAT}"
        with open(template + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.isdir(template):
                self._make(template)
        shutil.rmtree(self.datadir)
        run("cp", "-a", "--reflink=auto", template, self.datadir)

    def _make(self, template):
        first = Container(self.tree, "first", {**self.OPTIONS, "init-file": "/etc/mysql/init.sql"})
        first.fill()
        first.start()
        harness.Sysbench(first, threads=2).command("prepare")
        # A slow shutdown leaves nothing to recover or purge in the copies.
        first.sql("SET GLOBAL innodb_fast_shutdown=0")
        first.stop(120)
        shutil.rmtree(template + ".partial", True)
        run("cp", "-a", first.datadir, template + ".partial")
        os.rename(template + ".partial", template)
        first.remove()


class Cluster:
    """Galera nodes on the loopback of one network namespace; the first makes the cluster."""

    NOTIFY = '#!/bin/sh\necho "$@" >> /tmp/notifications\n'

    def __init__(self, tree, size=2):
        self.tree, self.nodes = tree, []
        for i in range(size):
            self.add(f"node{i + 1}")

    def _options(self, index, node_name):
        port = 4000 + 100 * index
        return {"user": "mysql", "bind-address": "127.0.0.1", "port": port, "skip-name-resolve": "ON",
                **({} if index else {"init-file": "/etc/mysql/init.sql"}),
                "binlog_format": "ROW",
                "innodb_autoinc_lock_mode": 2, "innodb_flush_log_at_trx_commit": 0,
                "innodb_buffer_pool_size": "64M", "innodb_log_file_size": "32M",
                "wsrep_on": "ON", "wsrep_provider": "/usr/lib/galera/libgalera_smm.so",
                "wsrep_cluster_name": "tests", "wsrep_node_name": node_name,
                "wsrep_cluster_address": "gcomm://" + ("127.0.0.1:4001" if index else ""),
                "wsrep_node_address": f"127.0.0.1:{port + 1}",
                "wsrep_node_incoming_address": f"127.0.0.1:{port}",
                "wsrep_provider_options":
                    f'"gmcast.listen_addr=tcp://127.0.0.1:{port + 1};'
                    f'ist.recv_addr=127.0.0.1:{port + 2};gcache.size=16M"',
                "wsrep_sst_method": "rsync",
                "wsrep_sst_receive_address": f"127.0.0.1:{port + 3}",
                "wsrep_notify_cmd": "/usr/local/bin/notify"}

    def add(self, name, node_name=None):
        """Starts one more node; the first brings the data, the others get it from there."""
        index = len(self.nodes)
        node = Container(self.tree, name, self._options(index, node_name or name),
                         network=self.nodes[0] if self.nodes else None, notify=self.NOTIFY)
        if index == 0:
            node.fill()
        self.nodes.append(node)
        node.start()
        wait_until(lambda: node.synced(index + 1), 60, f"{name} to be synced")
        return node

    def drop(self, node):
        """Takes a node out in good order."""
        node.stop()
        node.remove()
        self.nodes.remove(node)
        size = len(self.nodes)
        for other in self.nodes:
            wait_until(lambda: other.synced(size), 60, f"{other.name} without {node.name}")

    def remove(self):
        for node in reversed(self.nodes):
            node.remove()

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What care-patcher may do: four capabilities and a list of system calls. No sockets can be made,
 * no programs started, no modules loaded, no files but those of the keys and of /proc are of use.
 *
 * The filter of another process can be suspended only by one that is under none itself and has
 * CAP_SYS_ADMIN (PTRACE_O_SUSPEND_SECCOMP, kernel/ptrace.c). So a target that is under one is
 * refused, and dbcarectl, run by root, patches it; or the administrator gives up our own filter for
 * it (--sandboxed-targets).
 */
#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/capability.h>
#include <sys/prctl.h>

#include "agent/patcher/patcher.h"

/*
 * SYS_PTRACE: seize, read. DAC_OVERRIDE: open /proc/PID/mem of another user for writing, and walk
 * to his socket. CHECKPOINT_RESTORE: /proc/PID/map_files of images deleted on disk. SYS_NICE:
 * SCHED_FIFO while threads stand. SYS_ADMIN, the last: to suspend filters.
 */
static const cap_value_t keepable[] = { CAP_SYS_PTRACE, CAP_DAC_OVERRIDE, CAP_CHECKPOINT_RESTORE,
					CAP_SYS_NICE, CAP_SYS_ADMIN };

enum { KEEPABLE = sizeof(keepable) / sizeof(*keepable), USUALLY = KEEPABLE - 1 };

static bool has(cap_t caps, cap_value_t cap)
{
	cap_flag_value_t value = CAP_CLEAR;

	return cap_get_flag(caps, cap, CAP_PERMITTED, &value) == 0 && value == CAP_SET;
}

/* Those of the first @most that we have: a container may have been given fewer. */
static int available(int most, cap_value_t out[KEEPABLE])
{
	cap_t now = cap_get_proc();
	int count = 0;

	for (int i = 0; now && i < most; i++) {
		if (has(now, keepable[i]))
			out[count++] = keepable[i];
	}
	if (now)
		cap_free(now);
	return count;
}

struct pe_error *patcher_may_suspend_filters(void)
{
	cap_t now = cap_get_proc();
	bool admin = now && has(now, CAP_SYS_ADMIN);
	/* Under a filter it tells 2, or is forbidden. */
	bool filtered = prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 0;

	if (now)
		cap_free(now);
	if (admin && !filtered)
		return NULL;
	return pe_error_new(
		PE_ERR_PERMISSION, "%s%s%s",
		admin ? ""
		      : "CAP_SYS_ADMIN is missing (CapabilityBoundingSet= of the unit, or the "
			"capabilities of the container)",
		!admin && filtered ? ", and " : "",
		filtered ? "it is under a seccomp filter itself (SystemCallFilter= and other "
			   "settings of the unit, which the drop-in sandboxed-targets.conf takes "
			   "back, or the profile of the container)"
			 : "");
}

/* Under systemd the unit has left nothing else, and capset(2) with it is forbidden. */
static bool set_capabilities(cap_t wanted)
{
	cap_t now = cap_get_proc();
	bool done = now && (cap_compare(now, wanted) == 0 || cap_set_proc(wanted) == 0);

	if (now)
		cap_free(now);
	return done;
}

struct pe_error *patcher_drop_rights(bool suspend_filters)
{
	cap_value_t have[KEEPABLE];
	int most = suspend_filters ? KEEPABLE : USUALLY;
	int count = available(most, have);
	cap_t wanted = cap_init();
	bool done = wanted != NULL;

	/* The bounding set first: it needs CAP_SETPCAP, which is about to go. */
	for (cap_value_t cap = 0; cap_get_bound(cap) >= 0; cap++) {
		bool keep = false;

		for (int i = 0; i < most; i++)
			keep |= keepable[i] == cap;
		if (!keep && cap_get_bound(cap) == 1 && cap_drop_bound(cap) != 0 && errno != EPERM)
			done = false;
	}
	done = done && cap_set_flag(wanted, CAP_PERMITTED, count, have, CAP_SET) == 0 &&
	       cap_set_flag(wanted, CAP_EFFECTIVE, count, have, CAP_SET) == 0 &&
	       set_capabilities(wanted) && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;

	struct pe_error *err = done ? NULL : pe_error_errno(errno, "cannot give up capabilities");

	if (wanted)
		cap_free(wanted);
	return err;
}

static const int allowed[] = {
	/* memory */
	SCMP_SYS(brk),
	SCMP_SYS(mmap),
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(mprotect),
	SCMP_SYS(madvise),
	SCMP_SYS(mlock),
	SCMP_SYS(munlock),
	SCMP_SYS(mlockall),
	SCMP_SYS(munlockall),
	SCMP_SYS(membarrier),
	/* files: the keys, /proc, locks in the run directory */
	SCMP_SYS(open),
	SCMP_SYS(openat),
	SCMP_SYS(openat2),
	SCMP_SYS(close),
	SCMP_SYS(read),
	SCMP_SYS(readv),
	SCMP_SYS(pread64),
	SCMP_SYS(preadv),
	SCMP_SYS(write),
	SCMP_SYS(writev),
	SCMP_SYS(pwrite64),
	SCMP_SYS(pwritev),
	SCMP_SYS(lseek),
	SCMP_SYS(stat),
	SCMP_SYS(lstat),
	SCMP_SYS(fstat),
	SCMP_SYS(newfstatat),
	SCMP_SYS(statx),
	SCMP_SYS(fstatfs),
	SCMP_SYS(statfs),
	SCMP_SYS(access),
	SCMP_SYS(faccessat),
	SCMP_SYS(faccessat2),
	SCMP_SYS(readlink),
	SCMP_SYS(readlinkat),
	SCMP_SYS(getdents64),
	SCMP_SYS(getcwd),
	SCMP_SYS(mkdir),
	SCMP_SYS(mkdirat),
	SCMP_SYS(unlink),
	SCMP_SYS(unlinkat),
	SCMP_SYS(ftruncate),
	SCMP_SYS(flock),
	SCMP_SYS(fcntl),
	SCMP_SYS(dup),
	SCMP_SYS(dup2),
	SCMP_SYS(dup3),
	SCMP_SYS(memfd_create),
	SCMP_SYS(umask),
	SCMP_SYS(ioctl),
	/* other processes */
	SCMP_SYS(ptrace),
	SCMP_SYS(process_vm_readv),
	SCMP_SYS(process_vm_writev),
	SCMP_SYS(pidfd_open),
	SCMP_SYS(pidfd_send_signal),
	SCMP_SYS(pidfd_getfd),
	SCMP_SYS(wait4),
	SCMP_SYS(waitid),
	SCMP_SYS(kill),
	SCMP_SYS(tgkill),
	SCMP_SYS(kcmp),
	/* scheduling and time */
	SCMP_SYS(sched_setscheduler),
	SCMP_SYS(sched_getscheduler),
	SCMP_SYS(sched_setparam),
	SCMP_SYS(sched_getparam),
	SCMP_SYS(sched_setaffinity),
	SCMP_SYS(sched_getaffinity),
	SCMP_SYS(sched_yield),
	SCMP_SYS(sched_setattr),
	SCMP_SYS(sched_getattr),
	SCMP_SYS(sched_get_priority_max),
	SCMP_SYS(sched_get_priority_min),
	SCMP_SYS(setpriority),
	SCMP_SYS(getpriority),
	SCMP_SYS(nanosleep),
	SCMP_SYS(clock_nanosleep),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(clock_getres),
	SCMP_SYS(gettimeofday),
	SCMP_SYS(time),
	SCMP_SYS(times),
	SCMP_SYS(setitimer),
	SCMP_SYS(getitimer),
	SCMP_SYS(timer_create),
	SCMP_SYS(timer_settime),
	SCMP_SYS(timer_delete),
	SCMP_SYS(timerfd_create),
	SCMP_SYS(timerfd_settime),
	SCMP_SYS(alarm),
	/* the connection with the agent */
	SCMP_SYS(accept4),
	SCMP_SYS(recvmsg),
	SCMP_SYS(sendmsg),
	SCMP_SYS(recvfrom),
	SCMP_SYS(sendto),
	SCMP_SYS(shutdown),
	SCMP_SYS(getsockopt),
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	SCMP_SYS(select),
	SCMP_SYS(pselect6),
	SCMP_SYS(epoll_create1),
	SCMP_SYS(epoll_ctl),
	SCMP_SYS(epoll_wait),
	SCMP_SYS(epoll_pwait),
	/* ourselves */
	SCMP_SYS(futex),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(rt_sigtimedwait),
	SCMP_SYS(rt_sigpending),
	SCMP_SYS(rt_sigsuspend),
	SCMP_SYS(rt_sigqueueinfo),
	SCMP_SYS(sigaltstack),
	SCMP_SYS(signalfd4),
	SCMP_SYS(restart_syscall),
	SCMP_SYS(getpid),
	SCMP_SYS(getppid),
	SCMP_SYS(gettid),
	SCMP_SYS(getuid),
	SCMP_SYS(geteuid),
	SCMP_SYS(getgid),
	SCMP_SYS(getegid),
	SCMP_SYS(getresuid),
	SCMP_SYS(getresgid),
	SCMP_SYS(getrandom),
	SCMP_SYS(getrusage),
	SCMP_SYS(uname),
	SCMP_SYS(sysinfo),
	SCMP_SYS(prlimit64),
	SCMP_SYS(getrlimit),
	SCMP_SYS(capget),
	SCMP_SYS(prctl),
	SCMP_SYS(arch_prctl),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(get_robust_list),
	SCMP_SYS(set_tid_address),
	SCMP_SYS(rseq),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
};

/*
 * Threads, as the engine traces in one of its own, but no processes. What clone3 asks for lies in
 * memory that a filter cannot see: the C library then falls back on clone.
 */
static int allow_threads(scmp_filter_ctx filter)
{
	int status = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);

	return status ? status
		      : seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
					 SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
}

struct pe_error *patcher_filter_syscalls(void)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int status = filter ? 0 : -ENOMEM;

	for (size_t i = 0; !status && i < sizeof(allowed) / sizeof(*allowed); i++)
		status = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
	if (!status)
		status = allow_threads(filter);
	if (!status)
		status = seccomp_load(filter);
	seccomp_release(filter);
	return status ? pe_error_errno(-status, "cannot filter system calls") : NULL;
}

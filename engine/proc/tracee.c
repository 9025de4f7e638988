/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One traced thread. Waits use waitid(WNOWAIT): a stop that a tracer has consumed loses its
 * signal when the tracer dies.
 */
#include "tracee.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "engine/cleanup.h"

enum { USER_CS = 0x33, RETRY_NS = 1000000 };

static int wake_signal(void)
{
	return SIGRTMAX - 1;
}

static void wake_handler(int sig)
{
}

static void install_wake_handler(void)
{
	/* Without SA_RESTART: its only use is to end a blocking waitid. */
	struct sigaction action = { .sa_handler = wake_handler };

	sigaction(wake_signal(), &action, NULL);
}

struct pe_error *waiter_init(struct waiter *waiter, uint64_t deadline)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = wake_signal() };
	sigset_t set;

	memset(waiter, 0, sizeof(*waiter));
	pthread_once(&once, install_wake_handler);
	sigemptyset(&set);
	sigaddset(&set, wake_signal());
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	event._sigev_un._tid = gettid();
	if (timer_create(CLOCK_MONOTONIC, &event, &waiter->timer))
		return pe_error_errno(errno, "cannot make a timer");
	waiter->made = true;
	waiter_set_deadline(waiter, deadline);
	return NULL;
}

void waiter_set_deadline(struct waiter *waiter, uint64_t deadline)
{
	struct itimerspec spec = {
		.it_value = { .tv_sec = (time_t)(deadline / 1000000),
			      .tv_nsec = (long)(deadline % 1000000) * 1000 },
		/* Again and again: the first may come between the look at the clock and waitid. */
		.it_interval = { .tv_nsec = RETRY_NS },
	};

	waiter->deadline = deadline;
	timer_settime(waiter->timer, TIMER_ABSTIME, &spec, NULL);
}

void waiter_deinit(struct waiter *waiter)
{
	if (waiter->made)
		timer_delete(waiter->timer);
	waiter->made = false;
}

/*
 * A dead thread that we traced must be reaped, or it stays; but the status of a process that is
 * our own child belongs to whoever started it.
 */
static void reap(const struct pe_target *target, pid_t tid)
{
	siginfo_t info;
	char path[64], text[4096];

	if (tid == target->pid) {
		snprintf(path, sizeof(path), "/proc/%d/status", tid);
		if (proc_read_file(path, text, sizeof(text)) < 0)
			return;

		const char *at = strstr(text, "\nPPid:");

		if (!at || atoi(at + 6) == getpid())
			return;
	}
	waitid(P_PID, (id_t)tid, &info, WEXITED | WNOHANG | __WALL);
}

static enum wait_result wait_once(const struct pe_target *target, pid_t tid, int flags, int *status)
{
	siginfo_t info = { 0 };

	if (waitid(P_PID, (id_t)tid, &info, WSTOPPED | WEXITED | WNOWAIT | __WALL | flags))
		return errno == EINTR ? WAIT_TIMEOUT : WAIT_GONE;
	if (info.si_pid == 0)
		return WAIT_TIMEOUT;
	if (info.si_code == CLD_EXITED || info.si_code == CLD_KILLED ||
	    info.si_code == CLD_DUMPED) {
		reap(target, tid);
		return WAIT_GONE;
	}
	*status = info.si_status;
	return WAIT_STOPPED;
}

enum wait_result waiter_wait(struct waiter *waiter, const struct pe_target *target, pid_t tid,
			     int *status)
{
	for (;;) {
		enum wait_result result = wait_once(target, tid, 0, status);

		if (result != WAIT_TIMEOUT || pe_now_us() >= waiter->deadline)
			return result;
	}
}

enum wait_result tracee_poll(const struct pe_target *target, pid_t tid, int *status)
{
	return wait_once(target, tid, WNOHANG, status);
}

bool tracee_is_event_stop(int status)
{
	return (status >> 8) == PTRACE_EVENT_STOP;
}

bool tracee_is_group_stop(int status)
{
	return tracee_is_event_stop(status) && (status & 0x7f) != SIGTRAP;
}

int tracee_pending_signal(int status)
{
	/* Above: an event; bit 7: a system call stop. */
	return (status & ~0x7f) ? 0 : status;
}

/*
 * Calls that return EINTR themselves when a signal is pending, and have done nothing then
 * (signal(7)). Those for sockets do so with a timeout set, those for files on FUSE.
 */
static bool returns_bare_eintr(uint64_t nr)
{
	switch (nr) {
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
	case SYS_rt_sigtimedwait:
	case SYS_io_uring_enter:
	case SYS_io_getevents:
	case SYS_io_pgetevents:
	case SYS_semop:
	case SYS_semtimedop:
	case SYS_read:
	case SYS_readv:
	case SYS_pread64:
	case SYS_recvfrom:
	case SYS_recvmsg:
	case SYS_recvmmsg:
	case SYS_accept:
	case SYS_accept4:
	case SYS_connect:
	case SYS_write:
	case SYS_writev:
	case SYS_pwrite64:
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_sendmmsg:
		return true;
	default:
		return false;
	}
}

/* True when the two bytes before the program counter are a syscall instruction. */
static bool behind_syscall(pid_t tid, const struct user_regs_struct *regs)
{
	errno = 0;
	long word = ptrace(PTRACE_PEEKTEXT, tid, (void *)(regs->rip - 2), NULL);

	return !errno && (word & 0xffff) == 0x050f;
}

void tracee_fix_eintr(pid_t tid, struct user_regs_struct *regs)
{
	if ((int64_t)regs->rax != -EINTR || (int64_t)regs->orig_rax < 0 || regs->cs != USER_CS ||
	    !returns_bare_eintr(regs->orig_rax) || !behind_syscall(tid, regs))
		return;

	uint64_t rax = (uint64_t)-K_ERESTARTNOHAND;

	if (ptrace(PTRACE_POKEUSER, tid, (void *)offsetof(struct user, regs.rax), (void *)rax) == 0)
		regs->rax = rax;
}

int64_t tracee_restarted_nr(const struct pe_target *target, uint64_t pc)
{
	uint8_t code[7]; /* b8 imm32, 0f 05 */
	uint32_t nr;

	if (proc_read_some(target, pc - sizeof(code), code, sizeof(code)) != sizeof(code) ||
	    code[0] != 0xb8 || code[5] != 0x0f || code[6] != 0x05)
		return -1;
	memcpy(&nr, code + 1, sizeof(nr));
	/* Only these are continued by restart_syscall. */
	switch (nr) {
	case SYS_poll:
	case SYS_futex:
	case SYS_nanosleep:
	case SYS_clock_nanosleep:
		return nr;
	default:
		return -1;
	}
}

bool tracee_in_syscall(const struct user_regs_struct *regs)
{
	if ((int64_t)regs->orig_rax < 0)
		return false;
	switch (-(int64_t)regs->rax) {
	case K_ERESTARTSYS:
	case K_ERESTARTNOINTR:
	case K_ERESTARTNOHAND:
	case K_ERESTART_RESTARTBLOCK:
		return true;
	default:
		return false;
	}
}

struct pe_error *tracee_suspend_seccomp(const struct pe_target *target, pid_t tid)
{
	const long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", target->pid, tid);
	if (!proc_status_number(path, "\nSeccomp:") ||
	    ptrace(PTRACE_SETOPTIONS, tid, NULL, (void *)options) == 0)
		return NULL;
	return pe_error_new(PE_ERR_SANDBOXED,
			    "process %d is sandboxed (seccomp), and the sandbox cannot be "
			    "suspended for an injected call: %s (that needs CAP_SYS_ADMIN, no "
			    "sandbox of our own, and a kernel with CONFIG_CHECKPOINT_RESTORE)",
			    target->pid, strerror(errno));
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * at-syscall: does something to a command right after its n-th system call of a kind.
 *
 *	at-syscall all|changing N ACTION COMMAND...
 *
 * ACTION is "kill" (SIGKILL), "signal:NUMBER" (sent to the thread that made the call), or "stop":
 * the thread stands there while "NAME\n" is written to fd 3 and a byte is awaited on fd 4.
 *
 * "changing" counts what can change another process, or lets it run on: ptrace requests that do
 * more than look, writes, locks, and waits. "all" counts every call. The command is traced from
 * outside: nothing in it knows.
 *
 * Exit status: 0 after a kill; 77 when the command ended before its n-th call; else its own.
 * Written to fd 3, where it is open, is the name of the call at which something was done.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REPORT_FD = 3, GO_FD = 4, EXIT_NOT_REACHED = 77, EXIT_TROUBLE = 99, SYSCALL_BIT = 0x80 };

struct call {
	long nr;
	const char *name;
};

static const struct call names[] = {
	{ SYS_ptrace, "ptrace" },     { SYS_pwrite64, "pwrite64" },
	{ SYS_write, "write" },	      { SYS_waitid, "waitid" },
	{ SYS_flock, "flock" },	      { SYS_unlink, "unlink" },
	{ SYS_unlinkat, "unlinkat" }, { SYS_ftruncate, "ftruncate" },
	{ SYS_openat, "openat" },     { SYS_pread64, "pread64" },
	{ SYS_read, "read" },	      { SYS_kill, "kill" },
	{ SYS_kcmp, "kcmp" },	      { SYS_process_vm_readv, "process_vm_readv" },
};

static const char *name_of(long nr, char *buffer, size_t size)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (names[i].nr == nr)
			return names[i].name;
	snprintf(buffer, size, "call-%ld", nr);
	return buffer;
}

static bool only_looks(unsigned long long request)
{
	switch (request) {
	case PTRACE_PEEKTEXT:
	case PTRACE_PEEKDATA:
	case PTRACE_PEEKUSER:
	case PTRACE_GETREGS:
	case PTRACE_GETREGSET:
	case PTRACE_GETSIGMASK:
	case PTRACE_GETSIGINFO:
	case PTRACE_GET_SYSCALL_INFO:
	case PTRACE_GET_RSEQ_CONFIGURATION:
		return true;
	default:
		return false;
	}
}

static bool changes(const struct user_regs_struct *regs)
{
	switch (regs->orig_rax) {
	case SYS_ptrace:
		return !only_looks(regs->rdi);
	case SYS_pwrite64:
	case SYS_write:
	case SYS_waitid:
	case SYS_flock:
	case SYS_unlink:
	case SYS_unlinkat:
	case SYS_ftruncate:
		return true;
	default:
		return false;
	}
}

static void report(const struct user_regs_struct *regs)
{
	char number[32], text[64];
	int size = snprintf(text, sizeof(text), "%s\n",
			    name_of((long)regs->orig_rax, number, sizeof(number)));

	if (write(REPORT_FD, text, (size_t)size) < 0)
		errno = 0; /* nobody asked */
}

/* ---- threads ---- */

/* Of the command; one that ended stays, as its number is not used again so soon. */
static struct thread {
	pid_t tid;
	bool in_call;
} threads[64];

static struct thread *thread_of(pid_t tid)
{
	for (size_t i = 0; i < sizeof(threads) / sizeof(*threads); i++) {
		if (!threads[i].tid)
			threads[i].tid = tid;
		if (threads[i].tid == tid)
			return &threads[i];
	}
	return NULL;
}

/* The signal that a stop holds for the thread; 0 for stops that are ptrace's own. */
static int held_signal(int status, bool first)
{
	int signal = WSTOPSIG(status);

	if (status >> 16 || (signal & ~SYSCALL_BIT) == SIGTRAP || (first && signal == SIGSTOP))
		return 0;
	return signal;
}

/*
 * The next stop of any thread; 0 with the command's status when it has ended. New threads begin
 * with a stop of their own.
 */
static pid_t next_stop(pid_t pid, int *status)
{
	for (;;) {
		pid_t tid = waitpid(-1, status, __WALL);

		if (tid < 0)
			return 0;
		if (WIFSTOPPED(*status))
			return tid;
		if (tid == pid)
			return 0;
	}
}

static void go_on(int how, pid_t tid, int signal)
{
	if (ptrace(how, tid, NULL, (void *)(long)signal))
		errno = 0; /* killed by somebody else: waitpid tells */
}

/* Until the command's n-th call has ended: the thread that made it; 0 when the command ended
 * first. */
static pid_t run_to(pid_t pid, bool all, unsigned long n, int *status)
{
	unsigned long seen = 0;

	go_on(PTRACE_SYSCALL, pid, 0);
	for (;;) {
		struct user_regs_struct regs;
		pid_t tid = next_stop(pid, status);
		struct thread *thread = tid ? thread_of(tid) : NULL;
		int signal = 0;

		if (!thread)
			return 0;
		if (WSTOPSIG(*status) != (SIGTRAP | SYSCALL_BIT)) {
			signal = held_signal(*status, tid != pid && !thread->in_call);
		} else {
			thread->in_call = !thread->in_call;
			if (!thread->in_call && ptrace(PTRACE_GETREGS, tid, NULL, &regs) == 0 &&
			    (all || changes(&regs)) && ++seen == n) {
				report(&regs);
				return tid;
			}
		}
		go_on(PTRACE_SYSCALL, tid, signal);
	}
}

static int exit_like(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The rest of the command, whose thread @tid gets @signal first. */
static int finish(pid_t pid, pid_t tid, int signal)
{
	int status;

	for (go_on(PTRACE_CONT, tid, signal); (tid = next_stop(pid, &status));)
		go_on(PTRACE_CONT, tid, held_signal(status, WSTOPSIG(status) == SIGSTOP));
	return exit_like(status);
}

static int act(pid_t pid, pid_t tid, const char *action)
{
	int status;
	char byte;

	if (!strcmp(action, "kill")) {
		kill(pid, SIGKILL);
		while (next_stop(pid, &status))
			;
		return 0;
	}
	if (!strncmp(action, "signal:", 7))
		return finish(pid, tid, atoi(action + 7));
	if (strcmp(action, "stop") || read(GO_FD, &byte, 1) < 0)
		return EXIT_TROUBLE;
	return finish(pid, tid, 0);
}

int main(int argc, char **argv)
{
	int status = 0;

	if (argc < 5) {
		fputs("usage: at-syscall all|changing N kill|stop|signal:N COMMAND...\n", stderr);
		return EXIT_TROUBLE;
	}

	pid_t pid = fork();

	if (pid == 0) {
		close(REPORT_FD);
		close(GO_FD);
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		execv(argv[4], argv + 4);
		_exit(EXIT_TROUBLE);
	}
	if (pid < 0 || waitpid(pid, &status, __WALL) < 0 || !WIFSTOPPED(status) ||
	    ptrace(PTRACE_SETOPTIONS, pid, NULL,
		   (void *)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE)))
		return EXIT_TROUBLE;

	pid_t tid = run_to(pid, !strcmp(argv[1], "all"), strtoul(argv[2], NULL, 10), &status);

	return tid ? act(pid, tid, argv[3]) : EXIT_NOT_REACHED;
}

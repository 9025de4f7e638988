/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * at-syscall: does something to a command right after its n-th system call of a kind.
 *
 *	at-syscall all|changing N kill COMMAND...   kills it (SIGKILL) there
 *	at-syscall all|changing N stop COMMAND...   stops it there: writes "NAME\n" to fd 3, waits
 *for a byte on fd 4, lets it go on at-syscall all|changing N signal:NUMBER COMMAND...  sends it a
 *signal there
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

enum { REPORT_FD = 3, GO_FD = 4, EXIT_NOT_REACHED = 77, EXIT_TROUBLE = 99 };

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

/* Until the command's n-th call has ended; false with its status when it ended first. */
static bool run_to(pid_t pid, bool all, unsigned long n, int *status)
{
	unsigned long seen = 0;
	bool in_call = false;
	int signal = 0;

	for (;;) {
		struct user_regs_struct regs;

		if (ptrace(PTRACE_SYSCALL, pid, NULL, (void *)(long)signal))
			errno = 0; /* killed by somebody else: waitpid tells */
		signal = 0;
		if (waitpid(pid, status, __WALL) < 0 || !WIFSTOPPED(*status))
			return false;
		if (WSTOPSIG(*status) != (SIGTRAP | 0x80)) {
			/* The stop after exec is no signal of its own. */
			signal = *status >> 16 || WSTOPSIG(*status) == SIGTRAP ? 0
									       : WSTOPSIG(*status);
			continue;
		}
		in_call = !in_call;
		if (in_call || ptrace(PTRACE_GETREGS, pid, NULL, &regs))
			continue;
		if (!all && !changes(&regs))
			continue;
		if (++seen == n) {
			report(&regs);
			return true;
		}
	}
}

static int exit_like(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int finish(pid_t pid, int signal)
{
	int status;

	if (ptrace(PTRACE_DETACH, pid, NULL, (void *)(long)signal) ||
	    waitpid(pid, &status, __WALL) < 0)
		return EXIT_TROUBLE;
	return exit_like(status);
}

static int act(pid_t pid, const char *action)
{
	int status;
	char byte;

	if (!strcmp(action, "kill")) {
		kill(pid, SIGKILL);
		waitpid(pid, &status, __WALL);
		return 0;
	}
	if (!strncmp(action, "signal:", 7))
		return finish(pid, atoi(action + 7));
	if (strcmp(action, "stop") || read(GO_FD, &byte, 1) < 0)
		return EXIT_TROUBLE;
	return finish(pid, 0);
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
		   (void *)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)))
		return EXIT_TROUBLE;
	if (!run_to(pid, !strcmp(argv[1], "all"), strtoul(argv[2], NULL, 10), &status))
		return EXIT_NOT_REACHED;
	return act(pid, argv[3]);
}

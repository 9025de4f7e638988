/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who shares the target's memory: kcmp(2) with KCMP_VM, before the stop for all processes, in the
 * stop for those alone that were born in between. The kernel gives numbers out in a circle, and
 * the last field of /proc/loadavg is the latest one, so those are few and known.
 *
 * Where the kernel has no kcmp, nothing is found. Processes that our /proc does not show (we are in
 * a container, they are not) are not found either.
 */
#include "sharers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <string.h>
#include <sys/syscall.h>

#include "engine/cleanup.h"

enum { MOST_BORN = 4096, DEFAULT_PID_MAX = 32768 };

static bool shares_memory(const struct pe_target *target, pid_t pid)
{
	struct task_stat stat;

	if (syscall(SYS_kcmp, target->pid, pid, KCMP_VM, 0, 0) != 0)
		return false;
	/* Kernel threads may borrow it; they run no code of it. */
	return proc_task_stat(pid, 0, &stat) == 0 && proc_task_is_user_thread(&stat);
}

static pid_t last_pid(int loadavg_fd)
{
	char text[128];
	ssize_t size = pread(loadavg_fd, text, sizeof(text) - 1, 0);

	if (size <= 0)
		return 0;
	text[size] = '\0';

	const char *last = strrchr(text, ' ');

	return last ? (pid_t)strtol(last, NULL, 10) : 0;
}

static pid_t read_pid_max(void)
{
	char text[32];

	if (proc_read_file("/proc/sys/kernel/pid_max", text, sizeof(text)) <= 0)
		return DEFAULT_PID_MAX;
	return (pid_t)strtol(text, NULL, 10);
}

struct pe_error *sharers_init(struct sharers *sharers, const struct pe_target *target)
{
	*sharers = (struct sharers){ .loadavg_fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC),
				     .pid_max = read_pid_max() };
	if (sharers->loadavg_fd < 0)
		return pe_error_errno(errno, "cannot open /proc/loadavg");
	/* Before the look: whoever comes during it is looked at once more. */
	sharers->last_pid = last_pid(sharers->loadavg_fd);

	DIR *dir = opendir("/proc");

	if (!dir)
		return pe_error_errno(errno, "cannot list the processes");
	for (struct dirent *entry; !sharers->found && (entry = readdir(dir));) {
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);

		if (pid > 0 && pid != target->pid && shares_memory(target, pid))
			sharers->found = pid;
	}
	closedir(dir);
	return NULL;
}

void sharers_deinit(struct sharers *sharers)
{
	if (sharers->loadavg_fd >= 0)
		close(sharers->loadavg_fd);
	sharers->loadavg_fd = -1;
}

static struct pe_error *shared(const struct pe_target *target, pid_t pid)
{
	return pe_error_new(PE_ERR_BUSY,
			    "process %d shares the memory of process %d without being a thread of "
			    "it (vfork, or clone with CLONE_VM): it would not stand still",
			    pid, target->pid);
}

struct pe_error *sharers_check(const struct sharers *sharers, const struct pe_target *target,
			       bool (*is_ours)(const void *ctx, pid_t tid), const void *ctx)
{
	pid_t pid = sharers->last_pid, last = last_pid(sharers->loadavg_fd);

	if (sharers->found && shares_memory(target, sharers->found))
		return shared(target, sharers->found);
	for (int born = 0; pid != last; born++) {
		if (born == MOST_BORN)
			return pe_error_new(PE_ERR_BUSY,
					    "too many processes were started while process %d was "
					    "brought to a stop",
					    target->pid);
		pid = pid >= sharers->pid_max ? 1 : pid + 1;
		if (!is_ours(ctx, pid) && shares_memory(target, pid))
			return shared(target, pid);
	}
	return NULL;
}

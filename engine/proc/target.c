/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A running process: opening it, telling whether it is still the same one, its memory.
 *
 * The descriptor of /proc/PID/mem belongs to the address space and not to the pid: after an exec
 * or the death of the process it reads nothing any more, which is how both are noticed.
 */
#include "proc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

#include "engine/cleanup.h"
#include "stragglers.h"
#include "unwind.h"

enum {
	TASK_PF_IO_WORKER = 0x00000010,
	TASK_PF_KTHREAD = 0x00200000,
};

uint64_t pe_now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

ssize_t proc_read_file(const char *path, char *buf, size_t size)
{
	pe_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t used = 0;

	if (fd < 0)
		return -1;
	while (used + 1 < size) {
		ssize_t n = read(fd, buf + used, size - 1 - used);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		used += (size_t)n;
	}
	buf[used] = '\0';
	return (ssize_t)used;
}

int proc_task_stat(pid_t pid, pid_t tid, struct task_stat *ret)
{
	char path[64], text[1024];

	if (tid)
		snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	else
		snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (proc_read_file(path, text, sizeof(text)) < 0)
		return -1;

	/* A comm can hold anything, parentheses and spaces too: it ends at the last ')'. */
	char *open_paren = strchr(text, '('), *close_paren = strrchr(text, ')');

	if (!open_paren || !close_paren || close_paren < open_paren) {
		errno = EPROTO;
		return -1;
	}
	memset(ret, 0, sizeof(*ret));
	*close_paren = '\0';
	snprintf(ret->comm, sizeof(ret->comm), "%s", open_paren + 1);
	if (sscanf(close_paren + 1,
		   " %c %*d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %lu %*d "
		   "%" SCNu64 " %*u %*d %*u %*u %*u %" SCNu64,
		   &ret->state, &ret->flags, &ret->num_threads, &ret->start_time,
		   &ret->start_stack) < 4) {
		errno = EPROTO;
		return -1;
	}
	return 0;
}

bool proc_task_is_user_thread(const struct task_stat *stat)
{
	return !(stat->flags & (TASK_PF_IO_WORKER | TASK_PF_KTHREAD)) && stat->state != 'Z' &&
	       stat->state != 'X';
}

long proc_status_number(const char *path, const char *key)
{
	char text[4096];

	if (proc_read_file(path, text, sizeof(text)) < 0)
		return 0;

	const char *at = strstr(text, key);

	return at ? strtol(at + strlen(key), NULL, 10) : 0;
}

static bool has_capability(int cap)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

	return syscall(SYS_capget, &header, data) == 0 &&
	       (data[CAP_TO_INDEX(cap)].effective & CAP_TO_MASK(cap));
}

/*
 * Our rights are enough, and still no: Yama (Documentation/admin-guide/LSM/Yama.rst), whose setting
 * a service may not see, or something else that stands above capabilities.
 */
static struct pe_error *memory_denied(pid_t pid)
{
	char scope[16];
	bool yama = proc_read_file("/proc/sys/kernel/yama/ptrace_scope", scope, sizeof(scope)) > 0;

	return pe_error_new(
		PE_ERR_UNSUPPORTED, "cannot open the memory of process %d: %s", pid,
		yama && atoi(scope) == 3
			? "kernel.yama.ptrace_scope is 3, with which nobody may look "
			  "into another process until the next boot"
			: "forbidden by the kernel's security settings "
			  "(kernel.yama.ptrace_scope=3 does so until the next boot), or "
			  "it belongs to an outer user namespace");
}

static struct pe_error *open_memory(struct pe_target *target)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", target->pid);
	target->mem_fd = open(path, O_RDWR | O_CLOEXEC);
	target->mem_writable = target->mem_fd >= 0;
	if (target->mem_fd < 0)
		target->mem_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (target->mem_fd < 0 && (errno == ENOENT || errno == ESRCH))
		return pe_error_new(PE_ERR_NO_TARGET, "process %d has just ended", target->pid);
	if (target->mem_fd < 0 && (errno == EACCES || errno == EPERM) &&
	    has_capability(CAP_SYS_PTRACE) && has_capability(CAP_DAC_OVERRIDE))
		return memory_denied(target->pid);
	if (target->mem_fd < 0)
		return pe_error_errno(errno, "cannot open the memory of process %d", target->pid);
	return NULL;
}

static struct pe_error *cannot_look(pid_t pid, int errnum)
{
	if (errnum == ENOENT || errnum == ESRCH)
		return pe_error_new(PE_ERR_NO_TARGET, "there is no process %d", pid);
	return pe_error_errno(errnum, "cannot look at process %d", pid);
}

static struct pe_error *open_checks(pid_t pid, struct task_stat *stat)
{
	char path[64];

	if (pid <= 0)
		return pe_error_new(PE_ERR_NO_TARGET, "%d is no process id", pid);
	if (pid == getpid())
		return pe_error_new(PE_ERR_NO_TARGET, "process %d is this program itself", pid);
	if (proc_task_stat(pid, 0, stat))
		return cannot_look(pid, errno);
	if (stat->flags & TASK_PF_KTHREAD)
		return pe_error_new(PE_ERR_NO_TARGET, "%d (%s) is a thread of the kernel", pid,
				    stat->comm);

	/* A process that is being killed looks so for a moment, until its last thread is gone. */
	for (int look = 0; look < 200 && stat->state == 'Z' && stat->num_threads > 1; look++) {
		usleep(10000);
		if (proc_task_stat(pid, 0, stat))
			return pe_error_new(PE_ERR_NO_TARGET, "process %d has just ended", pid);
	}
	if (stat->state == 'Z' && stat->num_threads > 1)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "the first thread of process %d has exited before the others",
				    pid);
	if (stat->state == 'Z')
		return pe_error_new(PE_ERR_NO_TARGET, "process %d is dead (a zombie)", pid);

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	long tgid = proc_status_number(path, "\nTgid:");

	if (tgid && tgid != pid)
		return pe_error_new(PE_ERR_NO_TARGET, "%d is a thread of process %ld", pid, tgid);
	return NULL;
}

struct pe_error *pe_target_open(pid_t pid, struct pe_target **ret)
{
	struct task_stat stat;
	struct pe_error *err = open_checks(pid, &stat);

	if (err)
		return err;

	struct pe_target *target = calloc(1, sizeof(*target));

	if (!target)
		return pe_error_nomem();
	target->pid = pid;
	target->mem_fd = -1;
	target->start_time = stat.start_time;
	target->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (target->pidfd < 0)
		err = errno == ESRCH ? pe_error_new(PE_ERR_NO_TARGET,
						    "there is no process %d any more", pid)
				     : pe_error_errno(errno, "cannot hold on to process %d", pid);
	if (!err)
		err = open_memory(target);
	/* Once more: the fields that need rights, and surely of the process that we hold. */
	if (!err && proc_task_stat(pid, 0, &stat))
		err = cannot_look(pid, errno);
	if (!err && stat.start_time != target->start_time)
		err = pe_error_new(PE_ERR_NO_TARGET, "there is no process %d any more", pid);
	target->start_stack = stat.start_stack;
	if (!err)
		err = pe_target_alive(target);
	if (err) {
		pe_target_close(target);
		return err;
	}
	*ret = target;
	return NULL;
}

void pe_target_close(struct pe_target *target)
{
	if (!target)
		return;
	stragglers_release(target, 1000000);
	unwinder_free(target->unwinder);
	if (target->pidfd >= 0)
		close(target->pidfd);
	if (target->mem_fd >= 0)
		close(target->mem_fd);
	free(target->stragglers);
	free(target);
}

pid_t pe_target_pid(const struct pe_target *target)
{
	return target->pid;
}

int pe_target_pidfd(const struct pe_target *target)
{
	return target->pidfd;
}

uint64_t pe_target_start_time(const struct pe_target *target)
{
	return target->start_time;
}

struct pe_error *pe_target_alive(const struct pe_target *target)
{
	char byte;
	struct task_stat stat;

	if (pread(target->mem_fd, &byte, 1, (off_t)target->start_stack) == 1)
		return NULL;
	if (proc_task_stat(target->pid, 0, &stat) || stat.start_time != target->start_time)
		return pe_error_new(PE_ERR_DIED, "process %d is gone", target->pid);
	if (stat.start_stack != target->start_stack)
		return pe_error_new(PE_ERR_DIED, "process %d runs another program now",
				    target->pid);
	return pe_error_new(PE_ERR_DIED, "process %d is dying (state %c)", target->pid, stat.state);
}

bool pe_target_is_stopped(const struct pe_target *target)
{
	struct task_stat stat;

	return proc_task_stat(target->pid, 0, &stat) == 0 && stat.state == 'T';
}

/* The process that thread @tid belongs to: a tracer is a thread, as ours are. */
static pid_t process_of(pid_t tid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/status", tid);

	long tgid = proc_status_number(path, "\nTgid:");

	return tgid > 0 ? (pid_t)tgid : tid;
}

pid_t pe_target_tracer(const struct pe_target *target)
{
	char path[300];

	snprintf(path, sizeof(path), "/proc/%d/task", target->pid);
	DIR *dir = opendir(path);

	if (!dir)
		return 0;

	pid_t found = 0;
	struct dirent *entry;

	while (!found && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%s/status", target->pid, entry->d_name);
		found = (pid_t)proc_status_number(path, "\nTracerPid:");
		if (found == getpid() || found == gettid())
			found = 0;
	}
	closedir(dir);
	return found ? process_of(found) : 0;
}

size_t proc_read_some(const struct pe_target *target, uint64_t addr, void *buf, size_t size)
{
	struct iovec local = { .iov_base = buf, .iov_len = size };
	struct iovec remote = { .iov_base = (void *)(uintptr_t)addr, .iov_len = size };
	ssize_t done = process_vm_readv(target->pid, &local, 1, &remote, 1, 0);

	if (done == (ssize_t)size)
		return size;

	/* Pages without read permission, and processes whose first thread has exited. */
	size_t used = done > 0 ? (size_t)done : 0;

	while (used < size) {
		ssize_t n = pread(target->mem_fd, (char *)buf + used, size - used,
				  (off_t)(addr + used));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		used += (size_t)n;
	}
	return used;
}

struct pe_error *pe_target_read(const struct pe_target *target, uint64_t addr, void *buf,
				size_t size)
{
	size_t used = proc_read_some(target, addr, buf, size);

	if (used == size)
		return NULL;

	struct pe_error *err = pe_target_alive(target);

	if (err)
		return err;
	return pe_error_new(PE_ERR_SYSTEM,
			    "cannot read %zu bytes at %#" PRIx64 " of process %d: no memory at "
			    "%#" PRIx64,
			    size, addr, target->pid, addr + used);
}

/* Word by word through a thread that we hold; the words at both ends keep their other bytes. */
static struct pe_error *write_poketext(struct pe_target *target, uint64_t addr, const uint8_t *buf,
				       size_t size)
{
	while (size) {
		uint64_t word_addr = addr & ~7ULL;
		size_t shift = addr - word_addr;
		size_t n = 8 - shift < size ? 8 - shift : size;
		uint64_t word;

		errno = 0;
		word = (uint64_t)ptrace(PTRACE_PEEKTEXT, target->held_tid, (void *)word_addr, NULL);
		if (errno)
			return pe_error_errno(errno, "cannot read the word at %#" PRIx64,
					      word_addr);
		memcpy((uint8_t *)&word + shift, buf, n);
		if (ptrace(PTRACE_POKETEXT, target->held_tid, (void *)word_addr, (void *)word))
			return pe_error_errno(errno, "cannot write the word at %#" PRIx64,
					      word_addr);
		addr += n;
		buf += n;
		size -= n;
	}
	return NULL;
}

struct pe_error *pe_target_write(struct pe_target *target, uint64_t addr, const void *buf,
				 size_t size)
{
	size_t used = 0;
	int errnum = EACCES;

	while (target->mem_writable && used < size) {
		ssize_t n = pwrite(target->mem_fd, (const char *)buf + used, size - used,
				   (off_t)(addr + used));

		if (n < 0 && errno == EINTR)
			continue;
		/* The address space is gone: a thread that we hold may have another one by now. */
		if (n == 0)
			return pe_target_alive(target)
				       ?: pe_error_new(PE_ERR_DIED, "process %d is gone",
						       target->pid);
		if (n < 0) {
			errnum = errno;
			break;
		}
		used += (size_t)n;
	}
	if (used == size)
		return NULL;
	if (target->held_tid)
		return write_poketext(target, addr + used, (const uint8_t *)buf + used,
				      size - used);

	struct pe_error *err = pe_target_alive(target);

	if (err)
		return err;
	return pe_error_errno(errnum, "cannot write %zu bytes at %#" PRIx64 " of process %d", size,
			      addr, target->pid);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The threads of a process, without stopping any: /proc/PID/task/TID/syscall tells the system
 * call, stack pointer and program counter of a blocked thread.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/cleanup.h"
#include "proc.h"

/*
 * "running", "-1 sp pc" (blocked, but not in a system call: a page fault, say) or
 * "nr arg0 ... arg5 sp pc".
 */
static void parse_syscall(const char *text, struct pe_thread *thread)
{
	uint64_t *a = thread->args;

	thread->running = true;
	thread->nr = -1;
	if (sscanf(text,
		   "%" SCNd64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64
		   " %" SCNx64 " %" SCNx64 " %" SCNx64,
		   &thread->nr, &a[0], &a[1], &a[2], &a[3], &a[4], &a[5], &thread->sp,
		   &thread->pc) == 9) {
		thread->running = false;
		return;
	}
	memset(thread->args, 0, sizeof(thread->args));
	thread->nr = -1;
	if (sscanf(text, "-1 %" SCNx64 " %" SCNx64, &thread->sp, &thread->pc) == 2)
		thread->running = false;
}

bool proc_read_thread(pid_t pid, pid_t tid, struct pe_thread *ret)
{
	struct task_stat stat;
	char path[64], text[256];

	if (proc_task_stat(pid, tid, &stat) || !proc_task_is_user_thread(&stat))
		return false;
	memset(ret, 0, sizeof(*ret));
	ret->tid = tid;
	memcpy(ret->comm, stat.comm, sizeof(ret->comm));
	ret->running = true;
	ret->nr = -1;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", pid, tid);
	if (proc_read_file(path, text, sizeof(text)) > 0)
		parse_syscall(text, ret);
	return true;
}

struct pe_error *pe_target_threads(const struct pe_target *target, struct pe_threads *ret)
{
	char path[64];
	size_t capacity = 64;
	struct pe_threads threads = { .items = calloc(capacity, sizeof(*threads.items)) };

	snprintf(path, sizeof(path), "/proc/%d/task", target->pid);
	DIR *dir = opendir(path);
	int errnum = errno;

	for (struct dirent *entry; dir && threads.items && (entry = readdir(dir));) {
		if (entry->d_name[0] == '.')
			continue;
		if (threads.count == capacity) {
			struct pe_thread *bigger =
				reallocarray(threads.items, capacity * 2, sizeof(*bigger));

			if (!bigger) {
				pe_threads_deinit(&threads);
				break;
			}
			threads.items = bigger;
			capacity *= 2;
		}
		if (proc_read_thread(target->pid, (pid_t)atoi(entry->d_name),
				     &threads.items[threads.count]))
			threads.count++;
	}
	if (dir)
		closedir(dir);
	if (!threads.items)
		return pe_error_nomem();
	if (threads.count == 0) {
		pe_threads_deinit(&threads);
		struct pe_error *err = pe_target_alive(target);

		return err ? err
			   : pe_error_errno(errnum, "cannot list the threads of process %d",
					    target->pid);
	}
	*ret = threads;
	return NULL;
}

void pe_threads_deinit(struct pe_threads *threads)
{
	free(threads->items);
	memset(threads, 0, sizeof(*threads));
}

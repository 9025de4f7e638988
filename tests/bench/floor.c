/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What stopping a process costs at least, measured by the plainest program that can do it:
 *
 *	floor PID [bare]
 *
 * seizes all threads, interrupts them all, waits for all, lists the tasks again, reads registers
 * and 4 KiB of each stack, and detaches; all at SCHED_FIFO. With `bare` it neither lists again nor
 * reads. Prints {"pause_us":N,"threads":N}: first interrupt to last detach. Shares no code with
 * the engine, whose pauses are held against it.
 */
#include <dirent.h>
#include <elf.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREADS = 8192, STACK_BYTES = 4096 };

static pid_t threads[MAX_THREADS];
static bool stopped[MAX_THREADS];
static size_t count;

static unsigned long long now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000ULL + t.tv_nsec / 1000;
}

/* Tasks are listed in the order in which we met them, so the search ends at once. */
static bool known(pid_t tid, size_t *hint)
{
	for (size_t i = 0; i < count; i++) {
		size_t at = (*hint + i) % count;

		if (threads[at] == tid) {
			*hint = at + 1;
			return true;
		}
	}
	return false;
}

/* io_uring's workers are listed as tasks and cannot be traced: PF_USER_WORKER and PF_IO_WORKER. */
static bool is_worker(pid_t pid, pid_t tid)
{
	char path[64], text[512], *after;
	unsigned int flags = 0;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	FILE *file = fopen(path, "r");
	if (!file)
		return true;
	if (fgets(text, sizeof(text), file) && (after = strrchr(text, ')')))
		sscanf(after, ") %*c %*d %*d %*d %*d %*d %u", &flags);
	fclose(file);
	return flags & 0x4010;
}

/* Seizes what is not seized yet; true when there was something new. */
static bool seize_new(pid_t pid, DIR *dir, bool interrupt)
{
	size_t before = count, hint = 0;
	struct dirent *entry;

	rewinddir(dir);
	while ((entry = readdir(dir))) {
		pid_t tid = atoi(entry->d_name);

		if (!tid || known(tid, &hint) || is_worker(pid, tid) || count == MAX_THREADS)
			continue;
		if (ptrace(PTRACE_SEIZE, tid, NULL, NULL))
			continue;
		if (interrupt)
			ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
		threads[count++] = tid;
	}
	return count > before;
}

static void wait_from(size_t first)
{
	for (size_t i = first; i < count; i++) {
		int status;

		stopped[i] =
			waitpid(threads[i], &status, __WALL) == threads[i] && WIFSTOPPED(status);
	}
}

static void read_states(int mem, size_t first)
{
	static char stack[STACK_BYTES];

	for (size_t i = first; i < count; i++) {
		struct user_regs_struct regs;
		struct iovec io = { &regs, sizeof(regs) };

		if (!stopped[i] || ptrace(PTRACE_GETREGSET, threads[i], NT_PRSTATUS, &io))
			continue;
		if (pread(mem, stack, sizeof(stack), regs.rsp) < 0)
			continue;
	}
}

int main(int argc, char **argv)
{
	pid_t pid = argc > 1 ? atoi(argv[1]) : 0;
	bool bare = argc > 2 && !strcmp(argv[2], "bare");
	char path[64];

	if (pid <= 0)
		errx(2, "usage: floor PID [bare]");
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	DIR *dir = opendir(path);
	if (!dir)
		err(1, "%s", path);
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	int mem = open(path, O_RDONLY | O_CLOEXEC);
	if (mem < 0)
		err(1, "%s", path);
	seize_new(pid, dir, false);
	if (!count)
		errx(1, "cannot trace process %d", pid);

	struct sched_param fifo = { .sched_priority = 10 };
	bool refused = sched_setscheduler(0, SCHED_FIFO, &fifo) != 0;
	unsigned long long begin = now_us();

	for (size_t i = 0; i < count; i++)
		ptrace(PTRACE_INTERRUPT, threads[i], NULL, NULL);
	wait_from(0);
	for (size_t first = 0; !bare;) {
		read_states(mem, first);
		first = count;
		if (!seize_new(pid, dir, true))
			break;
		wait_from(first);
	}
	for (size_t i = 0; i < count; i++)
		ptrace(PTRACE_DETACH, threads[i], NULL, NULL);

	unsigned long long end = now_us();

	printf("{\"pause_us\":%llu,\"threads\":%zu,\"fifo_refused\":%s}\n", end - begin, count,
	       refused ? "true" : "false");
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One patcher at a time a process: an flock on /run/dbcare/PID-STARTTIME.lock, which the kernel
 * drops whatever becomes of its holder. The file tells the holder's pid and goes with it.
 */
#include "internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "engine/cleanup.h"

static const char lock_folder[] = "/run/dbcare";

static void lock_path(const struct pe_target *target, char *path, size_t size)
{
	snprintf(path, size, "%s/%d-%" PRIu64 ".lock", lock_folder, pe_target_pid(target),
		 pe_target_start_time(target));
}

static struct pe_error *held(const struct pe_target *target, int fd)
{
	char text[32] = "";
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	int pid = n > 0 ? atoi(text) : 0;

	if (pid <= 0)
		return pe_error_new(PE_ERR_BUSY, "another patcher is at work on process %d",
				    pe_target_pid(target));
	return pe_error_new(PE_ERR_BUSY, "another patcher (process %d) is at work on process %d",
			    pid, pe_target_pid(target));
}

/* True when the locked file still is the one that the path leads to: its last holder may have
 * removed it between our open and our lock. */
static bool still_there(const char *path, int fd)
{
	struct stat a, b;

	return !fstat(fd, &a) && !stat(path, &b) && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

/* Killed patchers leave their files; those of processes that are gone serve nobody. */
static void sweep(void)
{
	DIR *dir = opendir(lock_folder);

	if (!dir)
		return;
	for (struct dirent *entry; (entry = readdir(dir));) {
		int pid = atoi(entry->d_name);

		if (pid > 0 && kill(pid, 0) && errno == ESRCH)
			unlinkat(dirfd(dir), entry->d_name, 0);
	}
	closedir(dir);
}

struct pe_error *lock_take(const struct pe_target *target, int *ret)
{
	char path[128];

	if (mkdir(lock_folder, 0755) && errno != EEXIST)
		return pe_error_errno(errno, "cannot make %s", lock_folder);
	sweep();
	lock_path(target, path, sizeof(path));
	for (;;) {
		pe_auto_fd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

		if (fd < 0)
			return pe_error_errno(errno, "cannot open %s", path);
		if (flock(fd, LOCK_EX | LOCK_NB))
			return errno == EWOULDBLOCK ? held(target, fd)
						    : pe_error_errno(errno, "flock %s", path);
		if (!still_there(path, fd))
			continue;
		if (ftruncate(fd, 0) || dprintf(fd, "%d\n", getpid()) < 0)
			return pe_error_errno(errno, "cannot write %s", path);
		*ret = fd;
		fd = -1;
		return NULL;
	}
}

void lock_release(const struct pe_target *target, int *fd)
{
	char path[128];

	if (*fd < 0)
		return;
	lock_path(target, path, sizeof(path));
	unlink(path);
	close(*fd);
	*fd = -1;
}

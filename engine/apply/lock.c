/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One patcher at a time a process, by two locks that the kernel drops whatever becomes of their
 * holder:
 *
 *  - an flock on /run/dbcare/PID-STARTTIME.lock; the file tells the holder's pid and goes with it;
 *  - an flock on the pidfd of the process, where pidfds have inodes of their own (pidfs, Linux
 *    6.9). A patcher with another /run (in a container, say) or another numbering of processes
 *    meets us there, since the inode is that of the process whatever it is called. On older kernels
 *    all pidfds share one inode, and only patchers with the same /run see each other.
 */
#include "internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "engine/cleanup.h"

static const char lock_folder[] = "/run/dbcare";
static const long pidfs_magic = 0x50494446; /* linux/magic.h: PID_FS_MAGIC */

static void lock_path(const struct pe_target *target, char *path, size_t size)
{
	snprintf(path, size, "%s/%d-%" PRIu64 ".lock", lock_folder, pe_target_pid(target),
		 pe_target_start_time(target));
}

/* Who holds an flock on this file: proc(5), /proc/locks. 0: nobody that we can see. */
static pid_t flock_holder(int fd)
{
	struct stat st;
	pe_auto_file FILE *locks = fopen("/proc/locks", "re");
	pe_auto_free char *line = NULL;
	size_t room = 0;

	if (!locks || fstat(fd, &st))
		return 0;
	while (getline(&line, &room, locks) > 0) {
		unsigned int major_nr, minor_nr;
		unsigned long inode;
		int pid;

		if (sscanf(line, "%*d: FLOCK %*s %*s %d %x:%x:%lu", &pid, &major_nr, &minor_nr,
			   &inode) == 4 &&
		    inode == st.st_ino && makedev(major_nr, minor_nr) == st.st_dev && pid > 0)
			return pid;
	}
	return 0;
}

static struct pe_error *held(const struct pe_target *target, int fd)
{
	pid_t pid = flock_holder(fd);

	if (pid <= 0)
		return pe_error_new(
			PE_ERR_BUSY,
			"another patcher is at work on process %d (it cannot be seen from "
			"here: it is outside this container, or has just ended)",
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
		char path[64];
		int pid = atoi(entry->d_name);

		snprintf(path, sizeof(path), "/proc/%d", pid);
		if (pid <= 0 || !access(path, F_OK))
			continue;
		/* Somebody with other process numbers may share the folder and be at work. */
		pe_auto_fd int fd =
			openat(dirfd(dir), entry->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

		if (fd >= 0 && !flock(fd, LOCK_EX | LOCK_NB))
			unlinkat(dirfd(dir), entry->d_name, 0);
	}
	closedir(dir);
}

/* ---- the process itself ---- */

static bool has_own_inode(const struct pe_target *target)
{
	struct statfs fs;

	return !fstatfs(pe_target_pidfd(target), &fs) && fs.f_type == pidfs_magic;
}

static struct pe_error *lock_process(const struct pe_target *target)
{
	int fd = pe_target_pidfd(target);

	if (!has_own_inode(target) || !flock(fd, LOCK_EX | LOCK_NB))
		return NULL;
	return errno == EWOULDBLOCK
		       ? held(target, fd)
		       : pe_error_errno(errno, "cannot lock process %d", pe_target_pid(target));
}

/* ---- both ---- */

static struct pe_error *lock_file(const struct pe_target *target, int *ret)
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
		/* For people; whether it can be written does not matter. */
		if (ftruncate(fd, 0) || dprintf(fd, "%d\n", getpid()) < 0)
			errno = 0;
		*ret = fd;
		fd = -1;
		return NULL;
	}
}

struct pe_error *lock_take(const struct pe_target *target, int *ret)
{
	struct pe_error *err = lock_file(target, ret);

	if (err)
		return err;
	err = lock_process(target);
	if (err)
		lock_release(target, ret);
	return err;
}

void lock_release(const struct pe_target *target, int *fd)
{
	char path[128];

	if (*fd < 0)
		return;
	if (has_own_inode(target))
		flock(pe_target_pidfd(target), LOCK_UN);
	lock_path(target, path, sizeof(path));
	unlink(path);
	close(*fd);
	*fd = -1;
}

pid_t lock_holder(const struct pe_target *target)
{
	char path[128];
	pid_t pid = has_own_inode(target) ? flock_holder(pe_target_pidfd(target)) : 0;

	if (pid)
		return pid;
	lock_path(target, path, sizeof(path));
	pe_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? 0 : flock_holder(fd);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Waiting for other processes: their locks, their ends. */
#include "kind.h"

#include <sys/file.h>
#include <sys/wait.h>

/* ---- locks ---- */

/* Holds its lock for WAIT_MS, then lets us have it for a moment. */
static int make_lock(struct kind *kind, int (*lock)(int fd, int how))
{
	char name[] = "locked-XXXXXX";
	int ready[2];
	char byte;
	pid_t parent = getpid();

	kind->fd[0] = mkstemp(name);
	if (kind->fd[0] < 0 || pipe(ready))
		return errno;
	switch (fork()) {
	case -1:
		return errno;
	case 0: {
		int fd = open(name, O_RDWR);

		for (bool first = true; getppid() == parent; first = false) {
			lock(fd, LOCK_EX);
			if (first && write(ready[1], "x", 1) != 1)
				_exit(1);
			usleep(WAIT_MS * 1000);
			lock(fd, LOCK_UN);
			usleep(50000);
		}
		_exit(0);
	}
	default:
		return is(read(ready[0], &byte, 1), 0);
	}
}

static int fcntl_lock(int fd, int how)
{
	struct flock lock = { .l_type = how == LOCK_EX ? F_WRLCK : F_UNLCK };

	return fcntl(fd, F_SETLKW, &lock);
}

static int ofd_lock(int fd, int how)
{
	struct flock lock = { .l_type = how == LOCK_EX ? F_WRLCK : F_UNLCK };

	return fcntl(fd, F_OFD_SETLKW, &lock);
}

static int make_flock(struct kind *kind)
{
	return make_lock(kind, flock);
}

static int make_fcntl_lock(struct kind *kind)
{
	return make_lock(kind, fcntl_lock);
}

static int make_ofd_lock(struct kind *kind)
{
	return make_lock(kind, ofd_lock);
}

static int wait_lock(struct kind *kind, int (*lock)(int fd, int how))
{
	int error = is(lock(kind->fd[0], LOCK_EX), 0);

	if (!error)
		error = is(lock(kind->fd[0], LOCK_UN), 0);
	usleep(100000);
	return error;
}

static int wait_flock(struct kind *kind)
{
	return wait_lock(kind, flock);
}

static int wait_fcntl_lock(struct kind *kind)
{
	return wait_lock(kind, fcntl_lock);
}

static int wait_ofd_lock(struct kind *kind)
{
	return wait_lock(kind, ofd_lock);
}

/* ---- children ---- */

static pid_t sleeping_child(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		usleep(WAIT_MS * 1000);
		_exit(0);
	}
	return pid;
}

static int wait_wait4(struct kind *kind)
{
	return is(syscall(SYS_wait4, sleeping_child(), NULL, 0, NULL), 0);
}

static int wait_waitid(struct kind *kind)
{
	siginfo_t info;

	return is(waitid(P_PID, (id_t)sleeping_child(), &info, WEXITED), 0);
}

/* ---- the table ---- */

struct kind processes[] = {
	{ "flock", make_flock, wait_flock },
	{ "fcntl_setlkw", make_fcntl_lock, wait_fcntl_lock },
	{ "fcntl_ofd_setlkw", make_ofd_lock, wait_ofd_lock },
	{ "wait4", NULL, wait_wait4 },
	{ "waitid", NULL, wait_waitid },
	{ NULL },
};

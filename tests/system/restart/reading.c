/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Waiting for something to read: from pipes and sockets, by poll, select and epoll. */
#include "kind.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>

static int make_fed_socket(struct kind *kind)
{
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, kind->fd))
		return errno;
	return feed_with(kind, feed_byte);
}

static int wait_read(struct kind *kind)
{
	char byte;

	return is(syscall(SYS_read, kind->fd[0], &byte, 1), 0);
}

static int wait_recv(struct kind *kind)
{
	char byte;

	return is(recv(kind->fd[0], &byte, 1, 0), 0);
}

static int wait_recvmsg(struct kind *kind)
{
	char byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

	return is(recvmsg(kind->fd[0], &message, 0), 0);
}

static int wait_recvmmsg(struct kind *kind)
{
	char byte;
	struct iovec iov = { &byte, 1 };
	struct mmsghdr message = { .msg_hdr = { .msg_iov = &iov, .msg_iovlen = 1 } };

	return is(recvmmsg(kind->fd[0], &message, 1, 0, NULL), 0);
}

static int make_timed_socket(struct kind *kind)
{
	struct timeval timeout = { WAIT_MS / 1000, WAIT_MS % 1000 * 1000 };

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, kind->fd))
		return errno;
	return setsockopt(kind->fd[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) ? errno
											   : 0;
}

static int wait_recv_timed(struct kind *kind)
{
	char byte;

	return is(recv(kind->fd[0], &byte, 1, 0), EAGAIN);
}

static int wait_poll(struct kind *kind)
{
	struct pollfd item = { .fd = kind->fd[0], .events = POLLIN };

	return is(syscall(SYS_poll, &item, 1, WAIT_MS), 0);
}

static int wait_poll_fed(struct kind *kind)
{
	struct pollfd item = { .fd = kind->fd[0], .events = POLLIN };
	int error = is(syscall(SYS_poll, &item, 1, -1), 0);
	char byte;

	return error ? error : is(read(kind->fd[0], &byte, 1), 0);
}

static int wait_ppoll(struct kind *kind)
{
	struct pollfd item = { .fd = kind->fd[0], .events = POLLIN };

	return is(ppoll(&item, 1, &wait_ts, NULL), 0);
}

static int wait_select(struct kind *kind)
{
	struct timeval timeout = { WAIT_MS / 1000, WAIT_MS % 1000 * 1000 };
	fd_set set;

	FD_ZERO(&set);
	FD_SET(kind->fd[0], &set);
	return is(syscall(SYS_select, kind->fd[0] + 1, &set, NULL, NULL, &timeout), 0);
}

static int wait_pselect(struct kind *kind)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(kind->fd[0], &set);
	return is(pselect(kind->fd[0] + 1, &set, NULL, NULL, &wait_ts, NULL), 0);
}

/* Edge by edge: every byte is an event. */
static int add_epoll(struct kind *kind)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	int source = kind->fd[0];

	kind->fd[0] = epoll_create1(0);
	return epoll_ctl(kind->fd[0], EPOLL_CTL_ADD, source, &event) ? errno : 0;
}

static int make_epoll(struct kind *kind)
{
	int error = make_pipe(kind);

	return error ? error : add_epoll(kind);
}

static int make_fed_epoll(struct kind *kind)
{
	int error = make_fed_pipe(kind);

	return error ? error : add_epoll(kind);
}

static int wait_epoll(struct kind *kind)
{
	struct epoll_event event;

	return is(syscall(SYS_epoll_wait, kind->fd[0], &event, 1, WAIT_MS), 0);
}

static int wait_epoll_fed(struct kind *kind)
{
	struct epoll_event event;

	return is(syscall(SYS_epoll_wait, kind->fd[0], &event, 1, -1), 0);
}

static int wait_epoll_pwait(struct kind *kind)
{
	struct epoll_event event;

	return is(epoll_pwait(kind->fd[0], &event, 1, -1, NULL), 0);
}

static int wait_epoll_pwait2(struct kind *kind)
{
	struct epoll_event event;

	return is(syscall(SYS_epoll_pwait2, kind->fd[0], &event, 1, NULL, NULL, 0), 0);
}

struct kind reading[] = {
	{ "read", make_fed_pipe, wait_read },
	{ "recvfrom", make_fed_socket, wait_recv },
	{ "recvmsg", make_fed_socket, wait_recvmsg },
	{ "recvmmsg", make_fed_socket, wait_recvmmsg },
	{ "recvfrom_timed", make_timed_socket, wait_recv_timed, .timed = true, .again = true },
	{ "poll", make_pipe, wait_poll, .timed = true },
	{ "poll_untimed", make_fed_pipe, wait_poll_fed },
	{ "ppoll", make_pipe, wait_ppoll, .timed = true },
	{ "select", make_pipe, wait_select, .timed = true },
	{ "pselect", make_pipe, wait_pselect, .timed = true },
	{ "epoll_wait", make_epoll, wait_epoll, .timed = true, .again = true },
	{ "epoll_wait_untimed", make_fed_epoll, wait_epoll_fed },
	{ "epoll_pwait", make_fed_epoll, wait_epoll_pwait },
	{ "epoll_pwait2", make_fed_epoll, wait_epoll_pwait2 },
	{ NULL },
};

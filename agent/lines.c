/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON lines. A descriptor travels with the first byte of its message, and a message with a
 * descriptor is only queued when nothing is left to be written before it, so that the kernel's
 * order of descriptors is the order of the messages that carry them.
 */
#include "agent/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "engine/cleanup.h"

void agent_lines_init(struct agent_lines *lines, int fd, size_t most)
{
	*lines = (struct agent_lines){ .fd = fd, .most = most, .out_fd = -1 };
}

void agent_lines_deinit(struct agent_lines *lines)
{
	for (size_t i = 0; i < lines->fd_count; i++)
		close(lines->fds[i]);
	if (lines->out_fd >= 0)
		close(lines->out_fd);
	if (lines->fd >= 0)
		close(lines->fd);
	free(lines->in);
	free(lines->out);
	*lines = (struct agent_lines){ .fd = -1, .out_fd = -1 };
}

/* Keeps what a message carried, or closes what is too much. */
static struct pe_error *keep_fds(struct agent_lines *lines, struct msghdr *msg)
{
	struct pe_error *err = NULL;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			if (lines->fd_count < AGENT_LINES_FDS) {
				lines->fds[lines->fd_count++] = fd;
				continue;
			}
			close(fd);
			if (!err)
				err = pe_error_new(PE_ERR_FORMAT, "too many descriptors came");
		}
	}
	if (!err && msg->msg_flags & MSG_CTRUNC)
		err = pe_error_new(PE_ERR_FORMAT, "too many descriptors came at once");
	return err;
}

static struct pe_error *make_room(struct agent_lines *lines)
{
	if (lines->in_used + 1 < lines->in_room)
		return NULL;
	if (lines->in_room > lines->most)
		return pe_error_new(PE_ERR_FORMAT, "a line has more than %zu bytes", lines->most);

	size_t room = lines->in_room ? lines->in_room * 2 : 4096;
	char *grown = realloc(lines->in, room);

	if (!grown)
		return pe_error_nomem();
	lines->in = grown;
	lines->in_room = room;
	return NULL;
}

struct pe_error *agent_lines_read(struct agent_lines *lines)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * AGENT_LINES_FDS)];
	} control;
	struct pe_error *err = make_room(lines);

	if (err)
		return err;

	struct iovec iov = { lines->in + lines->in_used, lines->in_room - lines->in_used };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };
	ssize_t got;

	do
		got = recvmsg(lines->fd, &msg, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	if (got < 0 && errno == EAGAIN)
		return pe_error_new(PE_ERR_BUSY, "nothing to read now");
	if (got < 0)
		return pe_error_errno(errno, "cannot read from a connection");
	err = keep_fds(lines, &msg);
	if (!err && got == 0)
		err = pe_error_new(PE_ERR_DIED, "the connection was closed");
	lines->in_used += (size_t)got;
	return err;
}

static int take_fd(struct agent_lines *lines)
{
	if (!lines->fd_count)
		return -1;

	int fd = lines->fds[0];

	memmove(lines->fds, lines->fds + 1, --lines->fd_count * sizeof(fd));
	return fd;
}

struct pe_error *agent_lines_next(struct agent_lines *lines, json_t **ret, int *fd)
{
	char *end = lines->in_used ? memchr(lines->in + lines->in_seen, '\n',
					    lines->in_used - lines->in_seen)
				   : NULL;
	json_error_t why;

	*ret = NULL;
	if (fd)
		*fd = -1;
	if (!end) {
		lines->in_seen = lines->in_used;
		return NULL;
	}

	size_t size = (size_t)(end - lines->in);
	json_t *message = json_loadb(lines->in, size, JSON_REJECT_DUPLICATES, &why);

	lines->in_used -= size + 1;
	lines->in_seen = 0;
	memmove(lines->in, end + 1, lines->in_used);
	if (!json_is_object(message)) {
		json_decref(message);
		return pe_error_new(PE_ERR_FORMAT, "a message is no JSON object: %.200s",
				    message ? "" : why.text);
	}
	if (json_is_true(json_object_get(message, "fd"))) {
		int carried = take_fd(lines);

		if (carried < 0) {
			json_decref(message);
			return pe_error_new(PE_ERR_FORMAT, "a message lacks its descriptor");
		}
		if (fd)
			*fd = carried;
		else
			close(carried);
	}
	*ret = message;
	return NULL;
}

struct pe_error *agent_lines_put(struct agent_lines *lines, json_t *message, int fd)
{
	pe_auto_fd int carried = fd;

	if (carried >= 0 && lines->out_used) {
		json_decref(message);
		return pe_error_new(PE_ERR_BUSY, "another message is still being written");
	}
	if (carried >= 0)
		json_object_set_new(message, "fd", json_true());

	pe_auto_free char *text = json_dumps(message, JSON_COMPACT);
	size_t size = text ? strlen(text) : 0;
	char *grown = text ? realloc(lines->out, lines->out_used + size + 1) : NULL;

	json_decref(message);
	if (!grown)
		return pe_error_nomem();
	lines->out = grown;
	memcpy(grown + lines->out_used, text, size);
	grown[lines->out_used + size] = '\n';
	lines->out_used += size + 1;
	lines->out_fd = carried;
	carried = -1;
	return NULL;
}

static ssize_t send_some(struct agent_lines *lines)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { lines->out, lines->out_used };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (lines->out_fd >= 0) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);

		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &lines->out_fd, sizeof(int));
	}
	return sendmsg(lines->fd, &msg, MSG_NOSIGNAL);
}

struct pe_error *agent_lines_flush(struct agent_lines *lines)
{
	while (lines->out_used) {
		ssize_t put = send_some(lines);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0 && errno == EAGAIN)
			return NULL;
		if (put < 0 && (errno == EPIPE || errno == ECONNRESET))
			return pe_error_new(PE_ERR_DIED, "the connection was closed");
		if (put < 0)
			return pe_error_errno(errno, "cannot write to a connection");
		if (lines->out_fd >= 0) {
			close(lines->out_fd);
			lines->out_fd = -1;
		}
		lines->out_used -= (size_t)put;
		memmove(lines->out, lines->out + put, lines->out_used);
	}
	return NULL;
}

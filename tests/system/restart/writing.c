/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writing to what is full. */
#include "kind.h"

#include <sys/sendfile.h>
#include <sys/socket.h>

static int fill(int fd)
{
	static const char bytes[4096];

	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (write(fd, bytes, sizeof(bytes)) > 0)
		;
	return fcntl(fd, F_SETFL, 0) ? errno : 0;
}

static void drain(struct kind *kind)
{
	static char bytes[4096];

	if (read(kind->fd[0], bytes, sizeof(bytes)) <= 0)
		_exit(0);
}

static int make_full_pipe(struct kind *kind)
{
	int error = make_pipe(kind);

	if (!error)
		error = fill(kind->fd[1]);
	return error ? error : feed_with(kind, drain);
}

static int wait_write(struct kind *kind)
{
	static const char bytes[4096];

	return is(write(kind->fd[1], bytes, sizeof(bytes)), 0);
}

static int make_full_socket(struct kind *kind)
{
	int error = socketpair(AF_UNIX, SOCK_SEQPACKET, 0, kind->fd) ? errno : 0;

	if (!error)
		error = fill(kind->fd[1]);
	return error ? error : feed_with(kind, drain);
}

static int wait_send(struct kind *kind)
{
	static const char bytes[4096];

	return is(send(kind->fd[1], bytes, sizeof(bytes), 0), 0);
}

static int make_splice(struct kind *kind)
{
	int error = make_fed_pipe(kind);
	static int out[2];

	if (error || pipe(out))
		return error ? error : errno;
	kind->memory = out;
	return 0;
}

static int wait_splice(struct kind *kind)
{
	const int *out = kind->memory;
	char byte;
	int error = is(splice(kind->fd[0], NULL, out[1], NULL, 1, 0), 0);

	return error ? error : is(read(out[0], &byte, 1), 0);
}

static int make_sendfile(struct kind *kind)
{
	static int file;
	char name[] = "sent-XXXXXX";
	int error = make_full_pipe(kind);

	file = mkstemp(name);
	if (!error && (file < 0 || ftruncate(file, 4096)))
		error = errno;
	kind->memory = &file;
	return error;
}

static int wait_sendfile(struct kind *kind)
{
	off_t offset = 0;

	return is(sendfile(kind->fd[1], *(int *)kind->memory, &offset, 4096), 0);
}

struct kind writing[] = {
	{ "write", make_full_pipe, wait_write },
	{ "sendto", make_full_socket, wait_send },
	{ "splice", make_splice, wait_splice },
	{ "sendfile", make_sendfile, wait_sendfile },
	{ NULL },
};

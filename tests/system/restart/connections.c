/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Waiting for connections, at both of their ends. */
#include "kind.h"

#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_un address_of(const struct kind *kind)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	/* Abstract: no file stays. */
	snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "restart-%d-%s", getpid(),
		 kind->name);
	return address;
}

static int make_listener(struct kind *kind)
{
	struct sockaddr_un address = address_of(kind);

	kind->fd[0] = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(kind->fd[0], (struct sockaddr *)&address, sizeof(address)) ||
	    listen(kind->fd[0], 0))
		return errno;
	kind->memory = memcpy(malloc(sizeof(address)), &address, sizeof(address));
	return 0;
}

static int connect_to(const struct kind *kind)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	if (connect(fd, kind->memory, sizeof(struct sockaddr_un)) == 0)
		return fd;
	close(fd);
	return -1;
}

static void feed_connection(struct kind *kind)
{
	close(connect_to(kind));
}

static int make_accept(struct kind *kind)
{
	int error = make_listener(kind);

	return error ? error : feed_with(kind, feed_connection);
}

static int wait_accept(struct kind *kind)
{
	int fd = accept(kind->fd[0], NULL, NULL);

	close(fd < 0 ? -1 : fd);
	return is(fd, 0);
}

static int wait_accept4(struct kind *kind)
{
	int fd = accept4(kind->fd[0], NULL, NULL, SOCK_CLOEXEC);

	close(fd < 0 ? -1 : fd);
	return is(fd, 0);
}

static void feed_accept(struct kind *kind)
{
	close(accept(kind->fd[0], NULL, NULL));
}

/* The queue is full from the first connection on. */
static int make_connect(struct kind *kind)
{
	int error = make_listener(kind);

	if (!error && connect_to(kind) < 0)
		error = errno;
	return error ? error : feed_with(kind, feed_accept);
}

static int wait_connect(struct kind *kind)
{
	int fd = connect_to(kind);
	int error = is(fd, 0);

	close(fd);
	return error;
}

struct kind connections[] = {
	{ "accept", make_accept, wait_accept },
	{ "accept4", make_accept, wait_accept4 },
	{ "connect", make_connect, wait_connect },
	{ NULL },
};

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which socket a server listens at is asked of the kernel: the inodes behind /proc/PID/fd are
 * looked up in the socket tables of its network namespace. A command line or an option file may
 * say something else than what was bound.
 */
#include "dbcare/sockets.h"

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "dbcare/proc.h"
#include "engine/cleanup.h"

static int inode_compare(const void *a, const void *b)
{
	unsigned long x = *(const unsigned long *)a, y = *(const unsigned long *)b;

	return x < y ? -1 : x > y;
}

struct pe_error *dbc_socket_inodes(pid_t pid, struct dbc_inodes *ret)
{
	char path[64];
	size_t room = 0;

	*ret = (struct dbc_inodes){ 0 };
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	DIR *dir = opendir(path);
	if (!dir)
		return pe_error_errno(errno, "cannot list the open files of process %d", (int)pid);
	for (struct dirent *entry; (entry = readdir(dir));) {
		char link[64];
		unsigned long inode;
		ssize_t length = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);

		if (length <= 0)
			continue;
		link[length] = '\0';
		if (sscanf(link, "socket:[%lu]", &inode) != 1)
			continue;
		if (ret->count == room) {
			room = room ? room * 2 : 64;
			unsigned long *grown = reallocarray(ret->items, room, sizeof(*grown));
			if (!grown) {
				closedir(dir);
				dbc_inodes_deinit(ret);
				return pe_error_nomem();
			}
			ret->items = grown;
		}
		ret->items[ret->count++] = inode;
	}
	closedir(dir);
	if (ret->count)
		qsort(ret->items, ret->count, sizeof(*ret->items), inode_compare);
	return NULL;
}

void dbc_inodes_deinit(struct dbc_inodes *inodes)
{
	free(inodes->items);
	*inodes = (struct dbc_inodes){ 0 };
}

bool dbc_inodes_have(const struct dbc_inodes *inodes, unsigned long inode)
{
	return inodes->count &&
	       bsearch(&inode, inodes->items, inodes->count, sizeof(*inodes->items), inode_compare);
}

/* One line of /proc/net/unix; see net/unix/af_unix.c, unix_seq_show(). */
struct unix_line {
	bool listening; /* __SO_ACCEPTCON */
	unsigned int type, state;
	unsigned long inode;
	const char *path; /* not terminated */
	size_t path_size;
};

enum { UNIX_ACCEPTCON = 0x10000, UNIX_STREAM = 1, UNIX_CONNECTED = 3 };

static bool unix_line_parse(const char *line, size_t size, struct unix_line *ret)
{
	unsigned int flags;
	int at = -1;
	char head[96];
	size_t head_size = size < sizeof(head) - 1 ? size : sizeof(head) - 1;

	memcpy(head, line, head_size);
	head[head_size] = '\0';
	if (sscanf(head, "%*[0-9a-fA-Fx]: %*x %*x %x %x %x %lu%n", &flags, &ret->type, &ret->state,
		   &ret->inode, &at) != 4 ||
	    at < 0)
		return false;
	ret->listening = flags & UNIX_ACCEPTCON;
	ret->path = line + at;
	ret->path_size = size - (size_t)at;
	while (ret->path_size && *ret->path == ' ') {
		ret->path++;
		ret->path_size--;
	}
	return true;
}

/* The next line of @text, advancing it; false at its end. */
static bool next_line(const char **text, const char **line, size_t *size)
{
	if (!**text)
		return false;

	const char *end = strchrnul(*text, '\n');

	*line = *text;
	*size = (size_t)(end - *text);
	*text = *end ? end + 1 : end;
	return true;
}

char *dbc_unix_listener(const char *text, const struct dbc_inodes *inodes, const char *preferred)
{
	const char *line;
	size_t size;
	char *found = NULL;

	while (next_line(&text, &line, &size)) {
		struct unix_line socket;

		if (!unix_line_parse(line, size, &socket) || !socket.listening ||
		    socket.type != UNIX_STREAM || !socket.path_size ||
		    !dbc_inodes_have(inodes, socket.inode))
			continue;

		bool wanted = preferred && strlen(preferred) == socket.path_size &&
			      memcmp(preferred, socket.path, socket.path_size) == 0;

		if (found && !wanted)
			continue;
		free(found);
		found = strndup(socket.path, socket.path_size);
		if (wanted || !found)
			break;
	}
	return found;
}

size_t dbc_unix_connected(const char *text, const struct dbc_inodes *inodes, const char *path)
{
	const char *line;
	size_t size, count = 0, path_size = strlen(path);

	while (next_line(&text, &line, &size)) {
		struct unix_line socket;

		if (unix_line_parse(line, size, &socket) && !socket.listening &&
		    socket.state == UNIX_CONNECTED && socket.path_size == path_size &&
		    memcmp(socket.path, path, path_size) == 0 &&
		    dbc_inodes_have(inodes, socket.inode))
			count++;
	}
	return count;
}

/* States of include/net/tcp_states.h. */
enum { TCP_STATE_ESTABLISHED = 1, TCP_STATE_LISTEN = 10 };

struct tcp_line {
	unsigned int port, state; /* local port */
	unsigned long inode;
};

static bool tcp_line_parse(const char *line, size_t size, struct tcp_line *ret)
{
	char head[256];
	size_t head_size = size < sizeof(head) - 1 ? size : sizeof(head) - 1;

	memcpy(head, line, head_size);
	head[head_size] = '\0';
	return sscanf(head, " %*d: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*s %*s %*s %*s %*s %lu",
		      &ret->port, &ret->state, &ret->inode) == 3;
}

size_t dbc_tcp_connected(const char *text, const struct dbc_inodes *inodes)
{
	uint8_t listening[65536 / 8] = { 0 };
	const char *line, *at = text;
	struct tcp_line tcp;
	size_t size, count = 0;

	while (next_line(&at, &line, &size)) {
		if (tcp_line_parse(line, size, &tcp) && tcp.state == TCP_STATE_LISTEN &&
		    tcp.port < 65536 && dbc_inodes_have(inodes, tcp.inode))
			listening[tcp.port / 8] |= (uint8_t)(1 << tcp.port % 8);
	}
	at = text;
	while (next_line(&at, &line, &size)) {
		if (tcp_line_parse(line, size, &tcp) && tcp.state == TCP_STATE_ESTABLISHED &&
		    tcp.port < 65536 && (listening[tcp.port / 8] & (1 << tcp.port % 8)) &&
		    dbc_inodes_have(inodes, tcp.inode))
			count++;
	}
	return count;
}

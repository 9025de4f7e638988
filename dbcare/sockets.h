/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The sockets of a process, from /proc: where it listens and how many clients it has. */
#ifndef DBCARE_SOCKETS_H
#define DBCARE_SOCKETS_H

#include <stddef.h>
#include <sys/types.h>

#include "engine/error.h"

/* Inode numbers of the sockets that a process has open, ascending. */
struct dbc_inodes {
	unsigned long *items;
	size_t count;
};

struct pe_error *dbc_socket_inodes(pid_t pid, struct dbc_inodes *ret) pe_must_check;
void dbc_inodes_deinit(struct dbc_inodes *inodes);
bool dbc_inodes_have(const struct dbc_inodes *inodes, unsigned long inode);

/*
 * The path of the first listening stream socket in @text (the content of /proc/net/unix) among
 * @inodes; @preferred, where the configuration says it is, wins over others. Owned by the caller;
 * NULL when there is none.
 */
char *dbc_unix_listener(const char *text, const struct dbc_inodes *inodes, const char *preferred);
/* How many connected sockets in @text among @inodes have that path. */
size_t dbc_unix_connected(const char *text, const struct dbc_inodes *inodes, const char *path);
/* How many established connections in @text (/proc/net/tcp or tcp6) came in at a listening port. */
size_t dbc_tcp_connected(const char *text, const struct dbc_inodes *inodes);

#endif

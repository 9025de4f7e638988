/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON lines over a Unix stream socket: one object a line. A message may carry one open descriptor;
 * it then has the member "fd": true, so that descriptors and messages stay paired. What comes in is
 * hostile: lengths are bounded, duplicate keys and anything that is no object end the connection.
 */
#ifndef AGENT_LINES_H
#define AGENT_LINES_H

#include <jansson.h>
#include <stddef.h>

#include "engine/error.h"

enum { AGENT_LINES_FDS = 4 };

struct agent_lines {
	int fd;	     /* owned; -1: closed */
	size_t most; /* longest line that is taken, bytes */
	char *in;
	size_t in_used, in_room, in_seen; /* in_seen: bytes known to hold no line end */
	char *out;
	size_t out_used;
	int out_fd;		  /* goes with the first byte of out; -1: none */
	int fds[AGENT_LINES_FDS]; /* received, not taken yet */
	size_t fd_count;
};

/* Takes @fd over. Works with blocking and non-blocking sockets. */
void agent_lines_init(struct agent_lines *lines, int fd, size_t most);
void agent_lines_deinit(struct agent_lines *lines);

/* Reads once what is there. DIED at the end of the connection; BUSY when nothing is there now. */
struct pe_error *agent_lines_read(struct agent_lines *lines) pe_must_check;
/* The next whole message, NULL in *ret when there is none yet; *fd (may be NULL) what it carries
 * or -1, owned by the caller. FORMAT: the connection is to be closed. */
struct pe_error *agent_lines_next(struct agent_lines *lines, json_t **ret, int *fd) pe_must_check;

/* Queues a message (taken over); @fd >= 0 (taken over) goes with it. */
struct pe_error *agent_lines_put(struct agent_lines *lines, json_t *message, int fd) pe_must_check;
/* Writes what the socket takes; lines->out_used is what is left. */
struct pe_error *agent_lines_flush(struct agent_lines *lines) pe_must_check;

#endif

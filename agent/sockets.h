/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The sockets by which the processes meet: RUN_DIR/NAME.sock, made by systemd or by the supervisor
 * and handed over the same way (LISTEN_FDS), so that any of them may die and its peers find the
 * next one at the same place.
 */
#ifndef AGENT_SOCKETS_H
#define AGENT_SOCKETS_H

#include <stdbool.h>
#include <sys/types.h>

#include "engine/error.h"

/* Makes and binds RUN_DIR/@name.sock with @mode and @group. */
struct pe_error *agent_socket_bind(const char *name, mode_t mode, gid_t group,
				   int *ret) pe_must_check;
/* The listening socket that was handed to us (sd_listen_fds(3)); NO_TARGET when none was. */
struct pe_error *agent_socket_inherited(int *ret) pe_must_check;
/* Non-blocking; NO_TARGET when nobody listens there. */
struct pe_error *agent_socket_connect(const char *name, int *ret) pe_must_check;
/* True when the peer is root, @uid, or in group @gid. */
bool agent_peer_allowed(int fd, uid_t uid, gid_t gid, uid_t *who);
/* Ids of the agent's user; NO_TARGET when there is no such user. */
struct pe_error *agent_user_ids(uid_t *uid, gid_t *gid) pe_must_check;

#endif

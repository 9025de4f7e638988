/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "agent/paths.h"
#include "engine/cleanup.h"

static struct pe_error *address_of(const char *name, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	int size =
		snprintf(ret->sun_path, sizeof(ret->sun_path), "%s/%s.sock", agent_run_dir(), name);

	if (size < 0 || (size_t)size >= sizeof(ret->sun_path))
		return pe_error_new(PE_ERR_USAGE, "the path of the run directory %s is too long",
				    agent_run_dir());
	return NULL;
}

struct pe_error *agent_socket_bind(const char *name, mode_t mode, gid_t group, int *ret)
{
	struct sockaddr_un address;
	struct pe_error *err = address_of(name, &address);

	if (err)
		return err;
	pe_auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return pe_error_errno(errno, "cannot make a socket");
	unlink(address.sun_path);
	/* Nobody may connect before mode and group are right: nobody can before listen(). */
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
	    chown(address.sun_path, (uid_t)-1, group) != 0 || chmod(address.sun_path, mode) != 0 ||
	    listen(fd, 64) != 0)
		return pe_error_errno(errno, "cannot listen at %s", address.sun_path);
	*ret = fd;
	fd = -1;
	return NULL;
}

struct pe_error *agent_socket_inherited(int *ret)
{
	enum { FIRST = 3 };
	const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
	int listening = 0;
	socklen_t size = sizeof(listening);

	if (!pid || !count || atoi(pid) != (int)getpid() || atoi(count) != 1)
		return pe_error_new(PE_ERR_NO_TARGET,
				    "no socket was handed over: start it by its systemd unit, or "
				    "all by `care-agent --foreground`");
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (getsockopt(FIRST, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0 || !listening)
		return pe_error_new(PE_ERR_NO_TARGET, "descriptor 3 is no listening socket");
	fcntl(FIRST, F_SETFD, FD_CLOEXEC);
	*ret = FIRST;
	return NULL;
}

struct pe_error *agent_socket_connect(const char *name, int *ret)
{
	struct sockaddr_un address;
	struct pe_error *err = address_of(name, &address);

	if (err)
		return err;
	pe_auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return pe_error_errno(errno, "cannot make a socket");
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
		if (errno == ENOENT || errno == ECONNREFUSED || errno == EAGAIN)
			return pe_error_new(PE_ERR_NO_TARGET, "nobody listens at %s",
					    address.sun_path);
		return pe_error_errno(errno, "cannot connect to %s", address.sun_path);
	}
	*ret = fd;
	fd = -1;
	return NULL;
}

static bool in_groups(int fd, gid_t gid)
{
	gid_t groups[256];
	socklen_t size = sizeof(groups);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) != 0)
		return false;
	for (size_t i = 0; i < size / sizeof(*groups); i++) {
		if (groups[i] == gid)
			return true;
	}
	return false;
}

bool agent_peer_allowed(int fd, uid_t uid, gid_t gid, uid_t *who)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
		return false;
	if (who)
		*who = peer.uid;
	return peer.uid == 0 || peer.uid == uid || peer.gid == gid || in_groups(fd, gid);
}

struct pe_error *agent_user_ids(uid_t *uid, gid_t *gid)
{
	struct passwd *entry = getpwnam(agent_user());

	if (!entry)
		return pe_error_new(PE_ERR_NO_TARGET,
				    "there is no user %s: make it (`systemd-sysusers`, or `useradd "
				    "--system %s`)",
				    agent_user(), agent_user());
	*uid = entry->pw_uid;
	*gid = entry->pw_gid;
	return NULL;
}

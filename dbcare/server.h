/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A server: a running mariadbd as it is seen from outside, without SQL: from /proc, and from its
 * memory through the engine. The truth about a server is what is mapped, never a path.
 */
#ifndef DBCARE_SERVER_H
#define DBCARE_SERVER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "engine/apply.h"
#include "engine/error.h"
#include "engine/image.h"
#include "engine/target.h"

enum dbc_exe_state {
	DBC_EXE_SAME,
	DBC_EXE_DELETED,  /* no file stands where the program was started from */
	DBC_EXE_REPLACED, /* another file stands there: upgraded, not restarted */
};

struct dbc_server {
	pid_t pid;
	pid_t ns_pid; /* in its own pid namespace; the same as pid on the host */
	char *exe;    /* path in its own mount namespace, without " (deleted)" */
	enum dbc_exe_state exe_state;
	bool container;	    /* it lives in one */
	char *container_id; /* as its runtime knows it; NULL: in none, or not to be found out */
	char *socket;	    /* Unix socket it listens at, in its own mount namespace; NULL: none */
	size_t connections; /* clients connected now, Unix and TCP */
	size_t threads;
	uint64_t uptime_s; /* seconds */

	/* From its memory; NULL, zero or -1 when it does not export them. */
	char *version;
	struct pe_build_id build_id;
	int stopping; /* 1: it is shutting down; -1: unknown */
	int started;  /* 0: still starting; -1: unknown */
	struct pe_applied_list applied;
	struct pe_leftovers leftovers; /* of a patcher that died */
	char *unreadable;	       /* why memory could not be read, or NULL */
};

struct dbc_servers {
	struct dbc_server *items; /* by pid */
	size_t count;
	size_t denied;	  /* processes that look like servers, and that we may not look into */
	pid_t denied_pid; /* one of them */
};

/* Every mariadbd and mysqld on this host, those in containers included. */
struct pe_error *dbc_discover(struct dbc_servers *ret) pe_must_check;
void dbc_servers_deinit(struct dbc_servers *servers);

/*
 * The server that @target names: a pid, the path of a socket, a container's id (or how no other
 * begins), or NULL for the only one there is.
 * NO_TARGET says which there are when the choice is not clear.
 */
struct pe_error *dbc_server_find(const char *target, struct dbc_server *ret) pe_must_check;
void dbc_server_deinit(struct dbc_server *server);

/* Fills what the memory tells; never fails: @server->unreadable has the reason. */
void dbc_fingerprint(struct dbc_server *server);
/* Reads the patches, and what a dead patcher left, again into @server. */
struct pe_error *dbc_server_refresh(struct dbc_server *server,
				    const struct pe_target *target) pe_must_check;

/* The Debian package and version of the program's file ("mariadb-server-core 1:10..."), or NULL. */
char *dbc_package_of(const struct dbc_server *server);
/* Base names of the libraries mapped from a plugin directory; NULL-terminated; owned as one. */
char **dbc_loaded_plugins(const struct pe_target *target);

#endif

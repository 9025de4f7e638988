/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connecting. The socket is opened below the root of the server's own mount namespace (openat2
 * with RESOLVE_IN_ROOT, so that an absolute symbolic link in a chroot does not lead to a file of
 * the host) and connected to through /proc/self/fd, which also has room for any length of path. A
 * server in a container is asked by a helper that has entered it (sql_helper.c). Who answers is
 * asked of the kernel (SO_PEERCRED), since anything may listen at a path; under socket activation
 * that names systemd, and then the thread id of our own session decides.
 */
#include "dbcare/sql.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dbcare/proc.h"
#include "dbcare/sql_private.h"
#include "engine/cleanup.h"

/* One of the two is there. */
struct dbc_sql {
	struct dbc_direct *direct;
	struct dbc_helper *helper;
	char *user;
};

/* ---- reaching the socket ---- */

static int open_below(pid_t pid, const char *path)
{
	char base[64];
	struct open_how how = { .flags = O_PATH | O_CLOEXEC };

	snprintf(base, sizeof(base), "/proc/%d/%s", (int)pid, *path == '/' ? "root" : "cwd");
	pe_auto_fd int dir = open(base, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return -1;
	if (*path == '/')
		how.resolve = RESOLVE_IN_ROOT;
	return (int)syscall(SYS_openat2, dir, path, &how, sizeof(how));
}

static struct pe_error *check_socket(const struct dbc_server *server)
{
	if (!server->socket && server->stopping == 1)
		return pe_error_new(PE_ERR_HELD, "server %d is shutting down", (int)server->pid);
	if (!server->socket)
		return pe_error_new(PE_ERR_HELD,
				    "server %d listens at no Unix socket: it is starting or "
				    "shutting down, or has none",
				    (int)server->pid);
	if (*server->socket == '@')
		return pe_error_new(PE_ERR_HELD,
				    "server %d listens at the abstract socket %s, which the "
				    "client library cannot reach",
				    (int)server->pid, server->socket);
	return NULL;
}

struct pe_error *dbc_server_open_socket(const struct dbc_server *server, int *ret)
{
	struct pe_error *err = check_socket(server);

	if (err)
		return err;
	*ret = open_below(server->pid, server->socket);
	if (*ret >= 0)
		return NULL;
	if (errno == ENOENT)
		return pe_error_new(PE_ERR_HELD,
				    "the socket of server %d is not at %s any more: it was moved "
				    "or deleted after the server began to listen",
				    (int)server->pid, server->socket);
	return pe_error_errno(errno, "cannot reach the socket %s of server %d", server->socket,
			      (int)server->pid);
}

/* ---- who answers ---- */

/* Whether @tid, as the server numbers its threads, is a thread of its process. */
static bool thread_is_of(const struct dbc_server *server, long tid)
{
	char name[64];

	if (tid <= 0)
		return false;
	if (server->ns_pid == server->pid)
		return dbc_is_thread_of((pid_t)tid, server->pid);
	/* Another pid namespace: every thread's status tells its number there. */
	snprintf(name, sizeof(name), "/proc/%d/task", (int)server->pid);
	DIR *tasks = opendir(name);
	bool found = false;

	for (struct dirent *entry; tasks && !found && (entry = readdir(tasks));) {
		snprintf(name, sizeof(name), "task/%.20s/status", entry->d_name);
		pe_auto_free char *status = dbc_proc_read(server->pid, name, NULL);
		found = status && dbc_status_nspid(status) == tid;
	}
	if (tasks)
		closedir(tasks);
	return found;
}

static struct pe_error *check_peer(struct dbc_sql *sql, const struct dbc_server *server, pid_t peer)
{
	if (peer == server->pid)
		return NULL;

	pe_auto_free char *tid = NULL;
	pe_auto_error struct pe_error *err =
		dbc_sql_value(sql,
			      "SELECT TID FROM information_schema.PROCESSLIST "
			      "WHERE ID = CONNECTION_ID()",
			      &tid);

	if (!err && tid && thread_is_of(server, strtol(tid, NULL, 10)))
		return NULL;
	return pe_error_new(PE_ERR_HELD,
			    "at %s answers process %d and not server %d: its socket was moved or "
			    "another server took the place",
			    server->socket, (int)peer, (int)server->pid);
}

/* ---- connecting ---- */

static struct pe_error *connect_to(struct dbc_sql *sql, const struct dbc_server *server,
				   const struct dbc_login *login,
				   const struct dbc_option_files *files)
{
	/* Whoever got the socket from somebody with the right to reach it has no other. */
	bool given = server->socket_fd > 0;
	pid_t peer = 0;
	int fd = given ? fcntl(server->socket_fd, F_DUPFD_CLOEXEC, 3) : -1;
	struct pe_error *err = NULL;

	if (given && fd < 0)
		err = pe_error_errno(errno, "cannot copy a descriptor");
	else if (!given)
		err = dbc_server_open_socket(server, &fd);
	if (err)
		return err;

	pe_auto_fd int socket = fd;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", socket);
	if (server->container && !given)
		err = dbc_helper_open(server, socket, login, files, &sql->helper, &peer);
	else
		err = dbc_direct_open(server, path, login, files, &sql->direct, &peer);
	if (!err)
		err = check_peer(sql, server, peer);
	if (!err)
		err = dbc_sql_value(sql, "SELECT CURRENT_USER()", &sql->user);
	return err;
}

/* A container's server has the container's accounts: its option files know them. */
static struct pe_error *options_read(const struct dbc_server *server, const struct dbc_login *login,
				     struct dbc_option_files *ret)
{
	char root[64];

	if (!server->container || login->defaults_file)
		return dbc_option_files_read(login->defaults_file, ret);
	snprintf(root, sizeof(root), "/proc/%d/root", (int)server->pid);
	return dbc_option_files_below(root, ret);
}

struct pe_error *dbc_sql_open(const struct dbc_server *server, const struct dbc_login *login,
			      struct dbc_sql **ret, char **notes)
{
	struct dbc_option_files files = { .fd = -1 };
	struct pe_error *err = NULL;

	if (!login->no_defaults)
		err = options_read(server, login, &files);
	if (err)
		return err;

	struct dbc_sql *sql = calloc(1, sizeof(*sql));

	err = sql ? connect_to(sql, server, login, &files) : pe_error_nomem();
	if (notes && !*notes)
		*notes = pe_steal(files.notes);
	dbc_option_files_deinit(&files);
	if (err) {
		dbc_sql_close(sql);
		return err;
	}
	*ret = sql;
	return NULL;
}

void dbc_sql_close(struct dbc_sql *sql)
{
	if (!sql)
		return;
	dbc_direct_close(sql->direct);
	dbc_helper_close(sql->helper);
	free(sql->user);
	free(sql);
}

unsigned long dbc_sql_connection_id(const struct dbc_sql *sql)
{
	return sql->helper ? dbc_helper_id(sql->helper) : dbc_direct_id(sql->direct);
}

const char *dbc_sql_user(const struct dbc_sql *sql)
{
	return sql->user ? sql->user : "-";
}

struct pe_error *dbc_sql_query(struct dbc_sql *sql, const char *query, struct dbc_rows *ret,
			       unsigned int *number)
{
	return sql->helper ? dbc_helper_query(sql->helper, query, ret, number)
			   : dbc_direct_query(sql->direct, query, ret, number);
}

struct pe_error *dbc_sql_value(struct dbc_sql *sql, const char *query, char **ret)
{
	struct dbc_rows rows;
	struct pe_error *err = dbc_sql_query(sql, query, &rows, NULL);

	*ret = NULL;
	if (err)
		return err;
	if (rows.count && rows.columns && rows.items[0][0])
		*ret = strdup(rows.items[0][0]);
	dbc_rows_deinit(&rows);
	return NULL;
}

void dbc_rows_deinit(struct dbc_rows *rows)
{
	for (size_t i = 0; i < rows->count; i++)
		free(rows->items[i]);
	free(rows->items);
	free(rows->names);
	*rows = (struct dbc_rows){ 0 };
}

const char *dbc_rows_cell(const struct dbc_rows *rows, size_t row, const char *column)
{
	for (size_t i = 0; i < rows->columns; i++) {
		if (strcasecmp(rows->names[i], column) == 0)
			return rows->items[row][i];
	}
	return NULL;
}

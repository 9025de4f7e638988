/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connecting. The socket is opened below the root of the server's own mount namespace (openat2
 * with RESOLVE_IN_ROOT, so that an absolute symbolic link in a container does not lead to a file
 * of the host) and connected to through /proc/self/fd, which also has room for any length of path.
 * Who answers is asked of the kernel (SO_PEERCRED), since anything may listen at a path; under
 * socket activation that names systemd, and then the thread id of our own session decides.
 */
#include "dbcare/sql.h"

#include <dirent.h>
#include <errmsg.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <mysql.h>
#include <mysqld_error.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "dbcare/options.h"
#include "dbcare/proc.h"
#include "engine/cleanup.h"

/* Seconds. A server that does not answer within them is not asked to be patched. */
enum { CONNECT_TIMEOUT = 5, QUERY_TIMEOUT = 10 };

struct dbc_sql {
	MYSQL *mysql;
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

static struct pe_error *open_socket(const struct dbc_server *server, int *ret)
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
	if (server->ns_pid == server->pid) {
		snprintf(name, sizeof(name), "/proc/%d/task/%ld", (int)server->pid, tid);
		return access(name, F_OK) == 0;
	}
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

static struct pe_error *check_peer(struct dbc_sql *sql, const struct dbc_server *server)
{
	struct ucred peer = { 0 };
	socklen_t size = sizeof(peer);

	if (getsockopt((int)mysql_get_socket(sql->mysql), SOL_SOCKET, SO_PEERCRED, &peer, &size))
		return pe_error_errno(errno, "cannot ask who answers at %s", server->socket);
	if (peer.pid == server->pid)
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
			    server->socket, (int)peer.pid, (int)server->pid);
}

/* ---- connecting ---- */

static struct pe_error *error_of(MYSQL *mysql, const struct dbc_server *server, const char *user)
{
	unsigned int number = mysql_errno(mysql);
	const char *text = mysql_error(mysql);

	if (number == ER_ACCESS_DENIED_ERROR || number == ER_ACCESS_DENIED_NO_PASSWORD_ERROR)
		return pe_error_new(PE_ERR_HELD,
				    "server %d does not let us log in (%u: %s); see --user, "
				    "--password and --defaults-file",
				    (int)server->pid, number, text);
	if (number == ER_CON_COUNT_ERROR || number == ER_TOO_MANY_USER_CONNECTIONS ||
	    number == ER_USER_LIMIT_REACHED)
		return pe_error_new(PE_ERR_HELD,
				    "server %d has no connection left for us, so it cannot be "
				    "asked anything (%u: %s)",
				    (int)server->pid, number, text);
	if (number == ER_SERVER_SHUTDOWN)
		return pe_error_new(PE_ERR_HELD, "server %d is shutting down (%u: %s)",
				    (int)server->pid, number, text);
	return pe_error_new(PE_ERR_HELD, "cannot connect to server %d at %s%s%s (%u: %s)",
			    (int)server->pid, server->socket, *user ? " as " : "", user, number,
			    text);
}

static void set_options(MYSQL *mysql, const struct dbc_option_files *files)
{
	unsigned int connect = CONNECT_TIMEOUT, query = QUERY_TIMEOUT,
		     socket = MYSQL_PROTOCOL_SOCKET, infile = 0;
	char path[64];

	if (files->fd >= 0) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", files->fd);
		mysql_options(mysql, MYSQL_READ_DEFAULT_FILE, path);
		mysql_options(mysql, MYSQL_READ_DEFAULT_GROUP, "dbcarectl");
	}
	/* A server may ask its client for any file. */
	mysql_options(mysql, MYSQL_OPT_LOCAL_INFILE, &infile);
	mysql_options(mysql, MYSQL_OPT_CONNECT_TIMEOUT, &connect);
	mysql_options(mysql, MYSQL_OPT_READ_TIMEOUT, &query);
	mysql_options(mysql, MYSQL_OPT_WRITE_TIMEOUT, &query);
	mysql_options(mysql, MYSQL_OPT_PROTOCOL, &socket);
	mysql_options(mysql, MYSQL_SET_CHARSET_NAME, "utf8mb4");
	mysql_optionsv(mysql, MYSQL_OPT_CONNECT_ATTR_ADD, "program_name", "dbcarectl");
}

static struct pe_error *connect_to(struct dbc_sql *sql, const struct dbc_server *server,
				   const struct dbc_login *login,
				   const struct dbc_option_files *files)
{
	char path[64];
	int fd = -1;
	struct pe_error *err = open_socket(server, &fd);

	if (err)
		return err;
	pe_auto_fd int socket = fd;
	sql->mysql = mysql_init(NULL);
	if (!sql->mysql)
		return pe_error_nomem();
	set_options(sql->mysql, files);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", socket);
	/* An option file may name a host: here it is always this server. */
	if (!mysql_real_connect(sql->mysql, "localhost", login->user, login->password, NULL, 0,
				path, 0))
		return error_of(sql->mysql, server, login->user ? login->user : "");
	err = check_peer(sql, server);
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
	if (sql->mysql)
		mysql_close(sql->mysql);
	free(sql->user);
	free(sql);
}

unsigned long dbc_sql_connection_id(const struct dbc_sql *sql)
{
	return mysql_thread_id(sql->mysql);
}

const char *dbc_sql_user(const struct dbc_sql *sql)
{
	return sql->user ? sql->user : "-";
}

/* ---- queries ---- */

static char **row_copy(MYSQL_RES *result, MYSQL_ROW row, size_t columns)
{
	unsigned long *lengths = mysql_fetch_lengths(result);
	size_t bytes = 0;

	for (size_t i = 0; i < columns; i++)
		bytes += row[i] ? lengths[i] + 1 : 0;

	/* One block a row: the pointers, then the text. */
	char **copy = calloc(1, columns * sizeof(*copy) + bytes + 1);
	char *text = copy ? (char *)(copy + columns) : NULL;

	for (size_t i = 0; copy && i < columns; i++) {
		if (!row[i])
			continue;
		memcpy(text, row[i], lengths[i]);
		copy[i] = text;
		text += lengths[i] + 1;
	}
	return copy;
}

static struct pe_error *rows_store(MYSQL_RES *result, struct dbc_rows *ret)
{
	ret->columns = mysql_num_fields(result);
	ret->items = calloc(mysql_num_rows(result) + 1, sizeof(*ret->items));
	if (!ret->items)
		return pe_error_nomem();
	for (MYSQL_ROW row; (row = mysql_fetch_row(result));) {
		char **copy = row_copy(result, row, ret->columns);

		if (!copy) {
			dbc_rows_deinit(ret);
			return pe_error_nomem();
		}
		ret->items[ret->count++] = copy;
	}
	return NULL;
}

struct pe_error *dbc_sql_query(struct dbc_sql *sql, const char *query, struct dbc_rows *ret,
			       unsigned int *number)
{
	*ret = (struct dbc_rows){ 0 };
	if (number)
		*number = 0;

	MYSQL_RES *result = NULL;

	if (mysql_query(sql->mysql, query) == 0)
		result = mysql_store_result(sql->mysql);
	if (!result && mysql_errno(sql->mysql)) {
		if (number)
			*number = mysql_errno(sql->mysql);
		return pe_error_new(PE_ERR_HELD, "the server answers %u: %s",
				    mysql_errno(sql->mysql), mysql_error(sql->mysql));
	}
	if (!result)
		return NULL;

	struct pe_error *err = rows_store(result, ret);

	mysql_free_result(result);
	return err;
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
	*rows = (struct dbc_rows){ 0 };
}

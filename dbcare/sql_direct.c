/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A connection of this process, through Connector/C; see sql_private.h. */
#include <errmsg.h>
#include <errno.h>
#include <mysql.h>
#include <mysqld_error.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "dbcare/sql_private.h"
#include "engine/cleanup.h"

/* Seconds. A server that does not answer within them is not asked to be patched. */
enum { CONNECT_TIMEOUT = 5, QUERY_TIMEOUT = 10 };

struct dbc_direct {
	MYSQL *mysql;
	short (*wait)(void *ctx, int fd, short events, int timeout_ms); /* NULL: calls block */
	void *wait_ctx;
};

/* ---- calls that block, or wait as the caller wants ---- */

/* Waits for what a _start or _cont call asks for; returns what the next _cont wants to know. */
static int wait_for(const struct dbc_direct *direct, int status)
{
	short events = (short)((status & MYSQL_WAIT_READ ? POLLIN : 0) |
			       (status & MYSQL_WAIT_WRITE ? POLLOUT : 0) |
			       (status & MYSQL_WAIT_EXCEPT ? POLLPRI : 0));
	int timeout =
		status & MYSQL_WAIT_TIMEOUT ? (int)mysql_get_timeout_value_ms(direct->mysql) : -1;
	short got = direct->wait(direct->wait_ctx, (int)mysql_get_socket(direct->mysql), events,
				 timeout);

	if (!got)
		return MYSQL_WAIT_TIMEOUT;
	/* An error on the socket shows at the next read or write. */
	if (got & ~(POLLIN | POLLOUT | POLLPRI))
		got |= events;
	return (got & POLLIN ? MYSQL_WAIT_READ : 0) | (got & POLLOUT ? MYSQL_WAIT_WRITE : 0) |
	       (got & POLLPRI ? MYSQL_WAIT_EXCEPT : 0);
}

/* An option file may name a host: here it is always the server at @path. */
static bool call_connect(const struct dbc_direct *direct, const struct dbc_login *login,
			 const char *path)
{
	MYSQL *mysql = direct->mysql, *done = NULL;

	if (!direct->wait)
		return mysql_real_connect(mysql, "localhost", login->user, login->password, NULL, 0,
					  path, 0) != NULL;
	mysql_options(mysql, MYSQL_OPT_NONBLOCK, NULL);
	for (int status = mysql_real_connect_start(&done, mysql, "localhost", login->user,
						   login->password, NULL, 0, path, 0);
	     status;)
		status = mysql_real_connect_cont(&done, mysql, wait_for(direct, status));
	return done != NULL;
}

static int call_query(const struct dbc_direct *direct, const char *query)
{
	int failed = 0;

	if (!direct->wait)
		return mysql_query(direct->mysql, query);
	for (int status = mysql_real_query_start(&failed, direct->mysql, query, strlen(query));
	     status;)
		status = mysql_real_query_cont(&failed, direct->mysql, wait_for(direct, status));
	return failed;
}

static MYSQL_RES *call_store_result(const struct dbc_direct *direct)
{
	MYSQL_RES *result = NULL;

	if (!direct->wait)
		return mysql_store_result(direct->mysql);
	for (int status = mysql_store_result_start(&result, direct->mysql); status;)
		status = mysql_store_result_cont(&result, direct->mysql, wait_for(direct, status));
	return result;
}

static void call_close(const struct dbc_direct *direct)
{
	if (!direct->wait) {
		mysql_close(direct->mysql);
		return;
	}
	for (int status = mysql_close_start(direct->mysql); status;)
		status = mysql_close_cont(direct->mysql, wait_for(direct, status));
}

/* ---- connecting ---- */

static struct pe_error *error_of(MYSQL *mysql, const struct dbc_server *server, const char *user)
{
	unsigned int number = mysql_errno(mysql);
	const char *text = mysql_error(mysql);

	if (number == ER_ACCESS_DENIED_ERROR || number == ER_ACCESS_DENIED_NO_PASSWORD_ERROR)
		return pe_error_new(PE_ERR_HELD,
				    "server %d does not let us log in (%u: %s): `dbcarectl account "
				    "create` makes the agent's account; for yours see --user, "
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
	/* It took the connection and let nobody in: for a verification that is an answer. */
	bool lost = number == CR_SERVER_LOST || number == CR_SERVER_GONE_ERROR ||
		    number == CR_SERVER_HANDSHAKE_ERR || number == CR_MALFORMED_PACKET;

	return pe_error_new(lost ? PE_ERR_VERIFY : PE_ERR_HELD,
			    "cannot connect to server %d at %s%s%s (%u: %s)", (int)server->pid,
			    server->socket, *user ? " as " : "", user, number, text);
}

static void set_options(MYSQL *mysql, const struct dbc_login *login,
			const struct dbc_option_files *files)
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
	mysql_optionsv(mysql, MYSQL_OPT_CONNECT_ATTR_ADD, "program_name",
		       login->program ? login->program : "dbcarectl");
}

static struct pe_error *connect_to(struct dbc_direct *direct, const struct dbc_server *server,
				   const char *path, const struct dbc_login *login,
				   const struct dbc_option_files *files, pid_t *peer)
{
	struct ucred answers = { 0 };
	socklen_t size = sizeof(answers);

	direct->mysql = mysql_init(NULL);
	if (!direct->mysql)
		return pe_error_nomem();
	direct->wait = login->wait;
	direct->wait_ctx = login->wait_ctx;
	set_options(direct->mysql, login, files);
	if (!call_connect(direct, login, path))
		return error_of(direct->mysql, server, login->user ? login->user : "");
	if (getsockopt((int)mysql_get_socket(direct->mysql), SOL_SOCKET, SO_PEERCRED, &answers,
		       &size))
		return pe_error_errno(errno, "cannot ask who answers at %s", server->socket);
	*peer = answers.pid;
	return NULL;
}

struct pe_error *dbc_direct_open(const struct dbc_server *server, const char *path,
				 const struct dbc_login *login,
				 const struct dbc_option_files *files, struct dbc_direct **ret,
				 pid_t *peer)
{
	struct dbc_direct *direct = calloc(1, sizeof(*direct));
	struct pe_error *err =
		direct ? connect_to(direct, server, path, login, files, peer) : pe_error_nomem();

	if (err) {
		dbc_direct_close(direct);
		return err;
	}
	*ret = direct;
	return NULL;
}

void dbc_direct_close(struct dbc_direct *direct)
{
	if (!direct)
		return;
	if (direct->mysql)
		call_close(direct);
	free(direct);
}

unsigned long dbc_direct_id(const struct dbc_direct *direct)
{
	return mysql_thread_id(direct->mysql);
}

/* ---- queries ---- */

/* One block: the pointers, then the text. */
static char **row_copy(char *const *row, const unsigned long *lengths, size_t columns)
{
	size_t bytes = 0;

	for (size_t i = 0; i < columns; i++)
		bytes += row[i] ? lengths[i] + 1 : 0;

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

static char **names_copy(MYSQL_RES *result, size_t columns)
{
	const MYSQL_FIELD *fields = mysql_fetch_fields(result);
	char **names = calloc(columns + 1, sizeof(*names)), **copy = NULL;
	unsigned long *lengths = calloc(columns + 1, sizeof(*lengths));

	for (size_t i = 0; names && lengths && i < columns; i++) {
		names[i] = fields[i].name;
		lengths[i] = fields[i].name_length;
	}
	if (names && lengths)
		copy = row_copy(names, lengths, columns);
	free(names);
	free(lengths);
	return copy;
}

static struct pe_error *rows_store(MYSQL_RES *result, struct dbc_rows *ret)
{
	ret->columns = mysql_num_fields(result);
	ret->names = names_copy(result, ret->columns);
	ret->items = calloc(mysql_num_rows(result) + 1, sizeof(*ret->items));
	if (!ret->items || !ret->names) {
		dbc_rows_deinit(ret);
		return pe_error_nomem();
	}
	for (MYSQL_ROW row; (row = mysql_fetch_row(result));) {
		char **copy = row_copy(row, mysql_fetch_lengths(result), ret->columns);

		if (!copy) {
			dbc_rows_deinit(ret);
			return pe_error_nomem();
		}
		ret->items[ret->count++] = copy;
	}
	return NULL;
}

struct pe_error *dbc_direct_query(struct dbc_direct *direct, const char *query,
				  struct dbc_rows *ret, unsigned int *number)
{
	*ret = (struct dbc_rows){ 0 };
	if (number)
		*number = 0;

	MYSQL_RES *result = NULL;

	if (call_query(direct, query) == 0)
		result = call_store_result(direct);
	if (!result && mysql_errno(direct->mysql)) {
		if (number)
			*number = mysql_errno(direct->mysql);
		return pe_error_new(PE_ERR_HELD, "the server answers %u: %s",
				    mysql_errno(direct->mysql), mysql_error(direct->mysql));
	}
	if (!result)
		return NULL;

	struct pe_error *err = rows_store(result, ret);

	mysql_free_result(result);
	return err;
}

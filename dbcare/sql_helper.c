/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asking a server in a container through a helper; see sql_private.h.
 *
 * Whoever owns a container owns its server, and a server can be hostile to its client. So the
 * client library runs in a child that has entered the container (its user namespace, so that root
 * is the container's root there, and its mount namespace), holds none of our files and has no
 * capability: not to trace, not to mount. What it sends back is parsed as hostile too.
 *
 * Its two files, the option file and the socket, have no name in the container: the child's
 * working directory is its own /proc/…/fd, as the host sees it, until it is connected.
 *
 * Messages are numbers of four bytes and texts (a number, then the bytes; TEXT_NULL is SQL NULL).
 *	to the helper: the query
 *	back: code (0: success), message, the server's error number; then columns, rows, the cells
 *	first back, before any query: the same without cells; then peer's pid, connection id
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "dbcare/sql_private.h"
#include "engine/cleanup.h"

/* The longest that the client library waits, and some more. */
enum { ANSWER_TIMEOUT_MS = 30000, END_TIMEOUT_MS = 1000 };
/* What an answer may have; SHOW ALL SLAVES STATUS has 65 columns in MariaDB 11.8, and grows. */
enum { COLUMNS_MAX = 1024, ROWS_MAX = 1 << 20, TEXT_MAX = 64 << 20 };

#define TEXT_NULL UINT32_MAX

struct dbc_helper {
	pid_t pid;
	int fd;
	unsigned long id;
};

/* ---- messages ---- */

static bool write_all(int fd, const void *bytes, size_t size)
{
	const char *at = bytes;

	while (size) {
		ssize_t put = send(fd, at, size, MSG_NOSIGNAL);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return false;
		at += put;
		size -= (size_t)put;
	}
	return true;
}

/* Waits for each piece; false at the end, on a timeout and on errors. */
static bool read_all(int fd, void *bytes, size_t size, int timeout_ms)
{
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	char *at = bytes;

	while (size) {
		int ready = poll(&wait, 1, timeout_ms);

		if (ready < 0 && errno == EINTR)
			continue;
		if (ready <= 0)
			return false;

		ssize_t got = recv(fd, at, size, 0);

		if (got <= 0)
			return false;
		at += got;
		size -= (size_t)got;
	}
	return true;
}

static void put_number(FILE *out, uint32_t number)
{
	fwrite(&number, sizeof(number), 1, out);
}

static void put_text(FILE *out, const char *text)
{
	put_number(out, text ? (uint32_t)strlen(text) : TEXT_NULL);
	if (text)
		fwrite(text, strlen(text), 1, out);
}

static bool get_number(int fd, uint32_t *ret)
{
	return read_all(fd, ret, sizeof(*ret), ANSWER_TIMEOUT_MS);
}

/* *ret is owned; NULL for SQL NULL. @left is how much more may come, in bytes. */
static bool get_text(int fd, char **ret, size_t *left)
{
	uint32_t size;

	*ret = NULL;
	if (!get_number(fd, &size))
		return false;
	if (size == TEXT_NULL)
		return true;
	if (size > *left)
		return false;
	*left -= size;
	*ret = malloc(size + 1UL);
	if (!*ret || !read_all(fd, *ret, size, ANSWER_TIMEOUT_MS)) {
		free(*ret);
		*ret = NULL;
		return false;
	}
	(*ret)[size] = '\0';
	return true;
}

/* ---- the helper's side ---- */

static bool enter(int fd, int kind)
{
	return fd < 0 || setns(fd, kind) == 0;
}

static bool give_up_rights(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	       syscall(SYS_capset, &header, none) == 0;
}

/* Files of the child: after it all others are closed. */
enum { FD_CHANNEL = 3, FD_OPTIONS, FD_SOCKET, FD_USER_NS, FD_MOUNT_NS, FD_OWN, FD_END };

static bool keep_files(const int fds[FD_END])
{
	/* First out of the way of each other. */
	int high[FD_END];

	for (int i = FD_CHANNEL; i < FD_OWN; i++) {
		high[i] = fds[i] < 0 ? -1 : fcntl(fds[i], F_DUPFD_CLOEXEC, 64);
		if (fds[i] >= 0 && high[i] < 0)
			return false;
	}
	for (int i = FD_CHANNEL; i < FD_OWN; i++) {
		if (high[i] < 0)
			close(i);
		else if (dup2(high[i], i) < 0)
			return false;
	}

	int nothing = open("/dev/null", O_RDWR);

	for (int i = 0; nothing >= 0 && i < FD_CHANNEL; i++)
		dup2(nothing, i);
	return nothing >= 0 && close_range(FD_OWN, ~0U, 0) == 0;
}

/* What failed, or NULL. */
static const char *confine(const int fds[FD_END])
{
	if (!keep_files(fds))
		return "keep its files";

	int own = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	bool user = fds[FD_USER_NS] >= 0;

	if (own < 0)
		return "open /proc/self/fd";
	if (user && !enter(FD_USER_NS, CLONE_NEWUSER))
		return "enter the user namespace";
	if (!enter(FD_MOUNT_NS, CLONE_NEWNS))
		return "enter the mount namespace";
	if (user && (setgroups(0, NULL) || setresgid(0, 0, 0) || setresuid(0, 0, 0)))
		return "become the container's root";
	if (fchdir(own) != 0)
		return "enter /proc/self/fd";
	close(own);
	close(FD_MOUNT_NS);
	if (user)
		close(FD_USER_NS);
	return give_up_rights() ? NULL : "give up its rights";
}

static bool send_answer(const struct pe_error *err, unsigned int number,
			const struct dbc_rows *rows)
{
	pe_auto_free char *message = err ? pe_error_text(err) : NULL;
	char *bytes = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&bytes, &size);

	if (!out)
		return false;
	put_number(out, err ? err->code : PE_OK);
	put_text(out, message ? message : "");
	put_number(out, number);
	put_number(out, (uint32_t)rows->columns);
	put_number(out, (uint32_t)rows->count);
	for (size_t j = 0; j < rows->columns; j++)
		put_text(out, rows->names[j]);
	for (size_t i = 0; i < rows->count; i++) {
		for (size_t j = 0; j < rows->columns; j++)
			put_text(out, rows->items[i][j]);
	}
	fclose(out);

	bool ok = bytes && write_all(FD_CHANNEL, bytes, size);

	free(bytes);
	return ok;
}

static bool answer_query(struct dbc_direct *direct)
{
	uint32_t size;
	struct dbc_rows rows;
	unsigned int number = 0;

	/* Our parent takes its time between queries. */
	if (!read_all(FD_CHANNEL, &size, sizeof(size), -1) || size > TEXT_MAX)
		return false;

	pe_auto_free char *query = calloc(1, size + 1UL);

	if (!query || !read_all(FD_CHANNEL, query, size, ANSWER_TIMEOUT_MS))
		return false;

	pe_auto_error struct pe_error *err = dbc_direct_query(direct, query, &rows, &number);
	bool ok = send_answer(err, number, &rows);

	dbc_rows_deinit(&rows);
	return ok;
}

static void helper_main(const struct dbc_server *server, const struct dbc_login *login,
			const int fds[FD_END])
{
	static const struct dbc_rows nothing;
	struct dbc_option_files files = { .fd = fds[FD_OPTIONS] < 0 ? -1 : FD_OPTIONS };
	struct dbc_direct *direct = NULL;
	pid_t peer = 0;
	char path[16];
	const char *failed = confine(fds);
	struct pe_error *err = NULL;

	snprintf(path, sizeof(path), "%d", FD_SOCKET);
	if (failed)
		err = pe_error_errno(errno, "a helper for server %d cannot %s", (int)server->pid,
				     failed);
	else
		err = dbc_direct_open(server, path, login, &files, &direct, &peer);
	/* The way back to the host's /proc. */
	if (chdir("/") != 0 && !err)
		err = pe_error_errno(errno, "a helper cannot enter the container's root");
	close(FD_OPTIONS);
	close(FD_SOCKET);
	if (!send_answer(err, 0, &nothing) || err)
		_exit(0);

	uint32_t who[2] = { (uint32_t)peer, (uint32_t)dbc_direct_id(direct) };

	if (!write_all(FD_CHANNEL, who, sizeof(who)))
		_exit(0);
	while (answer_query(direct))
		;
	dbc_direct_close(direct);
	_exit(0);
}

/* ---- our side ---- */

static struct pe_error *error_silent(void)
{
	return pe_error_new(PE_ERR_HELD, "the helper in the container does not answer as it must");
}

/* In one block, as all rows are; NULL: not received. */
static char **get_row(int fd, size_t columns, size_t *left)
{
	pe_auto_free char **cells = calloc(columns + 1, sizeof(*cells));
	size_t bytes = 0;
	bool ok = cells != NULL;

	for (size_t j = 0; ok && j < columns; j++) {
		ok = get_text(fd, &cells[j], left);
		bytes += ok && cells[j] ? strlen(cells[j]) + 1 : 0;
	}

	char **row = ok ? calloc(1, columns * sizeof(*row) + bytes + 1) : NULL;
	char *text = row ? (char *)(row + columns) : NULL;

	for (size_t j = 0; cells && j < columns; j++) {
		if (row && cells[j]) {
			row[j] = strcpy(text, cells[j]);
			text += strlen(text) + 1;
		}
		free(cells[j]);
	}
	return row;
}

static bool get_rows(int fd, struct dbc_rows *ret, size_t *left)
{
	uint32_t columns, count;

	if (!get_number(fd, &columns) || !get_number(fd, &count) || columns > COLUMNS_MAX ||
	    count > ROWS_MAX || (count && !columns))
		return false;
	ret->names = get_row(fd, columns, left);
	for (size_t j = 0; ret->names && j < columns; j++) {
		if (!ret->names[j])
			return false;
	}
	ret->columns = columns;
	ret->items = calloc(count + 1UL, sizeof(*ret->items));
	for (size_t i = 0; ret->names && ret->items && i < count; i++) {
		char **row = get_row(fd, columns, left);

		if (!row)
			return false;
		ret->items[ret->count++] = row;
	}
	return ret->names && ret->items;
}

static bool known_code(uint32_t code)
{
	return code < PE_ERR_COUNT;
}

static struct pe_error *get_answer(int fd, struct dbc_rows *ret, unsigned int *number)
{
	pe_auto_free char *message = NULL;
	size_t left = TEXT_MAX;
	uint32_t code, server_number;

	*ret = (struct dbc_rows){ 0 };
	if (!get_number(fd, &code) || !known_code(code) || !get_text(fd, &message, &left) ||
	    !get_number(fd, &server_number) || !get_rows(fd, ret, &left)) {
		dbc_rows_deinit(ret);
		return error_silent();
	}
	if (number)
		*number = server_number;
	if (code == PE_OK)
		return NULL;
	dbc_rows_deinit(ret);
	return pe_error_new((enum pe_code)code, "%s", message ? message : "");
}

/* A namespace of the server that is not ours; -1 when it is, or in *err when it cannot be had. */
static int open_namespace(const struct dbc_server *server, const char *name, struct pe_error **err)
{
	char theirs[64], ours[64];
	struct stat a, b;

	snprintf(theirs, sizeof(theirs), "/proc/%d/ns/%s", (int)server->pid, name);
	snprintf(ours, sizeof(ours), "/proc/self/ns/%s", name);
	if (stat(theirs, &a) == 0 && stat(ours, &b) == 0 && a.st_ino == b.st_ino &&
	    a.st_dev == b.st_dev)
		return -1;

	int fd = open(theirs, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		*err = pe_error_errno(errno, "cannot open the %s namespace of server %d", name,
				      (int)server->pid);
	return fd;
}

static struct pe_error *helper_start(struct dbc_helper *helper, const struct dbc_server *server,
				     const struct dbc_login *login,
				     const struct dbc_option_files *files, int socket)
{
	struct pe_error *err = NULL;
	int ends[2];
	pe_auto_fd int user = open_namespace(server, "user", &err);
	pe_auto_fd int mount = err ? -1 : open_namespace(server, "mnt", &err);

	if (err)
		return err;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		return pe_error_errno(errno, "cannot make a socket for a helper");

	pe_auto_fd int theirs = ends[1];
	pid_t parent = getpid();

	helper->fd = ends[0];
	helper->pid = fork();
	if (helper->pid < 0)
		return pe_error_errno(errno, "cannot start a helper");
	if (helper->pid)
		return NULL;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	helper_main(server, login,
		    (const int[FD_END]){ [FD_CHANNEL] = theirs,
					 [FD_OPTIONS] = files->fd,
					 [FD_SOCKET] = socket,
					 [FD_USER_NS] = user,
					 [FD_MOUNT_NS] = mount });
	return NULL; /* not reached */
}

struct pe_error *dbc_helper_open(const struct dbc_server *server, int socket,
				 const struct dbc_login *login,
				 const struct dbc_option_files *files, struct dbc_helper **ret,
				 pid_t *peer)
{
	struct dbc_helper *helper = calloc(1, sizeof(*helper));
	struct dbc_rows none;
	uint32_t who[2];

	if (!helper)
		return pe_error_nomem();
	helper->fd = -1;

	struct pe_error *err = helper_start(helper, server, login, files, socket);

	if (!err)
		err = get_answer(helper->fd, &none, NULL);
	if (!err)
		dbc_rows_deinit(&none);
	if (!err && !read_all(helper->fd, who, sizeof(who), ANSWER_TIMEOUT_MS))
		err = error_silent();
	if (err) {
		dbc_helper_close(helper);
		return err;
	}
	*peer = (pid_t)who[0];
	helper->id = who[1];
	*ret = helper;
	return NULL;
}

/* It ends by itself and in good order when we hang up, unless the server keeps it waiting. */
static void helper_end(pid_t pid)
{
	for (int waited_ms = 0; waited_ms < END_TIMEOUT_MS; waited_ms += 2) {
		if (waitpid(pid, NULL, WNOHANG) != 0)
			return;
		nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
	}
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

void dbc_helper_close(struct dbc_helper *helper)
{
	if (!helper)
		return;
	if (helper->fd >= 0)
		close(helper->fd);
	if (helper->pid > 0)
		helper_end(helper->pid);
	free(helper);
}

unsigned long dbc_helper_id(const struct dbc_helper *helper)
{
	return helper->id;
}

struct pe_error *dbc_helper_query(struct dbc_helper *helper, const char *query,
				  struct dbc_rows *ret, unsigned int *number)
{
	uint32_t size = (uint32_t)strlen(query);

	*ret = (struct dbc_rows){ 0 };
	if (number)
		*number = 0;
	if (!write_all(helper->fd, &size, sizeof(size)) || !write_all(helper->fd, query, size))
		return error_silent();
	return get_answer(helper->fd, ret, number);
}

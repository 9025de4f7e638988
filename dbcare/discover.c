/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Finding servers: every process whose program file or name is mariadbd or mysqld, whatever became
 * of the file since, in whatever namespace; a process that only has the name (its program cannot
 * be told from the path) counts when its memory exports a server version.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "dbcare/container.h"
#include "dbcare/proc.h"
#include "dbcare/server.h"
#include "dbcare/sockets.h"
#include "engine/cleanup.h"

static bool is_server_name(const char *name)
{
	return strcmp(name, "mariadbd") == 0 || strcmp(name, "mysqld") == 0;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Cuts the kernel's " (deleted)" off; true when it was there. */
static bool strip_deleted(char *path)
{
	static const char suffix[] = " (deleted)";
	size_t size = strlen(path), cut = sizeof(suffix) - 1;

	if (size <= cut || strcmp(path + size - cut, suffix) != 0)
		return false;
	path[size - cut] = '\0';
	return true;
}

static void read_comm(pid_t pid, char comm[32])
{
	pe_auto_free char *text = dbc_proc_read(pid, "comm", NULL);

	snprintf(comm, 32, "%s", text ? text : "");
	comm[strcspn(comm, "\n")] = '\0';
}

/* Whether another file, or none, stands at the path where the program was. */
static enum dbc_exe_state exe_state(pid_t pid, const char *exe, bool deleted)
{
	char link[64], path[4400];
	struct stat running, on_disk;

	snprintf(link, sizeof(link), "/proc/%d/exe", (int)pid);
	snprintf(path, sizeof(path), "/proc/%d/root%s", (int)pid, exe);
	if (stat(path, &on_disk) != 0)
		return DBC_EXE_DELETED;
	if (deleted || stat(link, &running) != 0)
		return DBC_EXE_REPLACED;
	return running.st_dev == on_disk.st_dev && running.st_ino == on_disk.st_ino
		       ? DBC_EXE_SAME
		       : DBC_EXE_REPLACED;
}

static void read_container(struct dbc_server *server)
{
	server->container = dbc_is_contained(server->pid);
	if (!server->container)
		return;

	pe_auto_free char *cgroup = dbc_proc_read(server->pid, "cgroup", NULL);

	server->container_id = cgroup ? dbc_container_id(cgroup) : NULL;
}

static void read_sockets(struct dbc_server *server)
{
	struct dbc_inodes inodes;
	pe_auto_error struct pe_error *err = dbc_socket_inodes(server->pid, &inodes);
	size_t size = 0;

	if (err)
		return;

	pe_auto_free char *cmdline = dbc_proc_read(server->pid, "cmdline", &size);
	pe_auto_free char *configured =
		cmdline ? dbc_cmdline_option(cmdline, size, "socket") : NULL;
	pe_auto_free char *local = dbc_proc_read(server->pid, "net/unix", NULL);
	pe_auto_free char *tcp = dbc_proc_read(server->pid, "net/tcp", NULL);
	pe_auto_free char *tcp6 = dbc_proc_read(server->pid, "net/tcp6", NULL);

	if (local)
		server->socket = dbc_unix_listener(local, &inodes, configured);
	if (server->socket)
		server->connections += dbc_unix_connected(local, &inodes, server->socket);
	if (tcp)
		server->connections += dbc_tcp_connected(tcp, &inodes);
	if (tcp6)
		server->connections += dbc_tcp_connected(tcp6, &inodes);
	dbc_inodes_deinit(&inodes);
}

/* Start time and thread count from /proc/PID/stat (fields 22 and 20; proc(5)). */
static void read_stat(struct dbc_server *server)
{
	pe_auto_free char *text = dbc_proc_read(server->pid, "stat", NULL);
	const char *rest = text ? strrchr(text, ')') : NULL;
	unsigned long long start;
	long threads;
	struct timespec now;

	if (!rest || sscanf(rest + 1,
			    " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
			    "%*d %ld %*d %llu",
			    &threads, &start) != 2)
		return;
	server->threads = (size_t)threads;
	server->start_time = start;
	clock_gettime(CLOCK_BOOTTIME, &now);

	uint64_t begun = start / (uint64_t)sysconf(_SC_CLK_TCK);

	server->uptime_s = (uint64_t)now.tv_sec > begun ? (uint64_t)now.tv_sec - begun : 0;
}

enum look { LOOK_NO, LOOK_YES, LOOK_DENIED, LOOK_GONE };

/*
 * Looks at one process. With @asked the user named it, so that what it maps decides and not what
 * it is called.
 */
static enum look look_at(pid_t pid, bool asked, struct dbc_server *ret)
{
	char comm[32];

	*ret = (struct dbc_server){ .pid = pid, .ns_pid = pid, .stopping = -1, .started = -1 };
	read_comm(pid, comm);

	bool by_comm = is_server_name(comm);

	ret->exe = dbc_proc_link(pid, "exe");
	if (!ret->exe) {
		/* A kernel thread and a zombie have no program: ENOENT. */
		if (errno == EACCES || errno == EPERM)
			return by_comm || asked ? LOOK_DENIED : LOOK_NO;
		return LOOK_GONE;
	}

	bool deleted = strip_deleted(ret->exe);
	bool by_exe = is_server_name(base_name(ret->exe));

	if (!by_exe && !by_comm && !asked)
		return LOOK_NO;

	pe_auto_free char *status = dbc_proc_read(pid, "status", NULL);
	pid_t inner = status ? dbc_status_nspid(status) : 0;

	if (inner)
		ret->ns_pid = inner;
	ret->exe_state = exe_state(pid, ret->exe, deleted);
	read_container(ret);
	read_sockets(ret);
	read_stat(ret);
	dbc_fingerprint(ret);
	return by_exe || ret->version ? LOOK_YES : LOOK_NO;
}

static struct pe_error *servers_add(struct dbc_servers *servers, struct dbc_server *server)
{
	struct dbc_server *grown = reallocarray(servers->items, servers->count + 1, sizeof(*grown));

	if (!grown) {
		dbc_server_deinit(server);
		return pe_error_nomem();
	}
	servers->items = grown;
	grown[servers->count++] = *server;
	return NULL;
}

static int server_compare(const void *a, const void *b)
{
	const struct dbc_server *x = a, *y = b;

	return (x->pid > y->pid) - (x->pid < y->pid);
}

struct pe_error *dbc_discover(struct dbc_servers *ret)
{
	*ret = (struct dbc_servers){ 0 };
	DIR *proc = opendir("/proc");
	if (!proc)
		return pe_error_errno(errno, "cannot list /proc");

	struct pe_error *err = NULL;

	for (struct dirent *entry; !err && (entry = readdir(proc));) {
		struct dbc_server server;

		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;

		pid_t pid = (pid_t)atoi(entry->d_name);
		enum look look = look_at(pid, false, &server);

		if (look == LOOK_YES) {
			err = servers_add(ret, &server);
			continue;
		}
		dbc_server_deinit(&server);
		if (look == LOOK_DENIED) {
			ret->denied++;
			ret->denied_pid = pid;
		}
	}
	closedir(proc);
	if (err) {
		dbc_servers_deinit(ret);
		return err;
	}
	if (ret->count)
		qsort(ret->items, ret->count, sizeof(*ret->items), server_compare);
	return NULL;
}

void dbc_servers_deinit(struct dbc_servers *servers)
{
	for (size_t i = 0; i < servers->count; i++)
		dbc_server_deinit(&servers->items[i]);
	free(servers->items);
	*servers = (struct dbc_servers){ 0 };
}

void dbc_server_deinit(struct dbc_server *server)
{
	free(server->exe);
	free(server->container_id);
	free(server->socket);
	free(server->version);
	free(server->unreadable);
	pe_applied_list_deinit(&server->applied);
	pe_leftovers_deinit(&server->leftovers);
	*server = (struct dbc_server){ 0 };
}

static struct pe_error *error_denied(pid_t pid)
{
	return pe_error_new(PE_ERR_PERMISSION,
			    "cannot look into process %d: this needs the right to trace it "
			    "(CAP_SYS_PTRACE), in its user namespace",
			    (int)pid);
}

static struct pe_error *find_by_pid(const char *text, struct dbc_server *ret)
{
	errno = 0;
	long pid = strtol(text, NULL, 10);
	char comm[32];

	if (errno || pid <= 0 || pid > 1 << 22)
		return pe_error_new(PE_ERR_NO_TARGET, "no process has the pid %s", text);
	read_comm((pid_t)pid, comm);

	enum look look = look_at((pid_t)pid, true, ret);

	if (look == LOOK_YES)
		return NULL;
	dbc_server_deinit(ret);
	if (look == LOOK_DENIED)
		return error_denied((pid_t)pid);
	if (!*comm)
		return pe_error_new(PE_ERR_NO_TARGET, "no process has the pid %ld", pid);
	return pe_error_new(PE_ERR_NO_TARGET,
			    "process %ld (%s) is no MariaDB server; `dbcarectl list` shows those "
			    "there are",
			    pid, comm);
}

/* Hands the item over to @ret and frees the others. */
static void servers_take(struct dbc_servers *servers, size_t index, struct dbc_server *ret)
{
	*ret = servers->items[index];
	servers->items[index] = (struct dbc_server){ 0 };
	dbc_servers_deinit(servers);
}

/* Whether the file at @path is the one at the server's own path, in its own mount namespace. */
static bool has_socket(const struct dbc_server *server, const struct stat *wanted)
{
	char theirs[4400];
	struct stat found;

	if (!server->socket || *server->socket == '@')
		return false;
	snprintf(theirs, sizeof(theirs), "/proc/%d/%s%s", (int)server->pid,
		 *server->socket == '/' ? "root" : "cwd/", server->socket);
	return stat(theirs, &found) == 0 && wanted->st_ino == found.st_ino &&
	       wanted->st_dev == found.st_dev;
}

/*
 * Who accepts connections at @path; 0: nobody. Asked only when two servers were bound to the same
 * path, since the server counts it as an aborted connection.
 */
static pid_t who_answers(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct ucred peer = { 0 };
	socklen_t size = sizeof(peer);

	pe_auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || strlen(path) >= sizeof(address.sun_path))
		return 0;
	strcpy(address.sun_path, path);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
		return 0;
	return peer.pid;
}

static struct pe_error *find_by_socket(const char *path, struct dbc_servers *servers,
				       struct dbc_server *ret)
{
	struct stat wanted;
	size_t found = 0, matches = 0;

	if (stat(path, &wanted) != 0)
		return pe_error_new(PE_ERR_NO_TARGET,
				    "no MariaDB server listens at %s: there is no such file", path);
	for (size_t i = 0; i < servers->count; i++) {
		if (has_socket(&servers->items[i], &wanted)) {
			found = i;
			matches++;
		}
	}
	if (matches > 1) {
		pid_t pid = who_answers(path);

		for (size_t i = 0; i < servers->count; i++)
			found = servers->items[i].pid == pid ? i : found;
	}
	if (!matches)
		return pe_error_new(PE_ERR_NO_TARGET, "no MariaDB server listens at %s", path);
	servers_take(servers, found, ret);
	return NULL;
}

static struct pe_error *find_by_container(const char *id, struct dbc_servers *servers,
					  struct dbc_server *ret)
{
	size_t found = 0, matches = 0;

	for (size_t i = 0; i < servers->count; i++) {
		const char *its = servers->items[i].container_id;

		if (!its || strncmp(its, id, strlen(id)) != 0)
			continue;
		found = i;
		matches++;
		if (!its[strlen(id)]) {
			matches = 1;
			break;
		}
	}
	if (!matches)
		return pe_error_new(PE_ERR_NO_TARGET,
				    "'%s' is neither a pid, nor the path of a socket, nor the id "
				    "of a container in which a MariaDB server runs (`dbcarectl "
				    "list` shows them)",
				    id);
	if (matches > 1)
		return pe_error_new(PE_ERR_NO_TARGET,
				    "the ids of %zu containers with a MariaDB server begin with "
				    "%s: say which",
				    matches, id);
	servers_take(servers, found, ret);
	return NULL;
}

static struct pe_error *error_several(const struct dbc_servers *servers)
{
	pe_auto_free char *list = NULL;
	size_t size;
	FILE *out = open_memstream(&list, &size);

	if (!out)
		return pe_error_nomem();
	for (size_t i = 0; i < servers->count; i++) {
		const struct dbc_server *server = &servers->items[i];

		fprintf(out, "%s%d (%s%s)", i ? ", " : "", (int)server->pid,
			server->container_id ? "container " : "",
			server->container_id ? server->container_id
			: server->socket     ? server->socket
					     : server->exe);
	}
	fclose(out);
	return pe_error_new(
		PE_ERR_NO_TARGET,
		"%zu MariaDB servers run here: say which by its pid, socket or container: %s",
		servers->count, list);
}

struct pe_error *dbc_server_find(const char *target, struct dbc_server *ret)
{
	struct dbc_servers servers;

	*ret = (struct dbc_server){ 0 };
	/* An unset variable of a script is not the beginning of every container's id. */
	if (target && !*target)
		return pe_error_new(PE_ERR_USAGE, "which server? its name is empty");
	if (target && !target[strspn(target, "0123456789")])
		return find_by_pid(target, ret);
	struct pe_error *err = dbc_discover(&servers);

	if (err)
		return err;
	if (!servers.count && servers.denied)
		err = error_denied(servers.denied_pid);
	else if (target)
		err = (strchr(target, '/') ? find_by_socket : find_by_container)(target, &servers,
										 ret);
	else if (servers.count == 1)
		servers_take(&servers, 0, ret);
	else if (servers.count)
		err = error_several(&servers);
	else
		err = pe_error_new(PE_ERR_NO_TARGET, "no MariaDB server runs on this host");
	dbc_servers_deinit(&servers);
	return err;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Galera clusters; see cluster.h. */
#include "dbcare/cluster.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <time.h>

#include "dbcare/history.h"
#include "engine/cleanup.h"

enum { POLL_MS = 200 };

static const char *value_of(const struct dbc_rows *rows, const char *name)
{
	for (size_t i = 0; i < rows->count; i++) {
		if (rows->items[i][0] && strcasecmp(rows->items[i][0], name) == 0)
			return rows->items[i][1] ? rows->items[i][1] : "";
	}
	return "";
}

/* For a terminal: a node's owner chooses its name. */
static void copy_printable(char *to, size_t room, const char *from)
{
	snprintf(to, room, "%s", from);
	for (; *to; to++) {
		if ((unsigned char)*to < ' ' || *to == 0x7f)
			*to = '?';
	}
}

/* Names a file: letters, digits and "-" only. */
static bool is_uuid(const char *text)
{
	return strlen(text) == 36 && strspn(text, "0123456789abcdefABCDEF-") == 36;
}

struct pe_error *dbc_node_ask(struct dbc_sql *sql, struct dbc_node *ret)
{
	struct dbc_rows rows;

	*ret = (struct dbc_node){ 0 };
	struct pe_error *err = dbc_sql_query(
		sql,
		"SELECT VARIABLE_NAME, VARIABLE_VALUE FROM information_schema.GLOBAL_VARIABLES "
		"WHERE VARIABLE_NAME IN ('WSREP_ON','WSREP_PROVIDER','WSREP_NODE_NAME') UNION ALL "
		"SELECT VARIABLE_NAME, VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE "
		"VARIABLE_NAME IN ('WSREP_CLUSTER_STATE_UUID','WSREP_CLUSTER_SIZE',"
		"'WSREP_CLUSTER_STATUS','WSREP_LOCAL_STATE','WSREP_LOCAL_STATE_COMMENT')",
		&rows, NULL);

	if (err)
		return err;
	/* A server built without Galera has no such variable. */
	const char *provider = value_of(&rows, "wsrep_provider");

	ret->member = strcasecmp(value_of(&rows, "wsrep_on"), "ON") == 0 && *provider &&
		      strcasecmp(provider, "none") != 0;
	snprintf(ret->cluster, sizeof(ret->cluster), "%s",
		 value_of(&rows, "wsrep_cluster_state_uuid"));
	copy_printable(ret->name, sizeof(ret->name), value_of(&rows, "wsrep_node_name"));
	copy_printable(ret->state, sizeof(ret->state),
		       value_of(&rows, "wsrep_local_state_comment"));
	ret->primary = strcasecmp(value_of(&rows, "wsrep_cluster_status"), "Primary") == 0;
	ret->synced = strcmp(value_of(&rows, "wsrep_local_state"), "4") == 0;
	ret->size = (unsigned int)strtoul(value_of(&rows, "wsrep_cluster_size"), NULL, 10);
	dbc_rows_deinit(&rows);
	if (ret->member && !is_uuid(ret->cluster))
		return pe_error_new(PE_ERR_HELD, "the node does not tell which cluster it is of");
	return NULL;
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

struct pe_error *dbc_node_wait(struct dbc_session *session, unsigned int size,
			       unsigned int timeout_s, const struct dbc_options *options)
{
	int64_t deadline = now_ms() + timeout_s * 1000LL;
	bool told = false;

	for (;;) {
		struct dbc_node node = { 0 };
		struct pe_error *err = NULL;

		dbc_session_connect(session);
		if (session->sql)
			err = dbc_node_ask(session->sql, &node);
		if (err || !session->sql)
			dbc_session_disconnect(session);
		else if (!node.member || (node.synced && node.primary && node.size >= size))
			return NULL;
		if (now_ms() >= deadline) {
			if (err)
				return err;
			return pe_error_new(PE_ERR_HELD,
					    "node %s (server %d) is %s in a %s component of %u "
					    "nodes; the cluster is whole with %u",
					    *node.name ? node.name : "?", (int)session->server.pid,
					    *node.state ? node.state : "not reached",
					    node.primary ? "Primary" : "non-Primary", node.size,
					    size);
		}
		pe_error_free(err);
		err = dbc_cancelled(options);
		if (err)
			return err;
		if (!told && options->progress)
			options->progress(options->progress_ctx,
					  "waiting for the cluster to be whole");
		told = true;
		nanosleep(&(struct timespec){ .tv_nsec = POLL_MS * 1000000L }, NULL);
	}
}

struct pe_error *dbc_cluster_lock(const struct dbc_node *node, int *lock_fd)
{
	const char *dir;
	pe_auto_free char *path = NULL;
	struct pe_error *err = dbc_state_dir(&dir);

	if (err)
		return err;
	if (asprintf(&path, "%s/cluster-%s.lock", dir, node->cluster) < 0) {
		path = NULL;
		return pe_error_nomem();
	}
	pe_auto_fd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return pe_error_errno(errno, "cannot open %s", path);
	if (flock(fd, LOCK_EX | LOCK_NB) != 0)
		return errno == EWOULDBLOCK
			       ? pe_error_new(PE_ERR_HELD,
					      "another node of the cluster %s is being patched on "
					      "this host: one at a time",
					      node->cluster)
			       : pe_error_errno(errno, "cannot lock %s", path);
	*lock_fd = fd;
	fd = -1;
	return NULL;
}

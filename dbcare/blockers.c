/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From thread ids to connections: PROCESSLIST.TID is the Linux thread id as the server sees it,
 * so ids of a container are translated first (NSpid).
 */
#include "dbcare/blockers.h"

#include <stdio.h>
#include <string.h>

#include "dbcare/proc.h"
#include "engine/cleanup.h"

static pid_t server_tid(const struct dbc_server *server, pid_t tid)
{
	char name[64];

	if (server->ns_pid == server->pid)
		return tid;
	snprintf(name, sizeof(name), "task/%d/status", (int)tid);
	pe_auto_free char *status = dbc_proc_read(server->pid, name, NULL);
	return status ? dbc_status_nspid(status) : 0;
}

static void read_comm(pid_t pid, pid_t tid, char comm[16])
{
	char name[64];

	snprintf(name, sizeof(name), "task/%d/comm", (int)tid);
	pe_auto_free char *text = dbc_proc_read(pid, name, NULL);
	snprintf(comm, 16, "%s", text ? text : "");
	comm[strcspn(comm, "\n")] = '\0';
}

static char *copy(const char *text)
{
	return text ? strdup(text) : NULL;
}

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

static bool known(const struct dbc_blockers *blockers, pid_t tid, const char *function)
{
	for (size_t i = 0; i < blockers->count; i++) {
		if (blockers->items[i].tid == tid &&
		    same_text(blockers->items[i].function, function))
			return true;
	}
	return false;
}

enum { B_TID, B_ID, B_USER, B_STATE, B_INFO, B_COMMAND };

static void fill_connection(struct dbc_blocker *blocker, const struct dbc_rows *rows, pid_t tid,
			    bool precise)
{
	for (size_t i = 0; tid && i < rows->count; i++) {
		char **row = rows->items[i];

		if (!row[B_TID] || strtol(row[B_TID], NULL, 10) != tid)
			continue;
		blocker->connection = row[B_ID] ? strtoul(row[B_ID], NULL, 10) : 0;
		blocker->user = copy(row[B_USER]);
		blocker->state = copy(row[B_STATE]);
		blocker->query = copy(row[B_INFO]);
		blocker->idle = !precise && row[B_COMMAND] && strcmp(row[B_COMMAND], "Sleep") == 0;
		return;
	}
}

struct pe_error *dbc_blockers_resolve(const struct dbc_server *server, struct dbc_sql *sql,
				      const struct pe_stack_hits *hits,
				      const char *const *functions, struct dbc_blockers *ret)
{
	struct dbc_rows rows = { 0 };

	*ret = (struct dbc_blockers){ .items = calloc(hits->count + 1, sizeof(*ret->items)) };
	if (!ret->items)
		return pe_error_nomem();
	if (sql && hits->count) {
		/* Names of blocking threads are a help, not a condition: without them go on. */
		pe_auto_error struct pe_error *err = dbc_sql_query(
			sql,
			"SELECT TID, ID, CONCAT(USER, '@', HOST), STATE, "
			"COALESCE(INFO, COMMAND), COMMAND FROM information_schema.PROCESSLIST",
			&rows, NULL);
	}
	for (size_t i = 0; i < hits->count; i++) {
		pid_t tid = hits->items[i].tid;
		const char *function = functions ? functions[i] : NULL;

		if (known(ret, tid, function))
			continue;

		struct dbc_blocker *blocker = &ret->items[ret->count++];

		blocker->tid = tid;
		blocker->function = copy(function);
		read_comm(server->pid, tid, blocker->comm);
		fill_connection(blocker, &rows, server_tid(server, tid), hits->items[i].precise);
	}
	dbc_rows_deinit(&rows);
	return NULL;
}

void dbc_blockers_deinit(struct dbc_blockers *blockers)
{
	for (size_t i = 0; i < blockers->count; i++) {
		free(blockers->items[i].function);
		free(blockers->items[i].user);
		free(blockers->items[i].state);
		free(blockers->items[i].query);
	}
	free(blockers->items);
	*blockers = (struct dbc_blockers){ 0 };
}

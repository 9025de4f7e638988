/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a session is doing, judged by its row of PROCESSLIST. Pure functions on text. */
#ifndef DBCARE_ACTIVITY_H
#define DBCARE_ACTIVITY_H

#include <stdbool.h>

/* True when the statement, after comments and SET STATEMENT ... FOR, defines or rebuilds data. */
bool dbc_is_ddl(const char *statement);

/*
 * Why a session counts as DDL in progress: its STATE ("altering table") or the kind of its
 * statement; NULL when it does not. @command, @state and @info as PROCESSLIST has them, each may
 * be NULL.
 */
const char *dbc_ddl_reason(const char *command, const char *state, const char *info);

/* The same for a server-wide lock that this session waits for or asks for. */
const char *dbc_backup_lock_reason(const char *command, const char *state, const char *info);

/* The same for a shutdown that was asked for. */
bool dbc_is_shutdown(const char *command, const char *info);

/* A rollback that SHOW ENGINE INNODB STATUS tells of. */
struct dbc_rollback {
	unsigned long long transaction;
	unsigned long long undo_entries; /* still to be undone: rows, about */
	bool recovered;			 /* of a run that crashed */
};

/*
 * The first rollback in @status that belongs to a crashed run or has at least @least entries to
 * undo. False when there is none; *truncated when the server left transactions out.
 */
bool dbc_rollback_find(const char *status, unsigned long long least, struct dbc_rollback *ret,
		       bool *truncated);

/* Whether a line of SHOW GRANTS gives @privilege (or all) on all databases. */
bool dbc_grant_gives(const char *line, const char *privilege);

#endif

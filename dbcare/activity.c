/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Judging sessions. States are those of mariadbd's own table (sql/mysqld.cc, stage_*); statements
 * are judged by their first words, behind comments, executable comments and SET STATEMENT.
 */
#include "dbcare/activity.h"

#include <ctype.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Skips blanks and comments; an executable comment (slash-star-bang) is entered, not skipped. */
static const char *skip_blank(const char *at)
{
	for (;;) {
		at += strspn(at, " \t\r\n;(");
		if (strncmp(at, "/*!", 3) == 0 || strncmp(at, "/*M!", 4) == 0) {
			at = strchr(at, '!') + 1;
			at += strspn(at, "0123456789");
		} else if (strncmp(at, "/*", 2) == 0) {
			const char *end = strstr(at + 2, "*/");

			at = end ? end + 2 : at + strlen(at);
		} else if (*at == '#' || (strncmp(at, "--", 2) == 0 &&
					  (isspace((unsigned char)at[2]) || !at[2]))) {
			at += strcspn(at, "\n");
		} else if (strncmp(at, "*/", 2) == 0) {
			at += 2;
		} else {
			return at;
		}
	}
}

/* When the next word is @word: the text behind it, blanks skipped; else NULL. */
static const char *word(const char *at, const char *wanted)
{
	size_t size = strlen(wanted);

	if (strncasecmp(at, wanted, size) != 0)
		return NULL;
	if (isalnum((unsigned char)at[size]) || at[size] == '_')
		return NULL;
	return skip_blank(at + size);
}

/* The next word anywhere in @at outside quotes, or NULL; used for "... FOR statement". */
static const char *find_word(const char *at, const char *wanted)
{
	char quote = '\0';
	bool at_word = true;

	for (; *at; at++) {
		if (quote) {
			if (*at == quote)
				quote = '\0';
			continue;
		}
		if (*at == '\'' || *at == '"' || *at == '`') {
			quote = *at;
			continue;
		}
		if (at_word) {
			const char *rest = word(at, wanted);

			if (rest)
				return rest;
		}
		at_word = !isalnum((unsigned char)*at) && *at != '_';
	}
	return NULL;
}

/* To the statement that is really run. */
static const char *statement_start(const char *at)
{
	at = skip_blank(at);

	const char *rest = word(at, "SET");

	if (rest && (rest = word(rest, "STATEMENT"))) {
		rest = find_word(rest, "FOR");
		if (rest)
			at = rest;
	}
	rest = word(at, "EXECUTE");
	if (rest && (rest = word(rest, "IMMEDIATE")))
		at = skip_blank(rest + strspn(rest, "'\""));
	return at;
}

bool dbc_is_ddl(const char *statement)
{
	static const char *const always[] = { "ALTER",	"RENAME",  "TRUNCATE", "OPTIMIZE",
					      "REPAIR", "INSTALL", "UNINSTALL" };
	static const char *const unless_temporary[] = { "CREATE", "DROP" };

	if (!statement)
		return false;

	const char *at = statement_start(statement), *rest;

	for (size_t i = 0; i < sizeof(always) / sizeof(*always); i++) {
		if (word(at, always[i]))
			return true;
	}
	for (size_t i = 0; i < sizeof(unless_temporary) / sizeof(*unless_temporary); i++) {
		rest = word(at, unless_temporary[i]);
		if (!rest)
			continue;

		const char * or = word(rest, "OR");

		if (or &&(or = word(or, "REPLACE")))
			rest = or ;
		return !word(rest, "TEMPORARY") && !word(rest, "PREPARE");
	}
	return false;
}

/* An idle session shows its last statement in no release, but be sure. */
static bool is_idle(const char *command)
{
	return command && strcasecmp(command, "Sleep") == 0;
}

const char *dbc_ddl_reason(const char *command, const char *state, const char *info)
{
	static const char *const states[] = {
		"altering table",
		"preparing for alter table",
		"Committing alter table to storage engine",
		"copy to tmp table",
		"creating table",
		"Enabling keys",
		"Manage keys",
		"Recreating table",
		"Rename",
		"Rename result table",
		"Repair by sorting",
		"Repair with keycache",
		"Repair done",
		"Discard_or_import_tablespace",
		"Waiting for TOI DDL",
		"Waiting for DDLs",
	};

	if (is_idle(command))
		return NULL;
	for (size_t i = 0; state && i < sizeof(states) / sizeof(*states); i++) {
		if (strcasecmp(state, states[i]) == 0)
			return states[i];
	}
	return dbc_is_ddl(info) ? "a statement that changes tables or other objects" : NULL;
}

const char *dbc_backup_lock_reason(const char *command, const char *state, const char *info)
{
	static const char *const states[] = {
		"Waiting for backup lock",
		"Waiting for global read lock",
		"Waiting due to global read lock",
		"Waiting for commit lock",
		"Waiting for worker threads to pause for global read lock",
		"Waiting for non trans tables to be flushed",
	};
	const char *rest;

	if (is_idle(command))
		return NULL;
	for (size_t i = 0; state && i < sizeof(states) / sizeof(*states); i++) {
		if (strcasecmp(state, states[i]) == 0)
			return states[i];
	}
	if (!info)
		return NULL;

	const char *at = statement_start(info);

	if ((rest = word(at, "BACKUP")) && word(rest, "STAGE"))
		return "BACKUP STAGE";
	if ((rest = word(at, "FLUSH")) && find_word(rest, "READ"))
		return "FLUSH TABLES WITH READ LOCK";
	return NULL;
}

bool dbc_is_shutdown(const char *command, const char *info)
{
	if (command && strcasecmp(command, "Shutdown") == 0)
		return true;
	return !is_idle(command) && info && word(statement_start(info), "SHUTDOWN");
}

/*
 * Transactions look so (storage/innobase/trx/trx0trx.cc, trx_print_low()):
 *	---TRANSACTION 292, ACTIVE 0 sec recovered trx
 *	ROLLING BACK 1 lock struct(s), heap size 1128, 0 row lock(s), undo log entries 368944
 */
bool dbc_rollback_find(const char *status, unsigned long long least, struct dbc_rollback *ret,
		       bool *truncated)
{
	static const char head[] = "---TRANSACTION ";

	*truncated = strstr(status, "... truncated...") != NULL;
	for (const char *at = strstr(status, head); at;) {
		const char *next = strstr(at + 1, head);
		const char *end = next ? next : at + strlen(at);
		const char *line = at + strcspn(at, "\n");
		const char *undo = strstr(at, "undo log entries ");
		const char *recovered = strstr(at, "recovered trx");

		*ret = (struct dbc_rollback){
			.transaction = strtoull(at + sizeof(head) - 1, NULL, 10),
			.recovered = recovered && recovered < line,
		};
		if (undo && undo < end)
			ret->undo_entries = strtoull(undo + strlen("undo log entries "), NULL, 10);
		if (strncmp(line, "\nROLLING BACK", strlen("\nROLLING BACK")) == 0 &&
		    (ret->recovered || ret->undo_entries >= least))
			return true;
		at = next;
	}
	return false;
}

bool dbc_grant_gives(const char *line, const char *privilege)
{
	static const char grant[] = "GRANT ", scope[] = " ON *.* TO ";
	const char *end = strstr(line, scope);
	size_t size = strlen(privilege);

	if (strncmp(line, grant, sizeof(grant) - 1) != 0 || !end)
		return false;
	for (const char *at = line + sizeof(grant) - 1; at < end;) {
		size_t length = strcspn(at, ",");

		if (at + length > end)
			length = (size_t)(end - at);
		if (length == size && strncmp(at, privilege, size) == 0)
			return true;
		if (length == strlen("ALL PRIVILEGES") &&
		    strncmp(at, "ALL PRIVILEGES", length) == 0)
			return true;
		at += length;
		at += strspn(at, ", ");
		/* Behind the last privilege stands " ON": do not run into it. */
		if (length == 0)
			break;
	}
	return false;
}

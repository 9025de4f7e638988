/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What patchers that died began on a server, as the history has it; see abandoned.h. */
#include "dbcare/abandoned.h"

#include <stdio.h>
#include <string.h>

#include "dbcare/describe.h"
#include "dbcare/history.h"

struct pe_error *dbc_abandoned(const struct dbc_server *server, json_t **ret)
{
	char pid[16];
	json_t *all = NULL, *record;
	size_t i;

	snprintf(pid, sizeof(pid), "%d", (int)server->pid);

	struct pe_error *err =
		dbc_history_read(&(struct dbc_history_filter){ .server = pid }, &all);

	*ret = json_array();
	json_array_foreach(all, i, record)
	{
		json_int_t start = json_integer_value(json_object_get(record, "start_time"));

		if ((uint64_t)start == server->start_time && dbc_history_abandoned(record))
			json_array_append(*ret, record);
	}
	json_decref(all);
	return err;
}

bool dbc_abandoned_in_effect(const struct dbc_server *server, const json_t *record)
{
	const char *patch = json_string_value(json_object_get(record, "patch"));
	const json_t *level = json_object_get(record, "level");

	for (size_t i = 0; patch && i < server->applied.count; i++) {
		const struct pe_applied *applied = &server->applied.items[i];

		if (strcmp(applied->name, patch) == 0 && dbc_in_effect(applied) &&
		    (!json_is_integer(level) ||
		     json_integer_value(level) == (json_int_t)applied->level))
			return true;
	}
	return false;
}

bool dbc_unverified(const struct dbc_server *server, const json_t *record)
{
	const char *action = json_string_value(json_object_get(record, "action"));

	return action && strcmp(action, "apply") == 0 && dbc_abandoned_in_effect(server, record);
}

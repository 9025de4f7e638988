/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The history of earlier versions: JSON lines, two an operation (phase "intent" and "done", joined
 * by their id). It is only read. A line that a crash cut off is left out.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "dbcare/history_store.h"
#include "engine/cleanup.h"

/* Joins an outcome with its intent, or appends. */
static void merge(json_t *all, json_t *record)
{
	const char *id = json_string_value(json_object_get(record, "id"));

	for (size_t i = json_array_size(all); i-- > 0;) {
		json_t *other = json_array_get(all, i);

		if (strcmp(id, json_string_value(json_object_get(other, "id"))) == 0 &&
		    !json_object_get(other, "result")) {
			json_object_update(other, record);
			return;
		}
	}

	json_t *time = json_object_get(record, "time");

	json_object_set(record, "began", time);
	if (!json_object_get(record, "result"))
		json_object_del(record, "time");
	json_array_append(all, record);
}

struct pe_error *history_lines_read(const char *dir, json_t **ret)
{
	char path[PATH_MAX];

	*ret = NULL;
	snprintf(path, sizeof(path), "%s/history.jsonl", dir);
	pe_auto_file FILE *in = fopen(path, "re");
	if (!in && errno != ENOENT && errno != ENOTDIR)
		return pe_error_errno(errno, "cannot read %s", path);

	json_t *all = json_array();
	pe_auto_free char *line = NULL;
	size_t room = 0;

	while (in && getline(&line, &room, in) > 0) {
		json_t *record = json_loads(line, JSON_REJECT_DUPLICATES, NULL);

		json_object_del(record, "phase");
		if (json_is_string(json_object_get(record, "id")) &&
		    json_is_string(json_object_get(record, "time")))
			merge(all, record);
		json_decref(record);
	}
	*ret = all;
	return NULL;
}

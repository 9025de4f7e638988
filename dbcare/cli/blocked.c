/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A patch that its publisher took back. The agent knows, when one runs. An administrator may have
 * his reasons, so it is said and not refused; but the agent would take the patch out again.
 */
#include <stdio.h>
#include <string.h>

#include "dbcare/cli/cli.h"
#include "dbcare/cli/control.h"
#include "engine/cleanup.h"

void cli_warn_if_blocked(struct cli_change *change, const struct pe_patch *patch)
{
	json_t *ids = json_array(), *answer;
	const char *reason;
	pe_auto_free char *text = NULL;

	for (size_t i = 0; i < patch->target_count; i++) {
		char hex[2 * PE_BUILD_ID_MAX + 1];

		pe_build_id_hex(&patch->targets[i].build_id, hex);
		json_array_append_new(ids, json_string(hex));
	}
	answer = control_ask_by_the_way(json_pack("{s:s, s:s, s:I, s:o}", "do", "blocked", "name",
						  patch->name, "level", (json_int_t)patch->level,
						  "build_ids", ids));
	reason = json_string_value(json_object_get(answer, "reason"));
	if (json_is_true(json_object_get(answer, "blocked"))) {
		change->blocked = strdup(reason ? reason : "no reason given");
		if (change->blocked &&
		    asprintf(&text,
			     "%s, level %u, was blocked by its publisher: %s; the agent reverts it "
			     "at its next look, unless `dbcarectl hold` keeps it from that",
			     patch->name, patch->level, change->blocked) >= 0)
			cli_warnings(text);
	}
	json_decref(answer);
}

void cli_put_blocked(const struct cli_change *change, json_t *result)
{
	if (change->blocked)
		json_object_set_new(result, "blocked", json_string(change->blocked));
}

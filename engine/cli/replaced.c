/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a plan replaces, and what old code is still in use, as the command lines show it. */
#include "engine/cleanup.h"
#include "engine/demangle.h"
#include "engine/show.h"

#include <stdio.h>

const char *pe_cli_entry_now(const struct pe_plan_function *function)
{
	if (function->replaced)
		return "replaced patch";
	return function->patched_already ? "another patch" : "shipped code";
}

json_t *pe_cli_json_strings(const char *const *strings, size_t count)
{
	json_t *list = json_array();

	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, json_string(strings[i]));
	return list;
}

json_t *pe_cli_json_replaced(const struct pe_plan *plan)
{
	json_t *list = json_array();
	size_t count;
	const struct pe_plan_replaced *replaced = pe_plan_replaced(plan, &count);

	for (size_t i = 0; i < count; i++)
		json_array_append_new(list,
				      json_pack("{s:s, s:i, s:o}", "name", replaced[i].name,
						"level", (int)replaced[i].level, "taken_back",
						pe_cli_json_strings(replaced[i].dropped,
								    replaced[i].dropped_count)));
	return list;
}

void pe_cli_print_replaced(const struct pe_plan *plan)
{
	size_t count;
	const struct pe_plan_replaced *replaced = pe_plan_replaced(plan, &count);

	for (size_t i = 0; i < count; i++) {
		printf("replaces %s (level %u) in the same switch", replaced[i].name,
		       replaced[i].level);
		for (size_t d = 0; d < replaced[i].dropped_count; d++) {
			pe_auto_free char *name = pe_demangle(replaced[i].dropped[d]);

			printf("%s%s", d ? ", " : "; taken back: ", name);
		}
		putchar('\n');
	}
}

void pe_cli_print_old_frames(const struct pe_applied *applied)
{
	bool reverted = applied->state == PE_STATE_REVERTED;

	if (!reverted && applied->state != PE_STATE_SETTLING)
		return;
	printf("%s: %zu thread%s %s frames of %s", applied->name, applied->old_threads,
	       applied->old_threads == 1 ? "" : "s", applied->old_threads == 1 ? "has" : "have",
	       reverted ? "its code; memory is released when they and pointers to it are gone"
			: "the old code");
	if (applied->running_threads)
		printf(" (%zu running thread%s not seen)", applied->running_threads,
		       applied->running_threads == 1 ? "" : "s");
	putchar('\n');
}

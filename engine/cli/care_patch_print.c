/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What care-patch prints: tables for people, one JSON object for programs. */
#include "cli/care_patch.h"
#include "engine/cleanup.h"
#include "engine/cli.h"
#include "engine/demangle.h"
#include "engine/show.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

static json_t *json_address(uint64_t address)
{
	char text[32];

	snprintf(text, sizeof(text), "0x%" PRIx64, address);
	return json_string(text);
}

/* ---- plan ---- */

static json_t *json_predicted(const struct pe_plan *plan, const struct pe_stack_hits *hits)
{
	json_t *list = json_array();

	for (size_t i = 0; i < hits->count; i++)
		json_array_append_new(list, json_pack("{s:i, s:s}", "tid", (int)hits->items[i].tid,
						      "function",
						      pe_plan_tag_name(plan, hits->items[i].tag)));
	return list;
}

static void plan_json(const struct care_patch_options *options, const struct pe_plan *plan,
		      const struct pe_stack_hits *blockers, const struct pe_pause_guess *guess)
{
	const struct pe_patch *patch = pe_plan_patch(plan);
	json_t *functions = json_array();
	size_t count;
	const struct pe_plan_function *f = pe_plan_functions(plan, &count);

	for (size_t i = 0; i < count; i++)
		json_array_append_new(
			functions,
			json_pack("{s:s, s:o, s:I, s:I, s:b}", "name", f[i].name, "entry",
				  json_address(f[i].entry), "size", (json_int_t)f[i].size,
				  "new_size", (json_int_t)f[i].new_size, "patched_already",
				  (int)f[i].patched_already, "replaced", (int)f[i].replaced));
	pe_cli_json(json_pack(
		"{s:s, s:i, s:i, s:b, s:I, s:I, s:b, s:o, s:o, s:o}", "name", patch->name, "level",
		(int)patch->level, "pid", (int)options->pid, "independent", (int)patch->independent,
		"memory", (json_int_t)pe_plan_memory(plan), "predicted_us", (json_int_t)guess->us,
		"needs_stacks", (int)pe_plan_needs_stacks(plan), "functions", functions, "replaces",
		pe_cli_json_replaced(plan), "blockers", json_predicted(plan, blockers)));
}

void care_patch_print_plan(const struct care_patch_options *options, const struct pe_plan *plan,
			   const struct pe_stack_hits *blockers, const struct pe_pause_guess *guess)
{
	static const char *const titles[] = { "FUNCTION", "ENTRY", ">OLD", ">NEW", "NOW", NULL };
	const struct pe_patch *patch = pe_plan_patch(plan);
	char memory[32], pause[32];
	size_t count;
	const struct pe_plan_function *f = pe_plan_functions(plan, &count);

	if (options->json) {
		plan_json(options, plan, blockers, guess);
		return;
	}
	if (options->quiet)
		return;

	struct pe_table *table = pe_table_new(titles);

	for (size_t i = 0; i < count; i++) {
		pe_auto_free char *name = pe_demangle(f[i].name);
		char entry[32], size[32], new_size[32];

		snprintf(entry, sizeof(entry), "0x%" PRIx64, f[i].entry);
		snprintf(size, sizeof(size), "%" PRIu64, f[i].size);
		snprintf(new_size, sizeof(new_size), "%" PRIu64, f[i].new_size);
		pe_table_row(table, (const char *const[]){ name, entry, size, new_size,
							   pe_cli_entry_now(&f[i]) });
	}
	pe_table_print_and_free(table);
	pe_cli_print_replaced(plan);
	printf("%s can be applied to process %d: %zu function%s, %s of memory, a pause of about "
	       "%s\n",
	       patch->name, options->pid, count, count == 1 ? "" : "s",
	       pe_format_bytes(pe_plan_memory(plan), memory), pe_format_us(guess->us, pause));
	for (size_t i = 0; i < blockers->count; i++)
		printf("thread %d may be in %s now\n", blockers->items[i].tid,
		       pe_plan_tag_name(plan, blockers->items[i].tag));
}

/* ---- results ---- */

void care_patch_print_already(const struct care_patch_options *options, const char *name)
{
	if (options->json)
		pe_cli_json(json_pack("{s:s, s:s, s:i}", "action", "already applied", "name", name,
				      "pid", (int)options->pid));
	else if (!options->quiet)
		printf("already applied: %s in process %d\n", name, options->pid);
}

static json_t *parts_json(const struct pe_pause_parts *parts)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "interrupt_us",
			 (json_int_t)parts->interrupt_us, "wait_us", (json_int_t)parts->wait_us,
			 "look_us", (json_int_t)parts->look_us, "list_us",
			 (json_int_t)parts->list_us, "check_us", (json_int_t)parts->check_us,
			 "commit_us", (json_int_t)parts->commit_us, "detach_us",
			 (json_int_t)parts->detach_us);
}

void care_patch_print_result(const struct care_patch_options *options, const char *action,
			     const char *name, const struct pe_switch_result *result)
{
	char pause[32], operation[32];

	if (options->json) {
		pe_cli_json(json_pack(
			"{s:s, s:s, s:i, s:I, s:o, s:I, s:I, s:I, s:i, s:b, s:b, "
			"s:s?, s:o}",
			"action", action, "name", name, "pid", (int)options->pid, "pause_us",
			(json_int_t)result->pause_us, "pause_parts", parts_json(&result->parts),
			"predicted_us", (json_int_t)result->predicted_us, "operation_us",
			(json_int_t)result->operation_us, "threads", (json_int_t)result->threads,
			"attempts", (int)result->attempts, "fifo_refused",
			(int)result->fifo_refused, "memory_kept", (int)result->memory_kept, "note",
			result->note, "replaced",
			pe_cli_json_strings((const char *const *)result->replaced,
					    result->replaced_count)));
		return;
	}
	if (options->quiet)
		return;
	printf("%s %s in process %d: pause %s, %zu threads, %s in all\n", name, action,
	       options->pid, pe_format_us(result->pause_us, pause), result->threads,
	       pe_format_us(result->operation_us, operation));
	for (size_t i = 0; i < result->replaced_count; i++)
		printf("replaced in the same switch: %s\n", result->replaced[i]);
	if (result->note)
		printf("note: %s\n", result->note);
	if (result->fifo_refused)
		printf("note: real-time priority was refused; the pause may have been longer\n");
}

/* ---- info ---- */

static json_t *json_applied(const struct pe_applied *a)
{
	json_t *functions = json_array(), *cves = json_array();
	char build_id[2 * PE_BUILD_ID_MAX + 1];

	pe_build_id_hex(&a->build_id, build_id);
	for (size_t i = 0; i < a->function_count; i++)
		json_array_append_new(functions, json_string(a->functions[i]));
	for (size_t i = 0; i < a->cve_count; i++)
		json_array_append_new(cves,
				      json_pack("{s:s, s:s?, s:s?}", "id", a->cves[i].id, "cvss",
						a->cves[i].cvss, "url", a->cves[i].url));
	return json_pack("{s:s, s:s, s:i, s:b, s:s?, s:o, s:o, s:s, s:o, s:I, s:I, s:I, s:I, s:b, "
			 "s:I, s:I}",
			 "name", a->name, "state", pe_state_name(a->state), "level", (int)a->level,
			 "independent", (int)a->independent, "description", a->description, "cves",
			 cves, "functions", functions, "build_id", build_id, "address",
			 json_address(a->start), "size", (json_int_t)a->size, "sequence",
			 (json_int_t)a->sequence, "applied_at", (json_int_t)a->applied_at,
			 "pause_us", (json_int_t)a->pause_us, "inherited", (int)a->inherited,
			 "old_threads", (json_int_t)a->old_threads, "running_threads",
			 (json_int_t)a->running_threads);
}

static bool wanted(const struct care_patch_options *options, const struct pe_applied *a)
{
	return !options->what || !strcmp(options->what, a->name);
}

void care_patch_print_applied(const struct care_patch_options *options,
			      const struct pe_applied_list *list)
{
	static const char *const titles[] = { ">SEQ",	 "PATCH",  "STATE", ">FUNCTIONS",
					      ">MEMORY", ">PAUSE", "SINCE", NULL };

	if (options->json) {
		json_t *patches = json_array();

		for (size_t i = 0; i < list->count; i++)
			if (wanted(options, &list->items[i]))
				json_array_append_new(patches, json_applied(&list->items[i]));
		pe_cli_json(json_pack("{s:i, s:o}", "pid", (int)options->pid, "patches", patches));
		return;
	}

	struct pe_table *table = pe_table_new(titles);
	size_t rows = 0;

	for (size_t i = 0; i < list->count; i++) {
		const struct pe_applied *a = &list->items[i];
		char sequence[32], functions[32], memory[32], pause[32], since[32] = "-";
		time_t at = (time_t)a->applied_at;
		struct tm tm;

		if (!wanted(options, a))
			continue;
		if (at && localtime_r(&at, &tm))
			strftime(since, sizeof(since), "%F %T", &tm);
		snprintf(sequence, sizeof(sequence), "%" PRIu64, a->sequence);
		snprintf(functions, sizeof(functions), "%zu", a->function_count);
		pe_table_row(table,
			     (const char *const[]){ sequence, a->name, pe_state_name(a->state),
						    functions, pe_format_bytes(a->size, memory),
						    pe_format_us(a->pause_us, pause), since });
		rows++;
	}
	if (!rows) {
		printf("no patch is applied to process %d\n", options->pid);
		return;
	}
	pe_table_print_and_free(table);
	for (size_t i = 0; i < list->count; i++)
		if (wanted(options, &list->items[i]))
			pe_cli_print_old_frames(&list->items[i]);
}

void care_patch_print_recovery(const struct care_patch_options *options,
			       const struct pe_recovery *recovery)
{
	if (options->json)
		pe_cli_json(json_pack("{s:i, s:I, s:I, s:I, s:s}", "pid", (int)options->pid,
				      "finished", (json_int_t)recovery->finished, "undone",
				      (json_int_t)recovery->undone, "released",
				      (json_int_t)recovery->released, "text", recovery->text));
	else if (!options->quiet)
		printf("%s\n", recovery->text);
}

/* ---- failures ---- */

int care_patch_fail(const struct care_patch_options *options, struct pe_error *err,
		    const struct pe_switch_result *result)
{
	if (!options->json || !result->blockers.count)
		return pe_cli_fail("care-patch", err, options->json);

	pe_auto_free char *text = pe_error_text(err);
	int status = pe_code_exit_status(err->code);
	json_t *blockers = json_array();

	for (size_t i = 0; i < result->blockers.count; i++)
		json_array_append_new(
			blockers, json_pack("{s:i, s:s}", "tid", (int)result->blockers.items[i].tid,
					    "function", result->blocking_functions[i]));
	pe_cli_json(json_pack("{s:{s:s, s:s, s:s, s:i, s:o}}", "error", "code",
			      pe_code_name(err->code), "message", text ? text : "", "advice",
			      pe_code_advice(err->code), "exit", status, "blockers", blockers));
	pe_error_free(err);
	return status;
}

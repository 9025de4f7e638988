/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is applied to a process, as its ledgers tell it, in the form that the users print. */
#include "internal.h"

#include <jansson.h>
#include <string.h>

#include "engine/cleanup.h"

static char *copy_string(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? strdup(text) : NULL;
}

static struct pe_error *read_cves(const json_t *list, struct pe_applied *ret)
{
	size_t count = json_array_size(list);

	if (!count)
		return NULL;
	ret->cves = calloc(count, sizeof(*ret->cves));
	if (!ret->cves)
		return pe_error_nomem();
	for (size_t i = 0; i < count; i++) {
		const json_t *item = json_array_get(list, i);
		struct pe_patch_cve *cve = &ret->cves[ret->cve_count++];

		cve->id = copy_string(item, "id");
		cve->cvss = copy_string(item, "cvss");
		cve->url = copy_string(item, "url");
		if (!cve->id)
			cve->id = strdup("?");
	}
	return NULL;
}

/* What the ledger says of its own code is believed as far as it stays inside. */
static struct pe_error *add_symbol(const struct ledger *ledger, const char *name,
				   const char *suffix, uint64_t address, uint64_t size,
				   struct pe_applied *ret)
{
	uint64_t offset = address - ledger->start, room = ledger->header.text_size;
	struct pe_applied_symbol *symbol = &ret->symbols[ret->symbol_count];

	if (!name || offset >= room || size > room - offset)
		return NULL;
	if (asprintf(&symbol->name, "%s%s", name, suffix) < 0)
		return pe_error_nomem();
	symbol->address = address;
	symbol->size = size;
	ret->symbol_count++;
	return NULL;
}

static struct pe_error *read_symbols(const struct ledger *ledger, const json_t *list,
				     struct pe_applied *ret)
{
	const struct ledger_header *h = &ledger->header;
	size_t count = json_array_size(list);
	struct pe_error *err = NULL;

	ret->symbols = calloc(h->start_count + h->function_count + 1UL, sizeof(*ret->symbols));
	if (!ret->symbols)
		return pe_error_nomem();
	for (size_t i = 0; !err && i < h->start_count && i < count; i++) {
		const json_t *item = json_array_get(list, i);

		err = add_symbol(ledger, json_string_value(json_array_get(item, 0)), "",
				 ledger->starts[i],
				 (uint64_t)json_integer_value(json_array_get(item, 1)), ret);
	}
	for (size_t i = 0; !err && (h->flags & LEDGER_SELECT) && i < h->function_count; i++)
		err = add_symbol(ledger, ledger->function_names[i], ".care_entry",
				 ledger->functions[i].target, PE_STUB_MAX, ret);
	return err;
}

static struct pe_error *applied_init(const struct pe_target *target, const struct ledger *ledger,
				     struct pe_applied *ret)
{
	const struct ledger_header *h = &ledger->header;

	*ret = (struct pe_applied){
		.name = strdup(ledger->name),
		.state = h->variable.state,
		.level = h->level,
		.independent = h->flags & LEDGER_INDEPENDENT,
		.functions = calloc(h->own_count, sizeof(char *)),
		.build_id = ledger->images[0].build_id,
		.start = ledger->start,
		.size = ledger->end - ledger->start,
		.text_size = h->text_size,
		.machine = (uint16_t)h->machine,
		.sequence = h->sequence,
		.applied_at = h->variable.applied_at,
		.pause_us = h->variable.pause_us,
		.inherited = h->pid != pe_target_pid(target) ||
			     h->start_time != pe_target_start_time(target),
	};
	if (!ret->name || !ret->functions)
		return pe_error_nomem();
	ret->function_count = h->own_count;
	for (size_t i = 0; i < ret->function_count; i++) {
		ret->functions[i] = strdup(ledger->function_names[i]);
		if (!ret->functions[i])
			return pe_error_nomem();
	}

	struct pe_error *err = NULL;

	if (ret->state == PE_STATE_SETTLING || ret->state == PE_STATE_REVERTED)
		err = old_frames(target, ledger, &ret->old_threads, &ret->running_threads);
	if (err)
		return err;
	if (h->eh_frame < h->unwind_size && h->unwind_tables >= ledger->start &&
	    h->unwind_tables <= ledger->end && h->unwind_size <= ledger->end - h->unwind_tables) {
		ret->eh_frame = h->unwind_tables + h->eh_frame;
		ret->eh_frame_size = h->unwind_size - h->eh_frame;
	}

	json_t *root = json_loads(ledger->json, 0, NULL);

	err = read_cves(json_object_get(root, "cves"), ret);

	if (!err)
		err = read_symbols(ledger, json_object_get(root, "symbols"), ret);
	ret->description = copy_string(root, "description");
	json_decref(root);
	return err;
}

struct pe_error *pe_applied_read(const struct pe_target *target, struct pe_applied_list *ret)
{
	struct ledgers ledgers;

	*ret = (struct pe_applied_list){ 0 };

	struct pe_error *err = ledgers_read(target, &ledgers);
	if (err)
		return err;
	ret->items = calloc(ledgers.count + 1, sizeof(*ret->items));
	if (!ret->items)
		err = pe_error_nomem();
	for (size_t i = 0; !err && i < ledgers.count; i++)
		if (ledgers.items[i].complete)
			err = applied_init(target, &ledgers.items[i], &ret->items[ret->count++]);
	ledgers_deinit(&ledgers);
	if (err)
		pe_applied_list_deinit(ret);
	return err;
}

static void applied_deinit(struct pe_applied *applied)
{
	for (size_t i = 0; i < applied->cve_count; i++) {
		free(applied->cves[i].id);
		free(applied->cves[i].cvss);
		free(applied->cves[i].url);
	}
	for (size_t i = 0; i < applied->function_count; i++)
		free(applied->functions[i]);
	for (size_t i = 0; i < applied->symbol_count; i++)
		free(applied->symbols[i].name);
	free(applied->symbols);
	free(applied->cves);
	free(applied->functions);
	free(applied->description);
	free(applied->name);
}

void pe_applied_list_deinit(struct pe_applied_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		applied_deinit(&list->items[i]);
	free(list->items);
	*list = (struct pe_applied_list){ 0 };
}

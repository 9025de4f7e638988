/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replacing: a new patch takes the place of applied ones in one switch, so that no thread ever
 * meets a function without either.
 *
 * The new ledger has an entry for every function of old ∪ new. All entries are pointed at the new
 * patch's stubs, which lead to where the old patch led; then one aligned word switches them all.
 * Functions that only an old patch has lead to the code below from then on; they pass through, and
 * get their bytes back in the same stop. With a single entry, its one write is the commit.
 *
 *	before the commit	whoever comes next undoes it: the old jumps (`previous`) come back
 *	after it		whoever comes next finishes it (replace_finish)
 *
 * The old ledgers stay as they are until the commit, and are marked as reverted after it.
 */
#include "internal.h"

#include <string.h>

#include "engine/cleanup.h"

/* ---- which ---- */

bool plan_replaces(const struct pe_plan *plan, const struct ledger *ledger)
{
	for (size_t i = 0; i < plan->replaced_count; i++)
		if (plan->replaced[i] == ledger)
			return true;
	return false;
}

static bool is_applied(const struct ledger *ledger)
{
	return ledger && (ledger->header.variable.state == PE_STATE_APPLIED ||
			  ledger->header.variable.state == PE_STATE_SETTLING);
}

static bool is_named(const struct pe_plan *plan, const char *name)
{
	for (size_t i = 0; i < plan->replace_count; i++)
		if (!strcmp(plan->replace_names[i], name))
			return true;
	return false;
}

static void add(struct pe_plan *plan, const struct ledger *ledger)
{
	if (!plan_replaces(plan, ledger))
		plan->replaced[plan->replaced_count++] = ledger;
}

static struct pe_error *already(const struct pe_target *target, const struct pe_plan *plan)
{
	const char *name = plan->patch->name;

	for (size_t i = 0; i < plan->replace_count; i++)
		if (strcmp(plan->replace_names[i], name) != 0 &&
		    is_applied(ledgers_find(&plan->ledgers, plan->replace_names[i])))
			return pe_error_new(PE_ERR_UNSUPPORTED,
					    "patch %s is already applied to process %d beside %s: "
					    "revert %s by itself",
					    name, pe_target_pid(target), plan->replace_names[i],
					    plan->replace_names[i]);
	return pe_error_new(PE_ERR_NOTHING, "patch %s is already applied to process %d", name,
			    pe_target_pid(target));
}

/* The one of the same name: replaced by a higher level, or when the caller says so. */
static struct pe_error *find_same(const struct pe_target *target, struct pe_plan *plan)
{
	const struct pe_patch *patch = plan->patch;
	const struct ledger *same = ledgers_find(&plan->ledgers, patch->name);

	if (!is_applied(same))
		return NULL;
	if (!memcmp(same->header.patch_sha256, plan->patch_sha256, sizeof(plan->patch_sha256)))
		return already(target, plan);
	if (patch->level > same->header.level || is_named(plan, patch->name)) {
		add(plan, same);
		return NULL;
	}
	if (patch->level == same->header.level)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "another patch %s of the same level %u is applied to process "
				    "%d: revert it first, raise the level of this one, or "
				    "--replace %s",
				    same->name, same->header.level, pe_target_pid(target),
				    same->name);
	return pe_error_new(PE_ERR_UNSUPPORTED,
			    "patch %s is applied to process %d with the higher level %u, this file "
			    "has level %u: revert it first, or --replace %s to go back",
			    same->name, pe_target_pid(target), same->header.level, patch->level,
			    same->name);
}

/* A patch that stays and has overwritten an entry of a replaced one. */
static struct pe_error *check_nothing_above(const struct pe_plan *plan, const struct ledger *below)
{
	const struct ledgers *ledgers = &plan->ledgers;

	for (size_t i = 0; i < ledgers->count; i++) {
		const struct ledger *above = &ledgers->items[i];

		if (!plan_replaces(plan, above) && ledger_stands_on(above, below))
			return pe_error_new(PE_ERR_BUSY,
					    "patch %s (level %u) cannot be replaced: %s stands on "
					    "it; revert %s first, or --replace it too",
					    below->name, below->header.level, above->name,
					    above->name);
	}
	return NULL;
}

struct pe_error *plan_find_replaced(struct pe_target *target, struct pe_plan *plan)
{
	plan->replaced = calloc(plan->replace_count + 1, sizeof(const struct ledger *));
	if (!plan->replaced)
		return pe_error_nomem();

	struct pe_error *err = find_same(target, plan);

	for (size_t i = 0; !err && i < plan->replace_count; i++) {
		const struct ledger *named = ledgers_find(&plan->ledgers, plan->replace_names[i]);

		if (is_applied(named))
			add(plan, named);
		else
			err = pe_error_new(PE_ERR_NO_TARGET,
					   "no patch %s is applied to process %d, nothing to "
					   "replace",
					   plan->replace_names[i], pe_target_pid(target));
	}
	for (size_t i = 0; !err && i < plan->replaced_count; i++)
		err = check_nothing_above(plan, plan->replaced[i]);
	return err;
}

/* ---- functions that only they have ---- */

static bool has_entry(const struct pe_plan *plan, uint64_t patched)
{
	for (size_t i = 0; i < plan->function_count; i++)
		if (plan->functions[i].patched == patched)
			return true;
	return false;
}

/* Index in ledger_images, which has room for one more. */
static uint32_t image_index(struct pe_plan *plan, const struct ledger_image *image)
{
	for (size_t i = 0; i < plan->image_count; i++)
		if (plan->ledger_images[i].start == image->start)
			return (uint32_t)i;
	plan->ledger_images[plan->image_count] = *image;
	return (uint32_t)plan->image_count++;
}

static uint64_t body_size(const struct ledger *ledger, size_t function)
{
	for (size_t i = 0; i < ledger->header.range_count; i++)
		if (ledger->ranges[i].function == function &&
		    ledger->ranges[i].start == ledger->functions[function].entry)
			return ledger->ranges[i].end - ledger->ranges[i].start;
	return 0;
}

static struct pe_error *pass_through(struct pe_plan *plan, const struct ledger *ledger,
				     struct pe_plan_replaced *shown)
{
	*shown = (struct pe_plan_replaced){
		.name = ledger->name,
		.level = ledger->header.level,
		.dropped = calloc(ledger->header.own_count, sizeof(const char *)),
	};
	if (!shown->dropped)
		return pe_error_nomem();
	for (size_t i = 0; i < ledger_entries(ledger); i++) {
		const struct ledger_function *old = &ledger->functions[i];

		if (!ledger_entry_exists(ledger, i) || has_entry(plan, old->patched))
			continue;
		plan->functions[plan->function_count++] = (struct plan_function){
			.name = ledger->function_names[i],
			.image = image_index(plan, &ledger->images[old->image]),
			.entry = old->entry,
			.patched = old->patched,
			.body_size = body_size(ledger, i),
		};
		shown->dropped[shown->dropped_count++] = ledger->function_names[i];
	}
	return NULL;
}

struct pe_error *plan_pass_through(struct pe_plan *plan)
{
	size_t functions = plan->function_count, images = plan->patch->target_count;
	struct pe_error *err = NULL;

	for (size_t i = 0; i < plan->replaced_count; i++) {
		functions += plan->replaced[i]->header.own_count;
		images += plan->replaced[i]->header.image_count;
	}

	struct plan_function *bigger =
		reallocarray(plan->functions, functions, sizeof(*plan->functions));

	if (!bigger)
		return pe_error_nomem();
	plan->functions = bigger;
	plan->ledger_images = calloc(images, sizeof(*plan->ledger_images));
	plan->shown_replaced = calloc(plan->replaced_count + 1, sizeof(*plan->shown_replaced));
	if (!plan->ledger_images || !plan->shown_replaced)
		return pe_error_nomem();
	for (size_t i = 0; i < plan->patch->target_count; i++)
		plan->ledger_images[plan->image_count++] =
			(struct ledger_image){ .start = plan->targets[i]->start,
					       .end = plan->targets[i]->end,
					       .build_id = plan->targets[i]->build_id };
	for (size_t i = 0; !err && i < plan->replaced_count; i++)
		err = pass_through(plan, plan->replaced[i], &plan->shown_replaced[i]);
	return err;
}

/* ---- what stands at an entry, and below ---- */

static bool has_jump(const struct ledger *ledger, uint64_t patched, const uint8_t *bytes,
		     const struct ledger_function **ret)
{
	for (size_t i = 0; i < ledger_entries(ledger); i++) {
		*ret = &ledger->functions[i];
		if ((*ret)->patched == patched && !memcmp(bytes, (*ret)->jump, (*ret)->size))
			return true;
	}
	return false;
}

void plan_peel(struct pe_plan *plan, struct plan_function *f)
{
	memcpy(f->original, f->previous, sizeof(f->original));
	/* The latest is at the top. */
	for (size_t i = plan->ledgers.count; i-- > 0;) {
		const struct ledger *ledger = &plan->ledgers.items[i];
		const struct ledger_function *function;

		if (!ledger_is_live(ledger) ||
		    !has_jump(ledger, f->patched, f->original, &function))
			continue;
		if (!plan_replaces(plan, ledger)) {
			f->stacked = true;
			f->below = function->target;
			return;
		}
		if (!f->replaced)
			f->leads = function->target;
		f->replaced = true;
		memcpy(f->original, function->original, function->size);
	}
}

/* ---- after the commit ---- */

struct pe_error *replace_restore(struct pe_target *target, const struct ledger *ledger)
{
	struct pe_error *err = NULL;

	for (size_t i = ledger->header.own_count; !err && i < ledger->header.function_count; i++)
		if (ledger_entry_exists(ledger, i))
			err = pe_target_write(target, ledger->functions[i].patched,
					      ledger->functions[i].original,
					      ledger->functions[i].size);
	return err;
}

static struct pe_error *commit_restore(struct pe_target *target, void *ctx)
{
	return replace_restore(target, ctx);
}

static struct pe_error *is_restored(struct pe_target *target, const struct ledger *ledger,
				    bool *ret)
{
	*ret = true;
	for (size_t i = ledger->header.own_count; i < ledger->header.function_count; i++) {
		const struct ledger_function *f = &ledger->functions[i];
		uint8_t bytes[PE_JUMP_MAX];

		if (!ledger_entry_exists(ledger, i))
			continue;
		struct pe_error *err = pe_target_read(target, f->patched, bytes, f->size);
		if (err)
			return err;
		if (memcmp(bytes, f->original, f->size) != 0)
			*ret = false;
	}
	return NULL;
}

static struct pe_error *mark_reverted(struct pe_target *target, const struct ledger *by,
				      struct ledgers *ledgers)
{
	struct pe_error *err = NULL;

	for (size_t i = 0; !err && i < ledgers->count; i++) {
		struct ledger *ledger = &ledgers->items[i];

		for (size_t r = 0; !err && r < by->header.replaced_count; r++)
			if (ledger->complete && ledger->header.sequence == by->replaced[r])
				err = ledger_write_state(target, ledger, PE_STATE_REVERTED);
	}
	return err;
}

struct pe_error *replace_finish(struct pe_target *target, struct ledger *ledger,
				struct ledgers *ledgers, uint64_t deadline)
{
	const struct switch_job job = { .commit = commit_restore, .ctx = ledger };
	struct pe_switch_result result = { 0 };
	bool restored;

	if (!ledger->header.variable.replacing)
		return NULL;
	struct pe_error *err = is_restored(target, ledger, &restored);

	/* Threads that stand at such an entry are between instructions of both versions. */
	if (!err && !restored)
		err = switch_run(target, &job, NULL, deadline, &result, NULL);
	pe_switch_result_deinit(&result);
	if (!err)
		err = mark_reverted(target, ledger, ledgers);
	if (err)
		return err;
	ledger->header.variable.replacing = 0;
	return ledger_write_field(target, ledger, replacing);
}

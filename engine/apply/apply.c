/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Applying: recover what a dead patcher left → plan again under the lock → stage → switch → settle.
 *
 * Entries lead straight to the new functions where one write is the commit (a single function) or
 * where none is needed (independent functions). Otherwise they lead to stubs that obey the commit
 * word, which is written last. What the patch replaces goes in the same switch (replace.c).
 */
#include "internal.h"

#include <time.h>

#include "engine/cleanup.h"

struct forth {
	const struct pe_plan *plan;
	struct ledger *ledger;
	struct entries entries;
};

/*
 * The wait for this stop may have been long. The program and what came with it stay; of a library
 * that was loaded later, addresses are used that the plan found.
 */
static struct pe_error *check_libraries(struct pe_target *target, const struct pe_plan *plan)
{
	const struct pe_link_map *before = &plan->images.link_map;

	for (size_t i = 0; i < plan->patch->target_count; i++) {
		const struct pe_loaded_image *image = plan->targets[i];

		if (image->is_program)
			continue;

		struct pe_link_map now = pe_link_map_again(target, before);

		if (now.loading)
			return pe_error_new(PE_ERR_BUSY, "process %d loads or unloads a library",
					    pe_target_pid(target));
		if (now.digest != before->digest || !pe_loaded_image_is_there(target, image))
			return pe_error_new(PE_ERR_CHANGED,
					    "process %d has loaded or unloaded a library meanwhile",
					    pe_target_pid(target));
	}
	return NULL;
}

static struct pe_error *write_forth(struct pe_target *target, void *ctx)
{
	struct forth *forth = ctx;
	struct ledger *ledger = forth->ledger;
	struct pe_error *err = check_libraries(target, forth->plan);

	if (!err)
		err = entries_check(target, &forth->entries);
	if (!err)
		err = entries_write(target, &forth->entries);
	if (!err && (ledger->header.flags & LEDGER_SELECT))
		err = ledger_write_commit(target, ledger, 1);
	/* It is committed: what fails now is done by replace_finish. */
	if (!err)
		pe_error_free(replace_restore(target, ledger));
	return err;
}

static const char *range_name(void *ctx, uint32_t tag)
{
	struct forth *forth = ctx;

	return pe_plan_tag_name(forth->plan, tag);
}

static struct pe_error *record(struct pe_target *target, struct ledger *ledger,
			       const struct pe_switch_result *result)
{
	struct ledger_variable *v = &ledger->header.variable;

	v->applied_at = time(NULL);
	v->pause_us = result->pause_us;
	v->threads = (uint32_t)result->threads;

	struct pe_error *err = ledger_write_field(target, ledger, applied_at);

	if (!err)
		err = ledger_write_field(target, ledger, pause_us);
	if (!err)
		err = ledger_write_field(target, ledger, threads);
	return err;
}

/* Threads that have just been let go count as running for a moment: look again. */
static struct pe_error *wait_settled(struct pe_target *target, struct ledger *ledger, bool *done,
				     size_t *threads)
{
	const uint64_t longest_us = 8000;

	for (uint64_t wait = 500;; wait *= 2) {
		size_t unknown;
		struct pe_error *err = settled(target, ledger, done, threads, &unknown);

		if (err || *done || *threads || wait > longest_us)
			return err;
		pe_target_sleep(target, wait);
	}
}

static struct pe_error *settle(struct pe_target *target, struct ledger *ledger,
			       struct pe_switch_result *result)
{
	bool done = true;
	size_t threads = 0;
	struct pe_error *err = NULL;

	if (ledger->header.flags & LEDGER_INDEPENDENT) {
		err = ledger_write_state(target, ledger, PE_STATE_SETTLING);
		if (!err)
			err = wait_settled(target, ledger, &done, &threads);
	}
	if (!err && done)
		err = ledger_write_state(target, ledger, PE_STATE_APPLIED);
	if (!err && threads)
		note_add(&result->note,
			 "%zu thread%s may be in a call of the old code still, and the patch is "
			 "not in force there until that ends, if it ever does: info shows it as "
			 "settling",
			 threads, threads == 1 ? "" : "s");
	return err;
}

/* After a switch that failed, perhaps half way: everything back, nothing left behind. */
static void abandon(struct pe_target *target, struct ledger *ledger)
{
	const uint64_t patience_us = 5000000;
	struct pe_recovery recovery = { 0 };
	pe_auto_error struct pe_error *err =
		recover_locked(target, pe_now_us() + patience_us, &recovery);

	pe_recovery_deinit(&recovery);
}

static struct pe_error *tell_replaced(const struct pe_plan *plan, struct pe_switch_result *result)
{
	result->replaced = calloc(plan->replaced_count + 1, sizeof(char *));
	if (!result->replaced)
		return pe_error_nomem();
	for (size_t i = 0; i < plan->replaced_count; i++) {
		const struct ledger *old = plan->replaced[i];
		char **text = &result->replaced[result->replaced_count];

		if (asprintf(text, "%s (level %u)", old->name, old->header.level) < 0)
			return pe_error_nomem();
		result->replaced_count++;
	}
	return NULL;
}

/*
 * The memory of what was replaced. The stop of the switch has seen who needs it; if it cannot go
 * now, the next operation tries again.
 */
static void release_replaced(struct pe_target *target, struct pe_plan *plan,
			     const struct stop_view *view, struct pe_switch_result *result)
{
	for (size_t i = 0; i < plan->ledgers.count; i++) {
		struct ledger *old = &plan->ledgers.items[i];
		pe_auto_free char *kept = NULL;

		if (!plan_replaces(plan, old))
			continue;
		struct pe_error *err = release(target, old, view, &kept);
		if (err) {
			kept = pe_error_text(err);
			pe_error_free(err);
		}
		if (!kept)
			continue;
		result->memory_kept = true;
		note_add(&result->note, "the memory of %s level %u (%lu bytes) stays for now: %s",
			 old->name, old->header.level, (unsigned long)(old->end - old->start),
			 kept);
	}
}

static struct pe_error *after_switch(struct pe_target *target, struct pe_plan *plan,
				     struct ledger *ledger, const struct pe_apply_options *options,
				     uint64_t deadline, const struct stop_view *view,
				     struct pe_switch_result *result)
{
	report(options, "switched");

	struct pe_error *err = tell_replaced(plan, result);

	if (!err)
		err = record(target, ledger, result);
	if (!err)
		err = replace_finish(target, ledger, &plan->ledgers, deadline);
	if (!err)
		err = settle(target, ledger, result);
	if (!err && plan->replaced_count) {
		report(options, "releasing what was replaced");
		release_replaced(target, plan, view, result);
	}
	/* It is applied; what could not be written down will be by the next one. */
	if (err && err->code != PE_ERR_DIED) {
		pe_auto_free char *text = pe_error_text(err);

		note_add(&result->note, "%s", text ? text : "?");
		pe_error_free(err);
		err = NULL;
	}
	return err;
}

static struct pe_error *prepare_forth(struct pe_target *target, struct forth *forth)
{
	const struct ledger *ledger = forth->ledger;

	for (size_t i = 0; i < ledger_entries(ledger); i++) {
		const struct ledger_function *f = &ledger->functions[i];

		if (!entries_add(&forth->entries, f->patched, f->previous, f->jump, f->size))
			return pe_error_nomem();
	}
	return entries_prepare(target, &forth->entries);
}

static struct pe_error *switch_over(struct pe_target *target, struct pe_plan *plan,
				    struct ledger *ledger, const struct pe_apply_options *options,
				    uint64_t deadline, struct pe_switch_result *result)
{
	struct forth forth = { .plan = plan, .ledger = ledger };
	struct stop_view view = { 0 };
	const struct switch_job job = {
		.ranges = plan->ranges,
		.range_count = plan->range_count,
		.match = plan->match,
		.check = true,
		.stacks = plan->stacks,
		.commit = write_forth,
		.ctx = &forth,
		.watch = plan->replaced,
		.watch_count = plan->replaced_count,
		.watch_checked = plan->dependent,
		.range_name = range_name,
	};
	struct pe_error *err = stage_register_unwind(target, ledger, deadline);

	if (!err)
		err = prepare_forth(target, &forth);
	if (!err)
		err = ledger_write_state(target, ledger, PE_STATE_SWITCHING);
	if (!err)
		err = switch_run(target, &job, options, deadline, result, &view);
	cancel_forbid();
	if (err)
		abandon(target, ledger);
	else
		err = after_switch(target, plan, ledger, options, deadline, &view, result);
	stop_view_deinit(&view);
	entries_deinit(&forth.entries);
	return err;
}

static struct pe_error *check_pause(struct pe_target *target, const struct pe_plan *plan,
				    const struct pe_apply_options *options,
				    struct pe_switch_result *result)
{
	struct pe_threads threads = { 0 };
	struct pe_error *err = pe_target_threads(target, &threads);

	if (err)
		return err;
	uint64_t most = options ? options->max_pause_us : 0;
	struct pe_pause_guess guess;

	/* Only where somebody relies on it are threads stopped to know better. */
	predict_pause(target, &plan->ledgers, most ? &threads : NULL, threads.count, &guess);
	result->predicted_us = guess.us;
	pe_threads_deinit(&threads);
	if (most && guess.us > most)
		return pe_error_new(
			PE_ERR_BUSY,
			"the pause would be about %lu µs, more than the allowed %lu µs (%s)",
			(unsigned long)guess.us, (unsigned long)most, guess.from);
	return NULL;
}

static struct pe_error *apply_locked(struct pe_target *target, const struct pe_plan *wanted,
				     const struct pe_apply_options *options, uint64_t deadline,
				     struct pe_switch_result *result)
{
	struct pe_recovery recovery = { 0 };
	struct pe_plan *plan = NULL;
	struct ledger ledger = { 0 };
	struct pe_error *err = recover_locked(target, deadline, &recovery);

	if (recovery.text)
		note_add(&result->note, "%s", recovery.text);
	pe_recovery_deinit(&recovery);
	/* What the caller's plan knew may be old: only under the lock is it certain. */
	if (!err)
		err = pe_plan_create_replacing(target, wanted->patch, wanted->replace_names,
					       wanted->replace_count, &plan);
	if (!err)
		err = check_pause(target, plan, options, result);
	if (!err)
		err = plan_call_resolvers(target, plan, deadline);
	if (!err) {
		report(options, "staging %lu bytes", (unsigned long)pe_plan_memory(plan));
		err = stage(target, plan, deadline, &ledger, &result->note);
	}
	if (!err) {
		if (plan->unwind_note)
			note_add(&result->note, "%s", plan->unwind_note);
		report(options, "staged; switching");
		err = switch_over(target, plan, &ledger, options, deadline, result);
	}
	ledger_deinit(&ledger);
	pe_plan_free(plan);
	return err;
}

struct apply {
	struct pe_target *target;
	const struct pe_plan *plan;
	const struct pe_apply_options *options;
	struct pe_switch_result *result;
};

static struct pe_error *apply(void *ctx)
{
	const struct apply *a = ctx;
	uint64_t start = pe_now_us(), deadline = options_deadline(a->options);
	sigset_t signals;
	int lock = -1;

	cancel_begin(a->options, &signals);

	struct pe_error *err = lock_take(a->target, &lock);

	if (!err)
		err = apply_locked(a->target, a->plan, a->options, deadline, a->result);
	lock_release(a->target, &lock);
	cancel_end(a->options, &signals);
	a->result->operation_us = pe_now_us() - start;
	return explain_death(a->target, err);
}

struct pe_error *pe_apply(struct pe_target *target, const struct pe_plan *plan,
			  const struct pe_apply_options *options, struct pe_switch_result *result)
{
	struct apply ctx = { target, plan, options, result };

	*result = (struct pe_switch_result){ 0 };
	return pe_target_trace(target, apply, &ctx);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reverting: the bytes of the entries come back in a stop.
 *
 * The commit of a patch with a commit word is that word; that of one without is its entries. The
 * state REVERTING stands in the ledger before anything is written, so that whoever comes next
 * knows which way to go: the word cleared or an entry restored means on, otherwise back.
 *
 * A patch that was to replace others and is not committed is taken back to them.
 */
#include "internal.h"

#include <string.h>

#include "engine/cleanup.h"

enum entry_bytes { ENTRY_OURS, ENTRY_BELOW };

struct back {
	struct ledger *ledger;
	enum entry_bytes *now; /* at each entry */
	struct entries entries;
};

static void back_deinit(struct back *back)
{
	entries_deinit(&back->entries);
}

static struct pe_error *write_back(struct pe_target *target, void *ctx)
{
	struct back *back = ctx;
	struct ledger *ledger = back->ledger;
	struct pe_error *err = entries_check(target, &back->entries);

	if (!err && (ledger->header.flags & LEDGER_SELECT))
		err = ledger_write_commit(target, ledger, 0);
	return err ? err : entries_write(target, &back->entries);
}

static const char *text_name(void *ctx, uint32_t tag)
{
	struct back *back = ctx;

	/* The whole text of the patch is one range; with one function its name says more. */
	return back->ledger->header.own_count == 1 ? back->ledger->function_names[0]
						   : back->ledger->name;
}

static struct pe_error *read_entries(struct pe_target *target, const struct ledger *ledger,
				     enum entry_bytes *entries)
{
	for (size_t i = 0; i < ledger_entries(ledger); i++) {
		const struct ledger_function *f = &ledger->functions[i];
		uint8_t bytes[PE_JUMP_MAX];

		entries[i] = ENTRY_BELOW;
		if (!ledger_entry_exists(ledger, i))
			continue;
		struct pe_error *err = pe_target_read(target, f->patched, bytes, f->size);
		if (err)
			return err;
		if (!memcmp(bytes, f->jump, f->size))
			entries[i] = ENTRY_OURS;
		else if (memcmp(bytes, ledger_bytes_below(ledger, i), f->size) != 0)
			return pe_error_new(PE_ERR_UNSUPPORTED,
					    "the entry of %s (0x%lx) was changed by somebody else: "
					    "%02x %02x %02x",
					    ledger->function_names[i], (unsigned long)f->patched,
					    bytes[0], bytes[1], bytes[2]);
	}
	return NULL;
}

static struct pe_error *prepare_back(struct pe_target *target, struct back *back)
{
	const struct ledger *ledger = back->ledger;
	struct pe_error *err = read_entries(target, ledger, back->now);

	for (size_t i = 0; !err && i < ledger_entries(ledger); i++) {
		const struct ledger_function *f = &ledger->functions[i];

		if (back->now[i] == ENTRY_OURS &&
		    !entries_add(&back->entries, f->patched, f->jump, ledger_bytes_below(ledger, i),
				 f->size))
			err = pe_error_nomem();
	}
	return err ? err : entries_prepare(target, &back->entries);
}

struct pe_error *switch_back(struct pe_target *target, struct ledger *ledger, bool must_be_free,
			     const struct pe_apply_options *options, uint64_t deadline,
			     struct pe_switch_result *result, struct stop_view *view)
{
	const struct pe_range text = { .start = ledger->start,
				       .end = ledger->start + ledger->header.text_size };
	pe_auto_free enum entry_bytes *now = calloc(ledger->header.function_count, sizeof(*now));
	__attribute__((cleanup(back_deinit))) struct back back = { .ledger = ledger, .now = now };
	const struct ledger *const watch = ledger;
	const struct switch_job job = {
		.ranges = &text,
		.range_count = 1,
		.match = PE_MATCH_BODY,
		.check = must_be_free,
		.stacks = true,
		.commit = write_back,
		.ctx = &back,
		.watch = &watch,
		.watch_count = 1,
		.watch_checked = must_be_free,
		.range_name = text_name,
	};
	enum pe_state before = ledger->header.variable.state;
	struct pe_error *err = now ? prepare_back(target, &back) : pe_error_nomem();

	if (!err)
		err = ledger_write_state(target, ledger, PE_STATE_REVERTING);
	if (err)
		return err;
	err = switch_run(target, &job, options, deadline, result, view);
	cancel_forbid();
	if (!err)
		return ledger_write_state(target, ledger, PE_STATE_REVERTED);
	if (err->code == PE_ERR_BUSY || err->code == PE_ERR_CANCELLED ||
	    err->code == PE_ERR_CHANGED)
		pe_error_free(ledger_write_state(target, ledger, before));
	return err;
}

/* A later patch that has overwritten an entry of this one, or NULL. */
static const struct ledger *standing_on(const struct ledgers *ledgers, const struct ledger *below)
{
	for (size_t i = 0; i < ledgers->count; i++)
		if (ledger_stands_on(&ledgers->items[i], below))
			return &ledgers->items[i];
	return NULL;
}

static struct pe_error *revert_ledger(struct pe_target *target, struct ledger *ledger,
				      const struct pe_apply_options *options, uint64_t deadline,
				      struct pe_switch_result *result)
{
	struct stop_view view = { 0 };
	bool must_be_free = !(ledger->header.flags & LEDGER_INDEPENDENT);
	pe_auto_free char *kept = NULL;

	report(options, "reverting %s", ledger->name);
	struct pe_error *err =
		switch_back(target, ledger, must_be_free, options, deadline, result, &view);

	if (!err) {
		report(options, "reverted; releasing its memory");
		err = release(target, ledger, &view, &kept);
	}
	if (!err && kept) {
		result->memory_kept = true;
		note_add(&result->note, "its memory (%lu bytes) stays for now: %s",
			 (unsigned long)(ledger->end - ledger->start), kept);
	}
	stop_view_deinit(&view);
	return err;
}

static struct pe_error *revert_locked(struct pe_target *target, const char *name,
				      const struct pe_apply_options *options, uint64_t deadline,
				      struct pe_switch_result *result)
{
	struct pe_recovery recovery = { 0 };
	struct ledgers ledgers = { 0 };
	struct pe_error *err = recover_locked(target, deadline, &recovery);

	if (recovery.text)
		note_add(&result->note, "%s", recovery.text);
	pe_recovery_deinit(&recovery);
	if (!err)
		err = ledgers_read(target, &ledgers);
	if (err)
		return err;

	struct ledger *ledger = ledgers_find(&ledgers, name);
	const struct ledger *above = ledger ? standing_on(&ledgers, ledger) : NULL;

	if (!ledger)
		err = pe_error_new(PE_ERR_NOTHING, "no patch %s is applied to process %d", name,
				   pe_target_pid(target));
	else if (above)
		err = pe_error_new(PE_ERR_BUSY, "patch %s stands on %s: revert it first",
				   above->name, name);
	else {
		struct pe_pause_guess guess;

		predict_pause(target, &ledgers, NULL, ledger->header.variable.threads, &guess);
		result->predicted_us = guess.us;
		err = revert_ledger(target, ledger, options, deadline, result);
	}
	ledgers_deinit(&ledgers);
	return err;
}

struct revert {
	struct pe_target *target;
	const char *name;
	const struct pe_apply_options *options;
	struct pe_switch_result *result;
};

static struct pe_error *revert(void *ctx)
{
	const struct revert *r = ctx;
	uint64_t start = pe_now_us(), deadline = options_deadline(r->options);
	sigset_t signals;
	int lock = -1;

	cancel_begin(r->options, &signals);

	struct pe_error *err = check_approachable(r->target);

	if (!err)
		err = lock_take(r->target, &lock);
	if (!err)
		err = revert_locked(r->target, r->name, r->options, deadline, r->result);
	lock_release(r->target, &lock);
	cancel_end(r->options, &signals);
	r->result->operation_us = pe_now_us() - start;
	return explain_death(r->target, err);
}

struct pe_error *pe_revert(struct pe_target *target, const char *name,
			   const struct pe_apply_options *options, struct pe_switch_result *result)
{
	struct revert ctx = { target, name, options, result };

	*result = (struct pe_switch_result){ 0 };
	return pe_target_trace(target, revert, &ctx);
}

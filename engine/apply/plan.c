/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The plan: everything that can be known and refused without touching the target.
 *
 *	images by build-id → what is applied → original bytes → outside symbols → layout → room
 *	→ a trial link at that room.
 */
#include "internal.h"

#include <jansson.h>
#include <libgen.h>
#include <openssl/sha.h>
#include <string.h>

#include "engine/cleanup.h"

enum { MAX_DESCRIPTION = 1000, MAX_CVES = 64 };

void pe_plan_free(struct pe_plan *plan)
{
	if (!plan)
		return;
	pe_loaded_images_deinit(&plan->images);
	ledgers_deinit(&plan->ledgers);
	layout_deinit(&plan->layout);
	free(plan->targets);
	free(plan->ledger_images);
	free(plan->functions);
	free(plan->shown);
	free(plan->replaced);
	for (size_t i = 0; plan->shown_replaced && i < plan->replaced_count; i++)
		free(plan->shown_replaced[i].dropped);
	free(plan->shown_replaced);
	free(plan->ranges);
	free(plan->values);
	free(plan->ifunc);
	free(plan->ledger_json);
	free(plan);
}

const struct pe_plan_function *pe_plan_functions(const struct pe_plan *plan, size_t *count)
{
	*count = plan->patch->function_count;
	return plan->shown;
}

const struct pe_patch *pe_plan_patch(const struct pe_plan *plan)
{
	return plan->patch;
}

uint64_t pe_plan_memory(const struct pe_plan *plan)
{
	return layout_size(&plan->layout);
}

const struct pe_plan_replaced *pe_plan_replaced(const struct pe_plan *plan, size_t *count)
{
	*count = plan->replaced_count;
	return plan->shown_replaced;
}

const char *pe_plan_tag_name(const struct pe_plan *plan, uint32_t tag)
{
	if (tag < plan->function_count)
		return plan->functions[tag].name;
	tag -= (uint32_t)plan->function_count;
	if (tag >= plan->replaced_count)
		return "a replaced function";
	/* The whole text of a patch is one range; with one function its name says more. */
	return plan->replaced[tag]->header.own_count == 1 ? plan->replaced[tag]->function_names[0]
							  : plan->replaced[tag]->name;
}

bool pe_plan_needs_stacks(const struct pe_plan *plan)
{
	return plan->stacks;
}

/* ---- images ---- */

static bool same_file_name(const char *path, const char *name)
{
	const char *slash = strrchr(path, '/');
	const char *file = slash ? slash + 1 : path;
	size_t length = strlen(name);

	return !strncmp(file, name, length) && (!file[length] || file[length] == ' ');
}

/* Another build of what the patch is for, to be named in the refusal; or NULL. */
static const struct pe_loaded_image *find_other_build(const struct pe_loaded_images *images,
						      const struct pe_patch_target *wanted)
{
	for (size_t i = 0; i < images->count; i++)
		if (wanted->is_program ? images->items[i].is_program
				       : same_file_name(images->items[i].path, wanted->name))
			return &images->items[i];
	return NULL;
}

static struct pe_error *other_build(const struct pe_plan *plan,
				    const struct pe_patch_target *wanted)
{
	const struct pe_loaded_image *found = find_other_build(&plan->images, wanted);
	char wanted_id[2 * PE_BUILD_ID_MAX + 1], found_id[2 * PE_BUILD_ID_MAX + 1];

	pe_build_id_hex(&wanted->build_id, wanted_id);
	if (!found)
		return pe_error_new(PE_ERR_MISMATCH,
				    "the patch is for %s with build-id %s, which is not loaded in "
				    "the process",
				    wanted->name, wanted_id);
	pe_build_id_hex(&found->build_id, found_id);
	return pe_error_new(PE_ERR_MISMATCH,
			    "the patch is for %s with build-id %s, the process runs build-id %s "
			    "(%s)",
			    wanted->name, wanted_id, *found_id ? found_id : "(none)",
			    found->path ? found->path : "?");
}

/*
 * Of a process whose dynamic linker is at work nothing is certain: what it binds is not bound yet,
 * and a patch would keep the unbound values for ever. It is given a moment.
 */
static struct pe_error *find_loaded_images(struct pe_target *target, struct pe_plan *plan)
{
	const uint64_t patience_us = 2000000, pause_us = 2000;
	uint64_t deadline = pe_now_us() + patience_us;

	for (;;) {
		struct pe_error *err = pe_target_images(target, &plan->images);

		if (err || !plan->images.link_map.loading)
			return err;
		if (pe_now_us() >= deadline)
			return pe_error_new(PE_ERR_BUSY,
					    "the dynamic linker of process %d is at work: it is "
					    "starting, or loads or unloads a library",
					    pe_target_pid(target));
		pe_loaded_images_deinit(&plan->images);
		pe_target_sleep(target, pause_us);
	}
}

static struct pe_error *find_images(struct pe_target *target, struct pe_plan *plan)
{
	const struct pe_patch *patch = plan->patch;
	struct pe_error *err = find_loaded_images(target, plan);

	if (err)
		return err;
	plan->targets = calloc(patch->target_count, sizeof(*plan->targets));
	if (!plan->targets)
		return pe_error_nomem();
	for (size_t i = 0; i < patch->target_count; i++) {
		const struct pe_patch_target *wanted = &patch->targets[i];

		plan->targets[i] = pe_loaded_images_find(&plan->images, &wanted->build_id);
		if (!plan->targets[i])
			return other_build(plan, wanted);
		if (wanted->machine != patch->targets[0].machine)
			return pe_error_new(PE_ERR_UNSUPPORTED,
					    "the patch names two kinds of processors");
	}
	plan->arch = pe_arch_find(patch->targets[0].machine);
	if (!plan->arch)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "this program cannot patch processor type %u",
				    patch->targets[0].machine);
	return NULL;
}

/* ---- what is applied already ---- */

static struct pe_error *check_applied(struct pe_target *target, struct pe_plan *plan)
{
	pe_auto_free void *bytes = NULL;
	size_t size;
	struct pe_error *err = pe_patch_serialize(plan->patch, &bytes, &size);

	if (err)
		return err;
	SHA256(bytes, size, plan->patch_sha256);
	err = ledgers_read(target, &plan->ledgers);
	if (err)
		return err;
	for (size_t i = 0; i < plan->ledgers.count; i++)
		if (plan->ledgers.items[i].header.sequence > plan->sequence)
			plan->sequence = plan->ledgers.items[i].header.sequence;
	plan->sequence++;
	return plan_find_replaced(target, plan);
}

/* ---- functions and ranges ---- */

/*
 * No death of ours may tear an entry, since then all threads run on at once. The kernel writes
 * through /proc/PID/mem page by page (__access_remote_vm): within one page it copies the bytes
 * without looking at signals, so SIGKILL comes before or after, and our tracees are let go only
 * when we have left the system call (exit_ptrace; the thread that traces is the one that writes).
 * Between two pages it does look (fault-in fails with a fatal signal pending), and there is no
 * order of writing the two halves of a jump of which the middle is executable code with the old or
 * the new meaning. So such an entry is refused. Compilers align functions to 16 bytes at -O2,
 * and then none crosses: of 77,000 functions of two mariadbd builds, seven do.
 */
static struct pe_error *crosses_page(const struct plan_function *f)
{
	return pe_error_new(PE_ERR_UNSUPPORTED,
			    "the entry of %s (0x%lx) lies across two pages of memory: a jump "
			    "cannot be written there in one piece",
			    f->function->name, (unsigned long)f->patched);
}

static struct pe_error *find_functions(struct pe_plan *plan)
{
	const struct pe_patch *patch = plan->patch;

	plan->functions = calloc(patch->function_count, sizeof(*plan->functions));
	plan->shown = calloc(patch->function_count, sizeof(*plan->shown));
	if (!plan->functions || !plan->shown)
		return pe_error_nomem();
	plan->function_count = patch->function_count;
	for (size_t i = 0; i < patch->function_count; i++) {
		const struct pe_patch_function *function = &patch->functions[i];
		struct plan_function *f = &plan->functions[i];

		f->function = function;
		f->name = function->name;
		f->image = function->target;
		f->entry_size = function->entry_size;
		f->bias = plan->targets[function->target]->bias;
		f->entry = f->bias + function->ranges[0].vaddr;
		f->patched = f->entry + function->entry_skip;
		if (function->entry_size < plan->arch->jump_size ||
		    function->entry_skip + (uint64_t)function->entry_size >
			    function->ranges[0].size)
			return pe_error_new(PE_ERR_UNSUPPORTED, "%s is too short for a jump",
					    function->name);
		if (f->patched % PE_PAGE + plan->arch->jump_size > PE_PAGE)
			return crosses_page(f);
	}
	return NULL;
}

static void show_functions(struct pe_plan *plan)
{
	for (size_t i = 0; i < plan->patch->function_count; i++) {
		const struct pe_patch_function *function = &plan->patch->functions[i];
		struct pe_plan_function *shown = &plan->shown[i];

		*shown = (struct pe_plan_function){
			.name = function->name,
			.entry = plan->functions[i].entry,
			.new_size = plan->patch->symbols[function->symbol].size,
			.patched_already = plan->functions[i].stacked,
			.replaced = plan->functions[i].replaced,
		};
		for (size_t r = 0; r < function->range_count; r++)
			shown->size += function->ranges[r].size;
	}
}

static struct pe_error *add_range(struct pe_plan *plan, uint64_t start, uint64_t end, size_t tag)
{
	struct pe_range *ranges = realloc(plan->ranges, (plan->range_count + 1) * sizeof(*ranges));

	if (!ranges)
		return pe_error_nomem();
	plan->ranges = ranges;
	ranges[plan->range_count++] =
		(struct pe_range){ .start = start, .end = end, .tag = (uint32_t)tag };
	return NULL;
}

/* Code of earlier patches for the same function is old code too, whether it is still reached or
 * only still on stacks. */
static struct pe_error *add_older_patches(struct pe_plan *plan, size_t i)
{
	for (size_t l = 0; l < plan->ledgers.count; l++) {
		const struct ledger *ledger = &plan->ledgers.items[l];

		for (size_t f = 0; ledger->complete && f < ledger->header.own_count; f++) {
			if (ledger->functions[f].entry != plan->functions[i].entry ||
			    plan_replaces(plan, ledger))
				continue;
			struct pe_error *err = add_range(
				plan, ledger->start, ledger->start + ledger->header.text_size, i);
			if (err)
				return err;
		}
	}
	return NULL;
}

/*
 * What a replaced patch's functions rely on may be in any of them, so a switch that is not
 * independent waits until its code is left; what is patched for the first time, until the shipped
 * code is.
 */
static struct pe_error *add_replaced(struct pe_plan *plan)
{
	struct pe_error *err = NULL;

	for (size_t r = 0; !err && r < plan->replaced_count; r++)
		err = add_range(plan, plan->replaced[r]->start,
				plan->replaced[r]->start + plan->replaced[r]->header.text_size,
				plan->function_count + r);
	return err;
}

static void choose_switch(struct pe_plan *plan)
{
	plan->dependent = !plan->patch->independent;
	for (size_t r = 0; r < plan->replaced_count; r++)
		plan->dependent |= !(plan->replaced[r]->header.flags & LEDGER_INDEPENDENT);
	/* Entries of two patches at once would be a state that no ledger tells. */
	plan->select = (plan->dependent || plan->replaced_count) && plan->function_count > 1;
	plan->stacks = plan->dependent;
	plan->match = plan->dependent ? PE_MATCH_BODY : PE_MATCH_INTERIOR;
}

static struct pe_error *collect_ranges(struct pe_plan *plan)
{
	const struct pe_patch *patch = plan->patch;

	choose_switch(plan);

	struct pe_error *err = plan->dependent ? add_replaced(plan) : NULL;

	for (size_t i = 0; !err && i < patch->function_count; i++) {
		const struct pe_patch_function *function = &patch->functions[i];
		const struct plan_function *f = &plan->functions[i];

		if (!plan->dependent) {
			/* Nothing returns into bytes where a jump stands already. */
			plan->stacks |= function->displaced_call && !f->stacked && !f->replaced;
			err = add_range(plan, f->patched, f->patched + function->entry_size, i);
			continue;
		}
		for (size_t r = 0; !err && r < function->range_count; r++) {
			uint64_t start = f->bias + function->ranges[r].vaddr;

			err = add_range(plan, start, start + function->ranges[r].size, i);
		}
		if (!err)
			err = add_older_patches(plan, i);
	}
	return err;
}

/* ---- the words that the ledger keeps ---- */

static json_t *json_cves(const struct pe_patch *patch)
{
	json_t *list = json_array();

	for (size_t i = 0; i < patch->cve_count && i < MAX_CVES; i++)
		json_array_append_new(list, json_pack("{s:s, s:s*, s:s*}", "id", patch->cves[i].id,
						      "cvss", patch->cves[i].cvss, "url",
						      patch->cves[i].url));
	return list;
}

/* Names and sizes of what the ledger's starts are the addresses of. */
static json_t *json_symbols(const struct pe_patch *patch)
{
	json_t *list = json_array();

	for (size_t i = 0; i < patch->symbol_count; i++)
		if (is_new_function(patch, &patch->symbols[i]))
			json_array_append_new(list, json_pack("[s, I]", patch->symbols[i].name,
							      (json_int_t)patch->symbols[i].size));
	return list;
}

static struct pe_error *make_ledger_json(struct pe_plan *plan)
{
	const struct pe_patch *patch = plan->patch;
	json_t *functions = json_array();
	json_t *root =
		json_pack("{s:s, s:o, s:o, s:o}", "name", patch->name, "cves", json_cves(patch),
			  "functions", functions, "symbols", json_symbols(patch));
	const char *description = patch->description ? patch->description : "";
	size_t length = strnlen(description, MAX_DESCRIPTION);

	/* Cut long texts between characters, not inside one. */
	while (length && ((uint8_t)description[length] & 0xc0) == 0x80)
		length--;
	if (length)
		json_object_set_new(root, "description", json_stringn(description, length));
	for (size_t i = 0; i < plan->function_count; i++)
		json_array_append_new(functions, json_string(plan->functions[i].name));
	plan->ledger_json = root ? json_dumps(root, JSON_COMPACT) : NULL;
	json_decref(root);
	return plan->ledger_json ? NULL : pe_error_nomem();
}

/* ---- all of it ---- */

/* Links at a place that would do now: whatever does not fit is found before anything is touched. */
static struct pe_error *trial_link(struct pe_target *target, struct pe_plan *plan)
{
	struct pe_maps maps = { 0 };
	uint64_t base;
	pe_auto_free uint8_t *bytes = NULL;
	struct pe_error *err = pe_target_maps(target, &maps);

	if (!err)
		err = room_find(&maps, plan, layout_size(&plan->layout), &base);
	if (!err)
		err = layout_build(target, plan, base, &bytes);
	pe_maps_deinit(&maps);
	return err;
}

static struct pe_error *plan_fill(struct pe_target *target, struct pe_plan *plan)
{
	struct pe_error *(*const steps[])(struct pe_target *, struct pe_plan *) = {
		plan_verify_bytes,
		plan_resolve_symbols,
		plan_resolve_unwind,
	};
	struct pe_error *err = find_images(target, plan);

	if (!err)
		err = check_applied(target, plan);
	if (!err)
		err = find_functions(plan);
	if (!err)
		err = plan_pass_through(plan);
	for (size_t i = 0; !err && i < sizeof(steps) / sizeof(*steps); i++)
		err = steps[i](target, plan);
	if (!err)
		err = collect_ranges(plan);
	if (!err)
		err = make_ledger_json(plan);
	if (!err)
		err = layout_init(plan);
	if (!err)
		err = trial_link(target, plan);
	if (!err)
		show_functions(plan);
	return err;
}

struct pe_error *explain_death(const struct pe_target *target, struct pe_error *err)
{
	struct pe_error *dead = err && err->code != PE_ERR_DIED ? pe_target_alive(target) : NULL;

	if (!dead)
		return err;
	pe_error_free(err);
	return dead;
}

struct pe_error *check_approachable(const struct pe_target *target)
{
	struct pe_error *err = pe_target_alive(target);
	pid_t tracer = err ? 0 : pe_target_tracer(target);

	if (!err && pe_target_is_stopped(target))
		return pe_error_new(PE_ERR_BUSY,
				    "process %d is stopped by a signal (SIGSTOP, SIGTSTP): it must "
				    "run (kill -CONT %d)",
				    pe_target_pid(target), pe_target_pid(target));
	if (!tracer)
		return err;
	return pe_error_new(PE_ERR_BUSY, "process %d is being traced by process %d (a debugger?)",
			    pe_target_pid(target), tracer);
}

struct pe_error *pe_plan_create(struct pe_target *target, const struct pe_patch *patch,
				struct pe_plan **ret)
{
	return pe_plan_create_replacing(target, patch, NULL, 0, ret);
}

struct pe_error *pe_plan_create_replacing(struct pe_target *target, const struct pe_patch *patch,
					  const char *const *names, size_t count,
					  struct pe_plan **ret)
{
	struct pe_error *err = check_approachable(target);

	if (err)
		return err;

	struct pe_plan *plan = calloc(1, sizeof(*plan));

	if (!plan)
		return pe_error_nomem();
	plan->patch = patch;
	plan->replace_names = names;
	plan->replace_count = count;
	err = plan_fill(target, plan);
	if (err) {
		pe_plan_free(plan);
		return err;
	}
	*ret = plan;
	return NULL;
}

/*
 * One stop to see the threads that run, whose stacks cannot be read otherwise; as long as that of
 * a switch, and nothing is written. A stop that fails leaves the hits as they are.
 */
static struct pe_error *look_closer(struct pe_target *target, const struct pe_plan *plan,
				    const struct pe_maps *maps, struct pe_stack_hits *hits)
{
	const uint64_t limit_us = 250000;
	const struct pe_stop_options options = {
		.fifo = true,
		.limit_us = limit_us,
		.maps = maps,
		.ranges = plan->ranges,
		.range_count = plan->range_count,
		.match = plan->match,
	};
	struct pe_stack_hits closer = { 0 };
	struct pe_stop *stop;
	struct pe_error *err = pe_stop_all(target, &options, &stop);
	uint64_t pause_us;

	if (err)
		return err;
	err = pe_stop_check(stop, maps, plan->ranges, plan->range_count, plan->match, true,
			    &closer);
	pe_stop_resume(stop, &pause_us);
	if (!err) {
		pe_stack_hits_deinit(hits);
		*hits = closer;
	} else {
		pe_stack_hits_deinit(&closer);
	}
	return err;
}

struct prediction {
	struct pe_target *target;
	const struct pe_plan *plan;
	struct pe_stack_hits *blockers;
	struct pe_pause_guess *guess;
};

static struct pe_error *predict_all(void *ctx)
{
	const struct prediction *p = ctx;
	struct pe_target *target = p->target;
	const struct pe_plan *plan = p->plan;
	struct pe_stack_hits *blockers = p->blockers;
	struct pe_maps maps = { 0 };
	struct pe_threads threads = { 0 };
	size_t unknown = 0;
	struct pe_error *err = pe_target_maps(target, &maps);

	if (!err && plan->stacks)
		err = pe_stack_predict(target, &maps, plan->ranges, plan->range_count, plan->match,
				       blockers, &unknown);
	/* Who is seen to be in the way makes the look, and its stop, needless. */
	if (!err && unknown && !blockers->count)
		err = look_closer(target, plan, &maps, blockers);
	hits_unique(blockers);
	if (!err)
		err = pe_target_threads(target, &threads);
	if (!err)
		predict_pause(target, &plan->ledgers, &threads, threads.count, p->guess);
	pe_threads_deinit(&threads);
	pe_maps_deinit(&maps);
	return err;
}

struct pe_error *pe_plan_predict(struct pe_target *target, const struct pe_plan *plan,
				 struct pe_stack_hits *blockers, struct pe_pause_guess *guess)
{
	struct prediction ctx = { target, plan, blockers, guess };

	*blockers = (struct pe_stack_hits){ 0 };
	*guess = (struct pe_pause_guess){ 0 };
	return pe_target_trace(target, predict_all, &ctx);
}

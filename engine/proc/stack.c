/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Is a thread inside certain code, or will it return there?
 *
 * The conservative scan compares every word of the stack in use with the ranges. It finds every
 * true return address, since those are words of the stack, and words that only look like one: left
 * over from earlier calls in frames that do not use all of their space. So a thread with a hit is
 * unwound precisely, and only what unwinding confirms blocks, or cannot deny because it did not
 * reach the end. Two more reasons to unwind: a stack that is not the thread's own (coroutine,
 * alternate signal stack), because the scan sees only one of its stacks then; and a signal frame,
 * because the interrupted address in it may be the first of a function, which the scan, looking
 * for return addresses, passes over.
 */
#include "stack.h"

#include <inttypes.h>
#include <string.h>
#include <sys/uio.h>

#include "engine/cleanup.h"

enum { CANDIDATES_MAX = 64 };

struct stack_ranges stack_ranges(const struct pe_range *items, size_t count,
				 enum pe_range_match match)
{
	struct stack_ranges ranges = {
		.items = items, .count = count, .match = match, .low = UINT64_MAX
	};

	for (size_t i = 0; i < count; i++) {
		if (items[i].start < ranges.low)
			ranges.low = items[i].start;
		if (items[i].end > ranges.high)
			ranges.high = items[i].end;
	}
	while (count && (ranges.high - ranges.low) >> ranges.shift >= RANGE_BUCKETS)
		ranges.shift++;
	for (size_t i = 0; i < count; i++) {
		uint64_t first = (items[i].start - ranges.low) >> ranges.shift;
		uint64_t last = (items[i].end - ranges.low) >> ranges.shift;

		for (uint64_t n = first; n <= last; n++)
			ranges.buckets[n / 64] |= 1ULL << n % 64;
	}
	return ranges;
}

/* False when @addr is in no range and at the end of none. */
static bool may_match(const struct stack_ranges *ranges, uint64_t addr)
{
	uint64_t n = (addr - ranges->low) >> ranges->shift;

	return addr >= ranges->low && addr <= ranges->high &&
	       (ranges->buckets[n / 64] >> n % 64 & 1);
}

/* The address of a next instruction: inside, the first included unless only the interior counts. */
static const struct pe_range *match_pc(const struct stack_ranges *ranges, uint64_t pc)
{
	for (size_t i = 0; may_match(ranges, pc) && i < ranges->count; i++) {
		const struct pe_range *range = &ranges->items[i];

		if (pc < range->end &&
		    (ranges->match == PE_MATCH_BODY ? pc >= range->start : pc > range->start))
			return range;
	}
	return NULL;
}

/*
 * A return address: never the first, and the end belongs to the body, because a call that never
 * returns may be the last instruction.
 */
static const struct pe_range *match_return(const struct stack_ranges *ranges, uint64_t addr)
{
	for (size_t i = 0; may_match(ranges, addr) && i < ranges->count; i++) {
		const struct pe_range *range = &ranges->items[i];

		if (addr > range->start &&
		    (ranges->match == PE_MATCH_BODY ? addr <= range->end : addr < range->end))
			return range;
	}
	return NULL;
}

static struct pe_error *add_hit(struct pe_stack_hits *hits, pid_t tid, uint64_t addr, uint64_t at,
				uint32_t tag, bool precise)
{
	for (size_t i = hits->count; i > 0 && hits->items[i - 1].tid == tid; i--) {
		const struct pe_stack_hit *hit = &hits->items[i - 1];

		if (hit->addr == addr && hit->tag == tag && hit->precise == precise)
			return NULL;
	}

	struct pe_stack_hit *bigger = hits->items;

	/* Grows by powers of two. */
	if ((hits->count & (hits->count + 1)) == 0 || !bigger)
		bigger = reallocarray(hits->items, (hits->count + 1) * 2, sizeof(*bigger));
	if (!bigger)
		return pe_error_nomem();
	hits->items = bigger;
	hits->items[hits->count++] = (struct pe_stack_hit){
		.tid = tid, .addr = addr, .at = at, .tag = tag, .precise = precise
	};
	return NULL;
}

void pe_stack_hits_deinit(struct pe_stack_hits *hits)
{
	free(hits->items);
	memset(hits, 0, sizeof(*hits));
}

/* ---- the conservative scan ---- */

struct candidate {
	uint64_t addr, at;
	uint32_t tag;
};

struct scan {
	const struct stack_ranges *ranges;
	uint64_t restore_rt; /* what a signal frame returns to, or 0 */
	bool signal_frame;
	bool edge; /* the first address of a range was seen */
	struct candidate found[CANDIDATES_MAX];
	size_t count;
};

static void scan_hit(struct scan *scan, uint64_t word, uint64_t at)
{
	const struct pe_range *range = match_return(scan->ranges, word);

	if (!range) {
		scan->edge |= match_pc(scan->ranges, word) != NULL;
		return;
	}
	/* More say nothing new: the thread is unwound anyway. */
	if (scan->count < CANDIDATES_MAX)
		scan->found[scan->count++] = (struct candidate){ word, at, range->tag };
}

static void scan_word(struct scan *scan, uint64_t word, uint64_t at)
{
	if (word - scan->ranges->low <= scan->ranges->high - scan->ranges->low)
		scan_hit(scan, word, at);
	else if (word == scan->restore_rt && word)
		scan->signal_frame = true;
}

/* Threads stand while this runs: four words are dismissed with one branch. */
static void scan_words(struct scan *scan, const uint8_t *bytes, size_t size, uint64_t at)
{
	const uint64_t low = scan->ranges->low, span = scan->ranges->high - low;
	const uint64_t restore_rt = scan->restore_rt;
	size_t i = 0;

	for (; i + 32 <= size; i += 32) {
		uint64_t w[4];

		memcpy(w, bytes + i, sizeof(w));
		bool any = (w[0] - low <= span) | (w[1] - low <= span) | (w[2] - low <= span) |
			   (w[3] - low <= span) | (w[0] == restore_rt) | (w[1] == restore_rt) |
			   (w[2] == restore_rt) | (w[3] == restore_rt);

		for (size_t n = 0; any && n < 4; n++)
			scan_word(scan, w[n], at + i + n * 8);
	}
	for (; i + 8 <= size; i += 8) {
		uint64_t word;

		memcpy(&word, bytes + i, sizeof(word));
		scan_word(scan, word, at + i);
	}
}

static size_t read_stack(const struct pe_target *target, pid_t tid, uint64_t addr, void *buf,
			 size_t size)
{
	struct iovec local = { .iov_base = buf, .iov_len = size };
	struct iovec remote = { .iov_base = (void *)(uintptr_t)addr, .iov_len = size };

	/* By thread id: the first thread of the process may have exited. */
	if (process_vm_readv(tid, &local, 1, &remote, 1, 0) == (ssize_t)size)
		return size;
	return proc_read_some(target, addr, buf, size);
}

/* Scans [start, end); the last piece read stays in the buffer, and *kept tells how much. */
static bool scan_region(struct stack_checker *checker, struct scan *scan, pid_t tid, uint64_t start,
			uint64_t end, size_t *kept)
{
	for (uint64_t at = start; at < end;) {
		size_t size = end - at < STACK_BUFFER ? end - at : STACK_BUFFER;

		if (read_stack(checker->target, tid, at, checker->buffer, size) != size)
			return false;
		scan_words(scan, checker->buffer, size, at);
		*kept = size;
		at += size;
	}
	return true;
}

/* ---- the precise check ---- */

struct confirm {
	struct stack_checker *checker;
	const struct scan *scan;
	pid_t tid;
	struct pe_error *err;
};

static uint64_t candidate_at(const struct scan *scan, uint64_t addr)
{
	for (size_t i = 0; i < scan->count; i++) {
		if (scan->found[i].addr == addr)
			return scan->found[i].at;
	}
	return 0;
}

static void confirm_frame(void *ctx, uint64_t pc, bool exact)
{
	struct confirm *confirm = ctx;
	const struct stack_ranges *ranges = &confirm->checker->ranges;
	const struct pe_range *range = exact ? match_pc(ranges, pc) : match_return(ranges, pc);

	if (range && !confirm->err)
		confirm->err = add_hit(confirm->checker->hits, confirm->tid, pc,
				       candidate_at(confirm->scan, pc), range->tag, true);
}

/* Which part of memory is the thread's stack. */
struct own_stack {
	uint64_t start, end;
	bool is_current; /* sp lies in it */
};

static const struct pe_map *map_at(struct stack_checker *checker, uint64_t addr)
{
	const struct pe_map *map = pe_maps_at(checker->maps, addr);

	if (map)
		return map;
	/* A thread younger than the maps, or a stack that grew. */
	if (!checker->fresh.count)
		pe_error_free(pe_target_maps(checker->target, &checker->fresh));
	return pe_maps_at(&checker->fresh, addr);
}

/*
 * A thread's control block lies at the upper end of its stack (glibc and musl); the first thread
 * has the kernel's [stack].
 */
static struct own_stack find_own_stack(struct stack_checker *checker, pid_t tid,
				       const struct user_regs_struct *regs)
{
	const struct pe_map *tcb = regs->fs_base ? map_at(checker, regs->fs_base) : NULL;
	const struct pe_map *current = map_at(checker, regs->rsp);
	struct own_stack own = { 0 };

	if (current && current == tcb && regs->rsp < regs->fs_base) {
		own = (struct own_stack){ tcb->start, regs->fs_base, true };
	} else if (current && tid == checker->target->pid &&
		   strcmp(current->path, "[stack]") == 0) {
		own = (struct own_stack){ current->start, current->end, true };
	} else if (tid == checker->target->pid) {
		for (size_t i = 0; i < checker->maps->count; i++) {
			const struct pe_map *map = &checker->maps->items[i];

			if (strcmp(map->path, "[stack]") == 0)
				own = (struct own_stack){ map->start, map->end, false };
		}
	} else if (tcb) {
		own = (struct own_stack){ tcb->start, regs->fs_base, false };
	}
	return own;
}

static struct pe_error *add_candidates(struct stack_checker *checker, const struct scan *scan,
				       pid_t tid, uint64_t from, uint64_t to)
{
	struct pe_error *err = NULL;

	for (size_t i = 0; i < scan->count && !err; i++) {
		const struct candidate *found = &scan->found[i];

		if (found->at >= from && found->at < to)
			err = add_hit(checker->hits, tid, found->addr, found->at, found->tag,
				      false);
	}
	return err;
}

static struct pe_error *unwind_thread(struct stack_checker *checker, const struct scan *scan,
				      pid_t tid, const struct user_regs_struct *regs,
				      const struct own_stack *own, size_t kept)
{
	struct confirm confirm = { .checker = checker, .scan = scan, .tid = tid };
	struct unwind_request request = {
		.tid = tid,
		.regs = regs,
		.stack = checker->buffer,
		.stack_addr = regs->rsp,
		.stack_size = kept,
		.frame = confirm_frame,
		.ctx = &confirm,
	};
	size_t before = checker->hits->count;

	if (!own->is_current) {
		request.watch_start = own->start;
		request.watch_end = own->end;
	}

	bool complete = unwinder_run(checker->target->unwinder, &request);

	if (confirm.err)
		return confirm.err;
	if (complete) {
		if (own->is_current || request.watch_touched)
			return NULL;
		/* A coroutine: what lies on the thread's own stack was not reached. */
		return add_candidates(checker, scan, tid, own->start, own->end);
	}

	struct pe_error *err = add_candidates(checker, scan, tid, 0, UINT64_MAX);

	if (err || checker->hits->count > before)
		return err;
	if (own->is_current && !(scan->signal_frame && scan->edge))
		return NULL;
	/* Nothing is known about where this thread will return to. */
	return add_hit(checker->hits, tid, regs->rip, 0, checker->ranges.items[0].tag, false);
}

struct pe_error *stack_check_stopped(struct stack_checker *checker, pid_t tid,
				     const struct user_regs_struct *regs, bool stacks)
{
	const struct pe_range *range = match_pc(&checker->ranges, regs->rip);

	if (range)
		return add_hit(checker->hits, tid, regs->rip, 0, range->tag, true);
	if (!stacks || checker->ranges.count == 0)
		return NULL;

	struct scan scan = { .ranges = &checker->ranges,
			     .restore_rt = checker->target->gadgets.restore_rt };
	struct own_stack own = find_own_stack(checker, tid, regs);
	const struct pe_map *current = own.is_current ? NULL : map_at(checker, regs->rsp);
	uint64_t start = regs->rsp & ~7ULL;
	uint64_t end = own.is_current ? own.end : current ? current->end : start;
	size_t kept = 0;

	if (!scan_region(checker, &scan, tid, start, end, &kept))
		return pe_error_new(PE_ERR_SYSTEM, "cannot read the stack of thread %d at %#llx",
				    tid, regs->rsp);
	/* Only the first piece can serve unwinding, which begins at sp. */
	if (end - start > STACK_BUFFER)
		kept = 0;
	if (!own.is_current && own.end > own.start) {
		if (!scan_region(checker, &scan, tid, own.start, own.end, &kept))
			return pe_error_new(PE_ERR_SYSTEM,
					    "cannot read the stack of thread %d below %#" PRIx64,
					    tid, own.end);
		kept = 0;
	}
	if (own.is_current && !scan.count && !(scan.signal_frame && scan.edge))
		return NULL;
	return unwind_thread(checker, &scan, tid, regs, &own, kept);
}

bool stack_is_clean(struct stack_checker *checker, pid_t tid, const struct user_regs_struct *regs)
{
	struct scan scan = { .ranges = &checker->ranges,
			     .restore_rt = checker->target->gadgets.restore_rt };
	size_t kept = 0;

	if (checker->ranges.count == 0)
		return true;
	if (match_pc(&checker->ranges, regs->rip))
		return false;

	struct own_stack own = find_own_stack(checker, tid, regs);

	return own.is_current &&
	       scan_region(checker, &scan, tid, regs->rsp & ~7ULL, own.end, &kept) && !scan.count &&
	       !(scan.signal_frame && scan.edge);
}

void stack_checker_deinit(struct stack_checker *checker)
{
	pe_maps_deinit(&checker->fresh);
}

/* ---- without stopping anyone ---- */

static bool predict_thread(const struct pe_target *target, const struct pe_maps *maps,
			   const struct pe_thread *thread, uint8_t *buffer, struct scan *scan)
{
	const struct pe_map *map = pe_maps_at(maps, thread->sp);

	if (thread->running || !map)
		return false;

	uint64_t start = thread->sp & ~7ULL;
	size_t size = map->end - start < STACK_BUFFER ? map->end - start : STACK_BUFFER;

	size = read_stack(target, thread->tid, start, buffer, size);
	scan_words(scan, buffer, size, start);
	return true;
}

struct pe_error *pe_stack_predict(const struct pe_target *target, const struct pe_maps *maps,
				  const struct pe_range *ranges, size_t range_count,
				  enum pe_range_match match, struct pe_stack_hits *hits,
				  size_t *unknown)
{
	struct stack_ranges looked_for = stack_ranges(ranges, range_count, match);
	pe_auto_free uint8_t *buffer = malloc(STACK_BUFFER);
	pe_auto_free struct scan *scan = malloc(sizeof(*scan));
	struct pe_threads threads;
	struct pe_error *err =
		buffer && scan ? pe_target_threads(target, &threads) : pe_error_nomem();

	if (err)
		return err;
	*unknown = 0;
	for (size_t i = 0; i < threads.count && !err; i++) {
		const struct pe_thread *thread = &threads.items[i];
		const struct pe_range *range =
			thread->running ? NULL : match_pc(&looked_for, thread->pc);

		memset(scan, 0, sizeof(*scan));
		scan->ranges = &looked_for;
		if (!predict_thread(target, maps, thread, buffer, scan))
			(*unknown)++;
		if (range)
			err = add_hit(hits, thread->tid, thread->pc, 0, range->tag, true);
		for (size_t n = 0; n < scan->count && !err; n++)
			err = add_hit(hits, thread->tid, scan->found[n].addr, scan->found[n].at,
				      scan->found[n].tag, false);
	}
	pe_threads_deinit(&threads);
	return err;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What stopping costs a thread, on this machine and now: some blocked threads of the process are
 * stopped as all will be, looked at and let go; none of them stands longer than one does when a
 * call is injected.
 */
#include <string.h>
#include <sys/ptrace.h>

#include "engine/cleanup.h"
#include "fifo.h"
#include "stragglers.h"
#include "tracee.h"

enum { SAMPLE = 8, ROUNDS = 3, LIMIT_US = 200000, STACK_BYTES = 4096 };

static void let_go(struct pe_target *target, pid_t tid, struct waiter *waiter)
{
	static uint8_t stack[STACK_BYTES];
	struct user_regs_struct regs;
	int status = 0;
	enum wait_result result = waiter_wait(waiter, target, tid, &status);

	if (result == WAIT_TIMEOUT)
		straggler_add(target, tid);
	if (result != WAIT_STOPPED)
		return;
	if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) == 0) {
		tracee_fix_eintr(tid, &regs);
		(void)proc_read_some(target, regs.rsp, stack, sizeof(stack));
	}
	ptrace(PTRACE_DETACH, tid, NULL, (void *)(intptr_t)tracee_pending_signal(status));
}

/* Microseconds from the first interrupt to the last detach of @count threads; 0: none stopped. */
static uint64_t stop_some(struct pe_target *target, const pid_t *tids, size_t count,
			  struct waiter *waiter)
{
	pid_t seized[SAMPLE];
	size_t n = 0;

	for (size_t i = 0; i < count; i++)
		if (ptrace(PTRACE_SEIZE, tids[i], NULL, (void *)PTRACE_O_TRACESYSGOOD) == 0)
			seized[n++] = tids[i];

	uint64_t begin = pe_now_us();

	waiter_set_deadline(waiter, begin + LIMIT_US);
	for (size_t i = 0; i < n; i++)
		ptrace(PTRACE_INTERRUPT, seized[i], NULL, NULL);
	for (size_t i = 0; i < n; i++)
		let_go(target, seized[i], waiter);
	return n == count ? pe_now_us() - begin : 0;
}

static uint64_t middle_of(uint64_t values[ROUNDS])
{
	uint64_t low = values[0] < values[1] ? values[0] : values[1];
	uint64_t high = values[0] < values[1] ? values[1] : values[0];

	return values[2] < low ? low : values[2] > high ? high : values[2];
}

static size_t choose(const struct pe_threads *threads, pid_t tids[SAMPLE])
{
	size_t count = 0;

	for (size_t i = 0; i < threads->count && count < SAMPLE; i++)
		if (!threads->items[i].running)
			tids[count++] = threads->items[i].tid;
	return count;
}

bool pe_target_sample_stop(struct pe_target *target, const struct pe_threads *threads,
			   struct pe_stop_sample *ret)
{
	pid_t tids[SAMPLE];
	size_t count = choose(threads, tids);
	uint64_t one[ROUNDS], some[ROUNDS];
	struct waiter waiter;
	struct fifo fifo = { 0 };
	struct pe_error *err = count < 2
				       ? pe_error_new(PE_ERR_BUSY, "fewer than two blocked threads")
				       : waiter_init(&waiter, pe_now_us() + LIMIT_US);
	bool fine = !err;

	if (err) {
		pe_error_free(err);
		return false;
	}
	fifo_begin(&fifo, 2 * ROUNDS * LIMIT_US * SAMPLE);
	for (size_t i = 0; i < ROUNDS && fine; i++) {
		one[i] = stop_some(target, tids, 1, &waiter);
		some[i] = stop_some(target, tids, count, &waiter);
		fine = one[i] && some[i] && !target->straggler_count;
	}
	fifo_end(&fifo);
	waiter_deinit(&waiter);
	stragglers_release(target, LIMIT_US);
	if (!fine)
		return false;
	ret->threads = count;
	ret->one_us = middle_of(one);

	uint64_t whole = middle_of(some);

	/* The first costs more than any further one: it is what a stop costs at all. */
	ret->further_ns = whole > ret->one_us ? (whole - ret->one_us) * 1000 / (count - 1)
					      : whole * 1000 / count;
	return true;
}

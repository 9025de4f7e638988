/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads that did not stop in time: in uninterruptible sleep they cannot even be detached. They
 * are remembered, and let go when they stop; at the end of the operation by the kernel (tracer.c).
 */
#include "stragglers.h"

#include <sys/ptrace.h>

#include "engine/cleanup.h"
#include "tracee.h"

enum { STEP_US = 1000 };

void straggler_add(struct pe_target *target, pid_t tid)
{
	pid_t *bigger =
		reallocarray(target->stragglers, target->straggler_count + 1, sizeof(*bigger));

	if (!bigger)
		return;
	target->stragglers = bigger;
	bigger[target->straggler_count++] = tid;
}

bool straggler_take(struct pe_target *target, pid_t tid)
{
	for (size_t i = 0; i < target->straggler_count; i++) {
		if (target->stragglers[i] == tid) {
			target->stragglers[i] = target->stragglers[--target->straggler_count];
			return true;
		}
	}
	return false;
}

static void let_go(pid_t tid, int status)
{
	struct user_regs_struct regs;

	if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) == 0)
		tracee_fix_eintr(tid, &regs);
	ptrace(PTRACE_DETACH, tid, NULL, (void *)(intptr_t)tracee_pending_signal(status));
}

void stragglers_release(struct pe_target *target, uint64_t wait_us)
{
	uint64_t end = pe_now_us() + wait_us;

	while (target->straggler_count) {
		for (size_t i = target->straggler_count; i-- > 0;) {
			int status = 0;
			pid_t tid = target->stragglers[i];
			enum wait_result result = tracee_poll(target, tid, &status);

			if (result == WAIT_TIMEOUT)
				continue;
			if (result == WAIT_STOPPED)
				let_go(tid, status);
			(void)straggler_take(target, tid);
		}
		if (!target->straggler_count || pe_now_us() >= end)
			return;
		usleep(STEP_US);
	}
}

void pe_target_sleep(struct pe_target *target, uint64_t us)
{
	uint64_t end = pe_now_us() + us;

	stragglers_release(target, us);

	uint64_t now = pe_now_us();

	if (now < end)
		usleep((useconds_t)(end - now));
}

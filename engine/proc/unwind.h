/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Precise unwinding of a stopped thread by the call frame information of its images. */
#ifndef ENGINE_PROC_UNWIND_H
#define ENGINE_PROC_UNWIND_H

#include "proc.h"

struct unwinder;

struct unwind_request {
	pid_t tid;
	const struct user_regs_struct *regs;
	/* A copy of its stack; other memory is read from the target. */
	const uint8_t *stack;
	uint64_t stack_addr, stack_size;
	/* Did unwinding reach [watch_start, watch_end)? */
	uint64_t watch_start, watch_end;
	bool watch_touched;
	/* @exact: the next instruction of the frame; false: a return address. */
	void (*frame)(void *ctx, uint64_t pc, bool exact);
	void *ctx;
};

/*
 * Makes target->unwinder fit the images that are mapped now. Slow (opens files): done while
 * nobody stands still. Without one every unwind is incomplete.
 */
void unwinder_prepare(struct pe_target *target, const struct pe_maps *maps);
void unwinder_free(struct unwinder *unwinder);

/*
 * True when the outermost frame was reached and every step went by call frame information;
 * guesses by frame pointers do not count.
 */
bool unwinder_run(struct unwinder *unwinder, struct unwind_request *request);

#endif

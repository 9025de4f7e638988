/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stacks against address ranges: the conservative scan, and when to unwind precisely. */
#ifndef ENGINE_PROC_STACK_H
#define ENGINE_PROC_STACK_H

#include "proc.h"
#include "unwind.h"

enum { STACK_BUFFER = 1 << 20, RANGE_BUCKETS = 4096 };

/* What is looked for. */
struct stack_ranges {
	const struct pe_range *items;
	size_t count;
	enum pe_range_match match;
	uint64_t low, high; /* every matching address lies in [low, high] */
	/*
	 * One bit for each 1 << shift bytes of that: where it is 0, no range is. Most return
	 * addresses of a large program lie between the ranges of a patch with many functions.
	 */
	unsigned int shift;
	uint64_t buckets[RANGE_BUCKETS / 64];
};

struct stack_ranges stack_ranges(const struct pe_range *items, size_t count,
				 enum pe_range_match match);

struct stack_checker {
	struct pe_target *target;
	const struct pe_maps *maps;
	struct pe_maps fresh; /* read again when a stack is in none of maps */
	struct stack_ranges ranges;
	uint8_t *buffer; /* STACK_BUFFER bytes, touched */
	struct pe_stack_hits *hits;
};

/*
 * A thread that stands still: its program counter and, with @stacks, its stack. Appends to
 * checker->hits what blocks.
 */
struct pe_error *stack_check_stopped(struct stack_checker *checker, pid_t tid,
				     const struct user_regs_struct *regs,
				     bool stacks) pe_must_check;
/*
 * The quick half of it: true when the thread is surely not in the way, false when only the whole
 * check can tell.
 */
bool stack_is_clean(struct stack_checker *checker, pid_t tid, const struct user_regs_struct *regs);
void stack_checker_deinit(struct stack_checker *checker);

#endif

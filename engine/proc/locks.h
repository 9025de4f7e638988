/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Code that holds locks which an injected function may need. */
#ifndef ENGINE_PROC_LOCKS_H
#define ENGINE_PROC_LOCKS_H

#include "proc.h"

struct lock_code {
	struct pe_maps maps;
	struct pe_range *ranges;
	size_t count, capacity;
};

struct pe_error *lock_code_find(struct pe_target *target, struct lock_code *ret) pe_must_check;
void lock_code_deinit(struct lock_code *code);

/* BUSY when the stopped thread is inside such code, or may be. */
struct pe_error *lock_code_check(const struct lock_code *code, struct pe_target *target, pid_t tid,
				 const struct user_regs_struct *regs) pe_must_check;

#endif

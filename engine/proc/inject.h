/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An injected call, shared by inject.c (the call), inject_pick.c (which thread), inject_format.c.
 */
#ifndef ENGINE_PROC_INJECT_H
#define ENGINE_PROC_INJECT_H

#include "arch/x86_64/sigframe.h"
#include "fifo.h"
#include "proc.h"
#include "tracee.h"

enum { XSTATE_MAX = 16384 };

struct pe_injector {
	struct pe_target *target;
	pid_t tid; /* 0: let go already */
	struct waiter waiter;
	struct fifo fifo;
	struct user_regs_struct regs; /* at its stop: what it must get back */
	int64_t nr; /* of the system call that it was stopped in; -1: none, or not known */
	uint64_t sigmask;
	uint8_t *xstate;
	size_t xstate_size;
	struct pe_sigframe frame;
	size_t scratch_used;
	bool installed;		/* frame, registers and mask are ours */
	bool fp_dirty;		/* a function ran */
	bool restart_data_lost; /* a function was interrupted in a restartable call */
	int crash_signal;	/* of a function, suppressed */
};

/*
 * Seizes and stops @tid and reads all that is needed; on failure the thread is let go and the
 * error says why it is unfit.
 */
struct pe_error *inject_hold(struct pe_injector *injector, pid_t tid) pe_must_check;
/* Writes the frame below the stack of the held thread, once. */
struct pe_error *inject_prepare(struct pe_injector *injector) pe_must_check;
/* An injector that holds no thread yet; pe_inject_end frees it. */
struct pe_error *inject_new(struct pe_target *target, struct pe_injector **ret) pe_must_check;
/* Learns, once, what inject_own_format() then tells. */
struct pe_error *inject_learn_format(void) pe_must_check;
const struct pe_sigframe_format *inject_own_format(void);
/* Lets the thread go as it stands. */
void inject_let_go(struct pe_injector *injector, int signal);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Processes that share the target's memory without being threads of it: children of vfork and
 * posix_spawn until they exec, and whatever clone(CLONE_VM) without CLONE_THREAD made. Stopping
 * the target does not stop them, so nothing may be written to code while there is one.
 */
#ifndef ENGINE_PROC_SHARERS_H
#define ENGINE_PROC_SHARERS_H

#include "proc.h"

/* Between the look before a stop and the one in it. */
struct sharers {
	int loadavg_fd;
	pid_t last_pid; /* the latest number given out before the first look; 0: unknown */
	pid_t pid_max;
	pid_t found; /* one that was there at the first look; 0: none */
};

/* Looks at every process of the host (that /proc shows us): fractions of a millisecond. */
struct pe_error *sharers_init(struct sharers *sharers,
			      const struct pe_target *target) pe_must_check;
void sharers_deinit(struct sharers *sharers);
/*
 * In the stop: BUSY, naming it, when there is one; looks only at those born since. @is_ours tells
 * threads of the target that stand.
 */
struct pe_error *sharers_check(const struct sharers *sharers, const struct pe_target *target,
			       bool (*is_ours)(const void *ctx, pid_t tid),
			       const void *ctx) pe_must_check;

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Threads that did not stop in time. */
#ifndef ENGINE_PROC_STRAGGLERS_H
#define ENGINE_PROC_STRAGGLERS_H

#include "proc.h"

/* Remembers a seized thread that did not stop in time. */
void straggler_add(struct pe_target *target, pid_t tid);
/* Forgets it; false when it was none. */
bool straggler_take(struct pe_target *target, pid_t tid);
/*
 * Detaches all of them as soon as they stop, waiting for at most @wait_us.
 */
void stragglers_release(struct pe_target *target, uint64_t wait_us);

#endif

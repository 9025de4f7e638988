/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The stop of all threads, as the rest of this folder sees it. */
#ifndef ENGINE_PROC_STOP_H
#define ENGINE_PROC_STOP_H

#include "proc.h"

/*
 * Detaches the threads that a stop could not stop in time, as soon as they stop, waiting for at
 * most @wait_us. What is left then is detached by the kernel when we exit.
 */
void stop_release_stragglers(struct pe_target *target, uint64_t wait_us);

#endif

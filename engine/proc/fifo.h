/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SCHED_FIFO for as long as we hold threads of somebody else. */
#ifndef ENGINE_PROC_FIFO_H
#define ENGINE_PROC_FIFO_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>

struct fifo {
	bool set, refused, rttime_set;
	int old_policy;
	struct sched_param old_param;
	struct rlimit old_rttime;
};

/* @limit_us: processor time after which the kernel ends us (and with us the hold). */
void fifo_begin(struct fifo *fifo, uint64_t limit_us);
/* Back to what it was; harmless without a begin. */
void fifo_end(struct fifo *fifo);

#endif

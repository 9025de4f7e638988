/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The priority of a patcher that holds threads: an ordinary one loses whole scheduler slices while
 * the threads of a database stand still.
 */
#include "fifo.h"

#include <string.h>

enum { PRIORITY = 50 };

void fifo_begin(struct fifo *fifo, uint64_t limit_us)
{
	struct sched_param param = { .sched_priority = PRIORITY };
	struct rlimit rttime;

	if (fifo->set)
		return;
	memset(fifo, 0, sizeof(*fifo));
	fifo->old_policy = sched_getscheduler(0);
	if (fifo->old_policy < 0 || sched_getparam(0, &fifo->old_param) ||
	    getrlimit(RLIMIT_RTTIME, &fifo->old_rttime)) {
		fifo->refused = true;
		return;
	}
	rttime = fifo->old_rttime;
	rttime.rlim_cur = limit_us;
	fifo->rttime_set =
		rttime.rlim_cur < rttime.rlim_max && setrlimit(RLIMIT_RTTIME, &rttime) == 0;
	/* Threads that this program makes meanwhile stay ordinary. */
	fifo->set = sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param) == 0;
	fifo->refused = !fifo->set;
}

void fifo_end(struct fifo *fifo)
{
	if (fifo->set)
		sched_setscheduler(0, fifo->old_policy, &fifo->old_param);
	if (fifo->rttime_set)
		setrlimit(RLIMIT_RTTIME, &fifo->old_rttime);
	fifo->set = fifo->rttime_set = false;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The stop of all threads of a process. */
#include "stop.h"

void stop_release_stragglers(struct pe_target *target, uint64_t wait_us)
{
}

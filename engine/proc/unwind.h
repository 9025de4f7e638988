/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Precise unwinding of a stopped thread by the call frame information of its images. */
#ifndef ENGINE_PROC_UNWIND_H
#define ENGINE_PROC_UNWIND_H

#include "proc.h"

struct unwinder;

void unwinder_free(struct unwinder *unwinder);

#endif

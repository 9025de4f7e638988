/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Precise unwinding of a stopped thread by the call frame information of its images. */
#include "unwind.h"

void unwinder_free(struct unwinder *unwinder)
{
}

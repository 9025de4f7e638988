/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef ENGINE_PROC_GADGETS_H
#define ENGINE_PROC_GADGETS_H

#include "proc.h"

/* Finds target->gadgets once. UNSUPPORTED when what every injected call needs is not there. */
struct pe_error *gadgets_find(struct pe_target *target) pe_must_check;

#endif

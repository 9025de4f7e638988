/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The products of the installed programs. */
#include "agent/providers/db.h"

const struct agent_provider *const agent_providers[] = { &db_provider, NULL };

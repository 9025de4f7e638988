/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Days as people write them in settings. */
#ifndef AGENT_REPO_DAY_H
#define AGENT_REPO_DAY_H

#include <time.h>

#include "engine/error.h"

enum { REPO_DAY_SECONDS = 86400 };

/*
 * DDMMYY, DDMMYYYY or YYYY-MM-DD: the day's first second, UTC. USAGE for what is none of them and
 * for a day that no month has.
 */
struct pe_error *repo_day_parse(const char *text, time_t *ret) pe_must_check;

#endif

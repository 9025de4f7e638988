/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The database as a product. */
#ifndef AGENT_PROVIDERS_DB_H
#define AGENT_PROVIDERS_DB_H

#include "agent/provider.h"

extern const struct agent_provider db_provider;

/* The half that speaks SQL (db_sql.c); see agent/provider.h. */
int db_level(const json_t *target);
struct pe_error *db_before(struct agent_visit *visit) pe_must_check;
struct pe_error *db_after(struct agent_visit *visit) pe_must_check;
void db_leave(struct agent_visit *visit);

#endif

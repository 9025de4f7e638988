/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Operations that have an intent and no outcome in the history, since their patcher died. */
#ifndef DBCARE_ABANDONED_H
#define DBCARE_ABANDONED_H

#include <jansson.h>

#include "dbcare/server.h"

/* The records of operations on this very process whose patcher died; owned by the caller. */
struct pe_error *dbc_abandoned(const struct dbc_server *server, json_t **ret) pe_must_check;
/* Is the patch of @record in @server, at the level that the record has, if it has one? */
bool dbc_abandoned_in_effect(const struct dbc_server *server, const json_t *record);
/* Is @record, one of those, of an apply whose patch is in the server? */
bool dbc_unverified(const struct dbc_server *server, const json_t *record);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A server as JSON, the same for the command line, the agent and its patcher. */
#ifndef DBCARE_DESCRIBE_H
#define DBCARE_DESCRIBE_H

#include <jansson.h>
#include <stdbool.h>

#include "dbcare/server.h"

/* Does the server run its code? Of a reverted patch the memory may be there still. */
bool dbc_in_effect(const struct pe_applied *applied);
/* The highest level among the patches that are in effect; -1 when none is. */
int dbc_server_level(const struct dbc_server *server);
const char *dbc_exe_state_name(enum dbc_exe_state state);

json_t *dbc_build_id_json(const struct pe_build_id *id);
json_t *dbc_applied_json(const struct pe_applied *applied);
json_t *dbc_server_json(const struct dbc_server *server);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The files of the patches that are in a server, kept as long as they are: in
 * kept/PID-STARTTIME/NAME-LEVEL.cpatch under the state directory. A patch that fails its
 * verification after it replaced others gives way to these again; see undo.h.
 */
#ifndef DBCARE_KEPT_H
#define DBCARE_KEPT_H

#include "dbcare/server.h"
#include "engine/patch.h"

/* Keeps @patch, which @server gets. */
struct pe_error *dbc_kept_store(const struct dbc_server *server,
				const struct pe_patch *patch) pe_must_check;
/* NO_TARGET when it is not kept, as what nobody but the engine's own command applied. */
struct pe_error *dbc_kept_read(const struct dbc_server *server, const char *name, uint32_t level,
			       struct pe_patch **ret) pe_must_check;
/* Removes what is no longer in effect in @server, whose list is fresh, and of ended processes. */
struct pe_error *dbc_kept_sweep(const struct dbc_server *server) pe_must_check;

#endif

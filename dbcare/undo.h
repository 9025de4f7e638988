/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Taking a patch back that failed its verification: where it replaced others, to these and not to
 * the code below them. One switch leads from it to the first of them, so that no call finds the
 * server without.
 */
#ifndef DBCARE_UNDO_H
#define DBCARE_UNDO_H

#include <jansson.h>

#include "dbcare/operation.h"

/* What @plan replaces, [{"patch": NAME, "level": N}, ...] in the order in which it was applied. */
json_t *dbc_undo_list(const struct dbc_server *server, const struct pe_plan *plan);

/*
 * Without @options' limits nor signals: it is the way out of trouble. @replaced: as of
 * dbc_undo_list, or NULL. An error: @name is in the server still.
 */
struct pe_error *dbc_undo(struct dbc_session *session, const char *name, const json_t *replaced,
			  const struct dbc_options *options, struct dbc_undone *ret) pe_must_check;
void dbc_undone_deinit(struct dbc_undone *undone);
/* "a, b" of one of the two lists; owned. */
char *dbc_undone_names(const json_t *list);

#endif

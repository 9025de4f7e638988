/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Taking a patch back that failed its verification: where it replaced others, to these and not to
 * the code below them. One switch leads from it to the first of them, so that no call finds the
 * server without.
 */
#ifndef DBCARE_UNDO_H
#define DBCARE_UNDO_H

#include <jansson.h>

#include "dbcare/server.h"
#include "engine/apply.h"

/* What @plan replaces, [{"patch": NAME, "level": N}, ...] in the order in which it was applied. */
json_t *dbc_undo_list(const struct dbc_server *server, const struct pe_plan *plan);

/* What became of the patches that one replaced which was taken back. */
struct dbc_undone {
	json_t *restored; /* "NAME (level N)" that are in the server again; owned */
	json_t *lost;	  /* those that are not, as when nobody kept their files; owned */
	struct pe_switch_result change; /* the switch that took it out */
};

/*
 * @replaced: as of dbc_undo_list, or NULL. @options should have neither a limit of the pause nor be
 * cancellable: it is the way out of trouble. An error: @name is in the server still.
 */
struct pe_error *dbc_undo(const struct dbc_server *server, struct pe_target *target,
			  const char *name, const json_t *replaced,
			  const struct pe_apply_options *options,
			  struct dbc_undone *ret) pe_must_check;
void dbc_undone_deinit(struct dbc_undone *undone);
/* "a, b" of one of the two lists; owned. */
char *dbc_undone_names(const json_t *list);

#endif

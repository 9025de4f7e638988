/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Finishing what a patcher that died left in a server and in the history. */
#ifndef DBCARE_RECOVER_H
#define DBCARE_RECOVER_H

#include <jansson.h>

#include "dbcare/operation.h"

struct dbc_recovery {
	struct pe_recovery engine;
	json_t *verified; /* names of patches that nobody had verified; the server serves */
	json_t *reverted; /* those that failed it */
	bool nothing;	  /* there was nothing to do */
	char *warning;	  /* recovered, but this went wrong beside it; or NULL */
};

/*
 * Finishes or undoes what the process' ledger tells, then ends the records of operations whose
 * patcher died. VERIFY: what one of them had applied was verified now, failed and was reverted.
 * HELD: it cannot be verified without SQL, and stays. @ret is to be freed also on error.
 */
struct pe_error *dbc_recover(struct dbc_session *session, const struct dbc_options *options,
			     struct dbc_recovery *ret) pe_must_check;
void dbc_recovery_deinit(struct dbc_recovery *recovery);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is done to one target with one patch, through care-patcher: looked at, applied and verified,
 * taken back. Each call waits (see agent_ask); meanwhile the offers may be read anew.
 */
#ifndef AGENT_SWITCH_H
#define AGENT_SWITCH_H

#include "agent/daemon/agent.h"

/* Asks what @target is now: target->info. */
struct pe_error *agent_look(struct agent_target *target) pe_must_check;
/* Of the last look: "starting", "running", "stopping"... */
bool agent_target_state_is(const struct agent_target *target, const char *name);
/* Of the last look; "" when there is none. */
const char *agent_build_id(const struct agent_target *target);
/* Of @patch, one of the last look's "patches": is its code in use? */
bool agent_in_effect(const json_t *patch);
bool agent_has_patch(const struct agent_target *target, const struct agent_offer *offer);
/* Somebody ends the server meanwhile: what it did not answer says nothing about a patch. */
bool agent_is_leaving(struct agent_target *target);

struct pe_error *agent_revert(struct agent_target *target, const char *name,
			      const char *why) pe_must_check;
/*
 * Fetch, plan, pre-apply hooks, gates, switch, verification. What fails that is taken back: to the
 * lower level of the same patch that it replaced, if that is on offer still.
 */
struct pe_error *agent_apply_offer(struct agent_target *target,
				   const struct agent_offer *offer) pe_must_check;

#endif

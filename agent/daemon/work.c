/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One pass over one target:
 *
 *	look -> finish what a dead patcher left -> take blocked patches back -> choose
 *	-> (switch.c: plan -> pre-apply hooks -> gates -> record -> switch -> verify -> record)
 *	-> post-apply hooks
 *
 * Whatever stands against it is kept as the target's `held`: reason, since when, next try. Nothing
 * is decided from memory: each pass looks at the target again, so that it may begin anywhere.
 */
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "agent/daemon/agent.h"
#include "agent/daemon/switch.h"
#include "engine/cleanup.h"

enum {
	START_MS = 40,	       /* between looks at a server that is starting */
	START_SLOW_MS = 1000,  /* when that takes long */
	START_LONG_MS = 60000, /* what is long */
	STOP_MS = 500,
	RETRY_MS = 2000, /* after the first hold; doubles up to */
	RETRY_MOST_MS = 300000,
	FOR_EVER = -1,
};

/* ---- held ---- */

void agent_held_clear(struct agent_target *target)
{
	free(target->held.reason);
	free(target->held.patch);
	target->held = (struct agent_held){ 0 };
}

/* Other words of the same hook are no other reason: nobody has to hear of it again. */
static bool same_reason(const char *a, const char *b)
{
	const char *said = strstr(a, AGENT_HOOK_SAID);
	size_t size = said ? (size_t)(said - a) : strlen(a);

	return strncmp(a, b, size) == 0 &&
	       (!b[size] || strncmp(b + size, AGENT_HOOK_SAID, strlen(AGENT_HOOK_SAID)) == 0);
}

/* Keeps "since" while the same kind of thing holds; @retry false: not by itself. */
static int hold(struct agent_target *target, const char *patch, const char *reason, bool retry)
{
	struct agent_held *held = &target->held;
	bool fresh = !held->reason;
	bool changed = fresh || !same_reason(held->reason, reason);
	unsigned int tries = held->tries + 1;
	int wait = RETRY_MS << (tries > 8 ? 8 : tries - 1);

	if (wait > RETRY_MOST_MS)
		wait = RETRY_MOST_MS;
	if (fresh)
		held->since = time(NULL);
	free(held->reason);
	held->reason = strdup(reason);
	if (changed) {
		free(held->patch);
		held->patch = patch ? strdup(patch) : NULL;
	}
	held->tries = tries;
	held->next_try = retry ? time(NULL) + (wait + 999) / 1000 : 0;
	if (changed) {
		agent_event(target->agent, LOG_NOTICE, "held", target,
			    json_pack("{s:s?, s:s}", "patch", patch, "reason", reason));

		pe_auto_error struct pe_error *err =
			agent_hooks_run("on-hold", target, patch, reason);

		if (err)
			agent_event(target->agent, LOG_WARNING, "hook-failed", target,
				    json_pack("{s:s}", "message", err->message));
	}
	return retry ? wait : FOR_EVER;
}

/* What makes the agent able to do it is for the administrator to say. */
static struct pe_error *name_way_out(struct pe_error *err)
{
	pe_auto_free char *text = pe_error_text(err);

	if (err->code != PE_ERR_SANDBOXED)
		return err;
	pe_error_free(err);
	return pe_error_new(
		PE_ERR_SANDBOXED,
		"%s; the agent patches such servers with SANDBOXED_TARGETS=yes or, "
		"under systemd, the drop-in sandboxed-targets.conf (care-agent(8)), and "
		"`dbcarectl apply`, run by root, without them",
		text ? text : "the server is sandboxed (seccomp)");
}

static int hold_error(struct agent_target *target, const struct agent_offer *offer,
		      struct pe_error *err)
{
	pe_auto_free char *suspicion = agent_state_suspicion(target->agent, offer->sha256);

	err = name_way_out(err);

	pe_auto_free char *text = pe_error_text(err);
	enum pe_code code = err->code;

	pe_error_free(err);
	if (code == PE_ERR_DIED || code == PE_ERR_NO_TARGET)
		return RETRY_MS; /* the next look tells */
	if (suspicion)
		return hold(target, offer->name, suspicion, false);
	/* These do not become better by waiting. A new offer or an operator wakes the task. */
	bool retry = code != PE_ERR_MISMATCH && code != PE_ERR_UNSUPPORTED &&
		     code != PE_ERR_SANDBOXED && code != PE_ERR_FORMAT && code != PE_ERR_VERIFY;

	return hold(target, offer->name, text ? text : "out of memory", retry);
}

/* Patches that their publisher took back, newest first: one may stand on another. */
static struct pe_error *revert_blocked(struct agent_target *target)
{
	json_t *patches = json_object_get(target->info, "patches");

	for (size_t i = json_array_size(patches); i-- > 0;) {
		const json_t *patch = json_array_get(patches, i);
		const char *name = json_string_value(json_object_get(patch, "name"));
		struct pe_error *err = NULL;
		const char *said;

		if (agent_in_effect(patch) &&
		    agent_is_blocked(
			    &target->agent->offers, agent_build_id(target), name,
			    (unsigned int)json_integer_value(json_object_get(patch, "level")),
			    &said)) {
			/* The description may go while we wait. */
			pe_auto_free char *copy = strdup(name), *why = NULL;

			if (asprintf(&why, "its publisher took it back%s%s", said ? ": " : "",
				     said ? said : "") < 0)
				return pe_error_nomem();
			json_incref(patches);
			err = agent_revert(target, copy, why);
			json_decref(patches);
			if (!err)
				err = agent_look(target);
			if (err)
				return err;
			patches = json_object_get(target->info, "patches");
			i = json_array_size(patches);
		}
	}
	return NULL;
}

static int apply_pass(struct agent_target *target, const struct agent_offer *chosen)
{
	struct agent_offers copies = { malloc(sizeof(struct agent_offer)), 1 };

	if (!copies.items)
		return RETRY_MS;
	/* Its own strings may go when offers are read again while we wait. */
	copies.items[0] = agent_offer_copy(chosen);

	struct agent_offer *offer = &copies.items[0];
	struct pe_error *err = agent_apply_offer(target, offer);
	int wait = FOR_EVER;

	target->doing = NULL;
	if (err && err->code != PE_ERR_NOTHING) {
		bool leaving = agent_is_leaving(target);

		wait = leaving ? STOP_MS : hold_error(target, offer, err);
		if (leaving)
			pe_error_free(err);
	} else {
		if (!err) {
			pe_auto_error struct pe_error *hook =
				agent_hooks_run("post-apply", target, offer->name, NULL);

			if (hook)
				agent_event(target->agent, LOG_WARNING, "hook-failed", target,
					    json_pack("{s:s}", "message", hook->message));
		}
		pe_error_free(err);
		agent_held_clear(target);
		agent_state_had(target->agent, agent_target_name(target), agent_build_id(target),
				offer->level);
		pe_auto_error struct pe_error *again = agent_look(target);
	}
	agent_offers_deinit(&copies);
	return wait;
}

/* ---- the pass ---- */

/*
 * The highest level that it may get: any (-1) by itself or by an operator; with AUTO_UPDATE off
 * what it had, so that a restarted server gets that back; NOT_AT_ALL when it had none.
 */
enum { NOT_AT_ALL = -2 };

static int level_allowed(struct agent_target *target)
{
	int had = agent_state_level_of(target->agent, agent_target_name(target), NULL);

	if (target->wanted || target->agent->settings.auto_update)
		return -1;
	return had >= 0 ? had : NOT_AT_ALL;
}

/*
 * A server that was patched and is another build now: upgraded, and nothing is on offer for what it
 * has become. Nobody needs to do anything if the upgrade has the fixes; somebody has to know.
 */
static void note_upgrade(struct agent_target *target, const struct agent_offer *offer)
{
	const char *before;
	int had = agent_state_level_of(target->agent, agent_target_name(target), &before);
	bool upgraded = !offer && had >= 0 && *before && *agent_build_id(target) &&
			strcmp(before, agent_build_id(target)) != 0;

	if (!upgraded) {
		free(target->note);
		target->note = NULL;
		return;
	}
	if (target->note ||
	    asprintf(&target->note,
		     "it is another build now (%.12s; %.12s had patch level %d), for "
		     "which no patch is on offer",
		     agent_build_id(target), before, had) < 0)
		return;
	agent_event(target->agent, LOG_NOTICE, "upgraded", target,
		    json_pack("{s:s, s:s, s:i, s:s}", "build_id", agent_build_id(target),
			      "build_before", before, "level_before", had, "message",
			      target->note));
}

/* Whoever took it out of this very process does not want it back at the next occasion. */
static int hold_reverted(struct agent_target *target, const struct agent_offer *offer,
			 const char *when)
{
	pe_auto_free char *reason = NULL;

	if (asprintf(
		    &reason,
		    "reverted by hand at %s: `dbcarectl update %s` applies it again, and so does a "
		    "restart of the server",
		    when, agent_target_name(target)) < 0)
		return FOR_EVER;
	return hold(target, offer->name, reason, false);
}

/*
 * @offer, or the highest level below that nothing is known against; NULL: there is none. *suspicion
 * (owned) is why it is not @offer.
 */
static const struct agent_offer *choose_good(const struct agent_target *target,
					     const struct agent_offer *offer, time_t now,
					     char **suspicion)
{
	struct agent *agent = target->agent;

	*suspicion = NULL;
	while (offer) {
		pe_auto_free char *why = agent_state_suspicion(agent, offer->sha256);

		if (!why)
			break;
		if (!*suspicion)
			*suspicion = pe_steal(why);
		offer = offer->level ? agent_choose(&agent->offers, target->provider->name,
						    agent_build_id(target), &agent->settings,
						    (int)offer->level - 1, now, NULL)
				     : NULL;
	}
	return offer;
}

static int choose_and_apply(struct agent_target *target)
{
	struct agent *agent = target->agent;
	time_t later = 0, now = time(NULL);
	int most = level_allowed(target);
	const struct agent_offer *offer =
		most == NOT_AT_ALL
			? NULL
			: agent_choose(&agent->offers, target->provider->name,
				       agent_build_id(target), &agent->settings, most, now, &later);
	int level = target->provider->level(target->info);

	agent_check_new_build(agent, target->provider->name, agent_build_id(target));
	note_upgrade(target, offer);

	int wait =
		later ? (int)(later - now < 3600 ? (later - now + 1) * 1000 : 3600000) : FOR_EVER;

	if (!offer || agent_has_patch(target, offer) || level > (int)offer->level) {
		agent_held_clear(target);
		return wait;
	}
	if (target->again)
		agent_state_forgive(agent, offer->sha256);

	pe_auto_free char *suspicion = NULL, *when = NULL;
	const struct agent_offer *good = choose_good(target, offer, now, &suspicion);

	if (!good || agent_has_patch(target, good) || level > (int)good->level)
		return hold(target, offer->name, suspicion, false);
	target->reverted_by_hand = agent_record_reverted_by_hand(target, good->name, &when);
	if (target->reverted_by_hand && !target->wanted)
		return hold_reverted(target, good, when);
	wait = apply_pass(target, good);
	/* Then the next pass tells of the other. */
	return suspicion && !target->held.reason ? STOP_MS : wait;
}

/* An operator's hold of this server, of all, or both; each has to be ended for itself. */
static bool held_by_operator(struct agent_target *target, int *wait)
{
	const char *name = agent_target_name(target);
	const char *by = agent_state_held_by(target->agent, name);
	const char *all_by = agent_state_held_by(target->agent, "");
	pe_auto_free char *reason = NULL;
	int size;

	if (!by && !all_by)
		return false;
	if (by && all_by)
		size = asprintf(&reason,
				"all servers are held by %s, and this one by %s: `dbcarectl "
				"resume` ends the one, `dbcarectl resume %s` the other",
				all_by, by, name);
	else
		size = asprintf(&reason, "%sheld by %s: `dbcarectl resume%s%s` ends it",
				by ? "" : "all servers are ", by ? by : all_by, by ? " " : "",
				by ? name : "");
	*wait = size < 0 ? FOR_EVER : hold(target, NULL, reason, false);
	return true;
}

static int work(struct agent_target *target)
{
	int wait = FOR_EVER;

	if (agent_target_state_is(target, "starting")) {
		uint64_t waited = uv_hrtime() / 1000000 - target->found_ms;

		target->doing = "waiting for its start";
		return waited > START_LONG_MS ? START_SLOW_MS : START_MS;
	}
	target->doing = NULL;
	if (!agent_settings_include(&target->agent->settings, agent_target_name(target))) {
		target->doing = "left out by the settings";
		return RETRY_MOST_MS;
	}
	if (agent_target_state_is(target, "stopping"))
		return STOP_MS;
	if (!target->ready_ms)
		target->ready_ms = uv_hrtime() / 1000000;

	/* What it is, is not known: it is neither upgraded nor is there anything to ask for. */
	const char *unreadable = json_string_value(json_object_get(target->info, "unreadable"));

	if (unreadable && !*agent_build_id(target))
		return hold(target, NULL, unreadable, true);
	if (!target->recovered) {
		json_t *answer;
		struct pe_error *err = agent_ask(target->agent, agent_request("recover", target),
						 -1, &answer, NULL);

		json_decref(answer);
		if (!err)
			err = agent_look(target);
		if (err)
			return hold_error(target, NULL, err);
		target->recovered = true;
	}
	if (held_by_operator(target, &wait))
		return wait;

	struct pe_error *err = revert_blocked(target);

	target->doing = NULL;
	return err ? hold_error(target, NULL, err) : choose_and_apply(target);
}

int agent_work_pass(struct agent_target *target)
{
	struct pe_error *err = agent_look(target);
	bool gone = err && (err->code == PE_ERR_NO_TARGET ||
			    (err->code == PE_ERR_DIED && !agent_patcher_died(err)));
	int wait = RETRY_MS;

	if (gone)
		target->gone = true;
	target->wanted |= target->urgent;
	if (!err)
		wait = work(target);
	pe_error_free(err);
	target->urgent = target->again = false;
	target->wanted &= target->held.next_try != 0;
	return wait;
}

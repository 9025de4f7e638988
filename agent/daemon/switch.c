/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is done to one target with one patch; see switch.h. */
#include "agent/daemon/switch.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <syslog.h>

#include "engine/cleanup.h"

/* ---- looking ---- */

struct pe_error *agent_look(struct agent_target *target)
{
	json_t *answer;
	struct pe_error *err = agent_ask(
		target->agent, json_pack("{s:s, s:i}", "do", "info", "pid", (int)target->pid), -1,
		&answer, NULL);
	json_t *info = json_object_get(answer, "target");

	if (!err &&
	    (uint64_t)json_integer_value(json_object_get(info, "start_time")) != target->start_time)
		err = pe_error_new(PE_ERR_NO_TARGET, "another process has its pid now");
	if (!err) {
		json_decref(target->info);
		target->info = json_incref(info);
	}
	json_decref(answer);
	return err;
}

bool agent_target_state_is(const struct agent_target *target, const char *name)
{
	const char *state = json_string_value(json_object_get(target->info, "state"));

	return state && strcmp(state, name) == 0;
}

const char *agent_build_id(const struct agent_target *target)
{
	const char *id =
		json_string_value(json_array_get(json_object_get(target->info, "build_ids"), 0));

	return id ? id : "";
}

bool agent_in_effect(const json_t *patch)
{
	const char *state = json_string_value(json_object_get(patch, "state"));

	return state && (strcmp(state, "applied") == 0 || strcmp(state, "settling") == 0);
}

/* The level of that patch in @target, as it was last looked at; -1: none. */
static int level_of_patch(const struct agent_target *target, const char *name)
{
	const json_t *patch;
	size_t i;

	json_array_foreach(json_object_get(target->info, "patches"), i, patch)
	{
		if (agent_in_effect(patch) &&
		    strcmp(json_string_value(json_object_get(patch, "name")), name) == 0)
			return (int)json_integer_value(json_object_get(patch, "level"));
	}
	return -1;
}

bool agent_has_patch(const struct agent_target *target, const struct agent_offer *offer)
{
	return level_of_patch(target, offer->name) == (int)offer->level;
}

/* ---- revert ---- */

/*
 * Asks for what takes @name out of the target; @request and @event (its fields beside the pause)
 * are taken over. @action is what the history calls it.
 */
static struct pe_error *take_out(struct agent_target *target, const char *action, const char *name,
				 json_t *request, int patch, json_t *event)
{
	struct agent *agent = target->agent;
	struct dbc_history *history;
	json_t *answer = NULL;
	struct pe_error *err = agent_record_begin(target, action, name, &history);

	if (err) {
		json_decref(request);
		json_decref(event);
		return err;
	}
	target->doing = "reverting";
	err = agent_ask(agent, request, patch, &answer, NULL);
	agent_record_end(target, history, err ? pe_code_name(err->code) : "reverted", answer, err);
	if (!err) {
		agent->counts.reverts++;
		json_object_set(event, "pause_us",
				json_object_get(json_object_get(answer, "result"), "pause_us"));
		agent_event(agent, LOG_NOTICE, "reverted", target, event);
	} else {
		json_decref(event);
	}
	json_decref(answer);
	return err;
}

struct pe_error *agent_revert(struct agent_target *target, const char *name, const char *why)
{
	json_t *request = agent_request("revert", target);

	json_object_set_new(request, "name", json_string(name));
	return take_out(target, "revert", name, request, -1,
			json_pack("{s:s, s:s}", "patch", name, "reason", why));
}

/* ---- apply ---- */

static json_t *patch_request(const struct agent_target *target, const struct agent_offer *offer,
			     const char *verb)
{
	json_t *request = agent_request(verb, target);

	json_object_set_new(request, "signature", json_string(offer->signature));
	json_object_set_new(request, "max_pause_us",
			    json_integer((json_int_t)target->agent->settings.max_pause_us));
	return request;
}

bool agent_is_leaving(struct agent_target *target)
{
	pe_auto_error struct pe_error *err = target->gone ? NULL : agent_look(target);

	return target->gone || agent_target_state_is(target, "stopping") ||
	       (err && (err->code == PE_ERR_DIED || err->code == PE_ERR_NO_TARGET) &&
		!agent_patcher_died(err));
}

/* What went wrong after the switch; the patch is then taken back. */
static struct pe_error *verify(struct agent_target *target, struct agent_visit *visit,
			       const json_t *answer)
{
	const json_t *result = json_object_get(answer, "result");
	const char *wrong = json_string_value(json_object_get(result, "threads_wrong"));

	target->doing = "verifying";

	struct pe_error *err = wrong ? pe_error_new(PE_ERR_VERIFY, "%s", wrong) : NULL;

	if (!err && target->provider->after)
		err = target->provider->after(visit);
	if (!err || !agent_is_leaving(target))
		return err;
	pe_error_free(err);
	return pe_error_new(PE_ERR_DIED, "the server ended before the patch was verified");
}

/* The offer of that level of the same patch; false: there is none any more. */
static bool find_level(const struct agent_target *target, const struct agent_offer *offer,
		       int level, struct agent_offer *ret)
{
	const struct agent_offers *offers = &target->agent->offers;

	for (size_t i = 0; level >= 0 && i < offers->count; i++) {
		const struct agent_offer *other = &offers->items[i];

		if ((int)other->level == level && !other->blocked &&
		    strcmp(other->name, offer->name) == 0 &&
		    strcmp(other->product, offer->product) == 0 &&
		    strcmp(other->build_id, offer->build_id) == 0) {
			*ret = agent_offer_copy(other);
			return true;
		}
	}
	return false;
}

/* One switch from the level of @offer to the lower one: never without either. */
static struct pe_error *put_back(struct agent_target *target, const struct agent_offer *offer,
				 const struct agent_offer *before, const char *why)
{
	json_t *request;
	struct pe_error *err = agent_fetch_patch(target->agent, before);

	if (err)
		return err;
	pe_auto_fd int patch = open(before->file, O_RDONLY | O_CLOEXEC);
	if (patch < 0)
		return pe_error_errno(errno, "cannot read %s", before->file);
	request = patch_request(target, before, "apply");
	json_object_set_new(request, "replace", json_string(offer->name));
	/* It is the way out of trouble. */
	json_object_del(request, "max_pause_us");
	return take_out(target, "auto-revert", offer->name, request, patch,
			json_pack("{s:s, s:i, s:s}", "patch", offer->name, "to_level",
				  (int)before->level, "reason", why));
}

/* To level @before, if @offer has replaced one; -1: none. What became of it, and why. */
static struct pe_error *undo(struct agent_target *target, const struct agent_offer *offer,
			     int before, struct pe_error *cause)
{
	pe_auto_free char *why = pe_error_text(cause);
	struct agent_offers lower = { calloc(1, sizeof(struct agent_offer)), 0 };
	const char *name = offer->name;

	target->agent->counts.failures++;
	agent_event(target->agent, LOG_ERR, "verification-failed", target,
		    json_pack("{s:s, s:s}", "patch", name, "message", why ? why : ""));
	if (lower.items && find_level(target, offer, before, lower.items))
		lower.count = 1;

	struct pe_error *err =
		lower.count ? put_back(target, offer, lower.items, why ? why : "") : NULL;
	bool back = lower.count && !err;

	agent_offers_deinit(&lower);
	pe_error_free(err);
	if (back)
		return pe_error_wrap(cause,
				     "%s was applied, failed verification and was reverted to "
				     "level %d",
				     name, before);
	err = agent_revert(target, name, why ? why : "verification failed");
	if (err)
		return pe_error_wrap(err, "%s failed verification (%s) and could not be reverted",
				     name, why ? why : "");
	return pe_error_wrap(cause, "%s was applied, failed verification and was reverted", name);
}

/* Takes @cause over. What fails in one server is not tried in others, nor there at the next look.
 */
static struct pe_error *take_back(struct agent_target *target, const struct agent_offer *offer,
				  int before, struct pe_error *cause)
{
	struct pe_error *err = undo(target, offer, before, cause);
	pe_auto_free char *text = pe_error_text(err);

	agent_state_failed(target->agent, offer->sha256, agent_target_name(target),
			   text ? text : "it failed its verification");
	return err;
}

static void tell_applied(struct agent_target *target, const struct agent_offer *offer,
			 const json_t *answer)
{
	const json_t *result = json_object_get(answer, "result");

	target->agent->counts.applies++;
	agent_event(target->agent, LOG_NOTICE, "applied", target,
		    json_pack("{s:s, s:i, s:s?, s:O?, s:I}", "patch", offer->name, "level",
			      (int)offer->level, "signer",
			      json_string_value(json_object_get(answer, "signer")), "pause_us",
			      json_object_get(result, "pause_us"), "after_ready_ms",
			      (json_int_t)(uv_hrtime() / 1000000 - target->ready_ms)));
}

/* Gates open, hooks content: the switch, and whether the server liked it. */
static struct pe_error *switch_and_verify(struct agent_target *target,
					  const struct agent_offer *offer,
					  struct agent_visit *visit, int patch)
{
	struct dbc_history *history;
	json_t *answer = NULL;
	int before = level_of_patch(target, offer->name);
	struct pe_error *err = agent_record_begin(target, "apply", offer->name, &history);

	if (err)
		return err;
	target->doing = "applying";
	err = agent_ask(target->agent, patch_request(target, offer, "apply"), patch, &answer, NULL);
	if (err) {
		/* Whatever the dead patcher left is finished or undone by the next pass. */
		if (agent_patcher_died(err))
			target->recovered = false;
		agent_record_end(target, history, pe_code_name(err->code), answer, err);
		json_decref(answer);
		return err;
	}
	free(target->fresh);
	target->fresh = strdup(offer->sha256);
	target->fresh_since = time(NULL);
	err = verify(target, visit, answer);
	agent_record_end(target, history, err ? pe_code_name(err->code) : "applied", answer, err);
	if (!err)
		tell_applied(target, offer, answer);
	json_decref(answer);
	return err && err->code != PE_ERR_DIED ? take_back(target, offer, before, err) : err;
}

/* @gates: what the patch demands of them. */
static struct pe_error *visit_and_apply(struct agent_target *target,
					const struct agent_offer *offer, int patch,
					const json_t *gates)
{
	struct agent *agent = target->agent;
	struct agent_visit visit = { .settings = &agent->settings, .gates = gates, .door = -1 };
	json_t *answer = NULL, *info = json_incref(target->info);
	struct pe_error *err = NULL;

	visit.target = info;
	target->doing = "asking the server";
	if (target->provider->reach)
		err = agent_ask(agent, agent_request("reach", target), -1, &answer, &visit.door);
	json_decref(answer);
	if (!err && target->provider->before)
		err = target->provider->before(&visit);
	if (!err)
		err = switch_and_verify(target, offer, &visit, patch);
	if (target->provider->leave)
		target->provider->leave(&visit);
	if (visit.door >= 0)
		close(visit.door);
	json_decref(info);
	return err;
}

struct pe_error *agent_apply_offer(struct agent_target *target, const struct agent_offer *offer)
{
	struct agent *agent = target->agent;
	json_t *answer = NULL;
	struct pe_error *err = agent_fetch_patch(agent, offer);

	if (err)
		return err;
	pe_auto_fd int patch = open(offer->file, O_RDONLY | O_CLOEXEC);
	if (patch < 0)
		return pe_error_errno(errno, "cannot read %s", offer->file);
	/* Before anybody is asked or any hook runs: does it fit, and is it signed? */
	err = agent_ask(agent, patch_request(target, offer, "plan"), patch, &answer, NULL);
	if (err && err->code == PE_ERR_POLICY)
		agent->counts.signature_failures++;
	if (!err)
		err = agent_hooks_run("pre-apply", target, offer->name, NULL);
	if (!err)
		err = visit_and_apply(target, offer, patch,
				      json_object_get(json_object_get(answer, "patch"), "gates"));
	json_decref(answer);
	return err;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/daemon/policy.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "agent/repo/day.h"
#include "agent/repo/sticky.h"
#include "engine/cleanup.h"

void agent_offers_deinit(struct agent_offers *offers)
{
	for (size_t i = 0; i < offers->count; i++) {
		struct agent_offer *offer = &offers->items[i];

		free(offer->name);
		free(offer->product);
		free(offer->build_id);
		free(offer->file);
		free(offer->signature);
		free(offer->sha256);
		free(offer->path);
		free(offer->feed);
		free(offer->block_reason);
	}
	free(offers->items);
	*offers = (struct agent_offers){ 0 };
}

struct agent_offer agent_offer_copy(const struct agent_offer *offer)
{
	struct agent_offer copy = *offer;

	copy.name = strdup(offer->name);
	copy.product = strdup(offer->product);
	copy.build_id = strdup(offer->build_id);
	copy.file = strdup(offer->file);
	copy.signature = strdup(offer->signature ? offer->signature : "");
	copy.sha256 = strdup(offer->sha256);
	copy.path = offer->path ? strdup(offer->path) : NULL;
	copy.feed = offer->feed ? strdup(offer->feed) : NULL;
	copy.block_reason = offer->block_reason ? strdup(offer->block_reason) : NULL;
	return copy;
}

/* @text is a day: as a setting, or as the repository says. */
static struct pe_error *until_day(const char *text, time_t now, time_t *ret)
{
	time_t begin;
	struct pe_error *err = repo_day_parse(text, &begin);

	*ret = 0;
	if (err)
		return err;
	if (begin > now)
		return pe_error_new(PE_ERR_POLICY, "STICKY_PATCH: %s is in the future", text);
	if (begin + REPO_DAY_SECONDS > now)
		return pe_error_new(PE_ERR_POLICY,
				    "STICKY_PATCH: %s is today, whose patches may still change: "
				    "take a day that is over",
				    text);
	*ret = begin + REPO_DAY_SECONDS - 1;
	if ((now - begin) / REPO_DAY_SECONDS > AGENT_STICKY_DAYS)
		return pe_error_new(PE_ERR_POLICY, "STICKY_PATCH: %s is more than %d days ago",
				    text, AGENT_STICKY_DAYS);
	return NULL;
}

struct pe_error *agent_sticky_until(const struct agent_settings *settings, time_t now, time_t *ret)
{
	const char *text = settings->sticky_patch, *said = settings->key_sticky;

	*ret = INT64_MAX;
	if (!text)
		return NULL;
	if (strcasecmp(text, "KEY") != 0)
		return until_day(text, now, ret);
	*ret = 0;
	if (!settings->registration_key)
		return pe_error_new(PE_ERR_POLICY, "STICKY_PATCH=KEY wants a REGISTRATION_KEY");
	if (!said)
		return pe_error_new(PE_ERR_POLICY,
				    "STICKY_PATCH=KEY: the repository says nothing of this host's "
				    "REGISTRATION_KEY (its publisher: care-repo sticky)");
	*ret = INT64_MAX;
	if (strcmp(said, REPO_STICKY_NONE) == 0)
		return NULL;
	if (strcmp(said, REPO_STICKY_YESTERDAY) != 0)
		return until_day(said, now, ret);
	*ret = now - now % REPO_DAY_SECONDS - 1;
	return NULL;
}

static bool same_feed(const struct agent_offer *offer, const struct agent_settings *settings)
{
	static const char usual[] = "main";
	const char *have = offer->feed ? offer->feed : usual;
	const char *want = settings->prefix ? settings->prefix : usual;

	return offer->custom || strcmp(have, want) == 0;
}

/* What all offers are measured by. */
struct measure {
	const struct agent_settings *settings;
	const char *product, *build_id;
	int most; /* level; -1: any */
	bool cached_only;
	time_t now, until; /* of the sticky day */
	time_t *later;
};

/* The operator's own patches are his own decision: dates and delays are not for them. */
static bool old_enough(const struct agent_offer *offer, const struct measure *measure)
{
	uint64_t delay = measure->settings->update_delay_s;
	time_t ripe = offer->published + (time_t)delay;

	if (offer->custom)
		return true;
	if (offer->published > measure->until)
		return false;
	if (delay && ripe > measure->now) {
		if (measure->later && (!*measure->later || ripe < *measure->later))
			*measure->later = ripe;
		return false;
	}
	return true;
}

static bool usable(const struct agent_offer *offer, const struct measure *measure)
{
	const struct agent_settings *settings = measure->settings;

	if (strcmp(offer->product, measure->product) != 0 ||
	    strcmp(offer->build_id, measure->build_id) != 0 ||
	    (measure->most >= 0 && offer->level > (unsigned int)measure->most))
		return false;
	if (offer->blocked || !same_feed(offer, settings))
		return false;
	if (settings->sticky_level && !offer->custom && offer->level > settings->sticky_level)
		return false;
	return (offer->cached || !measure->cached_only) && old_enough(offer, measure);
}

static const struct agent_offer *choose(const struct agent_offers *offers,
					const struct measure *measure)
{
	const struct agent_offer *best = NULL;

	for (size_t i = 0; i < offers->count; i++) {
		const struct agent_offer *offer = &offers->items[i];

		if (usable(offer, measure) &&
		    (!best || offer->level > best->level ||
		     (offer->level == best->level && offer->published > best->published)))
			best = offer;
	}
	return best;
}

const struct agent_offer *agent_choose(const struct agent_offers *offers, const char *product,
				       const char *build_id, const struct agent_settings *settings,
				       int most, time_t now, time_t *later)
{
	struct measure measure = { .settings = settings,
				   .product = product,
				   .build_id = build_id,
				   .most = most,
				   .cached_only = settings->update_policy != AGENT_REMOTE,
				   .now = now,
				   .later = later };
	pe_auto_error struct pe_error *refused = agent_sticky_until(settings, now, &measure.until);
	bool nothing_new = refused && !measure.until;
	const struct agent_offer *best;

	if (later)
		*later = 0;
	/* What the host got already stays: a restarted server is not left without it. */
	if (nothing_new) {
		measure.cached_only = true;
		measure.until = INT64_MAX;
	}
	best = choose(offers, &measure);
	if (!best && settings->update_policy == AGENT_LOCAL_FIRST && !nothing_new) {
		measure.cached_only = false;
		best = choose(offers, &measure);
	}
	return best;
}

bool agent_is_blocked(const struct agent_offers *offers, const char *build_id, const char *name,
		      unsigned int level, const char **why)
{
	if (why)
		*why = NULL;
	for (size_t i = 0; i < offers->count; i++) {
		const struct agent_offer *offer = &offers->items[i];

		if (!offer->blocked || offer->level != level ||
		    strcmp(offer->build_id, build_id) != 0 || strcmp(offer->name, name) != 0)
			continue;
		if (why)
			*why = offer->block_reason;
		return true;
	}
	return false;
}

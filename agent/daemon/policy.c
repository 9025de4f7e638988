/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/daemon/policy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
	}
	free(offers->items);
	*offers = (struct agent_offers){ 0 };
}

struct pe_error *agent_sticky_date(const char *text, time_t now, time_t *ret)
{
	size_t size = strlen(text);
	int day, month, year;
	enum { DAY = 86400 };

	if (text[strspn(text, "0123456789")] || (size != 6 && size != 8))
		return pe_error_new(PE_ERR_USAGE,
				    "'%.32s' is no date DDMMYY (KEY needs a key of a patch "
				    "service, which this product does not have)",
				    text);
	sscanf(text, "%2d%2d%4d", &day, &month, &year);

	struct tm date = { .tm_mday = day,
			   .tm_mon = month - 1,
			   .tm_year = (year < 100 ? year + 2000 : year) - 1900 };
	struct tm given = date;
	time_t begin = timegm(&date);

	/* timegm makes 31 February another day. */
	if (date.tm_mday != given.tm_mday || date.tm_mon != given.tm_mon)
		return pe_error_new(PE_ERR_USAGE, "there is no day %s", text);
	if (begin > now)
		return pe_error_new(PE_ERR_USAGE, "%s is in the future", text);
	if (begin + DAY > now)
		return pe_error_new(PE_ERR_USAGE,
				    "%s is today, whose patches may still change: take a day that "
				    "is over",
				    text);
	if ((now - begin) / DAY > AGENT_STICKY_DAYS)
		return pe_error_new(PE_ERR_USAGE, "%s is more than %d days ago", text,
				    AGENT_STICKY_DAYS);
	*ret = begin + DAY - 1;
	return NULL;
}

static bool same_feed(const struct agent_offer *offer, const struct agent_settings *settings)
{
	static const char usual[] = "main";
	const char *have = offer->feed ? offer->feed : usual;
	const char *want = settings->prefix ? settings->prefix : usual;

	return offer->custom || strcmp(have, want) == 0;
}

/* The operator's own patches are his own decision: dates and delays are not for them. */
static bool old_enough(const struct agent_offer *offer, const struct agent_settings *settings,
		       time_t now, time_t *later)
{
	time_t until = now, ripe = offer->published + (time_t)settings->update_delay_s;

	if (offer->custom)
		return true;
	if (settings->sticky_patch) {
		struct pe_error *err = agent_sticky_date(settings->sticky_patch, now, &until);

		/* A date that has grown too old: nothing newer than it either. */
		if (err)
			until = 0;
		pe_error_free(err);
		if (offer->published > until)
			return false;
	}
	if (settings->update_delay_s && ripe > now) {
		if (later && (!*later || ripe < *later))
			*later = ripe;
		return false;
	}
	return true;
}

static bool usable(const struct agent_offer *offer, const struct agent_settings *settings,
		   bool cached_only)
{
	if (offer->blocked || !same_feed(offer, settings))
		return false;
	if (settings->sticky_level && !offer->custom && offer->level > settings->sticky_level)
		return false;
	return offer->cached || !cached_only;
}

static const struct agent_offer *choose(const struct agent_offers *offers, const char *product,
					const char *build_id, const struct agent_settings *settings,
					bool cached_only, int most, time_t now, time_t *later)
{
	const struct agent_offer *best = NULL;

	for (size_t i = 0; i < offers->count; i++) {
		const struct agent_offer *offer = &offers->items[i];

		if (strcmp(offer->product, product) != 0 ||
		    strcmp(offer->build_id, build_id) != 0 ||
		    (most >= 0 && offer->level > (unsigned int)most) ||
		    !usable(offer, settings, cached_only) ||
		    !old_enough(offer, settings, now, later))
			continue;
		if (!best || offer->level > best->level ||
		    (offer->level == best->level && offer->published > best->published))
			best = offer;
	}
	return best;
}

const struct agent_offer *agent_choose(const struct agent_offers *offers, const char *product,
				       const char *build_id, const struct agent_settings *settings,
				       int most, time_t now, time_t *later)
{
	bool local = settings->update_policy != AGENT_REMOTE;
	const struct agent_offer *best;

	if (later)
		*later = 0;
	best = choose(offers, product, build_id, settings, local, most, now, later);
	if (!best && settings->update_policy == AGENT_LOCAL_FIRST)
		best = choose(offers, product, build_id, settings, false, most, now, later);
	return best;
}

bool agent_is_blocked(const struct agent_offers *offers, const char *build_id, const char *name,
		      unsigned int level)
{
	for (size_t i = 0; i < offers->count; i++) {
		const struct agent_offer *offer = &offers->items[i];

		if (offer->blocked && offer->level == level &&
		    strcmp(offer->build_id, build_id) == 0 && strcmp(offer->name, name) == 0)
			return true;
	}
	return false;
}

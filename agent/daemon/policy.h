/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which of the patches that are on offer a target is to have. Pure functions. */
#ifndef AGENT_POLICY_H
#define AGENT_POLICY_H

#include <stdint.h>
#include <time.h>

#include "agent/daemon/config.h"

/* A patch that could be had. */
struct agent_offer {
	char *name;
	char *product;
	char *build_id; /* hex, of the target that it names */
	unsigned int level;
	time_t published;   /* 0: not known */
	bool blocked;	    /* its publisher took it back */
	char *block_reason; /* what he says of that; or NULL */
	bool custom;	    /* the operator's own, from the patch directory */
	bool cached;	    /* its file is here */
	char *file;	    /* where it is, or will be */
	char *signature;    /* detached, text */
	char *sha256;	    /* hex, of the file */
	char *path;	    /* in the repository; NULL: custom */
	char *feed;	    /* NULL: the usual one */
};

struct agent_offers {
	struct agent_offer *items;
	size_t count;
};

void agent_offers_deinit(struct agent_offers *offers);
/* With strings of its own. */
struct agent_offer agent_offer_copy(const struct agent_offer *offer);

/* How old a sticky date may be, days. */
enum { AGENT_STICKY_DAYS = 60 };

/*
 * The last second of which patches may be, as STICKY_PATCH says at @now; INT64_MAX when it says
 * nothing. POLICY when it cannot be followed: a day that is today, in the future or too long ago,
 * or KEY when the repository says nothing of the host's key; each says which. *ret is then the end
 * of a day that is too long ago, for that still is no newer patch, and else 0: nothing new.
 */
struct pe_error *agent_sticky_until(const struct agent_settings *settings, time_t now,
				    time_t *ret) pe_must_check;

/*
 * The offer for @product and @build_id that the settings allow at @now: the highest level (at most
 * @most; -1: any), of the same level the newest. NULL: none. *later, when not NULL: when a younger
 * offer will be old enough (0: none is waiting).
 */
const struct agent_offer *agent_choose(const struct agent_offers *offers, const char *product,
				       const char *build_id, const struct agent_settings *settings,
				       int most, time_t now, time_t *later);

/*
 * Whether a patch of that name and level for @build_id was taken back by its publisher; *why (may
 * be NULL) is what he says of that, borrowed, or NULL.
 */
bool agent_is_blocked(const struct agent_offers *offers, const char *build_id, const char *name,
		      unsigned int level, const char **why);

#endif

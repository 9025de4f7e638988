/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sticky days of keys: a publisher says which day the hosts of a key are to stick to, in signed
 * metadata like all else. The target of a key is keys/sticky/SHA256/settings.json, where SHA256 is
 * of the key's text, so that the public folder does not tell the keys; its custom data say
 * {"sticky": TAG}.
 */
#ifndef AGENT_REPO_STICKY_H
#define AGENT_REPO_STICKY_H

#include <stdbool.h>

/* A feed of its own, whose role and keys are like those of a feed of patches. */
#define REPO_KEYS_FEED "keys"
#define REPO_STICKY "sticky"

/* TAG is a day (day.h), or one of these. */
#define REPO_STICKY_YESTERDAY "yesterday"
#define REPO_STICKY_NONE "none"

/* 8 to 64 letters, digits and hyphens. */
bool repo_sticky_key_ok(const char *key);
bool repo_sticky_tag_ok(const char *tag);
/* "keys/sticky/SHA256/", owned by the caller; NULL without memory. */
char *repo_sticky_folder(const char *key);

#endif

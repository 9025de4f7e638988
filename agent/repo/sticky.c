/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/repo/sticky.h"

#include <stdio.h>
#include <string.h>

#include "agent/repo/day.h"
#include "agent/repo/key.h"
#include "engine/cleanup.h"

enum { KEY_LEAST = 8, KEY_MOST = 64 };

bool repo_sticky_key_ok(const char *key)
{
	static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				   "-";
	size_t length = strlen(key);

	return length >= KEY_LEAST && length <= KEY_MOST && strspn(key, good) == length;
}

bool repo_sticky_tag_ok(const char *tag)
{
	time_t day;
	pe_auto_error struct pe_error *err = NULL;

	if (!strcmp(tag, REPO_STICKY_YESTERDAY) || !strcmp(tag, REPO_STICKY_NONE))
		return true;
	err = repo_day_parse(tag, &day);
	return !err;
}

char *repo_sticky_folder(const char *key)
{
	char hex[65], *folder = NULL;

	if (!repo_sha256_hex(key, strlen(key), hex) ||
	    asprintf(&folder, REPO_KEYS_FEED "/" REPO_STICKY "/%s/", hex) < 0)
		return NULL;
	return folder;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Settings: KEY=VALUE lines of agent.conf. Keys and values are those that KernelCare's users know;
 * booleans are yes/no, true/false, on/off, 1/0 in any case.
 */
#ifndef AGENT_CONFIG_H
#define AGENT_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

enum agent_update_policy {
	AGENT_REMOTE,	   /* what the repository has */
	AGENT_LOCAL,	   /* what the cache has; when it has nothing, nothing */
	AGENT_LOCAL_FIRST, /* what the cache has; when it has nothing, the repository */
};

struct agent_settings {
	bool auto_update;
	enum agent_update_policy update_policy;
	char *patch_server;	   /* URL of the repository; NULL: none */
	char *prefix;		   /* feed; NULL: the usual one */
	char *sticky_patch;	   /* a day, or KEY; NULL: newest */
	char *registration_key;	   /* under which the repository knows this host; NULL: none */
	unsigned int sticky_level; /* STICKY_PATCHSET: no higher level; 0: any */
	uint64_t update_delay_s;   /* seconds a patch has to be out before it is taken */
	uint64_t check_interval_s;
	uint64_t scan_interval_s;
	uint64_t max_pause_us;	   /* 0: no limit */
	unsigned int max_lag_s;	   /* of a replica; UINT_MAX: no limit */
	unsigned int max_load;	   /* statements that run; UINT_MAX: no limit */
	char *proxy;		   /* NULL: as the environment says */
	char *no_proxy;		   /* names that need none; NULL: as the environment says */
	char *ca_file;		   /* who may vouch for an HTTPS server; NULL: as the system says */
	char *sql_user;		   /* NULL: the agent's own user */
	char *sql_defaults_file;   /* NULL: none */
	char *only_targets;	   /* patterns of names, blank between; NULL: all */
	char *ignore_targets;	   /* the same; wins */
	unsigned int metrics_port; /* on loopback; 0: no HTTP */
	char *metrics_file;	   /* for a textfile collector; NULL: none */
	bool sandboxed_targets;	   /* how care-agent --foreground starts care-patcher */
	/*
	 * No setting: what the repository said last of registration_key, a day, "yesterday" or
	 * "none"; NULL: nothing.
	 */
	char *key_sticky;
};

/* Reads @path; one that is not there gives the defaults. FORMAT names the line and the value. */
struct pe_error *agent_settings_read(const char *path, struct agent_settings *ret) pe_must_check;
void agent_settings_deinit(struct agent_settings *settings);
/*
 * @fresh (taken over) instead of @settings. Texts that changed are left behind, for tasks that wait
 * may be using them; those that did not stay where they are, so that reading the same file again
 * costs nothing.
 */
void agent_settings_replace(struct agent_settings *settings, struct agent_settings *fresh);

/* "90", "90s", "15m", "12h", "3d" to seconds. */
bool agent_parse_duration(const char *text, uint64_t *seconds);
bool agent_parse_bool(const char *text, bool *ret);
/* Whether the settings let a target of that name be patched (fnmatch(3) patterns). */
bool agent_settings_include(const struct agent_settings *settings, const char *name);
const char *agent_policy_name(enum agent_update_policy policy);

#endif

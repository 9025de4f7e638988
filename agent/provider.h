/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A provider is a product: what can be patched, and how. The agent's core knows products by this
 * interface only; which there are is said by agent_providers[], which each program links.
 *
 * The first half runs in care-patcher, with its rights and without SQL or network. The second half
 * runs in care-agent, without rights, inside a task (agent/daemon/task.h) that may wait.
 *
 * A target is described by a JSON object, the same in both halves:
 *	provider  name of its provider
 *	pid, start_time  which process; a pid alone may come to mean another one
 *	state     "starting", "ready" or "stopping"
 *	build_ids hex, of the images that patches may name; none, and
 *	unreadable	why, when it cannot be looked into
 *	patches   what is applied: objects with name, state, level, cves
 *	name      how people call it: a socket, a path; no two targets of a host have the same
 *	aliases   what else they may call it (may be missing)
 *	...       what the provider wants to add
 */
#ifndef AGENT_PROVIDER_H
#define AGENT_PROVIDER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "engine/error.h"
#include "engine/patch.h"

/* One operation on one target, as the privileged half gets it. */
struct agent_work {
	pid_t pid;
	uint64_t start_time;		   /* clock ticks since boot */
	const struct pe_patch *patch;	   /* plan, apply: its signature has been verified */
	const char *replace;		   /* apply: an applied patch that makes way; or NULL */
	const char *name;		   /* revert: of the patch */
	uint64_t timeout_us, max_pause_us; /* 0: the engine's own; no limit */
};

struct agent_settings; /* agent/daemon/config.h */

/* What the unprivileged half needs to talk to one target. */
struct agent_visit {
	const json_t *target;
	const struct agent_settings *settings;
	const json_t *gates; /* names, which the patch demands besides the usual; or NULL */
	int door;	     /* what `reach` opened, or -1 */
	void *baseline;	     /* the provider's own, from before to after */
};

struct agent_provider {
	const char *name;
	/* Names of processes (/proc/PID/comm) whose start is worth a look; NULL at the end. */
	const char *const *programs;

	/* ---- in care-patcher ---- */

	/* Appends a description of each target of this host. */
	struct pe_error *(*discover)(json_t *targets);
	/* Describes one process; NO_TARGET when it is none of ours. */
	struct pe_error *(*info)(pid_t pid, json_t **ret);
	/* Would it apply? Changes nothing. NOTHING when it is applied already. */
	struct pe_error *(*plan)(const struct agent_work *work, json_t **ret);
	struct pe_error *(*apply)(const struct agent_work *work, json_t **ret);
	struct pe_error *(*revert)(const struct agent_work *work, json_t **ret);
	/* Finishes or undoes what a dead patcher left. */
	struct pe_error *(*recover)(const struct agent_work *work, json_t **ret);
	/* Opens (O_PATH) where the target can be asked questions; NULL: nowhere. */
	struct pe_error *(*reach)(const struct agent_work *work, int *ret);

	/* ---- in care-agent ---- */

	/* The patch level of a described target; -1: none. */
	int (*level)(const json_t *target);
	/* Is now a good time? HELD names the reason. Takes the baseline. NULL: always. */
	struct pe_error *(*before)(struct agent_visit *visit);
	/* Does it still serve? VERIFY when not. NULL: yes. */
	struct pe_error *(*after)(struct agent_visit *visit);
	/* Frees the baseline. */
	void (*leave)(struct agent_visit *visit);
};

/* All products; ends with NULL. */
extern const struct agent_provider *const agent_providers[];

const struct agent_provider *agent_provider_find(const char *name);

#endif

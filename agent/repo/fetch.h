/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fetching over HTTP with libcurl, waiting for each answer: for commands, not for the agent. */
#ifndef AGENT_REPO_FETCH_H
#define AGENT_REPO_FETCH_H

#include <stddef.h>

#include "agent/repo/tuf.h"
#include "engine/error.h"

struct repo_fetch;

/* What went over the wire so far, in bytes of HTTP (TLS apart), requests and answers. */
struct repo_traffic {
	unsigned int requests;
	unsigned long long sent, received;
};

struct pe_error *repo_fetch_new(struct repo_fetch **ret) pe_must_check;
void repo_fetch_free(struct repo_fetch *fetch);
const struct repo_traffic *repo_fetch_traffic(const struct repo_fetch *fetch);

/*
 * Runs @client until it asks for nothing more. @progress is told each path that is fetched; may be
 * NULL.
 */
struct pe_error *repo_fetch_run(struct repo_fetch *fetch, struct tuf_client *client,
				const char *metadata_url,
				void (*progress)(void *arg, const char *path),
				void *arg) pe_must_check;

/* Fetches one artifact into @dir; the client's search found @target. */
struct pe_error *repo_fetch_target(struct repo_fetch *fetch, const struct tuf_client *client,
				   const struct tuf_target *target, const char *targets_url,
				   const char *dir) pe_must_check;

#endif

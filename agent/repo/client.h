/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Inside of the client: what client.c, top_roles.c, target_roles.c, search.c and download.c share.
 */
#ifndef AGENT_REPO_CLIENT_H
#define AGENT_REPO_CLIENT_H

#include "agent/repo/metadata.h"
#include "agent/repo/store.h"
#include "agent/repo/tuf.h"

/*
 * The steps of the specification's detailed client workflow, each asking for files until it is
 * through:
 *
 *	IDLE -refresh-> ROOT -> TIMESTAMP -> SNAPSHOT -> TARGETS -> READY -find/list-> SEARCH ->
 *READY
 *
 * Any error leads to IDLE.
 */
enum client_step {
	STEP_IDLE,
	STEP_ROOT,
	STEP_TIMESTAMP,
	STEP_SNAPSHOT,
	STEP_TARGETS,
	STEP_READY,
	STEP_SEARCH,
};

/* A targets role that was loaded in this refresh. */
struct loaded_role {
	char *name;
	struct tuf_metadata *metadata;
	struct loaded_role *parent; /* who vouches for its signatures; NULL: root */
	unsigned int search;	    /* in which it was visited last, */
	struct loaded_role *via;    /* and from which role */
	struct loaded_role *next;
};

/* A role still to be visited, and the role that delegates to it. */
struct visit {
	const char *name;	    /* borrowed from the delegator's JSON */
	struct loaded_role *parent; /* NULL: root */
	struct visit *next;
};

struct found_target {
	const char *path; /* borrowed from the role's JSON */
	json_t *entry;
	struct loaded_role *role;
};

struct tuf_client {
	char *dir;
	struct repo_store store;
	struct tuf_limits limits;
	int64_t now; /* start of the update, seconds since 1970 */
	enum client_step step;
	unsigned int rotations; /* roots followed in this refresh */
	bool unchanged;		/* the server said that the timestamp is (304) */
	struct tuf_metadata *root, *timestamp, *snapshot;
	char *timestamp_sha256; /* hex, of the trusted file's bytes */
	struct loaded_role *roles;

	bool waiting; /* for tuf_answer() */
	char *path;   /* of the request */
	size_t max_bytes;
	char *etag;

	char *wanted;	     /* path or prefix that is searched */
	bool prefix;	     /* collect all below it */
	unsigned int search; /* counts searches */
	unsigned int visited;
	struct visit *visits; /* a stack: the next one first */
	struct found_target *found;
	size_t found_count;
};

/* Asks for "[VERSION.]NAME.json"; version 0 for none. */
struct pe_error *client_ask(struct tuf_client *client, const char *name, int64_t version,
			    size_t max_bytes) pe_must_check;
struct pe_error *client_expired(const struct tuf_client *client,
				const struct tuf_metadata *metadata,
				const char *what) pe_must_check;
/* PE_ERR_POLICY for an answer that is not 200, or is longer than was asked for. */
struct pe_error *client_check_reply(const struct tuf_client *client,
				    const struct tuf_reply *reply) pe_must_check;

/* The signed length, or when there is none (or one beyond reason) @limit. */
size_t client_length_or(const json_t *meta, size_t limit);

/* ---- top_roles.c ---- */

/* Remembers which ETag the trusted timestamp came with; no role's file can have this name. */
#define CLIENT_ETAG_FILE ".etag"

/* Verifies a top-level role against the trusted root. */
struct pe_error *client_verify_top(const struct tuf_client *client, const struct tuf_metadata *md,
				   const char *what) pe_must_check;
/* One step each: what is to be asked for, and what was answered. */
struct pe_error *client_answer_root(struct tuf_client *client,
				    const struct tuf_reply *reply) pe_must_check;
struct pe_error *client_next_timestamp(struct tuf_client *client) pe_must_check;
struct pe_error *client_answer_timestamp(struct tuf_client *client,
					 const struct tuf_reply *reply) pe_must_check;
struct pe_error *client_next_snapshot(struct tuf_client *client) pe_must_check;
struct pe_error *client_answer_snapshot(struct tuf_client *client,
					const struct tuf_reply *reply) pe_must_check;

/* ---- target_roles.c ---- */

/* A role that was loaded, or NULL. */
struct loaded_role *client_role(const struct tuf_client *client, const char *name);
/*
 * Loads targets role @name, for which @parent (NULL: root) vouches: from the session, from disk,
 * or, when *ret stays NULL, by a request that was made.
 */
struct pe_error *client_role_load(struct tuf_client *client, const char *name,
				  struct loaded_role *parent,
				  struct loaded_role **ret) pe_must_check;
/* The answer to that request: verified, stored, loaded. */
struct pe_error *client_role_answer(struct tuf_client *client, const char *name,
				    struct loaded_role *parent, const struct tuf_reply *reply,
				    struct loaded_role **ret) pe_must_check;

/* ---- search.c ---- */

struct pe_error *client_search_next(struct tuf_client *client) pe_must_check;
struct pe_error *client_search_answer(struct tuf_client *client,
				      const struct tuf_reply *reply) pe_must_check;
void client_search_clear(struct tuf_client *client);

#endif

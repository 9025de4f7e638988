/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The client of a TUF repository (specification 1.0.34), as a state machine that does no network
 * input or output itself. Whoever drives it fetches what it asks for and hands the answer back:
 *
 *	tuf_client_open(dir, NULL, &client);
 *	tuf_refresh(client);                      begin: loads and verifies what is on disk
 *	while (!(err = tuf_next(client, &request)) && request.path)
 *		... GET metadata-url/request.path, at most request.max_bytes ...
 *		err = tuf_answer(client, &answer);
 *	tuf_find(client, "main/db/…/x.cpatch");   begin: then the same loop
 *	target = tuf_target(client, 0);
 *	tuf_client_free(client);
 *
 * After tuf_next() gave a request, tuf_answer() must follow. After any error the state on disk is
 * that of the last metadata that were good (each file is written whole, synced and renamed, in the
 * order of the specification, so a kill at any moment leaves a state from which the next refresh
 * goes on); tuf_refresh() starts anew, tuf_client_free() gives up.
 *
 * Files in the folder: root.json, timestamp.json, snapshot.json, targets.json and ROLE.json with
 * the role's name percent-encoded, so that no name leads out of the folder. One client a folder at
 * a time (a lock on the folder, held while it is open).
 *
 * One thread at a time may use a client. Its calls compute (signatures, hashes, JSON) and write
 * small files with fsync: a loop that must not wait runs them in a worker thread.
 */
#ifndef AGENT_REPO_TUF_H
#define AGENT_REPO_TUF_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

struct tuf_client;

/* Caps where metadata name no length, in bytes, and counts. Zero means the default. */
struct tuf_limits {
	size_t root;		  /* 512,000 */
	size_t timestamp;	  /* 16,384 */
	size_t snapshot;	  /* 2,000,000 */
	size_t targets;		  /* 5,000,000 */
	unsigned int rotations;	  /* root versions followed in one refresh: 256 */
	unsigned int delegations; /* roles visited in one search: 32 */
};

/* What to fetch now. Strings are the client's, valid until tuf_answer(). */
struct tuf_request {
	const char *path; /* relative to the metadata URL, already quoted; NULL: nothing, done */
	size_t max_bytes; /* stop reading and fail the transfer beyond */
	const char *etag; /* send as If-None-Match, and 304 may come back; NULL: do not */
};

struct tuf_reply {
	long status; /* of HTTP: 200, 304 when an etag was sent, 403 and 404 for "not there" */
	const void *bytes; /* of a 200; the caller's */
	size_t size;
	const char *etag; /* of the answer's header, or NULL */
};

/*
 * A target as signed metadata describe it. Borrowed from the client, valid until the next
 * tuf_refresh(), tuf_find(), tuf_list() or tuf_client_free().
 */
struct tuf_target {
	const char *path;
	uint64_t length; /* bytes */
	json_t *hashes;	 /* {"sha256": hex, ...}, at least one that is known */
	json_t *custom;	 /* an object, or NULL */
	const char *role;
};

/* Makes @dir when needed and puts the trusted root there. Without network, without client. */
struct pe_error *tuf_init(const char *dir, const void *root, size_t size) pe_must_check;

/* @limits may be NULL. PE_ERR_BUSY: another process has the folder open. */
struct pe_error *tuf_client_open(const char *dir, const struct tuf_limits *limits,
				 struct tuf_client **ret) pe_must_check;
void tuf_client_free(struct tuf_client *client);

/*
 * Begins an update; the time of this call is the update's start for all expiry dates. PE_ERR_POLICY
 * here and later: signature, threshold, version, hash or expiry forbid it; the text says what.
 */
struct pe_error *tuf_refresh(struct tuf_client *client) pe_must_check;
/* After a finished refresh: begins the search for one target, as far as delegations allow. */
struct pe_error *tuf_find(struct tuf_client *client, const char *path) pe_must_check;
/*
 * After a finished refresh: begins to collect all targets whose path begins with @prefix, which
 * must end with '/': the roles that are trusted with paths directly below it are visited.
 */
struct pe_error *tuf_list(struct tuf_client *client, const char *prefix) pe_must_check;

struct pe_error *tuf_next(struct tuf_client *client, struct tuf_request *request) pe_must_check;
struct pe_error *tuf_answer(struct tuf_client *client, const struct tuf_reply *reply) pe_must_check;

/* The targets that the finished search found, best trusted role first. */
size_t tuf_target_count(const struct tuf_client *client);
struct pe_error *tuf_target(const struct tuf_client *client, size_t index,
			    struct tuf_target *ret) pe_must_check;

/* Version and expiry (seconds since 1970) of a role that is loaded; false when it is not. */
bool tuf_role_info(const struct tuf_client *client, const char *role, int64_t *version,
		   int64_t *expires);

/* Path of the artifact relative to the URL of targets, quoted; owned by the caller. */
char *tuf_target_url(const struct tuf_client *client, const struct tuf_target *target);

/* ---- the artifact itself ---- */

/* True when @dir has a file of this target with its length and hashes. */
bool tuf_target_there(const struct tuf_target *target, const char *dir);
/* Name of the target's file in a folder: its path percent-encoded; owned by the caller. */
char *tuf_target_file(const struct tuf_target *target);

/* Writes an artifact piece by piece: a hidden file, checked, synced, renamed by the last call. */
struct tuf_download;
struct pe_error *tuf_download_begin(const struct tuf_target *target, const char *dir,
				    struct tuf_download **ret) pe_must_check;
struct pe_error *tuf_download_write(struct tuf_download *download, const void *bytes,
				    size_t size) pe_must_check;
/* Ends it and frees @download: with @keep and when everything agrees, the file is in place. */
struct pe_error *tuf_download_end(struct tuf_download *download, bool keep) pe_must_check;

#endif

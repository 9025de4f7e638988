/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One file of TUF metadata: parsed, its form checked once, so that readers may go through the JSON
 * without doubt. Whether it may be trusted is asked apart: tuf_metadata_verify().
 */
#ifndef AGENT_REPO_METADATA_H
#define AGENT_REPO_METADATA_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

enum tuf_type { TUF_ROOT, TUF_TIMESTAMP, TUF_SNAPSHOT, TUF_TARGETS };

struct tuf_metadata {
	enum tuf_type type;
	json_t *file;	 /* {"signed": …, "signatures": […]} */
	json_t *body;	 /* "signed", borrowed from file */
	int64_t version; /* at least 1 */
	int64_t expires; /* seconds since 1970 */
};

/* @what names the file in errors. PE_ERR_FORMAT tells what is wrong with it. */
struct pe_error *tuf_metadata_parse(enum tuf_type type, const void *bytes, size_t size,
				    const char *what, struct tuf_metadata **ret) pe_must_check;
void tuf_metadata_free(struct tuf_metadata *metadata);

static inline void tuf_cleanup_metadata(struct tuf_metadata **metadata)
{
	tuf_metadata_free(*metadata);
}

#define tuf_auto_metadata __attribute__((cleanup(tuf_cleanup_metadata)))

/*
 * Signed by at least the threshold of @role ({"keyids", "threshold"}) of different keys out of
 * @keys? PE_ERR_POLICY with the counts otherwise.
 */
struct pe_error *tuf_metadata_verify(const struct tuf_metadata *metadata, const json_t *keys,
				     const json_t *role, const char *what) pe_must_check;

/* ---- looking into it ---- */

/* "root", "timestamp", "snapshot", "targets" */
const char *tuf_type_name(enum tuf_type type);
json_t *tuf_root_role(const struct tuf_metadata *root, const char *name);
bool tuf_root_consistent(const struct tuf_metadata *root);
/* True when a key that might sign for @name in @old may not in @now. */
bool tuf_root_rotated(const struct tuf_metadata *old, const struct tuf_metadata *now,
		      const char *name);
/* Entry of "ROLE.json" in a timestamp's or snapshot's meta; NULL when there is none. */
json_t *tuf_meta(const struct tuf_metadata *metadata, const char *role);
int64_t tuf_meta_version(const json_t *meta);
/* The delegation called @name in a targets role; NULL when there is none. */
json_t *tuf_delegation(const struct tuf_metadata *targets, const char *name);

/*
 * Length (when @meta has one) and all hashes that are known of {"length", "hashes"}. With
 * @needs_hash one must be known. PE_ERR_POLICY names what differs.
 */
struct pe_error *tuf_check_bytes(const json_t *meta, const void *bytes, size_t size,
				 bool needs_hash, const char *what) pe_must_check;
/* Hash functions that are known, the one preferred first; ends with NULL. */
extern const char *const tuf_hash_names[];

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The publisher's side: a private work folder from which a public folder of static files is made.
 *
 *	DIR/care-repo.json   which keys sign for which role, thresholds, days until expiry
 *	DIR/catalogue.json   every patch: path of its target -> what metadata will say of it
 *	DIR/keys/NAME.pem    private keys (PKCS#8, encrypted when they are offline keys), NAME.pub
 *	DIR/public/          for the web server: metadata/ and targets/
 *
 * The catalogue says what is to be; publish makes metadata of it (docs/repository.md).
 */
#ifndef AGENT_REPO_PUBLISHER_H
#define AGENT_REPO_PUBLISHER_H

#include <jansson.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/repo/store.h"
#include "engine/error.h"

struct publisher {
	char *dir;
	struct repo_store store; /* DIR, locked */
	json_t *config, *catalogue;
	json_t *public_keys; /* NAME -> {"id", "key"}: read once */
	EVP_PKEY *patch_key; /* private, kept while many patches are added */
	char *passphrase;    /* NULL: not asked yet */
	const char *passphrase_file;
	bool no_passphrase;
};

struct publisher_init {
	unsigned int root_keys, root_threshold; /* 1 to 16 */
	const char *key_type;			/* "ed25519", "ecdsa", "rsa" */
};

/* ---- the work folder (publisher.c) ---- */

/* Makes folder, keys and the feed "main"; nothing is published yet. */
struct pe_error *publisher_create(const char *dir, const char *passphrase_file, bool no_passphrase,
				  const struct publisher_init *init,
				  struct publisher **ret) pe_must_check;
struct pe_error *publisher_open(const char *dir, const char *passphrase_file,
				struct publisher **ret) pe_must_check;
void publisher_close(struct publisher *publisher);
struct pe_error *publisher_save(struct publisher *publisher) pe_must_check;
/* DIR/NAME, a new string; NULL without memory. */
char *publisher_path(const struct publisher *publisher, const char *name);
/* Days that metadata of a role ("feed" for all feeds) last. */
int publisher_days(const struct publisher *publisher, const char *role);
int publisher_threshold(const struct publisher *publisher, const char *role);
/* [a-z0-9]{1,32}, and no role of TUF */
bool publisher_feed_name_ok(const char *feed);

/* ---- keys (publisher_keys.c) ---- */

/*
 * @role: "root", "targets", "snapshot", "timestamp", "patch" or "feed/NAME", which makes the feed.
 * @replace: the role's keys so far sign no more (root: they still sign its next version).
 * @name (may be NULL) receives the key's name, borrowed.
 */
struct pe_error *publisher_key_make(struct publisher *publisher, const char *role, const char *type,
				    bool replace, const char **name) pe_must_check;
/* Names of the keys of a role, borrowed; NULL when there is no such role. */
json_t *publisher_role_keys(const struct publisher *publisher, const char *role);
/* {"id": keyid, "key": TUF key object}, borrowed. */
struct pe_error *publisher_public_key(struct publisher *publisher, const char *name,
				      json_t **ret) pe_must_check;
/* Asks for the passphrase when the file needs one and none was given. */
struct pe_error *publisher_private_key(struct publisher *publisher, const char *name,
				       EVP_PKEY **ret) pe_must_check;
/* "keys" and "keyids" for root or delegations: adds those of @role to @keys; a new list. */
struct pe_error *publisher_put_keys(struct publisher *publisher, const char *role, json_t *keys,
				    json_t **keyids) pe_must_check;
/* The signed file as text, by the keys of @names; owned by the caller. */
struct pe_error *publisher_sign(struct publisher *publisher, const json_t *body,
				const json_t *names, char **text) pe_must_check;

/* ---- the catalogue (catalogue.c) ---- */

/* Reads the patch, signs it, puts it into public/targets and the catalogue, unless @dry_run. */
struct pe_error *publisher_add(struct publisher *publisher, const char *file, const char *feed,
			       bool dry_run) pe_must_check;
/* Marks all targets of patch @name; counts them. */
struct pe_error *publisher_block(struct publisher *publisher, const char *name, const char *feed,
				 const char *reason, size_t *count) pe_must_check;

/*
 * Hosts of @key are to stick to @tag (sticky.h). The first makes the role that says it, with a key
 * of @type.
 */
struct pe_error *publisher_sticky(struct publisher *publisher, const char *key, const char *tag,
				  const char *type) pe_must_check;

/* ---- metadata (roles.c, publish.c) ---- */

/*
 * All roles of a feed as the catalogue wants them, feed first: an object of role name -> body
 * without version and expiry. New reference.
 */
struct pe_error *publisher_feed_roles(struct publisher *publisher, const char *feed,
				      json_t **ret) pe_must_check;
struct pe_error *publisher_root_body(struct publisher *publisher, json_t **ret) pe_must_check;
struct pe_error *publisher_targets_body(struct publisher *publisher, json_t **ret) pe_must_check;

/*
 * Writes what changed or will expire soon, the timestamp last. @online: only what the keys without
 * passphrase can sign. @done receives role -> new version.
 */
struct pe_error *publisher_publish(struct publisher *publisher, bool online,
				   json_t **done) pe_must_check;

/* The published file of a role that is current, parsed by nobody yet: *ret NULL when none. */
struct pe_error *publisher_published(struct publisher *publisher, const char *role,
				     json_t **ret) pe_must_check;

/*
 * Goes through public/ as a client does that trusts its first root: all roles, all targets, all
 * files, all signatures of patches. @targets and @roles count them.
 */
struct pe_error *publisher_verify(struct publisher *publisher, size_t *roles,
				  size_t *targets) pe_must_check;

#endif

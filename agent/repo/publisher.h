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
/* Appends the signature by key @name of these bytes. */
struct pe_error *publisher_sign_with(struct publisher *publisher, const char *name,
				     const char *bytes, size_t size,
				     json_t *signatures) pe_must_check;
/* Whether the private half of a key is in DIR/keys. */
bool publisher_key_is_here(const struct publisher *publisher, const char *name);
/*
 * Makes a key of @type for use elsewhere: STEM.pem, encrypted unless @passphrase is NULL, and
 * STEM.pub. Needs no repository.
 */
struct pe_error *publisher_keygen(const char *stem, const char *type, const char *passphrase_file,
				  bool no_passphrase) pe_must_check;
/* Enlists for @role a public key whose private half is elsewhere; like publisher_key_make. */
struct pe_error *publisher_key_take(struct publisher *publisher, const char *role, const char *path,
				    bool replace, const char **name) pe_must_check;
/* How many of the keys of @role have to sign. */
struct pe_error *publisher_set_threshold(struct publisher *publisher, const char *role,
					 unsigned int threshold) pe_must_check;
/* A private key of any folder; the passphrase is asked for when it needs one. */
struct pe_error *publisher_read_key(const char *path, const char *passphrase_file,
				    EVP_PKEY **ret) pe_must_check;

/* ---- signatures of keys that are elsewhere (pending.c) ---- */

/* @needs: [{"keyids": [...], "threshold": N}, ...]: whether each is met by the signatures there. */
bool publisher_signed_enough(const json_t *file, const json_t *needs);
/*
 * The signed file as text, owned by the caller, by the keys of @names that are here and by what
 * DIR/pending has been signed with. HELD when @needs are not met: the file waits there then. @soon:
 * what waits and expires before that date is made anew.
 */
struct pe_error *publisher_sign_enough(struct publisher *publisher, const char *role,
				       const json_t *body, const json_t *names, const json_t *needs,
				       const char *soon, char **text) pe_must_check;
/* Takes the signatures of a copy of a pending file; counts those that are new. */
struct pe_error *publisher_collect(struct publisher *publisher, const char *path,
				   size_t *added) pe_must_check;
/* Adds a signature to a pending file, anywhere, unless @dry_run; *ret: what it signs. */
struct pe_error *publisher_sign_file(const char *path, EVP_PKEY *key, bool dry_run,
				     json_t **ret) pe_must_check;

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

/* ---- the list of patches (listing.c) ---- */

struct repo_keyring;

/* The keys that patches were signed with; *ids (may be NULL) receives KEYID -> name of the key. */
struct pe_error *publisher_patch_ring(struct publisher *publisher, json_t *ids,
				      struct repo_keyring **ret) pe_must_check;
/*
 * All patches, by feed, product, name and level: [{"name", "level", "feed", "product", "builds",
 * "cves", "kind", "released", "published": "yes", "no", or "changed" since, "blocked": reason or
 * null, "signed_by": key or null, "signature_error": text or null}, ...]. New reference.
 */
struct pe_error *publisher_patches(struct publisher *publisher, json_t **ret) pe_must_check;

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

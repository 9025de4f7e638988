/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The patches of a repository, as its publisher wants to see them: one entry a patch file, with all
 * builds that it is for, what of it hosts know already, and whose signature its file has.
 */
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>

#include "agent/repo/json.h"
#include "agent/repo/key.h"
#include "agent/repo/publisher.h"
#include "agent/repo/signature.h"
#include "build/files.h"
#include "build/text.h"
#include "engine/cleanup.h"

/* ---- keys ---- */

static struct pe_error *key_id_of(const void *pem, size_t size, char keyid[REPO_KEYID_SIZE])
{
	BIO *bio = BIO_new_mem_buf(pem, (int)size);
	repo_auto_pkey EVP_PKEY *key = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;

	BIO_free(bio);
	return key ? repo_signature_keyid(key, keyid)
		   : pe_error_new(PE_ERR_FORMAT, "no public key in PEM form");
}

struct pe_error *publisher_patch_ring(struct publisher *publisher, json_t *ids,
				      struct repo_keyring **ret)
{
	json_t *names = publisher_role_keys(publisher, "patch");
	struct repo_keyring *ring = NULL;
	struct pe_error *err = repo_keyring_new(&ring);

	for (size_t i = 0; !err && i < json_array_size(names); i++) {
		const char *name = json_string_value(json_array_get(names, i));
		pe_auto_free char *pem = NULL,
				  *path = pe_format("%s/keys/%s.pub", publisher->dir, name);
		char keyid[REPO_KEYID_SIZE];
		size_t size = 0;

		err = path ? pe_file_read(path, &pem, &size) : pe_error_nomem();
		if (!err)
			err = repo_keyring_add_pem(ring, pem, size);
		if (!err && ids)
			err = key_id_of(pem, size, keyid);
		if (!err && ids)
			json_object_set_new(ids, keyid, json_string(name));
	}
	*ret = err ? NULL : ring;
	if (err)
		repo_keyring_free(ring);
	return err;
}

/* ---- what hosts know ---- */

/* path -> entry, of all roles that the published snapshot lists. */
static struct pe_error *published_targets(struct publisher *publisher, json_t *ret)
{
	repo_auto_json json_t *snapshot = NULL;
	struct pe_error *err = publisher_published(publisher, "snapshot", &snapshot);
	const char *file;
	json_t *meta;

	json_object_foreach(json_object_get(json_object_get(snapshot, "signed"), "meta"), file,
			    meta)
	{
		pe_auto_free char *role = strndup(file, strlen(file) - strlen(".json"));
		repo_auto_json json_t *role_file = NULL;

		if (!err)
			err = role ? publisher_published(publisher, role, &role_file)
				   : pe_error_nomem();
		json_object_update(
			ret, json_object_get(json_object_get(role_file, "signed"), "targets"));
	}
	return err;
}

static const char *how_published(const json_t *published, const char *path, const json_t *entry)
{
	const json_t *known = json_object_get(published, path);

	return !known ? "no" : json_equal(known, entry) ? "yes" : "changed";
}

/* ---- one patch ---- */

struct listing {
	struct publisher *publisher;
	struct repo_keyring *ring;
	json_t *ids;	   /* id of a key -> its name */
	json_t *published; /* path -> entry */
	json_t *groups;	   /* what makes a row -> the row */
};

/* Names the key whose signature the file has, or what is wrong with it. */
static struct pe_error *put_signature(const struct listing *listing, const char *path,
				      const json_t *entry, json_t *row)
{
	const char *sha256 =
		json_string_value(json_object_get(json_object_get(entry, "hashes"), "sha256"));
	const char *line =
		json_string_value(json_object_get(json_object_get(entry, "custom"), "signature"));
	const char *base = strrchr(path, '/');
	pe_auto_free char *bytes = NULL, *text = NULL, *file = NULL;
	char keyid[REPO_KEYID_SIZE];
	size_t size = 0;

	file = base ? pe_format("%s/public/targets/%.*s%s.%s", listing->publisher->dir,
				(int)(base + 1 - path), path, sha256 ? sha256 : "", base + 1)
		    : NULL;
	if (!file)
		return pe_error_nomem();

	pe_auto_error struct pe_error *wrong = pe_file_read(file, &bytes, &size);

	if (!wrong)
		wrong = repo_signature_verify(listing->ring, bytes, size, line ? line : "",
					      line ? strlen(line) : 0, keyid);
	text = wrong ? pe_error_text(wrong) : NULL;
	json_object_set(row, "signed_by",
			wrong ? json_null() : json_object_get(listing->ids, keyid));
	json_object_set_new(row, "signature_error", text ? json_string(text) : json_null());
	return NULL;
}

/* FEED/PRODUCT/BUILD-ID/LEVEL-NAME.cpatch */
static bool split_path(const char *path, char **product, char **build_id)
{
	const char *a = strchr(path, '/');
	const char *b = a ? strchr(a + 1, '/') : NULL;
	const char *c = b ? strchr(b + 1, '/') : NULL;

	*product = c ? strndup(a + 1, (size_t)(b - a - 1)) : NULL;
	*build_id = c ? strndup(b + 1, (size_t)(c - b - 1)) : NULL;
	return *product && *build_id;
}

static struct pe_error *add_entry(struct listing *listing, const char *path, const json_t *entry)
{
	const json_t *custom = json_object_get(entry, "custom");
	const char *name = json_string_value(json_object_get(custom, "name"));
	const char *feed = json_string_value(json_object_get(custom, "feed"));
	const char *blocked = json_string_value(json_object_get(custom, "blocked"));
	const char *published = how_published(listing->published, path, entry);
	json_int_t level = json_integer_value(json_object_get(custom, "level"));
	pe_auto_free char *product = NULL, *build_id = NULL, *key = NULL;

	/* Days of keys (sticky.h) are no patches. */
	if (!name || !feed || !split_path(path, &product, &build_id))
		return NULL;
	/* In the order in which rows are shown. */
	key = pe_format(
		"%s %s %s %010lld %s %s %s", feed, product, name, (long long)level,
		json_string_value(json_object_get(json_object_get(entry, "hashes"), "sha256")),
		published, blocked ? blocked : "");
	if (!key)
		return pe_error_nomem();

	json_t *row = json_object_get(listing->groups, key);
	struct pe_error *err = NULL;

	if (!row) {
		row = json_pack("{s:s, s:I, s:s, s:s, s:[], s:O?, s:O?, s:O?, s:s, s:s?}", "name",
				name, "level", level, "feed", feed, "product", product, "builds",
				"cves", json_object_get(custom, "cves"), "kind",
				json_object_get(custom, "kind"), "released",
				json_object_get(custom, "released"), "published", published,
				"blocked", blocked);
		if (!row || json_object_set_new(listing->groups, key, row))
			return pe_error_nomem();
		err = put_signature(listing, path, entry, row);
	}
	json_array_append_new(json_object_get(row, "builds"), json_string(build_id));
	return err;
}

/* ---- all ---- */

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static struct pe_error *in_order(json_t *groups, json_t **ret)
{
	size_t count = 0;
	pe_auto_free const char **keys = calloc(json_object_size(groups) + 1, sizeof(*keys));
	const char *key;
	json_t *row;

	*ret = json_array();
	if (!keys || !*ret)
		return pe_error_nomem();
	json_object_foreach(groups, key, row) keys[count++] = key;
	qsort(keys, count, sizeof(*keys), by_text);
	for (size_t i = 0; i < count; i++)
		json_array_append(*ret, json_object_get(groups, keys[i]));
	return NULL;
}

struct pe_error *publisher_patches(struct publisher *publisher, json_t **ret)
{
	repo_auto_json json_t *ids = json_object(), *published = json_object(),
			      *groups = json_object();
	struct listing listing = {
		.publisher = publisher, .ids = ids, .published = published, .groups = groups
	};
	const char *path;
	json_t *entry;
	struct pe_error *err = publisher_patch_ring(publisher, ids, &listing.ring);

	*ret = NULL;
	if (!err)
		err = published_targets(publisher, published);
	json_object_foreach(publisher->catalogue, path, entry)
	{
		if (!err)
			err = add_entry(&listing, path, entry);
	}
	repo_keyring_free(listing.ring);
	return err ? err : in_order(groups, ret);
}

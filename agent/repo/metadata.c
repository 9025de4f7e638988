/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Parsing and verifying TUF metadata (specification 1.0.34, sections 4 and 5.3 to 5.6). Fields that
 * are not known are left alone; they are part of what was signed.
 */
#include "agent/repo/metadata.h"

#include <openssl/evp.h>
#include <string.h>
#include <time.h>

#include "agent/repo/json.h"
#include "agent/repo/key.h"
#include "engine/cleanup.h"

static const char *const type_names[] = {
	[TUF_ROOT] = "root",
	[TUF_TIMESTAMP] = "timestamp",
	[TUF_SNAPSHOT] = "snapshot",
	[TUF_TARGETS] = "targets",
};

const char *const tuf_hash_names[] = { "sha256", "sha512", "sha384", NULL };

const char *tuf_type_name(enum tuf_type type)
{
	return type_names[type];
}

static struct pe_error *bad(const char *what, const char *why)
{
	return pe_error_new(PE_ERR_FORMAT, "%s: %s", what, why);
}

/* ---- form: each returns what is wrong, or NULL ---- */

static bool is_natural(const json_t *json, json_int_t least)
{
	return json_is_integer(json) && json_integer_value(json) >= least;
}

static bool all_strings(const json_t *list)
{
	for (size_t i = 0; i < json_array_size(list); i++)
		if (!json_is_string(json_array_get(list, i)))
			return false;
	return json_is_array(list);
}

static const char *check_signatures(const json_t *file)
{
	json_t *list = json_object_get(file, "signatures");
	repo_auto_json json_t *seen = json_object();

	if (!json_is_array(list))
		return "no list of signatures";
	for (size_t i = 0; i < json_array_size(list); i++) {
		json_t *keyid = json_object_get(json_array_get(list, i), "keyid");

		if (!json_is_string(keyid) ||
		    !json_is_string(json_object_get(json_array_get(list, i), "sig")))
			return "a signature without keyid or sig";
		if (json_object_get(seen, json_string_value(keyid)))
			return "two signatures by one keyid";
		json_object_set_new(seen, json_string_value(keyid), json_true());
	}
	return NULL;
}

static const char *check_role(const json_t *role)
{
	if (!all_strings(json_object_get(role, "keyids")))
		return "a role without keyids";
	if (!is_natural(json_object_get(role, "threshold"), 1))
		return "a role without threshold";
	return NULL;
}

static const char *check_keys(const json_t *keys)
{
	const char *id;
	json_t *key;

	if (!json_is_object(keys))
		return "no keys";
	json_object_foreach((json_t *)keys, id,
			    key) if (!json_is_object(key)) return "a key that is no object";
	return NULL;
}

static const char *check_root(const json_t *body)
{
	const char *wrong = check_keys(json_object_get(body, "keys"));
	json_t *consistent = json_object_get(body, "consistent_snapshot");

	if (consistent && !json_is_boolean(consistent))
		return "consistent_snapshot is neither true nor false";
	for (size_t i = 0; !wrong && i < sizeof(type_names) / sizeof(*type_names); i++)
		wrong = check_role(json_object_get(json_object_get(body, "roles"), type_names[i]));
	return wrong;
}

static const char *check_hashes(const json_t *hashes)
{
	const char *name;
	json_t *hash;

	if (!json_object_size(hashes))
		return "no hashes";
	json_object_foreach((json_t *)hashes, name,
			    hash) if (!json_is_string(hash)) return "a hash that is no string";
	return NULL;
}

static const char *check_meta(const json_t *body)
{
	const char *name, *wrong = NULL;
	json_t *meta = json_object_get(body, "meta"), *entry;

	if (!json_is_object(meta))
		return "no meta";
	json_object_foreach(meta, name, entry)
	{
		json_t *length = json_object_get(entry, "length");
		json_t *hashes = json_object_get(entry, "hashes");

		if (!is_natural(json_object_get(entry, "version"), 1))
			return "an entry of meta without version";
		if (length && !is_natural(length, 0))
			return "an entry of meta with a bad length";
		if (hashes)
			wrong = check_hashes(hashes);
		if (wrong)
			return wrong;
	}
	return NULL;
}

static const char *check_timestamp(const json_t *body)
{
	if (!json_object_get(json_object_get(body, "meta"), "snapshot.json"))
		return "no entry for snapshot.json";
	return check_meta(body);
}

static const char *check_delegation(const json_t *role)
{
	json_t *paths = json_object_get(role, "paths");
	json_t *prefixes = json_object_get(role, "path_hash_prefixes");
	const char *name = json_string_value(json_object_get(role, "name"));

	if (!name || !*name)
		return "a delegation without name";
	for (size_t i = 0; i < sizeof(type_names) / sizeof(*type_names); i++)
		if (!strcmp(name, type_names[i]))
			return "a delegation with the name of a top-level role";
	if (!json_is_boolean(json_object_get(role, "terminating")))
		return "a delegation without terminating";
	if (!paths == !prefixes)
		return "a delegation needs either paths or path_hash_prefixes";
	if (!all_strings(paths ? paths : prefixes))
		return "paths of a delegation that are no strings";
	return check_role(role);
}

static const char *check_delegations(const json_t *delegations)
{
	const char *wrong = check_keys(json_object_get(delegations, "keys"));
	json_t *roles = json_object_get(delegations, "roles");
	repo_auto_json json_t *seen = json_object();

	if (!wrong && roles && !json_is_array(roles))
		wrong = "roles of delegations are no list";
	for (size_t i = 0; !wrong && i < json_array_size(roles); i++) {
		json_t *role = json_array_get(roles, i);
		const char *name;

		wrong = check_delegation(role);
		if (wrong)
			break;
		name = json_string_value(json_object_get(role, "name"));
		if (json_object_get(seen, name))
			wrong = "two delegations of one name";
		json_object_set_new(seen, name, json_true());
	}
	return wrong;
}

static const char *check_targets(const json_t *body)
{
	json_t *targets = json_object_get(body, "targets"), *target;
	json_t *delegations = json_object_get(body, "delegations");
	const char *path, *wrong = NULL;

	if (!json_is_object(targets))
		return "no targets";
	json_object_foreach(targets, path, target)
	{
		json_t *custom = json_object_get(target, "custom");

		if (!*path)
			return "a target without a path";
		if (!is_natural(json_object_get(target, "length"), 0))
			return "a target without length";
		if (custom && !json_is_object(custom))
			return "custom data that are no object";
		wrong = check_hashes(json_object_get(target, "hashes"));
		if (wrong)
			return wrong;
	}
	return delegations ? check_delegations(delegations) : NULL;
}

/* 2031-12-31T23:59:59Z; a fraction of the second, which some write, is dropped. */
static bool read_time(const char *text, int64_t *seconds)
{
	struct tm tm = { 0 };
	int end = 0;

	if (sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday,
		   &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &end) != 6 ||
	    end != (int)strlen("2031-12-31T23:59:59"))
		return false;
	if (text[end] == '.')
		end += 1 + (int)strspn(text + end + 1, "0123456789");
	if (strcmp(text + end, "Z") || tm.tm_year < 1970 || tm.tm_mon < 1 || tm.tm_mon > 12 ||
	    tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_hour < 0 || tm.tm_hour > 23 ||
	    tm.tm_min < 0 || tm.tm_min > 59 || tm.tm_sec < 0 || tm.tm_sec > 60)
		return false;
	tm.tm_year -= 1900;
	tm.tm_mon--;
	*seconds = timegm(&tm);
	return true;
}

static const char *check_common(struct tuf_metadata *md)
{
	const char *type = json_string_value(json_object_get(md->body, "_type"));
	const char *spec = json_string_value(json_object_get(md->body, "spec_version"));
	const char *expires = json_string_value(json_object_get(md->body, "expires"));
	json_t *version = json_object_get(md->body, "version");

	if (!json_is_object(md->body))
		return "no signed part";
	if (!type || strcmp(type, type_names[md->type]))
		return "not of the type that was expected";
	if (!spec || strncmp(spec, "1.", 2))
		return "not of TUF's specification 1";
	if (!is_natural(version, 1))
		return "no version";
	if (!expires || !read_time(expires, &md->expires))
		return "no date of expiry";
	md->version = json_integer_value(version);
	return NULL;
}

struct pe_error *tuf_metadata_parse(enum tuf_type type, const void *bytes, size_t size,
				    const char *what, struct tuf_metadata **ret)
{
	static const char *(*const check_body[])(const json_t *) = {
		[TUF_ROOT] = check_root,
		[TUF_TIMESTAMP] = check_timestamp,
		[TUF_SNAPSHOT] = check_meta,
		[TUF_TARGETS] = check_targets,
	};
	tuf_auto_metadata struct tuf_metadata *md = calloc(1, sizeof(*md));
	const char *wrong;

	*ret = NULL;
	if (!md)
		return pe_error_nomem();

	struct pe_error *err = repo_json_parse(bytes, size, what, &md->file);

	if (err)
		return err;
	md->type = type;
	md->body = json_object_get(md->file, "signed");
	wrong = check_common(md);
	if (!wrong)
		wrong = check_signatures(md->file);
	if (!wrong)
		wrong = check_body[type](md->body);
	if (wrong)
		return bad(what, wrong);
	*ret = pe_steal(md);
	return NULL;
}

void tuf_metadata_free(struct tuf_metadata *metadata)
{
	if (!metadata)
		return;
	json_decref(metadata->file);
	free(metadata);
}

/* ---- signatures ---- */

static const char *signature_by(const struct tuf_metadata *md, const char *keyid)
{
	json_t *list = json_object_get(md->file, "signatures");

	for (size_t i = 0; i < json_array_size(list); i++) {
		json_t *entry = json_array_get(list, i);

		if (!strcmp(json_string_value(json_object_get(entry, "keyid")), keyid))
			return json_string_value(json_object_get(entry, "sig"));
	}
	return NULL;
}

/* The key of @keyid when it signed the bytes, owned by the caller; NULL when it did not. */
static EVP_PKEY *signer(const struct tuf_metadata *md, const json_t *keys, const char *keyid,
			const char *bytes, size_t size)
{
	const char *signature = signature_by(md, keyid);
	json_t *json = json_object_get(keys, keyid);
	enum repo_scheme scheme;
	EVP_PKEY *key = NULL;

	if (!signature || !json)
		return NULL;

	/* A key that we cannot use cannot count; others may reach the threshold. */
	pe_auto_error struct pe_error *err = repo_key_from_json(json, &scheme, &key);

	if (!err && repo_key_verify(key, scheme, bytes, size, signature))
		return key;
	EVP_PKEY_free(key);
	return NULL;
}

static bool add_distinct(EVP_PKEY **found, size_t count, EVP_PKEY *key)
{
	for (size_t i = 0; i < count; i++)
		if (EVP_PKEY_eq(found[i], key) == 1)
			return false;
	found[count] = key;
	return true;
}

struct pe_error *tuf_metadata_verify(const struct tuf_metadata *md, const json_t *keys,
				     const json_t *role, const char *what)
{
	json_t *keyids = json_object_get(role, "keyids");
	json_int_t threshold = json_integer_value(json_object_get(role, "threshold"));
	size_t count = 0, size;
	pe_auto_free char *bytes = NULL;
	pe_auto_free EVP_PKEY **found = calloc(json_array_size(keyids) + 1, sizeof(*found));
	struct pe_error *err = repo_json_canonical(md->body, &bytes, &size);

	if (err)
		return pe_error_wrap(err, "%s", what);
	if (!found)
		return pe_error_nomem();
	for (size_t i = 0; i < json_array_size(keyids) && (json_int_t)count < threshold; i++) {
		EVP_PKEY *key =
			signer(md, keys, json_string_value(json_array_get(keyids, i)), bytes, size);

		if (key && add_distinct(found, count, key))
			count++;
		else
			EVP_PKEY_free(key);
	}
	for (size_t i = 0; i < count; i++)
		EVP_PKEY_free(found[i]);
	if ((json_int_t)count >= threshold)
		return NULL;
	return pe_error_new(PE_ERR_POLICY,
			    "%s is signed by %zu of the %lld trusted keys that it needs", what,
			    count, (long long)threshold);
}

/* ---- looking into it ---- */

json_t *tuf_root_role(const struct tuf_metadata *root, const char *name)
{
	return json_object_get(json_object_get(root->body, "roles"), name);
}

bool tuf_root_consistent(const struct tuf_metadata *root)
{
	return json_is_true(json_object_get(root->body, "consistent_snapshot"));
}

static bool may_sign(const struct tuf_metadata *root, const char *name, const char *keyid,
		     const json_t *key)
{
	json_t *keyids = json_object_get(tuf_root_role(root, name), "keyids");
	json_t *keys = json_object_get(root->body, "keys");

	for (size_t i = 0; i < json_array_size(keyids); i++)
		if (!strcmp(json_string_value(json_array_get(keyids, i)), keyid))
			return json_equal(json_object_get(key, "keyval"),
					  json_object_get(json_object_get(keys, keyid), "keyval"));
	return false;
}

bool tuf_root_rotated(const struct tuf_metadata *old, const struct tuf_metadata *now,
		      const char *name)
{
	json_t *keyids = json_object_get(tuf_root_role(old, name), "keyids");
	json_t *keys = json_object_get(old->body, "keys");

	for (size_t i = 0; i < json_array_size(keyids); i++) {
		const char *keyid = json_string_value(json_array_get(keyids, i));
		json_t *key = json_object_get(keys, keyid);

		if (key && !may_sign(now, name, keyid, key))
			return true;
	}
	return false;
}

json_t *tuf_meta(const struct tuf_metadata *metadata, const char *role)
{
	pe_auto_free char *name = NULL;

	if (asprintf(&name, "%s.json", role) < 0)
		return NULL;
	return json_object_get(json_object_get(metadata->body, "meta"), name);
}

int64_t tuf_meta_version(const json_t *meta)
{
	return json_integer_value(json_object_get(meta, "version"));
}

json_t *tuf_delegation(const struct tuf_metadata *targets, const char *name)
{
	json_t *roles = json_object_get(json_object_get(targets->body, "delegations"), "roles");

	for (size_t i = 0; i < json_array_size(roles); i++) {
		json_t *role = json_array_get(roles, i);

		if (!strcmp(json_string_value(json_object_get(role, "name")), name))
			return role;
	}
	return NULL;
}

/* ---- length and hashes ---- */

static bool hash_is(const char *name, const char *hex, const void *bytes, size_t size)
{
	unsigned char digest[EVP_MAX_MD_SIZE], wanted[EVP_MAX_MD_SIZE];
	unsigned int length;

	return EVP_Digest(bytes, size, digest, &length, EVP_get_digestbyname(name), NULL) &&
	       repo_unhex(hex, wanted, length) && !memcmp(digest, wanted, length);
}

struct pe_error *tuf_check_bytes(const json_t *meta, const void *bytes, size_t size,
				 bool needs_hash, const char *what)
{
	json_t *length = json_object_get(meta, "length"), *hashes = json_object_get(meta, "hashes");
	bool known = false;

	if (length && (json_int_t)size != json_integer_value(length))
		return pe_error_new(PE_ERR_POLICY, "%s has %zu bytes, signed are %lld", what, size,
				    (long long)json_integer_value(length));
	for (const char *const *name = tuf_hash_names; *name; name++) {
		const char *hex = json_string_value(json_object_get(hashes, *name));

		if (!hex)
			continue;
		known = true;
		if (!hash_is(*name, hex, bytes, size))
			return pe_error_new(PE_ERR_POLICY, "%s has another %s than signed", what,
					    *name);
	}
	if (!known && (needs_hash || hashes))
		return pe_error_new(PE_ERR_POLICY, "%s is signed with no hash known here", what);
	return NULL;
}

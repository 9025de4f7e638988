/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Root, timestamp and snapshot: what section 5 of the specification checks of each, in its order. A
 * file is stored only after all checks on it.
 */
#include "agent/repo/client.h"

#include <string.h>

#include "agent/repo/json.h"
#include "agent/repo/key.h"
#include "engine/cleanup.h"

enum { MAX_ETAG = 200 };

struct pe_error *client_verify_top(const struct tuf_client *client, const struct tuf_metadata *md,
				   const char *what)
{
	return tuf_metadata_verify(md, json_object_get(client->root->body, "keys"),
				   tuf_root_role(client->root, tuf_type_name(md->type)), what);
}

/* ---- root ---- */

static struct pe_error *end_of_roots(struct tuf_client *client)
{
	client->step = STEP_TIMESTAMP;
	return client_expired(client, client->root, "root");
}

/*
 * Fast-forward attacks end with the rotation of the keys: what the old ones signed must not forbid
 * lower versions (5.3.11). Removed before the new root is stored: a kill between loses a download.
 */
static struct pe_error *forget_rotated(struct tuf_client *client, const struct tuf_metadata *root)
{
	if (!tuf_root_rotated(client->root, root, "timestamp") &&
	    !tuf_root_rotated(client->root, root, "snapshot"))
		return NULL;

	struct pe_error *err = repo_store_remove(&client->store, "timestamp.json");

	return err ? err : repo_store_remove(&client->store, "snapshot.json");
}

struct pe_error *client_answer_root(struct tuf_client *client, const struct tuf_reply *reply)
{
	tuf_auto_metadata struct tuf_metadata *root = NULL;
	pe_auto_free char *what = strdup(client->path);

	if (reply->status == 404 || reply->status == 403)
		return end_of_roots(client);

	struct pe_error *err = client_check_reply(client, reply);

	if (!err && !what)
		err = pe_error_nomem();
	if (!err)
		err = tuf_metadata_parse(TUF_ROOT, reply->bytes, reply->size, what, &root);
	if (!err)
		err = client_verify_top(client, root, what);
	if (!err)
		err = tuf_metadata_verify(root, json_object_get(root->body, "keys"),
					  tuf_root_role(root, "root"), what);
	if (!err && root->version != client->root->version + 1)
		err = pe_error_new(PE_ERR_POLICY, "%s says that it is version %lld", what,
				   (long long)root->version);
	if (!err)
		err = forget_rotated(client, root);
	if (!err)
		err = repo_store_write(&client->store, "root.json", reply->bytes, reply->size);
	if (err)
		return err;
	tuf_metadata_free(client->root);
	client->root = pe_steal(root);
	return ++client->rotations < client->limits.rotations ? NULL : end_of_roots(client);
}

/* ---- timestamp ---- */

static struct pe_error *keep_timestamp(struct tuf_client *client, struct tuf_metadata **md,
				       const void *bytes, size_t size)
{
	char hex[65];

	free(client->timestamp_sha256);
	client->timestamp_sha256 = repo_sha256_hex(bytes, size, hex) ? strdup(hex) : NULL;
	tuf_metadata_free(client->timestamp);
	client->timestamp = pe_steal(*md);
	return client->timestamp_sha256 ? NULL : pe_error_nomem();
}

/* The ETag that the trusted timestamp came with, or NULL. Whatever is wrong with it: NULL. */
static char *load_etag(struct tuf_client *client)
{
	pe_auto_free char *bytes = NULL;
	repo_auto_json json_t *json = NULL;
	const char *etag, *sha256;
	size_t size;
	pe_auto_error struct pe_error *err =
		repo_store_read(&client->store, CLIENT_ETAG_FILE, 1024, &bytes, &size);

	if (err || !bytes || !(json = json_loadb(bytes, size, 0, NULL)) ||
	    json_unpack(json, "{s:s, s:s}", "etag", &etag, "sha256", &sha256) ||
	    strcmp(sha256, client->timestamp_sha256) || strlen(etag) > MAX_ETAG)
		return NULL;
	return strdup(etag);
}

static bool is_etag(const char *etag)
{
	size_t length = strlen(etag);

	for (size_t i = 0; i < length; i++)
		if (etag[i] < 0x21 || etag[i] > 0x7e)
			return false;
	return length && length <= MAX_ETAG;
}

/* A lost ETag costs some bytes at the next refresh: no reason to fail. */
static void save_etag(struct tuf_client *client, const char *etag)
{
	pe_auto_free char *known = load_etag(client), *text = NULL;
	repo_auto_json json_t *json = NULL;

	if (!etag || !is_etag(etag) || (known && !strcmp(known, etag)))
		return;
	json = json_pack("{s:s, s:s}", "etag", etag, "sha256", client->timestamp_sha256);
	text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	if (text)
		pe_error_free(
			repo_store_write(&client->store, CLIENT_ETAG_FILE, text, strlen(text)));
}

/*
 * Reads @name from disk and verifies it with the trusted root; what is missing, broken or signed
 * by others leaves *ret NULL. Expiry does not count here: an old file still guards versions.
 */
static struct pe_error *load_top(struct tuf_client *client, enum tuf_type type, size_t max,
				 struct tuf_metadata **ret, char **bytes, size_t *size)
{
	pe_auto_free char *name = NULL;
	tuf_auto_metadata struct tuf_metadata *md = NULL;

	*ret = NULL;
	if (asprintf(&name, "%s.json", tuf_type_name(type)) < 0)
		return pe_error_nomem();

	struct pe_error *err = repo_store_read(&client->store, name, max, bytes, size);

	if (!err && *bytes)
		err = tuf_metadata_parse(type, *bytes, *size, name, &md);
	if (!err && md)
		err = client_verify_top(client, md, name);
	if (!err)
		*ret = pe_steal(md);
	else if (err->code == PE_ERR_FORMAT || err->code == PE_ERR_POLICY)
		pe_error_free(pe_steal(err));
	return err;
}

struct pe_error *client_next_timestamp(struct tuf_client *client)
{
	tuf_auto_metadata struct tuf_metadata *md = NULL;
	pe_auto_free char *bytes = NULL;
	size_t size;
	struct pe_error *err =
		load_top(client, TUF_TIMESTAMP, client->limits.timestamp, &md, &bytes, &size);

	if (!err && md)
		err = keep_timestamp(client, &md, bytes, size);
	/* A new root seldom comes alone, and servers' tags have been known to repeat. */
	if (!err && client->timestamp && !client->rotations)
		client->etag = load_etag(client);
	return err ? err : client_ask(client, "timestamp", 0, client->limits.timestamp);
}

static int64_t snapshot_version(const struct tuf_metadata *timestamp)
{
	return tuf_meta_version(tuf_meta(timestamp, "snapshot"));
}

/* Rollback: neither the timestamp nor the snapshot in it may have a lower version (5.4.3). */
static struct pe_error *check_timestamp_versions(const struct tuf_client *client,
						 const struct tuf_metadata *md)
{
	const struct tuf_metadata *old = client->timestamp;

	if (!old)
		return NULL;
	if (md->version < old->version)
		return pe_error_new(PE_ERR_POLICY,
				    "timestamp.json is version %lld, older than the trusted %lld",
				    (long long)md->version, (long long)old->version);
	if (md->version > old->version && snapshot_version(md) < snapshot_version(old))
		return pe_error_new(PE_ERR_POLICY,
				    "timestamp.json names snapshot %lld, older than the trusted "
				    "%lld",
				    (long long)snapshot_version(md),
				    (long long)snapshot_version(old));
	return NULL;
}

/* The same version: the trusted file stays, whatever this one says. */
static void same_timestamp(struct tuf_client *client, const struct tuf_reply *reply)
{
	char hex[65];

	if (repo_sha256_hex(reply->bytes, reply->size, hex) &&
	    !strcmp(hex, client->timestamp_sha256))
		save_etag(client, reply->etag);
}

static struct pe_error *new_timestamp(struct tuf_client *client, const struct tuf_reply *reply)
{
	tuf_auto_metadata struct tuf_metadata *md = NULL;
	struct pe_error *err = client_check_reply(client, reply);

	if (!err)
		err = tuf_metadata_parse(TUF_TIMESTAMP, reply->bytes, reply->size, "timestamp.json",
					 &md);
	if (!err)
		err = client_verify_top(client, md, "timestamp.json");
	if (!err)
		err = check_timestamp_versions(client, md);
	if (err)
		return err;
	if (client->timestamp && md->version == client->timestamp->version) {
		same_timestamp(client, reply);
		return NULL;
	}
	err = client_expired(client, md, "timestamp");
	if (!err)
		err = repo_store_write(&client->store, "timestamp.json", reply->bytes, reply->size);
	if (!err)
		err = keep_timestamp(client, &md, reply->bytes, reply->size);
	if (!err)
		save_etag(client, reply->etag);
	return err;
}

struct pe_error *client_answer_timestamp(struct tuf_client *client, const struct tuf_reply *reply)
{
	struct pe_error *err = NULL;

	client->unchanged = reply->status == 304 && client->etag;
	if (!client->unchanged)
		err = new_timestamp(client, reply);
	client->step = STEP_SNAPSHOT;
	return err ? err : client_expired(client, client->timestamp, "timestamp");
}

/* ---- snapshot ---- */

static struct pe_error *check_snapshot_version(const struct tuf_client *client,
					       const struct tuf_metadata *md)
{
	int64_t wanted = snapshot_version(client->timestamp);

	if (md->version == wanted)
		return client_expired(client, md, "snapshot");
	return pe_error_new(PE_ERR_POLICY,
			    "snapshot.json is version %lld, the timestamp names %lld",
			    (long long)md->version, (long long)wanted);
}

struct pe_error *client_next_snapshot(struct tuf_client *client)
{
	pe_auto_free char *bytes = NULL;
	size_t size;
	json_t *meta = tuf_meta(client->timestamp, "snapshot");
	size_t max = client_length_or(meta, client->limits.snapshot);
	/* The file on disk may be an older and longer one. */
	struct pe_error *err =
		load_top(client, TUF_SNAPSHOT, SIZE_MAX, &client->snapshot, &bytes, &size);

	if (err)
		return err;
	if (client->snapshot) {
		pe_auto_error struct pe_error *stale =
			check_snapshot_version(client, client->snapshot);

		if (!stale) {
			client->step = STEP_TARGETS;
			return NULL;
		}
	}
	return client_ask(client, "snapshot",
			  tuf_root_consistent(client->root) ? tuf_meta_version(meta) : 0, max);
}

/* No role may vanish from the snapshot or go back (5.5.5). */
static struct pe_error *check_snapshot_roles(const struct tuf_metadata *old,
					     const struct tuf_metadata *md)
{
	json_t *now = json_object_get(md->body, "meta"), *entry;
	const char *name;

	if (!old)
		return NULL;
	json_object_foreach(json_object_get(old->body, "meta"), name, entry)
	{
		json_t *new = json_object_get(now, name);

		if (!new)
			return pe_error_new(PE_ERR_POLICY, "snapshot.json has lost %s", name);
		if (tuf_meta_version(new) < tuf_meta_version(entry))
			return pe_error_new(
				PE_ERR_POLICY,
				"snapshot.json names version %lld of %s, older than the "
				"trusted %lld",
				(long long)tuf_meta_version(new), name,
				(long long)tuf_meta_version(entry));
	}
	return NULL;
}

struct pe_error *client_answer_snapshot(struct tuf_client *client, const struct tuf_reply *reply)
{
	tuf_auto_metadata struct tuf_metadata *md = NULL;
	struct pe_error *err = client_check_reply(client, reply);

	if (!err)
		err = tuf_check_bytes(tuf_meta(client->timestamp, "snapshot"), reply->bytes,
				      reply->size, false, "snapshot.json");
	if (!err)
		err = tuf_metadata_parse(TUF_SNAPSHOT, reply->bytes, reply->size, "snapshot.json",
					 &md);
	if (!err)
		err = client_verify_top(client, md, "snapshot.json");
	if (!err)
		err = check_snapshot_roles(client->snapshot, md);
	if (!err)
		err = check_snapshot_version(client, md);
	if (!err)
		err = repo_store_write(&client->store, "snapshot.json", reply->bytes, reply->size);
	if (err)
		return err;
	tuf_metadata_free(client->snapshot);
	client->snapshot = pe_steal(md);
	client->step = STEP_TARGETS;
	return NULL;
}

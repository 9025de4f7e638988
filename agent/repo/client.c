/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The refresh: root, timestamp, snapshot and top-level targets, as section 5 of the specification
 * orders the checks. A file is stored only after all checks on it; what is on disk is verified
 * again each time and only spares a download.
 */
#include "agent/repo/client.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "agent/repo/json.h"
#include "agent/repo/key.h"
#include "agent/repo/names.h"
#include "engine/cleanup.h"

static const struct tuf_limits default_limits = {
	.root = 512000,
	.timestamp = 16384,
	.snapshot = 2000000,
	.targets = 5000000,
	.rotations = 256,
	.delegations = 32,
};

enum { MAX_ETAG = 200 };

/* Remembers which ETag the trusted timestamp came with; no role's file can have this name. */
#define ETAG_FILE ".etag"

/* ---- life ---- */

struct pe_error *tuf_init(const char *dir, const void *bytes, size_t size)
{
	tuf_auto_metadata struct tuf_metadata *root = NULL;
	struct repo_store store;
	struct pe_error *err = tuf_metadata_parse(TUF_ROOT, bytes, size, "the root file", &root);

	if (!err)
		err = tuf_metadata_verify(root, json_object_get(root->body, "keys"),
					  tuf_root_role(root, "root"), "the root file");
	if (err)
		return err;
	if (mkdir(dir, 0755) && errno != EEXIST)
		return pe_error_errno(errno, "cannot make folder %s", dir);
	err = repo_store_open(&store, dir);
	if (!err)
		err = repo_store_write(&store, "root.json", bytes, size);
	repo_store_close(&store);
	return err;
}

static void use_limits(struct tuf_limits *to, const struct tuf_limits *from)
{
	static const struct tuf_limits none;

	*to = default_limits;
	if (!from)
		from = &none;
	to->root = from->root ?: to->root;
	to->timestamp = from->timestamp ?: to->timestamp;
	to->snapshot = from->snapshot ?: to->snapshot;
	to->targets = from->targets ?: to->targets;
	to->rotations = from->rotations ?: to->rotations;
	to->delegations = from->delegations ?: to->delegations;
}

struct pe_error *tuf_client_open(const char *dir, const struct tuf_limits *limits,
				 struct tuf_client **ret)
{
	struct tuf_client *client = calloc(1, sizeof(*client));

	*ret = NULL;
	if (client)
		client->dir = strdup(dir);
	if (!client || !client->dir) {
		free(client);
		return pe_error_nomem();
	}
	use_limits(&client->limits, limits);

	struct pe_error *err = repo_store_open(&client->store, client->dir);

	if (err)
		tuf_client_free(client);
	else
		*ret = client;
	return err;
}

static void forget_request(struct tuf_client *client)
{
	client->waiting = false;
	free(pe_steal(client->path));
	free(pe_steal(client->etag));
}

static void forget_below_root(struct tuf_client *client)
{
	client_search_clear(client);
	tuf_metadata_free(pe_steal(client->timestamp));
	tuf_metadata_free(pe_steal(client->snapshot));
	free(pe_steal(client->timestamp_sha256));
	while (client->roles) {
		struct loaded_role *role = client->roles;

		client->roles = role->next;
		tuf_metadata_free(role->metadata);
		free(role->name);
		free(role);
	}
}

static void forget_all(struct tuf_client *client)
{
	forget_request(client);
	forget_below_root(client);
	tuf_metadata_free(pe_steal(client->root));
	client->step = STEP_IDLE;
}

void tuf_client_free(struct tuf_client *client)
{
	if (!client)
		return;
	forget_all(client);
	repo_store_close(&client->store);
	free(client->dir);
	free(client);
}

/* ---- what all steps share ---- */

struct pe_error *client_ask(struct tuf_client *client, const char *name, int64_t version,
			    size_t max_bytes)
{
	pe_auto_free char *quoted = repo_quote_url(name, "");
	int n = -1;

	if (quoted && version)
		n = asprintf(&client->path, "%lld.%s.json", (long long)version, quoted);
	else if (quoted)
		n = asprintf(&client->path, "%s.json", quoted);
	if (n < 0) {
		client->path = NULL;
		return pe_error_nomem();
	}
	client->max_bytes = max_bytes;
	client->waiting = true;
	return NULL;
}

struct pe_error *client_expired(const struct tuf_client *client, const struct tuf_metadata *md,
				const char *what)
{
	if (md->expires > client->now)
		return NULL;
	return pe_error_new(
		PE_ERR_POLICY,
		"%s (version %lld) expired on %s, and it is %lld s later: the repository is not "
		"kept up, or this host's clock is wrong",
		what, (long long)md->version,
		json_string_value(json_object_get(md->body, "expires")),
		(long long)(client->now - md->expires));
}

struct pe_error *client_check_reply(const struct tuf_client *client, const struct tuf_reply *reply)
{
	if (reply->status != 200)
		return pe_error_new(PE_ERR_SYSTEM, "%s: the server answered %ld", client->path,
				    reply->status);
	if (reply->size > client->max_bytes)
		return pe_error_new(PE_ERR_POLICY, "%s has more than %zu bytes", client->path,
				    client->max_bytes);
	return NULL;
}

/* Verifies a top-level role against the trusted root. */
static struct pe_error *verify_top(const struct tuf_client *client, const struct tuf_metadata *md,
				   const char *what)
{
	return tuf_metadata_verify(md, json_object_get(client->root->body, "keys"),
				   tuf_root_role(client->root, tuf_type_name(md->type)), what);
}

/* ---- root ---- */

struct pe_error *tuf_refresh(struct tuf_client *client)
{
	pe_auto_free char *bytes = NULL;
	size_t size;

	forget_all(client);
	client->now = time(NULL);
	client->rotations = 0;
	client->unchanged = false;

	struct pe_error *err =
		repo_store_read(&client->store, "root.json", client->limits.root, &bytes, &size);

	if (!err && !bytes)
		err = pe_error_new(PE_ERR_POLICY, "no trusted root in %s", client->dir);
	if (!err)
		err = tuf_metadata_parse(TUF_ROOT, bytes, size, "the trusted root", &client->root);
	if (!err)
		err = verify_top(client, client->root, "the trusted root");
	if (err)
		forget_all(client);
	else
		client->step = STEP_ROOT;
	return err;
}

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

static struct pe_error *answer_root(struct tuf_client *client, const struct tuf_reply *reply)
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
		err = verify_top(client, root, what);
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
		repo_store_read(&client->store, ETAG_FILE, 1024, &bytes, &size);

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
		pe_error_free(repo_store_write(&client->store, ETAG_FILE, text, strlen(text)));
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
		err = verify_top(client, md, name);
	if (!err)
		*ret = pe_steal(md);
	else if (err->code == PE_ERR_FORMAT || err->code == PE_ERR_POLICY)
		pe_error_free(pe_steal(err));
	return err;
}

static struct pe_error *next_timestamp(struct tuf_client *client)
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
		err = verify_top(client, md, "timestamp.json");
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

static struct pe_error *answer_timestamp(struct tuf_client *client, const struct tuf_reply *reply)
{
	struct pe_error *err = NULL;

	client->unchanged = reply->status == 304 && client->etag;
	if (!client->unchanged)
		err = new_timestamp(client, reply);
	client->step = STEP_SNAPSHOT;
	return err ? err : client_expired(client, client->timestamp, "timestamp");
}

/* ---- snapshot ---- */

static size_t length_or(const json_t *meta, size_t limit)
{
	json_t *length = json_object_get(meta, "length");

	/* A signed length may be larger than our default: it is the repository's to say (5.5.1);
	 * but never so large that memory would end. */
	return length && json_integer_value(length) < INT32_MAX ? (size_t)json_integer_value(length)
								: limit;
}

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

static struct pe_error *next_snapshot(struct tuf_client *client)
{
	pe_auto_free char *bytes = NULL;
	size_t size;
	json_t *meta = tuf_meta(client->timestamp, "snapshot");
	size_t max = length_or(meta, client->limits.snapshot);
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

static struct pe_error *answer_snapshot(struct tuf_client *client, const struct tuf_reply *reply)
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
		err = verify_top(client, md, "snapshot.json");
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

/* ---- roles of targets ---- */

static struct pe_error *role_meta(const struct tuf_client *client, const char *name, json_t **ret)
{
	*ret = tuf_meta(client->snapshot, name);
	if (*ret)
		return NULL;
	return pe_error_new(PE_ERR_POLICY, "the snapshot does not name role %s", name);
}

static struct pe_error *verify_role(const struct tuf_client *client, const struct tuf_metadata *md,
				    const char *name, const struct loaded_role *parent)
{
	if (!parent)
		return verify_top(client, md, name);

	json_t *delegations = json_object_get(parent->metadata->body, "delegations");

	return tuf_metadata_verify(md, json_object_get(delegations, "keys"),
				   tuf_delegation(parent->metadata, name), name);
}

/* All that makes these bytes the targets role @name, for which @parent vouches. */
static struct pe_error *check_role_bytes(struct tuf_client *client, const char *name,
					 struct loaded_role *parent, const void *bytes, size_t size,
					 struct tuf_metadata **ret)
{
	tuf_auto_metadata struct tuf_metadata *md = NULL;
	json_t *meta;
	struct pe_error *err = role_meta(client, name, &meta);

	if (!err)
		err = tuf_check_bytes(meta, bytes, size, false, name);
	if (!err)
		err = tuf_metadata_parse(TUF_TARGETS, bytes, size, name, &md);
	if (err)
		return err;
	err = verify_role(client, md, name, parent);
	if (!err && md->version != tuf_meta_version(meta))
		err = pe_error_new(PE_ERR_POLICY, "%s is version %lld, the snapshot names %lld",
				   name, (long long)md->version, (long long)tuf_meta_version(meta));
	if (!err)
		err = client_expired(client, md, name);
	if (!err)
		*ret = pe_steal(md);
	return err;
}

static struct pe_error *add_role(struct tuf_client *client, const char *name,
				 struct loaded_role *parent, struct tuf_metadata **md,
				 struct loaded_role **ret)
{
	struct loaded_role *role = calloc(1, sizeof(*role));

	if (role)
		role->name = strdup(name);
	if (!role || !role->name) {
		free(role);
		return pe_error_nomem();
	}
	role->metadata = pe_steal(*md);
	role->parent = parent;
	role->next = client->roles;
	client->roles = role;
	*ret = role;
	return NULL;
}

static struct pe_error *role_file(const char *name, char **ret)
{
	*ret = repo_quote_file(name, ".json");
	if (*ret)
		return NULL;
	return pe_error_new(PE_ERR_POLICY, "the name of role %.40s… is too long", name);
}

struct loaded_role *client_role(const struct tuf_client *client, const char *name)
{
	struct loaded_role *role = client->roles;

	while (role && strcmp(role->name, name))
		role = role->next;
	return role;
}

struct pe_error *client_role_load(struct tuf_client *client, const char *name,
				  struct loaded_role *parent, struct loaded_role **ret)
{
	tuf_auto_metadata struct tuf_metadata *md = NULL;
	pe_auto_free char *file = NULL, *bytes = NULL;
	size_t size = 0;
	json_t *meta;

	*ret = client_role(client, name);
	/* What one delegator vouches for is not thereby trusted by another. */
	if (*ret)
		return (*ret)->parent == parent
			       ? NULL
			       : verify_role(client, (*ret)->metadata, name, parent);

	struct pe_error *err = role_meta(client, name, &meta);

	if (!err)
		err = role_file(name, &file);
	if (!err)
		err = repo_store_read(&client->store, file, SIZE_MAX, &bytes, &size);
	if (err)
		return err;
	if (bytes) {
		pe_auto_error struct pe_error *stale =
			check_role_bytes(client, name, parent, bytes, size, &md);

		if (!stale)
			return add_role(client, name, parent, &md, ret);
	}
	return client_ask(client, name,
			  tuf_root_consistent(client->root) ? tuf_meta_version(meta) : 0,
			  length_or(meta, client->limits.targets));
}

struct pe_error *client_role_answer(struct tuf_client *client, const char *name,
				    struct loaded_role *parent, const struct tuf_reply *reply,
				    struct loaded_role **ret)
{
	tuf_auto_metadata struct tuf_metadata *md = NULL;
	pe_auto_free char *file = NULL;
	struct pe_error *err = client_check_reply(client, reply);

	if (!err)
		err = check_role_bytes(client, name, parent, reply->bytes, reply->size, &md);
	if (!err)
		err = role_file(name, &file);
	if (!err)
		err = repo_store_write(&client->store, file, reply->bytes, reply->size);
	return err ? err : add_role(client, name, parent, &md, ret);
}

/* ---- the machine ---- */

static struct pe_error *next_targets(struct tuf_client *client)
{
	struct loaded_role *role;
	struct pe_error *err = client_role_load(client, "targets", NULL, &role);

	if (!err && role)
		client->step = STEP_READY;
	return err;
}

static struct pe_error *answer_targets(struct tuf_client *client, const struct tuf_reply *reply)
{
	struct loaded_role *role;

	client->step = STEP_READY;
	return client_role_answer(client, "targets", NULL, reply, &role);
}

static struct pe_error *next_step(struct tuf_client *client)
{
	switch (client->step) {
	case STEP_ROOT:
		return client_ask(client, "root", client->root->version + 1, client->limits.root);
	case STEP_TIMESTAMP:
		return next_timestamp(client);
	case STEP_SNAPSHOT:
		return next_snapshot(client);
	case STEP_TARGETS:
		return next_targets(client);
	case STEP_SEARCH:
		return client_search_next(client);
	case STEP_IDLE:
	case STEP_READY:
		break;
	}
	return pe_error_new(PE_ERR_INTERNAL, "the repository's client has nothing to do");
}

/* After an error nothing is kept in memory; a 304 that led here is not asked for again. */
static void give_up(struct tuf_client *client)
{
	if (client->unchanged)
		pe_error_free(repo_store_remove(&client->store, ETAG_FILE));
	forget_all(client);
}

struct pe_error *tuf_next(struct tuf_client *client, struct tuf_request *request)
{
	struct pe_error *err = NULL;

	*request = (struct tuf_request){ 0 };
	if (client->step == STEP_IDLE)
		return pe_error_new(PE_ERR_INTERNAL, "no refresh was begun");
	while (!err && !client->waiting && client->step != STEP_READY)
		err = next_step(client);
	if (err) {
		give_up(client);
		return err;
	}
	if (client->waiting)
		*request = (struct tuf_request){ .path = client->path,
						 .max_bytes = client->max_bytes,
						 .etag = client->etag };
	return NULL;
}

static struct pe_error *answer_step(struct tuf_client *client, const struct tuf_reply *reply)
{
	switch (client->step) {
	case STEP_ROOT:
		return answer_root(client, reply);
	case STEP_TIMESTAMP:
		return answer_timestamp(client, reply);
	case STEP_SNAPSHOT:
		return answer_snapshot(client, reply);
	case STEP_TARGETS:
		return answer_targets(client, reply);
	case STEP_SEARCH:
		return client_search_answer(client, reply);
	case STEP_IDLE:
	case STEP_READY:
		break;
	}
	return pe_error_new(PE_ERR_INTERNAL, "an answer that nobody asked for");
}

struct pe_error *tuf_answer(struct tuf_client *client, const struct tuf_reply *reply)
{
	struct pe_error *err;

	if (!client->waiting)
		return pe_error_new(PE_ERR_INTERNAL, "an answer that nobody asked for");
	err = answer_step(client, reply);
	forget_request(client);
	if (err)
		give_up(client);
	return err;
}

bool tuf_role_info(const struct tuf_client *client, const char *role, int64_t *version,
		   int64_t *expires)
{
	const struct loaded_role *loaded = client_role(client, role);
	const struct tuf_metadata *md = loaded			     ? loaded->metadata
					: !strcmp(role, "root")	     ? client->root
					: !strcmp(role, "timestamp") ? client->timestamp
					: !strcmp(role, "snapshot")  ? client->snapshot
								     : NULL;

	if (!md)
		return false;
	*version = md->version;
	*expires = md->expires;
	return true;
}

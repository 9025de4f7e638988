/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The client's life, and the machine that goes from step to step: top_roles.c, target_roles.c and
 * search.c know what each step asks for and what makes an answer good. What is on disk is verified
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

size_t client_length_or(const json_t *meta, size_t limit)
{
	json_t *length = json_object_get(meta, "length");

	/* A signed length may be larger than our default: it is the repository's to say (5.5.1);
	 * but never so large that memory would end. */
	return length && json_integer_value(length) < INT32_MAX ? (size_t)json_integer_value(length)
								: limit;
}

/* ---- the machine ---- */

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
		err = client_verify_top(client, client->root, "the trusted root");
	if (err)
		forget_all(client);
	else
		client->step = STEP_ROOT;
	return err;
}

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
		return client_next_timestamp(client);
	case STEP_SNAPSHOT:
		return client_next_snapshot(client);
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
		pe_error_free(repo_store_remove(&client->store, CLIENT_ETAG_FILE));
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
		return client_answer_root(client, reply);
	case STEP_TIMESTAMP:
		return client_answer_timestamp(client, reply);
	case STEP_SNAPSHOT:
		return client_answer_snapshot(client, reply);
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

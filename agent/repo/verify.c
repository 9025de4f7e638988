/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Is what is published what a host will accept? Asked of the client itself: it starts from the
 * first root, fetches from the public folder, searches for each target by its path; then each
 * artifact and the vendor's signature of it are checked.
 */
#include <string.h>

#include "agent/repo/json.h"
#include "agent/repo/metadata.h"
#include "agent/repo/publisher.h"
#include "agent/repo/signature.h"
#include "agent/repo/sticky.h"
#include "agent/repo/tuf.h"
#include "build/files.h"
#include "build/text.h"
#include "engine/cleanup.h"

struct check {
	struct publisher *publisher;
	struct tuf_client *client;
	struct repo_keyring *ring;
	size_t *targets;
};

/* Answers the client from public/metadata. */
static struct pe_error *run_client(struct check *check)
{
	for (;;) {
		struct tuf_request request;
		struct tuf_reply reply = { .status = 404 };
		struct pe_error *err = tuf_next(check->client, &request);

		if (err || !request.path)
			return err;

		pe_auto_free char *text = NULL,
				  *path = pe_format("%s/public/metadata/%s", check->publisher->dir,
						    request.path);

		if (!path)
			return pe_error_nomem();
		if (pe_file_exists(path)) {
			err = pe_file_read(path, &text, &reply.size);
			reply.status = 200;
			reply.bytes = text;
		}
		if (!err)
			err = tuf_answer(check->client, &reply);
		if (err)
			return err;
	}
}

static struct pe_error *check_artifact(struct check *check, const struct tuf_target *target)
{
	pe_auto_free char *url = tuf_target_url(check->client, target), *bytes = NULL;
	pe_auto_free char *path =
		url ? pe_format("%s/public/targets/%s", check->publisher->dir, url) : NULL;
	const char *signature = json_string_value(json_object_get(target->custom, "signature"));
	json_t *meta;
	size_t size;
	struct pe_error *err = path ? pe_file_read(path, &bytes, &size) : pe_error_nomem();

	if (err)
		return err;
	meta = json_pack("{s:I, s:O}", "length", (json_int_t)target->length, "hashes",
			 target->hashes);
	err = tuf_check_bytes(meta, bytes, size, true, target->path);
	json_decref(meta);
	/* What is said of a key is no patch: the metadata alone are believed. */
	if (!err && json_object_get(target->custom, REPO_STICKY))
		return NULL;
	if (!err && !signature)
		err = pe_error_new(PE_ERR_POLICY, "%s has no signature of the vendor",
				   target->path);
	if (!err)
		err = repo_signature_verify(check->ring, bytes, size, signature, strlen(signature),
					    NULL);
	return err ? pe_error_wrap(err, "%s", path) : NULL;
}

static struct pe_error *check_target(struct check *check, const char *path)
{
	struct tuf_target target;
	struct pe_error *err = tuf_find(check->client, path);

	if (!err)
		err = run_client(check);
	if (!err && !tuf_target_count(check->client))
		err = pe_error_new(PE_ERR_POLICY, "no delegation leads to %s", path);
	if (!err)
		err = tuf_target(check->client, 0, &target);
	if (!err)
		err = check_artifact(check, &target);
	if (!err)
		++*check->targets;
	return err;
}

static struct pe_error *check_role(struct check *check, const char *role)
{
	repo_auto_json json_t *file = NULL;
	struct pe_error *err = publisher_published(check->publisher, role, &file);
	const char *path;
	json_t *entry;

	if (!err && !file)
		err = pe_error_new(PE_ERR_POLICY, "the file of role %s is missing", role);
	json_object_foreach(json_object_get(json_object_get(file, "signed"), "targets"), path,
			    entry) if (!err) err = check_target(check, path);
	return err;
}

static struct pe_error *check_all(struct check *check, size_t *roles)
{
	repo_auto_json json_t *snapshot = NULL;
	struct pe_error *err = tuf_refresh(check->client);
	const char *file;
	json_t *meta;

	if (!err)
		err = run_client(check);
	if (!err)
		err = publisher_published(check->publisher, "snapshot", &snapshot);
	json_object_foreach(json_object_get(json_object_get(snapshot, "signed"), "meta"), file,
			    meta)
	{
		pe_auto_free char *role = strndup(file, strlen(file) - strlen(".json"));

		if (!err)
			err = role ? check_role(check, role) : pe_error_nomem();
		++*roles;
	}
	return err;
}

struct pe_error *publisher_verify(struct publisher *publisher, size_t *roles, size_t *targets)
{
	pe_auto_temp_dir struct pe_temp_dir dir = { 0 };
	struct check check = { .publisher = publisher, .targets = targets };
	pe_auto_free char *path = publisher_path(publisher, "public/metadata/1.root.json");
	pe_auto_free char *root = NULL, *folder = NULL;
	size_t size;

	*roles = *targets = 0;
	if (!path)
		return pe_error_nomem();
	if (!pe_file_exists(path))
		return pe_error_new(PE_ERR_USAGE, "nothing is published yet: care-repo publish");

	struct pe_error *err = pe_file_read(path, &root, &size);

	if (!err)
		err = pe_temp_dir_init(&dir);
	/* Not the temporary folder itself: that is locked by us, and a client locks its own. */
	if (!err) {
		folder = pe_format("%s/client", dir.path);
		err = folder ? tuf_init(folder, root, size) : pe_error_nomem();
	}
	if (!err)
		err = tuf_client_open(folder, NULL, &check.client);
	if (!err)
		err = publisher_patch_ring(publisher, NULL, &check.ring);
	if (!err)
		err = check_all(&check, roles);
	tuf_client_free(check.client);
	repo_keyring_free(check.ring);
	return err;
}

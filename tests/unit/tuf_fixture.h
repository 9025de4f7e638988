/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A small repository in memory, signed here, and a client driven by it: for unit tests and the
 * fuzzer. Two states: before and after a patch was blocked and another added.
 */
#ifndef UNIT_TUF_FIXTURE_H
#define UNIT_TUF_FIXTURE_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/repo/json.h"
#include "agent/repo/key.h"
#include "agent/repo/tuf.h"
#include "engine/cleanup.h"

enum { TUF_FILES = 6 };

/* The files of one state, as the mirror has them. */
struct tuf_mirror {
	const char *name[TUF_FILES];
	char *bytes[TUF_FILES];
	size_t size[TUF_FILES];
};

#define TUF_PREFIX "main/db/7a14/"

struct tuf_fixture {
	EVP_PKEY *key;
	json_t *public;
	char keyid[65];
	struct tuf_mirror old, now;
	char dir[64];
};

static inline void tuf_must(struct pe_error *err)
{
	if (!err)
		return;
	fprintf(stderr, "fixture: %s\n", err->message);
	abort();
}

static inline void tuf_put(struct tuf_fixture *fixture, struct tuf_mirror *mirror, size_t index,
			   const char *name, json_t *body)
{
	pe_auto_free char *bytes = NULL, *hex = NULL;
	size_t size;
	json_t *file;

	tuf_must(repo_json_canonical(body, &bytes, &size));
	tuf_must(repo_key_sign(fixture->key, bytes, size, &hex));
	file = json_pack("{s:[{s:s, s:s}], s:o}", "signatures", "keyid", fixture->keyid, "sig", hex,
			 "signed", body);
	mirror->name[index] = name;
	mirror->bytes[index] = json_dumps(file, JSON_COMPACT);
	mirror->size[index] = strlen(mirror->bytes[index]);
	json_decref(file);
}

static inline json_t *tuf_body(const char *type, int version)
{
	return json_pack("{s:s, s:s, s:i, s:s}", "_type", type, "spec_version", "1.0.34", "version",
			 version, "expires", "2199-01-01T00:00:00Z");
}

static inline json_t *tuf_role(struct tuf_fixture *fixture)
{
	return json_pack("{s:[s], s:i}", "keyids", fixture->keyid, "threshold", 1);
}

static inline json_t *tuf_meta_of(const char *file, int version)
{
	return json_pack("{s:{s:i}}", file, "version", version);
}

static inline json_t *tuf_root_body(struct tuf_fixture *fixture)
{
	json_t *body = tuf_body("root", 1);

	json_object_set_new(body, "consistent_snapshot", json_true());
	json_object_set_new(body, "keys", json_pack("{s:O}", fixture->keyid, fixture->public));
	json_object_set_new(body, "roles",
			    json_pack("{s:o, s:o, s:o, s:o}", "root", tuf_role(fixture),
				      "timestamp", tuf_role(fixture), "snapshot", tuf_role(fixture),
				      "targets", tuf_role(fixture)));
	return body;
}

static inline json_t *tuf_feed_body(int version)
{
	json_t *body = tuf_body("targets", version), *targets = json_object();

	for (int level = 1; level <= version + 1; level++) {
		char path[64], hash[65];

		snprintf(path, sizeof(path), TUF_PREFIX "%d-fix.cpatch", level);
		memset(hash, '0' + level, 64);
		hash[64] = 0;
		json_object_set_new(targets, path,
				    json_pack("{s:i, s:{s:s}, s:{s:i, s:b}}", "length", 100 + level,
					      "hashes", "sha256", hash, "custom", "level", level,
					      "blocked", version > level));
	}
	json_object_set_new(body, "targets", targets);
	return body;
}

static inline void tuf_fill(struct tuf_fixture *fixture, struct tuf_mirror *mirror, int version)
{
	static const char *const names[][TUF_FILES] = {
		{ "1.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json",
		  "1.main.json", "none" },
		{ "1.root.json", "timestamp.json", "2.snapshot.json", "1.targets.json",
		  "2.main.json", "none" },
	};
	const char *const *name = names[version - 1];
	json_t *body;

	tuf_put(fixture, mirror, 0, name[0], tuf_root_body(fixture));
	body = tuf_body("timestamp", version);
	json_object_set_new(body, "meta", tuf_meta_of("snapshot.json", version));
	tuf_put(fixture, mirror, 1, name[1], body);
	body = tuf_body("snapshot", version);
	json_object_set_new(body, "meta",
			    json_pack("{s:{s:i}, s:{s:i}}", "targets.json", "version", 1,
				      "main.json", "version", version));
	tuf_put(fixture, mirror, 2, name[2], body);
	body = tuf_body("targets", 1);
	json_object_set_new(body, "targets", json_object());
	json_object_set_new(body, "delegations",
			    json_pack("{s:{s:O}, s:[{s:s, s:[s], s:i, s:b, s:[s]}]}", "keys",
				      fixture->keyid, fixture->public, "roles", "name", "main",
				      "keyids", fixture->keyid, "threshold", 1, "terminating", 1,
				      "paths", "main/*/*/*"));
	tuf_put(fixture, mirror, 3, name[3], body);
	tuf_put(fixture, mirror, 4, name[4], tuf_feed_body(version));
	tuf_put(fixture, mirror, 5, name[5], tuf_body("none", 1));
}

/* A folder in memory: what is tested is not the disk. */
static inline void tuf_fixture_init(struct tuf_fixture *fixture)
{
	fixture->key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
	tuf_must(repo_key_to_json(fixture->key, &fixture->public));
	tuf_must(repo_key_id(fixture->public, fixture->keyid));
	tuf_fill(fixture, &fixture->old, 1);
	tuf_fill(fixture, &fixture->now, 2);
	strcpy(fixture->dir, access("/dev/shm", W_OK) ? "/tmp/tuf.XXXXXX" : "/dev/shm/tuf.XXXXXX");
	if (!mkdtemp(fixture->dir))
		abort();
}

static inline void tuf_fixture_deinit(struct tuf_fixture *fixture)
{
	static const char *const files[] = { "root.json",    "timestamp.json", "snapshot.json",
					     "targets.json", "main.json",      "narrow.json",
					     ".etag" };

	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		char path[128];

		snprintf(path, sizeof(path), "%s/%s", fixture->dir, files[i]);
		unlink(path);
	}
	rmdir(fixture->dir);
	for (size_t i = 0; i < TUF_FILES; i++) {
		free(fixture->old.bytes[i]);
		free(fixture->now.bytes[i]);
	}
	json_decref(fixture->public);
	EVP_PKEY_free(fixture->key);
}

/* Puts the trusted files of the old state back, as a good refresh left them. */
static inline void tuf_restore(struct tuf_fixture *fixture)
{
	static const char *const files[] = { "root", "timestamp", "snapshot", "targets", "main" };

	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		char path[128];

		snprintf(path, sizeof(path), "%s/%s.json", fixture->dir, files[i]);

		FILE *file = fopen(path, "w");

		if (!file || fwrite(fixture->old.bytes[i], 1, fixture->old.size[i], file) !=
				     fixture->old.size[i])
			abort();
		fclose(file);
	}
}

/* Answers @client until it is done: @answer may change the reply that the mirror would give. */
typedef void tuf_answerer(void *arg, const char *path, struct tuf_reply *reply);

static inline struct pe_error *tuf_drive(struct tuf_client *client, const struct tuf_mirror *mirror,
					 tuf_answerer *answer, void *arg)
{
	for (;;) {
		struct tuf_request request;
		struct tuf_reply reply = { .status = 404, .bytes = "" };
		struct pe_error *err = tuf_next(client, &request);

		if (err || !request.path)
			return err;
		for (size_t i = 0; i < TUF_FILES; i++) {
			if (strcmp(mirror->name[i], request.path))
				continue;
			reply = (struct tuf_reply){ 200, mirror->bytes[i], mirror->size[i], NULL };
		}
		if (answer)
			answer(arg, request.path, &reply);
		err = tuf_answer(client, &reply);
		if (err)
			return err;
	}
}

/* Refresh and list what is there for the build. */
static inline struct pe_error *tuf_update(struct tuf_client *client,
					  const struct tuf_mirror *mirror, tuf_answerer *answer,
					  void *arg)
{
	struct pe_error *err = tuf_refresh(client);

	if (!err)
		err = tuf_drive(client, mirror, answer, arg);
	if (!err)
		err = tuf_list(client, TUF_PREFIX);
	return err ? err : tuf_drive(client, mirror, answer, arg);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The catalogue: one entry a patch and build, at the path FEED/PRODUCT/BUILD-ID/LEVEL-NAME.cpatch.
 * An entry is what targets metadata say of the path: length, hashes and our custom data.
 */
#include <openssl/evp.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "agent/repo/key.h"
#include "agent/repo/publisher.h"
#include "agent/repo/signature.h"
#include "agent/repo/sticky.h"
#include "build/files.h"
#include "build/text.h"
#include "engine/cleanup.h"
#include "engine/patch.h"

static void cleanup_patch(struct pe_patch **patch)
{
	pe_patch_free(*patch);
}

#define auto_patch __attribute__((cleanup(cleanup_patch)))

/* A file to be added: its bytes, what they say, and the vendor's signature. */
struct addition {
	const char *feed;
	bool dry_run;
	char *bytes;
	size_t size;
	struct pe_patch *patch;
	char sha256[65];
	char signature[REPO_SIGNATURE_SIZE];
};

static char *today(void)
{
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	return pe_format("%04d-%02d-%02d", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday);
}

static json_t *cve_list(const struct pe_patch *patch)
{
	json_t *list = json_array();

	for (size_t i = 0; i < patch->cve_count; i++)
		json_array_append_new(list, json_string(patch->cves[i].id));
	return list;
}

static json_t *entry_of(const struct addition *addition)
{
	const struct pe_patch *patch = addition->patch;
	pe_auto_free char *date = today();
	size_t line = strcspn(addition->signature, "\n");

	if (!date)
		return NULL;
	return json_pack("{s:{s:o, s:s, s:s, s:I, s:s, s:s, s:s%}, s:{s:s}, s:I}", "custom", "cves",
			 cve_list(patch), "feed", addition->feed, "kind", patch->kind, "level",
			 (json_int_t)patch->level, "name", patch->name, "released", date,
			 "signature", addition->signature, line, "hashes", "sha256",
			 addition->sha256, "length", (json_int_t)addition->size);
}

/* Where the web server finds the artifact of @path: its hash goes before the name. */
static char *public_file(const struct publisher *publisher, const char *path, const char *sha256)
{
	const char *base = strrchr(path, '/') + 1;

	return pe_format("%s/public/targets/%.*s%s.%s", publisher->dir, (int)(base - path), path,
			 sha256, base);
}

static struct pe_error *publish_file(const struct publisher *publisher, const char *path,
				     const struct addition *addition)
{
	pe_auto_free char *file = public_file(publisher, path, addition->sha256);
	pe_auto_free char *signature = file ? pe_format("%s" REPO_SIGNATURE_SUFFIX, file) : NULL;
	pe_auto_free char *dir = file ? strndup(file, (size_t)(strrchr(file, '/') - file)) : NULL;

	if (!signature || !dir)
		return pe_error_nomem();

	struct pe_error *err = pe_dir_make(dir);

	if (!err)
		err = pe_file_write(file, addition->bytes, addition->size);
	if (!err)
		err = pe_file_write(signature, addition->signature, strlen(addition->signature));
	return err;
}

static struct pe_error *add_target(struct publisher *publisher, const struct addition *addition,
				   const struct pe_patch_target *target, size_t *added)
{
	const struct pe_patch *patch = addition->patch;
	char build_id[2 * PE_BUILD_ID_MAX + 1];
	pe_auto_free char *path = NULL;
	const char *known;

	pe_build_id_hex(&target->build_id, build_id);
	path = pe_format("%s/%s/%s/%u-%s.cpatch", addition->feed, patch->product, build_id,
			 patch->level, patch->name);
	if (!path)
		return pe_error_nomem();
	known = json_string_value(json_object_get(
		json_object_get(json_object_get(publisher->catalogue, path), "hashes"), "sha256"));
	if (known && !strcmp(known, addition->sha256))
		return NULL;
	if (known)
		return pe_error_new(PE_ERR_POLICY,
				    "%s is in the repository with other contents: a changed patch "
				    "needs a new level or name",
				    path);

	++*added;
	if (addition->dry_run)
		return NULL;

	struct pe_error *err = publish_file(publisher, path, addition);

	if (!err && json_object_set_new(publisher->catalogue, path, entry_of(addition)))
		err = pe_error_nomem();
	return err;
}

/* ---- adding ---- */

static struct pe_error *patch_key(struct publisher *publisher)
{
	json_t *names = publisher_role_keys(publisher, "patch");
	size_t count = json_array_size(names);

	if (publisher->patch_key)
		return NULL;
	if (!count)
		return pe_error_new(PE_ERR_USAGE, "no key signs patches: care-repo key patch");
	return publisher_private_key(publisher, json_string_value(json_array_get(names, count - 1)),
				     &publisher->patch_key);
}

static struct pe_error *read_addition(struct publisher *publisher, const char *file,
				      struct addition *addition)
{
	struct pe_error *err = pe_file_read(file, &addition->bytes, &addition->size);

	if (!err)
		err = pe_patch_parse(addition->bytes, addition->size, &addition->patch);
	if (err)
		return pe_error_wrap(err, "cannot add %s", file);
	if (!repo_sha256_hex(addition->bytes, addition->size, addition->sha256))
		return pe_error_nomem();
	err = patch_key(publisher);
	if (!err)
		err = repo_signature_make(publisher->patch_key, addition->bytes, addition->size,
					  addition->signature);
	return err;
}

struct pe_error *publisher_add(struct publisher *publisher, const char *file, const char *feed,
			       bool dry_run)
{
	pe_auto_free char *role = pe_format("feed/%s", feed), *bytes = NULL;
	auto_patch struct pe_patch *patch = NULL;
	struct addition addition = { .feed = feed, .dry_run = dry_run };
	size_t added = 0;

	if (!role)
		return pe_error_nomem();
	if (!strcmp(feed, REPO_KEYS_FEED))
		return pe_error_new(PE_ERR_USAGE,
				    "feed %s is for care-repo sticky, not for patches", feed);
	if (!publisher_role_keys(publisher, role))
		return pe_error_new(PE_ERR_USAGE,
				    "there is no feed %s: care-repo key feed/%s makes it", feed,
				    feed);

	struct pe_error *err = read_addition(publisher, file, &addition);

	bytes = addition.bytes;
	patch = addition.patch;
	for (size_t i = 0; !err && i < patch->target_count; i++)
		err = add_target(publisher, &addition, &patch->targets[i], &added);
	if (!err && !added)
		err = pe_error_new(PE_ERR_NOTHING, "%s is in feed %s already", file, feed);
	return err;
}

/* ---- blocking ---- */

struct pe_error *publisher_block(struct publisher *publisher, const char *name, const char *feed,
				 const char *reason, size_t *count)
{
	const char *path;
	json_t *entry;
	size_t known = 0;

	*count = 0;
	json_object_foreach(publisher->catalogue, path, entry)
	{
		json_t *custom = json_object_get(entry, "custom");
		const char *its_name = json_string_value(json_object_get(custom, "name"));
		const char *its_feed = json_string_value(json_object_get(custom, "feed"));

		if (!its_name || strcmp(its_name, name) || (feed && strcmp(its_feed, feed)))
			continue;
		known++;
		if (json_object_get(custom, "blocked"))
			continue;
		json_object_set_new(custom, "blocked", json_string(reason));
		++*count;
	}
	if (!known)
		return pe_error_new(PE_ERR_NO_TARGET, "no patch %s%s%s", name,
				    feed ? " in feed " : "", feed ? feed : "");
	if (!*count)
		return pe_error_new(PE_ERR_NOTHING, "patch %s is blocked already", name);
	return NULL;
}

/* ---- sticky days of keys (sticky.h) ---- */

/* The role of keys is made with the first of them. */
static struct pe_error *keys_role(struct publisher *publisher, const char *type)
{
	static const char role[] = "feed/" REPO_KEYS_FEED;

	if (publisher_role_keys(publisher, role))
		return NULL;
	return publisher_key_make(publisher, role, type, false, NULL);
}

/* The file says the same as the metadata, so that the target is one like all others. */
static struct pe_error *put_settings(struct publisher *publisher, const char *path,
				     const char *text, const char *tag)
{
	char sha256[65];
	size_t size = strlen(text);

	if (!repo_sha256_hex(text, size, sha256))
		return pe_error_nomem();

	pe_auto_free char *file = public_file(publisher, path, sha256);
	pe_auto_free char *dir = file ? strndup(file, (size_t)(strrchr(file, '/') - file)) : NULL;
	json_t *entry = json_pack("{s:{s:s}, s:{s:s}, s:I}", "custom", REPO_STICKY, tag, "hashes",
				  "sha256", sha256, "length", (json_int_t)size);
	struct pe_error *err = dir ? pe_dir_make(dir) : pe_error_nomem();

	if (!err)
		err = pe_file_write(file, text, size);
	if (!err && json_object_set(publisher->catalogue, path, entry))
		err = pe_error_nomem();
	json_decref(entry);
	return err;
}

struct pe_error *publisher_sticky(struct publisher *publisher, const char *key, const char *tag,
				  const char *type)
{
	pe_auto_free char *folder = repo_sticky_folder(key);
	pe_auto_free char *path = folder ? pe_format("%ssettings.json", folder) : NULL;
	pe_auto_free char *text = pe_format("{\"%s\":\"%s\"}\n", REPO_STICKY, tag);
	const json_t *known;

	if (!repo_sticky_key_ok(key))
		return pe_error_new(PE_ERR_USAGE, "a key has 8 to 64 letters, digits and hyphens");
	if (!repo_sticky_tag_ok(tag))
		return pe_error_new(PE_ERR_USAGE,
				    "'%.32s' is neither a date DDMMYY nor " REPO_STICKY_YESTERDAY
				    " nor " REPO_STICKY_NONE,
				    tag);
	if (!path || !text)
		return pe_error_nomem();
	known = json_object_get(json_object_get(publisher->catalogue, path), "custom");
	if (known && !strcmp(json_string_value(json_object_get(known, REPO_STICKY)), tag))
		return pe_error_new(PE_ERR_NOTHING, "the key sticks to %s already", tag);

	struct pe_error *err = keys_role(publisher, type);

	return err ? err : put_settings(publisher, path, text, tag);
}

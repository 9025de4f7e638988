/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Publishing: each role whose content, keys or remaining time ask for it gets a next version, in
 * an order in which a client never sees a name before the file: root, then feeds from their leaves
 * up, targets, snapshot, and at last the timestamp. Files of other versions than the last three
 * go, but roots stay: a client follows them one by one. What lacks signatures waits (pending.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "agent/repo/json.h"
#include "agent/repo/key.h"
#include "agent/repo/names.h"
#include "agent/repo/publisher.h"
#include "build/files.h"
#include "build/text.h"
#include "engine/cleanup.h"

enum { KEPT_VERSIONS = 3, MAX_METADATA = 1 << 28, SECONDS_A_DAY = 86400 };

/* ---- what is published ---- */

static char *metadata_path(const struct publisher *publisher, const char *role, json_int_t version)
{
	pe_auto_free char *quoted = repo_quote_url(role, "");

	if (!quoted)
		return NULL;
	return version ? pe_format("%s/public/metadata/%lld.%s.json", publisher->dir,
				   (long long)version, quoted)
		       : pe_format("%s/public/metadata/%s.json", publisher->dir, quoted);
}

static struct pe_error *read_version(struct publisher *publisher, const char *role,
				     json_int_t version, json_t **ret)
{
	pe_auto_free char *path = metadata_path(publisher, role, version), *text = NULL;
	size_t size;

	*ret = NULL;
	if (!path)
		return pe_error_nomem();
	if (!pe_file_exists(path))
		return NULL;

	struct pe_error *err = pe_file_read(path, &text, &size);

	return err ? err : repo_json_parse(text, size, path, ret);
}

static json_int_t version_in_meta(const json_t *file, const char *role)
{
	pe_auto_free char *name = pe_format("%s.json", role);
	json_t *meta = json_object_get(json_object_get(file, "signed"), "meta");

	return name ? json_integer_value(json_object_get(json_object_get(meta, name), "version"))
		    : 0;
}

static struct pe_error *last_root(struct publisher *publisher, json_t **ret)
{
	json_t *next = NULL;
	struct pe_error *err = NULL;
	json_int_t version = 0;

	*ret = NULL;
	do {
		if (next) {
			json_decref(*ret);
			*ret = next;
		}
		err = read_version(publisher, "root", ++version, &next);
	} while (!err && next);
	return err;
}

struct pe_error *publisher_published(struct publisher *publisher, const char *role, json_t **ret)
{
	repo_auto_json json_t *timestamp = NULL, *snapshot = NULL;
	struct pe_error *err = NULL;
	json_int_t version;

	*ret = NULL;
	if (!strcmp(role, "root"))
		return last_root(publisher, ret);
	err = read_version(publisher, "timestamp", 0, &timestamp);
	if (err || !timestamp || !strcmp(role, "timestamp")) {
		*ret = pe_steal(timestamp);
		return err;
	}
	version = version_in_meta(timestamp, "snapshot");
	if (!strcmp(role, "snapshot"))
		return read_version(publisher, role, version, ret);
	err = read_version(publisher, "snapshot", version, &snapshot);
	if (err || !snapshot || !(version = version_in_meta(snapshot, role)))
		return err;
	return read_version(publisher, role, version, ret);
}

/* ---- one role ---- */

static char *expiry(int days)
{
	time_t at = time(NULL) + (time_t)days * SECONDS_A_DAY;
	struct tm tm;

	gmtime_r(&at, &tm);
	return pe_format("%04d-%02d-%02dT%02d:%02d:%02dZ", tm.tm_year + 1900, tm.tm_mon + 1,
			 tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

/* Less than a third of its time is left. The dates are of one form, so that their text compares. */
static bool expires_soon(const json_t *body, int days)
{
	const char *expires = json_string_value(json_object_get(body, "expires"));
	pe_auto_free char *soon = expiry(days / 3 + 1);

	return !expires || !soon || strcmp(expires, soon) < 0;
}

static bool same_content(const json_t *old, const json_t *body)
{
	repo_auto_json json_t *bare = json_copy((json_t *)old);

	json_object_del(bare, "version");
	json_object_del(bare, "expires");
	return json_equal(bare, (json_t *)body);
}

/* A role to publish: what it should say, and who signs. */
struct intent {
	const char *role;
	json_t *body; /* borrowed; without version and expiry */
	const json_t *names;
	const json_t *needs; /* whose signatures are enough: publisher_signed_enough() */
	int days;
	bool versioned; /* the version is part of the file's name */
	bool optional;	/* the rest may be published before it */
};

struct run {
	struct publisher *publisher;
	json_t *done;	 /* role -> version, of those written */
	json_t *current; /* role -> version, of all below snapshot */
	char *waiting;	 /* what lacks signatures of keys that are elsewhere; NULL: nothing */
	bool blocked;	 /* and the rest cannot be published before */
};

/* Enough have signed @file, and nobody else. */
static bool signed_well(const json_t *file, const struct intent *intent)
{
	json_t *need, *id, *signature;
	size_t i, k, n;

	json_array_foreach(json_object_get(file, "signatures"), i, signature)
	{
		bool known = false;

		json_array_foreach(intent->needs, n, need)
		{
			json_array_foreach(json_object_get(need, "keyids"), k, id) known |=
				json_equal(id, json_object_get(signature, "keyid"));
		}
		if (!known)
			return false;
	}
	return publisher_signed_enough(file, intent->needs);
}

/*
 * The one file that changes under its name. Web servers make its ETag of size and second: a file
 * that follows another within a second gets a later time, or hosts would be told it is the same.
 */
static struct pe_error *replace_file(const char *path, const char *text)
{
	pe_auto_free char *next = pe_format("%s.next", path);
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_OMIT } };
	struct stat old;
	struct pe_error *err = next ? pe_file_write(next, text, strlen(text)) : pe_error_nomem();

	if (err)
		return err;
	if (!stat(path, &old) && old.st_mtime >= time(NULL))
		times[1] = (struct timespec){ .tv_sec = old.st_mtime + 1 };
	if (utimensat(AT_FDCWD, next, times, 0) || rename(next, path))
		return pe_error_errno(errno, "cannot write %s", path);
	return NULL;
}

static struct pe_error *write_role(struct run *run, const struct intent *intent, json_int_t version,
				   char **text)
{
	repo_auto_json json_t *body = json_copy(intent->body);
	pe_auto_free char *expires = expiry(intent->days), *soon = expiry(intent->days / 3 + 1);
	pe_auto_free char *path =
		metadata_path(run->publisher, intent->role, intent->versioned ? version : 0);

	if (!body || !expires || !soon || !path)
		return pe_error_nomem();
	json_object_set_new(body, "version", json_integer(version));
	json_object_set_new(body, "expires", json_string(expires));

	struct pe_error *err = publisher_sign_enough(run->publisher, intent->role, body,
						     intent->names, intent->needs, soon, text);

	if (!err)
		err = intent->versioned ? pe_file_write(path, *text, strlen(*text))
					: replace_file(path, *text);
	if (!err)
		json_object_set_new(run->done, intent->role, json_integer(version));
	return err;
}

/* Notes what waits for signatures (@held, taken over). */
static struct pe_error *wait_for(struct run *run, struct pe_error *held)
{
	char *longer = pe_format("%s%s%s", run->waiting ? run->waiting : "",
				 run->waiting ? "; " : "", held->message);

	pe_error_free(held);
	free(run->waiting);
	run->waiting = longer;
	return longer ? NULL : pe_error_nomem();
}

/*
 * Writes the next version when there is a reason; @version is what is current then: the old one
 * when the next lacks signatures.
 */
static struct pe_error *publish_role(struct run *run, const struct intent *intent,
				     json_int_t *version)
{
	repo_auto_json json_t *old = NULL;
	pe_auto_free char *text = NULL;
	struct pe_error *err = publisher_published(run->publisher, intent->role, &old);
	json_t *body = json_object_get(old, "signed");

	if (err)
		return err;
	*version = json_integer_value(json_object_get(body, "version"));
	if (old && same_content(body, intent->body) && !expires_soon(body, intent->days) &&
	    signed_well(old, intent))
		return NULL;
	err = write_role(run, intent, *version + 1, &text);
	if (!err) {
		++*version;
	} else if (err->code == PE_ERR_HELD) {
		run->blocked |= !old || !intent->optional;
		err = wait_for(run, err);
	}
	return err;
}

/* The keys of one role, as many as its threshold says. */
static struct pe_error *needs_of(struct publisher *publisher, const char *keys, json_t **ret)
{
	repo_auto_json json_t *unused = json_object();
	json_t *keyids = NULL;
	struct pe_error *err = publisher_put_keys(publisher, keys, unused, &keyids);

	*ret = err ? NULL
		   : json_pack("[{s:o, s:i}]", "keyids", keyids, "threshold",
			       publisher_threshold(publisher, keys));
	return err || *ret ? err : pe_error_nomem();
}

/* A role whose file has a version in its name, signed by the keys of @keys alone. */
static struct pe_error *publish_simple(struct run *run, const char *role, json_t *body,
				       const char *keys, const char *days, json_int_t *version)
{
	repo_auto_json json_t *needs = NULL;
	struct pe_error *err = needs_of(run->publisher, keys, &needs);
	const struct intent intent = { .role = role,
				       .body = body,
				       .names = publisher_role_keys(run->publisher, keys),
				       .needs = needs,
				       .days = publisher_days(run->publisher, days),
				       .versioned = strcmp(role, "timestamp") != 0 };

	return err ? err : publish_role(run, &intent, version);
}

/* ---- root ---- */

/* Old keys sign too, as long as the last root lists them: a client needs both. */
static struct pe_error *root_signers(struct publisher *publisher, json_t **ret)
{
	repo_auto_json json_t *old = NULL;
	json_t *retired = json_object_get(publisher->config, "retired_root");
	json_t *names = json_copy(publisher_role_keys(publisher, "root")), *keyids, *key;
	struct pe_error *err = publisher_published(publisher, "root", &old);

	*ret = names;
	keyids = json_object_get(
		json_object_get(json_object_get(json_object_get(old, "signed"), "roles"), "root"),
		"keyids");
	for (size_t i = 0; !err && i < json_array_size(retired); i++) {
		json_t *name = json_array_get(retired, i);

		err = publisher_public_key(publisher, json_string_value(name), &key);
		for (size_t k = 0; !err && k < json_array_size(keyids); k++)
			if (json_equal(json_array_get(keyids, k), json_object_get(key, "id")))
				json_array_append(names, name);
	}
	return err;
}

static json_t *root_role(const json_t *body)
{
	return json_object_get(json_object_get(body, "roles"), "root");
}

/* Hosts that know the old root alone accept what the other roles' keys sign now. */
static bool same_keys_below(const json_t *old, const json_t *body)
{
	static const char *const roles[] = { "targets", "snapshot", "timestamp" };

	for (size_t i = 0; i < sizeof(roles) / sizeof(*roles); i++)
		if (!json_equal(json_object_get(json_object_get(old, "roles"), roles[i]),
				json_object_get(json_object_get(body, "roles"), roles[i])))
			return false;
	return true;
}

static struct pe_error *publish_root(struct run *run)
{
	repo_auto_json json_t *body = NULL, *names = NULL, *old = NULL, *needs = NULL;
	json_int_t version;
	struct pe_error *err = publisher_root_body(run->publisher, &body);

	if (!err)
		err = publisher_published(run->publisher, "root", &old);
	if (err)
		return err;
	/* Signatures of retired keys are no reason for one more version. */
	if (old && same_content(json_object_get(old, "signed"), body) &&
	    !expires_soon(json_object_get(old, "signed"), publisher_days(run->publisher, "root")))
		return NULL;
	err = root_signers(run->publisher, &names);
	if (err)
		return err;
	/* Each root is vouched for by the one before, too (5.3.4). */
	needs = json_pack("[O, O*]", root_role(body), root_role(json_object_get(old, "signed")));

	const struct intent intent = { .role = "root",
				       .body = body,
				       .names = names,
				       .needs = needs,
				       .days = publisher_days(run->publisher, "root"),
				       .versioned = true,
				       .optional = same_keys_below(json_object_get(old, "signed"),
								   body) };

	return needs ? publish_role(run, &intent, &version) : pe_error_nomem();
}

/* ---- below the snapshot ---- */

static struct pe_error *publish_below(struct run *run, const char *role, json_t *body,
				      const char *keys, const char *days)
{
	json_int_t version;
	struct pe_error *err = publish_simple(run, role, body, keys, days, &version);

	if (!err)
		json_object_set_new(run->current, role, json_integer(version));
	return err;
}

static struct pe_error *publish_feeds(struct run *run)
{
	const char *role, *name;
	json_t *names, *body;
	struct pe_error *err = NULL;

	json_object_foreach(json_object_get(run->publisher->config, "keys"), role, names)
	{
		repo_auto_json json_t *roles = NULL;

		if (err || !pe_starts_with(role, "feed/"))
			continue;
		err = publisher_feed_roles(run->publisher, role + strlen("feed/"), &roles);
		json_object_foreach(roles, name, body) if (!err) err =
			publish_below(run, name, body, role, "feed");
	}
	return err;
}

static struct pe_error *publish_targets(struct run *run)
{
	repo_auto_json json_t *body = NULL;
	struct pe_error *err = publisher_targets_body(run->publisher, &body);

	return err ? err : publish_below(run, "targets", body, "targets", "targets");
}

/* What is published below the snapshot stays as it is. */
static struct pe_error *keep_current(struct run *run)
{
	repo_auto_json json_t *snapshot = NULL;
	struct pe_error *err = publisher_published(run->publisher, "snapshot", &snapshot);
	const char *file;
	json_t *meta;

	if (!err && !snapshot)
		err = pe_error_new(PE_ERR_USAGE, "nothing is published yet: publish needs the "
						 "offline keys first");
	json_object_foreach(json_object_get(json_object_get(snapshot, "signed"), "meta"), file,
			    meta)
	{
		pe_auto_free char *role = strndup(file, strlen(file) - strlen(".json"));

		if (role)
			json_object_set(run->current, role, json_object_get(meta, "version"));
	}
	return err;
}

/* ---- snapshot and timestamp ---- */

static struct pe_error *publish_snapshot(struct run *run, json_int_t *version)
{
	repo_auto_json json_t *body = json_pack("{s:s, s:s, s:{}}", "_type", "snapshot",
						"spec_version", "1.0.34", "meta");
	json_t *meta = json_object_get(body, "meta"), *its_version;
	const char *role;

	json_object_foreach(run->current, role, its_version)
	{
		pe_auto_free char *file = pe_format("%s.json", role);

		if (!file ||
		    json_object_set_new(meta, file, json_pack("{s:O}", "version", its_version)))
			return pe_error_nomem();
	}
	return publish_simple(run, "snapshot", body, "snapshot", "snapshot", version);
}

static struct pe_error *publish_timestamp(struct run *run, json_int_t snapshot_version)
{
	pe_auto_free char *path = metadata_path(run->publisher, "snapshot", snapshot_version);
	pe_auto_free char *text = NULL;
	repo_auto_json json_t *body = NULL;
	json_int_t version;
	size_t size;
	char hex[65];
	struct pe_error *err = path ? pe_file_read(path, &text, &size) : pe_error_nomem();

	if (err)
		return err;
	if (!repo_sha256_hex(text, size, hex))
		return pe_error_nomem();
	body = json_pack("{s:s, s:s, s:{s:{s:{s:s}, s:I, s:I}}}", "_type", "timestamp",
			 "spec_version", "1.0.34", "meta", "snapshot.json", "hashes", "sha256", hex,
			 "length", (json_int_t)size, "version", snapshot_version);
	if (!body)
		return pe_error_nomem();
	return publish_simple(run, "timestamp", body, "timestamp", "timestamp", &version);
}

/* ---- the whole ---- */

static void prune(struct run *run, json_int_t snapshot_version)
{
	pe_auto_free char *dir = publisher_path(run->publisher, "public/metadata");
	pe_auto_strv struct pe_strv names = { 0 };
	pe_auto_error struct pe_error *err = dir ? pe_dir_list(dir, &names) : pe_error_nomem();

	for (size_t i = 0; !err && i < names.count; i++) {
		char *rest, *path;
		long long version = strtoll(names.items[i], &rest, 10), current;
		pe_auto_free char *role = NULL;

		if (*rest != '.' || !pe_ends_with(rest, ".json"))
			continue;
		role = strndup(rest + 1, strlen(rest + 1) - strlen(".json"));
		if (!role || !strcmp(role, "root"))
			continue;
		current = !strcmp(role, "snapshot")
				  ? snapshot_version
				  : json_integer_value(json_object_get(run->current, role));
		path = pe_format("%s/%s", dir, names.items[i]);
		if (path && current && version <= current - KEPT_VERSIONS)
			unlink(path);
		free(path);
	}
}

static struct pe_error *publish_all(struct run *run, bool online, json_int_t *snapshot_version)
{
	struct pe_error *err = online ? keep_current(run) : publish_root(run);

	if (!err && !online)
		err = publish_feeds(run);
	if (!err && !online)
		err = publish_targets(run);
	if (!err && run->blocked)
		return pe_error_new(PE_ERR_HELD, "nothing is published: %s", run->waiting);
	if (!err)
		err = publish_snapshot(run, snapshot_version);
	/* The timestamp makes all else visible: it must not reach the disk before. */
	if (!err && syncfs(run->publisher->store.dir))
		err = pe_error_errno(errno, "cannot sync %s", run->publisher->dir);
	if (!err)
		err = publish_timestamp(run, *snapshot_version);
	if (!err && syncfs(run->publisher->store.dir))
		err = pe_error_errno(errno, "cannot sync %s", run->publisher->dir);
	return err;
}

struct pe_error *publisher_publish(struct publisher *publisher, bool online, json_t **done)
{
	struct run run = { publisher, json_object(), json_object(), NULL, false };
	json_int_t snapshot_version = 0;
	struct pe_error *err = publish_all(&run, online, &snapshot_version);

	if (!err)
		prune(&run, snapshot_version);
	if (!err && run.waiting)
		err = pe_error_new(PE_ERR_HELD, "all else is published: %s", run.waiting);
	free(run.waiting);
	json_decref(run.current);
	*done = run.done;
	return err;
}

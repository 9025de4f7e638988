/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a check asks of the repository: PATCH_SERVER/metadata by the rules of TUF, then what is
 * published for the builds that run here and said of this host's key; and, when a server wants it,
 * the file of a patch from PATCH_SERVER/targets. What was found is kept as CACHE_DIR/offers.json; a
 * check that fails changes nothing.
 *
 * Verifying and writing metadata is done in a worker thread, since it computes and syncs files.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "agent/daemon/agent.h"
#include "agent/daemon/http.h"
#include "agent/paths.h"
#include "agent/repo/key.h"
#include "agent/repo/sticky.h"
#include "agent/repo/store.h"
#include "agent/repo/tuf.h"
#include "engine/cleanup.h"

enum { PATCH_MOST = 64 << 20, ROOT_MOST = 1 << 20, FORGET_SECONDS = 90 * 86400 };

static const char usual_feed[] = "main";
#define PATCH_SUFFIX ".cpatch"

/* ---- files ---- */

static struct pe_error *write_whole(const char *path, const void *bytes, size_t size)
{
	char fresh[PATH_MAX];

	snprintf(fresh, sizeof(fresh), "%s.new", path);
	pe_auto_fd int fd =
		open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (fd < 0 || !repo_write_all(fd, bytes, size) || fsync(fd) != 0 ||
	    rename(fresh, path) != 0) {
		struct pe_error *err = pe_error_errno(errno, "cannot write %s", path);

		unlink(fresh);
		return err;
	}
	return NULL;
}

static bool sha256_is(const void *bytes, size_t size, const char *hex)
{
	char text[65];

	return repo_sha256_hex(bytes, size, text) && strcmp(text, hex) == 0;
}

/* ---- the client, step by step ---- */

struct step {
	struct tuf_client *client;
	struct tuf_request request;
	const struct tuf_reply *reply;
	struct pe_error *err;
};

static void step_next(void *arg)
{
	struct step *step = arg;

	step->err = tuf_next(step->client, &step->request);
}

static void step_answer(void *arg)
{
	struct step *step = arg;

	step->err = tuf_answer(step->client, step->reply);
}

/* Fetches what the client asks for until it asks for nothing more. */
static struct pe_error *run_client(struct agent *agent, struct tuf_client *client)
{
	struct step step = { .client = client };

	for (;;) {
		struct agent_http_reply got;
		pe_auto_free char *url = NULL;

		agent_task_in_thread(step_next, &step);
		if (step.err || !step.request.path)
			return step.err;
		if (asprintf(&url, "%s/metadata/%s", agent->settings.patch_server,
			     step.request.path) < 0)
			return pe_error_nomem();

		struct pe_error *err = agent_http_get(&agent->settings, url, step.request.etag,
						      step.request.max_bytes, &got);

		if (err)
			return err;
		step.reply = &(struct tuf_reply){ .status = got.status,
						  .bytes = got.bytes ? got.bytes : "",
						  .size = got.size,
						  .etag = got.etag };
		agent_task_in_thread(step_answer, &step);
		agent_http_reply_deinit(&got);
		if (step.err)
			return step.err;
	}
}

/* The metadata on disk; at the first time with the root that was installed. */
static struct pe_error *open_client(struct tuf_client **ret)
{
	char folder[PATH_MAX], path[PATH_MAX + 16];
	struct stat st;

	snprintf(folder, sizeof(folder), "%s/tuf", agent_state_dir());
	snprintf(path, sizeof(path), "%s/root.json", folder);
	if (stat(path, &st) != 0) {
		snprintf(path, sizeof(path), "%s/root.json", agent_keys_dir());
		pe_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
		pe_auto_free char *bytes = malloc(ROOT_MOST);
		ssize_t size = fd >= 0 && bytes ? read(fd, bytes, ROOT_MOST) : -1;

		if (size < 0)
			return pe_error_errno(errno,
					      "the repository cannot be trusted without its root: "
					      "cannot read %s",
					      path);

		struct pe_error *err = tuf_init(folder, bytes, (size_t)size);

		if (err)
			return err;
	}
	return tuf_client_open(folder, NULL, ret);
}

/* ---- what is published for a build ---- */

/* "2026-11-28" at its begin, UTC. */
static time_t date_of(const char *text)
{
	struct tm tm = { 0 };

	if (!text || sscanf(text, "%4d-%2d-%2d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday) != 3)
		return 0;
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	return timegm(&tm);
}

static json_t *entry_of(const struct tuf_client *client, const struct tuf_target *target,
			const char *product, const char *build_id)
{
	const json_t *custom = target->custom;
	pe_auto_free char *url = tuf_target_url(client, target);

	return json_pack(
		"{s:s*, s:s, s:s, s:O?, s:I, s:b, s:O*, s:O?, s:O?, s:s*, s:O?, s:I, s:I}", "name",
		json_string_value(json_object_get(custom, "name")), "product", product, "build_id",
		build_id, "level", json_object_get(custom, "level"), "published",
		(json_int_t)date_of(json_string_value(json_object_get(custom, "released"))),
		"blocked", json_object_get(custom, "blocked") != NULL, "block_reason",
		json_object_get(custom, "blocked"), "signature",
		json_object_get(custom, "signature"), "sha256",
		json_object_get(target->hashes, "sha256"), "path", url, "feed",
		json_object_get(custom, "feed"), "length", (json_int_t)target->length, "seen",
		(json_int_t)time(NULL));
}

static struct pe_error *list_build(struct agent *agent, struct tuf_client *client,
				   const char *product, const char *build_id, json_t *list)
{
	const char *prefix = agent->settings.prefix;
	pe_auto_free char *folder = NULL;

	if (asprintf(&folder, "%s/%s/%s/", prefix ? prefix : usual_feed, product, build_id) < 0)
		return pe_error_nomem();

	struct pe_error *err = tuf_list(client, folder);

	if (!err)
		err = run_client(agent, client);
	for (size_t i = 0; !err && i < tuf_target_count(client); i++) {
		struct tuf_target target;

		err = tuf_target(client, i, &target);
		if (!err)
			json_array_append_new(list, entry_of(client, &target, product, build_id));
	}
	return err;
}

/* Product and build-id of all that is to be served, once each: {"PRODUCT BUILD-ID": true}. */
static json_t *running_builds(const struct agent *agent)
{
	json_t *builds = json_object(), *id;
	size_t i;

	for (const struct agent_target *t = agent->targets; t; t = t->next) {
		if (!agent_settings_include(&agent->settings, agent_target_name(t)))
			continue;
		json_array_foreach(json_object_get(t->info, "build_ids"), i, id)
		{
			char key[160];

			snprintf(key, sizeof(key), "%s %s", t->provider->name,
				 json_string_value(id));
			json_object_set_new(builds, key, json_true());
		}
	}
	return builds;
}

/* Entries of builds that do not run now stay as they were, unless they have not run for long. */
static void keep_others(const json_t *old, const json_t *builds, json_t *list)
{
	json_t *entry;
	size_t i;

	json_array_foreach(old, i, entry)
	{
		const char *product = json_string_value(json_object_get(entry, "product"));
		const char *id = json_string_value(json_object_get(entry, "build_id"));
		json_int_t seen = json_integer_value(json_object_get(entry, "seen"));
		char key[160];

		snprintf(key, sizeof(key), "%s %s", product ? product : "", id ? id : "");
		if (!json_object_get(builds, key) && time(NULL) - seen < FORGET_SECONDS)
			json_array_append(list, entry);
	}
}

static bool is_listed(const json_t *list, const char *file)
{
	const json_t *entry;
	size_t i;

	json_array_foreach(list, i, entry)
	{
		const char *sha256 = json_string_value(json_object_get(entry, "sha256"));
		size_t length = sha256 ? strlen(sha256) : 0;

		if (length && strncmp(file, sha256, length) == 0 &&
		    strcmp(file + length, PATCH_SUFFIX) == 0)
			return true;
	}
	return false;
}

/* Files of patches that are no longer listed, and what a kill left of writing one. */
static void tidy_cache(const json_t *list)
{
	char folder[PATH_MAX];
	DIR *dir;

	snprintf(folder, sizeof(folder), "%s/patches", agent_cache_dir());
	dir = opendir(folder);
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		if (entry->d_name[0] != '.' && !is_listed(list, entry->d_name))
			unlinkat(dirfd(dir), entry->d_name, 0);
	}
	if (dir)
		closedir(dir);
}

static struct pe_error *save_list(const json_t *builds, json_t *list)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/offers.json", agent_cache_dir());

	json_t *old = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);

	keep_others(old, builds, list);
	json_decref(old);

	pe_auto_free char *text = json_dumps(list, JSON_INDENT(1));

	if (!text)
		return pe_error_nomem();

	struct pe_error *err = write_whole(path, text, strlen(text));

	if (!err)
		tidy_cache(list);
	return err;
}

static void note_expiry(struct agent *agent, const struct tuf_client *client)
{
	static const char *const roles[] = { "root", "timestamp", "snapshot", "targets" };

	agent->metadata_expires = 0;
	for (size_t i = 0; i < sizeof(roles) / sizeof(*roles); i++) {
		int64_t version, expires;

		if (tuf_role_info(client, roles[i], &version, &expires) &&
		    (!agent->metadata_expires || expires < agent->metadata_expires))
			agent->metadata_expires = expires;
	}
}

static struct pe_error *list_builds(struct agent *agent, struct tuf_client *client)
{
	json_t *builds = running_builds(agent), *list = json_array(), *unused;
	const char *key;
	struct pe_error *err = NULL;

	json_object_foreach(builds, key, unused)
	{
		pe_auto_free char *product = strdup(key);
		char *build_id = strchr(product, ' ');

		*build_id++ = '\0';
		if (!err)
			err = list_build(agent, client, product, build_id, list);
	}
	if (!err)
		err = save_list(builds, list);
	if (!err) {
		json_decref(agent->checked_builds);
		agent->checked_builds = json_incref(builds);
	}
	json_decref(builds);
	json_decref(list);
	return err;
}

/* What the publisher says of this host's key; unknown is an answer too. */
static struct pe_error *ask_key(struct agent *agent, struct tuf_client *client)
{
	struct agent_settings *settings = &agent->settings;
	struct tuf_target target;
	const char *tag = NULL;

	if (!settings->registration_key)
		return NULL;

	pe_auto_free char *folder = repo_sticky_folder(settings->registration_key);
	struct pe_error *err = folder ? tuf_list(client, folder) : pe_error_nomem();

	if (!err)
		err = run_client(agent, client);
	if (!err && tuf_target_count(client))
		err = tuf_target(client, 0, &target);
	else if (!err)
		target = (struct tuf_target){ 0 };
	if (err)
		return err;
	tag = json_string_value(json_object_get(target.custom, REPO_STICKY));
	agent_state_key_says(agent, tag && repo_sticky_tag_ok(tag) ? tag : NULL);
	return NULL;
}

struct pe_error *agent_repository_ask(struct agent *agent)
{
	struct tuf_client *client = NULL;
	struct pe_error *err = open_client(&client);

	if (!err)
		err = tuf_refresh(client);
	if (!err)
		err = run_client(agent, client);
	if (!err) {
		note_expiry(agent, client);
		err = ask_key(agent, client);
	}
	if (!err)
		err = list_builds(agent, client);
	tuf_client_free(client);
	return err;
}

/* ---- files of patches ---- */

/* What the disk made of it is no reason to be without the patch: it is fetched again. */
static bool is_cached(const struct agent_offer *offer)
{
	pe_auto_fd int fd = open(offer->file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;
	void *bytes;
	bool good;

	if (offer->custom || !offer->path)
		return access(offer->file, R_OK) == 0;
	if (fd < 0 || fstat(fd, &st) != 0 || st.st_size <= 0 || st.st_size > PATCH_MOST)
		return false;
	bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (bytes == MAP_FAILED)
		return false;
	good = sha256_is(bytes, (size_t)st.st_size, offer->sha256);
	munmap(bytes, (size_t)st.st_size);
	return good;
}

static struct pe_error *gone(const struct agent_offer *offer)
{
	return pe_error_new(PE_ERR_NO_TARGET, "the file of patch %s is gone: %s", offer->name,
			    offer->file);
}

struct pe_error *agent_fetch_patch(struct agent *agent, const struct agent_offer *offer)
{
	if (agent->settings.update_policy == AGENT_LOCAL && !is_cached(offer))
		return gone(offer);
	return agent_fetch_remote(agent, offer);
}

struct pe_error *agent_fetch_remote(struct agent *agent, const struct agent_offer *offer)
{
	struct agent_http_reply got;
	pe_auto_free char *url = NULL;
	char folder[PATH_MAX];

	if (is_cached(offer))
		return NULL;
	if (!offer->path || !agent->settings.patch_server)
		return gone(offer);
	snprintf(folder, sizeof(folder), "%s/patches", agent_cache_dir());
	if (mkdir(folder, 0750) != 0 && errno != EEXIST)
		return pe_error_errno(errno, "cannot make %s", folder);
	if (asprintf(&url, "%s/targets/%s", agent->settings.patch_server, offer->path) < 0)
		return pe_error_nomem();

	struct pe_error *err = agent_http_get(&agent->settings, url, NULL, PATCH_MOST, &got);

	if (err)
		return err;
	if (got.status != 200)
		err = pe_error_new(PE_ERR_SYSTEM, "targets/%s: the server answers %ld", offer->path,
				   got.status);
	else if (!sha256_is(got.bytes ? got.bytes : "", got.size, offer->sha256))
		err = pe_error_new(PE_ERR_POLICY, "targets/%s is not what the metadata say",
				   offer->path);
	else
		err = write_whole(offer->file, got.bytes, got.size);
	agent_http_reply_deinit(&got);
	return err;
}

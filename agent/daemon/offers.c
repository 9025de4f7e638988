/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is on offer: the operator's own patches (PATCHES_DIR/NAME.cpatch beside NAME.cpatch.sig),
 * and what the last successful check of the repository found, which the cache keeps as
 * CACHE_DIR/offers.json, so that it is known at once after a start and without a network. Neither
 * is trusted here: care-patcher verifies each patch by itself.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>

#include "agent/daemon/agent.h"
#include "agent/paths.h"
#include "engine/cleanup.h"

enum { FILE_MOST = 64 << 20 };

static struct agent_offer *add(struct agent_offers *offers)
{
	struct agent_offer *grown = reallocarray(offers->items, offers->count + 1, sizeof(*grown));

	if (!grown)
		return NULL;
	offers->items = grown;
	grown[offers->count] = (struct agent_offer){ 0 };
	return &grown[offers->count++];
}

static char *read_file(const char *path, size_t *size)
{
	pe_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size > FILE_MOST)
		return NULL;

	char *bytes = malloc((size_t)st.st_size + 1);
	ssize_t got = bytes ? read(fd, bytes, (size_t)st.st_size) : -1;

	if (got != st.st_size) {
		free(bytes);
		return NULL;
	}
	bytes[got] = '\0';
	*size = (size_t)got;
	return bytes;
}

static char *sha256_of(const void *bytes, size_t size)
{
	unsigned char hash[EVP_MAX_MD_SIZE];
	unsigned int length = 0;
	char *hex = calloc(1, 2 * sizeof(hash) + 1);

	EVP_Digest(bytes, size, hash, &length, EVP_sha256(), NULL);
	for (unsigned int i = 0; hex && i < length; i++)
		sprintf(hex + 2 * (size_t)i, "%02x", hash[i]);
	return hex;
}

/* ---- the operator's own ---- */

static void add_custom(struct agent *agent, const char *path)
{
	char beside[PATH_MAX + 8];
	size_t size = 0, signature_size = 0;
	struct pe_patch *patch = NULL;

	snprintf(beside, sizeof(beside), "%s.sig", path);
	pe_auto_free char *bytes = read_file(path, &size);
	pe_auto_free char *signature = read_file(beside, &signature_size);
	pe_auto_error struct pe_error *err =
		bytes ? pe_patch_parse(bytes, size, &patch)
		      : pe_error_new(PE_ERR_SYSTEM, "%s cannot be read", path);

	if (!err && !signature)
		err = pe_error_new(PE_ERR_POLICY, "%s has no signature: %s is not there", path,
				   beside);
	if (err)
		agent_event(agent, LOG_WARNING, "patch-left-out", NULL,
			    json_pack("{s:s, s:s}", "file", path, "message", err->message));
	pe_auto_free char *sha256 = err ? NULL : sha256_of(bytes, size);
	for (size_t i = 0; !err && i < patch->target_count; i++) {
		struct agent_offer *offer = add(&agent->offers);
		char hex[2 * PE_BUILD_ID_MAX + 1];

		if (!offer)
			break;
		pe_build_id_hex(&patch->targets[i].build_id, hex);
		*offer = (struct agent_offer){
			.name = strdup(patch->name),
			.product = strdup(patch->product),
			.build_id = strdup(hex),
			.level = patch->level,
			.custom = true,
			.cached = true,
			.file = strdup(path),
			.signature = strdup(signature),
			.sha256 = strdup(sha256),
		};
	}
	pe_patch_free(patch);
}

static void add_customs(struct agent *agent)
{
	DIR *dir = opendir(agent_patches_dir());

	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		const char *dot = strrchr(entry->d_name, '.');
		char path[PATH_MAX];

		if (!dot || strcmp(dot, ".cpatch") != 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", agent_patches_dir(), entry->d_name);
		add_custom(agent, path);
	}
	if (dir)
		closedir(dir);
}

/* ---- what the last check found ---- */

static char *text_of(const json_t *item, const char *name)
{
	const char *text = json_string_value(json_object_get(item, name));

	return text ? strdup(text) : NULL;
}

static void add_cached(struct agent *agent, const json_t *item)
{
	struct agent_offer offer = {
		.name = text_of(item, "name"),
		.product = text_of(item, "product"),
		.build_id = text_of(item, "build_id"),
		.level = (unsigned int)json_integer_value(json_object_get(item, "level")),
		.published = json_integer_value(json_object_get(item, "published")),
		.blocked = json_is_true(json_object_get(item, "blocked")),
		.block_reason = text_of(item, "block_reason"),
		.signature = text_of(item, "signature"),
		.sha256 = text_of(item, "sha256"),
		.path = text_of(item, "path"),
		.feed = text_of(item, "feed"),
	};
	struct agent_offer *place = NULL;

	if (offer.sha256 && strlen(offer.sha256) == 64 &&
	    asprintf(&offer.file, "%s/patches/%s.cpatch", agent_cache_dir(), offer.sha256) < 0)
		offer.file = NULL;
	if (offer.name && offer.product && offer.build_id && offer.file && offer.path)
		place = add(&agent->offers);
	if (!place) {
		struct agent_offers one = { &offer, 1 };

		one.items = malloc(sizeof(offer));
		if (one.items) {
			*one.items = offer;
			agent_offers_deinit(&one);
		}
		return;
	}
	offer.cached = access(offer.file, R_OK) == 0;
	*place = offer;
}

void agent_offers_refresh(struct agent *agent)
{
	char path[PATH_MAX];
	const json_t *item;
	size_t i;

	agent_offers_deinit(&agent->offers);
	add_customs(agent);
	snprintf(path, sizeof(path), "%s/offers.json", agent_cache_dir());

	json_t *list = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);

	json_array_foreach(list, i, item) add_cached(agent, item);
	json_decref(list);
}

/* Names, sizes and times of the patch directory, as one number. */
static uint64_t custom_look(void)
{
	DIR *dir = opendir(agent_patches_dir());
	uint64_t look = 1;

	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		struct stat st;

		if (entry->d_name[0] == '.' || fstatat(dirfd(dir), entry->d_name, &st, 0) != 0)
			continue;
		/* Added, since a directory has no order. */
		look += (uint64_t)st.st_ino * 1000003 + (uint64_t)st.st_mtim.tv_sec * 31 +
			(uint64_t)st.st_mtim.tv_nsec + (uint64_t)st.st_size;
	}
	if (dir)
		closedir(dir);
	return look;
}

void agent_offers_look(struct agent *agent)
{
	uint64_t look = custom_look();

	if (look == agent->seen_custom)
		return;
	agent->seen_custom = look;
	agent_offers_refresh(agent);
	agent_wake_targets(agent, 0);
}

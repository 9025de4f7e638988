/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The publisher's work folder: making, opening and saving it. */
#include "agent/repo/publisher.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/repo/json.h"
#include "build/files.h"
#include "build/text.h"
#include "engine/cleanup.h"

#define CONFIG "care-repo.json"
#define CATALOGUE "catalogue.json"

enum { MAX_CATALOGUE = 1 << 30 };

/* Offline keys sign what seldom changes and lasts; the timestamp is signed anew each day. */
static const struct {
	const char *role;
	int days;
} lifetimes[] = {
	{ "root", 365 },    { "targets", 365 }, { "feed", 180 },
	{ "snapshot", 14 }, { "timestamp", 3 },
};

static const char *const top_roles[] = { "root", "targets", "snapshot", "timestamp" };

char *publisher_path(const struct publisher *publisher, const char *name)
{
	return pe_format("%s/%s", publisher->dir, name);
}

int publisher_days(const struct publisher *publisher, const char *role)
{
	return (int)json_integer_value(
		json_object_get(json_object_get(publisher->config, "days"), role));
}

int publisher_threshold(const struct publisher *publisher, const char *role)
{
	json_t *threshold = json_object_get(json_object_get(publisher->config, "threshold"), role);

	return threshold ? (int)json_integer_value(threshold) : 1;
}

bool publisher_feed_name_ok(const char *feed)
{
	size_t length = strlen(feed);

	for (size_t i = 0; i < sizeof(top_roles) / sizeof(*top_roles); i++)
		if (!strcmp(feed, top_roles[i]))
			return false;
	return length && length <= 32 &&
	       strspn(feed, "abcdefghijklmnopqrstuvwxyz0123456789") == length;
}

/* ---- opening ---- */

static struct pe_error *begin(const char *dir, const char *passphrase_file, struct publisher **ret)
{
	struct publisher *publisher = calloc(1, sizeof(*publisher));

	*ret = publisher;
	if (!publisher)
		return pe_error_nomem();
	publisher->store.dir = -1;
	publisher->passphrase_file = passphrase_file;
	publisher->dir = strdup(dir);
	publisher->public_keys = json_object();
	if (!publisher->dir || !publisher->public_keys)
		return pe_error_nomem();
	return repo_store_open(&publisher->store, publisher->dir);
}

static struct pe_error *load(struct publisher *publisher, const char *name, json_t **ret)
{
	pe_auto_free char *bytes = NULL;
	size_t size;
	struct pe_error *err =
		repo_store_read(&publisher->store, name, MAX_CATALOGUE, &bytes, &size);

	if (!err && !bytes)
		err = pe_error_new(PE_ERR_USAGE,
				   "%s is no repository: it has no %s (care-repo init)",
				   publisher->dir, name);
	return err ? err : repo_json_parse(bytes, size, name, ret);
}

static struct pe_error *check_config(const struct publisher *publisher)
{
	json_int_t format = json_integer_value(json_object_get(publisher->config, "format"));

	for (size_t i = 0; i < sizeof(lifetimes) / sizeof(*lifetimes); i++)
		if (publisher_days(publisher, lifetimes[i].role) < 1)
			return pe_error_new(PE_ERR_FORMAT, CONFIG ": days.%s is no number of days",
					    lifetimes[i].role);
	if (format != 1 || !json_is_object(json_object_get(publisher->config, "keys")))
		return pe_error_new(PE_ERR_FORMAT, CONFIG " is not of format 1");
	return NULL;
}

struct pe_error *publisher_open(const char *dir, const char *passphrase_file,
				struct publisher **ret)
{
	struct publisher *publisher;
	struct pe_error *err = begin(dir, passphrase_file, &publisher);

	if (!err)
		err = load(publisher, CONFIG, &publisher->config);
	if (!err)
		err = check_config(publisher);
	if (!err)
		err = load(publisher, CATALOGUE, &publisher->catalogue);
	if (err)
		publisher_close(publisher);
	*ret = err ? NULL : publisher;
	return err;
}

void publisher_close(struct publisher *publisher)
{
	if (!publisher)
		return;
	repo_store_close(&publisher->store);
	json_decref(publisher->config);
	json_decref(publisher->catalogue);
	json_decref(publisher->public_keys);
	EVP_PKEY_free(publisher->patch_key);
	if (publisher->passphrase)
		OPENSSL_cleanse(publisher->passphrase, strlen(publisher->passphrase));
	free(publisher->passphrase);
	free(publisher->dir);
	free(publisher);
}

static struct pe_error *save(struct publisher *publisher, const char *name, const json_t *json)
{
	pe_auto_free char *text = json_dumps(json, JSON_INDENT(1) | JSON_PRESERVE_ORDER);

	if (!text)
		return pe_error_nomem();
	return repo_store_write(&publisher->store, name, text, strlen(text));
}

struct pe_error *publisher_save(struct publisher *publisher)
{
	struct pe_error *err = save(publisher, CATALOGUE, publisher->catalogue);

	return err ? err : save(publisher, CONFIG, publisher->config);
}

/* ---- making ---- */

static struct pe_error *make_folders(const char *dir)
{
	static const char *const folders[] = { "keys", "public/metadata", "public/targets" };
	pe_auto_free char *config = pe_format("%s/" CONFIG, dir);
	struct pe_error *err = NULL;

	if (!config)
		return pe_error_nomem();
	if (pe_file_exists(config))
		return pe_error_new(PE_ERR_USAGE, "%s is a repository already", dir);
	for (size_t i = 0; !err && i < sizeof(folders) / sizeof(*folders); i++) {
		pe_auto_free char *path = pe_format("%s/%s", dir, folders[i]);

		err = path ? pe_dir_make(path) : pe_error_nomem();
	}
	if (!err) {
		pe_auto_free char *keys = pe_format("%s/keys", dir);

		if (!keys || chmod(keys, 0700))
			err = pe_error_errno(errno, "cannot chmod %s/keys", dir);
	}
	return err;
}

static struct pe_error *first_config(struct publisher *publisher, const struct publisher_init *init)
{
	json_t *days = json_object();

	for (size_t i = 0; i < sizeof(lifetimes) / sizeof(*lifetimes); i++)
		json_object_set_new(days, lifetimes[i].role, json_integer(lifetimes[i].days));
	publisher->catalogue = json_object();
	publisher->config = json_pack("{s:i, s:o, s:{s:i}, s:{}}", "format", 1, "days", days,
				      "threshold", "root", (int)init->root_threshold, "keys");
	return publisher->config && publisher->catalogue ? NULL : pe_error_nomem();
}

static struct pe_error *first_keys(struct publisher *publisher, const struct publisher_init *init)
{
	static const char *const roles[] = { "targets", "feed/main", "snapshot", "timestamp" };
	struct pe_error *err = NULL;

	for (unsigned int i = 0; !err && i < init->root_keys; i++)
		err = publisher_key_make(publisher, "root", init->key_type, false, NULL);
	for (size_t i = 0; !err && i < sizeof(roles) / sizeof(*roles); i++)
		err = publisher_key_make(publisher, roles[i], init->key_type, false, NULL);
	/* The patcher knows ed25519 alone. */
	return err ? err : publisher_key_make(publisher, "patch", "ed25519", false, NULL);
}

struct pe_error *publisher_create(const char *dir, const char *passphrase_file, bool no_passphrase,
				  const struct publisher_init *init, struct publisher **ret)
{
	struct publisher *publisher = NULL;
	struct pe_error *err = make_folders(dir);

	if (!err)
		err = begin(dir, passphrase_file, &publisher);
	if (!err) {
		publisher->no_passphrase = no_passphrase;
		err = first_config(publisher, init);
	}
	if (!err)
		err = first_keys(publisher, init);
	if (!err)
		err = publisher_save(publisher);
	if (err)
		publisher_close(publisher);
	*ret = err ? NULL : publisher;
	return err;
}

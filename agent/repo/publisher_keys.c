/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The publisher's keys. Offline keys (root, targets, feeds, patches) are encrypted PKCS#8 files;
 * the snapshot's and timestamp's are plain, so that a timer can sign with them.
 */
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/repo/json.h"
#include "agent/repo/key.h"
#include "agent/repo/publisher.h"
#include "build/files.h"
#include "build/text.h"
#include "engine/cleanup.h"

enum { MAX_PASSPHRASE = 1024, MIN_PASSPHRASE = 8, RSA_BITS = 3072 };

static const char *const plain_roles[] = { "root", "targets", "snapshot", "timestamp", "patch" };

static bool is_online(const char *role)
{
	return !strcmp(role, "snapshot") || !strcmp(role, "timestamp");
}

static bool is_role(const char *role)
{
	for (size_t i = 0; i < sizeof(plain_roles) / sizeof(*plain_roles); i++)
		if (!strcmp(role, plain_roles[i]))
			return true;
	return pe_starts_with(role, "feed/") && publisher_feed_name_ok(role + strlen("feed/"));
}

/* ---- passphrase ---- */

static struct pe_error *passphrase_from_file(const char *path, char **ret)
{
	pe_auto_free char *text = NULL;
	struct stat st;

	if (stat(path, &st))
		return pe_error_errno(errno, "cannot open passphrase file %s", path);
	if (st.st_mode & (S_IRWXG | S_IRWXO))
		return pe_error_new(PE_ERR_PERMISSION,
				    "passphrase file %s is open to others: chmod 600", path);

	struct pe_error *err = pe_file_read(path, &text, NULL);

	if (err)
		return err;
	text[strcspn(text, "\r\n")] = 0;
	*ret = pe_steal(text);
	return NULL;
}

static struct pe_error *ask_passphrase(bool twice, char **ret)
{
	char buffer[MAX_PASSPHRASE];
	int failed = EVP_read_pw_string_min(buffer, 1, sizeof(buffer) - 1,
					    "Passphrase of the offline keys: ", twice);

	ERR_clear_error();
	if (!failed)
		*ret = strdup(buffer);
	OPENSSL_cleanse(buffer, sizeof(buffer));
	if (failed)
		return pe_error_new(PE_ERR_USAGE, "no passphrase: no terminal to ask at, and no "
						  "--passphrase-file");
	return *ret ? NULL : pe_error_nomem();
}

static struct pe_error *need_passphrase(struct publisher *publisher, bool is_new)
{
	struct pe_error *err = NULL;

	if (publisher->passphrase)
		return NULL;
	if (publisher->passphrase_file)
		err = passphrase_from_file(publisher->passphrase_file, &publisher->passphrase);
	else
		err = ask_passphrase(is_new, &publisher->passphrase);
	if (!err && is_new && strlen(publisher->passphrase) < MIN_PASSPHRASE)
		err = pe_error_new(PE_ERR_USAGE, "the passphrase has fewer than %d characters",
				   MIN_PASSPHRASE);
	return err;
}

static void forget_passphrase(struct publisher *publisher)
{
	if (publisher->passphrase)
		OPENSSL_cleanse(publisher->passphrase, strlen(publisher->passphrase));
	free(pe_steal(publisher->passphrase));
}

/* ---- files ---- */

static char *key_path(const struct publisher *publisher, const char *name, const char *suffix)
{
	return pe_format("%s/keys/%s.%s", publisher->dir, name, suffix);
}

/* @passphrase NULL: as it is. */
static struct pe_error *write_private(const char *path, EVP_PKEY *key, char *passphrase)
{
	const EVP_CIPHER *cipher = passphrase ? EVP_aes_256_cbc() : NULL;
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	pe_auto_file FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;

	if (!file)
		return pe_error_errno(errno, "cannot make key file %s", path);
	if (!PEM_write_PKCS8PrivateKey(file, key, cipher, passphrase,
				       passphrase ? (int)strlen(passphrase) : 0, NULL, NULL) ||
	    fflush(file) || fsync(fd))
		return pe_error_errno(errno, "cannot write key file %s", path);
	return NULL;
}

static struct pe_error *write_public(const char *path, EVP_PKEY *key)
{
	pe_auto_file FILE *file = fopen(path, "we");

	if (!file || !PEM_write_PUBKEY(file, key) || fflush(file) || fsync(fileno(file)))
		return pe_error_errno(errno, "cannot write key file %s", path);
	return NULL;
}

static struct pe_error *generate(const char *type, EVP_PKEY **ret)
{
	*ret = NULL;
	if (!strcmp(type, "ed25519"))
		*ret = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
	else if (!strcmp(type, "ecdsa"))
		*ret = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
	else if (!strcmp(type, "rsa"))
		*ret = EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)RSA_BITS);
	ERR_clear_error();
	return *ret ? NULL
		    : pe_error_new(PE_ERR_USAGE, "no key of type \"%s\": ed25519, ecdsa or rsa",
				   type);
}

static struct pe_error *check_role(const char *role)
{
	if (is_role(role))
		return NULL;
	return pe_error_new(PE_ERR_USAGE,
			    "\"%s\" is no role: root, targets, snapshot, timestamp, patch or "
			    "feed/NAME (small letters and digits)",
			    role);
}

static struct pe_error *check_patch_key(const char *role, EVP_PKEY *key)
{
	if (strcmp(role, "patch") || EVP_PKEY_base_id(key) == EVP_PKEY_ED25519)
		return NULL;
	return pe_error_new(PE_ERR_USAGE, "patches are signed with ed25519 keys only");
}

/* "feed/main" -> "feed-main-3": the first number without a file. */
static struct pe_error *new_name(struct publisher *publisher, const char *role, char **ret)
{
	pe_auto_free char *stem = strdup(role);

	for (char *c = stem; c && *c; c++)
		if (*c == '/')
			*c = '-';
	for (unsigned int n = 1; stem && n < 10000; n++) {
		pe_auto_free char *name = pe_format("%s-%u", stem, n);
		pe_auto_free char *path = name ? key_path(publisher, name, "pub") : NULL;

		if (!path)
			break;
		if (!pe_file_exists(path)) {
			*ret = pe_steal(name);
			return NULL;
		}
	}
	return pe_error_nomem();
}

/*
 * The role's keys so far go out of use. Those of root still have to sign the root that no longer
 * lists them; patches that were signed keep their signatures, so their keys stay.
 */
static void retire_keys(struct publisher *publisher, const char *role)
{
	json_t *keys = json_object_get(publisher->config, "keys");

	if (!strcmp(role, "patch"))
		return;
	if (!strcmp(role, "root")) {
		if (!json_object_get(publisher->config, "retired_root"))
			json_object_set_new(publisher->config, "retired_root", json_array());
		json_array_extend(json_object_get(publisher->config, "retired_root"),
				  json_object_get(keys, role));
	}
	json_object_del(keys, role);
}

/* From now on the key signs for the role. */
static struct pe_error *enlist(struct publisher *publisher, const char *role, const char *name,
			       bool replace, const char **ret)
{
	json_t *keys = json_object_get(publisher->config, "keys"), *list;

	if (replace)
		retire_keys(publisher, role);
	if (!json_object_get(keys, role))
		json_object_set_new(keys, role, json_array());
	list = json_object_get(keys, role);
	if (json_array_append_new(list, json_string(name)))
		return pe_error_nomem();
	if (ret)
		*ret = json_string_value(json_array_get(list, json_array_size(list) - 1));
	return NULL;
}

struct pe_error *publisher_key_make(struct publisher *publisher, const char *role, const char *type,
				    bool replace, const char **ret)
{
	bool encrypted = !is_online(role) && !publisher->no_passphrase;
	pe_auto_free char *name = NULL, *private = NULL, *public = NULL;
	repo_auto_pkey EVP_PKEY *key = NULL;
	struct pe_error *err = check_role(role);

	if (!err)
		err = generate(type, &key);
	if (!err)
		err = check_patch_key(role, key);
	if (!err && encrypted)
		err = need_passphrase(publisher, true);
	if (!err)
		err = new_name(publisher, role, &name);
	if (!err) {
		private = key_path(publisher, name, "pem");
		public = key_path(publisher, name, "pub");
		if (!private || !public)
			err = pe_error_nomem();
	}
	if (!err)
		err = write_private(private, key, encrypted ? publisher->passphrase : NULL);
	if (!err)
		err = write_public(public, key);
	if (err)
		return err;
	return enlist(publisher, role, name, replace, ret);
}

json_t *publisher_role_keys(const struct publisher *publisher, const char *role)
{
	return json_object_get(json_object_get(publisher->config, "keys"), role);
}

static struct pe_error *read_public_pem(const char *path, EVP_PKEY **ret)
{
	pe_auto_file FILE *file = fopen(path, "re");

	*ret = NULL;
	if (!file)
		return pe_error_errno(errno, "cannot open key %s", path);
	*ret = PEM_read_PUBKEY(file, NULL, NULL, NULL);
	ERR_clear_error();
	return *ret ? NULL : pe_error_new(PE_ERR_FORMAT, "%s is no public key", path);
}

struct pe_error *publisher_public_key(struct publisher *publisher, const char *name, json_t **ret)
{
	pe_auto_free char *path = key_path(publisher, name, "pub");
	repo_auto_pkey EVP_PKEY *key = NULL;
	char id[65];
	json_t *json;

	*ret = json_object_get(publisher->public_keys, name);
	if (*ret)
		return NULL;

	struct pe_error *err = path ? read_public_pem(path, &key) : pe_error_nomem();

	if (err)
		return err;
	err = repo_key_to_json(key, &json);
	if (err)
		return pe_error_wrap(err, "%s", path);
	err = repo_key_id(json, id);
	if (err) {
		json_decref(json);
		return err;
	}
	*ret = json_pack("{s:s, s:o}", "id", id, "key", json);
	return !*ret || json_object_set_new(publisher->public_keys, name, *ret) ? pe_error_nomem()
										: NULL;
}

struct asked {
	struct publisher *publisher;
	struct pe_error *err;
};

static int give_passphrase(char *buffer, int size, int rwflag, void *arg)
{
	struct asked *asked = arg;

	asked->err = need_passphrase(asked->publisher, false);
	if (asked->err || strlen(asked->publisher->passphrase) > (size_t)size)
		return -1;
	memcpy(buffer, asked->publisher->passphrase, strlen(asked->publisher->passphrase));
	return (int)strlen(asked->publisher->passphrase);
}

static struct pe_error *read_private(struct publisher *publisher, const char *path, EVP_PKEY **ret)
{
	struct asked asked = { .publisher = publisher };
	pe_auto_file FILE *file = fopen(path, "re");

	*ret = NULL;
	if (!file)
		return pe_error_errno(errno, "cannot open private key %s", path);
	*ret = PEM_read_PrivateKey(file, NULL, give_passphrase, &asked);
	ERR_clear_error();
	if (*ret)
		return NULL;
	if (asked.err)
		return asked.err;
	return pe_error_new(PE_ERR_POLICY, "cannot read private key %s: wrong passphrase?", path);
}

struct pe_error *publisher_private_key(struct publisher *publisher, const char *name,
				       EVP_PKEY **ret)
{
	pe_auto_free char *path = key_path(publisher, name, "pem");

	*ret = NULL;
	return path ? read_private(publisher, path, ret) : pe_error_nomem();
}

/* ---- signing ---- */

struct pe_error *publisher_put_keys(struct publisher *publisher, const char *role, json_t *keys,
				    json_t **keyids)
{
	json_t *names = publisher_role_keys(publisher, role);
	struct pe_error *err = NULL;

	*keyids = json_array();
	if (!json_array_size(names))
		err = pe_error_new(PE_ERR_USAGE, "%s has no key: care-repo key %s", role, role);
	for (size_t i = 0; !err && i < json_array_size(names); i++) {
		json_t *key;

		err = publisher_public_key(publisher, json_string_value(json_array_get(names, i)),
					   &key);
		if (err)
			break;
		json_object_set(keys, json_string_value(json_object_get(key, "id")),
				json_object_get(key, "key"));
		json_array_append(*keyids, json_object_get(key, "id"));
	}
	if (err)
		json_decref(pe_steal(*keyids));
	return err;
}

struct pe_error *publisher_sign_with(struct publisher *publisher, const char *name,
				     const char *bytes, size_t size, json_t *signatures)
{
	pe_auto_free char *hex = NULL;
	repo_auto_pkey EVP_PKEY *key = NULL;
	json_t *public;
	struct pe_error *err = publisher_public_key(publisher, name, &public);

	if (!err)
		err = publisher_private_key(publisher, name, &key);
	if (!err)
		err = repo_key_sign(key, bytes, size, &hex);
	if (!err)
		json_array_append_new(signatures,
				      json_pack("{s:O, s:s}", "keyid",
						json_object_get(public, "id"), "sig", hex));
	return err;
}

/* ---- keys that are elsewhere ---- */

bool publisher_key_is_here(const struct publisher *publisher, const char *name)
{
	pe_auto_free char *path = key_path(publisher, name, "pem");

	return path && pe_file_exists(path);
}

struct pe_error *publisher_keygen(const char *stem, const char *type, const char *passphrase_file,
				  bool no_passphrase)
{
	struct publisher nobody = { .passphrase_file = passphrase_file };
	pe_auto_free char *private = pe_format("%s.pem", stem), *public = pe_format("%s.pub", stem);
	repo_auto_pkey EVP_PKEY *key = NULL;
	struct pe_error *err = private && public ? generate(type, &key) : pe_error_nomem();

	if (!err && !no_passphrase)
		err = need_passphrase(&nobody, true);
	if (!err)
		err = write_private(private, key, nobody.passphrase);
	if (!err)
		err = write_public(public, key);
	forget_passphrase(&nobody);
	return err;
}

struct pe_error *publisher_key_take(struct publisher *publisher, const char *role, const char *path,
				    bool replace, const char **ret)
{
	pe_auto_free char *name = NULL, *place = NULL;
	repo_auto_pkey EVP_PKEY *key = NULL;
	repo_auto_json json_t *json = NULL;
	struct pe_error *err = check_role(role);

	if (!err && is_online(role))
		err = pe_error_new(PE_ERR_USAGE,
				   "%s signs by itself: its key has to be here (care-repo key %s)",
				   role, role);
	if (!err)
		err = read_public_pem(path, &key);
	if (!err)
		err = check_patch_key(role, key);
	/* Is it of a kind that hosts know? */
	if (!err)
		err = repo_key_to_json(key, &json);
	if (!err)
		err = new_name(publisher, role, &name);
	if (!err && !(place = key_path(publisher, name, "pub")))
		err = pe_error_nomem();
	if (!err)
		err = write_public(place, key);
	return err ? err : enlist(publisher, role, name, replace, ret);
}

struct pe_error *publisher_set_threshold(struct publisher *publisher, const char *role,
					 unsigned int threshold)
{
	size_t count = json_array_size(publisher_role_keys(publisher, role));
	json_t *thresholds = json_object_get(publisher->config, "threshold");

	if (!count || !strcmp(role, "patch"))
		return pe_error_new(PE_ERR_USAGE,
				    "there is no role %s with keys that sign together", role);
	if (threshold > count)
		return pe_error_new(PE_ERR_USAGE, "%s has %zu keys: %u of them cannot sign", role,
				    count, threshold);
	if (publisher_threshold(publisher, role) == (int)threshold)
		return pe_error_new(PE_ERR_NOTHING, "the threshold of %s is %u already", role,
				    threshold);
	json_object_set_new(thresholds, role, json_integer(threshold));
	return NULL;
}

struct pe_error *publisher_read_key(const char *path, const char *passphrase_file, EVP_PKEY **ret)
{
	struct publisher nobody = { .passphrase_file = passphrase_file };
	struct pe_error *err = read_private(&nobody, path, ret);

	forget_passphrase(&nobody);
	return err;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Signatures of patch files: ed25519 over a short text that holds the file's SHA-256. The text's
 * first line keeps these signatures apart from those that the same key might make elsewhere.
 */
#include "agent/repo/signature.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/repo/key.h"
#include "engine/cleanup.h"

enum {
	SIGNATURE_BYTES = 64,
	BASE64_CHARS = 88, /* of 64 bytes */
	MAX_KEYS = 64,
	MAX_KEY_FILE = 65536,
};

#define MAGIC "care-signature-1"

struct repo_keyring {
	size_t count;
	struct {
		char id[REPO_KEYID_SIZE];
		EVP_PKEY *key;
	} keys[MAX_KEYS];
};

struct pe_error *repo_signature_keyid(EVP_PKEY *key, char keyid[REPO_KEYID_SIZE])
{
	unsigned char raw[32], digest[EVP_MAX_MD_SIZE];
	size_t size = sizeof(raw);

	if (EVP_PKEY_base_id(key) != EVP_PKEY_ED25519)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "patches are signed with ed25519 keys only");
	if (EVP_PKEY_get_raw_public_key(key, raw, &size) <= 0 ||
	    !EVP_Digest(raw, size, digest, NULL, EVP_sha256(), NULL))
		return pe_error_nomem();
	repo_hex(digest, (REPO_KEYID_SIZE - 1) / 2, keyid);
	return NULL;
}

/* ---- keyring ---- */

struct pe_error *repo_keyring_new(struct repo_keyring **ret)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? NULL : pe_error_nomem();
}

void repo_keyring_free(struct repo_keyring *ring)
{
	for (size_t i = 0; ring && i < ring->count; i++)
		EVP_PKEY_free(ring->keys[i].key);
	free(ring);
}

size_t repo_keyring_count(const struct repo_keyring *ring)
{
	return ring->count;
}

static struct pe_error *add_key(struct repo_keyring *ring, EVP_PKEY *key)
{
	if (ring->count == MAX_KEYS)
		return pe_error_new(PE_ERR_FORMAT, "more than %d keys", MAX_KEYS);

	struct pe_error *err = repo_signature_keyid(key, ring->keys[ring->count].id);

	if (err)
		return err;
	EVP_PKEY_up_ref(key);
	ring->keys[ring->count++].key = key;
	return NULL;
}

struct pe_error *repo_keyring_add_pem(struct repo_keyring *ring, const void *pem, size_t size)
{
	BIO *bio = size <= MAX_KEY_FILE ? BIO_new_mem_buf(pem, (int)size) : NULL;
	size_t before = ring->count;
	struct pe_error *err = NULL;
	EVP_PKEY *key;

	while (bio && !err && (key = PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL))) {
		err = add_key(ring, key);
		EVP_PKEY_free(key);
	}
	BIO_free(bio);
	ERR_clear_error();
	if (!err && ring->count == before)
		err = pe_error_new(PE_ERR_FORMAT, "no public key in PEM form");
	return err;
}

/* Who may write a key file, or the folder that names it, may sign: only root and ourselves. */
static struct pe_error *check_owner(int fd, const char *path)
{
	struct stat st;

	if (fstat(fd, &st))
		return pe_error_errno(errno, "cannot examine %s", path);
	if ((st.st_uid && st.st_uid != geteuid()) || st.st_mode & (S_IWGRP | S_IWOTH))
		return pe_error_new(PE_ERR_PERMISSION,
				    "%s could be changed by others than root: chown root, chmod "
				    "go-w",
				    path);
	return NULL;
}

static struct pe_error *load_file(struct repo_keyring *ring, int dir, const char *name)
{
	pe_auto_fd int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	pe_auto_free char *text = malloc(MAX_KEY_FILE + 1);

	if (fd < 0)
		return pe_error_errno(errno, "cannot open key %s", name);
	if (!text)
		return pe_error_nomem();

	struct pe_error *err = check_owner(fd, name);

	if (err)
		return err;

	ssize_t size = read(fd, text, MAX_KEY_FILE + 1);

	if (size < 0)
		return pe_error_errno(errno, "cannot read key %s", name);
	err = repo_keyring_add_pem(ring, text, (size_t)size);
	return err ? pe_error_wrap(err, "key file %s", name) : NULL;
}

static bool is_key_name(const char *name)
{
	const char *dot = strrchr(name, '.');

	return dot && dot != name && (!strcmp(dot, ".pem") || !strcmp(dot, ".pub"));
}

static struct pe_error *load_folder(struct repo_keyring *ring, int fd, const char *path)
{
	struct pe_error *err = check_owner(fd, path);
	DIR *dir = err ? NULL : fdopendir(dup(fd));
	struct dirent *entry;

	if (!err && !dir)
		return pe_error_errno(errno, "cannot read folder %s", path);
	while (!err && (entry = readdir(dir)))
		if (is_key_name(entry->d_name))
			err = load_file(ring, fd, entry->d_name);
	if (dir)
		closedir(dir);
	if (!err && !ring->count)
		err = pe_error_new(PE_ERR_FORMAT, "no key (*.pem, *.pub) in %s", path);
	return err;
}

struct pe_error *repo_keyring_load(const char *path, struct repo_keyring **ret)
{
	struct repo_keyring *ring = NULL;
	pe_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
	struct pe_error *err = repo_keyring_new(&ring);

	*ret = NULL;
	if (!err)
		err = fd >= 0 ? load_folder(ring, fd, path) : load_file(ring, AT_FDCWD, path);
	if (!err)
		*ret = pe_steal(ring);
	repo_keyring_free(ring);
	return err;
}

/* ---- the signed text ---- */

static struct pe_error *signed_text(const void *bytes, size_t size, char text[128], size_t *length)
{
	char hex[65];

	if (!repo_sha256_hex(bytes, size, hex))
		return pe_error_nomem();
	*length = (size_t)snprintf(text, 128, "care-patch-signature-1\n%s\n", hex);
	return NULL;
}

/* The line's two words; false when it is not of this form to the byte. */
static bool split_line(const char *line, size_t size, char keyid[REPO_KEYID_SIZE],
		       unsigned char signature[SIGNATURE_BYTES])
{
	char text[REPO_SIGNATURE_SIZE], base64[BASE64_CHARS + 1];
	unsigned char decoded[BASE64_CHARS / 4 * 3];
	int end = 0;

	if (size >= sizeof(text) || memchr(line, 0, size))
		return false;
	memcpy(text, line, size);
	text[size] = 0;
	if (sscanf(text, MAGIC " %16[0-9a-f] %88[A-Za-z0-9+/=]%n", keyid, base64, &end) != 2 ||
	    strlen(keyid) != REPO_KEYID_SIZE - 1 || strlen(base64) != BASE64_CHARS ||
	    strcmp(text + end, text[end] ? "\n" : ""))
		return false;
	if (EVP_DecodeBlock(decoded, (unsigned char *)base64, BASE64_CHARS) !=
		    (int)sizeof(decoded) ||
	    strcmp(base64 + BASE64_CHARS - 2, "=="))
		return false;
	memcpy(signature, decoded, SIGNATURE_BYTES);
	return true;
}

static bool signed_by(EVP_PKEY *key, const unsigned char *signature, const char *text,
		      size_t length)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool good = ctx && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, key) > 0 &&
		    EVP_DigestVerify(ctx, signature, SIGNATURE_BYTES, (const unsigned char *)text,
				     length) == 1;

	EVP_MD_CTX_free(ctx);
	ERR_clear_error();
	return good;
}

struct pe_error *repo_signature_verify(const struct repo_keyring *ring, const void *bytes,
				       size_t size, const char *signature, size_t signature_size,
				       char keyid[REPO_KEYID_SIZE])
{
	unsigned char raw[SIGNATURE_BYTES];
	char named[REPO_KEYID_SIZE], text[128];
	size_t length = 0;
	bool known = false;

	if (!split_line(signature, signature_size, named, raw))
		return pe_error_new(PE_ERR_POLICY, "the signature is malformed: no line \"" MAGIC
						   " KEYID BASE64\"");

	struct pe_error *err = signed_text(bytes, size, text, &length);

	if (err)
		return err;
	for (size_t i = 0; i < ring->count; i++) {
		if (strcmp(ring->keys[i].id, named))
			continue;
		known = true;
		if (!signed_by(ring->keys[i].key, raw, text, length))
			continue;
		if (keyid)
			strcpy(keyid, named);
		return NULL;
	}
	if (!known)
		return pe_error_new(PE_ERR_POLICY, "signed with key %s, which is not trusted here",
				    named);
	return pe_error_new(PE_ERR_POLICY,
			    "the signature by key %s does not fit: the file was changed", named);
}

struct pe_error *repo_signature_make(EVP_PKEY *key, const void *bytes, size_t size,
				     char line[REPO_SIGNATURE_SIZE])
{
	unsigned char raw[SIGNATURE_BYTES], base64[BASE64_CHARS + 1];
	char keyid[REPO_KEYID_SIZE], text[128];
	size_t length = 0, raw_size = sizeof(raw);
	struct pe_error *err = repo_signature_keyid(key, keyid);

	if (!err)
		err = signed_text(bytes, size, text, &length);
	if (err)
		return err;

	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool good = ctx && EVP_DigestSignInit(ctx, NULL, NULL, NULL, key) > 0 &&
		    EVP_DigestSign(ctx, raw, &raw_size, (unsigned char *)text, length) > 0;

	EVP_MD_CTX_free(ctx);
	ERR_clear_error();
	if (!good)
		return pe_error_new(PE_ERR_INTERNAL, "the key does not sign");
	EVP_EncodeBlock(base64, raw, sizeof(raw));
	snprintf(line, REPO_SIGNATURE_SIZE, MAGIC " %s %s\n", keyid, base64);
	return NULL;
}

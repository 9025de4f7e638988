/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Keys and signatures over OpenSSL's EVP: ed25519 (raw, hex), ECDSA on P-256 with SHA-256 (PEM,
 * DER signature), RSA with PSS and SHA-256 (PEM), as TUF's specification lists them. RSA with
 * PKCS #1 v1.5 is verified too, for repositories whose key service makes nothing else.
 */
#include "agent/repo/key.h"

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <string.h>

#include "agent/repo/json.h"
#include "engine/cleanup.h"

/* RSA beyond is refused, not computed: a hostile key must not cost seconds. */
enum { RSA_MIN_BITS = 2048, RSA_MAX_BITS = 8192, MAX_SIGNATURE = RSA_MAX_BITS / 8 };

static void cleanup_md(EVP_MD_CTX **ctx)
{
	EVP_MD_CTX_free(*ctx);
}

#define auto_md __attribute__((cleanup(cleanup_md)))

static void cleanup_bio(BIO **bio)
{
	BIO_free(*bio);
}

#define auto_bio __attribute__((cleanup(cleanup_bio)))

void repo_hex(const unsigned char *bytes, size_t size, char *hex)
{
	for (size_t i = 0; i < size; i++)
		sprintf(hex + 2 * i, "%02x", bytes[i]);
	hex[2 * size] = 0;
}

bool repo_sha256_hex(const void *bytes, size_t size, char *hex)
{
	unsigned char digest[EVP_MAX_MD_SIZE];

	if (!EVP_Digest(bytes, size, digest, NULL, EVP_sha256(), NULL))
		return false;
	repo_hex(digest, 32, hex);
	return true;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool repo_unhex(const char *hex, unsigned char *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		int high = hex_digit(hex[2 * i]);
		int low = high < 0 ? -1 : hex_digit(hex[2 * i + 1]);

		if (low < 0)
			return false;
		bytes[i] = (unsigned char)(high << 4 | low);
	}
	return !hex[2 * size];
}

/* ---- what TUF's key objects say ---- */

static const struct {
	enum repo_scheme scheme;
	const char *type, *old_type, *name;
	int evp_type;
} kinds[] = {
	{ REPO_ED25519, "ed25519", NULL, "ed25519", EVP_PKEY_ED25519 },
	{ REPO_ECDSA_P256, "ecdsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256", EVP_PKEY_EC },
	{ REPO_RSA_PSS, "rsa", NULL, "rsassa-pss-sha256", EVP_PKEY_RSA },
	/* Behind PSS: what we sign is PSS. */
	{ REPO_RSA_PKCS1, "rsa", NULL, "rsa-pkcs1v15-sha256", EVP_PKEY_RSA },
};

enum { KINDS = sizeof(kinds) / sizeof(*kinds) };

static bool key_fits(EVP_PKEY *key, size_t kind)
{
	char curve[32] = "";

	if (EVP_PKEY_base_id(key) != kinds[kind].evp_type)
		return false;
	switch (kinds[kind].scheme) {
	case REPO_ECDSA_P256:
		return EVP_PKEY_get_group_name(key, curve, sizeof(curve), NULL) &&
		       !strcmp(curve, "prime256v1");
	case REPO_RSA_PSS:
	case REPO_RSA_PKCS1:
		return EVP_PKEY_bits(key) >= RSA_MIN_BITS && EVP_PKEY_bits(key) <= RSA_MAX_BITS;
	default:
		return true;
	}
}

static EVP_PKEY *read_public(const char *text, size_t kind)
{
	unsigned char raw[32];

	if (kinds[kind].scheme == REPO_ED25519 && repo_unhex(text, raw, sizeof(raw)))
		return EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, raw, sizeof(raw));

	auto_bio BIO *bio = BIO_new_mem_buf(text, -1);
	EVP_PKEY *key = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;

	if (key && key_fits(key, kind))
		return key;
	EVP_PKEY_free(key);
	return NULL;
}

struct pe_error *repo_key_from_json(const json_t *json, enum repo_scheme *scheme, EVP_PKEY **ret)
{
	const char *type, *name, *public;

	*ret = NULL;
	if (json_unpack((json_t *)json, "{s:s, s:s, s:{s:s}}", "keytype", &type, "scheme", &name,
			"keyval", "public", &public))
		return pe_error_new(PE_ERR_UNSUPPORTED, "a key without keytype, scheme and "
							"keyval.public");
	for (size_t kind = 0; kind < KINDS; kind++) {
		bool type_fits = !strcmp(type, kinds[kind].type) ||
				 (kinds[kind].old_type && !strcmp(type, kinds[kind].old_type));

		if (!type_fits || strcmp(name, kinds[kind].name))
			continue;
		*scheme = kinds[kind].scheme;
		*ret = read_public(public, kind);
		ERR_clear_error();
		if (*ret)
			return NULL;
		return pe_error_new(PE_ERR_UNSUPPORTED, "a key that is no %s key", name);
	}
	return pe_error_new(PE_ERR_UNSUPPORTED, "a key of unknown kind %.40s, scheme %.40s", type,
			    name);
}

static bool use_pss(EVP_PKEY_CTX *ctx, int salt)
{
	return EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PSS_PADDING) > 0 &&
	       EVP_PKEY_CTX_set_rsa_pss_saltlen(ctx, salt) > 0 &&
	       EVP_PKEY_CTX_set_rsa_mgf1_md(ctx, EVP_sha256()) > 0;
}

static bool use_padding(EVP_PKEY_CTX *ctx, enum repo_scheme scheme)
{
	switch (scheme) {
	case REPO_RSA_PSS:
		return use_pss(ctx, RSA_PSS_SALTLEN_AUTO);
	case REPO_RSA_PKCS1:
		return EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PADDING) > 0;
	default:
		return true;
	}
}

bool repo_key_verify(EVP_PKEY *key, enum repo_scheme scheme, const void *bytes, size_t size,
		     const char *hex)
{
	unsigned char signature[MAX_SIGNATURE];
	size_t length = strlen(hex) / 2;
	auto_md EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	EVP_PKEY_CTX *pkey_ctx = NULL;
	const EVP_MD *digest = scheme == REPO_ED25519 ? NULL : EVP_sha256();

	if (!ctx || length > sizeof(signature) || !repo_unhex(hex, signature, length))
		return false;

	bool good = EVP_DigestVerifyInit(ctx, &pkey_ctx, digest, NULL, key) > 0 &&
		    use_padding(pkey_ctx, scheme) &&
		    EVP_DigestVerify(ctx, signature, length, bytes, size) == 1;

	ERR_clear_error();
	return good;
}

/* ---- a publisher's side ---- */

static const char *public_pem(EVP_PKEY *key, BIO *bio)
{
	char *text = NULL;

	if (!bio || !PEM_write_bio_PUBKEY(bio, key) || BIO_write(bio, "", 1) != 1)
		return NULL;
	BIO_get_mem_data(bio, &text);
	return text;
}

struct pe_error *repo_key_to_json(EVP_PKEY *key, json_t **ret)
{
	auto_bio BIO *bio = BIO_new(BIO_s_mem());
	unsigned char raw[32];
	char hex[2 * sizeof(raw) + 1];
	size_t size = sizeof(raw), kind = 0;
	const char *public = hex;

	while (kind < KINDS && !key_fits(key, kind))
		kind++;
	if (kind == KINDS)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "the key is none of ed25519, ECDSA P-256, RSA of %d to %d bits",
				    RSA_MIN_BITS, RSA_MAX_BITS);
	if (kinds[kind].scheme != REPO_ED25519)
	public = public_pem(key, bio);
	else if (EVP_PKEY_get_raw_public_key(key, raw, &size) > 0) repo_hex(raw, sizeof(raw), hex);
	else public = NULL;
	*ret = public ? json_pack("{s:s, s:s, s:{s:s}}", "keytype", kinds[kind].type, "scheme",
				  kinds[kind].name, "keyval", "public", public)
		      : NULL;
	return *ret ? NULL : pe_error_nomem();
}

struct pe_error *repo_key_id(const json_t *json, char *hex)
{
	pe_auto_free char *bytes = NULL;
	size_t size;
	struct pe_error *err = repo_json_canonical(json, &bytes, &size);

	if (err)
		return err;
	return repo_sha256_hex(bytes, size, hex) ? NULL : pe_error_nomem();
}

struct pe_error *repo_key_sign(EVP_PKEY *key, const void *bytes, size_t size, char **hex)
{
	unsigned char signature[MAX_SIGNATURE];
	size_t length = sizeof(signature);
	auto_md EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	EVP_PKEY_CTX *pkey_ctx = NULL;
	int type = EVP_PKEY_base_id(key);
	const EVP_MD *digest = type == EVP_PKEY_ED25519 ? NULL : EVP_sha256();

	*hex = NULL;
	if (!ctx || EVP_DigestSignInit(ctx, &pkey_ctx, digest, NULL, key) <= 0 ||
	    (type == EVP_PKEY_RSA && !use_pss(pkey_ctx, RSA_PSS_SALTLEN_DIGEST)) ||
	    EVP_DigestSign(ctx, signature, &length, bytes, size) <= 0) {
		ERR_clear_error();
		return pe_error_new(PE_ERR_INTERNAL, "the key does not sign");
	}
	*hex = malloc(2 * length + 1);
	if (!*hex)
		return pe_error_nomem();
	repo_hex(signature, length, *hex);
	return NULL;
}

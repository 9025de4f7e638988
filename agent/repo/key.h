/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Public keys of TUF metadata and signatures by them; private keys of a publisher. */
#ifndef AGENT_REPO_KEY_H
#define AGENT_REPO_KEY_H

#include <jansson.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/error.h"

static inline void repo_cleanup_pkey(EVP_PKEY **key)
{
	EVP_PKEY_free(*key);
}

#define repo_auto_pkey __attribute__((cleanup(repo_cleanup_pkey)))

enum repo_scheme { REPO_ED25519, REPO_ECDSA_P256, REPO_RSA_PSS, REPO_RSA_PKCS1 };

/*
 * The key that a TUF key object describes; the caller frees @ret. An object whose kind or scheme
 * is not known, or whose key is none, is PE_ERR_UNSUPPORTED: it can sign nothing.
 */
struct pe_error *repo_key_from_json(const json_t *json, enum repo_scheme *scheme,
				    EVP_PKEY **ret) pe_must_check;

/* True when @hex is the signature of @bytes by @key; anything wrong is just false. */
bool repo_key_verify(EVP_PKEY *key, enum repo_scheme scheme, const void *bytes, size_t size,
		     const char *hex);

/* The TUF key object of an ed25519, ECDSA P-256 or RSA key (new reference). */
struct pe_error *repo_key_to_json(EVP_PKEY *key, json_t **ret) pe_must_check;
/* SHA-256 of the canonical form of a TUF key object; @hex holds 65 bytes. */
struct pe_error *repo_key_id(const json_t *json, char *hex) pe_must_check;
/* Signature as TUF writes it, in hex; owned by the caller. */
struct pe_error *repo_key_sign(EVP_PKEY *key, const void *bytes, size_t size,
			       char **hex) pe_must_check;

void repo_hex(const unsigned char *bytes, size_t size, char *hex);
/* SHA-256 in lower-case hex; @hex holds 65 bytes. False without memory. */
bool repo_sha256_hex(const void *bytes, size_t size, char *hex);
/* Decodes exactly 2 * @size digits (either case); false otherwise. */
bool repo_unhex(const char *hex, unsigned char *bytes, size_t size);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The vendor's signature of a patch file, which holds from the maker to the privileged patcher
 * whatever carried the file in between (docs/repository.md has the format). It needs no repository
 * and no state: a file of public keys, the patch's bytes and one line of text.
 *
 *	care-signature-1 KEYID BASE64
 *
 * KEYID are the first 16 hex digits of the SHA-256 of the raw ed25519 public key; BASE64 is the
 * ed25519 signature of the text "care-patch-signature-1\n" SHA256-OF-FILE-IN-HEX "\n".
 *
 * Verify the very bytes that are then parsed (pe_patch_parse), never the file by its name twice.
 */
#ifndef AGENT_REPO_SIGNATURE_H
#define AGENT_REPO_SIGNATURE_H

#include <openssl/evp.h>
#include <stddef.h>

#include "engine/error.h"

#define REPO_KEYID_SIZE 17	     /* 16 hex digits and a zero byte */
#define REPO_SIGNATURE_SIZE 128	     /* room for the line with its newline and a zero byte */
#define REPO_SIGNATURE_SUFFIX ".sig" /* FILE.cpatch has its line in FILE.cpatch.sig */

struct repo_keyring;

/*
 * Loads ed25519 public keys (PEM, "PUBLIC KEY", several to a file allowed) from a file, or from
 * all files of a folder whose names end with .pem or .pub. Refused: no key at all, a key of another
 * kind, a file or folder that others than root and the caller may write.
 */
struct pe_error *repo_keyring_load(const char *path, struct repo_keyring **ret) pe_must_check;
/* An empty ring, and a key added from PEM text of @size bytes. */
struct pe_error *repo_keyring_new(struct repo_keyring **ret) pe_must_check;
struct pe_error *repo_keyring_add_pem(struct repo_keyring *ring, const void *pem,
				      size_t size) pe_must_check;
size_t repo_keyring_count(const struct repo_keyring *ring);
void repo_keyring_free(struct repo_keyring *ring);

/*
 * True signature of @size @bytes? @signature is the text of a .sig file, @signature_size its bytes
 * (hostile: anything is allowed). On success @keyid (may be NULL) names the key.
 * PE_ERR_POLICY: malformed, unknown key, or not the signature of these bytes; the text says which.
 */
struct pe_error *repo_signature_verify(const struct repo_keyring *ring, const void *bytes,
				       size_t size, const char *signature, size_t signature_size,
				       char keyid[REPO_KEYID_SIZE]) pe_must_check;

/* Makes the line (with newline) for @bytes with an ed25519 private key. */
struct pe_error *repo_signature_make(EVP_PKEY *key, const void *bytes, size_t size,
				     char line[REPO_SIGNATURE_SIZE]) pe_must_check;

/* The KEYID of an ed25519 key. */
struct pe_error *repo_signature_keyid(EVP_PKEY *key, char keyid[REPO_KEYID_SIZE]) pe_must_check;

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whose patches are applied: the keys directory holds public keys in PEM form, NAME.pem, of the
 * vendor and of the operator (ed25519). The keys are read anew each time, so that one that was
 * taken away counts no more.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/patcher/patcher.h"
#include "agent/paths.h"
#include "engine/cleanup.h"

enum { SIGNATURE_SIZE = 64, SHA256_SIZE = 32, LINE_MOST = 256 };

/* The 64 bytes of "care-signature-1 KEYID BASE64". */
static bool parse_line(const char *text, unsigned char ret[SIGNATURE_SIZE + 2])
{
	char keyid[17], base64[89], rest[2];

	return strlen(text) < LINE_MOST &&
	       sscanf(text, "care-signature-1 %16[0-9a-f] %88[0-9A-Za-z+/=] %1s", keyid, base64,
		      rest) == 2 &&
	       strlen(base64) == 88 &&
	       EVP_DecodeBlock(ret, (const unsigned char *)base64, 88) == SIGNATURE_SIZE + 2;
}

/* Only root decides whom root trusts. */
static EVP_PKEY *read_key(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;

	if (fd < 0)
		return NULL;
	pe_auto_file FILE *in = fdopen(fd, "r");
	if (!in || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() ||
	    st.st_mode & (S_IWGRP | S_IWOTH))
		return NULL;
	return PEM_read_PUBKEY(in, NULL, NULL, NULL);
}

static bool verifies(EVP_PKEY *key, const unsigned char *signature, const char *message)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool good = ctx && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, key) == 1 &&
		    EVP_DigestVerify(ctx, signature, SIGNATURE_SIZE, (const unsigned char *)message,
				     strlen(message)) == 1;

	EVP_MD_CTX_free(ctx);
	return good;
}

/* "care-patch-signature-1", line end, SHA-256 in hex, line end. */
static void make_message(const void *bytes, size_t size, char out[128])
{
	unsigned char hash[SHA256_SIZE];
	size_t used = (size_t)sprintf(out, "care-patch-signature-1\n");

	EVP_Digest(bytes, size, hash, NULL, EVP_sha256(), NULL);
	for (size_t i = 0; i < SHA256_SIZE; i++)
		used += (size_t)sprintf(out + used, "%02x", hash[i]);
	strcpy(out + used, "\n");
}

static struct pe_error *try_keys(const unsigned char *signature, const char *message, char **signer)
{
	DIR *dir = opendir(agent_keys_dir());
	size_t count = 0;

	if (!dir)
		return pe_error_errno(errno, "cannot read the directory of trusted keys %s",
				      agent_keys_dir());
	for (struct dirent *entry; !*signer && (entry = readdir(dir));) {
		const char *dot = strrchr(entry->d_name, '.');
		EVP_PKEY *key = dot && strcmp(dot, ".pem") == 0
					? read_key(dirfd(dir), entry->d_name)
					: NULL;

		if (!key)
			continue;
		count++;
		if (EVP_PKEY_get_base_id(key) == EVP_PKEY_ED25519 &&
		    verifies(key, signature, message))
			*signer = strndup(entry->d_name, (size_t)(dot - entry->d_name));
		EVP_PKEY_free(key);
	}
	closedir(dir);
	if (*signer)
		return NULL;
	if (!count)
		return pe_error_new(PE_ERR_POLICY,
				    "no key is trusted: there is no public key (NAME.pem, owned by "
				    "root and writable by nobody else) in %s",
				    agent_keys_dir());
	return pe_error_new(PE_ERR_POLICY,
			    "the patch is not signed by any of the %zu trusted keys in %s", count,
			    agent_keys_dir());
}

struct pe_error *patcher_trust(const void *bytes, size_t size, const char *signature, char **signer)
{
	unsigned char raw[SIGNATURE_SIZE + 2];
	char message[128];

	*signer = NULL;
	if (!parse_line(signature, raw))
		return pe_error_new(PE_ERR_POLICY, "the patch comes without a proper signature");
	make_message(bytes, size, message);
	return try_keys(raw, message, signer);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Signatures of patch files: whole, or refused with the reason. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <openssl/pem.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/repo/key.h"
#include "agent/repo/signature.h"
#include "engine/cleanup.h"

static const char patch[] = "the bytes of a patch";

static EVP_PKEY *new_key(void)
{
	EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");

	assert_non_null(key);
	return key;
}

static struct repo_keyring *ring_of(EVP_PKEY *key)
{
	BIO *bio = BIO_new(BIO_s_mem());
	struct repo_keyring *ring = NULL;
	char *pem;

	assert_true(PEM_write_bio_PUBKEY(bio, key));

	long size = BIO_get_mem_data(bio, &pem);

	assert_null(repo_keyring_new(&ring));
	assert_null(repo_keyring_add_pem(ring, pem, (size_t)size));
	assert_int_equal(repo_keyring_count(ring), 1);
	BIO_free(bio);
	return ring;
}

static void refused(struct pe_error *err, const char *part)
{
	assert_non_null(err);
	assert_int_equal(err->code, PE_ERR_POLICY);
	if (!strstr(err->message, part))
		fail_msg("\"%s\" does not say \"%s\"", err->message, part);
	pe_error_free(err);
}

static void a_signature_holds_for_its_bytes_and_its_key_only(void **state)
{
	EVP_PKEY *key = new_key(), *other = new_key();
	struct repo_keyring *ring = ring_of(key), *other_ring = ring_of(other);
	char line[REPO_SIGNATURE_SIZE], keyid[REPO_KEYID_SIZE], expected[REPO_KEYID_SIZE];

	assert_null(repo_signature_make(key, patch, sizeof(patch), line));
	assert_null(repo_signature_verify(ring, patch, sizeof(patch), line, strlen(line), keyid));
	assert_null(repo_signature_keyid(key, expected));
	assert_string_equal(keyid, expected);
	/* The newline may have been lost on the way. */
	assert_null(
		repo_signature_verify(ring, patch, sizeof(patch), line, strlen(line) - 1, NULL));
	refused(repo_signature_verify(ring, patch, sizeof(patch) - 1, line, strlen(line), NULL),
		"was changed");
	refused(repo_signature_verify(other_ring, patch, sizeof(patch), line, strlen(line), NULL),
		"not trusted");
	repo_keyring_free(ring);
	repo_keyring_free(other_ring);
	EVP_PKEY_free(key);
	EVP_PKEY_free(other);
}

static void every_changed_byte_of_the_line_is_refused(void **state)
{
	EVP_PKEY *key = new_key();
	struct repo_keyring *ring = ring_of(key);
	char line[REPO_SIGNATURE_SIZE], keyid[REPO_KEYID_SIZE];

	assert_null(repo_signature_make(key, patch, sizeof(patch), line));
	for (size_t i = 0; i < strlen(line); i++) {
		char changed[REPO_SIGNATURE_SIZE];

		strcpy(changed, line);
		changed[i] ^= 1;
		pe_auto_error struct pe_error *err = repo_signature_verify(
			ring, patch, sizeof(patch), changed, strlen(line), keyid);
		if (!err)
			fail_msg("accepted with byte %zu changed: %s", i, changed);
	}
	for (size_t size = 0; size < strlen(line) - 1; size++)
		refused(repo_signature_verify(ring, patch, sizeof(patch), line, size, NULL), "");
	repo_keyring_free(ring);
	EVP_PKEY_free(key);
}

static void keys_that_others_may_write_and_keys_of_other_kinds_are_refused(void **state)
{
	char path[] = "/tmp/care-key.XXXXXX";
	int fd = mkstemp(path);
	FILE *file = fdopen(fd, "w");
	EVP_PKEY *key = new_key(), *ec = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
	struct repo_keyring *ring = NULL;

	assert_true(PEM_write_PUBKEY(file, key));
	fflush(file);
	assert_null(repo_keyring_load(path, &ring));
	repo_keyring_free(ring);

	fchmod(fd, 0666);
	pe_auto_error struct pe_error *writable = repo_keyring_load(path, &ring);
	assert_int_equal(writable->code, PE_ERR_PERMISSION);
	assert_null(ring);

	fchmod(fd, 0600);
	assert_true(PEM_write_PUBKEY(file, ec));
	fflush(file);
	pe_auto_error struct pe_error *kind = repo_keyring_load(path, &ring);
	assert_int_equal(kind->code, PE_ERR_UNSUPPORTED);

	assert_int_equal(ftruncate(fd, 0), 0);
	pe_auto_error struct pe_error *empty = repo_keyring_load(path, &ring);
	assert_int_equal(empty->code, PE_ERR_FORMAT);
	fclose(file);
	unlink(path);
	EVP_PKEY_free(key);
	EVP_PKEY_free(ec);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_signature_holds_for_its_bytes_and_its_key_only),
		cmocka_unit_test(every_changed_byte_of_the_line_is_refused),
		cmocka_unit_test(keys_that_others_may_write_and_keys_of_other_kinds_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

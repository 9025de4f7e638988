/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sha256.h"

#include <openssl/sha.h>

void sha256_pieces(const struct iovec *pieces, size_t count, uint8_t out[PE_SHA256_SIZE])
{
	SHA256_CTX sha;

	/* The one-call SHA256() cannot hash in pieces, and EVP would need an error path. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
	SHA256_Init(&sha);
	for (size_t i = 0; i < count; i++)
		SHA256_Update(&sha, pieces[i].iov_base, pieces[i].iov_len);
	SHA256_Final(out, &sha);
#pragma GCC diagnostic pop
}

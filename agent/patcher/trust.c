/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whose patches are applied: the keys directory holds public keys (ed25519, PEM) of the vendor and
 * of the operator. They are read anew each time, so that one that was taken away counts no more.
 */
#include <string.h>

#include "agent/patcher/patcher.h"
#include "agent/paths.h"
#include "agent/repo/signature.h"
#include "engine/cleanup.h"

struct pe_error *patcher_trust(const void *bytes, size_t size, const char *signature, char **signer)
{
	struct repo_keyring *ring;
	char keyid[REPO_KEYID_SIZE];
	struct pe_error *err = repo_keyring_load(agent_keys_dir(), &ring);

	*signer = NULL;
	if (err)
		return pe_error_wrap(err, "cannot tell whose patches to trust");
	err = repo_signature_verify(ring, bytes, size, signature, strlen(signature), keyid);
	repo_keyring_free(ring);
	if (!err)
		*signer = strdup(keyid);
	return err;
}

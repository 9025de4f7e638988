/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Inside of care-repo: the command line, and the commands that it calls. */
#ifndef AGENT_REPO_CARE_REPO_H
#define AGENT_REPO_CARE_REPO_H

#include "agent/repo/publisher.h"
#include "engine/cli.h"

struct care_repo_options {
	const char *repo, *passphrase_file, *feed, *reason, *type, *public, *key;
	unsigned int root_keys, root_threshold;
	bool no_passphrase, timestamp, dry_run, json, quiet;
	char **args; /* behind the command */
	size_t arg_count;
	struct pe_progress progress;
};

typedef struct pe_error *care_repo_command(struct care_repo_options *options);

care_repo_command care_repo_init, care_repo_key, care_repo_add, care_repo_block, care_repo_collect,
	care_repo_keygen, care_repo_publish, care_repo_rotate, care_repo_sign, care_repo_status,
	care_repo_sticky, care_repo_threshold, care_repo_verify;

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* care-repo: makes and signs a repository of patches. */
#include <argp.h>
#include <string.h>

#include "agent/repo/care_repo.h"
#include "agent/repo/options.h"
#include "engine/cleanup.h"

const char *argp_program_version = "care-repo (DatabaseCare) " CARE_VERSION;

enum {
	KEY_PASSPHRASE_FILE = 1,
	KEY_NO_PASSPHRASE,
	KEY_ROOT_KEYS,
	KEY_ROOT_THRESHOLD,
	KEY_TIMESTAMP,
	KEY_REASON,
	KEY_DRY_RUN,
	KEY_PUBLIC,
	KEY_KEY,
};

static const struct {
	const char *name;
	care_repo_command *run;
	size_t min_args, max_args;
} commands[] = {
	{ "init", care_repo_init, 0, 0 },	    { "key", care_repo_key, 1, 1 },
	{ "add", care_repo_add, 1, SIZE_MAX },	    { "block", care_repo_block, 1, 1 },
	{ "publish", care_repo_publish, 0, 0 },	    { "rotate", care_repo_rotate, 1, 1 },
	{ "threshold", care_repo_threshold, 2, 2 }, { "keygen", care_repo_keygen, 1, 1 },
	{ "sign", care_repo_sign, 1, 1 },	    { "collect", care_repo_collect, 1, SIZE_MAX },
	{ "sticky", care_repo_sticky, 2, 2 },	    { "verify", care_repo_verify, 0, 0 },
	{ "status", care_repo_status, 0, 0 },
};

static const struct argp_option option_table[] = {
	{ "repo", 'r', "DIR", 0, "The repository's work folder (default: here)", 1 },
	{ "passphrase-file", KEY_PASSPHRASE_FILE, "FILE", 0,
	  "Passphrase of the offline keys: FILE's first line (default: ask)", 1 },
	{ "feed", 'f', "NAME", 0, "add, block: the feed (add's default: main)", 2 },
	{ "reason", KEY_REASON, "TEXT", 0, "block: why", 2 },
	{ "type", 't', "TYPE", 0,
	  "init, key, keygen, rotate, sticky: ed25519 (default), ecdsa or rsa", 2 },
	{ "root-keys", KEY_ROOT_KEYS, "N", 0, "init: number of root keys (default: 1)", 2 },
	{ "root-threshold", KEY_ROOT_THRESHOLD, "N", 0,
	  "init: how many of them must sign (default: all)", 2 },
	{ "public", KEY_PUBLIC, "FILE", 0,
	  "key, rotate: a public key whose private half is elsewhere", 2 },
	{ "key", KEY_KEY, "FILE", 0, "sign: the private key", 2 },
	{ "no-passphrase", KEY_NO_PASSPHRASE, NULL, 0,
	  "init, key, keygen, rotate, sticky: leave offline keys unencrypted", 2 },
	{ "timestamp", KEY_TIMESTAMP, NULL, 0, "publish: only with the online keys (for a timer)",
	  2 },
	{ "dry-run", KEY_DRY_RUN, NULL, 0, "add, block, sign: check, change nothing", 2 },
	{ "json", 'j', NULL, 0, "Print the result (errors too) as JSON", 90 },
	{ "quiet", 'q', NULL, 0, "Print errors only; what a command is there to show is shown",
	  90 },
	{ 0 },
};

#define FIELD(name) offsetof(struct care_repo_options, name)

static const struct repo_option fields[] = {
	{ 'r', REPO_OPTION_TEXT, FIELD(repo) },
	{ KEY_PASSPHRASE_FILE, REPO_OPTION_TEXT, FIELD(passphrase_file) },
	{ 'f', REPO_OPTION_TEXT, FIELD(feed) },
	{ KEY_REASON, REPO_OPTION_TEXT, FIELD(reason) },
	{ 't', REPO_OPTION_TEXT, FIELD(type) },
	{ KEY_ROOT_KEYS, REPO_OPTION_FEW, FIELD(root_keys) },
	{ KEY_ROOT_THRESHOLD, REPO_OPTION_FEW, FIELD(root_threshold) },
	{ KEY_PUBLIC, REPO_OPTION_TEXT, FIELD(public) },
	{ KEY_KEY, REPO_OPTION_TEXT, FIELD(key) },
	{ KEY_NO_PASSPHRASE, REPO_OPTION_FLAG, FIELD(no_passphrase) },
	{ KEY_TIMESTAMP, REPO_OPTION_FLAG, FIELD(timestamp) },
	{ KEY_DRY_RUN, REPO_OPTION_FLAG, FIELD(dry_run) },
	{ 'j', REPO_OPTION_FLAG, FIELD(json) },
	{ 'q', REPO_OPTION_FLAG, FIELD(quiet) },
	{ 0 },
};

static const char doc[] =
	"Makes and signs a repository of patches: a folder of static files for any web server."
	"\v"
	"Commands:\n"
	"  init             makes the repository and its keys\n"
	"  key ROLE         makes one more key for ROLE; feed/NAME makes a feed\n"
	"  add FILE...      signs patches and puts them into a feed\n"
	"  block NAME       marks a patch as blocked: hosts take it back\n"
	"  sticky KEY DAY   the hosts of KEY stick to patches until DAY (DDMMYY), yesterday, or "
	"none\n"
	"  publish          signs and writes the metadata that changed or expire soon\n"
	"  rotate ROLE      a new key instead of ROLE's keys; publish makes it known\n"
	"  threshold ROLE N how many of ROLE's keys have to sign\n"
	"  keygen STEM      makes a key for use elsewhere: STEM.pem, STEM.pub\n"
	"  sign FILE        signs, with --key, what publish left in DIR/pending\n"
	"  collect FILE...  takes back what was signed elsewhere\n"
	"  verify           checks all that is published, as a host would\n"
	"  status           the patches, and which role expires when, which keys sign it\n"
	"\n"
	"Roles: root, targets, snapshot, timestamp, patch, feed/NAME.\n"
	"\n"
	"  care-repo --repo /srv/patches init\n"
	"  care-repo --repo /srv/patches add cve-2026-49261.cpatch\n"
	"  care-repo --repo /srv/patches publish\n"
	"\n"
	"The web server serves DIR/public; hosts need public/metadata/1.root.json and the keys "
	"keys/patch-*.pub. Keep keys of root, targets and patches off the machine that runs "
	"publish --timestamp.\n"
	"\n"
	"Exit status: 0 done, 1 error, 2 nothing to do, 3 no such patch, 4 not now, 5 refused.\n";

struct input {
	struct care_repo_options *options;
	care_repo_command *run;
};

static void take_command(struct input *input, const char *arg, struct argp_state *state)
{
	size_t count = (size_t)(state->argc - state->next);

	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		if (strcmp(commands[i].name, arg))
			continue;
		input->run = commands[i].run;
		if (count < commands[i].min_args)
			argp_error(state, "%s of what?", arg);
		if (count > commands[i].max_args)
			argp_error(state, "%s does not take \"%s\"", arg,
				   state->argv[state->next + (int)commands[i].max_args]);
	}
	if (!input->run)
		argp_error(state, "there is no command \"%s\"", arg);
	input->options->args = state->argv + state->next;
	input->options->arg_count = count;
	state->next = state->argc;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct input *input = state->input;
	struct care_repo_options *options = input->options;

	if (repo_option_take(fields, options, key, arg, state))
		return 0;
	switch (key) {
	case ARGP_KEY_ARG:
		take_command(input, arg, state);
		return 0;
	case ARGP_KEY_END:
		if (!input->run)
			argp_error(state, "which command? (see --help)");
		if (!options->root_threshold)
			options->root_threshold = options->root_keys;
		if (options->root_threshold > options->root_keys)
			argp_error(state, "%u root keys cannot reach a threshold of %u",
				   options->root_keys, options->root_threshold);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int main(int argc, char **argv)
{
	const struct argp argp = { option_table, parse, "COMMAND [ARGUMENT...]", doc };
	struct care_repo_options options = {
		.repo = ".", .type = "ed25519", .reason = "withdrawn by its maker", .root_keys = 1
	};
	struct input input = { &options, NULL };
	struct pe_error *err;

	pe_cli_init("care-repo");
	argp_err_exit_status = 1;
	argp_parse(&argp, argc, argv, 0, NULL, &input);
	pe_progress_init(&options.progress, !options.json && !options.quiet);
	err = input.run(&options);
	pe_progress_done(&options.progress);
	return err ? pe_cli_fail("care-repo", err, options.json) : 0;
}

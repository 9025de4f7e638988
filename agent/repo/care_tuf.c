/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * care-tuf: the repository's client by itself, with the arguments by which the public TUF
 * conformance suite drives a client.
 */
#include <argp.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/repo/fetch.h"
#include "agent/repo/json.h"
#include "agent/repo/options.h"
#include "agent/repo/store.h"
#include "agent/repo/tuf.h"
#include "engine/cleanup.h"
#include "engine/cli.h"

const char *argp_program_version = "care-tuf (DatabaseCare) " CARE_VERSION;

enum { KEY_DIR = 1, KEY_URL, KEY_NAME, KEY_TARGETS_URL, KEY_TARGET_DIR };

/* A root file beyond is none. */
enum { MAX_ROOT = 512000 };

struct options {
	const char *dir, *url, *targets_url, *target_dir;
	const char **names;
	size_t name_count;
	const char *command, *root;
	bool json, quiet;
};

static const struct argp_option option_table[] = {
	{ "metadata-dir", KEY_DIR, "DIR", 0, "Folder of the trusted metadata", 1 },
	{ "metadata-url", KEY_URL, "URL", 0, "Where the repository's metadata are", 1 },
	{ "target-name", KEY_NAME, "PATH", 0, "Target to download; may be given several times", 2 },
	{ "target-base-url", KEY_TARGETS_URL, "URL", 0, "Where the repository's targets are", 2 },
	{ "target-dir", KEY_TARGET_DIR, "DIR", 0, "Folder that downloads go to", 2 },
	{ "json", 'j', NULL, 0, "Print the result (errors too) as JSON", 90 },
	{ "quiet", 'q', NULL, 0, "Print errors only; what a command is there to show is shown",
	  90 },
	{ 0 },
};

#define FIELD(name) offsetof(struct options, name)

static const struct repo_option fields[] = {
	{ KEY_DIR, REPO_OPTION_TEXT, FIELD(dir) },
	{ KEY_URL, REPO_OPTION_TEXT, FIELD(url) },
	{ KEY_TARGETS_URL, REPO_OPTION_TEXT, FIELD(targets_url) },
	{ KEY_TARGET_DIR, REPO_OPTION_TEXT, FIELD(target_dir) },
	{ 'j', REPO_OPTION_FLAG, FIELD(json) },
	{ 'q', REPO_OPTION_FLAG, FIELD(quiet) },
	{ 0 },
};

static const char doc[] =
	"The client of a signed (TUF) repository."
	"\v"
	"Commands:\n"
	"  init ROOT_FILE  trusts ROOT_FILE as the repository's root\n"
	"  refresh         brings the metadata up to date and verifies them\n"
	"  download        refreshes, then fetches the targets that are named\n"
	"\n"
	"Metadata are verified before they are stored; after an error what was good before is "
	"still there. A target that is in its folder already, as signed, is not fetched again.\n"
	"\n"
	"  care-tuf --metadata-dir m init root.json\n"
	"  care-tuf --metadata-dir m --metadata-url https://patches.example/metadata refresh\n"
	"\n"
	"Exit status: 0 done, 1 not.\n";

static void take_argument(struct options *options, const char *arg, struct argp_state *state)
{
	if (!options->command)
		options->command = arg;
	else if (!strcmp(options->command, "init") && !options->root)
		options->root = arg;
	else
		argp_error(state, "what is \"%s\"?", arg);
}

static void check_usage(const struct options *options, struct argp_state *state)
{
	const char *command = options->command;

	if (!command)
		argp_error(state, "which command? init, refresh or download");
	if (strcmp(command, "init") && strcmp(command, "refresh") && strcmp(command, "download"))
		argp_error(state, "there is no command \"%s\"", command);
	if (!options->dir)
		argp_error(state, "--metadata-dir is missing");
	if (!strcmp(command, "init")) {
		if (!options->root)
			argp_error(state, "init which ROOT_FILE?");
		return;
	}
	if (!options->url)
		argp_error(state, "--metadata-url is missing");
	if (strcmp(command, "download"))
		return;
	if (!options->name_count || !options->targets_url || !options->target_dir)
		argp_error(state, "download needs --target-name, --target-base-url and "
				  "--target-dir");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *options = state->input;

	if (repo_option_take(fields, options, key, arg, state))
		return 0;
	switch (key) {
	case KEY_NAME:
		options->names[options->name_count++] = arg;
		return 0;
	case ARGP_KEY_ARG:
		take_argument(options, arg, state);
		return 0;
	case ARGP_KEY_END:
		check_usage(options, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- commands ---- */

static struct pe_error *do_init(const struct options *options)
{
	pe_auto_file FILE *file = fopen(options->root, "rbe");
	pe_auto_free char *bytes = malloc(MAX_ROOT + 1);

	if (!file)
		return pe_error_errno(errno, "cannot open %s", options->root);
	if (!bytes)
		return pe_error_nomem();

	size_t size = fread(bytes, 1, MAX_ROOT + 1, file);

	if (ferror(file))
		return pe_error_errno(errno, "cannot read %s", options->root);
	if (size > MAX_ROOT)
		return pe_error_new(PE_ERR_FORMAT, "%s has more than %d bytes", options->root,
				    MAX_ROOT);
	return tuf_init(options->dir, bytes, size);
}

struct session {
	const struct options *options;
	struct tuf_client *client;
	struct repo_fetch *fetch;
	struct pe_progress progress;
	json_t *targets; /* what was done, for --json */
};

static void show_path(void *arg, const char *path)
{
	struct session *session = arg;

	pe_progress_step(&session->progress, "fetching %s", path);
}

static struct pe_error *run(struct session *session)
{
	return repo_fetch_run(session->fetch, session->client, session->options->url, show_path,
			      session);
}

static struct pe_error *download_one(struct session *session, const char *name)
{
	const struct options *options = session->options;
	struct tuf_target target;
	struct pe_error *err = tuf_find(session->client, name);

	if (!err)
		err = run(session);
	if (err)
		return err;
	if (!tuf_target_count(session->client))
		return pe_error_new(PE_ERR_NO_TARGET, "the repository has no target %s", name);
	err = tuf_target(session->client, 0, &target);
	if (err)
		return err;

	bool there = tuf_target_there(&target, options->target_dir);

	if (!there) {
		show_path(session, name);
		err = repo_fetch_target(session->fetch, session->client, &target,
					options->targets_url, options->target_dir);
	}
	if (!err)
		json_array_append_new(session->targets,
				      json_pack("{s:s, s:I, s:b}", "path", name, "bytes",
						(json_int_t)target.length, "fetched", !there));
	return err;
}

static struct pe_error *update(struct session *session)
{
	struct pe_error *err = tuf_refresh(session->client);

	if (!err)
		err = run(session);
	for (size_t i = 0; !err && i < session->options->name_count; i++)
		err = download_one(session, session->options->names[i]);
	return err;
}

static void print_result(struct session *session)
{
	const struct repo_traffic *traffic = repo_fetch_traffic(session->fetch);
	static const char *const roles[] = { "root", "timestamp", "snapshot", "targets" };
	json_t *versions = json_object();
	int64_t version, expires;

	for (size_t i = 0; i < sizeof(roles) / sizeof(*roles); i++)
		if (tuf_role_info(session->client, roles[i], &version, &expires))
			json_object_set_new(versions, roles[i], json_integer(version));
	if (session->options->json) {
		pe_cli_json(json_pack("{s:o, s:O, s:i, s:I, s:I}", "versions", versions, "targets",
				      session->targets, "requests", traffic->requests, "sent_bytes",
				      (json_int_t)traffic->sent, "received_bytes",
				      (json_int_t)traffic->received));
		return;
	}
	for (size_t i = 0; i < sizeof(roles) / sizeof(*roles); i++)
		printf("%s%s %lld", i ? ", " : "", roles[i],
		       (long long)json_integer_value(json_object_get(versions, roles[i])));
	printf("; %zu targets, %llu bytes\n", json_array_size(session->targets),
	       traffic->sent + traffic->received);
	json_decref(versions);
}

static struct pe_error *do_update(const struct options *options)
{
	struct session session = { .options = options, .targets = json_array() };
	struct pe_error *err = tuf_client_open(options->dir, NULL, &session.client);

	if (!err)
		err = repo_fetch_new(&session.fetch);
	pe_progress_init(&session.progress,
			 !options->json && !options->quiet && isatty(STDERR_FILENO));
	if (!err)
		err = update(&session);
	pe_progress_done(&session.progress);
	if (!err && (options->json || !options->quiet))
		print_result(&session);
	repo_fetch_free(session.fetch);
	tuf_client_free(session.client);
	json_decref(session.targets);
	return err;
}

int main(int argc, char **argv)
{
	const struct argp argp = { option_table, parse, "init ROOT_FILE\nrefresh\ndownload", doc };
	struct options options = { .names = calloc((size_t)argc, sizeof(*options.names)) };
	struct pe_error *err;

	if (!options.names)
		return 1;
	pe_cli_init("care-tuf");
	argp_err_exit_status = 1;
	argp_parse(&argp, argc, argv, 0, NULL, &options);
	err = strcmp(options.command, "init") ? do_update(&options) : do_init(&options);
	free(options.names);
	if (!err)
		return 0;
	pe_cli_fail("care-tuf", err, options.json);
	return 1;
}

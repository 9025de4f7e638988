/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The commands of care-repo, each in terms of the publisher. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "agent/repo/care_repo.h"
#include "agent/repo/json.h"
#include "engine/cleanup.h"

static void cleanup_publisher(struct publisher **publisher)
{
	publisher_close(*publisher);
}

#define auto_publisher __attribute__((cleanup(cleanup_publisher)))

static struct pe_error *open_repo(struct care_repo_options *options, struct publisher **ret)
{
	struct pe_error *err = publisher_open(options->repo, options->passphrase_file, ret);

	if (!err)
		(*ret)->no_passphrase = options->no_passphrase;
	return err;
}

/* A sentence, or with --json the object (taken over). */
static void say(const struct care_repo_options *options, json_t *json, const char *fmt, ...)
	pe_printf(3, 4);
static void say(const struct care_repo_options *options, json_t *json, const char *fmt, ...)
{
	va_list ap;

	if (options->json) {
		pe_cli_json(json);
		return;
	}
	json_decref(json);
	if (options->quiet)
		return;
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

/* ---- init, key, rotate ---- */

struct pe_error *care_repo_init(struct care_repo_options *options)
{
	const struct publisher_init init = { options->root_keys, options->root_threshold,
					     options->type };
	auto_publisher struct publisher *publisher = NULL;
	struct pe_error *err = publisher_create(options->repo, options->passphrase_file,
						options->no_passphrase, &init, &publisher);

	if (!err)
		say(options,
		    json_pack("{s:s, s:O}", "repo", options->repo, "keys",
			      json_object_get(publisher->config, "keys")),
		    "%s is ready: add patches, then publish. Its keys are in %s/keys: keep those "
		    "of root elsewhere.",
		    options->repo, options->repo);
	return err;
}

/* One more key, or instead of the role's keys as many new ones, or that of --public. */
static struct pe_error *new_keys(struct care_repo_options *options, bool replace)
{
	auto_publisher struct publisher *publisher = NULL;
	const char *name = NULL, *role = options->args[0];
	struct pe_error *err = open_repo(options, &publisher);
	size_t count = err ? 0 : json_array_size(publisher_role_keys(publisher, role));
	size_t make = options->public ? 0 : replace ? count : 1;

	if (!err && replace && !count)
		err = pe_error_new(PE_ERR_USAGE, "%s has no key to rotate", role);
	if (!err && options->public)
		err = publisher_key_take(publisher, role, options->public, replace, &name);
	for (size_t i = 0; !err && i < make; i++)
		err = publisher_key_make(publisher, role, options->type, replace && !i, &name);
	if (!err)
		err = publisher_save(publisher);
	if (!err)
		say(options,
		    json_pack("{s:s, s:O}", "role", role, "keys",
			      publisher_role_keys(publisher, role)),
		    "%s signs for %s from the next publish on", name, role);
	return err;
}

struct pe_error *care_repo_key(struct care_repo_options *options)
{
	return new_keys(options, false);
}

struct pe_error *care_repo_rotate(struct care_repo_options *options)
{
	return new_keys(options, true);
}

struct pe_error *care_repo_threshold(struct care_repo_options *options)
{
	auto_publisher struct publisher *publisher = NULL;
	const char *role = options->args[0];
	char *end;
	unsigned long count = strtoul(options->args[1], &end, 10);
	struct pe_error *err = open_repo(options, &publisher);

	if (!err && (*end || count < 1 || count > 16))
		err = pe_error_new(PE_ERR_USAGE, "a threshold is a number from 1 to 16");
	if (!err)
		err = publisher_set_threshold(publisher, role, (unsigned int)count);
	if (!err)
		err = publisher_save(publisher);
	if (!err)
		say(options, json_pack("{s:s, s:I}", "role", role, "threshold", (json_int_t)count),
		    "%lu of the keys of %s sign from the next publish on", count, role);
	return err;
}

/* ---- keys that are elsewhere ---- */

struct pe_error *care_repo_keygen(struct care_repo_options *options)
{
	const char *stem = options->args[0];
	struct pe_error *err = publisher_keygen(stem, options->type, options->passphrase_file,
						options->no_passphrase);

	if (!err)
		say(options,
		    json_pack("{s:s+, s:s+}", "private", stem, ".pem", "public", stem, ".pub"),
		    "%s.pem stays here; %s.pub goes to the repository: care-repo key ROLE --public "
		    "%s.pub",
		    stem, stem, stem);
	return err;
}

/* What a signature would vouch for, so that whoever holds the key can tell. */
static void show_signed(const json_t *body)
{
	const char *role;
	json_t *entry;

	printf("%s, version %lld, expires %s\n", json_string_value(json_object_get(body, "_type")),
	       (long long)json_integer_value(json_object_get(body, "version")),
	       json_string_value(json_object_get(body, "expires")));
	json_object_foreach(json_object_get(body, "roles"), role, entry)
	{
		json_t *id;
		size_t i;

		printf("  %s: %lld of", role,
		       (long long)json_integer_value(json_object_get(entry, "threshold")));
		json_array_foreach(json_object_get(entry, "keyids"), i, id)
			printf(" %.16s", json_string_value(id));
		putchar('\n');
	}
	json_object_foreach(json_object_get(body, "targets"), role, entry) printf("  %s\n", role);
	for (size_t i = 0;
	     i < json_array_size(json_object_get(json_object_get(body, "delegations"), "roles"));
	     i++)
		printf("  delegates to %s\n",
		       json_string_value(json_object_get(
			       json_array_get(json_object_get(json_object_get(body, "delegations"),
							      "roles"),
					      i),
			       "name")));
}

struct pe_error *care_repo_sign(struct care_repo_options *options)
{
	repo_auto_json json_t *body = NULL;
	EVP_PKEY *key = NULL;
	const char *path = options->args[0];
	struct pe_error *err = NULL;

	if (!options->key)
		err = pe_error_new(PE_ERR_USAGE, "sign with which --key?");
	if (!err)
		err = publisher_read_key(options->key, options->passphrase_file, &key);
	if (!err)
		err = publisher_sign_file(path, key, options->dry_run, &body);
	EVP_PKEY_free(key);
	if (err)
		return err;
	if (!options->json && !options->quiet)
		show_signed(body);
	say(options,
	    json_pack("{s:s, s:O, s:b}", "file", path, "signed", body, "dry_run", options->dry_run),
	    "%s %s", path,
	    options->dry_run ? "would be signed"
			     : "is signed: back to the repository with it (care-repo collect)");
	return NULL;
}

struct pe_error *care_repo_collect(struct care_repo_options *options)
{
	auto_publisher struct publisher *publisher = NULL;
	struct pe_error *err = open_repo(options, &publisher);
	size_t all = 0, added;

	for (size_t i = 0; !err && i < options->arg_count; i++) {
		err = publisher_collect(publisher, options->args[i], &added);
		all += added;
	}
	if (!err && !all)
		err = pe_error_new(PE_ERR_NOTHING, "these signatures were there already");
	if (!err)
		say(options, json_pack("{s:I}", "signatures", (json_int_t)all),
		    "%zu signature%s taken; publish goes on when they are enough", all,
		    all == 1 ? "" : "s");
	return err;
}

/* ---- add, block ---- */

/*
 * A host keeps one patch of each build, that of the highest level; one of another name beside it is
 * never taken. Paths are FEED/PRODUCT/BUILD-ID/LEVEL-NAME.cpatch.
 */
static void note_rivals(const struct publisher *publisher, const char *feed)
{
	json_t *seen = json_object(), *entry;
	const char *path;
	size_t size = strlen(feed);

	json_object_foreach(publisher->catalogue, path, entry)
	{
		json_t *custom = json_object_get(entry, "custom");
		const char *name = json_string_value(json_object_get(custom, "name"));
		const char *base = strrchr(path, '/');

		if (strncmp(path, feed, size) != 0 || path[size] != '/' || !base || !name ||
		    json_object_get(custom, "blocked"))
			continue;

		pe_auto_free char *build = strndup(path, (size_t)(base - path));
		const char *other = build ? json_string_value(json_object_get(seen, build)) : NULL;

		if (other && strcmp(other, name) != 0)
			fprintf(stderr,
				"care-repo: note: %s and %s are for one build (%s): a host takes "
				"the one of the highest level alone; fixes of one build belong "
				"into one patch, whose level rises\n",
				other, name, build);
		if (build && !other)
			json_object_set_new(seen, build, json_string(name));
	}
	json_decref(seen);
}

struct pe_error *care_repo_add(struct care_repo_options *options)
{
	auto_publisher struct publisher *publisher = NULL;
	const char *feed = options->feed ? options->feed : "main";
	size_t added = 0;
	struct pe_error *err = open_repo(options, &publisher), *nothing = NULL;

	for (size_t i = 0; !err && i < options->arg_count; i++) {
		if (i && i % 100 == 0)
			pe_progress_step(&options->progress, "%zu of %zu", i, options->arg_count);
		err = publisher_add(publisher, options->args[i], feed, options->dry_run);
		if (!err) {
			added++;
		} else if (err->code == PE_ERR_NOTHING) {
			pe_error_free(nothing);
			nothing = pe_steal(err);
		}
	}
	if (!err && !added)
		return nothing;
	pe_error_free(nothing);
	if (!err && !options->dry_run)
		err = publisher_save(publisher);
	pe_progress_done(&options->progress);
	if (!err)
		say(options,
		    json_pack("{s:I, s:s, s:b}", "added", (json_int_t)added, "feed", feed,
			      "dry_run", options->dry_run),
		    "%zu %s %s feed %s%s", added, added == 1 ? "patch" : "patches",
		    options->dry_run ? "would go into" : "added to", feed,
		    options->dry_run ? "" : "; publish makes it known");
	if (!err && !options->quiet)
		note_rivals(publisher, feed);
	return err;
}

struct pe_error *care_repo_block(struct care_repo_options *options)
{
	auto_publisher struct publisher *publisher = NULL;
	size_t count = 0;
	struct pe_error *err = open_repo(options, &publisher);

	if (!err)
		err = publisher_block(publisher, options->args[0], options->feed, options->reason,
				      &count);
	if (!err && !options->dry_run)
		err = publisher_save(publisher);
	if (!err)
		say(options,
		    json_pack("{s:s, s:I, s:b}", "blocked", options->args[0], "targets",
			      (json_int_t)count, "dry_run", options->dry_run),
		    "%s %s blocked for %zu builds%s", options->args[0],
		    options->dry_run ? "would be" : "is", count,
		    options->dry_run ? "" : "; publish makes it known");
	return err;
}

struct pe_error *care_repo_sticky(struct care_repo_options *options)
{
	auto_publisher struct publisher *publisher = NULL;
	const char *key = options->args[0], *tag = options->args[1];
	struct pe_error *err = open_repo(options, &publisher);

	if (!err)
		err = publisher_sticky(publisher, key, tag, options->type);
	if (!err)
		err = publisher_save(publisher);
	if (!err)
		say(options, json_pack("{s:s, s:s}", "key", key, "sticky", tag),
		    "hosts with STICKY_PATCH=KEY and this key stick to %s; publish makes it known",
		    tag);
	return err;
}

/* ---- publish, verify ---- */

struct pe_error *care_repo_publish(struct care_repo_options *options)
{
	auto_publisher struct publisher *publisher = NULL;
	repo_auto_json json_t *done = NULL;
	const char *role;
	json_t *version;
	struct pe_error *err = open_repo(options, &publisher);

	if (!err)
		err = publisher_publish(publisher, options->timestamp, &done);
	if (err)
		return err;
	/* For a timer, that nothing has to be done is as good as anything. */
	if (!json_object_size(done) && options->timestamp && !options->json) {
		if (!options->quiet)
			puts("nothing expires soon");
		return NULL;
	}
	if (!json_object_size(done) && !options->timestamp)
		return pe_error_new(PE_ERR_NOTHING, "nothing changed and nothing expires soon");
	if (options->json || options->quiet) {
		say(options, json_pack("{s:O}", "published", done), " ");
		return NULL;
	}
	/* Hundreds of roles of a feed would hide what matters. */
	json_object_foreach(done, role, version) if (!strchr(role, '-'))
		printf("%s %lld\n", role, (long long)json_integer_value(version));
	printf("%zu files written\n", json_object_size(done));
	return NULL;
}

struct pe_error *care_repo_verify(struct care_repo_options *options)
{
	auto_publisher struct publisher *publisher = NULL;
	size_t roles, targets;
	struct pe_error *err = open_repo(options, &publisher);

	pe_progress_step(&options->progress, "verifying");
	if (!err)
		err = publisher_verify(publisher, &roles, &targets);
	pe_progress_done(&options->progress);
	if (!err)
		say(options,
		    json_pack("{s:b, s:I, s:I}", "good", true, "roles", (json_int_t)roles,
			      "targets", (json_int_t)targets),
		    "good: %zu roles below the snapshot, %zu targets, each signed and in place",
		    roles, targets);
	return err;
}

/* ---- status ---- */

/* What status shows of one role; NULL when it is not published. */
static struct pe_error *role_status(struct publisher *publisher, const char *role, const char *keys,
				    json_t **ret)
{
	repo_auto_json json_t *file = NULL;
	struct pe_error *err = publisher_published(publisher, role, &file);
	json_t *body = json_object_get(file, "signed");
	const char *expires = json_string_value(json_object_get(body, "expires"));
	struct tm tm = { 0 };
	int days = 0;

	*ret = NULL;
	if (err || !expires)
		return err;
	if (strptime(expires, "%Y-%m-%dT%H:%M:%SZ", &tm))
		days = (int)((timegm(&tm) - time(NULL)) / 86400);
	*ret = json_pack("{s:s, s:O, s:s, s:i, s:i, s:O}", "role", role, "version",
			 json_object_get(body, "version"), "expires", expires, "days", days,
			 "threshold", publisher_threshold(publisher, keys), "keys",
			 publisher_role_keys(publisher, keys));
	return *ret ? NULL : pe_error_nomem();
}

static struct pe_error *collect_status(struct publisher *publisher, json_t *roles)
{
	const char *keys;
	json_t *names;
	struct pe_error *err = NULL;

	json_object_foreach(json_object_get(publisher->config, "keys"), keys, names)
	{
		const char *role = strncmp(keys, "feed/", 5) ? keys : keys + 5;
		json_t *status = NULL;

		if (!err && strcmp(keys, "patch"))
			err = role_status(publisher, role, keys, &status);
		if (status)
			json_array_append_new(roles, status);
	}
	return err;
}

static void print_status(json_t *roles)
{
	static const char *const titles[] = {
		"ROLE", ">VERSION", "EXPIRES", ">DAYS", "KEYS", NULL
	};
	struct pe_table *table = pe_table_new(titles);

	for (size_t i = 0; i < json_array_size(roles); i++) {
		json_t *role = json_array_get(roles, i), *keys = json_object_get(role, "keys");
		char version[24], days[24], signers[512] = "";
		const char *cells[] = { json_string_value(json_object_get(role, "role")), version,
					json_string_value(json_object_get(role, "expires")), days,
					signers };

		snprintf(version, sizeof(version), "%lld",
			 (long long)json_integer_value(json_object_get(role, "version")));
		snprintf(days, sizeof(days), "%lld",
			 (long long)json_integer_value(json_object_get(role, "days")));
		for (size_t k = 0; k < json_array_size(keys); k++) {
			size_t used = strlen(signers);

			snprintf(signers + used, sizeof(signers) - used, "%s%s", k ? " " : "",
				 json_string_value(json_array_get(keys, k)));
		}
		pe_table_row(table, cells);
	}
	pe_table_print_and_free(table);
}

/* Words of a list, blank between, the first @most of them, each of at most @size letters. */
static char *some_words(const json_t *list, size_t most, int size)
{
	char *text = NULL;
	size_t room, count = json_array_size(list);
	FILE *out = open_memstream(&text, &room);

	for (size_t i = 0; out && i < count && i < most; i++)
		fprintf(out, "%s%.*s", i ? " " : "", size,
			json_string_value(json_array_get(list, i)));
	if (out && count > most)
		fprintf(out, " and %zu more", count - most);
	if (out)
		fclose(out);
	return text;
}

/* What of it hosts know, and whether they are to take it. */
static char *state_of_patch(const json_t *patch)
{
	const char *blocked = json_string_value(json_object_get(patch, "blocked"));
	const char *published = json_string_value(json_object_get(patch, "published"));
	bool known = strcmp(published, "yes") == 0;
	char *text = NULL;

	if (asprintf(&text, "%s%s%s%s",
		     blocked ? "blocked"
		     : known ? "published"
			     : "",
		     known     ? ""
		     : blocked ? ", not published yet"
			       : "not published yet",
		     blocked ? ": " : "", blocked ? blocked : "") < 0)
		return NULL;
	return text;
}

static void print_patches(const json_t *patches)
{
	static const char *const titles[] = { "PATCH", ">LEVEL",   "FEED",   "PRODUCT",	  "~BUILDS",
					      "~CVES", "RELEASED", "~STATE", "SIGNED BY", NULL };
	enum { BUILDS = 4, BUILD_LETTERS = 12, CVES = 16, CVE_LETTERS = 32 };
	struct pe_table *table = pe_table_new(titles);
	const json_t *patch;
	size_t i;

	json_array_foreach(patches, i, patch)
	{
		const json_t *cves = json_object_get(patch, "cves");
		const char *signer = json_string_value(json_object_get(patch, "signed_by"));
		pe_auto_free char *builds =
			some_words(json_object_get(patch, "builds"), BUILDS, BUILD_LETTERS);
		pe_auto_free char *fixes = some_words(cves, CVES, CVE_LETTERS);
		pe_auto_free char *state = state_of_patch(patch);
		char level[24];

		snprintf(level, sizeof(level), "%lld",
			 (long long)json_integer_value(json_object_get(patch, "level")));
		pe_table_row(table,
			     (const char *const[]){
				     json_string_value(json_object_get(patch, "name")), level,
				     json_string_value(json_object_get(patch, "feed")),
				     json_string_value(json_object_get(patch, "product")), builds,
				     json_array_size(cves) ? fixes : NULL,
				     json_string_value(json_object_get(patch, "released")), state,
				     signer ? signer : "nobody" });
	}
	pe_table_print_and_free(table);
	json_array_foreach(patches, i, patch)
	{
		const char *wrong = json_string_value(json_object_get(patch, "signature_error"));

		if (wrong)
			printf("%s, level %lld: %s\n",
			       json_string_value(json_object_get(patch, "name")),
			       (long long)json_integer_value(json_object_get(patch, "level")),
			       wrong);
	}
}

struct pe_error *care_repo_status(struct care_repo_options *options)
{
	auto_publisher struct publisher *publisher = NULL;
	repo_auto_json json_t *roles = json_array(), *patches = NULL;
	struct pe_error *err = open_repo(options, &publisher);

	if (!err)
		err = collect_status(publisher, roles);
	if (!err)
		err = publisher_patches(publisher, &patches);
	if (err)
		return err;
	if (options->json) {
		pe_cli_json(json_pack("{s:O, s:I, s:O}", "roles", roles, "targets",
				      (json_int_t)json_object_size(publisher->catalogue), "patches",
				      patches));
		return NULL;
	}
	if (json_array_size(roles))
		print_status(roles);
	else
		puts("nothing is published yet: care-repo publish");
	putchar('\n');
	if (json_array_size(patches))
		print_patches(patches);
	else
		puts("no patch has been added yet: care-repo add");
	return NULL;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the metadata should say, from configuration and catalogue.
 *
 * A feed is a tree of roles by the build-ids' leading digits: a role with many patches delegates
 * to one role a next digit ("main" -> "main-7" -> "main-7a"), so that a host fetches the few small
 * roles on the way to its own build-id, however many patches there are. The tree depends on the
 * catalogue alone, which only grows: a role that was split stays split.
 */
#include <string.h>

#include "agent/repo/json.h"
#include "agent/repo/publisher.h"
#include "build/text.h"
#include "engine/cleanup.h"

enum {
	LEAF_PATCHES = 48, /* a role with more is split, unless they are all of one build */
	MAX_DIGITS = 16,
};

#define SPEC_VERSION "1.0.34"

/* ---- root and targets ---- */

static json_t *new_body(const char *type)
{
	return json_pack("{s:s, s:s}", "_type", type, "spec_version", SPEC_VERSION);
}

struct pe_error *publisher_root_body(struct publisher *publisher, json_t **ret)
{
	static const char *const roles[] = { "root", "targets", "snapshot", "timestamp" };
	repo_auto_json json_t *body = new_body("root"), *keys = json_object(),
			      *by_role = json_object();
	struct pe_error *err = NULL;

	for (size_t i = 0; !err && i < sizeof(roles) / sizeof(*roles); i++) {
		json_t *keyids;

		err = publisher_put_keys(publisher, roles[i], keys, &keyids);
		if (!err)
			json_object_set_new(by_role, roles[i],
					    json_pack("{s:o, s:i}", "keyids", keyids, "threshold",
						      publisher_threshold(publisher, roles[i])));
	}
	if (err)
		return err;
	json_object_set_new(body, "consistent_snapshot", json_true());
	json_object_set(body, "keys", keys);
	json_object_set(body, "roles", by_role);
	*ret = pe_steal(body);
	return NULL;
}

/* Adds the delegation of @pattern to @name, signed by the keys of feed role @role. */
static struct pe_error *delegate(struct publisher *publisher, const char *role, const char *name,
				 char *pattern, json_t *keys, json_t *roles)
{
	pe_auto_free char *owned = pattern;
	json_t *keyids;
	struct pe_error *err =
		pattern ? publisher_put_keys(publisher, role, keys, &keyids) : pe_error_nomem();

	if (!err)
		json_array_append_new(roles,
				      json_pack("{s:o, s:s, s:[s], s:b, s:i}", "keyids", keyids,
						"name", name, "paths", owned, "terminating", true,
						"threshold", publisher_threshold(publisher, role)));
	return err;
}

static json_t *with_delegations(json_t *body, json_t *keys, json_t *roles)
{
	json_object_set_new(body, "delegations",
			    json_pack("{s:o, s:o}", "keys", keys, "roles", roles));
	return body;
}

struct pe_error *publisher_targets_body(struct publisher *publisher, json_t **ret)
{
	json_t *body = new_body("targets"), *keys = json_object(), *roles = json_array(), *names;
	struct pe_error *err = NULL;
	const char *role;

	json_object_set_new(body, "targets", json_object());
	json_object_foreach(json_object_get(publisher->config, "keys"), role, names)
	{
		const char *feed = role + strlen("feed/");

		if (!err && pe_starts_with(role, "feed/"))
			err = delegate(publisher, role, feed, pe_format("%s/*/*/*", feed), keys,
				       roles);
	}
	*ret = with_delegations(body, keys, roles);
	if (err)
		json_decref(pe_steal(*ret));
	return err;
}

/* ---- a feed's tree ---- */

struct leaf {
	const char *path, *build_id; /* borrowed from the catalogue */
	json_t *entry;
};

struct feed {
	struct publisher *publisher;
	const char *name;
	char *role;	     /* "feed/NAME" */
	struct leaf *leaves; /* sorted by build-id */
	json_t *roles;	     /* result */
};

static int by_build_id(const void *a, const void *b)
{
	const struct leaf *x = a, *y = b;
	int order = strcmp(x->build_id, y->build_id);

	return order ? order : strcmp(x->path, y->path);
}

/* All entries of the feed, sorted; their count, or -1 without memory. */
static ssize_t collect(struct feed *feed)
{
	size_t prefix = strlen(feed->name), count = 0;
	const char *path;
	json_t *entry;

	feed->leaves =
		calloc(json_object_size(feed->publisher->catalogue) + 1, sizeof(*feed->leaves));
	if (!feed->leaves)
		return -1;
	json_object_foreach(feed->publisher->catalogue, path, entry)
	{
		const char *product = path + prefix + 1, *slash;

		if (strncmp(path, feed->name, prefix) || path[prefix] != '/' ||
		    !(slash = strchr(product, '/')))
			continue;
		feed->leaves[count++] = (struct leaf){ path, slash + 1, entry };
	}
	qsort(feed->leaves, count, sizeof(*feed->leaves), by_build_id);
	return (ssize_t)count;
}

static bool one_build(const struct leaf *leaves, size_t count)
{
	const char *first = leaves[0].build_id, *last = leaves[count - 1].build_id;
	size_t length = strcspn(first, "/") + 1;

	return !strncmp(first, last, length);
}

static char *role_name(const struct feed *feed, const char *digits, int depth)
{
	return depth ? pe_format("%s-%.*s", feed->name, depth, digits) : strdup(feed->name);
}

static struct pe_error *add_node(struct feed *feed, const struct leaf *leaves, size_t count,
				 int depth);

/* One child for each next digit that occurs. */
static struct pe_error *add_children(struct feed *feed, const struct leaf *leaves, size_t count,
				     int depth, json_t *keys, json_t *roles)
{
	struct pe_error *err = NULL;

	for (size_t begin = 0, end; !err && begin < count; begin = end) {
		const char *digits = leaves[begin].build_id;
		pe_auto_free char *name = role_name(feed, digits, depth + 1);

		for (end = begin + 1; end < count; end++)
			if (leaves[end].build_id[depth] != digits[depth])
				break;
		err = name ? delegate(feed->publisher, feed->role, name,
				      pe_format("%s/*/%.*s*/*", feed->name, depth + 1, digits),
				      keys, roles)
			   : pe_error_nomem();
		if (!err)
			err = add_node(feed, leaves + begin, end - begin, depth + 1);
	}
	return err;
}

static struct pe_error *add_node(struct feed *feed, const struct leaf *leaves, size_t count,
				 int depth)
{
	pe_auto_free char *name = role_name(feed, count ? leaves[0].build_id : "", depth);
	repo_auto_json json_t *body = new_body("targets");
	json_t *targets = json_object();
	struct pe_error *err = NULL;

	json_object_set_new(body, "targets", targets);
	if (count <= LEAF_PATCHES || depth == MAX_DIGITS || one_build(leaves, count)) {
		for (size_t i = 0; i < count; i++)
			json_object_set(targets, leaves[i].path, leaves[i].entry);
	} else {
		json_t *keys = json_object(), *roles = json_array();

		err = add_children(feed, leaves, count, depth, keys, roles);
		with_delegations(body, keys, roles);
	}
	if (!err && (!name || json_object_set(feed->roles, name, body)))
		err = pe_error_nomem();
	return err;
}

struct pe_error *publisher_feed_roles(struct publisher *publisher, const char *name, json_t **ret)
{
	struct feed feed = { .publisher = publisher, .name = name, .roles = json_object() };
	ssize_t count = collect(&feed);
	struct pe_error *err = NULL;

	feed.role = pe_format("feed/%s", name);
	if (count < 0 || !feed.role)
		err = pe_error_nomem();
	else
		err = add_node(&feed, feed.leaves, (size_t)count, 0);
	free(feed.role);
	free(feed.leaves);
	if (err)
		json_decref(pe_steal(feed.roles));
	*ret = feed.roles;
	return err;
}

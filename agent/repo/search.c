/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Search through delegations (specification 5.6.7): pre-order, depth first, in the order in which
 * the delegator lists its roles; each role once; a terminating delegation that covers the path
 * ends what is behind it. A list walks the same way for a path directly below the prefix.
 */
#include <string.h>

#include "agent/repo/client.h"
#include "agent/repo/names.h"
#include "engine/cleanup.h"

static void drop_visits(struct tuf_client *client)
{
	while (client->visits) {
		struct visit *visit = client->visits;

		client->visits = visit->next;
		free(visit);
	}
}

void client_search_clear(struct tuf_client *client)
{
	drop_visits(client);
	free(pe_steal(client->wanted));
	free(pe_steal(client->found));
	client->found_count = 0;
	client->visited = 0;
}

static struct pe_error *begin(struct tuf_client *client, const char *wanted, bool prefix)
{
	if (client->step != STEP_READY)
		return pe_error_new(PE_ERR_INTERNAL, "a search needs a finished refresh");
	client_search_clear(client);
	client->search++;
	client->prefix = prefix;
	client->wanted = strdup(wanted);
	client->visits = calloc(1, sizeof(*client->visits));
	if (!client->wanted || !client->visits)
		return pe_error_nomem();
	client->visits->name = "targets";
	client->step = STEP_SEARCH;
	return NULL;
}

struct pe_error *tuf_find(struct tuf_client *client, const char *path)
{
	return begin(client, path, false);
}

struct pe_error *tuf_list(struct tuf_client *client, const char *prefix)
{
	if (!*prefix || prefix[strlen(prefix) - 1] != '/')
		return pe_error_new(PE_ERR_USAGE, "\"%s\" is no folder of targets", prefix);
	return begin(client, prefix, true);
}

/* ---- what a role has ---- */

static struct pe_error *add_found(struct tuf_client *client, struct loaded_role *role,
				  const char *path, json_t *entry)
{
	struct found_target *more;

	for (size_t i = 0; i < client->found_count; i++)
		if (!strcmp(client->found[i].path, path))
			return NULL; /* a role trusted more has said what it is */
	more = reallocarray(client->found, client->found_count + 1, sizeof(*more));
	if (!more)
		return pe_error_nomem();
	client->found = more;
	client->found[client->found_count++] =
		(struct found_target){ .path = path, .entry = entry, .role = role };
	return NULL;
}

/*
 * The walk followed a probe path; a listed path must be covered by every delegation on the way, so
 * that a role trusted with one path below the prefix cannot speak for another.
 */
static bool speaks_for(const struct loaded_role *role, const char *path)
{
	for (; role->via; role = role->via)
		if (!repo_delegated(tuf_delegation(role->via->metadata, role->name), path))
			return false;
	return true;
}

static struct pe_error *collect(struct tuf_client *client, struct loaded_role *role)
{
	json_t *targets = json_object_get(role->metadata->body, "targets"), *entry;
	struct pe_error *err = NULL;
	const char *path;

	if (!client->prefix) {
		const char *key;

		/* The key's own memory lives as long as the metadata do. */
		entry = json_object_get(targets, client->wanted);
		if (!entry)
			return NULL;
		key = json_object_iter_key(json_object_iter_at(targets, client->wanted));
		return add_found(client, role, key, entry);
	}
	json_object_foreach(targets, path, entry)
	{
		if (!err && !strncmp(path, client->wanted, strlen(client->wanted)) &&
		    speaks_for(role, path))
			err = add_found(client, role, path, entry);
	}
	return err;
}

/* ---- the walk ---- */

/* Does the delegation cover the path, or a path directly below the prefix? */
static bool covers(const struct tuf_client *client, const json_t *delegation)
{
	pe_auto_free char *probe = NULL;

	if (!client->prefix)
		return repo_delegated(delegation, client->wanted);
	return asprintf(&probe, "%s-", client->wanted) > 0 && repo_delegated(delegation, probe);
}

/* Puts the roles that @role delegates the path to before all others that wait. */
static struct pe_error *push_delegations(struct tuf_client *client, struct loaded_role *role)
{
	json_t *list =
		json_object_get(json_object_get(role->metadata->body, "delegations"), "roles");
	struct visit *first = NULL, **end = &first;
	struct pe_error *err = NULL;
	bool terminated = false;

	for (size_t i = 0; !err && !terminated && i < json_array_size(list); i++) {
		json_t *delegation = json_array_get(list, i);

		if (!covers(client, delegation))
			continue;
		*end = calloc(1, sizeof(**end));
		if (!*end) {
			err = pe_error_nomem();
			break;
		}
		(*end)->name = json_string_value(json_object_get(delegation, "name"));
		(*end)->parent = role;
		end = &(*end)->next;
		terminated = json_is_true(json_object_get(delegation, "terminating"));
	}
	if (terminated)
		drop_visits(client);
	*end = client->visits;
	client->visits = first;
	return err;
}

/* Looks at a role that is loaded and takes it from the stack. */
static struct pe_error *visit_role(struct tuf_client *client, struct loaded_role *role)
{
	struct visit *visit = client->visits;
	struct pe_error *err;

	role->search = client->search;
	role->via = visit->parent;
	client->visits = visit->next;
	free(visit);
	client->visited++;
	err = collect(client, role);
	if (!err && !client->prefix && client->found_count)
		drop_visits(client);
	else if (!err)
		err = push_delegations(client, role);
	return err;
}

/* Takes what was visited already from the top of the stack: delegations may form circles. */
static void skip_visited(struct tuf_client *client)
{
	while (client->visits) {
		struct visit *visit = client->visits;
		struct loaded_role *role = client_role(client, visit->name);

		if (!role || role->search != client->search)
			return;
		client->visits = visit->next;
		free(visit);
	}
}

struct pe_error *client_search_next(struct tuf_client *client)
{
	struct loaded_role *role;

	skip_visited(client);
	if (!client->visits || client->visited > client->limits.delegations) {
		drop_visits(client);
		client->step = STEP_READY;
		return NULL;
	}

	struct pe_error *err =
		client_role_load(client, client->visits->name, client->visits->parent, &role);

	return err || !role ? err : visit_role(client, role);
}

struct pe_error *client_search_answer(struct tuf_client *client, const struct tuf_reply *reply)
{
	struct visit *visit = client->visits;
	struct loaded_role *role;
	struct pe_error *err = client_role_answer(client, visit->name, visit->parent, reply, &role);

	return err ? err : visit_role(client, role);
}

/* ---- what was found ---- */

size_t tuf_target_count(const struct tuf_client *client)
{
	return client->step == STEP_READY ? client->found_count : 0;
}

struct pe_error *tuf_target(const struct tuf_client *client, size_t index, struct tuf_target *ret)
{
	const struct found_target *found;

	if (index >= tuf_target_count(client))
		return pe_error_new(PE_ERR_INTERNAL, "no target %zu was found", index);
	found = &client->found[index];
	*ret = (struct tuf_target){
		.path = found->path,
		.length = (uint64_t)json_integer_value(json_object_get(found->entry, "length")),
		.hashes = json_object_get(found->entry, "hashes"),
		.custom = json_object_get(found->entry, "custom"),
		.role = found->role->name,
	};
	return NULL;
}

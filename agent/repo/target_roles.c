/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Roles of targets: the top-level one and those that it delegates to, from session, disk or server.
 */
#include "agent/repo/client.h"

#include <string.h>

#include "agent/repo/json.h"
#include "agent/repo/names.h"
#include "engine/cleanup.h"

static struct pe_error *role_meta(const struct tuf_client *client, const char *name, json_t **ret)
{
	*ret = tuf_meta(client->snapshot, name);
	if (*ret)
		return NULL;
	return pe_error_new(PE_ERR_POLICY, "the snapshot does not name role %s", name);
}

static struct pe_error *verify_role(const struct tuf_client *client, const struct tuf_metadata *md,
				    const char *name, const struct loaded_role *parent)
{
	if (!parent)
		return client_verify_top(client, md, name);

	json_t *delegations = json_object_get(parent->metadata->body, "delegations");

	return tuf_metadata_verify(md, json_object_get(delegations, "keys"),
				   tuf_delegation(parent->metadata, name), name);
}

/* All that makes these bytes the targets role @name, for which @parent vouches. */
static struct pe_error *check_role_bytes(struct tuf_client *client, const char *name,
					 struct loaded_role *parent, const void *bytes, size_t size,
					 struct tuf_metadata **ret)
{
	tuf_auto_metadata struct tuf_metadata *md = NULL;
	json_t *meta;
	struct pe_error *err = role_meta(client, name, &meta);

	if (!err)
		err = tuf_check_bytes(meta, bytes, size, false, name);
	if (!err)
		err = tuf_metadata_parse(TUF_TARGETS, bytes, size, name, &md);
	if (err)
		return err;
	err = verify_role(client, md, name, parent);
	if (!err && md->version != tuf_meta_version(meta))
		err = pe_error_new(PE_ERR_POLICY, "%s is version %lld, the snapshot names %lld",
				   name, (long long)md->version, (long long)tuf_meta_version(meta));
	if (!err)
		err = client_expired(client, md, name);
	if (!err)
		*ret = pe_steal(md);
	return err;
}

static struct pe_error *add_role(struct tuf_client *client, const char *name,
				 struct loaded_role *parent, struct tuf_metadata **md,
				 struct loaded_role **ret)
{
	struct loaded_role *role = calloc(1, sizeof(*role));

	if (role)
		role->name = strdup(name);
	if (!role || !role->name) {
		free(role);
		return pe_error_nomem();
	}
	role->metadata = pe_steal(*md);
	role->parent = parent;
	role->next = client->roles;
	client->roles = role;
	*ret = role;
	return NULL;
}

static struct pe_error *role_file(const char *name, char **ret)
{
	*ret = repo_quote_file(name, ".json");
	if (*ret)
		return NULL;
	return pe_error_new(PE_ERR_POLICY, "the name of role %.40s… is too long", name);
}

struct loaded_role *client_role(const struct tuf_client *client, const char *name)
{
	struct loaded_role *role = client->roles;

	while (role && strcmp(role->name, name))
		role = role->next;
	return role;
}

struct pe_error *client_role_load(struct tuf_client *client, const char *name,
				  struct loaded_role *parent, struct loaded_role **ret)
{
	tuf_auto_metadata struct tuf_metadata *md = NULL;
	pe_auto_free char *file = NULL, *bytes = NULL;
	size_t size = 0;
	json_t *meta;

	*ret = client_role(client, name);
	/* What one delegator vouches for is not thereby trusted by another. */
	if (*ret)
		return (*ret)->parent == parent
			       ? NULL
			       : verify_role(client, (*ret)->metadata, name, parent);

	struct pe_error *err = role_meta(client, name, &meta);

	if (!err)
		err = role_file(name, &file);
	if (!err)
		err = repo_store_read(&client->store, file, SIZE_MAX, &bytes, &size);
	if (err)
		return err;
	if (bytes) {
		pe_auto_error struct pe_error *stale =
			check_role_bytes(client, name, parent, bytes, size, &md);

		if (!stale)
			return add_role(client, name, parent, &md, ret);
	}
	return client_ask(client, name,
			  tuf_root_consistent(client->root) ? tuf_meta_version(meta) : 0,
			  client_length_or(meta, client->limits.targets));
}

struct pe_error *client_role_answer(struct tuf_client *client, const char *name,
				    struct loaded_role *parent, const struct tuf_reply *reply,
				    struct loaded_role **ret)
{
	tuf_auto_metadata struct tuf_metadata *md = NULL;
	pe_auto_free char *file = NULL;
	struct pe_error *err = client_check_reply(client, reply);

	if (!err)
		err = check_role_bytes(client, name, parent, reply->bytes, reply->size, &md);
	if (!err)
		err = role_file(name, &file);
	if (!err)
		err = repo_store_write(&client->store, file, reply->bytes, reply->size);
	return err ? err : add_role(client, name, parent, &md, ret);
}

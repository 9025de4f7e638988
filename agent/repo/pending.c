/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Metadata that keys sign which are elsewhere: on other machines, in other hands. What lacks
 * signatures lies in DIR/pending/VERSION.ROLE.json, a file like the one to be published. It is
 * carried to the keys (care-repo sign), and back (care-repo collect, or just put into its place);
 * the next publish takes the signatures that are good and goes on when they are enough. Content
 * that changed meanwhile is signed anew.
 */
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <string.h>
#include <unistd.h>

#include "agent/repo/json.h"
#include "agent/repo/key.h"
#include "agent/repo/names.h"
#include "agent/repo/publisher.h"
#include "build/files.h"
#include "build/text.h"
#include "engine/cleanup.h"

static char *pending_path(const struct publisher *publisher, const char *role, json_int_t version)
{
	pe_auto_free char *quoted = repo_quote_url(role, "");

	return quoted ? pe_format("%s/pending/%lld.%s.json", publisher->dir, (long long)version,
				  quoted)
		      : NULL;
}

static struct pe_error *read_json(const char *path, json_t **ret)
{
	pe_auto_free char *text = NULL;
	size_t size;
	struct pe_error *err = pe_file_read(path, &text, &size);

	return err ? err : repo_json_parse(text, size, path, ret);
}

static struct pe_error *write_json(const char *path, const json_t *json)
{
	pe_auto_free char *text = json_dumps(json, JSON_INDENT(1) | JSON_SORT_KEYS);

	return text ? pe_file_write(path, text, strlen(text)) : pe_error_nomem();
}

/* ---- signatures ---- */

/* The signature of that key in @file, or NULL. */
static json_t *signature_of(const json_t *file, const json_t *id)
{
	json_t *signature;
	size_t i;

	json_array_foreach(json_object_get(file, "signatures"), i, signature)
	{
		if (json_equal(json_object_get(signature, "keyid"), id))
			return signature;
	}
	return NULL;
}

static bool verifies(const json_t *signature, const json_t *key, const char *bytes, size_t size)
{
	const char *hex = json_string_value(json_object_get(signature, "sig"));
	repo_auto_pkey EVP_PKEY *public = NULL;
	enum repo_scheme scheme;
	pe_auto_error struct pe_error *err = repo_key_from_json(key, &scheme, &public);

	return hex && !err && repo_key_verify(public, scheme, bytes, size, hex);
}

bool publisher_signed_enough(const json_t *file, const json_t *needs)
{
	json_t *need, *id;
	size_t i, k;

	json_array_foreach(needs, i, need)
	{
		json_int_t count = 0;

		json_array_foreach(json_object_get(need, "keyids"), k, id) count +=
			signature_of(file, id) != NULL;
		if (count < json_integer_value(json_object_get(need, "threshold")))
			return false;
	}
	return true;
}

/* By the keys of @names: those that @before has and that are good, those that are here. */
static struct pe_error *gather(struct publisher *publisher, const json_t *before,
			       const json_t *body, const json_t *names, json_t *signatures,
			       json_t *elsewhere)
{
	pe_auto_free char *bytes = NULL;
	size_t size, i;
	json_t *name;
	struct pe_error *err = repo_json_canonical(body, &bytes, &size);

	json_array_foreach(names, i, name)
	{
		json_t *key = NULL, *signature;

		if (!err)
			err = publisher_public_key(publisher, json_string_value(name), &key);
		signature = signature_of(before, json_object_get(key, "id"));
		if (err)
			break;
		if (signature && verifies(signature, json_object_get(key, "key"), bytes, size))
			json_array_append(signatures, signature);
		else if (publisher_key_is_here(publisher, json_string_value(name)))
			err = publisher_sign_with(publisher, json_string_value(name), bytes, size,
						  signatures);
		else
			json_array_append(elsewhere, name);
	}
	return err;
}

/* ---- publishing ---- */

/* What lies there for the same content, with time left; else NULL. */
static json_t *usable(const char *path, const json_t *body, const char *soon)
{
	repo_auto_json json_t *file = NULL, *bare = NULL;
	json_t *its = NULL;
	const char *expires;
	pe_auto_error struct pe_error *err = pe_file_exists(path) ? read_json(path, &file) : NULL;

	if (err || !file)
		return NULL;
	its = json_object_get(file, "signed");
	expires = json_string_value(json_object_get(its, "expires"));
	bare = json_copy(its);
	json_object_set(bare, "expires", json_object_get(body, "expires"));
	if (!expires || strcmp(expires, soon) < 0 || !json_equal(bare, body))
		return NULL;
	return pe_steal(file);
}

static struct pe_error *lacking(const char *path, const json_t *body, const json_t *signatures,
				const json_t *elsewhere)
{
	pe_auto_free char *names = strdup("");

	for (size_t i = 0; names && i < json_array_size(elsewhere); i++) {
		char *longer = pe_format("%s%s%s", names, i ? ", " : "",
					 json_string_value(json_array_get(elsewhere, i)));

		free(names);
		names = longer;
	}
	return pe_error_new(PE_ERR_HELD,
			    "%s version %lld lacks signatures: it has %zu, and these keys are not "
			    "here: %s. Let care-repo sign %s where they are, then publish again",
			    json_string_value(json_object_get(body, "_type")),
			    (long long)json_integer_value(json_object_get(body, "version")),
			    json_array_size(signatures), names ? names : "", path);
}

struct pe_error *publisher_sign_enough(struct publisher *publisher, const char *role,
				       const json_t *body, const json_t *names, const json_t *needs,
				       const char *soon, char **text)
{
	pe_auto_free char *folder = publisher_path(publisher, "pending");
	pe_auto_free char *path =
		pending_path(publisher, role, json_integer_value(json_object_get(body, "version")));
	repo_auto_json json_t *signatures = json_array(), *elsewhere = json_array();
	repo_auto_json json_t *before = path ? usable(path, body, soon) : NULL, *file = NULL;
	const json_t *content = before ? json_object_get(before, "signed") : body;
	struct pe_error *err =
		folder && path ? gather(publisher, before, content, names, signatures, elsewhere)
			       : pe_error_nomem();

	*text = NULL;
	if (err)
		return err;
	file = json_pack("{s:O, s:O}", "signatures", signatures, "signed", content);
	if (publisher_signed_enough(file, needs)) {
		*text = file ? json_dumps(file, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
		unlink(path);
		return *text ? NULL : pe_error_nomem();
	}
	if (!json_array_size(elsewhere))
		return pe_error_new(PE_ERR_USAGE,
				    "%s has fewer keys than its threshold asks for: care-repo key, "
				    "or threshold",
				    role);
	err = pe_dir_make(folder);
	if (!err)
		err = write_json(path, file);
	return err ? err : lacking(path, content, signatures, elsewhere);
}

/* ---- carrying ---- */

/* Adds to the pending file of the same role and version what @path has been signed with. */
struct pe_error *publisher_collect(struct publisher *publisher, const char *path, size_t *added)
{
	repo_auto_json json_t *carried = NULL, *here = NULL;
	const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	pe_auto_free char *place = pe_format("%s/pending/%s", publisher->dir, base);
	json_t *signature;
	size_t i;
	struct pe_error *err = place ? read_json(path, &carried) : pe_error_nomem();

	*added = 0;
	if (!err && !pe_file_exists(place))
		err = pe_error_new(PE_ERR_NOTHING, "nothing named %s waits for signatures", base);
	if (!err)
		err = read_json(place, &here);
	if (!err &&
	    !json_equal(json_object_get(carried, "signed"), json_object_get(here, "signed")))
		err = pe_error_new(PE_ERR_POLICY,
				   "%s is not what waits for signatures now: sign %s anew", path,
				   place);
	json_array_foreach(json_object_get(carried, "signatures"), i, signature)
	{
		if (err || signature_of(here, json_object_get(signature, "keyid")))
			continue;
		json_array_append(json_object_get(here, "signatures"), signature);
		++*added;
	}
	return err ? err : write_json(place, here);
}

struct pe_error *publisher_sign_file(const char *path, EVP_PKEY *key, bool dry_run, json_t **ret)
{
	repo_auto_json json_t *file = NULL, *public = NULL, *id = NULL;
	pe_auto_free char *bytes = NULL, *hex = NULL;
	char text[65];
	size_t size;
	struct pe_error *err = read_json(path, &file);
	json_t *body = json_object_get(file, "signed");

	*ret = NULL;
	if (!err && (!json_is_object(body) || !json_is_array(json_object_get(file, "signatures"))))
		err = pe_error_new(PE_ERR_FORMAT, "%s is no metadata", path);
	if (!err)
		err = repo_key_to_json(key, &public);
	if (!err)
		err = repo_key_id(public, text);
	if (!err)
		err = repo_json_canonical(body, &bytes, &size);
	if (!err)
		err = repo_key_sign(key, bytes, size, &hex);
	if (err)
		return err;
	id = json_string(text);
	if (signature_of(file, id))
		return pe_error_new(PE_ERR_NOTHING, "%s has this key's signature already", path);
	json_array_append_new(json_object_get(file, "signatures"),
			      json_pack("{s:O, s:s}", "keyid", id, "sig", hex));
	if (!dry_run)
		err = write_json(path, file);
	*ret = err ? NULL : json_incref(body);
	return err;
}

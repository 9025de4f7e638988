/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The target store; see build/store.h. */
#include "build/store.h"
#include "build/files.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>

#define STORE_FORMAT 1

/* The string members of a target by their names in target.json. */
static const struct {
	const char *key;
	size_t offset;
	bool optional;
} members[] = {
	{ "name", offsetof(struct pe_build_target, name), false },
	{ "version", offsetof(struct pe_build_target, version), false },
	{ "build_id", offsetof(struct pe_build_target, build_id), false },
	{ "provider", offsetof(struct pe_build_target, provider), false },
	{ "product", offsetof(struct pe_build_target, product), false },
	{ "source", offsetof(struct pe_build_target, source), false },
	{ "compile_commands", offsetof(struct pe_build_target, database), false },
	{ "binary", offsetof(struct pe_build_target, binary), false },
	{ "symbols", offsetof(struct pe_build_target, symbols), true },
	{ "root", offsetof(struct pe_build_target, root), true },
	{ "source_date_epoch", offsetof(struct pe_build_target, epoch), true },
	{ "tree", offsetof(struct pe_build_target, tree), true },
};

#define MEMBER_COUNT (sizeof(members) / sizeof(*members))

static char **member(const struct pe_build_target *target, size_t i)
{
	return (char **)((char *)target + members[i].offset);
}

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

static void cleanup_target(struct pe_build_target **target)
{
	pe_build_target_free(*target);
}

void pe_build_target_free(struct pe_build_target *target)
{
	if (!target)
		return;
	for (size_t i = 0; i < MEMBER_COUNT; i++)
		free(*member(target, i));
	free(target->dir);
	free(target->program);
	free(target);
}

char *pe_store_dir(void)
{
	const char *dir = getenv("CARE_BUILD_CACHE");

	return strdup(dir && *dir ? dir : "/var/cache/dbcare/build");
}

bool pe_name_valid(const char *name)
{
	static const char letters[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._+-";

	return *name && !strchr("._+-", *name) && strlen(name) <= 64 &&
	       name[strspn(name, letters)] == 0;
}

/* A file of the target @name in the store. */
static char *store_path(const char *name, const char *file)
{
	pe_auto_free char *dir = pe_store_dir();

	return dir ? pe_format("%s/%s%s%s", dir, name, *file ? "/" : "", file) : NULL;
}

static struct pe_error *check_name(const char *name)
{
	if (pe_name_valid(name))
		return NULL;
	return pe_error_new(PE_ERR_USAGE,
			    "\"%s\" is not a valid name (letters, digits, . _ + -, at most 64)",
			    name);
}

static struct pe_error *no_such_target(const char *name, bool incomplete)
{
	if (incomplete)
		return pe_error_new(PE_ERR_NO_TARGET,
				    "the target %s is not complete: its preparation was stopped or "
				    "failed (`care-build target add` again, or `target remove %s`)",
				    name, name);
	return pe_error_new(PE_ERR_NO_TARGET,
			    "there is no target %s (`care-build target list` shows those there "
			    "are)",
			    name);
}

struct pe_error *pe_store_load(const char *name, struct pe_build_target **ret)
{
	struct pe_error *err = check_name(name);
	pe_auto_free char *dir = store_path(name, "");
	pe_auto_free char *path = store_path(name, "target.json");
	json_error_t why;

	if (err)
		return err;
	if (!dir || !path)
		return pe_error_nomem();
	if (!pe_file_exists(path))
		return no_such_target(name, pe_file_exists(dir));

	__attribute__((cleanup(cleanup_json))) json_t *root = json_load_file(path, 0, &why);
	__attribute__((cleanup(cleanup_target))) struct pe_build_target *target =
		calloc(1, sizeof(*target));

	if (!target)
		return pe_error_nomem();
	if (!root || json_integer_value(json_object_get(root, "format")) != STORE_FORMAT)
		return pe_error_new(PE_ERR_FORMAT,
				    "%s is damaged or of another version: remove the target and "
				    "add it again",
				    path);
	for (size_t i = 0; i < MEMBER_COUNT; i++) {
		const char *text = json_string_value(json_object_get(root, members[i].key));

		if (!text && !members[i].optional)
			return pe_error_new(PE_ERR_FORMAT, "%s has no \"%s\"", path,
					    members[i].key);
		*member(target, i) = text ? strdup(text) : NULL;
		if (text && !*member(target, i))
			return pe_error_nomem();
	}
	target->immutable = json_is_true(json_object_get(root, "immutable"));
	target->dir = pe_steal(dir);
	*ret = pe_steal(target);
	return NULL;
}

struct pe_error *pe_store_list(struct pe_strv *ret)
{
	pe_auto_free char *dir = pe_store_dir();
	pe_auto_strv struct pe_strv names = { 0 };

	if (!dir)
		return pe_error_nomem();

	struct pe_error *err = pe_dir_list(dir, &names);

	for (size_t i = 0; !err && i < names.count; i++) {
		pe_auto_free char *path = store_path(names.items[i], "target.json");

		if (!path)
			return pe_error_nomem();
		if (pe_file_exists(path) && !pe_strv_add(ret, names.items[i]))
			return pe_error_nomem();
	}
	return err;
}

struct pe_error *pe_store_lock(const char *name, int *lock_fd)
{
	struct pe_error *err = check_name(name);
	pe_auto_free char *dir = store_path(name, "");
	pe_auto_free char *path = store_path(name, "lock");

	if (err)
		return err;
	if (!dir || !path)
		return pe_error_nomem();
	err = pe_dir_make(dir);
	if (err)
		return err;

	pe_auto_fd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);

	if (fd < 0)
		return pe_error_errno(errno, "cannot open %s", path);
	if (flock(fd, LOCK_EX | LOCK_NB))
		return errno == EWOULDBLOCK
			       ? pe_error_new(PE_ERR_BUSY,
					      "another care-build works on the target %s", name)
			       : pe_error_errno(errno, "cannot lock %s", path);
	*lock_fd = fd;
	fd = -1;
	return NULL;
}

json_t *pe_build_target_json(const struct pe_build_target *target)
{
	json_t *root = json_object();

	for (size_t i = 0; i < MEMBER_COUNT; i++) {
		const char *text = *member(target, i);

		if (text)
			json_object_set_new(root, members[i].key, json_string(text));
	}
	return root;
}

struct pe_error *pe_store_commit(const struct pe_build_target *target)
{
	pe_auto_free char *path = store_path(target->name, "target.json");
	__attribute__((cleanup(cleanup_json))) json_t *root = pe_build_target_json(target);

	json_object_set_new(root, "format", json_integer(STORE_FORMAT));
	json_object_set_new(root, "immutable", json_boolean(target->immutable));

	pe_auto_free char *text = json_dumps(root, JSON_INDENT(2) | JSON_PRESERVE_ORDER);

	if (!path || !text)
		return pe_error_nomem();
	return pe_file_write(path, text, strlen(text));
}

struct pe_error *pe_store_remove(const char *name)
{
	struct pe_error *err = check_name(name);
	pe_auto_free char *dir = store_path(name, "");
	pe_auto_free char *json = store_path(name, "target.json");
	pe_auto_fd int lock = -1;

	if (err)
		return err;
	if (!dir || !json)
		return pe_error_nomem();
	if (!pe_file_exists(dir))
		return no_such_target(name, false);
	err = pe_store_lock(name, &lock);
	if (err)
		return err;
	/* First what makes it a target: a removal that is stopped leaves an incomplete one. */
	if (unlink(json) && errno != ENOENT)
		return pe_error_errno(errno, "cannot remove %s", json);
	return pe_tree_remove(dir);
}

struct pe_error *pe_build_target_image(const struct pe_build_target *target, struct pe_image **ret)
{
	struct pe_image *image = NULL;
	struct pe_error *err = pe_image_open(target->binary, &image);

	if (err || !target->symbols) {
		*ret = image;
		return err;
	}

	pe_auto_free char *magic = NULL;
	size_t size;

	err = pe_file_read(target->symbols, &magic, &size);
	if (!err && size >= 4 && !memcmp(magic, "\177ELF", 4))
		err = pe_image_add_debug(image, target->symbols);
	else if (!err)
		err = pe_image_add_nm(image, target->symbols);
	if (err) {
		pe_image_close(image);
		return err;
	}
	*ret = image;
	return NULL;
}

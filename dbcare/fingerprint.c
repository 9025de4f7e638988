/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a server is, read from its memory: the build-id of the program that is mapped, and a few
 * variables that mariadbd exports for its plugins (server_version, abort_loop,
 * mysqld_server_started). They need no SQL account and cannot disagree with what runs.
 */
#include <string.h>

#include "dbcare/server.h"
#include "engine/cleanup.h"

static bool find_variable(const struct pe_target *target, const struct pe_loaded_images *images,
			  const char *name, void *buf, size_t size)
{
	struct pe_import import;
	struct pe_loaded_images program = { images->items, 1 };
	pe_auto_error struct pe_error *err =
		pe_target_find_symbol(target, &program, name, NULL, NULL, &import);

	if (err || import.is_ifunc)
		return false;
	if (import.size && import.size < size)
		size = import.size;
	err = pe_target_read(target, import.addr, buf, size);
	return !err;
}

/* A version is short and printable; anything else is another program's variable. */
static char *version_of(const char *text, size_t room)
{
	size_t size = strnlen(text, room);

	if (!size || size == room)
		return NULL;
	for (size_t i = 0; i < size; i++) {
		if (text[i] < ' ' || text[i] > '~')
			return NULL;
	}
	return strndup(text, size);
}

static void read_variables(struct dbc_server *server, const struct pe_target *target,
			   const struct pe_loaded_images *images)
{
	char version[64] = "";
	int aborting = 0, started = 0;

	if (find_variable(target, images, "server_version", version, sizeof(version)))
		server->version = version_of(version, sizeof(version));
	if (!server->version)
		return;
	if (find_variable(target, images, "abort_loop", &aborting, sizeof(aborting)))
		server->stopping = aborting != 0;
	if (find_variable(target, images, "mysqld_server_started", &started, sizeof(started)))
		server->started = started != 0;
}

struct pe_error *dbc_server_refresh(struct dbc_server *server, const struct pe_target *target)
{
	struct pe_applied_list applied;
	struct pe_leftovers leftovers;
	struct pe_error *err = pe_applied_read(target, &applied);

	if (err)
		return err;
	pe_applied_list_deinit(&server->applied);
	server->applied = applied;
	err = pe_leftovers_read(target, &leftovers);
	if (err)
		return err;
	pe_leftovers_deinit(&server->leftovers);
	server->leftovers = leftovers;
	return NULL;
}

static struct pe_error *fingerprint(struct dbc_server *server)
{
	struct pe_target *target;
	struct pe_loaded_images images;
	struct pe_error *err = pe_target_open(server->pid, &target);

	if (err)
		return err;
	err = pe_target_images(target, &images);
	if (!err) {
		if (images.count) {
			server->build_id = images.items[0].build_id;
			read_variables(server, target, &images);
		}
		pe_loaded_images_deinit(&images);
		/* The ledger is worth nothing in a process that is no server. */
		if (server->version)
			err = dbc_server_refresh(server, target);
	}
	pe_target_close(target);
	return err;
}

void dbc_fingerprint(struct dbc_server *server)
{
	pe_auto_error struct pe_error *err = fingerprint(server);

	if (err)
		server->unreadable = pe_error_text(err);
}

char **dbc_loaded_plugins(const struct pe_target *target)
{
	struct pe_loaded_images images;
	pe_auto_error struct pe_error *err = pe_target_images(target, &images);

	if (err)
		return NULL;

	size_t bytes = 0;

	for (size_t i = 0; i < images.count; i++)
		bytes += strlen(images.items[i].path) + 1;

	/* One block: the pointers, then the names. */
	char **names = calloc(1, (images.count + 1) * sizeof(*names) + bytes);
	char *text = names ? (char *)(names + images.count + 1) : NULL;
	size_t count = 0;

	for (size_t i = 0; names && i < images.count; i++) {
		const char *path = images.items[i].path;
		const char *slash = strrchr(path, '/');

		if (images.items[i].is_program || !slash || !strstr(path, "/plugin/"))
			continue;
		names[count++] = strcpy(text, slash + 1);
		text += strlen(text) + 1;
	}
	pe_loaded_images_deinit(&images);
	return names;
}

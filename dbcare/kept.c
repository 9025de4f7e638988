/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The files of the patches that are in a server; see kept.h. */
#include "dbcare/kept.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "build/files.h"
#include "dbcare/describe.h"
#include "dbcare/history.h"
#include "engine/cleanup.h"

/* STATE/kept; owned. */
static struct pe_error *kept_dir(char **ret)
{
	const char *state;
	struct pe_error *err = dbc_state_dir(&state);

	*ret = err ? NULL : pe_format("%s/kept", state);
	return err || *ret ? err : pe_error_nomem();
}

static char *name_of_server(const struct dbc_server *server)
{
	return pe_format("%d-%llu", (int)server->pid, (unsigned long long)server->start_time);
}

static char *name_of_patch(const char *name, uint32_t level)
{
	return pe_format("%s-%u.cpatch", name, level);
}

/* STATE/kept/PID-STARTTIME; owned. */
static struct pe_error *server_dir(const struct dbc_server *server, char **ret)
{
	pe_auto_free char *dir = NULL, *name = name_of_server(server);
	struct pe_error *err = kept_dir(&dir);

	*ret = !err && name ? pe_format("%s/%s", dir, name) : NULL;
	return err || *ret ? err : pe_error_nomem();
}

struct pe_error *dbc_kept_store(const struct dbc_server *server, const struct pe_patch *patch)
{
	pe_auto_free char *dir = NULL, *name = name_of_patch(patch->name, patch->level);
	pe_auto_free void *bytes = NULL;
	size_t size;
	struct pe_error *err = server_dir(server, &dir);
	pe_auto_free char *path = !err && name ? pe_format("%s/%s", dir, name) : NULL;
	pe_auto_free char *made = path ? pe_format("%s.new", path) : NULL;

	if (!err && !made)
		err = pe_error_nomem();
	if (!err)
		err = pe_dir_make(dir);
	if (!err)
		err = pe_patch_serialize(patch, &bytes, &size);
	if (!err)
		err = pe_file_write(made, bytes, size);
	if (!err && rename(made, path))
		err = pe_error_errno(errno, "cannot write %s", path);
	return err ? pe_error_wrap(err, "cannot keep the file of %s", patch->name) : NULL;
}

struct pe_error *dbc_kept_read(const struct dbc_server *server, const char *name, uint32_t level,
			       struct pe_patch **ret)
{
	pe_auto_free char *dir = NULL, *file = name_of_patch(name, level);
	struct pe_error *err = server_dir(server, &dir);
	pe_auto_free char *path = !err && file ? pe_format("%s/%s", dir, file) : NULL;

	if (err)
		return err;
	if (!path)
		return pe_error_nomem();
	if (access(path, R_OK))
		return pe_error_new(PE_ERR_NO_TARGET, "the file of %s is not kept", name);
	return pe_patch_read(path, ret);
}

/* A process that is no more, or another one that has the number of @server now. */
static bool has_ended(const struct dbc_server *server, const char *folder)
{
	pe_auto_free char *current = name_of_server(server);
	char proc[32];
	int pid;

	if (!current || sscanf(folder, "%d-", &pid) != 1)
		return false;
	if (pid == server->pid)
		return strcmp(folder, current) != 0;
	snprintf(proc, sizeof(proc), "/proc/%d", pid);
	return access(proc, F_OK) && errno == ENOENT;
}

static bool is_in_effect(const struct dbc_server *server, const char *file)
{
	for (size_t i = 0; i < server->applied.count; i++) {
		const struct pe_applied *applied = &server->applied.items[i];
		pe_auto_free char *name = name_of_patch(applied->name, applied->level);

		if (!name || (dbc_in_effect(applied) && !strcmp(name, file)))
			return true;
	}
	return false;
}

static struct pe_error *sweep_server(const struct dbc_server *server, const char *dir)
{
	pe_auto_strv struct pe_strv files = { 0 };
	struct pe_error *err = pe_dir_list(dir, &files);

	for (size_t i = 0; !err && i < files.count; i++) {
		pe_auto_free char *path = pe_format("%s/%s", dir, files.items[i]);

		if (!path)
			err = pe_error_nomem();
		else if (!is_in_effect(server, files.items[i]))
			err = pe_tree_remove(path);
	}
	if (!err && rmdir(dir) && errno != ENOENT && errno != ENOTEMPTY)
		err = pe_error_errno(errno, "cannot remove %s", dir);
	return err;
}

struct pe_error *dbc_kept_sweep(const struct dbc_server *server)
{
	pe_auto_free char *all = NULL, *own = NULL;
	pe_auto_strv struct pe_strv folders = { 0 };
	struct pe_error *err = kept_dir(&all);

	if (!err)
		err = server_dir(server, &own);
	if (!err)
		err = sweep_server(server, own);
	if (!err)
		err = pe_dir_list(all, &folders);
	for (size_t i = 0; !err && i < folders.count; i++) {
		pe_auto_free char *path = pe_format("%s/%s", all, folders.items[i]);

		if (!path)
			err = pe_error_nomem();
		else if (has_ended(server, folders.items[i]))
			err = pe_tree_remove(path);
	}
	return err;
}

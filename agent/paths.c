/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/paths.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static const char *place(const char *variable, const char *otherwise)
{
	const char *value = secure_getenv(variable);

	return value && *value ? value : otherwise;
}

const char *agent_run_dir(void)
{
	return place("DBCARE_RUN_DIR", "/run/dbcare");
}

const char *agent_state_dir(void)
{
	return place("DBCARE_STATE_DIR", "/var/lib/dbcare");
}

const char *agent_cache_dir(void)
{
	return place("DBCARE_CACHE_DIR", "/var/cache/dbcare");
}

const char *agent_conf_path(void)
{
	return place("DBCARE_CONF", "/etc/dbcare/agent.conf");
}

const char *agent_keys_dir(void)
{
	return place("DBCARE_KEYS_DIR", "/etc/dbcare/keys");
}

const char *agent_hooks_dir(void)
{
	return place("DBCARE_HOOKS_DIR", "/etc/dbcare/hooks.d");
}

const char *agent_patches_dir(void)
{
	return place("DBCARE_PATCHES_DIR", "/etc/dbcare/patches.d");
}

const char *agent_user(void)
{
	return place("DBCARE_USER", "dbcare");
}

static struct pe_error *check_folder(const char *path, const char *variable, const char *what)
{
	struct pe_error *err;

	if (faccessat(AT_FDCWD, path, R_OK | W_OK | X_OK, AT_EACCESS) == 0)
		return NULL;
	err = pe_error_errno(errno, "cannot use %s", path);
	return pe_error_wrap(
		err,
		"the agent has nowhere to keep %s: the folder must be there and belong "
		"to the user %s (systemd-tmpfiles --create makes it so; $%s names "
		"another)",
		what, agent_user(), variable);
}

struct pe_error *agent_check_folders(void)
{
	struct pe_error *err =
		check_folder(agent_state_dir(), "DBCARE_STATE_DIR", "its history and state");

	return err ? err
		   : check_folder(agent_cache_dir(), "DBCARE_CACHE_DIR", "the patches it fetches");
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/paths.h"

#include <stdlib.h>

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

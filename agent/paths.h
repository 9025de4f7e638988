/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the agent's parts find each other and their files. Each place has a variable, so that a
 * second agent can run beside the installed one; programs that gain rights ignore them.
 */
#ifndef AGENT_PATHS_H
#define AGENT_PATHS_H

#include "engine/error.h"

const char *agent_run_dir(void);     /* $DBCARE_RUN_DIR, /run/dbcare: sockets */
const char *agent_state_dir(void);   /* $DBCARE_STATE_DIR, /var/lib/dbcare: history, state */
const char *agent_cache_dir(void);   /* $DBCARE_CACHE_DIR, /var/cache/dbcare: patches */
const char *agent_conf_path(void);   /* $DBCARE_CONF, /etc/dbcare/agent.conf */
const char *agent_keys_dir(void);    /* $DBCARE_KEYS_DIR, /etc/dbcare/keys: who may sign */
const char *agent_hooks_dir(void);   /* $DBCARE_HOOKS_DIR, /etc/dbcare/hooks.d */
const char *agent_patches_dir(void); /* $DBCARE_PATCHES_DIR, /etc/dbcare/patches.d: own ones */
const char *agent_user(void);	     /* $DBCARE_USER, dbcare: whom the agent runs as */

/* Whether the agent can keep what it must in the state and the cache; names the folder. */
struct pe_error *agent_check_folders(void) pe_must_check;

#endif

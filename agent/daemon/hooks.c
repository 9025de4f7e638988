/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hooks: executable files in HOOKS_DIR/WHEN, in the order of their names, WHEN being pre-apply,
 * post-apply or on-hold. They run as the agent does, without rights, and are told by variables:
 * DBCARE_EVENT, DBCARE_PID, DBCARE_TARGET, DBCARE_PATCH, DBCARE_REASON. A pre-apply hook that ends
 * with another status than 0, or not at all, vetoes.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/daemon/agent.h"
#include "agent/paths.h"
#include "engine/cleanup.h"

enum { HOOK_MS = 60000, VARIABLES = 7, VARIABLE_ROOM = 512 };

struct run {
	uv_process_t process;
	struct agent_task *task;
	bool ended;
	int64_t status;
	int signal;
};

static void on_exit_of_hook(uv_process_t *process, int64_t status, int signal)
{
	struct run *run = process->data;

	run->ended = true;
	run->status = status;
	run->signal = signal;
	agent_task_wake(run->task);
}

static void on_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static struct pe_error *veto(const char *path, const char *fmt, int number)
{
	char why[64];

	snprintf(why, sizeof(why), fmt, number);
	return pe_error_new(PE_ERR_POLICY, "hook %s %s", path, why);
}

static struct pe_error *wait_for(struct run *run, const char *path)
{
	uint64_t until = uv_now(agent_loop()) + HOOK_MS;

	while (!run->ended) {
		uint64_t now = uv_now(agent_loop());

		if (now >= until)
			break;
		agent_task_wait((int)(until - now));
	}
	if (!run->ended) {
		uv_process_kill(&run->process, SIGKILL);
		while (!run->ended)
			agent_task_wait(-1);
		return veto(path, "did not end within %d s", HOOK_MS / 1000);
	}
	if (run->signal)
		return veto(path, "was killed by signal %d", run->signal);
	return run->status ? veto(path, "ended with status %d", (int)run->status) : NULL;
}

static struct pe_error *run_hook(const char *path, char **env)
{
	struct run *run = calloc(1, sizeof(*run));
	char *args[] = { (char *)path, NULL };
	uv_stdio_container_t stdio[3] = { { .flags = UV_IGNORE },
					  { .flags = UV_INHERIT_FD, .data.fd = 2 },
					  { .flags = UV_INHERIT_FD, .data.fd = 2 } };
	uv_process_options_t options = { .exit_cb = on_exit_of_hook,
					 .file = path,
					 .args = args,
					 .env = env,
					 .stdio_count = 3,
					 .stdio = stdio };

	if (!run)
		return pe_error_nomem();
	run->task = agent_task_self();
	run->process.data = run;

	int status = uv_spawn(agent_loop(), &run->process, &options);
	struct pe_error *err = status ? pe_error_new(PE_ERR_POLICY, "hook %s cannot be run: %s",
						     path, uv_strerror(status))
				      : wait_for(run, path);

	uv_close((uv_handle_t *)&run->process, on_closed);
	return err;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* A hook that anybody could have put there decides nothing. */
static bool is_hook(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_mode & S_IXUSR &&
	       !(st.st_mode & S_IWOTH);
}

struct pe_error *agent_hooks_run(const char *when, const struct agent_target *target,
				 const char *patch, const char *reason)
{
	char texts[VARIABLES][VARIABLE_ROOM], *env[VARIABLES + 1] = { 0 }, folder[PATH_MAX];
	struct dirent **entries = NULL;
	struct pe_error *err = NULL;

	snprintf(folder, sizeof(folder), "%s/%s", agent_hooks_dir(), when);

	int count = scandir(folder, &entries, NULL, by_name);

	if (count < 0 && errno == ENOENT)
		return NULL;
	if (count < 0)
		return pe_error_errno(errno, "cannot read the hooks %s", folder);
	snprintf(texts[0], VARIABLE_ROOM, "DBCARE_EVENT=%s", when);
	snprintf(texts[1], VARIABLE_ROOM, "DBCARE_PID=%d", (int)target->pid);
	snprintf(texts[2], VARIABLE_ROOM, "DBCARE_TARGET=%s", agent_target_name(target));
	snprintf(texts[3], VARIABLE_ROOM, "DBCARE_PATCH=%s", patch ? patch : "");
	snprintf(texts[4], VARIABLE_ROOM, "DBCARE_REASON=%s", reason ? reason : "");
	snprintf(texts[5], VARIABLE_ROOM, "PATH=/usr/sbin:/usr/bin:/sbin:/bin");
	snprintf(texts[6], VARIABLE_ROOM, "DBCARE_PROVIDER=%s", target->provider->name);
	for (int i = 0; i < VARIABLES; i++)
		env[i] = texts[i];
	for (int i = 0; i < count; i++) {
		char path[PATH_MAX + 256];

		snprintf(path, sizeof(path), "%s/%s", folder, entries[i]->d_name);
		if (!err && entries[i]->d_name[0] != '.' && is_hook(path))
			err = run_hook(path, env);
		free(entries[i]);
	}
	free(entries);
	return err;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hooks: executable files in HOOKS_DIR/WHEN, in the order of their names, WHEN being pre-apply,
 * post-apply or on-hold. They run as the agent does, without rights, and are told by variables:
 * DBCARE_EVENT, DBCARE_PID, DBCARE_TARGET, DBCARE_PATCH, DBCARE_REASON. A pre-apply hook that ends
 * with another status than 0, or not at all, vetoes. What a hook prints goes to where the agent
 * logs, and the end of it into the message when the hook fails.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/daemon/agent.h"
#include "agent/paths.h"
#include "engine/cleanup.h"

enum {
	HOOK_MS = 60000,
	LAST_WORDS_MS = 200, /* after its end; what it has started may keep the pipe for ever */
	VARIABLES = 7,
	VARIABLE_ROOM = 512,
	HEARD = 1024,	 /* of what it printed last */
	WORDS_MOST = 300 /* of that in a message */
};

/* Freed when both the process and the pipe are closed. */
struct run {
	uv_process_t process;
	uv_pipe_t pipe;
	int open_handles;
	struct agent_task *task; /* NULL: nobody waits any more */
	bool ended, silent;	 /* silent: the pipe has ended, too */
	int64_t status;
	int signal;
	char buffer[4096];
	char heard[HEARD + 1];
	size_t heard_size;
	bool heard_more; /* than is kept */
};

static void on_closed(uv_handle_t *handle)
{
	struct run *run = handle->data;

	if (--run->open_handles == 0)
		free(run);
}

static void wake(const struct run *run)
{
	if (run->task)
		agent_task_wake(run->task);
}

static void on_exit_of_hook(uv_process_t *process, int64_t status, int signal)
{
	struct run *run = process->data;

	run->ended = true;
	run->status = status;
	run->signal = signal;
	wake(run);
}

/* ---- what it prints ---- */

static void keep(struct run *run, const char *bytes, size_t size)
{
	if (size > HEARD) {
		run->heard_more = true;
		bytes += size - HEARD;
		size = HEARD;
	}

	size_t over = run->heard_size + size > HEARD ? run->heard_size + size - HEARD : 0;

	run->heard_more |= over > 0;
	memmove(run->heard, run->heard + over, run->heard_size - over);
	run->heard_size -= over;
	memcpy(run->heard + run->heard_size, bytes, size);
	run->heard_size += size;
}

static void give_room(uv_handle_t *handle, size_t size, uv_buf_t *ret)
{
	struct run *run = handle->data;

	*ret = uv_buf_init(run->buffer, sizeof(run->buffer));
}

static void on_printed(uv_stream_t *stream, ssize_t size, const uv_buf_t *buffer)
{
	struct run *run = stream->data;

	if (size < 0) {
		run->silent = true;
		uv_close((uv_handle_t *)stream, on_closed);
		wake(run);
		return;
	}
	fwrite(buffer->base, 1, (size_t)size, stderr);
	keep(run, buffer->base, (size_t)size);
}

/* Bytes of the character that begins here; 0: it is none of UTF-8, or one that controls. */
static size_t letter_size(const char *text, size_t room)
{
	unsigned char first = (unsigned char)*text;
	size_t size = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
	json_t *good;

	if (first < 0x20 || first == 0x7f || size > room)
		return 0;
	if (first == 0xc2 && (unsigned char)text[1] < 0xa0)
		return 0;
	good = json_stringn(text, size);
	json_decref(good);
	return good ? size : 0;
}

/* One line of what was heard, lines with "; " between; its end when it is too long. */
static void last_words(const struct run *run, char out[WORDS_MOST + 8])
{
	char text[3 * HEARD + 1];
	size_t used = 0, begin = 0;
	bool broken = false, blank = false;

	for (size_t i = 0; i < run->heard_size;) {
		size_t size = letter_size(run->heard + i, run->heard_size - i);

		broken |= run->heard[i] == '\n';
		blank |= !size || run->heard[i] == ' ';
		if (size && run->heard[i] != ' ') {
			const char *between = broken ? "; " : blank ? " " : "";

			if (used)
				used += (size_t)sprintf(text + used, "%s", between);
			memcpy(text + used, run->heard + i, size);
			used += size;
			broken = blank = false;
		}
		i += size ? size : 1;
	}
	text[used] = '\0';
	if (used > WORDS_MOST)
		begin = used - WORDS_MOST;
	while (((unsigned char)text[begin] & 0xc0) == 0x80)
		begin++; /* not in the middle of a character */
	snprintf(out, WORDS_MOST + 8, "%s%.*s", used && (begin || run->heard_more) ? "…" : "",
		 WORDS_MOST, text + begin);
}

static struct pe_error *veto(const struct run *run, const char *path, const char *fmt, int number)
{
	char why[64], words[WORDS_MOST + 8];

	snprintf(why, sizeof(why), fmt, number);
	last_words(run, words);
	return pe_error_new(PE_ERR_POLICY, "hook %s %s%s%s", path, why,
			    *words ? AGENT_HOOK_SAID : "", words);
}

/* ---- one hook ---- */

/* Until @done or @ms have passed. */
static void wait_until(const bool *done, uint64_t ms)
{
	uint64_t until = uv_now(agent_loop()) + ms, now;

	while (!*done && (now = uv_now(agent_loop())) < until)
		agent_task_wait((int)(until - now));
}

static struct pe_error *wait_for(struct run *run, const char *path)
{
	wait_until(&run->ended, HOOK_MS);

	bool late = !run->ended;

	if (late)
		uv_process_kill(&run->process, SIGKILL);
	while (!run->ended)
		agent_task_wait(-1);
	wait_until(&run->silent, LAST_WORDS_MS);
	if (late)
		return veto(run, path, "did not end within %d s", HOOK_MS / 1000);
	if (run->signal)
		return veto(run, path, "was killed by signal %d", run->signal);
	return run->status ? veto(run, path, "ended with status %d", (int)run->status) : NULL;
}

/* The end of a pipe that the hook writes to; -1: there is none to be had. */
static int listen_to(struct run *run)
{
	uv_file ends[2];

	if (uv_pipe(ends, UV_NONBLOCK_PIPE, 0) != 0)
		return -1;
	uv_pipe_init(agent_loop(), &run->pipe, 0);
	run->pipe.data = run;
	run->open_handles++;
	if (uv_pipe_open(&run->pipe, ends[0]) == 0 &&
	    uv_read_start((uv_stream_t *)&run->pipe, give_room, on_printed) == 0)
		return ends[1];
	close(ends[1]);
	uv_close((uv_handle_t *)&run->pipe, on_closed);
	return -1;
}

static struct pe_error *run_hook(const char *path, char **env)
{
	struct run *run = calloc(1, sizeof(*run));
	char *args[] = { (char *)path, NULL };

	if (!run)
		return pe_error_nomem();
	run->task = agent_task_self();
	run->process.data = run;
	run->open_handles = 1;

	int out = listen_to(run);
	uv_stdio_container_t to = { .flags = UV_INHERIT_FD, .data.fd = out < 0 ? 2 : out };
	uv_stdio_container_t stdio[3] = { { .flags = UV_IGNORE }, to, to };
	uv_process_options_t options = { .exit_cb = on_exit_of_hook,
					 .file = path,
					 .args = args,
					 .env = env,
					 .stdio_count = 3,
					 .stdio = stdio };

	run->silent = out < 0;

	int status = uv_spawn(agent_loop(), &run->process, &options);

	if (out >= 0)
		close(out);

	struct pe_error *err = status ? pe_error_new(PE_ERR_POLICY, "hook %s cannot be run: %s",
						     path, uv_strerror(status))
				      : wait_for(run, path);

	run->task = NULL;
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

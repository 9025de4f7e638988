/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * care-patcher: the half of the agent that has rights. Answers one request at a time (requests.c),
 * has no network, starts no program, and keeps nothing between requests: what is applied is known
 * by the targets themselves, so that it may die at any moment and the next one goes on.
 */
#include <argp.h>
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/lines.h"
#include "agent/patcher/patcher.h"
#include "agent/sockets.h"
#include "engine/cleanup.h"
#include "engine/cli.h"

#define PROGRAM "care-patcher"

const char *argp_program_version = PROGRAM " (DatabaseCare) " CARE_VERSION;

enum { REQUEST_MOST = 1 << 20 }; /* bytes of a request line */

/* Answers until the agent goes away. */
static struct pe_error *serve(struct agent_lines *lines)
{
	for (;;) {
		json_t *request;
		int fd;
		struct pe_error *err = agent_lines_next(lines, &request, &fd);

		if (!err && !request)
			err = agent_lines_read(lines);
		if (err)
			return err;
		if (!request)
			continue;

		int answer_fd;
		json_t *answer = patcher_answer(request, fd, &answer_fd);

		if (fd >= 0)
			close(fd);
		json_decref(request);
		err = agent_lines_put(lines, answer, answer_fd);
		if (!err)
			err = agent_lines_flush(lines);
		/* What a patch or a list of servers took is not needed until the next one. */
		malloc_trim(0);
		if (err)
			return err;
	}
}

static struct pe_error *accept_for_ever(int listener, uid_t uid, gid_t gid)
{
	for (;;) {
		pe_auto_fd int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		struct agent_lines lines;

		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0)
			return pe_error_errno(errno, "cannot accept a connection");
		/* Its own user only: a member of the group talks to the agent, not to us. */
		if (!agent_peer_allowed(fd, uid, (gid_t)-1, NULL)) {
			fprintf(stderr, PROGRAM ": refused a connection of another user\n");
			continue;
		}
		agent_lines_init(&lines, fd, REQUEST_MOST);
		fd = -1;

		pe_auto_error struct pe_error *err = serve(&lines);

		agent_lines_deinit(&lines);
		if (err->code != PE_ERR_DIED) {
			pe_auto_free char *text = pe_error_text(err);

			fprintf(stderr, PROGRAM ": connection closed: %s\n", text);
		}
	}
}

enum { KEY_SANDBOXED_TARGETS = 0x100 }; /* no letter of its own */

struct options {
	bool sandboxed_targets;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *options = state->input;

	if (key != KEY_SANDBOXED_TARGETS)
		return ARGP_ERR_UNKNOWN;
	options->sandboxed_targets = true;
	return 0;
}

/* What is asked for, where it can be had; else the locks stay, for without it they cost nothing. */
static bool suspends_filters(const struct options *options)
{
	if (!options->sandboxed_targets)
		return false;

	pe_auto_error struct pe_error *err = patcher_may_suspend_filters();

	if (err)
		fprintf(stderr,
			PROGRAM ": --sandboxed-targets has no effect, servers under a seccomp "
				"filter are not patched: %s\n",
			err->message);
	return !err;
}

static struct pe_error *run(const struct options *options)
{
	bool suspend_filters = suspends_filters(options);
	uid_t uid = 0;
	gid_t gid = 0;
	int listener = -1;
	struct pe_error *err = agent_socket_inherited(&listener);

	if (!err)
		err = agent_user_ids(&uid, &gid);
	if (!err)
		err = patcher_drop_rights(suspend_filters);
	if (!err && !suspend_filters)
		err = patcher_filter_syscalls();
	return err ? err : accept_for_ever(listener, uid, gid);
}

int main(int argc, char **argv)
{
	static const struct argp_option arguments[] = {
		{ "sandboxed-targets", KEY_SANDBOXED_TARGETS, NULL, 0,
		  "Patch servers under a seccomp filter too: keep CAP_SYS_ADMIN and be under no "
		  "filter, which the kernel wants for that" },
		{ 0 }
	};
	static const struct argp argp = {
		arguments, parse, NULL,
		"The half of the DatabaseCare agent that has rights: looks into other processes "
		"and changes their memory, on request of care-agent, and only with patches that a "
		"key in /etc/dbcare/keys has signed.\v"
		"It is started by systemd (care-patcher.socket) or by `care-agent --foreground`, "
		"not by hand, and takes its socket from them.\n"
	};

	struct options options = { 0 };

	argp_err_exit_status = 1;
	argp_parse(&argp, argc, argv, 0, NULL, &options);
	signal(SIGPIPE, SIG_IGN);
	/* One heap: what is freed goes back to the system. */
	mallopt(M_ARENA_MAX, 1);
	return pe_cli_fail(PROGRAM, run(&options), false);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What systemd does elsewhere: three processes, each behind a socket that outlives it. This one
 * keeps root's rights and therefore does nothing else: it reads no input and parses nothing. (What
 * concerns it in agent.conf has been read before.)
 */
#include "agent/daemon/supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "agent/paths.h"
#include "agent/sockets.h"
#include "engine/cleanup.h"

/* A program that ends at once is started again more and more slowly. */
enum { FAST_SECONDS = 5, SLOWEST_MS = 10000, FIRST_MS = 50, CHILDREN = 3 };

struct child {
	const char *program, *option; /* or NULL */
	const char *name;	      /* of its socket */
	bool drops;		      /* to the agent's user before it runs */
	int listener;
	pid_t pid;
	time_t begun;
	int delay_ms;
};

static void become(uid_t uid, gid_t gid)
{
	if (initgroups(agent_user(), gid) != 0 || setgid(gid) != 0 || setuid(uid) != 0)
		_exit(126);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/* In the child; does not return. */
static void execute(const struct child *child, const char *folder, uid_t uid, gid_t gid)
{
	char path[PATH_MAX], pid[16];
	char *argv[] = { (char *)child->program, (char *)child->option, NULL };
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (child->listener == 3 || dup2(child->listener, 3) < 0)
		_exit(126);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
	if (child->drops)
		become(uid, gid);
	/* The death signal goes with a change of user. */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	snprintf(path, sizeof(path), "%s/%s", folder, child->program);
	execv(path, argv);
	fprintf(stderr, "care-agent: cannot run %s: %s\n", path, strerror(errno));
	_exit(127);
}

static void start(struct child *child, const char *folder, uid_t uid, gid_t gid)
{
	child->begun = time(NULL);
	child->pid = fork();
	if (child->pid == 0)
		execute(child, folder, uid, gid);
}

static struct pe_error *make_folder(const char *path, mode_t mode, uid_t uid, gid_t gid)
{
	if (mkdir(path, mode) == 0) {
		if (chown(path, uid, gid) != 0 || chmod(path, mode) != 0)
			return pe_error_errno(errno, "cannot give %s to %s", path, agent_user());
		return NULL;
	}
	return errno == EEXIST ? NULL : pe_error_errno(errno, "cannot make %s", path);
}

static struct pe_error *make_folders(uid_t uid, gid_t gid)
{
	struct pe_error *err = make_folder(agent_run_dir(), 0755, 0, gid);

	if (!err)
		err = make_folder(agent_state_dir(), 0750, uid, gid);
	return err ? err : make_folder(agent_cache_dir(), 0750, uid, gid);
}

/* As the agent's user will find them; before anything is started. */
static struct pe_error *check_folders(uid_t uid, gid_t gid)
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		become(uid, gid);

		pe_auto_error struct pe_error *err = agent_check_folders();
		pe_auto_free char *text = err ? pe_error_text(err) : NULL;

		if (text)
			fprintf(stderr, "care-agent: %s\n", text);
		_exit(err ? 1 : 0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return pe_error_errno(errno, "cannot look at the agent's folders");
	return status == 0 ? NULL
			   : pe_error_new(PE_ERR_PERMISSION,
					  "not started: the user %s cannot work with its folders",
					  agent_user());
}

static struct child *child_of(struct child *children, pid_t pid)
{
	for (int i = 0; i < CHILDREN; i++) {
		if (children[i].pid == pid)
			return &children[i];
	}
	return NULL;
}

static void ended(struct child *child, int status)
{
	bool fast = time(NULL) - child->begun < FAST_SECONDS;

	child->pid = 0;
	child->delay_ms = fast ? child->delay_ms * 2 : FIRST_MS;
	if (child->delay_ms > SLOWEST_MS)
		child->delay_ms = SLOWEST_MS;
	if (WIFSIGNALED(status))
		fprintf(stderr, "care-agent: %s was killed by signal %d; it is started again\n",
			child->program, WTERMSIG(status));
	else
		fprintf(stderr, "care-agent: %s ended with status %d; it is started again\n",
			child->program, WEXITSTATUS(status));
}

static void stop_all(struct child *children)
{
	for (int i = 0; i < CHILDREN; i++) {
		if (children[i].pid > 0)
			kill(children[i].pid, SIGTERM);
	}
	for (int i = 0; i < CHILDREN; i++) {
		if (children[i].pid > 0)
			waitpid(children[i].pid, NULL, 0);
	}
}

/* The handled signals are blocked; a child's end is one of them. */
static void watch_over(struct child *children, const char *folder, uid_t uid, gid_t gid)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	sigaddset(&signals, SIGCHLD);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	for (;;) {
		struct timespec wait = { .tv_nsec = FIRST_MS * 1000000L };
		bool missing = false;

		for (int i = 0; i < CHILDREN; i++) {
			if (children[i].pid <= 0) {
				wait.tv_sec = children[i].delay_ms / 1000;
				wait.tv_nsec = children[i].delay_ms % 1000 * 1000000L;
				missing = true;
			}
		}

		int signal =
			missing ? sigtimedwait(&signals, NULL, &wait) : sigwaitinfo(&signals, NULL);

		if (signal == SIGTERM || signal == SIGINT)
			break;
		if (signal == SIGHUP && children[CHILDREN - 1].pid > 0)
			kill(children[CHILDREN - 1].pid, SIGHUP);
		for (int status;;) {
			pid_t pid = waitpid(-1, &status, WNOHANG);
			struct child *child = pid > 0 ? child_of(children, pid) : NULL;

			if (pid <= 0)
				break;
			if (child)
				ended(child, status);
		}
		for (int i = 0; i < CHILDREN && signal < 0; i++) {
			if (children[i].pid <= 0)
				start(&children[i], folder, uid, gid);
		}
	}
	stop_all(children);
}

struct pe_error *agent_supervise(const char *folder, bool sandboxed_targets)
{
	const char *option = sandboxed_targets ? "--sandboxed-targets" : NULL;
	struct child children[CHILDREN] = {
		{ "care-patcher", option, "patcher", false, -1, 0, 0, FIRST_MS },
		{ "care-watch", NULL, "watch", false, -1, 0, 0, FIRST_MS },
		{ "care-agent", NULL, "agent", true, -1, 0, 0, FIRST_MS },
	};
	uid_t uid;
	gid_t gid;
	struct pe_error *err = agent_user_ids(&uid, &gid);

	if (!err)
		err = make_folders(uid, gid);
	if (!err)
		err = check_folders(uid, gid);
	for (int i = 0; !err && i < CHILDREN; i++) {
		int fd;

		err = agent_socket_bind(children[i].name, 0660, gid, &fd);
		if (err)
			break;
		/* Not at 3, where each child expects its own. */
		children[i].listener = fcntl(fd, F_DUPFD_CLOEXEC, 10);
		close(fd);
	}
	if (!err)
		watch_over(children, folder, uid, gid);
	for (int i = 0; i < CHILDREN; i++) {
		if (children[i].listener >= 0)
			close(children[i].listener);
	}
	return err;
}

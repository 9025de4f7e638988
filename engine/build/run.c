/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Running other programs; see build/run.h.
 *
 * Each child is a process group of its own, so that all it started can be ended with it, and it
 * dies with us. Output goes to unnamed memory files: nothing has to be pumped. We wait in ppoll on
 * pidfds with the signals open only there, so that none is missed between a check and the wait.
 */
#include "build/run.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define END_WAIT_MS 2000

static volatile sig_atomic_t caught;

static void on_signal(int nr)
{
	caught = nr;
}

void pe_run_guard_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

bool pe_interrupted(void)
{
	return caught;
}

static struct pe_error *interrupted_error(void)
{
	return pe_error_new(PE_ERR_SYSTEM, "interrupted by signal %d (%s)", (int)caught,
			    strsignal(caught));
}

void pe_run_deinit(struct pe_run *run)
{
	free(run->out);
	free(run->err);
	run->out = run->err = NULL;
}

bool pe_run_succeeded(const struct pe_run *run)
{
	return WIFEXITED(run->status) && WEXITSTATUS(run->status) == 0;
}

const char *pe_run_how(const struct pe_run *run, char *buf)
{
	if (WIFSIGNALED(run->status))
		snprintf(buf, 64, "signal %d (%.40s)", WTERMSIG(run->status),
			 strsignal(WTERMSIG(run->status)));
	else
		snprintf(buf, 64, "exit status %d", WEXITSTATUS(run->status));
	return buf;
}

/* One child that runs. */
struct child {
	struct pe_run *run;
	pid_t pid;
	int pidfd;
	int out, err;
};

static void signals_block(sigset_t *old)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, old);
}

/*
 * What runs in a tree has a pid namespace of its own: however it ends, or we do, none of the
 * processes that it started goes on. Returns in the process that becomes the program; this one
 * waits for it and ends as it does.
 */
static void enter_pid_namespace(void)
{
	pid_t inner = unshare(CLONE_NEWPID) ? -1 : fork();
	int status = 0;

	if (inner < 0) {
		dprintf(STDERR_FILENO, "cannot make a pid namespace: %s\n", strerror(errno));
		_exit(127);
	}
	if (!inner) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		return;
	}
	while (waitpid(inner, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status))
		kill(getpid(), WTERMSIG(status));
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 127);
}

/* In the child: never returns; 127 is what a shell gives for a program that cannot be run. */
static void child_main(const struct pe_run *run, int out, int err, const sigset_t *mask,
		       pid_t parent)
{
	int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	signal(SIGHUP, SIG_DFL);
	signal(SIGPIPE, SIG_DFL);
	signal(SIGXFSZ, SIG_DFL);
	sigprocmask(SIG_SETMASK, mask, NULL);
	dup2(nothing, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	dup2(err, STDERR_FILENO);
	if (run->tree)
		enter_pid_namespace();

	const char *failed = run->tree ? pe_tree_enter(run->tree) : NULL;

	if (failed) {
		dprintf(STDERR_FILENO, "%s %s: %s\n", failed,
			run->tree->path ? run->tree->path : "", strerror(errno));
		_exit(127);
	}
	if (run->cwd && chdir(run->cwd)) {
		dprintf(STDERR_FILENO, "cannot enter %s: %s\n", run->cwd, strerror(errno));
		_exit(127);
	}
	if (run->env)
		environ = run->env->items;
	execvp(run->argv->items[0], run->argv->items);
	dprintf(STDERR_FILENO, "cannot run %s: %s\n", run->argv->items[0], strerror(errno));
	_exit(127);
}

static struct pe_error *child_start(struct child *child, struct pe_run *run, const sigset_t *mask)
{
	const char *log = run->log;

	*child = (struct child){ .run = run, .pidfd = -1 };
	child->out = log ? open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)
			 : memfd_create("out", MFD_CLOEXEC);
	child->err = log ? child->out : memfd_create("err", MFD_CLOEXEC);
	if (child->out < 0 || child->err < 0)
		return pe_error_errno(errno, "cannot open %s", log ? log : "a memory file");

	pid_t parent = getpid();

	child->pid = fork();
	if (child->pid == 0)
		child_main(run, child->out, child->err, mask, parent);
	if (child->pid < 0)
		return pe_error_errno(errno, "cannot start %s", run->argv->items[0]);
	setpgid(child->pid, child->pid);
	child->pidfd = pidfd_open(child->pid, 0);
	if (child->pidfd < 0)
		return pe_error_errno(errno, "cannot watch %s", run->argv->items[0]);
	return NULL;
}

static char *text_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st))
		return NULL;

	char *text = malloc((size_t)st.st_size + 1);
	ssize_t n = text ? pread(fd, text, (size_t)st.st_size, 0) : -1;

	if (text)
		text[n > 0 ? n : 0] = 0;
	return text;
}

/* Waits for an ended (or just killed) child and takes its output. */
static void child_finish(struct child *child)
{
	struct pe_run *run = child->run;

	if (child->pid > 0) {
		while (waitpid(child->pid, &run->status, 0) < 0 && errno == EINTR)
			;
	}
	if (!run->log && child->out >= 0 && child->err >= 0) {
		run->out = text_of(child->out);
		run->err = text_of(child->err);
	}
	if (child->err >= 0 && child->err != child->out)
		close(child->err);
	if (child->out >= 0)
		close(child->out);
	if (child->pidfd >= 0)
		close(child->pidfd);
	*child = (struct child){ .pidfd = -1, .out = -1, .err = -1 };
}

/* Ends a child with all it started: asks first, so that compilers remove their temporary files. */
static void child_end(struct child *child)
{
	struct pollfd fd = { .fd = child->pidfd, .events = POLLIN };

	if (child->pid > 0) {
		kill(-child->pid, SIGTERM);
		if (child->pidfd < 0 || poll(&fd, 1, END_WAIT_MS) != 1)
			kill(-child->pid, SIGKILL);
	}
	child_finish(child);
}

/* The index of a child that has ended, or -1 with an error. */
static struct pe_error *children_wait(const struct child *children, size_t count,
				      const sigset_t *mask, size_t *ended)
{
	pe_auto_free struct pollfd *fds = calloc(count, sizeof(*fds));

	if (!fds)
		return pe_error_nomem();
	for (size_t i = 0; i < count; i++)
		fds[i] = (struct pollfd){ .fd = children[i].pidfd, .events = POLLIN };
	for (;;) {
		if (caught)
			return interrupted_error();

		int n = ppoll(fds, count, NULL, mask);

		if (n < 0 && errno != EINTR)
			return pe_error_errno(errno, "cannot wait for a program");
		for (size_t i = 0; n > 0 && i < count; i++) {
			if (fds[i].revents) {
				*ended = i;
				return NULL;
			}
		}
	}
}

static struct pe_error *run_loop(struct pe_run *runs, size_t count, struct child *children,
				 size_t *active, size_t jobs, const sigset_t *mask,
				 bool (*done)(void *ctx, struct pe_run *run), void *ctx)
{
	size_t next = 0;
	bool more = true;

	while ((more && next < count) || *active) {
		struct pe_error *err = caught ? interrupted_error() : NULL;
		size_t i = 0;

		while (!err && more && next < count && *active < jobs) {
			err = child_start(&children[(*active)++], &runs[next], mask);
			next++;
		}
		if (!err)
			err = children_wait(children, *active, mask, &i);
		if (err)
			return err;

		struct pe_run *run = children[i].run;

		child_finish(&children[i]);
		children[i] = children[--*active];
		if (done && !done(ctx, run))
			more = false;
	}
	return NULL;
}

struct pe_error *pe_run_all(struct pe_run *runs, size_t count, size_t jobs,
			    bool (*done)(void *ctx, struct pe_run *run), void *ctx)
{
	pe_auto_free struct child *children = calloc(jobs, sizeof(*children));
	size_t active = 0;
	sigset_t mask;

	if (!children)
		return pe_error_nomem();
	signals_block(&mask);

	struct pe_error *err = run_loop(runs, count, children, &active, jobs, &mask, done, ctx);

	for (size_t i = 0; i < active; i++)
		child_end(&children[i]);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	return err;
}

#define CANNOT_RUN "cannot run "

struct pe_error *pe_run(struct pe_run *run)
{
	struct pe_error *err = pe_run_all(run, 1, 1, NULL, NULL);

	/* As the child said that found no program to become. */
	if (err || !WIFEXITED(run->status) || WEXITSTATUS(run->status) != 127 || !run->err ||
	    strncmp(run->err, CANNOT_RUN, strlen(CANNOT_RUN)) != 0)
		return err;
	return pe_error_new(PE_ERR_SYSTEM, "%.*s: is it installed, and in PATH?",
			    (int)strcspn(run->err, "\n"), run->err);
}

bool pe_program_exists(const char *name)
{
	const char *path = getenv("PATH");
	pe_auto_free char *copy = strdup(path ? path : "/usr/sbin:/usr/bin:/sbin:/bin");
	char *save = NULL;

	for (char *dir = copy ? strtok_r(copy, ":", &save) : NULL; dir;
	     dir = strtok_r(NULL, ":", &save)) {
		pe_auto_free char *file = pe_format("%s/%s", dir, name);

		if (file && !access(file, X_OK))
			return true;
	}
	return false;
}

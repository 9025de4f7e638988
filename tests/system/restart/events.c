/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Waiting for what comes without a writer: timers, changes of files, signals. */
#include "kind.h"

#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static int make_eventfd(struct kind *kind)
{
	kind->fd[0] = kind->fd[1] = eventfd(0, 0);
	return kind->fd[0] < 0 ? errno : 0;
}

static void feed_eventfd(struct kind *kind)
{
	eventfd_write(kind->fd[1], 1);
}

static int make_fed_eventfd(struct kind *kind)
{
	int error = make_eventfd(kind);

	return error ? error : feed_with(kind, feed_eventfd);
}

static int wait_eventfd(struct kind *kind)
{
	eventfd_t counted;

	return is(eventfd_read(kind->fd[0], &counted), 0);
}

static int make_timerfd(struct kind *kind)
{
	struct itimerspec spec = { .it_value = wait_ts, .it_interval = wait_ts };

	kind->fd[0] = timerfd_create(CLOCK_MONOTONIC, 0);
	return kind->fd[0] < 0 || timerfd_settime(kind->fd[0], 0, &spec, NULL) ? errno : 0;
}

static int wait_timerfd(struct kind *kind)
{
	eventfd_t expired;

	return is(read(kind->fd[0], &expired, sizeof(expired)), 0);
}

static void feed_file(struct kind *kind)
{
	if (pwrite(kind->fd[1], "x", 1, 0) != 1)
		_exit(0);
}

static int make_inotify(struct kind *kind)
{
	char name[] = "watched-XXXXXX";

	kind->fd[1] = mkstemp(name);
	kind->fd[0] = inotify_init1(0);
	if (kind->fd[1] < 0 || inotify_add_watch(kind->fd[0], name, IN_MODIFY) < 0)
		return errno;
	return feed_with(kind, feed_file);
}

static int wait_inotify(struct kind *kind)
{
	char buffer[4096];

	return is(read(kind->fd[0], buffer, sizeof(buffer)), 0);
}

static int make_signalfd(struct kind *kind)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	kind->fd[0] = signalfd(-1, &set, 0);
	return kind->fd[0] < 0 ? errno : 0;
}

/* Sent to the process; it is blocked in every thread. */
static void feed_signal(struct kind *kind)
{
	kill(getppid(), SIGUSR2);
}

static int make_fed_signalfd(struct kind *kind)
{
	int error = make_signalfd(kind);

	return error ? error : feed_with(kind, feed_signal);
}

static int wait_signalfd(struct kind *kind)
{
	struct signalfd_siginfo info;

	return is(read(kind->fd[0], &info, sizeof(info)), 0);
}

static int wait_sigtimedwait(struct kind *kind)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	return is(syscall(SYS_rt_sigtimedwait, &set, NULL, &wait_ts, _NSIG / 8), EAGAIN);
}

struct kind events[] = {
	{ "eventfd", make_fed_eventfd, wait_eventfd },
	{ "timerfd", make_timerfd, wait_timerfd },
	{ "inotify", make_inotify, wait_inotify },
	{ "signalfd", make_fed_signalfd, wait_signalfd },
	{ "sigtimedwait", NULL, wait_sigtimedwait, .timed = true, .again = true },
	{ NULL },
};

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The end of a target, told by the kernel to whoever holds a descriptor of the process (pidfd): at
 * once, without any right, and whether or not process events are heard. From Linux 6.15 on it also
 * tells how the process ended, as soon as its parent has taken note; before that only process
 * events do, or nobody.
 */
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/daemon/agent.h"

/* include/uapi/linux/pidfd.h of Linux 6.15, first version; headers of the build may be older. */
struct info {
	uint64_t mask, cgroup;
	uint32_t pid, tgid, ppid, ids[8];
	int32_t exit_code; /* as wait(2) gives it */
};

#define INFO_EXIT (1ULL << 3)
#define GET_INFO _IOWR(0xff, 11, struct info)

struct agent_ending {
	uv_poll_t poll;
	struct agent_target *target;
	int fd;
};

static void ended(uv_poll_t *poll, int status, int events)
{
	struct agent_ending *ending = poll->data;

	uv_poll_stop(poll);
	ending->target->gone = true;
	if (ending->target->task)
		agent_task_wake(ending->target->task);
}

void agent_ending_watch(struct agent_target *target)
{
	int fd = (int)syscall(SYS_pidfd_open, target->pid, 0);
	struct agent_ending *ending = fd >= 0 ? calloc(1, sizeof(*ending)) : NULL;

	if (!ending || uv_poll_init(agent_loop(), &ending->poll, fd) != 0) {
		free(ending);
		if (fd >= 0)
			close(fd);
		return;
	}
	ending->fd = fd;
	ending->target = target;
	ending->poll.data = ending;
	uv_poll_start(&ending->poll, UV_READABLE, ended);
	target->ending = ending;
}

bool agent_ending_known(struct agent_target *target)
{
	struct info info = { .mask = INFO_EXIT };

	if (target->exit_known)
		return true;
	if (!target->ending || ioctl(target->ending->fd, GET_INFO, &info) != 0 ||
	    !(info.mask & INFO_EXIT))
		return false;
	target->exit_known = true;
	target->exit_status = WIFEXITED(info.exit_code) ? WEXITSTATUS(info.exit_code) : 0;
	target->exit_signal = WIFSIGNALED(info.exit_code) ? WTERMSIG(info.exit_code) : 0;
	return true;
}

static void closed(uv_handle_t *handle)
{
	struct agent_ending *ending = handle->data;

	close(ending->fd);
	free(ending);
}

void agent_ending_close(struct agent_target *target)
{
	if (target->ending)
		uv_close((uv_handle_t *)&target->ending->poll, closed);
	target->ending = NULL;
}

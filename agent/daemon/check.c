/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Asking the repository what is new, every CHECK_INTERVAL and when an operator wants it. */
#include <fcntl.h>
#include <syslog.h>

#include "agent/daemon/agent.h"
#include "engine/cleanup.h"

struct pe_error *agent_fetch_patch(struct agent *agent, const struct agent_offer *offer)
{
	if (access(offer->file, R_OK) == 0)
		return NULL;
	return pe_error_new(PE_ERR_NOTHING, "patch %s is not in the cache", offer->name);
}

void agent_check_task(void *arg)
{
	struct agent *agent = arg;

	agent->check_task = agent_task_self();
	for (;;)
		agent_task_wait(-1);
}

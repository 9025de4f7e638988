/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/provider.h"

#include <string.h>

const struct agent_provider *agent_provider_find(const char *name)
{
	for (size_t i = 0; name && agent_providers[i]; i++) {
		if (strcmp(agent_providers[i]->name, name) == 0)
			return agent_providers[i];
	}
	return NULL;
}

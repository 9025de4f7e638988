/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/repo/options.h"

#include <stdlib.h>

enum { FEW = 16 };

static unsigned int few(const char *arg, struct argp_state *state)
{
	char *end;
	unsigned long n = strtoul(arg, &end, 10);

	if (*end || n < 1 || n > FEW)
		argp_error(state, "\"%s\" is no number from 1 to %d", arg, FEW);
	return (unsigned int)n;
}

bool repo_option_take(const struct repo_option *table, void *options, int key, char *arg,
		      struct argp_state *state)
{
	while (table->key && table->key != key)
		table++;
	if (!table->key)
		return false;

	void *field = (char *)options + table->field;

	switch (table->kind) {
	case REPO_OPTION_TEXT:
		*(const char **)field = arg;
		break;
	case REPO_OPTION_FLAG:
		*(bool *)field = true;
		break;
	case REPO_OPTION_FEW:
		*(unsigned int *)field = few(arg, state);
		break;
	}
	return true;
}

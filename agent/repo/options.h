/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Options of a command line that go straight into a structure: a table instead of a switch. */
#ifndef AGENT_REPO_OPTIONS_H
#define AGENT_REPO_OPTIONS_H

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>

enum repo_option_kind {
	REPO_OPTION_TEXT, /* const char * */
	REPO_OPTION_FLAG, /* bool */
	REPO_OPTION_FEW,  /* unsigned int, 1 to 16 */
};

struct repo_option {
	int key; /* of argp; 0 ends the table */
	enum repo_option_kind kind;
	size_t field; /* offset in the structure */
};

/* True when @table knows the key: the value is then in @options, or argp_error() was called. */
bool repo_option_take(const struct repo_option *table, void *options, int key, char *arg,
		      struct argp_state *state);

#endif

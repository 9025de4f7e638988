/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Talking to care-agent, when there is one: JSON lines over its control socket. */
#ifndef DBCARE_CLI_CONTROL_H
#define DBCARE_CLI_CONTROL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "engine/error.h"

struct control {
	FILE *in, *out;
};

/* NO_TARGET when no agent runs; PERMISSION when we are neither root nor in its group. */
struct pe_error *control_open(struct control *ret) pe_must_check;
void control_close(struct control *control);
/* Sends @request (taken over). */
struct pe_error *control_send(struct control *control, json_t *request) pe_must_check;
/* The next line, an object; DIED when the agent ended. */
struct pe_error *control_receive(struct control *control, json_t **ret) pe_must_check;
/* One request and its answer; the agent's error when it refuses. */
struct pe_error *control_ask(json_t *request, json_t **ret) pe_must_check;
/* The same by somebody who does well without: any error is NULL, and so is no answer in a while. */
json_t *control_ask_by_the_way(json_t *request);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fetching over HTTP inside a task: libcurl's multi interface on the loop. */
#ifndef AGENT_HTTP_H
#define AGENT_HTTP_H

#include <stddef.h>

#include "agent/daemon/config.h"
#include "engine/error.h"

struct agent_http_reply {
	long status;
	char *bytes; /* of the answer's body; zero-terminated beyond size */
	size_t size;
	char *etag; /* or NULL */
};

/*
 * GET @url; at most @most bytes are taken. @etag (may be NULL) makes it conditional. An answer with
 * any status is success; SYSTEM when there is none, POLICY when it is too long. http, https and
 * file are the only protocols, and redirects lead to none but http and https.
 */
struct pe_error *agent_http_get(const struct agent_settings *settings, const char *url,
				const char *etag, size_t most,
				struct agent_http_reply *ret) pe_must_check;
void agent_http_reply_deinit(struct agent_http_reply *reply);

#endif

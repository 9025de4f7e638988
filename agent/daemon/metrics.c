/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Metrics in Prometheus' text format: over HTTP on loopback (METRICS_PORT), or as a file for a
 * textfile collector (METRICS_FILE), replaced as a whole.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "agent/daemon/agent.h"
#include "engine/cleanup.h"

enum { FILE_EVERY_MS = 15000 };

/* A label's value: backslash, quote and line end are escaped. */
static void put_label(FILE *out, const char *name, const char *value, const char *after)
{
	fprintf(out, "%s=\"", name);
	for (; value && *value; value++) {
		if (*value == '\n')
			fputs("\\n", out);
		else if (*value == '"' || *value == '\\')
			fprintf(out, "\\%c", *value);
		else
			fputc(*value, out);
	}
	fprintf(out, "\"%s", after);
}

static void put_head(FILE *out, const char *name, const char *kind, const char *help)
{
	fprintf(out, "# HELP dbcare_%s %s\n# TYPE dbcare_%s %s\n", name, help, name, kind);
}

static void put_number(FILE *out, const char *name, const char *kind, const char *help,
		       double value)
{
	put_head(out, name, kind, help);
	fprintf(out, "dbcare_%s %.15g\n", name, value);
}

static void put_target(FILE *out, const char *name, const struct agent_target *t, double value)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", (int)t->pid);
	fprintf(out, "dbcare_%s{", name);
	put_label(out, "provider", t->provider->name, ",");
	put_label(out, "target", agent_target_name(t), ",");
	put_label(out, "pid", pid, "} ");
	fprintf(out, "%.15g\n", value);
}

/* Of the patch that was applied last, microseconds; 0: none. */
static double last_pause(const struct agent_target *t)
{
	json_t *patches = json_object_get(t->info, "patches");
	const json_t *last = json_array_get(patches, json_array_size(patches) - 1);

	return (double)json_integer_value(json_object_get(last, "pause_us"));
}

static void put_targets(FILE *out, const struct agent *agent)
{
	put_head(out, "patch_level", "gauge", "Patch level in effect; -1: none.");
	for (const struct agent_target *t = agent->targets; t; t = t->next)
		put_target(out, "patch_level", t, t->provider->level(t->info));
	put_head(out, "pause_seconds", "gauge", "How long the last switch made the target stand.");
	for (const struct agent_target *t = agent->targets; t; t = t->next)
		put_target(out, "pause_seconds", t, last_pause(t) / 1e6);
	put_head(out, "held_seconds", "gauge",
		 "How long something has held an update; 0: nothing.");
	for (const struct agent_target *t = agent->targets; t; t = t->next)
		put_target(out, "held_seconds", t,
			   t->held.reason ? (double)(time(NULL) - t->held.since) + 1 : 0);
}

char *agent_metrics_text(struct agent *agent)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	put_targets(out, agent);
	put_number(out, "applied_total", "counter", "Patches applied.",
		   (double)agent->counts.applies);
	put_number(out, "reverted_total", "counter", "Patches taken back.",
		   (double)agent->counts.reverts);
	put_number(out, "verification_failures_total", "counter",
		   "Patches after which a server did not serve.", (double)agent->counts.failures);
	put_number(out, "crashes_after_patch_total", "counter",
		   "Servers that crashed within a minute of a patch.",
		   (double)agent->counts.crashes);
	put_number(out, "signature_failures_total", "counter",
		   "Patches or metadata refused for their signature.",
		   (double)agent->counts.signature_failures);
	put_number(out, "last_check_timestamp_seconds", "gauge",
		   "When the repository was asked last.", (double)agent->last_check);
	put_number(out, "last_success_timestamp_seconds", "gauge",
		   "When it was asked with success last.", (double)agent->last_success);
	put_number(out, "next_check_timestamp_seconds", "gauge", "When it will be asked next.",
		   (double)agent->next_check);
	put_number(out, "metadata_expires_timestamp_seconds", "gauge",
		   "When the repository's metadata expire; 0: there are none.",
		   (double)agent->metadata_expires);
	put_number(out, "watching", "gauge", "1: process events are heard; 0: scans only.",
		   agent->watching);
	fclose(out);
	return text;
}

/* ---- HTTP ---- */

static enum MHD_Result answer(void *ctx, struct MHD_Connection *connection, const char *url,
			      const char *method, const char *version, const char *data,
			      size_t *data_size, void **state)
{
	bool known = strcmp(url, "/metrics") == 0 && strcmp(method, "GET") == 0;
	char *text = known ? agent_metrics_text(ctx) : strdup("see /metrics\n");
	struct MHD_Response *response;
	enum MHD_Result result;

	if (!text)
		return MHD_NO;
	response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
	MHD_add_response_header(response, "Content-Type", "text/plain; version=0.0.4");
	result = MHD_queue_response(connection, known ? MHD_HTTP_OK : MHD_HTTP_NOT_FOUND, response);
	MHD_destroy_response(response);
	return result;
}

/* Its epoll descriptor is readable when it has something to do. */
static void serve_task(void *arg)
{
	struct MHD_Daemon *daemon = arg;
	const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_EPOLL_FD);

	while (info) {
		MHD_UNSIGNED_LONG_LONG timeout = 0;
		int wait = MHD_get_timeout(daemon, &timeout) == MHD_YES ? (int)timeout : -1;

		agent_task_poll(NULL, info->epoll_fd, POLLIN, wait);
		MHD_run(daemon);
	}
}

static struct pe_error *start_http(struct agent *agent)
{
	struct sockaddr_in loopback = { .sin_family = AF_INET,
					.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
					.sin_port = htons((uint16_t)agent->settings.metrics_port) };
	struct MHD_Daemon *daemon =
		MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, answer, agent, MHD_OPTION_SOCK_ADDR,
				 &loopback, MHD_OPTION_CONNECTION_LIMIT, 8U,
				 MHD_OPTION_CONNECTION_TIMEOUT, 10U, MHD_OPTION_END);

	if (!daemon)
		return pe_error_new(PE_ERR_SYSTEM, "cannot serve metrics on 127.0.0.1:%u",
				    agent->settings.metrics_port);
	return agent_task_start(serve_task, daemon);
}

/* ---- the file ---- */

static void write_file(struct agent *agent)
{
	const char *path = agent->settings.metrics_file;
	char fresh[PATH_MAX];
	pe_auto_free char *text = agent_metrics_text(agent);

	snprintf(fresh, sizeof(fresh), "%s.%d", path, (int)getpid());
	pe_auto_fd int fd =
		open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0 || !text || write(fd, text, strlen(text)) != (ssize_t)strlen(text) ||
	    rename(fresh, path) != 0)
		unlink(fresh);
}

static void file_task(void *arg)
{
	for (;;) {
		write_file(arg);
		agent_task_sleep(FILE_EVERY_MS);
	}
}

struct pe_error *agent_metrics_start(struct agent *agent)
{
	struct pe_error *err = NULL;

	if (agent->settings.metrics_port)
		err = start_http(agent);
	if (!err && agent->settings.metrics_file)
		err = agent_task_start(file_task, agent);
	return err;
}

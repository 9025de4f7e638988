/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dbcare/cli/control.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "engine/cleanup.h"

static const char *run_dir(void)
{
	const char *dir = secure_getenv("DBCARE_RUN_DIR");

	return dir && *dir ? dir : "/run/dbcare";
}

struct pe_error *control_open(struct control *ret)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	*ret = (struct control){ 0 };
	pe_auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return pe_error_errno(errno, "cannot make a socket");
	if ((size_t)snprintf(address.sun_path, sizeof(address.sun_path), "%s/agent.sock",
			     run_dir()) >= sizeof(address.sun_path))
		return pe_error_new(PE_ERR_USAGE, "the path %s is too long", run_dir());
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
		if (errno == ENOENT || errno == ECONNREFUSED)
			return pe_error_new(
				PE_ERR_NO_TARGET,
				"no agent runs here (nobody listens at %s): `systemctl "
				"start care-agent`, or use apply and revert, which need "
				"none",
				address.sun_path);
		return pe_error_errno(errno, "cannot connect to the agent at %s", address.sun_path);
	}

	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	ret->in = fdopen(fd, "r");
	fd = -1;
	ret->out = copy < 0 ? NULL : fdopen(copy, "w");
	if (ret->in && ret->out)
		return NULL;
	control_close(ret);
	return pe_error_nomem();
}

void control_close(struct control *control)
{
	if (control->in)
		fclose(control->in);
	if (control->out)
		fclose(control->out);
	*control = (struct control){ 0 };
}

struct pe_error *control_send(struct control *control, json_t *request)
{
	int failed = json_dumpf(request, control->out, JSON_COMPACT);

	json_decref(request);
	if (failed || fputc('\n', control->out) == EOF || fflush(control->out) != 0)
		return pe_error_errno(errno, "cannot write to the agent");
	return NULL;
}

struct pe_error *control_receive(struct control *control, json_t **ret)
{
	pe_auto_free char *line = NULL;
	size_t room = 0;

	*ret = NULL;
	if (getline(&line, &room, control->in) <= 0)
		return pe_error_new(PE_ERR_DIED,
				    "the agent closed the connection: it ended, or you are neither "
				    "root nor in its group (dbcare)");
	*ret = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
	if (json_is_object(*ret))
		return NULL;
	json_decref(*ret);
	*ret = NULL;
	return pe_error_new(PE_ERR_FORMAT, "the agent's answer is no JSON object");
}

static enum pe_code code_named(const char *name)
{
	for (int code = PE_OK; code < PE_ERR_COUNT; code++) {
		if (name && strcmp(pe_code_name((enum pe_code)code), name) == 0)
			return (enum pe_code)code;
	}
	return PE_ERR_INTERNAL;
}

/* One request and its answer; @seconds (0: no limit) for each wait. */
static struct pe_error *ask(json_t *request, int seconds, json_t **ret)
{
	const struct timeval limit = { .tv_sec = seconds };
	struct control control;
	struct pe_error *err = control_open(&control);

	*ret = NULL;
	if (err) {
		json_decref(request);
		return err;
	}
	setsockopt(fileno(control.in), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fileno(control.in), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	err = control_send(&control, request);
	if (!err)
		err = control_receive(&control, ret);
	control_close(&control);
	return err;
}

struct pe_error *control_ask(json_t *request, json_t **ret)
{
	struct pe_error *err = ask(request, 0, ret);

	if (err || json_is_true(json_object_get(*ret, "ok")))
		return err;

	const char *message = json_string_value(json_object_get(*ret, "message"));
	enum pe_code code = code_named(json_string_value(json_object_get(*ret, "code")));

	err = pe_error_new(code, "%s", message ? message : "the agent gives no reason");
	json_decref(*ret);
	*ret = NULL;
	return err;
}

json_t *control_ask_by_the_way(json_t *request)
{
	enum { SECONDS = 2 };
	json_t *answer;
	pe_auto_error struct pe_error *err = ask(request, SECONDS, &answer);

	if (!err && json_is_true(json_object_get(answer, "ok")))
		return answer;
	json_decref(answer);
	return NULL;
}

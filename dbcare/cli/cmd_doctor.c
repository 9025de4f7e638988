/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dbcarectl doctor: one file with everything that support needs to know of a host. No secrets: of
 * the settings' values, what stands before an @ in a URL is left out; of keys only the names.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "dbcare/cli/cli.h"
#include "dbcare/cli/control.h"
#include "dbcare/describe.h"
#include "dbcare/history.h"
#include "engine/cleanup.h"

/* What could not be read, and why: "agent.conf: Permission denied". */
static json_t *unread;

struct doctor {
	struct cli cli;
	const char *output;
};

static error_t doctor_parse(int key, char *arg, struct argp_state *state)
{
	struct doctor *doctor = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &doctor->cli;
		return 0;
	case ARGP_KEY_ARG:
		return cli_word(&doctor->cli, arg, 0, state);
	case 'o':
		doctor->output = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void not_read(const char *what, const char *why)
{
	pe_auto_free char *text = NULL;

	if (asprintf(&text, "%s: %s", what, why) >= 0)
		json_array_append_new(unread, json_string(text));
}

static const char *place(const char *variable, const char *otherwise)
{
	const char *value = secure_getenv(variable);

	return value && *value ? value : otherwise;
}

/* What stands before the @ of a URL is left out. */
static char *without_secrets(const char *value)
{
	const char *scheme = strstr(value, "://");
	const char *begin = scheme ? scheme + 3 : value, *at = strrchr(value, '@');
	char *text = NULL;

	if (!at || at < begin)
		return strdup(value);
	return asprintf(&text, "%.*s***%s", (int)(begin - value), value, at) < 0 ? NULL : text;
}

/* Every string of @value, however deep. */
static void hide_secrets(json_t *value)
{
	const char *key;
	json_t *item;
	void *next;
	size_t i;

	json_object_foreach_safe(value, next, key, item)
	{
		if (json_is_string(item)) {
			pe_auto_free char *text = without_secrets(json_string_value(item));

			json_object_set_new(value, key, json_string(text ? text : ""));
		} else {
			hide_secrets(item);
		}
	}
	json_array_foreach(value, i, item) hide_secrets(item);
}

static json_t *settings(void)
{
	json_t *found = json_object();
	const char *path = place("DBCARE_CONF", "/etc/dbcare/agent.conf");
	pe_auto_file FILE *in = fopen(path, "re");
	pe_auto_free char *line = NULL;
	size_t room = 0;

	if (!in && errno != ENOENT)
		not_read(path, strerror(errno));

	while (in && getline(&line, &room, in) > 0) {
		char *equals = strchr(line, '=');

		line[strcspn(line, "\r\n")] = '\0';
		if (*line == '#' || !equals)
			continue;
		*equals = '\0';
		json_object_set_new(
			found, line,
			json_string(strcmp(line, "REGISTRATION_KEY") == 0 ? "***" : equals + 1));
	}
	return found;
}

static json_t *names_in(const char *folder)
{
	json_t *names = json_array();
	DIR *dir = opendir(folder);

	if (!dir && errno != ENOENT)
		not_read(folder, strerror(errno));
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		if (entry->d_name[0] != '.')
			json_array_append_new(names, json_string(entry->d_name));
	}
	if (dir)
		closedir(dir);
	return names;
}

static json_t *text_file(const char *path)
{
	char text[4096];
	pe_auto_file FILE *in = fopen(path, "re");
	size_t size = in ? fread(text, 1, sizeof(text) - 1, in) : 0;

	text[size] = '\0';
	return in ? json_string(text) : json_null();
}

/* An error is part of the picture. */
static json_t *failed(const char *what, struct pe_error *err)
{
	pe_auto_free char *text = pe_error_text(err);

	/* A host without an agent is no omission. */
	if (err->code != PE_ERR_NO_TARGET)
		not_read(what, text ? text : pe_code_name(err->code));

	json_t *object = json_pack("{s:s, s:s}", "code", pe_code_name(err->code), "message",
				   text ? text : "");

	pe_error_free(err);
	return object;
}

static json_t *servers(void)
{
	struct dbc_servers found;
	struct pe_error *err = dbc_discover(&found);
	json_t *list = json_array();

	if (err) {
		json_decref(list);
		return failed("servers", err);
	}
	if (found.denied) {
		char text[64];

		snprintf(text, sizeof(text), "%zu of other users", found.denied);
		not_read("servers", text);
	}
	for (size_t i = 0; i < found.count; i++) {
		json_t *server = dbc_server_json(&found.items[i]);
		pe_auto_free char *package = dbc_package_of(&found.items[i]);

		json_object_set_new(server, "package",
				    package ? json_string(package) : json_null());
		json_array_append_new(list, server);
	}
	dbc_servers_deinit(&found);
	return list;
}

static json_t *agent_status(void)
{
	json_t *status = NULL;
	struct pe_error *err = control_ask(json_pack("{s:s}", "do", "status"), &status);

	return err ? failed("the agent", err) : status;
}

static json_t *agent_events(void)
{
	struct control control;
	json_t *list = json_array(), *event;
	struct pe_error *err = control_open(&control);

	if (!err)
		err = control_send(&control, json_pack("{s:s}", "do", "events"));
	while (!err) {
		err = control_receive(&control, &event);
		if (err || json_object_get(event, "ok")) {
			json_decref(event);
			break;
		}
		json_array_append_new(list, event);
	}
	control_close(&control);
	pe_error_free(err);
	return list;
}

static json_t *history(void)
{
	json_t *all = NULL;
	struct pe_error *err = dbc_history_read(NULL, &all);

	return err ? failed("history", err) : all;
}

static json_t *make_report(void)
{
	struct utsname kernel;
	json_t *report =
		json_pack("{s:s, s:I}", "dbcare", CARE_VERSION, "time", (json_int_t)time(NULL));

	uname(&kernel);
	json_object_set_new(report, "kernel",
			    json_pack("{s:s, s:s, s:s}", "release", kernel.release, "version",
				      kernel.version, "machine", kernel.machine));
	json_object_set_new(report, "system", text_file("/etc/os-release"));
	json_object_set_new(report, "ptrace_scope",
			    text_file("/proc/sys/kernel/yama/ptrace_scope"));
	json_object_set_new(report, "servers", servers());
	json_object_set_new(report, "agent", agent_status());
	json_object_set_new(report, "events", agent_events());
	json_object_set_new(report, "history", history());
	json_object_set_new(report, "settings", settings());
	json_object_set_new(report, "keys", names_in(place("DBCARE_KEYS_DIR", "/etc/dbcare/keys")));
	json_object_set_new(report, "not_read", json_incref(unread));
	hide_secrets(report);
	return report;
}

static struct pe_error *write_report(const char *path, const json_t *report)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	FILE *out = fd < 0 ? NULL : fdopen(fd, "w");

	if (!out)
		return pe_error_errno(errno, "cannot make the report %s", path);

	bool good = json_dumpf(report, out, JSON_INDENT(1)) == 0 && fputc('\n', out) != EOF;

	if (fclose(out) != 0 || !good)
		return pe_error_errno(errno, "cannot write the report %s", path);
	return NULL;
}

static void tell_unread(bool quiet)
{
	const json_t *text;
	size_t i;

	json_array_foreach(unread, i, text)
	{
		if (!quiet)
			fprintf(stderr, "%s: note: not in the report: %s\n", DBC_PROGRAM,
				json_string_value(text));
	}
	if (json_array_size(unread) && geteuid() != 0 && !quiet)
		fprintf(stderr, "%s: note: root can read all of it\n", DBC_PROGRAM);
	json_decref(unread);
}

int cmd_doctor(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "output", 'o', "FILE", 0, "Where to (default: dbcare-report-TIME.json here)" },
		{ 0 }
	};
	static const struct argp_child children[] = { { &cli_common_argp }, { 0 } };
	static const struct argp argp = {
		options, doctor_parse, NULL,
		"Writes a file with everything that support needs to know: system, servers, "
		"patches, the agent's state and events, history and settings. It holds no "
		"passwords and no keys, and only you can read it; look into it before you send it. "
		"Nothing is sent anywhere.\v"
		"Example:\n"
		"  dbcarectl doctor --output=/root/report.json\n",
		children
	};
	struct doctor doctor = { 0 };
	char name[64];
	time_t now = time(NULL);
	struct tm utc;

	argp_parse(&argp, argc, argv, 0, NULL, &doctor);
	strftime(name, sizeof(name), "dbcare-report-%Y%m%d-%H%M%S.json", gmtime_r(&now, &utc));

	unread = json_array();

	json_t *report = make_report();
	const char *path = doctor.output ? doctor.output : name;
	struct pe_error *err = write_report(path, report);

	json_decref(report);
	if (err)
		return cli_fail(&doctor.cli, err);
	if (doctor.cli.json)
		pe_cli_json(json_pack("{s:s, s:s}", "result", "written", "report", path));
	else
		printf("The report is %s. It holds no passwords and no keys.\n", path);
	tell_unread(doctor.cli.quiet);
	return 0;
}

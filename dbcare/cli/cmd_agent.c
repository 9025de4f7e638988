/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dbcarectl status, update, hold, resume, events: what the agent is asked. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "dbcare/cli/cli.h"
#include "dbcare/cli/control.h"
#include "dbcare/describe.h"
#include "engine/cleanup.h"

struct asking {
	struct cli cli;
	size_t most; /* words */
	bool again, follow, dry_run, remote;
};

enum { KEY_AGAIN = 0x300, KEY_DRY_RUN, KEY_REMOTE };

static error_t asking_parse(int key, char *arg, struct argp_state *state)
{
	struct asking *asking = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &asking->cli;
		return 0;
	case ARGP_KEY_ARG:
		return cli_word(&asking->cli, arg, asking->most, state);
	case KEY_AGAIN:
		asking->again = true;
		return 0;
	case KEY_REMOTE:
		asking->remote = true;
		return 0;
	case KEY_DRY_RUN:
		asking->dry_run = true;
		return 0;
	case 'f':
		asking->follow = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child common_children[] = { { &cli_common_argp }, { 0 } };

static const char *text_of(const json_t *object, const char *name)
{
	return json_string_value(json_object_get(object, name));
}

static long long number_of(const json_t *object, const char *name)
{
	return (long long)json_integer_value(json_object_get(object, name));
}

/* ---- status ---- */

/* "12 min ago (14:03)", "in 3 h (17:10)", "never". */
static const char *when(long long seconds, char out[64])
{
	static const struct {
		long long unit;
		const char *name;
	} units[] = { { 86400, "d" }, { 3600, "h" }, { 60, "min" }, { 1, "s" } };
	time_t then = (time_t)seconds;
	long long away = seconds - (long long)time(NULL), size = away < 0 ? -away : away;
	struct tm local;
	char clock[32];
	size_t i = 0;

	if (!seconds)
		return strcpy(out, "never");
	while (i < 3 && size < units[i].unit)
		i++;
	strftime(clock, sizeof(clock), "%Y-%m-%d %H:%M:%S", localtime_r(&then, &local));
	snprintf(out, 64, "%s%lld %s%s (%s)", away > 0 ? "in " : "", size / units[i].unit,
		 units[i].name, away > 0 ? "" : " ago", clock);
	return out;
}

static const char *next_try(long long seconds, char out[64])
{
	if (!seconds)
		return "when you say so";
	return seconds <= (long long)time(NULL) ? "now" : when(seconds, out);
}

static const char *names_of(const json_t *target, char *out, size_t room)
{
	const json_t *patch;
	size_t i, used = 0;

	*out = '\0';
	json_array_foreach(json_object_get(target, "patches"), i, patch)
	{
		const char *state = text_of(patch, "state");

		if (used < room && state && strcmp(state, "reverted") != 0)
			used += (size_t)snprintf(out + used, room - used, "%s%s", used ? ", " : "",
						 text_of(patch, "name"));
	}
	return *out ? out : NULL;
}

static void print_targets(const json_t *targets)
{
	static const char *const titles[] = { ">PID",	 "VERSION", "TARGET", ">LEVEL",
					      "PATCHES", "OFFERED", "STATE",  NULL };
	struct pe_table *table = pe_table_new(titles);
	const json_t *target;
	size_t i;

	json_array_foreach(targets, i, target)
	{
		const json_t *level = json_object_get(target, "level");
		const char *doing = text_of(target, "doing");
		char pid[16], number[16], names[256];

		snprintf(pid, sizeof(pid), "%lld", number_of(target, "pid"));
		snprintf(number, sizeof(number), "%lld", number_of(target, "level"));
		pe_table_row(table,
			     (const char *const[]){
				     pid, text_of(target, "version"), text_of(target, "name"),
				     json_is_integer(level) ? number : NULL,
				     names_of(target, names, sizeof(names)),
				     text_of(json_object_get(target, "offered"), "name"),
				     json_object_get(target, "held") ? "held"
				     : doing			     ? doing
								     : text_of(target, "state") });
	}
	pe_table_print_and_free(table);
	json_array_foreach(targets, i, target)
	{
		const json_t *held = json_object_get(target, "held");
		char since[64], next[64];

		if (text_of(target, "note"))
			printf("\n%s: %s\n", text_of(target, "name"), text_of(target, "note"));
		if (!held)
			continue;
		printf("\n%s is held: %s\n  since %s; next try %s\n", text_of(target, "name"),
		       text_of(held, "reason"), when(number_of(held, "since"), since),
		       next_try(number_of(held, "next_try"), next));
	}
}

/* Also those of servers that do not run now. */
static void print_operators_holds(const json_t *holds)
{
	const char *name;
	json_t *by;

	json_object_foreach((json_t *)holds, name, by)
		printf("held         %s, by %s: `dbcarectl resume%s%s` ends it\n",
		       *name ? name : "all servers", json_string_value(by), *name ? " " : "", name);
}

static void print_status(const json_t *status)
{
	const json_t *settings = json_object_get(status, "settings");
	const json_t *targets = json_object_get(status, "targets");
	const char *error = text_of(status, "check_error"), *server;
	char text[64];

	server = text_of(settings, "PATCH_SERVER");
	printf("agent        version %s, pid %lld, since %s\n", text_of(status, "version"),
	       number_of(status, "pid"), when(number_of(status, "started"), text));
	printf("repository   %s\n", server ? server : "none (PATCH_SERVER is not set)");
	if (server) {
		printf("last check   %s%s%s\n", when(number_of(status, "last_check"), text),
		       error ? ": " : "", error ? error : "");
		printf("next check   %s\n", when(number_of(status, "next_check"), text));
	}
	printf("policy       AUTO_UPDATE=%s UPDATE_POLICY=%s\n",
	       json_is_true(json_object_get(settings, "AUTO_UPDATE")) ? "YES" : "NO",
	       text_of(settings, "UPDATE_POLICY"));
	print_operators_holds(json_object_get(json_object_get(status, "state"), "holds"));
	if (!json_is_true(json_object_get(status, "watching")))
		puts("note         process events are not heard: new servers are found by scans");
	if (text_of(status, "settings_error"))
		printf("note         settings not read again: %s\n",
		       text_of(status, "settings_error"));
	putchar('\n');
	if (json_array_size(targets))
		print_targets(targets);
	else
		puts("No MariaDB server runs on this host.");
}

/* Without an agent: what the servers themselves tell. */
static int status_alone(struct cli *cli, struct pe_error *why)
{
	struct dbc_servers servers;
	struct pe_error *err;

	if (why->code != PE_ERR_NO_TARGET)
		return cli_fail(cli, why);
	err = dbc_discover(&servers);
	if (err) {
		pe_error_free(why);
		return cli_fail(cli, err);
	}

	json_t *list = json_array();

	for (size_t i = 0; i < servers.count; i++) {
		json_t *server = dbc_server_json(&servers.items[i]);

		json_object_set(server, "name", json_object_get(server, "socket"));
		json_array_append_new(list, server);
	}
	dbc_servers_deinit(&servers);
	if (cli->json) {
		pe_cli_json(json_pack("{s:b, s:s, s:o}", "agent", 0, "message", why->message,
				      "targets", list));
	} else {
		puts(why->message);
		if (json_array_size(list))
			print_targets(list);
		json_decref(list);
	}
	pe_error_free(why);
	return 0;
}

int cmd_status(int argc, char **argv)
{
	static const struct argp argp = {
		NULL, asking_parse, NULL,
		"Shows on one screen what the agent knows: servers, patch levels, last and next "
		"check, and what is held, why and since when. Without an agent, the servers and "
		"their patches alone.\v"
		"Examples:\n"
		"  dbcarectl status\n"
		"  dbcarectl status --json | jq '.targets[] | {name, level, held}'\n",
		common_children
	};
	struct asking asking = { .cli.shows = true };
	json_t *status;

	argp_parse(&argp, argc, argv, 0, NULL, &asking);

	struct pe_error *err = control_ask(json_pack("{s:s}", "do", "status"), &status);

	if (err)
		return status_alone(&asking.cli, err);
	if (asking.cli.json) {
		pe_cli_json(status);
		return 0;
	}
	print_status(status);
	json_decref(status);
	return 0;
}

/* ---- update ---- */

/*
 * 0: all have what is offered; 4: something is held; 1: the repository could not be checked; 2:
 * there was nothing to do.
 */
static int update_result(const json_t *answer)
{
	const char *wanted = text_of(answer, "wanted");
	const json_t *target;
	bool offered = false, held = false;
	size_t i;

	json_array_foreach(json_object_get(answer, "targets"), i, target)
	{
		if (wanted && *wanted && strcmp(wanted, text_of(target, "name")) != 0)
			continue;
		offered |= json_is_object(json_object_get(target, "offered"));
		held |= json_object_get(target, "held") != NULL;
	}
	if (held)
		return pe_code_exit_status(PE_ERR_HELD);
	if (json_is_string(json_object_get(answer, "check_error")))
		return pe_code_exit_status(PE_ERR_SYSTEM);
	return offered ? 0 : pe_code_exit_status(PE_ERR_NOTHING);
}

/* What update would apply: 0: something; 2: nothing; 1: the repository could not be checked. */
static int dry_result(const json_t *answer, bool print)
{
	const char *wanted = text_of(answer, "wanted");
	const json_t *target;
	int count = 0;
	size_t i;

	json_array_foreach(json_object_get(answer, "targets"), i, target)
	{
		const json_t *offer = json_object_get(target, "offered");
		const json_t *level = json_object_get(target, "level");

		if ((wanted && *wanted && strcmp(wanted, text_of(target, "name")) != 0) ||
		    !json_is_object(offer) ||
		    (json_is_integer(level) &&
		     number_of(target, "level") >= number_of(offer, "level")))
			continue;
		count++;
		if (print)
			printf("%s: %s, level %lld, would be applied\n", text_of(target, "name"),
			       text_of(offer, "name"), number_of(offer, "level"));
	}
	if (json_is_string(json_object_get(answer, "check_error"))) {
		if (print)
			printf("the repository could not be checked: %s\n",
			       text_of(answer, "check_error"));
		return pe_code_exit_status(PE_ERR_SYSTEM);
	}
	if (!count && print)
		puts("nothing new");
	return count ? 0 : pe_code_exit_status(PE_ERR_NOTHING);
}

int cmd_update(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "again", KEY_AGAIN, NULL, 0,
		  "Also a patch that was followed by a crash of a server, or failed its "
		  "verification" },
		{ "remote", KEY_REMOTE, NULL, 0,
		  "What the repository has, whatever UPDATE_POLICY says" },
		{ "dry-run", KEY_DRY_RUN, NULL, 0,
		  "Let the agent ask the repository and tell what it would apply, and apply "
		  "nothing" },
		{ 0 }
	};
	static const struct argp argp = {
		options, asking_parse, "[TARGET]",
		"Lets the agent check the repository now and bring all servers, or TARGET, to the "
		"level that the settings allow, also when AUTO_UPDATE is NO. Gates, and what an "
		"operator holds (`dbcarectl hold'), stay as they are.\v"
		"TARGET is a pid or the path of a socket.\n"
		"\n"
		"Examples:\n"
		"  dbcarectl update\n"
		"  dbcarectl update /run/mysqld/mysqld.sock\n"
		"  dbcarectl update --dry-run && echo there is something new\n"
		"\n"
		"Exit status: 0 all have what is offered (--dry-run: there is something new), 1 "
		"error (also when the repository could "
		"not be checked), 2 nothing is offered (--dry-run: nothing new), 3 no such server "
		"or "
		"no agent, 4 something is held, 5 the settings forbid it.\n",
		common_children
	};
	struct asking asking = { .most = 1 };
	struct pe_progress progress;
	json_t *answer;

	argp_parse(&argp, argc, argv, 0, NULL, &asking);
	pe_progress_init(&progress, !asking.cli.json && !asking.cli.quiet);
	pe_progress_step(&progress,
			 asking.dry_run ? "the agent checks" : "the agent checks and applies");

	struct pe_error *err =
		control_ask(json_pack("{s:s, s:s*, s:b, s:b, s:b}", "do", "update", "target",
				      asking.cli.words[0], "again", asking.again, "dry_run",
				      asking.dry_run, "remote", asking.remote),
			    &answer);

	pe_progress_done(&progress);
	if (err)
		return cli_fail(&asking.cli, err);

	int status = asking.dry_run ? dry_result(answer, !asking.cli.json) : update_result(answer);

	if (asking.cli.json) {
		pe_cli_json(answer);
	} else if (asking.dry_run) {
		json_decref(answer);
	} else {
		print_status(answer);
		json_decref(answer);
	}
	return status;
}

/* ---- hold, resume ---- */

/* What is still held, and how that is ended: one hold's end is not the end of all. */
static void print_holds(const json_t *answer, bool resumed)
{
	const char *name = text_of(answer, "name"), *all_by = text_of(answer, "all_held_by"), *held;
	bool every = !name || !*name;
	json_t *by;

	if (!every && all_by)
		printf("%s held, as all servers are, by %s: `dbcarectl resume` ends that\n",
		       resumed ? "still" : "also", all_by);
	json_object_foreach(json_object_get(answer, "held_by"), held, by)
	{
		if (every)
			printf("%s held: %s, by %s: `dbcarectl resume %s` ends that\n",
			       resumed ? "still" : "also by itself", held, json_string_value(by),
			       held);
	}
}

static int ask_hold(struct asking *asking, const char *verb, const char *done)
{
	const char *word = asking->cli.words[0];
	bool resumed = strcmp(verb, "resume") == 0;
	json_t *answer;
	struct pe_error *err =
		control_ask(json_pack("{s:s, s:s*}", "do", verb, "target", word), &answer);

	if (err)
		return cli_fail(&asking->cli, err);
	if (asking->cli.json) {
		pe_cli_json(json_pack("{s:s, s:s?, s:O?, s:O?}", "result", done, "target", word,
				      "all_held_by", json_object_get(answer, "all_held_by"),
				      "held_by", json_object_get(answer, "held_by")));
	} else {
		printf("%s: %s\n", done, word ? word : "all servers");
		print_holds(answer, resumed);
	}
	json_decref(answer);
	return 0;
}

int cmd_hold(int argc, char **argv)
{
	static const struct argp argp = {
		NULL, asking_parse, "[TARGET]",
		"Lets the agent change nothing in TARGET, or in any server, until `dbcarectl "
		"resume`. What is applied stays. A hold outlives restarts of the agent and of the "
		"server. That of all servers and that of one are two: each is ended for itself, "
		"and the answer names what else is held.\v"
		"Example:\n"
		"  dbcarectl hold /run/mysqld/mysqld.sock\n",
		common_children
	};
	struct asking asking = { .most = 1 };

	argp_parse(&argp, argc, argv, 0, NULL, &asking);
	return ask_hold(&asking, "hold", "held");
}

int cmd_resume(int argc, char **argv)
{
	static const struct argp argp = {
		NULL, asking_parse, "[TARGET]",
		"Ends a hold: of TARGET, or without one the hold of all servers. Servers that "
		"have a hold of their own stay held, and so does TARGET while all are; the answer "
		"names them, and what ends that.\v"
		"Exit status: 0 done, 2 nothing was held, 3 no such server or no agent.\n",
		common_children
	};
	struct asking asking = { .most = 1 };

	argp_parse(&argp, argc, argv, 0, NULL, &asking);
	return ask_hold(&asking, "resume", "resumed");
}

/* ---- events ---- */

static void print_event(const json_t *event, bool json)
{
	const char *key;
	json_t *value;

	if (json) {
		json_dumpf(event, stdout, JSON_COMPACT);
		putchar('\n');
		fflush(stdout);
		return;
	}
	printf("%s %s", text_of(event, "time"), text_of(event, "event"));
	json_object_foreach((json_t *)event, key, value)
	{
		pe_auto_free char *dump = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

		if (strcmp(key, "time") != 0 && strcmp(key, "event") != 0 &&
		    strcmp(key, "number") != 0)
			printf(" %s=%s", key, dump ? dump : "?");
	}
	putchar('\n');
	fflush(stdout);
}

int cmd_events(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "follow", 'f', NULL, 0, "Go on with new ones until interrupted" }, { 0 }
	};
	static const struct argp argp = {
		options, asking_parse, NULL,
		"Shows what the agent did and saw since its start (the last 512 events); with "
		"--json one object a line.\v"
		"Example:\n"
		"  dbcarectl events --follow --json | jq -r 'select(.event == \"held\") | "
		".reason'\n",
		common_children
	};
	struct asking asking = { .cli.shows = true };
	struct control control;
	json_t *event;

	argp_parse(&argp, argc, argv, 0, NULL, &asking);

	struct pe_error *err = control_open(&control);

	if (!err)
		err = control_send(
			&control, json_pack("{s:s, s:b}", "do", "events", "follow", asking.follow));
	while (!err) {
		err = control_receive(&control, &event);
		if (err)
			break;

		bool end = json_object_get(event, "ok") != NULL;

		if (!end)
			print_event(event, asking.cli.json);
		json_decref(event);
		if (end)
			break;
	}
	control_close(&control);
	return err ? cli_fail(&asking.cli, err) : 0;
}

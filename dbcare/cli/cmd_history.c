/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dbcarectl history: what was done on this host. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "build/text.h"
#include "dbcare/cli/cli.h"
#include "dbcare/history.h"
#include "engine/cleanup.h"

enum { KEY_SERVER = 0x300, KEY_PATCH, KEY_SINCE, KEY_UNTIL, TIME_SIZE = 32 };

struct history {
	struct cli cli;
	struct dbc_history_filter filter;
	char since[TIME_SIZE], until[TIME_SIZE];
};

/* "90m", "3d": so long ago. */
static bool parse_ago(const char *text, time_t *ret)
{
	static const struct {
		char unit;
		long seconds;
	} units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 }, { 'w', 604800 } };
	char *end;
	long count = strtol(text, &end, 10);

	for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++) {
		if (end != text && end[0] == units[i].unit && !end[1] && count >= 0 &&
		    count < 100000000) {
			*ret = time(NULL) - count * units[i].seconds;
			return true;
		}
	}
	return false;
}

/* A day, or a moment of it, UTC as the history is; @last: a day's last second. */
static bool parse_date(const char *text, bool last, time_t *ret)
{
	static const char *const formats[] = { "%Y-%m-%d",	    "%Y-%m-%d %H:%M",
					       "%Y-%m-%dT%H:%M",    "%Y-%m-%d %H:%M:%S",
					       "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ" };

	for (size_t i = 0; i < sizeof(formats) / sizeof(*formats); i++) {
		struct tm date = { 0 };
		const char *end = strptime(text, formats[i], &date);

		if (!end || *end)
			continue;
		*ret = timegm(&date) + (i == 0 && last ? 86399 : 0);
		return true;
	}
	return false;
}

static const char *parse_when(const char *text, bool last, char out[TIME_SIZE],
			      struct argp_state *state)
{
	time_t when = 0;
	struct tm utc;

	if (!parse_ago(text, &when) && !parse_date(text, last, &when))
		argp_error(state,
			   "'%s' is no time: give 2026-11-29, '2026-11-29 08:00' (UTC), or how "
			   "long ago: 90m, 12h, 3d",
			   text);
	strftime(out, TIME_SIZE, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&when, &utc));
	return out;
}

static error_t history_parse(int key, char *arg, struct argp_state *state)
{
	struct history *history = state->input;
	char *end;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &history->cli;
		return 0;
	case ARGP_KEY_ARG:
		return cli_word(&history->cli, arg, 0, state);
	case KEY_SERVER:
		history->filter.server = arg;
		return 0;
	case KEY_PATCH:
		history->filter.patch = arg;
		return 0;
	case KEY_SINCE:
		history->filter.since = parse_when(arg, false, history->since, state);
		return 0;
	case KEY_UNTIL:
		history->filter.until = parse_when(arg, true, history->until, state);
		return 0;
	case 'n': {
		unsigned long count = strtoul(arg, &end, 10);

		if (end == arg || *end || *arg == '-' || !count || count > 1000000000)
			argp_error(state, "'%s' is no number above zero", arg);
		history->filter.newest = (unsigned int)count;
		return 0;
	}
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const char *field(const json_t *record, const char *name)
{
	return json_string_value(json_object_get(record, name));
}

/* Is more than one server in it? Then the version does not tell which is meant. */
static bool several_servers(const json_t *all)
{
	const char *first = NULL;
	const json_t *record;
	size_t i;

	json_array_foreach(all, i, record)
	{
		const char *socket = field(record, "socket");

		if (!socket)
			continue;
		if (first && strcmp(first, socket) != 0)
			return true;
		first = socket;
	}
	return false;
}

static void print_history(const json_t *all)
{
	static const char *const titles[] = { "TIME",	"ACTION", "~PATCH", ">PID",	"~SERVER",
					      "RESULT", ">PAUSE", "BY",	    "~MESSAGE", NULL };
	struct pe_table *table = pe_table_new(titles);
	bool several = several_servers(all);
	const json_t *record;
	size_t i;

	json_array_foreach(all, i, record)
	{
		const char *socket = several ? field(record, "socket") : NULL;
		const char *gates = field(record, "gates"), *result = field(record, "result");
		char pid[24], pause[32] = "-", ended[64];
		json_int_t us = json_integer_value(json_object_get(record, "pause_us"));
		json_int_t level = json_integer_value(json_object_get(record, "level"));
		pe_auto_free char *patch =
			level && field(record, "patch")
				? pe_format("%s (level %lld)", field(record, "patch"),
					    (long long)level)
				: NULL;

		snprintf(pid, sizeof(pid), "%lld",
			 (long long)json_integer_value(json_object_get(record, "pid")));
		if (us)
			pe_format_us((unsigned long long)us, pause);
		snprintf(ended, sizeof(ended), "%s%s", result ? result : "-",
			 gates && strcmp(gates, "skipped") == 0 ? ", no gates" : "");
		pe_table_row(table, (const char *const[]){
					    field(record, "began"), field(record, "action"),
					    patch ? patch : field(record, "patch"), pid,
					    socket ? socket : field(record, "server"), ended, pause,
					    field(record, "by"), field(record, "message") });
	}
	pe_table_print_and_free(table);
}

/* The servers' own memory is the truth; a history is not complete without it. */
static void note_all_leftovers(void)
{
	struct dbc_servers servers = { 0 };
	pe_auto_error struct pe_error *err = dbc_discover(&servers);

	for (size_t i = 0; !err && i < servers.count; i++)
		cli_note_leftovers(&servers.items[i]);
	dbc_servers_deinit(&servers);
}

int cmd_history(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "server", KEY_SERVER, "SERVER", 0,
		  "Only of this server: its pid, its socket or its version" },
		{ "patch", KEY_PATCH, "NAME", 0, "Only of this patch" },
		{ "since", KEY_SINCE, "TIME", 0,
		  "Only what began then or later: 2026-11-29, '2026-11-29 08:00' (UTC), or how "
		  "long ago: 90m, 12h, 3d" },
		{ "until", KEY_UNTIL, "TIME", 0, "Only what began then or earlier" },
		{ "lines", 'n', "COUNT", 0, "Only the newest so many" },
		{ 0 }
	};
	static const struct argp_child children[] = { { &cli_common_argp }, { 0 } };
	static const struct argp argp = {
		options, history_parse, NULL,
		"Shows what was applied, reverted and taken back on this host, by hand and by the "
		"agent, in the order in which it began. BY is the user (behind sudo, too) or "
		"care-agent; SERVER its version, or its socket when the list has several "
		"servers.\v"
		"It is kept in /var/lib/dbcare/history.db ($DBCARE_STATE_DIR), an SQLite database "
		"whose table `operations` may be read by other programs. What is applied now is "
		"told by the servers themselves: see `dbcarectl list`.\n"
		"\n"
		"Examples:\n"
		"  dbcarectl history --since=7d\n"
		"  dbcarectl history --server=/run/mysqld/mysqld.sock --patch=CVE-2026-49261\n"
		"  dbcarectl history --json | jq '.history[] | select(.result != \"applied\")'\n",
		children
	};
	struct history history = { .cli.shows = true };
	json_t *all;

	argp_parse(&argp, argc, argv, 0, NULL, &history);

	struct pe_error *err = dbc_history_read(&history.filter, &all);

	if (err)
		return cli_fail(&history.cli, err);
	note_all_leftovers();
	if (history.cli.json) {
		pe_cli_json(json_pack("{s:o}", "history", all));
		return 0;
	}
	if (json_array_size(all))
		print_history(all);
	else
		puts("Nothing was done on this host, or nothing of what was asked for.");
	json_decref(all);
	return 0;
}

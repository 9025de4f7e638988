/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Events: to the journal with fields of their own when it is there, else to stderr; the last ones
 * are kept, so that whoever follows them and falls behind for a moment loses none.
 */
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <syslog.h>
#ifdef HAVE_SYSTEMD
#include <systemd/sd-journal.h>
#endif

#include "agent/daemon/agent.h"
#include "engine/cleanup.h"

enum { KEPT = 512, FOLLOWERS = 32 };

static struct {
	json_t *kept[KEPT]; /* event number n at n % KEPT */
	unsigned long long next;
	struct agent_task *followers[FOLLOWERS];
	size_t follower_count;
} events;

/* One line for people: "applied fix to /run/mysqld/mysqld.sock (pid 12): ...". */
static char *line_of(const json_t *event)
{
	static const char *const told[] = { "time", "event", "number", "target", "pid" };
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	const char *key;
	json_t *value;

	if (!out)
		return NULL;
	fprintf(out, "%s", json_string_value(json_object_get(event, "event")));
	if (json_object_get(event, "target"))
		fprintf(out, " %s (pid %lld)", json_string_value(json_object_get(event, "target")),
			(long long)json_integer_value(json_object_get(event, "pid")));
	json_object_foreach((json_t *)event, key, value)
	{
		bool skip = false;

		for (size_t i = 0; i < sizeof(told) / sizeof(*told); i++)
			skip |= strcmp(told[i], key) == 0;
		if (skip)
			continue;
		if (json_is_string(value)) {
			fprintf(out, " %s=%s", key, json_string_value(value));
			continue;
		}

		pe_auto_free char *dump = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

		fprintf(out, " %s=%s", key, dump ? dump : "?");
	}
	fclose(out);
	return text;
}

#ifdef HAVE_SYSTEMD
/* DBCARE_PATCH=..., so that `journalctl DBCARE_PATCH=fix` finds all about a patch. */
static bool to_journal(const json_t *event, int priority, const char *line)
{
	enum { MOST = 24 };
	struct iovec fields[MOST];
	char *texts[MOST];
	size_t count = 0;
	const char *key;
	json_t *value;

	if (!getenv("JOURNAL_STREAM"))
		return false;
	if (asprintf(&texts[count], "MESSAGE=%s", line) < 0)
		return false;
	count++;
	if (asprintf(&texts[count], "PRIORITY=%d", priority) >= 0)
		count++;
	json_object_foreach((json_t *)event, key, value)
	{
		pe_auto_free char *dump = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
		const char *plain = json_is_string(value) ? json_string_value(value) : dump;

		if (count == MOST || !plain ||
		    asprintf(&texts[count], "DBCARE_%s=%s", key, plain) < 0)
			break;
		for (char *c = texts[count]; *c && *c != '='; c++)
			*c = *c == '-' ? '_' : *c >= 'a' && *c <= 'z' ? (char)(*c - 32) : *c;
		count++;
	}
	for (size_t i = 0; i < count; i++)
		fields[i] = (struct iovec){ texts[i], strlen(texts[i]) };
	sd_journal_sendv(fields, (int)count);
	for (size_t i = 0; i < count; i++)
		free(texts[i]);
	return true;
}
#else
static bool to_journal(const json_t *event, int priority, const char *line)
{
	return false;
}
#endif

void agent_event(struct agent *agent, int priority, const char *name,
		 const struct agent_target *target, json_t *fields)
{
	char now[32];
	time_t seconds = time(NULL);
	struct tm utc;

	strftime(now, sizeof(now), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&seconds, &utc));

	json_t *event = json_pack("{s:s, s:s, s:I}", "time", now, "event", name, "number",
				  (json_int_t)events.next);

	if (target) {
		json_object_set_new(event, "target", json_string(agent_target_name(target)));
		json_object_set_new(event, "pid", json_integer(target->pid));
	}
	if (fields)
		json_object_update(event, fields);
	json_decref(fields);

	pe_auto_free char *line = line_of(event);

	if (line && !to_journal(event, priority, line))
		fprintf(stderr, "care-agent: %s\n", line);
	json_decref(events.kept[events.next % KEPT]);
	events.kept[events.next++ % KEPT] = event;
	for (size_t i = 0; i < events.follower_count; i++)
		agent_task_wake(events.followers[i]);
	events.follower_count = 0;
}

json_t *agent_events_wait(unsigned long long *after, bool wait)
{
	json_t *list = json_array();

	if (*after >= events.next && wait && events.follower_count == FOLLOWERS) {
		agent_task_sleep(500);
	} else if (*after >= events.next && wait) {
		events.followers[events.follower_count++] = agent_task_self();
		/* A connection that is closed meanwhile is found out at the next event. */
		agent_task_wait(-1);
	}
	if (*after + KEPT < events.next)
		*after = events.next - KEPT;
	while (*after < events.next)
		json_array_append(list, events.kept[(*after)++ % KEPT]);
	return list;
}

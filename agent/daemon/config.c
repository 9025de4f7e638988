/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/daemon/config.h"

#include <errno.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "agent/repo/day.h"
#include "agent/repo/sticky.h"
#include "engine/cleanup.h"

enum { HOUR = 3600, DAY = 24 * HOUR };

bool agent_parse_bool(const char *text, bool *ret)
{
	static const char *const words[] = { "no", "yes", "false", "true", "off", "on", "0", "1" };

	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		if (strcasecmp(text, words[i]) == 0) {
			*ret = i % 2;
			return true;
		}
	}
	return false;
}

bool agent_parse_duration(const char *text, uint64_t *seconds)
{
	static const struct {
		const char *name;
		uint64_t seconds;
	} units[] = { { "", 1 }, { "s", 1 }, { "m", 60 }, { "h", HOUR }, { "d", DAY } };
	char *end;

	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);

	if (errno || end == text || *text == '-' || value > 3650ULL * DAY)
		return false;
	for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++) {
		if (strcasecmp(end, units[i].name) == 0) {
			*seconds = value * units[i].seconds;
			return true;
		}
	}
	return false;
}

static const char *const policies[] = { "REMOTE", "LOCAL", "LOCAL_FIRST" };

const char *agent_policy_name(enum agent_update_policy policy)
{
	return policies[policy];
}

/* ---- one function a kind of value; false: not such a value ---- */

static bool set_bool(void *field, const char *value)
{
	return agent_parse_bool(value, field);
}

static bool set_duration(void *field, const char *value)
{
	return agent_parse_duration(value, field);
}

/* Empty takes the setting away. */
static bool set_text(void *field, const char *value)
{
	char **text = field;

	free(*text);
	*text = *value ? strdup(value) : NULL;
	return true;
}

static bool set_prefix(void *field, const char *value)
{
	static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				   "-_";

	return !value[strspn(value, good)] && set_text(field, value);
}

/* Whether that day is not too long ago changes with the time: policy.c asks. */
static bool set_sticky(void *field, const char *value)
{
	time_t day;
	pe_auto_error struct pe_error *err =
		*value && strcasecmp(value, "KEY") != 0 ? repo_day_parse(value, &day) : NULL;

	return !err && set_text(field, value);
}

static bool set_key(void *field, const char *value)
{
	return (!*value || repo_sticky_key_ok(value)) && set_text(field, value);
}

static bool set_number(void *field, const char *value)
{
	char *end;

	errno = 0;
	unsigned long number = strtoul(value, &end, 10);

	*(unsigned int *)field = (unsigned int)number;
	return !errno && (!*value || end != value) && !*end && *value != '-' && number <= INT32_MAX;
}

static bool no_limit(void *field, const char *value)
{
	*(unsigned int *)field = UINT_MAX;
	return !*value || strcasecmp(value, "none") == 0;
}

static bool set_limit(void *field, const char *value)
{
	return no_limit(field, value) || set_number(field, value);
}

static bool set_lag(void *field, const char *value)
{
	uint64_t seconds = 0;

	if (no_limit(field, value))
		return true;
	if (!agent_parse_duration(value, &seconds) || seconds > INT32_MAX)
		return false;
	*(unsigned int *)field = (unsigned int)seconds;
	return true;
}

static bool set_port(void *field, const char *value)
{
	return set_number(field, value) && *(unsigned int *)field < 65536;
}

/* Milliseconds to microseconds. */
static bool set_pause(void *field, const char *value)
{
	char *end;
	double ms = strtod(value, &end);

	*(uint64_t *)field = (uint64_t)(ms * 1000);
	return end != value && !*end && ms >= 0 && ms < 1e9;
}

static bool set_policy(void *field, const char *value)
{
	for (size_t i = 0; i < sizeof(policies) / sizeof(*policies); i++) {
		if (strcasecmp(value, policies[i]) == 0) {
			*(enum agent_update_policy *)field = (enum agent_update_policy)i;
			return true;
		}
	}
	return false;
}

static bool set_interval(void *field, const char *value)
{
	return agent_parse_duration(value, field) && *(uint64_t *)field > 0;
}

#define FIELD(name) offsetof(struct agent_settings, name)

static const struct {
	const char *name;
	size_t field;
	bool (*set)(void *field, const char *value);
	const char *wanted;
} keys[] = {
	{ "AUTO_UPDATE", FIELD(auto_update), set_bool, "YES or NO" },
	{ "UPDATE_POLICY", FIELD(update_policy), set_policy, "REMOTE, LOCAL or LOCAL_FIRST" },
	{ "PATCH_SERVER", FIELD(patch_server), set_text, "a URL" },
	{ "PREFIX", FIELD(prefix), set_prefix, "letters, digits, - and _" },
	{ "STICKY_PATCH", FIELD(sticky_patch), set_sticky, "a date DDMMYY, or KEY" },
	{ "REGISTRATION_KEY", FIELD(registration_key), set_key,
	  "8 to 64 letters, digits and hyphens" },
	{ "STICKY_PATCHSET", FIELD(sticky_level), set_number, "a level" },
	{ "UPDATE_DELAY", FIELD(update_delay_s), set_duration, "a time such as 12h or 3d" },
	{ "CHECK_INTERVAL", FIELD(check_interval_s), set_interval, "a time such as 4h" },
	{ "SCAN_INTERVAL", FIELD(scan_interval_s), set_interval, "a time such as 10s" },
	{ "MAX_PAUSE", FIELD(max_pause_us), set_pause, "milliseconds" },
	{ "MAX_LAG", FIELD(max_lag_s), set_lag, "a time such as 60s, or none" },
	{ "MAX_LOAD", FIELD(max_load), set_limit, "a number of statements, or none" },
	{ "PROXY", FIELD(proxy), set_text, "a URL" },
	{ "NO_PROXY", FIELD(no_proxy), set_text, "names, comma between" },
	{ "CA_FILE", FIELD(ca_file), set_text, "a file" },
	{ "SQL_USER", FIELD(sql_user), set_text, "an account" },
	{ "SQL_DEFAULTS_FILE", FIELD(sql_defaults_file), set_text, "a file" },
	{ "ONLY_TARGETS", FIELD(only_targets), set_text, "patterns" },
	{ "IGNORE_TARGETS", FIELD(ignore_targets), set_text, "patterns" },
	{ "METRICS_PORT", FIELD(metrics_port), set_port, "a port, or 0" },
	{ "METRICS_FILE", FIELD(metrics_file), set_text, "a file" },
	{ "SANDBOXED_TARGETS", FIELD(sandboxed_targets), set_bool, "YES or NO" },
};

static bool matches(const char *patterns, const char *name)
{
	pe_auto_free char *copy = strdup(patterns);
	char *rest = copy;

	for (char *word; copy && (word = strsep(&rest, " \t"));) {
		if (*word && fnmatch(word, name, 0) == 0)
			return true;
	}
	return false;
}

bool agent_settings_include(const struct agent_settings *settings, const char *name)
{
	if (settings->ignore_targets && matches(settings->ignore_targets, name))
		return false;
	return !settings->only_targets || matches(settings->only_targets, name);
}

struct reading {
	struct agent_settings *settings;
	const char *path;
};

static struct pe_error *take_setting(const struct reading *reading, const char *name,
				     const char *value)
{
	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
		if (strcmp(keys[i].name, name) != 0)
			continue;
		if (keys[i].set((char *)reading->settings + keys[i].field, value))
			return NULL;
		return pe_error_new(PE_ERR_FORMAT, "%s: %s=%.100s: what is wanted is %s",
				    reading->path, name, value, keys[i].wanted);
	}
	/* A misspelt key must not silently mean its default. */
	return pe_error_new(PE_ERR_FORMAT, "%s: there is no setting '%.64s'", reading->path, name);
}

/* Without blanks around it; in its own memory. */
static char *trimmed(char *text)
{
	text += strspn(text, " \t\r\n");
	for (size_t size = strlen(text); size && strchr(" \t\r\n", text[size - 1]); size--)
		text[size - 1] = '\0';
	return text;
}

static void cut_comment(char *value)
{
	for (char *at = strchr(value, ';'); at; at = strchr(at + 1, ';')) {
		if (at > value && (at[-1] == ' ' || at[-1] == '\t')) {
			*at = '\0';
			return;
		}
	}
}

/* Of any length: libraries for such files have a limit that a list of a dozen servers exceeds. */
static struct pe_error *take_line(const struct reading *reading, char *line, int number)
{
	char *name = trimmed(line);
	char *value = strchr(name, '=');

	if (!*name || *name == '#' || *name == ';')
		return NULL;
	if (!value)
		return pe_error_new(PE_ERR_FORMAT, "%s: line %d is no KEY=VALUE", reading->path,
				    number);
	*value++ = '\0';
	cut_comment(value);
	return take_setting(reading, trimmed(name), trimmed(value));
}

static struct pe_error *take_lines(const struct reading *reading, FILE *in)
{
	pe_auto_free char *line = NULL;
	size_t room = 0;
	ssize_t size;
	struct pe_error *err = NULL;

	for (int number = 1; !err && (size = getline(&line, &room, in)) >= 0; number++) {
		if (memchr(line, '\0', (size_t)size))
			return pe_error_new(PE_ERR_FORMAT, "%s: line %d is no text", reading->path,
					    number);
		err = take_line(reading, line, number);
	}
	if (!err && ferror(in))
		err = pe_error_errno(errno, "cannot read %s", reading->path);
	return err;
}

struct pe_error *agent_settings_read(const char *path, struct agent_settings *ret)
{
	*ret = (struct agent_settings){
		.auto_update = true,
		.check_interval_s = 4 * HOUR,
		.scan_interval_s = 10,
		.max_lag_s = 60,
		.max_load = UINT_MAX,
	};
	pe_auto_file FILE *in = fopen(path, "re");
	struct stat st;

	if (!in && errno == ENOENT)
		return NULL;
	if (!in)
		return pe_error_errno(errno, "cannot read %s", path);
	if (fstat(fileno(in), &st) == 0 && st.st_mode & S_IWOTH)
		return pe_error_new(PE_ERR_PERMISSION,
				    "%s can be written by everybody: chmod o-w it", path);

	struct pe_error *err = take_lines(&(struct reading){ ret, path }, in);

	/* An agent that was taken over must not be able to get the patcher more rights. */
	if (!err && ret->sandboxed_targets && fstat(fileno(in), &st) == 0 &&
	    (st.st_uid != 0 || (st.st_gid != 0 && st.st_mode & S_IWGRP)))
		err = pe_error_new(PE_ERR_PERMISSION,
				   "%s: SANDBOXED_TARGETS counts only in a file that root alone "
				   "can write: chown root and chmod go-w it",
				   path);
	if (err)
		agent_settings_deinit(ret);
	return err;
}

static bool is_text(size_t key)
{
	return keys[key].set == set_text || keys[key].set == set_prefix ||
	       keys[key].set == set_sticky || keys[key].set == set_key;
}

void agent_settings_replace(struct agent_settings *settings, struct agent_settings *fresh)
{
	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
		char **old = (char **)((char *)settings + keys[i].field);
		char **new = (char **)((char *)fresh + keys[i].field);

		if (!is_text(i) || !*old || !*new || strcmp(*old, *new) != 0)
			continue;
		free(*new);
		*new = *old;
	}
	fresh->key_sticky = settings->key_sticky;
	*settings = *fresh;
	*fresh = (struct agent_settings){ 0 };
}

void agent_settings_deinit(struct agent_settings *settings)
{
	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
		if (is_text(i))
			free(*(char **)((char *)settings + keys[i].field));
	}
	free(settings->key_sticky);
	*settings = (struct agent_settings){ 0 };
}

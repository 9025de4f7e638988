/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What has to outlive the agent, in STATE_DIR/agent.json, replaced as a whole: holds of operators
 * ("" for all servers), patches that were followed by a crash or failed their verification, the
 * level that each server had, by its name, and what the repository says of the host's key.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "agent/daemon/agent.h"
#include "agent/paths.h"
#include "agent/repo/sticky.h"
#include "agent/repo/store.h"
#include "engine/cleanup.h"

static json_t *part(struct agent *agent, const char *name)
{
	json_t *object = json_object_get(agent->state, name);

	if (!json_is_object(object)) {
		object = json_object();
		json_object_set_new(agent->state, name, object);
	}
	return object;
}

void agent_state_load(struct agent *agent)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/agent.json", agent_state_dir());
	agent->state = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(agent->state)) {
		json_decref(agent->state);
		agent->state = json_object();
	}
	agent->last_check = json_integer_value(json_object_get(agent->state, "last_check"));
	agent->last_success = json_integer_value(json_object_get(agent->state, "last_success"));
	agent_state_key_known(agent);
}

static struct pe_error *save(struct agent *agent)
{
	char path[PATH_MAX], fresh[PATH_MAX + 8];
	pe_auto_free char *text = json_dumps(agent->state, JSON_INDENT(1) | JSON_SORT_KEYS);

	if (!text)
		return pe_error_nomem();
	snprintf(path, sizeof(path), "%s/agent.json", agent_state_dir());
	snprintf(fresh, sizeof(fresh), "%s.new", path);

	pe_auto_fd int fd =
		open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
	size_t size = strlen(text);

	if (fd < 0 || !repo_write_all(fd, text, size) || fsync(fd) != 0 || rename(fresh, path) != 0)
		return pe_error_errno(errno, "cannot write %s", path);
	return NULL;
}

void agent_state_save(struct agent *agent)
{
	json_object_set_new(agent->state, "last_check", json_integer(agent->last_check));
	json_object_set_new(agent->state, "last_success", json_integer(agent->last_success));

	pe_auto_error struct pe_error *err = save(agent);

	if (err)
		agent_event(agent, LOG_ERR, "state-not-saved", NULL,
			    json_pack("{s:s}", "message", err->message));
}

const char *agent_state_held_by(struct agent *agent, const char *target)
{
	return json_string_value(json_object_get(part(agent, "holds"), target));
}

const json_t *agent_state_holds(struct agent *agent)
{
	return part(agent, "holds");
}

void agent_state_hold(struct agent *agent, const char *target, const char *by)
{
	json_object_set_new(part(agent, "holds"), target, json_string(by));
	agent_state_save(agent);
}

bool agent_state_resume(struct agent *agent, const char *target)
{
	bool found = json_object_del(part(agent, "holds"), target) == 0;

	agent_state_save(agent);
	return found;
}

void agent_state_crashed(struct agent *agent, const char *sha256, const char *name,
			 const char *server)
{
	json_object_set_new(part(agent, "crashed"), sha256,
			    json_pack("{s:s, s:s, s:I}", "patch", name, "server", server, "time",
				      (json_int_t)time(NULL)));
	agent_state_save(agent);
}

int agent_state_suspect(struct agent *agent, const char *sha256)
{
	json_t *suspected = part(agent, "suspected");
	json_int_t count = json_integer_value(json_object_get(suspected, sha256)) + 1;

	json_object_set_new(suspected, sha256, json_integer(count));
	agent_state_save(agent);
	return (int)count;
}

const json_t *agent_state_crash_of(struct agent *agent, const char *sha256)
{
	return json_object_get(part(agent, "crashed"), sha256);
}

void agent_state_failed(struct agent *agent, const char *sha256, const char *server,
			const char *why)
{
	json_object_set_new(part(agent, "failed"), sha256,
			    json_pack("{s:s, s:s, s:I}", "server", server, "message", why, "time",
				      (json_int_t)time(NULL)));
	agent_state_save(agent);
}

char *agent_state_suspicion(struct agent *agent, const char *sha256)
{
	const json_t *failed = json_object_get(part(agent, "failed"), sha256);
	const char *way_out = "it is not applied again by itself; `dbcarectl update --again` does";
	char *text = NULL;

	if (agent_state_crash_of(agent, sha256) &&
	    asprintf(&text, "a server crashed within a minute of this patch: %s", way_out) < 0)
		return NULL;
	if (text || !failed)
		return text;
	return asprintf(&text, "%s (server %s): %s",
			json_string_value(json_object_get(failed, "message")),
			json_string_value(json_object_get(failed, "server")), way_out) < 0
		       ? NULL
		       : text;
}

void agent_state_forgive(struct agent *agent, const char *sha256)
{
	bool known = json_object_del(part(agent, "crashed"), sha256) == 0;

	known |= json_object_del(part(agent, "failed"), sha256) == 0;
	json_object_del(part(agent, "suspected"), sha256);
	if (known)
		agent_state_save(agent);
}

void agent_state_had(struct agent *agent, const char *target, const char *build_id,
		     unsigned int level)
{
	json_object_set_new(part(agent, "levels"), target,
			    json_pack("{s:s, s:i}", "build_id", build_id, "level", (int)level));
	agent_state_save(agent);
}

int agent_state_level_of(struct agent *agent, const char *target, const char **build_id)
{
	const json_t *had = json_object_get(part(agent, "levels"), target);
	const json_t *level = json_object_get(had, "level");
	const char *id = json_string_value(json_object_get(had, "build_id"));

	if (build_id)
		*build_id = id ? id : "";
	return json_is_integer(level) ? (int)json_integer_value(level) : -1;
}

static void use_tag(struct agent *agent, const char *tag)
{
	free(agent->settings.key_sticky);
	agent->settings.key_sticky = tag ? strdup(tag) : NULL;
}

void agent_state_key_says(struct agent *agent, const char *tag)
{
	const char *key = agent->settings.registration_key;
	pe_auto_free char *folder = key ? repo_sticky_folder(key) : NULL;

	json_object_set_new(agent->state, "key",
			    json_pack("{s:s?, s:s?}", "folder", folder, REPO_STICKY, tag));
	use_tag(agent, tag);
}

void agent_state_key_known(struct agent *agent)
{
	const json_t *known = part(agent, "key");
	const char *of = json_string_value(json_object_get(known, "folder"));
	const char *key = agent->settings.registration_key;
	pe_auto_free char *folder = key ? repo_sticky_folder(key) : NULL;
	bool same = of && folder && strcmp(of, folder) == 0;

	use_tag(agent, same ? json_string_value(json_object_get(known, REPO_STICKY)) : NULL);
}

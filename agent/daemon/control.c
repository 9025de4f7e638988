/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control socket: one request a line, one answer a line, {"ok":true,...} or {"ok":false,
 * "code","message"}. Who may: root, and members of the agent's group (peer credentials).
 *
 *	{"do":"status"}  {"do":"update","target":T,"again":B,"dry_run":B,"remote":B}
 *	{"do":"hold","target":T}  {"do":"resume","target":T}  {"do":"events"} (answers without end)
 *	{"do":"metrics"}  {"do":"blocked","name":N,"level":L,"build_ids":[...]}
 */
#include <errno.h>
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <syslog.h>

#include "agent/daemon/agent.h"
#include "agent/sockets.h"
#include "engine/cleanup.h"

enum { REQUEST_MOST = 1 << 16, CLIENTS_MOST = 32, UPDATE_MS = 120000 };

struct client {
	struct agent *agent;
	struct agent_lines lines;
	uid_t uid;
};

static size_t client_count;

static struct pe_error *send_all(struct client *client, json_t *message)
{
	struct pe_error *err = agent_lines_put(&client->lines, message, -1);

	while (!err && client->lines.out_used) {
		err = agent_lines_flush(&client->lines);
		if (!err && client->lines.out_used)
			agent_task_poll(NULL, client->lines.fd, POLLOUT, 10000);
	}
	return err;
}

/* ---- status ---- */

static json_t *settings_json(const struct agent_settings *s)
{
	return json_pack("{s:b, s:s, s:s?, s:s?, s:s?, s:s?, s:I, s:I, s:I}", "AUTO_UPDATE",
			 s->auto_update, "UPDATE_POLICY", agent_policy_name(s->update_policy),
			 "PATCH_SERVER", s->patch_server, "PREFIX", s->prefix, "STICKY_PATCH",
			 s->sticky_patch, "key_sticky", s->key_sticky, "STICKY_PATCHSET",
			 (json_int_t)s->sticky_level, "UPDATE_DELAY", (json_int_t)s->update_delay_s,
			 "CHECK_INTERVAL", (json_int_t)s->check_interval_s);
}

/* What is wrong with the settings; owned by the caller; NULL: nothing. */
static char *complaint(const struct agent *agent)
{
	time_t until;
	pe_auto_error struct pe_error *err =
		agent_sticky_until(&agent->settings, time(NULL), &until);

	if (agent->settings_error)
		return strdup(agent->settings_error);
	return err ? strdup(err->message) : NULL;
}

/* What those settings would give a target; NULL: nothing, or it is left out. */
static const struct agent_offer *offered(const struct agent *agent, const struct agent_target *t,
					 const struct agent_settings *settings)
{
	const char *id =
		json_string_value(json_array_get(json_object_get(t->info, "build_ids"), 0));

	if (!id || !agent_settings_include(settings, agent_target_name(t)))
		return NULL;
	return agent_choose(&agent->offers, t->provider->name, id, settings, -1, time(NULL), NULL);
}

static struct pe_error *do_status(struct client *client, const json_t *request, json_t *answer)
{
	struct agent *agent = client->agent;
	json_t *targets = json_array();
	pe_auto_free char *wrong = complaint(agent);

	agent_scan_fresh(agent);
	for (struct agent_target *t = agent->targets; t; t = t->next) {
		const struct agent_offer *offer = offered(agent, t, &agent->settings);
		json_t *target = agent_target_json(t);

		json_object_set_new(target, "offered",
				    offer ? json_pack("{s:s, s:i}", "name", offer->name, "level",
						      (int)offer->level)
					  : json_null());
		json_array_append_new(targets, target);
	}
	json_object_set_new(answer, "targets", targets);
	json_object_set_new(answer, "version", json_string(CARE_VERSION));
	json_object_set_new(answer, "pid", json_integer(getpid()));
	json_object_set_new(answer, "started", json_integer(agent->started));
	json_object_set_new(answer, "last_check", json_integer(agent->last_check));
	json_object_set_new(answer, "last_success", json_integer(agent->last_success));
	json_object_set_new(answer, "next_check", json_integer(agent->next_check));
	json_object_set_new(answer, "check_error",
			    agent->check_error ? json_string(agent->check_error) : json_null());
	json_object_set_new(answer, "settings_error", wrong ? json_string(wrong) : json_null());
	json_object_set_new(answer, "watching", json_boolean(agent->watching));
	json_object_set_new(answer, "held_all",
			    json_boolean(agent_state_held_by(agent, "") != NULL));
	json_object_set_new(answer, "offers", json_integer((json_int_t)agent->offers.count));
	json_object_set_new(answer, "settings", settings_json(&agent->settings));
	json_object_set(answer, "state", agent->state);
	return NULL;
}

/* ---- update, hold, resume ---- */

/* Names of the targets that @text means; NULL or empty means all. NO_TARGET: none is so called. */
static struct pe_error *check_name(struct agent *agent, const char *text, const char **ret)
{
	*ret = "";
	if (!text || !*text)
		return NULL;
	for (struct agent_target *t = agent->targets; t; t = t->next) {
		if (agent_target_is(t, text)) {
			*ret = agent_target_name(t);
			return NULL;
		}
	}
	return pe_error_new(PE_ERR_NO_TARGET, "the agent knows no target '%.200s'", text);
}

/* Brings what the repository has for them into the cache, from where the policy takes it. */
static struct pe_error *fetch_newest(struct agent *agent, const char *text)
{
	struct agent_settings settings = agent->settings;
	struct agent_offers offers = { 0 };
	struct pe_error *err = NULL;

	settings.update_policy = AGENT_REMOTE;
	for (struct agent_target *t = agent->targets; t; t = t->next) {
		const struct agent_offer *offer = offered(agent, t, &settings);
		struct agent_offer *grown;

		if (!offer || offer->cached || (text && *text && !agent_target_is(t, text)))
			continue;
		grown = reallocarray(offers.items, offers.count + 1, sizeof(*grown));
		if (!grown)
			break;
		offers.items = grown;
		grown[offers.count++] = agent_offer_copy(offer);
	}
	for (size_t i = 0; !err && i < offers.count; i++)
		err = agent_fetch_remote(agent, &offers.items[i]);
	agent_offers_deinit(&offers);
	agent_offers_refresh(agent);
	return err;
}

static bool busy(const struct agent_target *target)
{
	return target->urgent || (target->doing && target->ready_ms);
}

/* Checks the repository, lets the targets work, and waits until they have. */
static struct pe_error *do_update(struct client *client, const json_t *request, json_t *answer)
{
	struct agent *agent = client->agent;
	const char *text = json_string_value(json_object_get(request, "target")), *name;
	bool look_only = json_is_true(json_object_get(request, "dry_run"));
	bool remote = json_is_true(json_object_get(request, "remote"));
	struct pe_error *err = check_name(agent, text, &name);
	uint64_t until = uv_hrtime() / 1000000 + UPDATE_MS;
	time_t sticky;

	if (err)
		return err;

	pe_auto_free char *wanted = strdup(name);
	unsigned int before = agent->checks;

	agent_offers_refresh(agent);
	if (agent->settings.patch_server &&
	    (remote || agent->settings.update_policy != AGENT_LOCAL)) {
		unsigned int checks = agent->checks;

		agent_check_wanted(agent, look_only);
		while (agent->checks == checks && uv_hrtime() / 1000000 < until)
			agent_task_sleep(20);
	}
	err = agent_sticky_until(&agent->settings, time(NULL), &sticky);
	if (!err && remote && !look_only)
		err = fetch_newest(agent, text);
	if (err)
		return err;
	for (struct agent_target *t = agent->targets; t && !look_only; t = t->next) {
		if (*wanted && !agent_target_is(t, text))
			continue;
		t->urgent = true;
		t->again = json_is_true(json_object_get(request, "again"));
		if (t->task)
			agent_task_wake(t->task);
	}
	for (bool working = !look_only; working && uv_hrtime() / 1000000 < until;) {
		working = false;
		for (struct agent_target *t = agent->targets; t; t = t->next)
			working |= (!*wanted || agent_target_is(t, text)) && busy(t);
		if (working)
			agent_task_sleep(20);
	}
	json_object_set_new(answer, "checked", json_boolean(agent->checks != before));
	json_object_set_new(answer, "wanted", json_string(wanted));
	return do_status(client, request, answer);
}

static void name_of_user(uid_t uid, char out[64])
{
	const struct passwd *entry = getpwuid(uid);

	snprintf(out, 64, "%s", entry ? entry->pw_name : "");
	if (!entry)
		snprintf(out, 64, "uid %u", (unsigned int)uid);
}

/* What is held now, so that nobody takes the end of one hold for the end of all. */
static void tell_holds(struct agent *agent, const char *name, json_t *answer)
{
	json_t *holds = json_copy((json_t *)agent_state_holds(agent)); /* its values are shared */
	json_t *all = json_object_get(holds, "");

	json_object_set_new(answer, "name", json_string(name));
	json_object_set_new(answer, "all_held_by", all ? json_incref(all) : json_null());
	json_object_del(holds, "");
	json_object_set_new(answer, "held_by", holds);
}

static struct pe_error *do_hold(struct client *client, const json_t *request, json_t *answer)
{
	const char *name;
	char by[64];
	struct pe_error *err = check_name(
		client->agent, json_string_value(json_object_get(request, "target")), &name);

	if (err)
		return err;
	name_of_user(client->uid, by);
	agent_state_hold(client->agent, name, by);
	agent_event(client->agent, LOG_NOTICE, "hold", NULL,
		    json_pack("{s:s, s:s}", "by", by, "name", *name ? name : "all"));
	tell_holds(client->agent, name, answer);
	agent_wake_targets(client->agent, 0);
	return NULL;
}

/* A patch that was reverted by hand is let in again; with AUTO_UPDATE off, by `update' alone. */
static bool let_in_again(struct agent *agent, const char *name)
{
	bool any = false;

	for (struct agent_target *t = agent->targets; t; t = t->next) {
		if (!t->reverted_by_hand || (*name && !agent_target_is(t, name)))
			continue;
		t->wanted |= agent->settings.auto_update;
		any = true;
	}
	return any;
}

/* There was no such hold; and which there is instead. */
static struct pe_error *nothing_held(struct agent *agent, const char *name)
{
	const char *all_by = agent_state_held_by(agent, ""), *held;
	pe_auto_free char *list = NULL;
	size_t room;
	json_t *by;
	int count = 0;

	if (*name && all_by)
		return pe_error_new(PE_ERR_NOTHING,
				    "%s has no hold of its own: all servers are held, by %s, and "
				    "`dbcarectl resume` without a target ends that for all",
				    name, all_by);
	if (*name)
		return pe_error_new(PE_ERR_NOTHING, "nothing was held: %s", name);

	FILE *out = open_memstream(&list, &room);

	if (!out)
		return pe_error_nomem();
	json_object_foreach((json_t *)agent_state_holds(agent), held, by)
		fprintf(out, "%s%s (by %s)", count++ ? ", " : "", held, json_string_value(by));
	fclose(out);
	if (!count)
		return pe_error_new(PE_ERR_NOTHING, "nothing was held");
	return pe_error_new(
		PE_ERR_NOTHING,
		"there is no hold of all servers; of their own have one: %s; `dbcarectl "
		"resume TARGET` ends it",
		list ? list : "");
}

static struct pe_error *do_resume(struct client *client, const json_t *request, json_t *answer)
{
	struct agent *agent = client->agent;
	const char *text = json_string_value(json_object_get(request, "target")), *name;
	char by[64];
	struct pe_error *err = check_name(agent, text, &name);

	/* A hold may be of a server that does not run now. */
	if (err && text && agent_state_resume(agent, text)) {
		pe_error_free(err);
		err = NULL;
		name = text;
	} else if (!err && !(let_in_again(agent, name) | agent_state_resume(agent, name))) {
		err = nothing_held(agent, name);
	}
	if (err)
		return err;
	name_of_user(client->uid, by);
	agent_event(agent, LOG_NOTICE, "resume", NULL,
		    json_pack("{s:s, s:s}", "by", by, "name", *name ? name : "all"));
	tell_holds(agent, name, answer);
	agent_wake_targets(agent, 0);
	return NULL;
}

/* Did the publisher take back that patch? For somebody who is about to apply it by hand. */
static struct pe_error *do_blocked(struct client *client, const json_t *request, json_t *answer)
{
	const char *name = json_string_value(json_object_get(request, "name")), *why = NULL;
	json_int_t level = json_integer_value(json_object_get(request, "level"));
	bool blocked = false;
	const json_t *id;
	size_t i;

	json_array_foreach(json_object_get(request, "build_ids"), i, id)
	{
		if (!blocked && name && json_is_string(id))
			blocked = agent_is_blocked(&client->agent->offers, json_string_value(id),
						   name, (unsigned int)level, &why);
	}
	json_object_set_new(answer, "blocked", json_boolean(blocked));
	json_object_set_new(answer, "reason", why ? json_string(why) : json_null());
	return NULL;
}

static struct pe_error *do_metrics(struct client *client, const json_t *request, json_t *answer)
{
	pe_auto_free char *text = agent_metrics_text(client->agent);

	json_object_set_new(answer, "text", json_string(text ? text : ""));
	return NULL;
}

/* Until the client goes away. */
static struct pe_error *stream_events(struct client *client, const json_t *request)
{
	unsigned long long after = 0;
	bool follow = json_is_true(json_object_get(request, "follow"));
	struct pe_error *err = NULL;

	while (!err) {
		json_t *list = agent_events_wait(&after, follow), *event;
		size_t i;

		json_array_foreach(list, i, event)
		{
			if (!err)
				err = send_all(client, json_incref(event));
		}
		json_decref(list);
		if (!follow)
			return err ? err : send_all(client, json_pack("{s:b}", "ok", 1));
	}
	return err;
}

static const struct {
	const char *name;
	struct pe_error *(*run)(struct client *client, const json_t *request, json_t *answer);
} verbs[] = {
	{ "status", do_status }, { "update", do_update },   { "hold", do_hold },
	{ "resume", do_resume }, { "metrics", do_metrics }, { "blocked", do_blocked },
};

static struct pe_error *answer_one(struct client *client, const json_t *request)
{
	const char *verb = json_string_value(json_object_get(request, "do"));
	json_t *answer = json_object();
	struct pe_error *err = NULL;
	bool known = false;

	if (verb && strcmp(verb, "events") == 0) {
		json_decref(answer);
		return stream_events(client, request);
	}
	for (size_t i = 0; verb && i < sizeof(verbs) / sizeof(*verbs); i++) {
		if (strcmp(verbs[i].name, verb) != 0)
			continue;
		known = true;
		err = verbs[i].run(client, request, answer);
	}
	if (!known)
		err = pe_error_new(PE_ERR_USAGE, "there is no request '%.32s'", verb ? verb : "");
	json_object_set_new(answer, "ok", json_boolean(!err));
	if (err) {
		pe_auto_free char *text = pe_error_text(err);

		json_object_set_new(answer, "code", json_string(pe_code_name(err->code)));
		json_object_set_new(answer, "message", json_string(text ? text : ""));
		pe_error_free(err);
	}
	return send_all(client, answer);
}

static void client_task(void *arg)
{
	struct client *client = arg;
	struct pe_error *err = NULL;

	while (!err) {
		json_t *request;

		err = agent_lines_next(&client->lines, &request, NULL);
		if (request) {
			err = answer_one(client, request);
			json_decref(request);
			continue;
		}
		if (err)
			break;
		agent_task_poll(NULL, client->lines.fd, POLLIN, -1);
		err = agent_lines_read(&client->lines);
		if (err && err->code == PE_ERR_BUSY) {
			pe_error_free(err);
			err = NULL;
		}
	}
	pe_error_free(err);
	agent_lines_deinit(&client->lines);
	free(client);
	client_count--;
}

struct accepting {
	struct agent *agent;
	int listener;
};

static void greet(struct agent *agent, int fd)
{
	struct client *client = calloc(1, sizeof(*client));
	uid_t uid = (uid_t)-1;

	if (!client || client_count == CLIENTS_MOST ||
	    !agent_peer_allowed(fd, agent->uid, agent->gid, &uid)) {
		close(fd);
		free(client);
		return;
	}
	client->agent = agent;
	client->uid = uid;
	agent_lines_init(&client->lines, fd, REQUEST_MOST);
	client_count++;

	pe_auto_error struct pe_error *err = agent_task_start(client_task, client);

	if (err) {
		agent_lines_deinit(&client->lines);
		free(client);
		client_count--;
	}
}

static void accept_task(void *arg)
{
	struct accepting *accepting = arg;

	for (;;) {
		int fd = accept4(accepting->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0)
			greet(accepting->agent, fd);
		else if (errno == EAGAIN)
			agent_task_poll(NULL, accepting->listener, POLLIN, -1);
		else
			agent_task_sleep(100); /* out of descriptors, or so */
	}
}

struct pe_error *agent_control_start(struct agent *agent, int listener)
{
	static struct accepting accepting;

	accepting = (struct accepting){ agent, listener };
	return agent_task_start(accept_task, &accepting);
}

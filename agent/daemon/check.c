/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * When the repository is asked what is new (repository.c): every few hours, give or take a tenth;
 * after a failure sooner, more and more slowly; and when somebody wants it.
 */
#include <malloc.h>
#include <string.h>
#include <sys/random.h>
#include <syslog.h>

#include "agent/daemon/agent.h"
#include "engine/cleanup.h"

enum { BACK_OFF_FIRST = 60, FIRST_DELAY = 30 };

void agent_check_wanted(struct agent *agent, bool look_only)
{
	/* Who wants more is not held up by who wants less. */
	agent->look_only = look_only && (agent->look_only || !agent->check_now);
	agent->check_now = true;
	if (agent->check_task)
		agent_task_wake(agent->check_task);
}

void agent_check_new_build(struct agent *agent, const char *product, const char *build_id)
{
	const struct agent_settings *settings = &agent->settings;
	char key[160];

	snprintf(key, sizeof(key), "%s %s", product, build_id);
	if (!*build_id || !settings->patch_server || !settings->auto_update ||
	    settings->update_policy == AGENT_LOCAL || !agent->checked_builds ||
	    json_object_get(agent->checked_builds, key))
		return;
	json_object_set_new(agent->checked_builds, key, json_true());
	agent_check_wanted(agent, false);
}

/* Hosts that were started together must not ask together. */
static time_t scatter(uint64_t seconds)
{
	uint32_t random = 0;

	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		random = (uint32_t)uv_hrtime();
	return (time_t)(seconds - seconds / 10 + random % (seconds / 5 + 1));
}

/* A sticky day that cannot be followed is told of at each check, for it may come by itself. */
static void tell_sticky(struct agent *agent)
{
	time_t until;
	pe_auto_error struct pe_error *err =
		agent_sticky_until(&agent->settings, time(NULL), &until);

	if (err)
		agent_event(agent, LOG_WARNING, "sticky-refused", NULL,
			    json_pack("{s:s}", "message", err->message));
}

static void after_check(struct agent *agent, struct pe_error *err, bool look_only,
			unsigned int *failures)
{
	uint64_t wait = agent->settings.check_interval_s;

	agent->last_check = time(NULL);
	agent->checks++;
	free(agent->check_error);
	agent->check_error = err ? pe_error_text(err) : NULL;
	if (err) {
		uint64_t back_off = (uint64_t)BACK_OFF_FIRST << (*failures < 16 ? *failures : 16);

		(*failures)++;
		wait = back_off < wait ? back_off : wait;
		if (err->code == PE_ERR_POLICY)
			agent->counts.signature_failures++;
		agent_event(agent, LOG_ERR, "check-failed", NULL,
			    json_pack("{s:s}", "message", agent->check_error));
	} else {
		*failures = 0;
		agent->last_success = agent->last_check;
		agent_event(agent, LOG_INFO, "checked", NULL, NULL);
		agent_offers_refresh(agent);
		tell_sticky(agent);
		if (!look_only)
			agent_wake_targets(agent, 0);
	}
	agent->next_check = agent->last_check + scatter(wait);
	agent_state_save(agent);
	pe_error_free(err);
	/* Metadata were the most that was needed, and will be for hours: back with what is free. */
	malloc_trim(0);
}

void agent_check_task(void *arg)
{
	struct agent *agent = arg;
	unsigned int failures = 0;
	time_t due = agent->last_success + (time_t)agent->settings.check_interval_s;

	agent->check_task = agent_task_self();
	agent->next_check = time(NULL) + scatter(FIRST_DELAY);
	if (agent->last_success && due > agent->next_check && due < time(NULL) + 86400)
		agent->next_check = due;
	for (;;) {
		const struct agent_settings *settings = &agent->settings;
		bool asked = agent->check_now, look_only = agent->look_only;
		time_t now = time(NULL);
		/* Planned by a clock that was ahead and has been put right. */
		bool far = agent->next_check - now > 2 * (time_t)settings->check_interval_s;
		bool by_itself = settings->auto_update && settings->update_policy != AGENT_LOCAL &&
				 (now >= agent->next_check || far);

		agent->check_now = agent->look_only = false;
		if (settings->patch_server && (asked || by_itself)) {
			after_check(agent, agent_repository_ask(agent), look_only, &failures);
			continue;
		}

		time_t away = agent->next_check - now;

		/* Shorter than a clock that is set could make wrong. */
		agent_task_wait(away > 0 && away < 60 ? (int)away * 1000 + 100 : 60000);
	}
}

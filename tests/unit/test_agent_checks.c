/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Years of checks in one process: the agent's own timer, repository client and state, with a clock
 * that jumps by nearly five hours before each check, against a repository of care-repo (CARE_REPO)
 * that changes now and then. Nothing may grow; the sanitizer counts to the byte.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
/* GCC has it and no header that says so. */
size_t __sanitizer_get_current_allocated_bytes(void);
#endif

#include "agent/daemon/agent.h"
#include "build/files.h"
#include "engine/cleanup.h"

enum {
	STEP = 48 * 360,   /* seconds between checks */
	CHANGE = 50,	   /* checks between changes of the repository */
	WARM = 2 * CHANGE, /* checks before memory is measured */
	EVENTS_KEPT = 512, /* by the agent: as many checks fill that room */
#ifdef __SANITIZE_ADDRESS__
	GROWTH_MOST = 1 << 14, /* bytes: texts of numbers and dates have not always one length */
#else
	GROWTH_MOST = 1 << 18, /* and threads keep some of what was freed */
#endif
};

static time_t ahead;

/* Everybody's in this process: agent, TUF client, libraries. */
time_t time(time_t *ret)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (ret)
		*ret = now.tv_sec + ahead;
	return now.tv_sec + ahead;
}

/* ---- a product, one of whose builds runs ---- */

static const struct agent_provider toy = { .name = "db" };
const struct agent_provider *const agent_providers[] = { &toy, NULL };

/* ---- the repository ---- */

/* In memory: each check syncs some files. */
static char folder[] = "/dev/shm/dbcare-checks.XXXXXX";

static void repo(const char *command)
{
	pe_auto_free char *line = NULL;

	assert_true(asprintf(&line, "$CARE_REPO --repo %s/repo --quiet --no-passphrase %s", folder,
			     command) > 0);
	assert_int_equal(system(line), 0);
}

/* Ten years: the publisher need not come each day. */
static void last_long(void)
{
	static const char *const roles[] = { "root", "targets", "feed", "snapshot", "timestamp" };
	pe_auto_free char *path = NULL;
	json_t *config, *days;

	assert_true(asprintf(&path, "%s/repo/care-repo.json", folder) > 0);
	config = json_load_file(path, 0, NULL);
	days = json_object_get(config, "days");
	for (size_t i = 0; i < sizeof(roles) / sizeof(*roles); i++)
		json_object_set_new(days, roles[i], json_integer(3650));
	assert_int_equal(json_dump_file(config, path, JSON_INDENT(1)), 0);
	json_decref(config);
}

static void make_repository(void)
{
	static const char *const rooms[] = { "keys", "state", "cache", "patches" };
	static const char *const names[] = { "DBCARE_KEYS_DIR", "DBCARE_STATE_DIR",
					     "DBCARE_CACHE_DIR", "DBCARE_PATCHES_DIR" };
	char path[PATH_MAX], line[2 * PATH_MAX];

	assert_non_null(mkdtemp(folder));
	for (size_t i = 0; i < sizeof(rooms) / sizeof(*rooms); i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, rooms[i]);
		assert_int_equal(mkdir(path, 0700), 0);
		assert_int_equal(setenv(names[i], path, 1), 0);
	}
	snprintf(path, sizeof(path), "%s/repo", folder);
	assert_int_equal(mkdir(path, 0700), 0);
	repo("init");
	last_long();
	repo("publish");
	snprintf(line, sizeof(line), "cp %s/repo/public/metadata/1.root.json %s/keys/root.json",
		 folder, folder);
	assert_int_equal(system(line), 0);
}

/* ---- what could grow ---- */

static size_t allocated(void)
{
#ifdef __SANITIZE_ADDRESS__
	return __sanitizer_get_current_allocated_bytes();
#else
	return mallinfo2().uordblks;
#endif
}

static size_t entries(const char *path)
{
	DIR *dir = opendir(path);
	size_t count = 0;

	assert_non_null(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

struct room {
	size_t memory, descriptors, files;
};

static struct room measure(void)
{
	char state[PATH_MAX];

	snprintf(state, sizeof(state), "%s/tuf", getenv("DBCARE_STATE_DIR"));
	return (struct room){ allocated(), entries("/proc/self/fd"),
			      entries(state) + entries(getenv("DBCARE_STATE_DIR")) +
				      entries(getenv("DBCARE_CACHE_DIR")) };
}

/* ---- the years ---- */

static struct agent agent;
static int rounds;
static struct room before, after;

static void one_check(int n)
{
	unsigned int checks = agent.checks;
	const char *tag = n / CHANGE % 2 ? "yesterday" : "none";

	if (n % CHANGE == 0) {
		char command[64];

		snprintf(command, sizeof(command), "sticky a-group-of-hosts %s", tag);
		repo(command);
		repo("publish");
	}
	ahead += STEP;
	agent_task_wake(agent.check_task);
	while (agent.checks == checks)
		agent_task_sleep(1);
	if (agent.check_error)
		print_error("%s\n", agent.check_error);
	assert_null(agent.check_error);
	assert_string_equal(agent.settings.key_sticky, tag);
	assert_true(agent.next_check > time(NULL) + 3 * 3600);
}

static void years(void *arg)
{
	while (!agent.check_task)
		agent_task_sleep(1);
	for (int n = 0; n < WARM + EVENTS_KEPT + rounds; n++) {
		if (n == WARM + EVENTS_KEPT)
			before = measure();
		one_check(n);
	}
	after = measure();
	uv_stop(agent_loop());
}

static void years_of_checks_leave_nothing_behind(void **state)
{
	static struct agent_target target;
	char url[PATH_MAX];

	rounds = getenv("DBCARE_TESTS_LONG") ? 10000 : 2 * CHANGE;
	make_repository();
	snprintf(url, sizeof(url), "file://%s/repo/public", folder);
	agent.settings = (struct agent_settings){ .auto_update = true,
						  .check_interval_s = 4 * 3600,
						  .patch_server = strdup(url),
						  .registration_key = strdup("a-group-of-hosts") };
	target = (struct agent_target){ .agent = &agent,
					.provider = &toy,
					.info = json_pack("{s:s, s:[s]}", "name", "a server",
							  "build_ids", "7a14d39c") };
	agent.targets = &target;
	assert_null(agent_tasks_init(uv_default_loop()));
	agent_state_load(&agent);
	assert_null(agent_task_start(agent_check_task, &agent));
	assert_null(agent_task_start(years, NULL));
	uv_run(uv_default_loop(), UV_RUN_DEFAULT);
	print_message("%d checks: %zd bytes, %zd descriptors, %zd files more\n", rounds,
		      (ssize_t)(after.memory - before.memory),
		      (ssize_t)(after.descriptors - before.descriptors),
		      (ssize_t)(after.files - before.files));
	assert_true(agent.checks == (unsigned int)(WARM + EVENTS_KEPT + rounds));
	assert_true(after.memory <= before.memory + GROWTH_MOST);
	assert_int_equal(after.descriptors, before.descriptors);
	assert_int_equal(after.files, before.files);
	pe_error_free(pe_tree_remove(folder));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(years_of_checks_leave_nothing_behind),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

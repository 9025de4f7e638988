/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Settings, and which of the patches on offer they allow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/daemon/config.h"
#include "agent/daemon/policy.h"
#include "engine/cleanup.h"

enum { DAY = 86400 };

/* 2026-11-28 12:00:00 UTC */
static const time_t now = 1795867200;

static struct agent_offer offer(const char *name, unsigned int level, time_t published, bool cached)
{
	return (struct agent_offer){ .name = (char *)name,
				     .product = (char *)"db",
				     .build_id = (char *)"7a14",
				     .level = level,
				     .published = published,
				     .cached = cached };
}

static const char *chosen(struct agent_offer *items, size_t count,
			  const struct agent_settings *settings, int most)
{
	struct agent_offers offers = { items, count };
	const struct agent_offer *best =
		agent_choose(&offers, "db", "7a14", settings, most, now, NULL);

	return best ? best->name : "none";
}

static void highest_level_of_the_right_build_is_chosen(void **state)
{
	struct agent_settings settings = { 0 };
	struct agent_offer items[] = { offer("one", 1, now - DAY, false),
				       offer("three", 3, now - DAY, false),
				       offer("two", 2, now, true), offer("other", 9, now, false),
				       offer("kernel", 9, now, false) };

	items[3].build_id = (char *)"ffff";
	items[4].product = (char *)"kernel";
	assert_string_equal(chosen(items, 5, &settings, -1), "three");
	assert_string_equal(chosen(items, 5, &settings, 2), "two");
	assert_string_equal(chosen(items, 5, &settings, 0), "none");
	settings.sticky_level = 1;
	assert_string_equal(chosen(items, 5, &settings, -1), "one");
	assert_string_equal(chosen(NULL, 0, &settings, -1), "none");
}

static void blocked_patches_are_never_chosen_and_known_as_blocked(void **state)
{
	struct agent_settings settings = { 0 };
	struct agent_offer items[] = { offer("fix", 1, now, false), offer("fix", 2, now, false) };
	struct agent_offers offers = { items, 2 };
	const char *why;

	items[1].blocked = true;
	items[1].block_reason = (char *)"crashes";
	assert_int_equal(agent_choose(&offers, "db", "7a14", &settings, -1, now, NULL)->level, 1);
	assert_true(agent_is_blocked(&offers, "7a14", "fix", 2, &why));
	assert_string_equal(why, "crashes");
	assert_false(agent_is_blocked(&offers, "7a14", "fix", 1, &why));
	assert_null(why);
	assert_false(agent_is_blocked(&offers, "ffff", "fix", 2, NULL));
}

static void update_policy_chooses_between_cache_and_repository(void **state)
{
	struct agent_settings settings = { 0 };
	struct agent_offer items[] = { offer("cached", 1, now, true),
				       offer("remote", 2, now, false) };

	assert_string_equal(chosen(items, 2, &settings, -1), "remote");
	settings.update_policy = AGENT_LOCAL;
	assert_string_equal(chosen(items, 2, &settings, -1), "cached");
	settings.update_policy = AGENT_LOCAL_FIRST;
	assert_string_equal(chosen(items, 2, &settings, -1), "cached");
	items[0].cached = false;
	assert_string_equal(chosen(items, 2, &settings, -1), "remote");
	settings.update_policy = AGENT_LOCAL;
	assert_string_equal(chosen(items, 2, &settings, -1), "none");
}

static void delay_and_sticky_date_leave_out_what_is_too_new(void **state)
{
	struct agent_settings settings = { .update_delay_s = 2 * DAY };
	struct agent_offer items[] = { offer("old", 1, now - 10 * DAY, false),
				       offer("new", 2, now - DAY, false) };
	struct agent_offers offers = { items, 2 };
	time_t later;

	assert_string_equal(agent_choose(&offers, "db", "7a14", &settings, -1, now, &later)->name,
			    "old");
	assert_int_equal(later, now + DAY);
	settings.update_delay_s = 0;
	settings.sticky_patch = (char *)"201126";
	assert_string_equal(chosen(items, 2, &settings, -1), "old");
	settings.sticky_patch = (char *)"27112026";
	assert_string_equal(chosen(items, 2, &settings, -1), "new");
	/* The operator's own are his own decision. */
	settings.sticky_patch = (char *)"201126";
	items[1].custom = true;
	assert_string_equal(chosen(items, 2, &settings, -1), "new");
}

static void feeds_are_kept_apart(void **state)
{
	struct agent_settings settings = { 0 };
	struct agent_offer items[] = { offer("usual", 1, now, false),
				       offer("test", 2, now, false) };

	items[0].feed = (char *)"main";
	items[1].feed = (char *)"test";
	assert_string_equal(chosen(items, 2, &settings, -1), "usual");
	settings.prefix = (char *)"test";
	assert_string_equal(chosen(items, 2, &settings, -1), "test");
}

static struct pe_error *sticky(const char *text, time_t *until)
{
	struct agent_settings settings = { .sticky_patch = (char *)text };

	return agent_sticky_until(&settings, now, until);
}

static void each_wrong_sticky_date_is_refused_with_its_own_words(void **state)
{
	static const struct {
		const char *text, *words;
	} wrong[] = { { "281126", "today" },   { "291126", "future" },
		      { "280926", "60 days" }, { "310226", "no day" },
		      { "2811", "no date" },   { "2026-11-2x", "no date" },
		      { "-81126", "no date" }, { "28112026x", "no date" } };
	time_t until;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		pe_auto_error struct pe_error *err = sticky(wrong[i].text, &until);

		assert_non_null(err);
		assert_non_null(strstr(err->message, wrong[i].words));
	}
	assert_null(sticky("290926", &until));
	assert_null(sticky("271126", &until));
	assert_true(until < now && until > now - DAY);
	assert_null(sticky("2026-11-27", &until));
	assert_true(until < now && until > now - DAY);
}

/* A restarted server gets back what it had, whatever became of the day. */
static void a_refused_sticky_date_lets_nothing_new_in_and_nothing_old_go(void **state)
{
	struct agent_settings settings = { .sticky_patch = (char *)"281126" };
	struct agent_offer items[] = { offer("had", 1, now - 70 * DAY, true),
				       offer("new", 2, now - DAY, false) };

	assert_string_equal(chosen(items, 2, &settings, -1), "had");
	settings.sticky_patch = (char *)"200926"; /* 69 days ago */
	assert_string_equal(chosen(items, 2, &settings, -1), "had");
	items[1].published = now - 75 * DAY;
	assert_string_equal(chosen(items, 2, &settings, -1), "new");
}

static void the_day_of_a_key_is_what_the_repository_says(void **state)
{
	struct agent_settings settings = { .sticky_patch = (char *)"Key" };
	struct agent_offer items[] = { offer("old", 1, now - 10 * DAY, false),
				       offer("yesterday", 2, now - DAY, false),
				       offer("today", 3, now, false) };
	time_t until;
	struct pe_error *err = agent_sticky_until(&settings, now, &until);

	assert_non_null(strstr(err->message, "wants a REGISTRATION_KEY"));
	pe_error_free(err);
	settings.registration_key = (char *)"production-1";
	err = agent_sticky_until(&settings, now, &until);
	assert_non_null(strstr(err->message, "says nothing"));
	pe_error_free(err);
	assert_string_equal(chosen(items, 3, &settings, -1), "none");
	settings.key_sticky = (char *)"none";
	assert_string_equal(chosen(items, 3, &settings, -1), "today");
	settings.key_sticky = (char *)"yesterday";
	assert_string_equal(chosen(items, 3, &settings, -1), "yesterday");
	settings.key_sticky = (char *)"201126";
	assert_string_equal(chosen(items, 3, &settings, -1), "old");
}

static struct pe_error *read_text(const char *text, struct agent_settings *ret)
{
	char path[] = "/tmp/dbcare-conf.XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);

	struct pe_error *err = agent_settings_read(path, ret);

	unlink(path);
	return err;
}

static void settings_are_read_with_all_spellings(void **state)
{
	struct agent_settings settings;

	assert_null(read_text("# comment\n"
			      "AUTO_UPDATE = No\nUPDATE_POLICY=local_first\nPREFIX=test\n"
			      "UPDATE_DELAY=12h\nSTICKY_PATCHSET=3\nMAX_PAUSE=12.5\n"
			      "ONLY_TARGETS=/run/a* /run/b\nIGNORE_TARGETS=/run/aa\n",
			      &settings));
	assert_false(settings.auto_update);
	assert_int_equal(settings.update_policy, AGENT_LOCAL_FIRST);
	assert_string_equal(settings.prefix, "test");
	assert_int_equal(settings.update_delay_s, 12 * 3600);
	assert_int_equal(settings.sticky_level, 3);
	assert_int_equal(settings.max_pause_us, 12500);
	assert_int_equal(settings.check_interval_s, 4 * 3600);
	assert_true(agent_settings_include(&settings, "/run/ab"));
	assert_true(agent_settings_include(&settings, "/run/b"));
	assert_false(agent_settings_include(&settings, "/run/aa"));
	assert_false(agent_settings_include(&settings, "/run/c"));
	agent_settings_deinit(&settings);
	assert_null(agent_settings_read("/nonexistent/agent.conf", &settings));
	assert_true(settings.auto_update);
	assert_false(settings.sandboxed_targets);
	agent_settings_deinit(&settings);
}

static void a_line_may_be_long_and_has_a_name_and_a_value(void **state)
{
	struct agent_settings settings;
	pe_auto_free char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	fputs("# words\n\n ; more words\n  PREFIX = test ; and why\r\nONLY_TARGETS=", out);
	for (int i = 0; i < 200; i++)
		fprintf(out, " /run/servers/number-%03d/mysqld.sock", i);
	fclose(out);
	assert_null(read_text(text, &settings));
	assert_string_equal(settings.prefix, "test");
	assert_true(agent_settings_include(&settings, "/run/servers/number-000/mysqld.sock"));
	assert_true(agent_settings_include(&settings, "/run/servers/number-199/mysqld.sock"));
	agent_settings_deinit(&settings);

	pe_auto_error struct pe_error *err = read_text("PREFIX=test\n\nwords\n", &settings);

	assert_non_null(err);
	assert_int_equal(err->code, PE_ERR_FORMAT);
	assert_non_null(strstr(err->message, "line 3"));
	agent_settings_deinit(&settings);
}

static void the_same_settings_read_again_stay_where_they_are(void **state)
{
	struct agent_settings settings, fresh;
	const char *feed, *proxy;

	assert_null(read_text("PREFIX=test\nPROXY=http://a\nSTICKY_PATCHSET=1\n", &settings));
	feed = settings.prefix;
	proxy = settings.proxy;
	settings.key_sticky = strdup("yesterday");
	assert_null(read_text("PREFIX=test\nPROXY=http://b\nCA_FILE=/ca\n", &fresh));
	agent_settings_replace(&settings, &fresh);
	assert_ptr_equal(settings.prefix, feed);
	assert_string_equal(settings.proxy, "http://b");
	assert_string_equal(settings.ca_file, "/ca");
	assert_string_equal(settings.key_sticky, "yesterday");
	assert_int_equal(settings.sticky_level, 0);
	/* A task may be reading what was replaced. */
	assert_string_equal(proxy, "http://a");
	free((char *)proxy);
	agent_settings_deinit(&settings);
}

static void wrong_settings_are_refused_by_name(void **state)
{
	static const char *const wrong[] = {
		"AUTO_UPDATE=perhaps\n",    "UPDATE_POLICY=SOMETIMES\n", "PREFIX=../x\n",
		"UPDATE_DELAY=3 weeks\n",   "STICKY_PATCHSET=-1\n",	 "METRICS_PORT=70000\n",
		"CHECK_INTERVAL=0\n",	    "NO_SUCH_KEY=1\n",		 "MAX_PAUSE=fast\n",
		"SANDBOXED_TARGETS=some\n", "STICKY_PATCH=310226\n",	 "STICKY_PATCH=soon\n",
		"REGISTRATION_KEY=a b\n",
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		struct agent_settings settings;
		pe_auto_error struct pe_error *err = read_text(wrong[i], &settings);
		char key[32];

		snprintf(key, sizeof(key), "%.*s", (int)strcspn(wrong[i], "="), wrong[i]);
		assert_non_null(err);
		assert_int_equal(err->code, PE_ERR_FORMAT);
		assert_non_null(strstr(err->message, key));
	}
}

static void a_setting_that_gives_rights_counts_only_in_a_file_of_root(void **state)
{
	struct agent_settings settings;
	char path[] = "/tmp/dbcare-conf.XXXXXX";
	int fd = mkstemp(path);
	static const struct {
		uid_t uid;
		gid_t gid;
		mode_t mode;
		bool fine;
	} files[] = { { 0, 0, 0664, true },
		      { 0, 65534, 0640, true },
		      { 0, 65534, 0660, false },
		      { 65534, 0, 0600, false } };

	assert_true(fd >= 0);
	if (geteuid() != 0) {
		unlink(path);
		skip();
	}
	assert_int_equal(write(fd, "SANDBOXED_TARGETS=yes\n", 22), 22);
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		assert_int_equal(fchown(fd, files[i].uid, files[i].gid), 0);
		assert_int_equal(fchmod(fd, files[i].mode), 0);

		pe_auto_error struct pe_error *err = agent_settings_read(path, &settings);

		if (files[i].fine) {
			assert_null(err);
			assert_true(settings.sandboxed_targets);
			agent_settings_deinit(&settings);
		} else {
			assert_non_null(err);
			assert_int_equal(err->code, PE_ERR_PERMISSION);
			assert_non_null(strstr(err->message, "SANDBOXED_TARGETS"));
		}
	}
	unlink(path);
	close(fd);
	/* That it is off needs nobody's word. */
	assert_null(read_text("SANDBOXED_TARGETS=no\n", &settings));
	assert_false(settings.sandboxed_targets);
	agent_settings_deinit(&settings);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(highest_level_of_the_right_build_is_chosen),
		cmocka_unit_test(blocked_patches_are_never_chosen_and_known_as_blocked),
		cmocka_unit_test(update_policy_chooses_between_cache_and_repository),
		cmocka_unit_test(delay_and_sticky_date_leave_out_what_is_too_new),
		cmocka_unit_test(feeds_are_kept_apart),
		cmocka_unit_test(each_wrong_sticky_date_is_refused_with_its_own_words),
		cmocka_unit_test(a_refused_sticky_date_lets_nothing_new_in_and_nothing_old_go),
		cmocka_unit_test(the_day_of_a_key_is_what_the_repository_says),
		cmocka_unit_test(settings_are_read_with_all_spellings),
		cmocka_unit_test(a_line_may_be_long_and_has_a_name_and_a_value),
		cmocka_unit_test(the_same_settings_read_again_stay_where_they_are),
		cmocka_unit_test(wrong_settings_are_refused_by_name),
		cmocka_unit_test(a_setting_that_gives_rights_counts_only_in_a_file_of_root),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

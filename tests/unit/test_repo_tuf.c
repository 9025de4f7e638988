/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The repository's client without a network: names, patterns, canonical JSON, a hostile mirror. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agent/repo/names.h"
#include "tuf_fixture.h"

/* ---- canonical JSON ---- */

static void canonical_json_sorts_by_bytes_and_escapes_two_characters(void **state)
{
	static const char text[] =
		"{\"b\": [1, -2, true, null, {}], \"a\": \"x\\ny\\\"\\\\\\u00e9\", "
		"\"B\": \"\", \"aa\": 9007199254740993}";
	static const char wanted[] =
		"{\"B\":\"\",\"a\":\"x\ny\\\"\\\\\xc3\xa9\",\"aa\":9007199254740993,"
		"\"b\":[1,-2,true,null,{}]}";
	repo_auto_json json_t *json = NULL;
	pe_auto_free char *bytes = NULL;
	size_t size;

	assert_null(repo_json_parse(text, strlen(text), "x", &json));
	assert_null(repo_json_canonical(json, &bytes, &size));
	assert_int_equal(size, strlen(wanted));
	assert_memory_equal(bytes, wanted, size);
}

static void what_has_no_canonical_form_or_is_ambiguous_is_refused(void **state)
{
	static const char *const bad[] = {
		"{\"a\":1,\"a\":2}",
		"[]",
		"{\"a\":1} x",
		"",
		"{\"a\":\"\\ud800\"}",
		"{\"a\":\"\xff\"}",
		"{\"a\":123456789012345678901234567890}",
		"{\"\\u0000\":1}",
	};
	repo_auto_json json_t *real = NULL;
	char deep[300] = "{\"a\":";
	pe_auto_free char *bytes = NULL;
	size_t size;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		json_t *json = NULL;
		pe_auto_error struct pe_error *err =
			repo_json_parse(bad[i], strlen(bad[i]), "x", &json);

		if (!err)
			fail_msg("accepted: %s", bad[i]);
		assert_null(json);
	}
	memset(deep + 5, '[', 100);
	memset(deep + 105, ']', 100);
	strcpy(deep + 205, "}");

	json_t *json = NULL;
	pe_auto_error struct pe_error *err = repo_json_parse(deep, strlen(deep), "x", &json);

	assert_non_null(strstr(err->message, "nested"));
	assert_null(repo_json_parse("{\"a\":1.5}", 9, "x", &real));

	pe_auto_error struct pe_error *fraction = repo_json_canonical(real, &bytes, &size);

	assert_int_equal(fraction->code, PE_ERR_FORMAT);
}

/* ---- names ---- */

static void patterns_match_as_shells_do_and_never_cross_a_slash(void **state)
{
	static const struct {
		const char *pattern, *path;
		bool match;
	} cases[] = {
		{ "*", "a", true },
		{ "*", "a/b", false },
		{ "*/*", "a/b", true },
		{ "a*c", "abbbc", true },
		{ "a*c", "ab/c", false },
		{ "a?c", "abc", true },
		{ "a?c", "a/c", false },
		{ "[a-c]x", "bx", true },
		{ "[!a-c]x", "bx", false },
		{ "[!a-c]x", "dx", true },
		{ "[a", "[a", true },
		{ "[]]x", "]x", true },
		{ "[/]", "/", false },
		{ "", "", true },
		{ "", "a", false },
		{ "a", "", false },
		{ "**", "abc", true },
		{ "*a*b*", "xaxbx", true },
		{ "main/*/7*/*", "main/db/7a/1", true },
		{ "main/*/7*/*", "main/db/8a/1", false },
		{ "*.zip", ".zip", true },
		{ "*/x", "y/z/x", false },
		{ "[a-", "[a-", true },
		{ "a[", "a[", true },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		if (repo_glob(cases[i].pattern, cases[i].path) != cases[i].match)
			fail_msg("%s and %s", cases[i].pattern, cases[i].path);
}

/* Exponential matchers take longer than the universe for this. */
static void a_hostile_pattern_takes_no_time(void **state)
{
	char pattern[201], path[10001];

	for (size_t i = 0; i < 200; i += 2)
		memcpy(pattern + i, "*a", 2);
	pattern[200] = 0;
	memset(path, 'a', 10000);
	path[9999] = 'b';
	path[10000] = 0;
	assert_false(repo_glob(pattern, path));
}

static void no_name_leads_out_of_its_folder(void **state)
{
	static const char *const names[][2] = {
		{ "../../x", "%2E.%2F..%2Fx.json" },
		{ ".", "%2E.json" },
		{ "..", "%2E..json" },
		{ "/etc", "%2Fetc.json" },
		{ "a b\n", "a%20b%0A.json" },
		{ "plain-1.x_y~", "plain-1.x_y~.json" },
		{ "\xc3\xa9", "%C3%A9.json" },
	};
	char longest[300];

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		pe_auto_free char *file = repo_quote_file(names[i][0], ".json");

		assert_string_equal(file, names[i][1]);
	}
	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = 0;
	assert_null(repo_quote_file(longest, ".json"));
}

/* ---- the client ---- */

static void the_fixture_is_a_good_repository(void **state)
{
	struct tuf_fixture fixture;
	struct tuf_client *client;
	struct tuf_target target;

	tuf_fixture_init(&fixture);
	assert_null(tuf_init(fixture.dir, fixture.old.bytes[0], fixture.old.size[0]));
	assert_null(tuf_client_open(fixture.dir, NULL, &client));
	tuf_must(tuf_update(client, &fixture.old, NULL, NULL));
	assert_int_equal(tuf_target_count(client), 2);
	tuf_must(tuf_update(client, &fixture.now, NULL, NULL));
	assert_int_equal(tuf_target_count(client), 3);
	assert_null(tuf_target(client, 0, &target));
	assert_string_equal(target.path, TUF_PREFIX "1-fix.cpatch");
	assert_true(json_is_true(json_object_get(target.custom, "blocked")));
	assert_string_equal(target.role, "main");

	pe_auto_free char *url = tuf_target_url(client, &target);

	assert_string_equal(url, TUF_PREFIX
			    "1111111111111111111111111111111111111111111111111111111111111111."
			    "1-fix.cpatch");
	tuf_client_free(client);
	tuf_fixture_deinit(&fixture);
}

static void calls_in_the_wrong_order_are_refused(void **state)
{
	struct tuf_fixture fixture;
	struct tuf_client *client;
	struct tuf_request request;
	struct tuf_reply reply = { .status = 404 };

	tuf_fixture_init(&fixture);
	tuf_restore(&fixture);
	assert_null(tuf_client_open(fixture.dir, NULL, &client));

	pe_auto_error struct pe_error *next = tuf_next(client, &request);
	pe_auto_error struct pe_error *answer = tuf_answer(client, &reply);
	pe_auto_error struct pe_error *find = tuf_find(client, "x");

	assert_int_equal(next->code, PE_ERR_INTERNAL);
	assert_int_equal(answer->code, PE_ERR_INTERNAL);
	assert_int_equal(find->code, PE_ERR_INTERNAL);

	/* Asked twice, the same file is wanted. */
	assert_null(tuf_refresh(client));
	assert_null(tuf_next(client, &request));
	assert_null(tuf_next(client, &request));
	assert_string_equal(request.path, "2.root.json");
	tuf_client_free(client);
	tuf_fixture_deinit(&fixture);
}

static void replace_file(struct tuf_fixture *fixture, struct tuf_mirror *mirror, size_t index,
			 const char *name, json_t *body)
{
	free(mirror->bytes[index]);
	tuf_put(fixture, mirror, index, name, body);
}

/* A list follows the delegations of a probe path; each path that it finds is asked about anew. */
static void a_role_trusted_with_one_path_below_a_prefix_lists_no_other(void **state)
{
	static const char *const listed[] = { "-own", "1-fix.cpatch", "2-fix.cpatch",
					      "3-fix.cpatch" };
	struct tuf_fixture fixture;
	struct tuf_client *client;
	struct tuf_target target;
	json_t *body;

	tuf_fixture_init(&fixture);
	body = tuf_body("snapshot", 2);
	json_object_set_new(body, "meta",
			    json_pack("{s:{s:i}, s:{s:i}, s:{s:i}}", "targets.json", "version", 1,
				      "main.json", "version", 2, "narrow.json", "version", 1));
	replace_file(&fixture, &fixture.now, 2, "2.snapshot.json", body);
	body = tuf_body("targets", 1);
	json_object_set_new(body, "targets", json_object());
	json_object_set_new(
		body, "delegations",
		json_pack("{s:{s:O}, s:[{s:s, s:[s], s:i, s:b, s:[s]}, {s:s, s:[s], s:i, s:b, "
			  "s:[s]}]}",
			  "keys", fixture.keyid, fixture.public, "roles", "name", "narrow",
			  "keyids", fixture.keyid, "threshold", 1, "terminating", 0, "paths",
			  TUF_PREFIX "-*", "name", "main", "keyids", fixture.keyid, "threshold", 1,
			  "terminating", 1, "paths", "main/*/*/*"));
	replace_file(&fixture, &fixture.now, 3, "1.targets.json", body);
	body = tuf_body("targets", 1);
	json_object_set_new(body, "targets",
			    json_pack("{s:{s:i, s:{s:s}}, s:{s:i, s:{s:s}}}",
				      TUF_PREFIX "1-fix.cpatch", "length", 666, "hashes", "sha256",
				      "66", TUF_PREFIX "-own", "length", 7, "hashes", "sha256",
				      "77"));
	replace_file(&fixture, &fixture.now, 5, "1.narrow.json", body);

	assert_null(tuf_init(fixture.dir, fixture.now.bytes[0], fixture.now.size[0]));
	assert_null(tuf_client_open(fixture.dir, NULL, &client));
	tuf_must(tuf_update(client, &fixture.now, NULL, NULL));
	assert_int_equal(tuf_target_count(client), 4);
	for (size_t i = 0; i < 4; i++) {
		assert_null(tuf_target(client, i, &target));
		assert_string_equal(target.role, i ? "main" : "narrow");
		assert_string_equal(target.path + strlen(TUF_PREFIX), listed[i]);
	}
	tuf_client_free(client);
	tuf_fixture_deinit(&fixture);
}

/* ---- a hostile mirror ---- */

struct hostile {
	struct tuf_fixture *fixture;
	uint64_t random;
	char *bytes; /* the changed answer */
	bool touched;
};

static uint32_t draw(struct hostile *hostile, uint32_t below)
{
	/* xorshift64: the same run for the same seed */
	hostile->random ^= hostile->random << 13;
	hostile->random ^= hostile->random >> 7;
	hostile->random ^= hostile->random << 17;
	return (uint32_t)(hostile->random >> 32) % below;
}

static void flip_bytes(struct hostile *hostile, size_t size)
{
	for (uint32_t n = 1 + draw(hostile, 4); n && size; n--)
		hostile->bytes[draw(hostile, (uint32_t)size)] ^= (char)(1 << draw(hostile, 8));
}

/* A digit changed keeps the JSON whole and hits versions, lengths, hashes, signatures, dates. */
static void change_digit(struct hostile *hostile, size_t size)
{
	for (int tries = 0; tries < 1000 && size; tries++) {
		char *c = &hostile->bytes[draw(hostile, (uint32_t)size)];

		if (*c < '0' || *c > '9')
			continue;
		*c = (char)('0' + draw(hostile, 10));
		return;
	}
}

/* Another file, of this state or the one before, under the name that was asked for. */
static void swap_file(struct hostile *hostile, struct tuf_reply *reply)
{
	const struct tuf_mirror *mirror =
		draw(hostile, 2) ? &hostile->fixture->old : &hostile->fixture->now;
	uint32_t i = draw(hostile, TUF_FILES);

	*reply = (struct tuf_reply){ 200, mirror->bytes[i], mirror->size[i], NULL };
}

static void tamper(void *arg, const char *path, struct tuf_reply *reply)
{
	struct hostile *hostile = arg;

	if (draw(hostile, 3))
		return;
	hostile->touched = true;
	free(pe_steal(hostile->bytes));
	hostile->bytes = malloc(reply->size + 65536);
	memcpy(hostile->bytes, reply->bytes, reply->size);
	reply->bytes = hostile->bytes;
	switch (draw(hostile, 8)) {
	case 0:
	case 1:
		flip_bytes(hostile, reply->size);
		return;
	case 2:
	case 3:
		change_digit(hostile, reply->size);
		return;
	case 4:
		reply->size = reply->size ? draw(hostile, (uint32_t)reply->size) : 0;
		return;
	case 5:
		swap_file(hostile, reply);
		return;
	case 6:
		reply->status = (long[]){ 0, 200, 304, 403, 404, 500, -1 }[draw(hostile, 7)];
		return;
	default:
		memset(hostile->bytes + reply->size, (int)draw(hostile, 256), 65536);
		reply->size += draw(hostile, 65536);
	}
}

/* What the client now says is there must be what was signed, of one state or the other. */
static void assert_genuine(struct tuf_client *client)
{
	size_t count = tuf_target_count(client);

	assert_true(count == 0 || count == 2 || count == 3);
	for (size_t i = 0; i < count; i++) {
		struct tuf_target target;
		char path[64], hash[65];
		int level = (int)i + 1;

		assert_null(tuf_target(client, i, &target));
		snprintf(path, sizeof(path), TUF_PREFIX "%d-fix.cpatch", level);
		memset(hash, '0' + level, 64);
		hash[64] = 0;
		assert_string_equal(target.path, path);
		assert_int_equal(target.length, 100 + level);
		assert_string_equal(json_string_value(json_object_get(target.hashes, "sha256")),
				    hash);
		assert_int_equal(json_is_true(json_object_get(target.custom, "blocked")),
				 count == 3 && level == 1);
	}
}

static void a_hostile_mirror_never_gets_anything_through_nor_breaks_the_state(void **state)
{
	struct tuf_fixture fixture;
	struct hostile hostile = { .fixture = &fixture, .random = 0x9e3779b97f4a7c15 };
	int rounds = getenv("DBCARE_TESTS_LONG") ? 10000 : 500, refused = 0, touched = 0;

	tuf_fixture_init(&fixture);
	for (int i = 0; i < rounds; i++) {
		struct tuf_client *client;

		tuf_restore(&fixture);
		assert_null(tuf_client_open(fixture.dir, NULL, &client));
		hostile.touched = false;

		pe_auto_error struct pe_error *err =
			tuf_update(client, &fixture.now, tamper, &hostile);

		touched += hostile.touched;
		refused += err != NULL;
		if (err)
			assert_int_equal(tuf_target_count(client), 0);
		assert_genuine(client);
		tuf_client_free(client);

		/* The good state is kept: an honest mirror is understood at once. */
		assert_null(tuf_client_open(fixture.dir, NULL, &client));
		pe_auto_error struct pe_error *after = tuf_update(client, &fixture.now, NULL, NULL);
		if (after)
			fail_msg("round %d: %s", i, after->message);
		assert_int_equal(tuf_target_count(client), 3);
		assert_genuine(client);
		tuf_client_free(client);
	}
	free(hostile.bytes);
	tuf_fixture_deinit(&fixture);
	print_message("%d rounds, %d with something changed, %d refused\n", rounds, touched,
		      refused);
	assert_true(refused > rounds / 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(canonical_json_sorts_by_bytes_and_escapes_two_characters),
		cmocka_unit_test(what_has_no_canonical_form_or_is_ambiguous_is_refused),
		cmocka_unit_test(patterns_match_as_shells_do_and_never_cross_a_slash),
		cmocka_unit_test(a_hostile_pattern_takes_no_time),
		cmocka_unit_test(no_name_leads_out_of_its_folder),
		cmocka_unit_test(the_fixture_is_a_good_repository),
		cmocka_unit_test(calls_in_the_wrong_order_are_refused),
		cmocka_unit_test(a_role_trusted_with_one_path_below_a_prefix_lists_no_other),
		cmocka_unit_test(a_hostile_mirror_never_gets_anything_through_nor_breaks_the_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

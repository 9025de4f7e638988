/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A product of its own, "toy", linked instead of the database: what care-patcher does with a
 * request depends on the provider interface alone, and no provider is asked before the signature,
 * the product and the build-id agree.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "agent/lines.h"
#include "agent/patcher/patcher.h"
#include "agent/provider.h"
#include "agent/repo/signature.h"
#include "engine/cleanup.h"
#include "fuzz/sample_patch.h"

/* ---- the toy ---- */

enum { TOY_PID = 4711, TOY_START = 99 };

static unsigned int applied, reverted, planned;
static const char *toy_build_id;

static json_t *describe(void)
{
	return json_pack("{s:s, s:i, s:i, s:s, s:[s], s:[], s:s}", "provider", "toy", "pid",
			 TOY_PID, "start_time", TOY_START, "state", "ready", "build_ids",
			 toy_build_id, "patches", "name", "the toy");
}

static struct pe_error *toy_discover(json_t *targets)
{
	json_array_append_new(targets, describe());
	return NULL;
}

static struct pe_error *toy_info(pid_t pid, json_t **ret)
{
	if (pid != TOY_PID)
		return pe_error_new(PE_ERR_NO_TARGET, "process %d is no toy", (int)pid);
	*ret = describe();
	return NULL;
}

static struct pe_error *toy_plan(const struct agent_work *work, json_t **ret)
{
	planned++;
	return NULL;
}

static struct pe_error *toy_apply(const struct agent_work *work, json_t **ret)
{
	applied += work->pid == TOY_PID && work->patch;
	*ret = json_pack("{s:i}", "pause_us", 7);
	return NULL;
}

static struct pe_error *toy_revert(const struct agent_work *work, json_t **ret)
{
	reverted += strcmp(work->name, "x") == 0;
	return NULL;
}

static const char *const toy_programs[] = { "toy", NULL };

static const struct agent_provider toy = {
	.name = "toy",
	.programs = toy_programs,
	.discover = toy_discover,
	.info = toy_info,
	.plan = toy_plan,
	.apply = toy_apply,
	.revert = toy_revert,
};

const struct agent_provider *const agent_providers[] = { &toy, NULL };

/* ---- a signed patch for it ---- */

struct signed_patch {
	int fd;
	char line[REPO_SIGNATURE_SIZE];
	char build_id[2 * PE_BUILD_ID_MAX + 1];
};

static char folder[] = "/tmp/dbcare-keys.XXXXXX";
static EVP_PKEY *key;

static int make_key(void **state)
{
	char path[64];

	assert_non_null(mkdtemp(folder));
	setenv("DBCARE_KEYS_DIR", folder, 1);
	key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
	snprintf(path, sizeof(path), "%s/toy.pem", folder);
	pe_auto_file FILE *out = fopen(path, "w");
	assert_true(PEM_write_PUBKEY(out, key));
	return chmod(path, 0644);
}

static int remove_key(void **state)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/toy.pem", folder);
	unlink(path);
	EVP_PKEY_free(key);
	return rmdir(folder);
}

/* Of the patch made last. */
static char last_build_id[2 * PE_BUILD_ID_MAX + 1];

static struct signed_patch make_patch(const char *product)
{
	struct signed_patch made = { .fd = memfd_create("patch", MFD_CLOEXEC) };
	struct pe_patch *patch = sample_patch();
	pe_auto_free void *bytes = NULL;
	size_t size;

	free(patch->product);
	patch->product = strdup(product);
	assert_null(pe_patch_serialize(patch, &bytes, &size));
	assert_int_equal(write(made.fd, bytes, size), size);
	assert_null(repo_signature_make(key, bytes, size, made.line));
	pe_build_id_hex(&patch->targets[0].build_id, made.build_id);
	pe_patch_free(patch);
	memcpy(last_build_id, made.build_id, sizeof(last_build_id));
	toy_build_id = last_build_id;
	return made;
}

/* The "code" of the answer; "ok" when it is one. */
static void ask(json_t *request, int fd, const char *wanted)
{
	int answer_fd;
	json_t *answer = patcher_answer(request, fd, &answer_fd);
	bool ok = json_is_true(json_object_get(answer, "ok"));

	assert_string_equal(ok ? "ok" : json_string_value(json_object_get(answer, "code")), wanted);
	assert_int_equal(answer_fd, -1);
	json_decref(answer);
	json_decref(request);
}

static json_t *apply_request(const struct signed_patch *patch)
{
	return json_pack("{s:s, s:s, s:i, s:i, s:s}", "do", "apply", "provider", "toy", "pid",
			 TOY_PID, "start_time", TOY_START, "signature", patch->line);
}

static void another_product_is_served_without_the_core_knowing_it(void **state)
{
	struct signed_patch patch = make_patch("toy");
	int answer_fd;
	json_t *request = json_pack("{s:s}", "do", "discover");
	json_t *answer = patcher_answer(request, -1, &answer_fd);

	assert_int_equal(json_array_size(json_object_get(answer, "targets")), 1);
	json_decref(answer);
	json_decref(request);
	applied = reverted = 0;
	ask(apply_request(&patch), patch.fd, "ok");
	assert_int_equal(applied, 1);
	ask(json_pack("{s:s, s:s, s:i, s:i, s:s}", "do", "revert", "provider", "toy", "pid",
		      TOY_PID, "start_time", TOY_START, "name", "x"),
	    -1, "ok");
	assert_int_equal(reverted, 1);
	close(patch.fd);
}

static void no_provider_is_asked_for_what_is_not_signed_or_not_meant_for_it(void **state)
{
	struct signed_patch patch = make_patch("toy"), other = make_patch("db");

	toy_build_id = patch.build_id;
	applied = 0;
	ask(apply_request(&patch), -1, "usage");
	ask(apply_request(&other), patch.fd, "policy");	  /* the signature of another patch */
	ask(apply_request(&other), other.fd, "mismatch"); /* of another product */
	toy_build_id = "0102";
	ask(apply_request(&patch), patch.fd, "ok"); /* its second target */
	toy_build_id = "ffff";
	ask(apply_request(&patch), patch.fd, "mismatch");
	toy_build_id = patch.build_id;

	json_t *request = apply_request(&patch);

	json_object_set_new(request, "start_time", json_integer(TOY_START + 1));
	ask(request, patch.fd, "target-died");
	request = apply_request(&patch);
	json_object_set_new(request, "pid", json_integer(1));
	ask(request, patch.fd, "no-target");
	request = apply_request(&patch);
	json_object_set_new(request, "provider", json_string("db"));
	ask(request, patch.fd, "usage");
	ask(json_pack("{s:i}", "do", 1), -1, "usage");
	ask(json_object(), -1, "usage");
	assert_int_equal(applied, 1);
	close(patch.fd);
	close(other.fd);
}

/* ---- JSON lines ---- */

static void lines_carry_descriptors_and_refuse_what_is_no_message(void **state)
{
	struct agent_lines a, b;
	int pair[2], fd = -1;
	json_t *message;
	char text[4] = "";
	int file = memfd_create("x", MFD_CLOEXEC);

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	agent_lines_init(&a, pair[0], 1 << 16);
	agent_lines_init(&b, pair[1], 1 << 16);
	assert_int_equal(write(file, "abc", 3), 3);
	assert_null(agent_lines_put(&a, json_pack("{s:i}", "n", 1), -1));
	assert_null(agent_lines_flush(&a));
	assert_null(agent_lines_put(&a, json_pack("{s:i}", "n", 2), file));
	assert_null(agent_lines_flush(&a));
	for (int n = 1; n <= 2; n++) {
		do {
			assert_null(agent_lines_next(&b, &message, &fd));
			if (!message)
				assert_null(agent_lines_read(&b));
		} while (!message);
		assert_int_equal(json_integer_value(json_object_get(message, "n")), n);
		json_decref(message);
	}
	assert_int_equal(pread(fd, text, 3, 0), 3);
	assert_string_equal(text, "abc");
	close(fd);
	static const char *const bad[] = { "[]\n", "{\"a\":1,\"a\":2}\n", "{\"fd\":true}\n", "\n" };

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_int_equal(write(pair[0], bad[i], strlen(bad[i])), strlen(bad[i]));
		assert_null(agent_lines_read(&b));
		pe_auto_error struct pe_error *err = agent_lines_next(&b, &message, &fd);
		assert_non_null(err);
		assert_int_equal(err->code, PE_ERR_FORMAT);
	}
	agent_lines_deinit(&a);
	agent_lines_deinit(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(another_product_is_served_without_the_core_knowing_it),
		cmocka_unit_test(no_provider_is_asked_for_what_is_not_signed_or_not_meant_for_it),
		cmocka_unit_test(lines_carry_descriptors_and_refuse_what_is_no_message),
	};

	return cmocka_run_group_tests(tests, make_key, remove_key);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests to care-patcher:
 *
 *	{"id":1,"do":"discover"}                          -> "targets"
 *	{"id":2,"do":"info","pid":N}                      -> "target"
 *	{"id":3,"do":"plan"|"apply","provider":P,"pid":N,"start_time":T,"signature":TEXT,
 *	 "timeout_us":N,"max_pause_us":N,"replace":NAME} + the patch -> "result"
 *	{"id":4,"do":"revert",...,"name":NAME}            -> "result"
 *	{"id":5,"do":"recover"|"reach",...}               -> "result" / a descriptor
 *
 * Whoever sends them may have been taken over. He can make us do no more than this: look at
 * targets, take patches back, and apply patches that a trusted key has signed to processes whose
 * build-id they name. A patch comes as a descriptor, is read once, and what was read is what is
 * verified, parsed and applied.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/patcher/patcher.h"
#include "agent/provider.h"
#include "engine/cleanup.h"

enum { PATCH_MOST = 64 << 20 }; /* bytes */

/* ---- what a request says ---- */

static struct pe_error *get_number(const json_t *request, const char *name, bool needed,
				   json_int_t most, json_int_t *ret)
{
	const json_t *value = json_object_get(request, name);

	*ret = json_integer_value(value);
	if (!value && !needed)
		return NULL;
	if (!json_is_integer(value) || *ret < (needed ? 1 : 0) || *ret > most)
		return pe_error_new(PE_ERR_USAGE, "'%s' of the request is no number in its range",
				    name);
	return NULL;
}

static struct pe_error *get_text(const json_t *request, const char *name, const char **ret)
{
	*ret = json_string_value(json_object_get(request, name));
	return *ret ? NULL : pe_error_new(PE_ERR_USAGE, "the request lacks '%s'", name);
}

static struct pe_error *get_work(const json_t *request, const struct agent_provider **provider,
				 struct agent_work *work)
{
	json_int_t pid = 0, start = 0, timeout = 0, pause = 0;
	const char *name;
	struct pe_error *err = get_text(request, "provider", &name);

	if (!err)
		err = get_number(request, "pid", true, 1 << 22, &pid);
	if (!err)
		err = get_number(request, "start_time", true, INT64_MAX, &start);
	if (!err)
		err = get_number(request, "timeout_us", false, 300000000, &timeout);
	if (!err)
		err = get_number(request, "max_pause_us", false, 300000000, &pause);
	if (err)
		return err;
	*provider = agent_provider_find(name);
	if (!*provider)
		return pe_error_new(PE_ERR_USAGE, "there is no provider '%.64s'", name);
	*work = (struct agent_work){ .pid = (pid_t)pid,
				     .start_time = (uint64_t)start,
				     .timeout_us = (uint64_t)timeout,
				     .max_pause_us = (uint64_t)pause };
	return NULL;
}

/* ---- the patch ---- */

static struct pe_error *read_patch(int fd, void **bytes, size_t *size)
{
	struct stat st;

	/* A pipe or a device would let the sender hold us up. */
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
		return pe_error_new(PE_ERR_USAGE, "the patch is no regular file");
	if (st.st_size <= 0 || st.st_size > PATCH_MOST)
		return pe_error_new(PE_ERR_FORMAT, "the patch has %lld bytes; 1 to %d are possible",
				    (long long)st.st_size, PATCH_MOST);

	pe_auto_free char *copy = malloc((size_t)st.st_size);
	size_t used = 0;

	if (!copy)
		return pe_error_nomem();
	while (used < (size_t)st.st_size) {
		ssize_t got = pread(fd, copy + used, (size_t)st.st_size - used, (off_t)used);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return pe_error_errno(errno, "cannot read the patch");
		if (got == 0)
			return pe_error_new(PE_ERR_FORMAT, "the patch became shorter while it "
							   "was read");
		used += (size_t)got;
	}
	*bytes = pe_steal(copy);
	*size = used;
	return NULL;
}

/* The patch, whose signature is verified before anything in it is looked at. */
static struct pe_error *take_patch(const json_t *request, int fd, struct pe_patch **ret,
				   char **signer)
{
	pe_auto_free void *bytes = NULL;
	size_t size = 0;
	const char *signature;
	struct pe_error *err = get_text(request, "signature", &signature);

	if (!err && fd < 0)
		err = pe_error_new(PE_ERR_USAGE, "the request comes without its patch");
	if (!err)
		err = read_patch(fd, &bytes, &size);
	if (!err)
		err = patcher_trust(bytes, size, signature, signer);
	return err ? err : pe_patch_parse(bytes, size, ret);
}

/* The provider's own plan compares what is mapped; this one compares what it says about itself. */
static struct pe_error *check_target(const struct agent_provider *provider,
				     const struct agent_work *work)
{
	json_t *target = NULL, *id;
	bool named = false;
	size_t i;
	struct pe_error *err = provider->info(work->pid, &target);

	if (err)
		return err;
	json_array_foreach(json_object_get(target, "build_ids"), i, id)
	{
		for (size_t k = 0; k < work->patch->target_count; k++) {
			char hex[2 * PE_BUILD_ID_MAX + 1];

			pe_build_id_hex(&work->patch->targets[k].build_id, hex);
			named |= strcmp(hex, json_string_value(id)) == 0;
		}
	}
	if ((uint64_t)json_integer_value(json_object_get(target, "start_time")) != work->start_time)
		err = pe_error_new(PE_ERR_DIED, "process %d is another one now", (int)work->pid);
	else if (!named)
		err = pe_error_new(PE_ERR_MISMATCH, "patch %s names no build-id of process %d",
				   work->patch->name, (int)work->pid);
	json_decref(target);
	return err;
}

static struct pe_error *do_patch(const json_t *request, int fd, bool apply, json_t *answer)
{
	const struct agent_provider *provider;
	struct agent_work work;
	struct pe_patch *patch = NULL;
	pe_auto_free char *signer = NULL;
	json_t *result = NULL;
	struct pe_error *err = get_work(request, &provider, &work);

	if (!err)
		err = take_patch(request, fd, &patch, &signer);
	work.patch = patch;
	work.replace = json_string_value(json_object_get(request, "replace"));
	if (!err && strcmp(patch->product, provider->name) != 0)
		err = pe_error_new(PE_ERR_MISMATCH, "patch %s is for product %s, not %s",
				   patch->name, patch->product, provider->name);
	if (!err)
		err = check_target(provider, &work);
	if (!err)
		err = apply ? provider->apply(&work, &result) : provider->plan(&work, &result);
	if (signer)
		json_object_set_new(answer, "signer", json_string(signer));
	if (patch) {
		json_t *gates = json_array();

		for (size_t i = 0; i < patch->gate_count; i++)
			json_array_append_new(gates, json_string(patch->gates[i]));
		json_object_set_new(answer, "patch",
				    json_pack("{s:s, s:I, s:s, s:o}", "name", patch->name, "level",
					      (json_int_t)patch->level, "kind", patch->kind,
					      "gates", gates));
		pe_patch_free(patch);
	}
	if (result)
		json_object_set_new(answer, "result", result);
	return err;
}

/* ---- the others ---- */

static struct pe_error *do_plan(const json_t *request, int fd, json_t *answer, int *answer_fd)
{
	return do_patch(request, fd, false, answer);
}

static struct pe_error *do_apply(const json_t *request, int fd, json_t *answer, int *answer_fd)
{
	return do_patch(request, fd, true, answer);
}

static struct pe_error *do_discover(const json_t *request, int fd, json_t *answer, int *answer_fd)
{
	json_t *targets = json_array();
	struct pe_error *err = NULL;

	for (size_t i = 0; !err && agent_providers[i]; i++)
		err = agent_providers[i]->discover(targets);
	json_object_set_new(answer, "targets", targets);
	return err;
}

static struct pe_error *do_info(const json_t *request, int fd, json_t *answer, int *answer_fd)
{
	json_int_t pid = 0;
	struct pe_error *err = get_number(request, "pid", true, 1 << 22, &pid);

	if (err)
		return err;
	for (size_t i = 0; agent_providers[i]; i++) {
		json_t *target = NULL;

		pe_error_free(err);
		err = agent_providers[i]->info((pid_t)pid, &target);
		if (err && err->code == PE_ERR_NO_TARGET)
			continue;
		if (target)
			json_object_set_new(answer, "target", target);
		return err;
	}
	return err;
}

static struct pe_error *do_revert(const json_t *request, int fd, json_t *answer, int *answer_fd)
{
	const struct agent_provider *provider;
	struct agent_work work;
	json_t *result = NULL;
	struct pe_error *err = get_work(request, &provider, &work);

	if (!err)
		err = get_text(request, "name", &work.name);
	if (!err)
		err = provider->revert(&work, &result);
	if (result)
		json_object_set_new(answer, "result", result);
	return err;
}

static struct pe_error *do_recover(const json_t *request, int fd, json_t *answer, int *answer_fd)
{
	const struct agent_provider *provider;
	struct agent_work work;
	json_t *result = NULL;
	struct pe_error *err = get_work(request, &provider, &work);

	if (!err)
		err = provider->recover(&work, &result);
	if (result)
		json_object_set_new(answer, "result", result);
	return err;
}

static struct pe_error *do_reach(const json_t *request, int fd, json_t *answer, int *answer_fd)
{
	const struct agent_provider *provider;
	struct agent_work work;
	struct pe_error *err = get_work(request, &provider, &work);

	if (err)
		return err;
	if (!provider->reach)
		return pe_error_new(PE_ERR_NOTHING, "targets of %s cannot be asked",
				    provider->name);
	return provider->reach(&work, answer_fd);
}

static const struct {
	const char *name;
	struct pe_error *(*run)(const json_t *request, int fd, json_t *answer, int *answer_fd);
} verbs[] = {
	{ "discover", do_discover }, { "info", do_info },     { "plan", do_plan },
	{ "apply", do_apply },	     { "revert", do_revert }, { "recover", do_recover },
	{ "reach", do_reach },
};

static struct pe_error *dispatch(const json_t *request, int fd, json_t *answer, int *answer_fd)
{
	const char *verb;
	struct pe_error *err = get_text(request, "do", &verb);

	if (err)
		return err;
	for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++) {
		if (strcmp(verbs[i].name, verb) == 0)
			return verbs[i].run(request, fd, answer, answer_fd);
	}
	return pe_error_new(PE_ERR_USAGE, "there is no request '%.32s'", verb);
}

json_t *patcher_answer(const json_t *request, int fd, int *answer_fd)
{
	json_t *answer = json_object();

	*answer_fd = -1;
	pe_auto_error struct pe_error *err = dispatch(request, fd, answer, answer_fd);

	json_object_set(answer, "id", json_object_get(request, "id"));
	json_object_set_new(answer, "ok", json_boolean(!err));
	if (err) {
		pe_auto_free char *text = pe_error_text(err);

		json_object_set_new(answer, "code", json_string(pe_code_name(err->code)));
		json_object_set_new(answer, "message", json_string(text ? text : ""));
	}
	return answer;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Verifying a patch file; see build/verify.h. */
#include "build/verify.h"
#include "build/files.h"
#include "engine/cleanup.h"

#include <limits.h>
#include <openssl/sha.h>
#include <string.h>

void pe_verify_result_deinit(struct pe_verify_result *result)
{
	pe_strv_deinit(&result->differs);
}

struct pe_error *pe_verify_target(const struct pe_build *build, const struct pe_patch *patch)
{
	const struct pe_build_id *own = pe_image_build_id(build->image);
	char wanted[2 * PE_BUILD_ID_MAX + 1], there[2 * PE_BUILD_ID_MAX + 1];

	for (size_t i = 0; i < patch->target_count; i++)
		if (pe_build_id_equal(&patch->targets[i].build_id, own))
			return NULL;
	pe_build_id_hex(&patch->targets[0].build_id, wanted);
	pe_build_id_hex(own, there);
	return pe_error_new(PE_ERR_MISMATCH,
			    "the patch is for %s with build-id %s, the target %s is build-id %s",
			    patch->targets[0].name, wanted, build->target->name, there);
}

/* ---- the original bytes ---- */

static struct pe_error *check_range(const struct pe_build *build,
				    const struct pe_patch_function *function,
				    const struct pe_patch_range *range,
				    struct pe_verify_result *ret)
{
	const void *there = pe_image_bytes(build->image, range->vaddr, range->size);
	uint8_t sha256[PE_SHA256_SIZE];

	ret->ranges++;
	ret->original += range->size;
	if (there)
		SHA256(there, range->size, sha256);
	if (there && !memcmp(sha256, range->sha256, sizeof(sha256)))
		return NULL;
	if (!pe_strv_addf(&ret->differs, "%s: the %lu bytes at 0x%lx of the shipped program are %s",
			  function->name, (unsigned long)range->size, (unsigned long)range->vaddr,
			  there ? "others" : "not there"))
		return pe_error_nomem();
	return NULL;
}

static struct pe_error *check_original(const struct pe_build *build, const struct pe_patch *patch,
				       struct pe_verify_result *ret)
{
	const struct pe_build_id *own = pe_image_build_id(build->image);
	struct pe_error *err = NULL;

	for (size_t i = 0; !err && i < patch->function_count; i++) {
		const struct pe_patch_function *function = &patch->functions[i];

		if (!pe_build_id_equal(&patch->targets[function->target].build_id, own))
			continue;
		for (size_t j = 0; !err && j < function->range_count; j++)
			err = check_range(build, function, &function->ranges[j], ret);
	}
	return err;
}

/* ---- making it again ---- */

static char *copy_or_null(const char *text)
{
	return text ? strdup(text) : NULL;
}

/* What a maker says and no compiler can know. */
static struct pe_error *copy_manifest(const struct pe_patch *from, struct pe_patch *to)
{
	to->name = strdup(from->name);
	to->description = copy_or_null(from->description);
	to->kind = strdup(from->kind);
	to->level = from->level;
	to->cves = calloc(from->cve_count + 1, sizeof(*to->cves));
	to->gates = calloc(from->gate_count + 1, sizeof(*to->gates));
	if (!to->name || !to->kind || !to->cves || !to->gates)
		return pe_error_nomem();
	for (size_t i = 0; i < from->cve_count; i++) {
		struct pe_patch_cve *cve = &to->cves[to->cve_count++];

		cve->id = strdup(from->cves[i].id);
		cve->cvss = copy_or_null(from->cves[i].cvss);
		cve->url = copy_or_null(from->cves[i].url);
	}
	for (size_t i = 0; i < from->gate_count; i++)
		to->gates[to->gate_count++] = strdup(from->gates[i]);
	return NULL;
}

struct pe_error *pe_remake(const struct pe_build *build, const struct pe_patch *patch,
			   const char *work, struct pe_patch *again, struct pe_make_result *result)
{
	pe_auto_strv struct pe_strv diffs = { 0 };
	pe_auto_free char *folder = pe_format("%s/diffs", build->temp);
	const struct pe_make_options options = {
		.diffs = &diffs,
		.max_units = SIZE_MAX,
		/* What was decided then, by rule or by its maker, is decided so again. */
		.select = { .force_dependent = !patch->independent,
			    .force_independent = patch->independent },
		.work = work,
	};

	*result = (struct pe_make_result){ 0 };
	if (!folder)
		return pe_error_nomem();
	if (!patch->diff)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "the patch does not carry the diff that it was made from");

	struct pe_error *err = pe_dir_make(folder);

	if (!err)
		err = pe_diffs_split(patch->diff, patch->diff_size, folder, &diffs);
	if (!err)
		err = copy_manifest(patch, again);
	return err ? err : pe_make_patch(build, &options, again, result);
}

/* ---- where two patches differ ---- */

static const struct pe_patch_function *function_named(const struct pe_patch *patch,
						      const char *name)
{
	for (size_t i = 0; i < patch->function_count; i++)
		if (!strcmp(patch->functions[i].name, name))
			return &patch->functions[i];
	return NULL;
}

static const struct pe_patch_section *section_named(const struct pe_patch *patch, const char *name)
{
	for (size_t i = 0; i < patch->section_count; i++)
		if (!strcmp(patch->sections[i].name, name))
			return &patch->sections[i];
	return NULL;
}

static bool same_text(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

static bool same_section(const struct pe_patch_section *a, const struct pe_patch_section *b)
{
	if (a->size != b->size || a->reloc_count != b->reloc_count)
		return false;
	return !a->data || !memcmp(a->data, b->data, a->size);
}

static bool note_facts(const struct pe_patch *file, const struct pe_patch *made,
		       struct pe_strv *differs)
{
	const struct {
		const char *what, *file, *made;
	} facts[] = {
		{ "compiler", file->compiler, made->compiler },
		{ "flags", file->flags, made->flags },
		{ "hash of the source", file->source_sha256, made->source_sha256 },
	};

	for (size_t i = 0; i < sizeof(facts) / sizeof(*facts); i++)
		if (!same_text(facts[i].file, facts[i].made) &&
		    !pe_strv_addf(differs, "%s: \"%s\" in the file, \"%s\" made here",
				  facts[i].what, facts[i].file ? facts[i].file : "",
				  facts[i].made ? facts[i].made : ""))
			return false;
	return true;
}

static bool note_contents(const struct pe_patch *file, const struct pe_patch *made,
			  struct pe_strv *differs)
{
	for (size_t i = 0; i < made->function_count; i++)
		if (!function_named(file, made->functions[i].name) &&
		    !pe_strv_addf(differs, "%s is not replaced by the file",
				  made->functions[i].name))
			return false;
	for (size_t i = 0; i < file->function_count; i++)
		if (!function_named(made, file->functions[i].name) &&
		    !pe_strv_addf(differs, "%s is replaced by the file only",
				  file->functions[i].name))
			return false;
	for (size_t i = 0; i < file->section_count; i++) {
		const struct pe_patch_section *section = &file->sections[i];
		const struct pe_patch_section *other = section_named(made, section->name);

		if ((!other || !same_section(section, other)) &&
		    !pe_strv_addf(differs, "section %s is not what the source gives",
				  section->name))
			return false;
	}
	return true;
}

static struct pe_error *compare(const struct pe_patch *file, const void *bytes, size_t size,
				const struct pe_patch *made, struct pe_verify_result *ret)
{
	pe_auto_free void *made_bytes = NULL;
	size_t made_size, before = ret->differs.count;
	struct pe_error *err = pe_patch_serialize(made, &made_bytes, &made_size);

	if (err)
		return err;
	ret->functions = made->function_count;
	if (size == made_size && !memcmp(bytes, made_bytes, size))
		return NULL;
	if (!note_facts(file, made, &ret->differs) || !note_contents(file, made, &ret->differs))
		return pe_error_nomem();
	if (ret->differs.count == before &&
	    !pe_strv_addf(&ret->differs,
			  "symbols, tables or manifest are not what the source gives (%zu bytes, "
			  "%zu made here)",
			  size, made_size))
		return pe_error_nomem();
	return NULL;
}

/* A diff that does not apply or compile is none that a patch was made from. */
static struct pe_error *note_unusable_diff(struct pe_error *err, struct pe_verify_result *ret)
{
	pe_auto_free char *text = pe_error_text(err);

	pe_error_free(err);
	return text && pe_strv_addf(&ret->differs, "the diff in the file makes no patch: %s", text)
		       ? NULL
		       : pe_error_nomem();
}

struct pe_error *pe_verify(struct pe_build *build, const struct pe_patch *patch, const void *bytes,
			   size_t size, const char *work, struct pe_verify_result *ret)
{
	struct pe_make_result result = { 0 };
	struct pe_patch *again = pe_patch_new();

	*ret = (struct pe_verify_result){ 0 };
	if (!again)
		return pe_error_nomem();

	struct pe_error *err = pe_build_no_cache(build);

	if (!err)
		err = pe_verify_target(build, patch);
	if (!err)
		err = check_original(build, patch, ret);
	if (!err)
		err = pe_remake(build, patch, work, again, &result);
	if (!err)
		err = compare(patch, bytes, size, again, ret);
	else if (patch->diff && (err->code == PE_ERR_FORMAT || err->code == PE_ERR_COMPILE))
		err = note_unusable_diff(err, ret);
	pe_make_result_deinit(&result);
	pe_patch_free(again);
	return err;
}

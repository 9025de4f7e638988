/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The manifest as JSON, both ways. Keys that are not known are refused, so that a newer meaning is
 * never ignored; only "signature" is left alone here.
 *
 *	{ "format": 1, "name", "description", "kind", "product", "level", "independent",
 *	  "cves": [{ "id", "cvss", "url" }], "gates": ["..."], "notes": ["..."],
 *	  "targets": [{ "name", "program", "pie", "build_id", "architecture" }],
 *	  "built_by": { "compiler", "flags", "source_sha256" } }
 */
#include <elf.h>
#include <jansson.h>
#include <string.h>

#include "engine/cleanup.h"
#include "patch/format.h"

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

#define auto_json __attribute__((cleanup(cleanup_json)))

static const struct {
	uint16_t machine;
	const char *name;
} architectures[] = {
	{ EM_X86_64, "x86_64" },
	{ EM_AARCH64, "aarch64" },
};

static const char *architecture_name(uint16_t machine)
{
	for (size_t i = 0; i < sizeof(architectures) / sizeof(*architectures); i++)
		if (architectures[i].machine == machine)
			return architectures[i].name;
	return "unknown";
}

/* ---- writing ---- */

static json_t *targets_to_json(const struct pe_patch *patch)
{
	json_t *list = json_array();

	for (size_t i = 0; i < patch->target_count; i++) {
		const struct pe_patch_target *t = &patch->targets[i];
		char hex[2 * PE_BUILD_ID_MAX + 1];

		pe_build_id_hex(&t->build_id, hex);
		json_array_append_new(list, json_pack("{s:s, s:b, s:b, s:s, s:s}", "name", t->name,
						      "program", t->is_program, "pie", t->is_pie,
						      "build_id", hex, "architecture",
						      architecture_name(t->machine)));
	}
	return list;
}

static json_t *cves_to_json(const struct pe_patch *patch)
{
	json_t *list = json_array();

	for (size_t i = 0; i < patch->cve_count; i++) {
		const struct pe_patch_cve *cve = &patch->cves[i];

		json_array_append_new(list, json_pack("{s:s, s:s*, s:s*}", "id", cve->id, "cvss",
						      cve->cvss, "url", cve->url));
	}
	return list;
}

static json_t *texts_to_json(char *const *texts, size_t count)
{
	json_t *list = json_array();

	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, json_string(texts[i]));
	return list;
}

struct pe_error *care_manifest_write(const struct pe_patch *patch, char **ret)
{
	auto_json json_t *json = json_pack(
		"{s:i, s:s, s:s*, s:s, s:s, s:I, s:b, s:o, s:o, s:o, s:o, s:{s:s*, s:s*, s:s*}}",
		"format", PE_PATCH_FORMAT, "name", patch->name, "description", patch->description,
		"kind", patch->kind, "product", patch->product, "level", (json_int_t)patch->level,
		"independent", patch->independent, "cves", cves_to_json(patch), "gates",
		texts_to_json(patch->gates, patch->gate_count), "notes",
		texts_to_json(patch->notes, patch->note_count), "targets", targets_to_json(patch),
		"built_by", "compiler", patch->compiler, "flags", patch->flags, "source_sha256",
		patch->source_sha256);
	pe_auto_free char *text = json ? json_dumps(json, JSON_SORT_KEYS | JSON_INDENT(2)) : NULL;

	/* The texts were checked to be UTF-8, so nothing but memory can lack. */
	if (!text || asprintf(ret, "%s\n", text) < 0)
		return pe_error_nomem();
	return NULL;
}

/* ---- reading ---- */

static struct pe_error *manifest_error(const char *what, const json_error_t *e)
{
	return pe_error_new(PE_ERR_FORMAT, CARE_MANIFEST ": %s%s", what, e->text);
}

/* A copy, or NULL when the key was not there. */
static struct pe_error *keep(const char *text, char **ret)
{
	if (!text)
		return NULL;
	*ret = strdup(text);
	return *ret ? NULL : pe_error_nomem();
}

/* The list at @key, with room for its items; memory for none is memory for one. */
static struct pe_error *list_begin(json_t *list, const char *key, size_t max, size_t item_size,
				   void *items)
{
	if (!json_is_array(list))
		return pe_error_new(PE_ERR_FORMAT, CARE_MANIFEST ": %s is no list", key);
	if (json_array_size(list) > max)
		return pe_error_new(PE_ERR_FORMAT, CARE_MANIFEST ": %zu %s are more than %zu",
				    json_array_size(list), key, max);

	void *array = calloc(json_array_size(list) + 1, item_size);

	if (!array)
		return pe_error_nomem();
	memcpy(items, &array, sizeof(array));
	return NULL;
}

static struct pe_error *read_cves(json_t *list, struct pe_patch *patch)
{
	struct pe_error *err =
		list_begin(list, "cves", PATCH_MAX_LIST, sizeof(*patch->cves), &patch->cves);

	for (size_t i = 0; !err && i < json_array_size(list); i++) {
		struct pe_patch_cve *cve = &patch->cves[patch->cve_count++];
		const char *id, *cvss = NULL, *url = NULL;
		json_error_t e;

		if (json_unpack_ex(json_array_get(list, i), &e, 0, "{s:s, s?s, s?s !}", "id", &id,
				   "cvss", &cvss, "url", &url))
			return manifest_error("cves: ", &e);
		err = keep(id, &cve->id);
		if (!err)
			err = keep(cvss, &cve->cvss);
		if (!err)
			err = keep(url, &cve->url);
	}
	return err;
}

static struct pe_error *read_texts(json_t *list, const char *key, char ***texts, size_t *count)
{
	struct pe_error *err = list_begin(list, key, PATCH_MAX_LIST, sizeof(**texts), texts);

	for (size_t i = 0; !err && i < json_array_size(list); i++) {
		const char *text = json_string_value(json_array_get(list, i));

		if (!text)
			return pe_error_new(PE_ERR_FORMAT, CARE_MANIFEST ": %s: no string", key);
		err = keep(text, &(*texts)[(*count)++]);
	}
	return err;
}

static struct pe_error *read_target(json_t *json, struct pe_patch_target *target)
{
	const char *name, *build_id, *architecture;
	int is_program, is_pie;
	json_error_t e;

	if (json_unpack_ex(json, &e, 0, "{s:s, s:b, s:b, s:s, s:s !}", "name", &name, "program",
			   &is_program, "pie", &is_pie, "build_id", &build_id, "architecture",
			   &architecture))
		return manifest_error("targets: ", &e);
	target->is_program = is_program;
	target->is_pie = is_pie;
	if (!pe_build_id_parse(build_id, &target->build_id))
		return pe_error_new(PE_ERR_FORMAT,
				    CARE_MANIFEST ": targets: the build-id is not hexadecimal");
	for (size_t i = 0; i < sizeof(architectures) / sizeof(*architectures); i++)
		if (!strcmp(architectures[i].name, architecture))
			target->machine = architectures[i].machine;
	return keep(name, &target->name);
}

static struct pe_error *read_targets(json_t *list, struct pe_patch *patch)
{
	struct pe_error *err = list_begin(list, "targets", PATCH_MAX_TARGETS,
					  sizeof(*patch->targets), &patch->targets);

	for (size_t i = 0; !err && i < json_array_size(list); i++)
		err = read_target(json_array_get(list, i), &patch->targets[patch->target_count++]);
	return err;
}

/* The version first: of another one nothing else is known. */
static struct pe_error *read_format(json_t *json)
{
	json_t *format = json_object_get(json, "format");

	if (!json_is_integer(format))
		return pe_error_new(PE_ERR_FORMAT, CARE_MANIFEST ": it has no format version");
	if (json_integer_value(format) != PE_PATCH_FORMAT)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    CARE_MANIFEST ": the patch has format %lld, this program "
						  "reads format %d",
				    (long long)json_integer_value(format), PE_PATCH_FORMAT);
	return NULL;
}

static struct pe_error *read_fields(json_t *json, struct pe_patch *patch)
{
	const char *name, *description = NULL, *kind, *product;
	const char *compiler = NULL, *flags = NULL, *source = NULL;
	json_t *cves, *gates, *notes, *targets, *signature = NULL;
	json_int_t level;
	int format, independent;
	json_error_t e;

	if (json_unpack_ex(json, &e, 0,
			   "{s:i, s:s, s?s, s:s, s:s, s:I, s:b, s:o, s:o, s:o, s:o, s?o, "
			   "s:{s?s, s?s, s?s !} !}",
			   "format", &format, "name", &name, "description", &description, "kind",
			   &kind, "product", &product, "level", &level, "independent", &independent,
			   "cves", &cves, "gates", &gates, "notes", &notes, "targets", &targets,
			   "signature", &signature, "built_by", "compiler", &compiler, "flags",
			   &flags, "source_sha256", &source))
		return manifest_error("", &e);
	if (level < 0 || level > UINT32_MAX)
		return pe_error_new(PE_ERR_FORMAT, CARE_MANIFEST ": level %lld is out of range",
				    (long long)level);
	patch->level = (uint32_t)level;
	patch->independent = independent;

	const struct {
		const char *from;
		char **to;
	} texts[] = {
		{ name, &patch->name },
		{ description, &patch->description },
		{ kind, &patch->kind },
		{ product, &patch->product },
		{ compiler, &patch->compiler },
		{ flags, &patch->flags },
		{ source, &patch->source_sha256 },
	};
	struct pe_error *err = NULL;

	for (size_t i = 0; !err && i < sizeof(texts) / sizeof(*texts); i++)
		err = keep(texts[i].from, texts[i].to);
	if (!err)
		err = read_cves(cves, patch);
	if (!err)
		err = read_texts(gates, "gates", &patch->gates, &patch->gate_count);
	if (!err)
		err = read_texts(notes, "notes", &patch->notes, &patch->note_count);
	if (!err)
		err = read_targets(targets, patch);
	return err;
}

struct pe_error *care_manifest_read(const char *text, size_t size, struct pe_patch *patch)
{
	if (size > PATCH_MAX_MANIFEST)
		return pe_error_new(PE_ERR_FORMAT, CARE_MANIFEST ": %zu bytes are more than %d",
				    size, PATCH_MAX_MANIFEST);

	json_error_t e;
	auto_json json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &e);

	if (!json)
		return pe_error_new(PE_ERR_FORMAT, CARE_MANIFEST ": line %d: %s", e.line, e.text);

	struct pe_error *err = read_format(json);

	return err ? err : read_fields(json, patch);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Taking back what failed its verification; see undo.h. */
#include "dbcare/undo.h"

#include <string.h>

#include "build/text.h"
#include "dbcare/kept.h"
#include "engine/cleanup.h"

json_t *dbc_undo_list(const struct dbc_server *server, const struct pe_plan *plan)
{
	size_t count;
	const struct pe_plan_replaced *replaced = pe_plan_replaced(plan, &count);
	json_t *list = json_array();

	for (size_t i = 0; i < server->applied.count; i++) {
		const char *name = server->applied.items[i].name;

		for (size_t j = 0; j < count; j++) {
			if (!strcmp(replaced[j].name, name))
				json_array_append_new(list,
						      json_pack("{s:s, s:i}", "patch", name,
								"level", (int)replaced[j].level));
		}
	}
	return list;
}

struct kept {
	struct pe_patch **patches;
	size_t count;
};

static void kept_deinit(struct kept *kept)
{
	for (size_t i = 0; i < kept->count; i++)
		pe_patch_free(kept->patches[i]);
	free(kept->patches);
}

#define auto_kept __attribute__((cleanup(kept_deinit)))

/* All of @replaced or none: one may need what another brings. */
static struct pe_error *kept_read(const struct dbc_server *server, const json_t *replaced,
				  struct kept *kept)
{
	struct pe_error *err = NULL;
	const json_t *entry;
	size_t i;

	kept->patches = calloc(json_array_size(replaced) + 1, sizeof(*kept->patches));
	if (!kept->patches)
		return pe_error_nomem();
	json_array_foreach(replaced, i, entry)
	{
		const char *name = json_string_value(json_object_get(entry, "patch"));
		json_int_t level = json_integer_value(json_object_get(entry, "level"));

		if (!name)
			return pe_error_new(PE_ERR_FORMAT, "a replaced patch has no name");
		err = dbc_kept_read(server, name, (uint32_t)level, &kept->patches[i]);
		if (err)
			return err;
		kept->count++;
	}
	return NULL;
}

static struct pe_error *apply_kept(struct pe_target *target, const struct pe_patch *patch,
				   const char *const *replace, size_t replace_count,
				   const struct pe_apply_options *options,
				   struct pe_switch_result *change)
{
	struct pe_plan *plan = NULL;
	struct pe_error *err =
		pe_plan_create_replacing(target, patch, replace, replace_count, &plan);

	if (!err)
		err = pe_apply(target, plan, options, change);
	if (plan)
		pe_plan_free(plan);
	return err;
}

/* As in the engine's own list of what a patch replaced. */
static json_t *text_of(const json_t *entry)
{
	return json_sprintf("%s (level %d)", json_string_value(json_object_get(entry, "patch")),
			    (int)json_integer_value(json_object_get(entry, "level")));
}

/*
 * How many of @kept are in the server again: it ends with the first that cannot be. @change: of the
 * switch from @name.
 */
static size_t put_back(struct pe_target *target, const char *name, const struct kept *kept,
		       const struct pe_apply_options *options, struct pe_switch_result *change)
{
	size_t i;

	for (i = 0; i < kept->count; i++) {
		struct pe_switch_result next = { 0 };
		pe_auto_error struct pe_error *err = apply_kept(
			target, kept->patches[i], &name, i == 0, options, i ? &next : change);

		pe_switch_result_deinit(&next);
		/* The first has to take the place of @name. */
		if (err && (i == 0 || err->code != PE_ERR_NOTHING))
			break;
	}
	return i;
}

struct pe_error *dbc_undo(const struct dbc_server *server, struct pe_target *target,
			  const char *name, const json_t *replaced,
			  const struct pe_apply_options *options, struct dbc_undone *ret)
{
	auto_kept struct kept kept = { 0 };
	pe_auto_error struct pe_error *lost = kept_read(server, replaced, &kept);
	size_t restored, i;
	const json_t *entry;

	*ret = (struct dbc_undone){ json_array(), json_array() };
	restored = lost ? 0 : put_back(target, name, &kept, options, &ret->change);
	json_array_foreach(replaced, i, entry)
	{
		json_array_append_new(i < restored ? ret->restored : ret->lost, text_of(entry));
	}
	/* Where nothing took its place it has to go all the same. */
	if (restored)
		return NULL;
	pe_switch_result_deinit(&ret->change);
	return pe_revert(target, name, options, &ret->change);
}

void dbc_undone_deinit(struct dbc_undone *undone)
{
	json_decref(undone->restored);
	json_decref(undone->lost);
	pe_switch_result_deinit(&undone->change);
	*undone = (struct dbc_undone){ 0 };
}

char *dbc_undone_names(const json_t *list)
{
	char *names = strdup("");
	const json_t *name;
	size_t i;

	json_array_foreach(list, i, name)
	{
		char *more =
			names ? pe_format("%s%s%s", names, i ? ", " : "", json_string_value(name))
			      : NULL;

		free(names);
		names = more;
	}
	return names;
}

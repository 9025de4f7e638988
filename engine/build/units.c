/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Translation units of a target; see build/units.h. */
#include "build/units.h"
#include "build/command.h"
#include "build/files.h"
#include "build/run.h"
#include "engine/cleanup.h"

#include <elf.h>
#include <string.h>

struct pe_error *pe_build_environment(const char *path, struct pe_strv *env)
{
	static const char *const kept[] = { "HOME",	"http_proxy", "https_proxy",
					    "no_proxy", "CCACHE_DIR", "APT_CONFIG" };

	if (!path)
		path = getenv("PATH");
	for (size_t i = 0; i < sizeof(kept) / sizeof(*kept); i++) {
		const char *value = getenv(kept[i]);

		if (value && !pe_strv_addf(env, "%s=%s", kept[i], value))
			return pe_error_nomem();
	}
	if (!pe_strv_addf(env, "PATH=%s", path ? path : "/usr/sbin:/usr/bin:/sbin:/bin") ||
	    !pe_strv_add(env, "LC_ALL=C.UTF-8"))
		return pe_error_nomem();
	return NULL;
}

const struct pe_tree *pe_build_tree(const struct pe_build *build)
{
	return build->tree.path ? &build->tree : NULL;
}

struct pe_error *pe_build_no_cache(struct pe_build *build)
{
	build->no_cache = true;
	return pe_strv_add(&build->env, "CCACHE_RECACHE=1") ? NULL : pe_error_nomem();
}

struct pe_error *pe_build_share(struct pe_build *build, const char *dir)
{
	return pe_strv_add(&build->tree.shared, dir) ? NULL : pe_error_nomem();
}

/* Where compilers run: in the target's tree, which sees its source, its objects and ccache's. */
static struct pe_error *tree_fill(struct pe_build *build)
{
	const struct pe_build_target *target = build->target;
	const char *ccache = getenv("CCACHE_DIR");

	if (!target->tree)
		return NULL;
	if (geteuid() != 0)
		return pe_error_new(PE_ERR_PERMISSION,
				    "the target %s is compiled inside %s: only root can enter it",
				    target->name, target->tree);
	if (!pe_file_exists(target->tree))
		return pe_error_new(PE_ERR_NO_TARGET,
				    "the tree %s, in which the target %s is compiled, is gone: "
				    "remove the target and add it again",
				    target->tree, target->name);
	build->tree.path = target->tree;

	/* Its compile commands name real paths. */
	pe_auto_free char *dir = realpath(target->dir, NULL);
	struct pe_error *err = dir ? pe_build_share(build, dir) : pe_error_nomem();

	if (!err)
		err = pe_build_share(build, build->temp);
	if (!err && ccache && *ccache == '/' && pe_file_exists(ccache))
		err = pe_build_share(build, ccache);
	return err;
}

static struct pe_error *build_fill(struct pe_build *build)
{
	const struct pe_build_target *target = build->target;
	const char *slash = strrchr(target->binary, '/');
	struct pe_error *err = pe_database_read(target->database, &build->database);

	if (!err)
		err = pe_linked_objects(&build->database, slash ? slash + 1 : target->binary,
					&build->linked);
	if (!err)
		err = pe_build_target_image(target, &build->image);
	if (!err)
		err = tree_fill(build);
	if (!err)
		/* Our own PATH means nothing in a tree. */
		err = pe_build_environment(
			build->tree.path ? "/usr/sbin:/usr/bin:/sbin:/bin" : NULL, &build->env);
	/* Both compilations must agree on __DATE__, whatever the clock says. */
	if (!err &&
	    !pe_strv_addf(&build->env, "SOURCE_DATE_EPOCH=%s", target->epoch ? target->epoch : "0"))
		err = pe_error_nomem();
	/* What a killed compiler leaves goes with our own temporary directory. */
	if (!err && !pe_strv_addf(&build->env, "TMPDIR=%s", build->temp))
		err = pe_error_nomem();
	if (err)
		return err;

	char hex[2 * PE_BUILD_ID_MAX + 1];

	pe_build_id_hex(pe_image_build_id(build->image), hex);
	if (strcmp(hex, target->build_id))
		return pe_error_new(PE_ERR_MISMATCH,
				    "%s is another build (%s) than when the target %s was added "
				    "(%s)",
				    target->binary, hex, target->name, target->build_id);
	return NULL;
}

struct pe_error *pe_build_open(const struct pe_build_target *target, const char *temp,
			       struct pe_build *ret)
{
	struct pe_error *err;

	*ret = (struct pe_build){ .target = target, .temp = temp };
	err = build_fill(ret);
	if (err)
		pe_build_close(ret);
	return err;
}

void pe_build_close(struct pe_build *build)
{
	pe_database_deinit(&build->database);
	pe_strv_deinit(&build->linked);
	pe_strv_deinit(&build->env);
	pe_strv_deinit(&build->tree.shared);
	pe_image_close(build->image);
	build->image = NULL;
}

struct pe_error *pe_build_source_path(const struct pe_build *build, const char *path, char **ret)
{
	const char *root = build->target->source;
	pe_auto_free char *full = pe_path_normal(root, path);

	if (!full)
		return pe_error_nomem();
	if (!pe_path_below(full, root) || strlen(full) <= strlen(root) || !pe_file_exists(full))
		return pe_error_new(PE_ERR_USAGE, "there is no file %s in the source %s", path,
				    root);
	*ret = strdup(full + strlen(root) + 1);
	return *ret ? NULL : pe_error_nomem();
}

bool pe_build_is_unit(const struct pe_build *build, const char *source)
{
	pe_auto_free char *file = pe_format("%s/%s", build->target->source, source);
	size_t from = 0;

	return file && pe_database_next(&build->database, file, &from);
}

static const char *below_root(const struct pe_build *build, const char *path)
{
	size_t n = strlen(build->target->source);

	return path && pe_path_below(path, build->target->source) && path[n] ? path + n + 1 : path;
}

static struct pe_error *unit_add(const struct pe_build *build, struct pe_units *units,
				 const struct pe_unit_entry *entry)
{
	struct pe_unit *items = reallocarray(units->items, units->count + 1, sizeof(*items));
	const char *object = below_root(build, entry->output);

	if (!items)
		return pe_error_nomem();
	units->items = items;
	items[units->count] = (struct pe_unit){
		.entry = entry,
		.source = strdup(below_root(build, entry->file)),
		.object_name = strdup(object ? object : "(unnamed object)"),
	};
	units->count++;
	return items[units->count - 1].source && items[units->count - 1].object_name
		       ? NULL
		       : pe_error_nomem();
}

struct pe_error *pe_units_add(const struct pe_build *build, struct pe_units *units,
			      const char *source)
{
	pe_auto_free char *file = pe_format("%s/%s", build->target->source, source);
	const struct pe_unit_entry *entry;
	pe_auto_strv struct pe_strv others = { 0 };
	size_t from = 0, added = 0;

	if (!file)
		return pe_error_nomem();
	while ((entry = pe_database_next(&build->database, file, &from))) {
		if (build->linked.count && entry->output &&
		    !pe_strv_has(&build->linked, entry->output)) {
			if (!pe_strv_add(&others, below_root(build, entry->output)))
				return pe_error_nomem();
			continue;
		}

		struct pe_error *err = unit_add(build, units, entry);

		if (err)
			return err;
		added++;
	}
	if (added)
		return NULL;

	pe_auto_free char *list = pe_strv_join(&others, ", ");

	if (others.count)
		return pe_error_new(
			PE_ERR_UNSUPPORTED,
			"%s is compiled, but not into %s (only into %s): a patch is for "
			"one image, so give what the diff changes of another to a patch "
			"of its own (--image)",
			source, build->target->binary, list ? list : "?");
	return pe_error_new(PE_ERR_UNSUPPORTED, "no compile command of the target %s names %s",
			    build->target->name, source);
}

static void unit_deinit(struct pe_unit *unit)
{
	pe_match_free(unit->match);
	pe_object_close(unit->base);
	pe_object_close(unit->patched);
	free(unit->source);
	free(unit->object_name);
	*unit = (struct pe_unit){ 0 };
}

void pe_units_deinit(struct pe_units *units)
{
	for (size_t i = 0; i < units->count; i++)
		unit_deinit(&units->items[i]);
	free(units->items);
	*units = (struct pe_units){ 0 };
}

void pe_match_summary(const struct pe_match *match, size_t *identical, size_t *present)
{
	*identical = pe_match_count(match, PE_MATCH_IDENTICAL) +
		     pe_match_count(match, PE_MATCH_RELOCATED);
	*present = match->function_count - pe_match_count(match, PE_MATCH_ABSENT);
}

/* In thousandths; a unit of which nothing is in the program scores 0. */
static size_t match_score(const struct pe_match *match)
{
	size_t identical, present;

	pe_match_summary(match, &identical, &present);
	return present ? identical * 1000 / present : 0;
}

/* The best score among the units of the same source. */
static size_t best_score(const struct pe_units *units, const char *source)
{
	size_t best = 0;

	for (size_t i = 0; i < units->count; i++) {
		size_t score = match_score(units->items[i].match);

		if (!strcmp(units->items[i].source, source) && score > best)
			best = score;
	}
	return best;
}

/* Does @b define a function that @a defines too, so that no program can have both? */
static bool exclude_each_other(const struct pe_object *a, const struct pe_object *b)
{
	for (size_t i = 0; i < a->symbol_count; i++) {
		const struct pe_object_symbol *one = &a->symbols[i], *other;

		if (one->type != STT_FUNC || one->bind != STB_GLOBAL || !one->defined)
			continue;
		other = pe_object_find(b, one->name);
		if (other && other->bind == STB_GLOBAL && other->defined)
			return true;
	}
	return false;
}

/*
 * The linker takes from an archive only what nothing before has defined: of two archives with an
 * object of the same source, it takes one.
 */
static bool another_is_linked(const struct pe_units *units, size_t at)
{
	const struct pe_unit *unit = &units->items[at];

	for (size_t i = 0; i < units->count; i++) {
		const struct pe_unit *other = &units->items[i];

		if (i != at && !strcmp(other->source, unit->source) &&
		    match_score(other->match) > match_score(unit->match) &&
		    exclude_each_other(unit->base, other->base))
			return true;
	}
	return false;
}

/* Of several objects of one source, those that are not in the program. */
static struct pe_error *candidates_drop(const struct pe_build *build, struct pe_units *units)
{
	pe_auto_free bool *drop = calloc(units->count + 1, sizeof(*drop));
	size_t kept = 0;

	if (!drop)
		return pe_error_nomem();
	for (size_t i = 0; i < units->count; i++) {
		size_t score = match_score(units->items[i].match);

		drop[i] = another_is_linked(units, i) ||
			  (!build->linked.count && score < 900 &&
			   score < best_score(units, units->items[i].source));
	}
	for (size_t i = 0; i < units->count; i++) {
		if (drop[i])
			unit_deinit(&units->items[i]);
		else
			units->items[kept++] = units->items[i];
	}
	units->count = kept;
	return NULL;
}

struct pe_error *pe_units_match(const struct pe_build *build, struct pe_units *units)
{
	for (size_t i = 0; i < units->count; i++) {
		struct pe_unit *unit = &units->items[i];
		struct pe_error *err = pe_match_run(unit->base, build->image, &unit->match);

		if (err)
			return pe_error_wrap(err, "matching %s", unit->source);
	}
	return candidates_drop(build, units);
}

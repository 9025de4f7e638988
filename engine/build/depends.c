/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which sources include a header; see build/depends.h.
 *
 * Each unit's own compile command runs with -M (preprocessing alone, all headers listed as a make
 * rule). What comes back is kept as lines "SOURCE\tHEADER" below the target.
 */
#include "build/depends.h"
#include "build/command.h"
#include "build/files.h"
#include "build/run.h"
#include "engine/cleanup.h"

#include <string.h>

/* ---- asking the compiler ---- */

struct scan {
	const struct pe_build *build;
	struct pe_units units; /* of the whole program */
	struct pe_strv *argvs; /* parallel to units */
	struct pe_run *runs;
	size_t ended;
};

static void scan_deinit(struct scan *scan)
{
	for (size_t i = 0; i < scan->units.count; i++) {
		if (scan->argvs)
			pe_strv_deinit(&scan->argvs[i]);
		if (scan->runs)
			pe_run_deinit(&scan->runs[i]);
	}
	free(scan->argvs);
	free(scan->runs);
	pe_units_deinit(&scan->units);
}

static bool scan_ended(void *ctx, struct pe_run *run)
{
	struct scan *scan = ctx;
	const struct pe_build *build = scan->build;

	scan->ended++;
	if (build->progress &&
	    scan->ended * 20 / scan->units.count != (scan->ended - 1) * 20 / scan->units.count) {
		pe_auto_free char *text =
			pe_format("finding who includes what (kept for later): %zu of %zu",
				  scan->ended, scan->units.count);

		if (text)
			build->progress(build->progress_ctx, text);
	}
	return true;
}

/* Every unit that is in the program; each source once is enough only where its objects agree, so
 * all its objects are asked. */
static struct pe_error *scan_units(struct scan *scan)
{
	const struct pe_build *build = scan->build;
	pe_auto_strv struct pe_strv seen = { 0 };

	for (size_t i = 0; i < build->database.count; i++) {
		const struct pe_unit_entry *entry = &build->database.entries[i];
		const char *root = build->target->source;

		if (build->linked.count && entry->output &&
		    !pe_strv_has(&build->linked, entry->output))
			continue;
		/* Generated sources outside the tree are not what a diff changes. */
		if (!pe_path_below(entry->file, root) || !pe_file_exists(entry->file) ||
		    pe_strv_has(&seen, entry->file))
			continue;

		struct pe_error *err =
			pe_units_add(build, &scan->units, entry->file + strlen(root) + 1);

		if (!err && !pe_strv_add(&seen, entry->file))
			err = pe_error_nomem();
		if (err)
			return err;
	}
	return NULL;
}

static struct pe_error *scan_run(struct scan *scan)
{
	const struct pe_build *build = scan->build;
	size_t count = scan->units.count;

	scan->argvs = calloc(count + 1, sizeof(*scan->argvs));
	scan->runs = calloc(count + 1, sizeof(*scan->runs));
	if (!scan->argvs || !scan->runs)
		return pe_error_nomem();
	for (size_t i = 0; i < count; i++) {
		const struct pe_unit_entry *entry = scan->units.items[i].entry;
		struct pe_error *err =
			pe_command_make(entry, NULL, build->target->source, NULL, &scan->argvs[i]);

		if (err)
			return err;
		if (!pe_strv_add(&scan->argvs[i], "-M"))
			return pe_error_nomem();
		scan->runs[i] = (struct pe_run){
			.argv = &scan->argvs[i],
			.cwd = entry->directory,
			.env = &build->env,
			.tree = pe_build_tree(build),
		};
	}
	return pe_run_all(scan->runs, count, pe_run_jobs(), scan_ended, scan);
}

/* "x.o: a.cc b.h \<newline> c.h": the words behind the colon, normalised, below the root. */
static void rule_write(const struct pe_build *build, const struct pe_unit *unit, const char *rule,
		       FILE *out)
{
	const char *root = build->target->source;
	const char *p = strstr(rule, ": ");

	for (p = p ? p + 1 : ""; *p;) {
		p += strspn(p, " \t\n\\");

		size_t n = strcspn(p, " \t\n");
		pe_auto_free char *word = strndup(p, n);
		pe_auto_free char *path =
			word ? pe_path_normal(unit->entry->directory, word) : NULL;

		if (n && path && pe_path_below(path, root) && strcmp(path, unit->entry->file))
			fprintf(out, "%s\t%s\n", unit->source, path + strlen(root) + 1);
		p += n;
	}
}

static struct pe_error *scan_program(const struct pe_build *build, char **ret)
{
	__attribute__((cleanup(scan_deinit))) struct scan scan = { .build = build };
	struct pe_error *err = scan_units(&scan);
	size_t size;

	if (!err)
		err = scan_run(&scan);
	if (err)
		return err;

	FILE *out = open_memstream(ret, &size);

	if (!out)
		return pe_error_nomem();
	for (size_t i = 0; !err && i < scan.units.count; i++) {
		/* A unit that needs a generated header is not there to be asked: it would be
		 * left out in silence. */
		if (pe_run_succeeded(&scan.runs[i]))
			rule_write(build, &scan.units.items[i], scan.runs[i].out, out);
		else
			err = pe_error_new(PE_ERR_COMPILE, "cannot find what %s includes:\n%.2000s",
					   scan.units.items[i].source, scan.runs[i].err);
	}
	fclose(out);
	if (err) {
		free(*ret);
		*ret = NULL;
	}
	return err;
}

/* ---- the answer ---- */

static struct pe_error *table_load(const struct pe_build *build, char **ret)
{
	pe_auto_free char *path = pe_format("%s/depends", build->target->dir);

	if (!path)
		return pe_error_nomem();
	if (build->target->immutable && !build->no_cache && pe_file_exists(path))
		return pe_file_read(path, ret, NULL);

	struct pe_error *err = scan_program(build, ret);

	if (!err && build->target->immutable)
		pe_error_free(pe_file_write(path, *ret, strlen(*ret)));
	return err;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

struct pe_error *pe_depends_sources(const struct pe_build *build, const struct pe_strv *headers,
				    struct pe_strv *ret)
{
	pe_auto_free char *table = NULL;
	struct pe_error *err = table_load(build, &table);
	char *save = NULL;

	if (err)
		return err;
	for (char *line = strtok_r(table, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *tab = strchr(line, '\t');

		if (!tab || !pe_strv_has(headers, tab + 1))
			continue;
		*tab = 0;
		if (!pe_strv_has(ret, line) && !pe_strv_add(ret, line))
			return pe_error_nomem();
	}
	if (ret->count)
		qsort(ret->items, ret->count, sizeof(*ret->items), by_text);
	return NULL;
}

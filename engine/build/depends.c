/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which sources include a header; see build/depends.h.
 *
 * #include lines tell which units could (build/includes.h). The compile command of each of those
 * runs with -M (preprocessing alone, all headers listed as a make rule). What comes back is kept as
 * lines "SOURCE\tHEADER" below the target.
 */
#include "build/depends.h"
#include "build/command.h"
#include "build/files.h"
#include "build/includes.h"
#include "build/run.h"
#include "engine/cleanup.h"

#include <string.h>

static void includes_cleanup(struct pe_includes **includes)
{
	pe_includes_close(*includes);
}

/* ---- asking the compiler ---- */

struct scan {
	const struct pe_build *build;
	struct pe_units units;
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

/* Is @entry compiled into the program, from a file that a diff can change? */
static bool in_program(const struct pe_build *build, const struct pe_unit_entry *entry)
{
	if (build->linked.count && entry->output && !pe_strv_has(&build->linked, entry->output))
		return false;
	/* Generated sources outside the tree are not what a diff changes. */
	return pe_path_below(entry->file, build->target->source) && pe_file_exists(entry->file);
}

static const char *source_of(const struct pe_build *build, const struct pe_unit_entry *entry)
{
	return entry->file + strlen(build->target->source) + 1;
}

/* Sources of the program that may include any of @headers. */
static struct pe_error *candidates(const struct pe_build *build, const struct pe_strv *headers,
				   struct pe_strv *ret)
{
	__attribute__((cleanup(includes_cleanup))) struct pe_includes *includes = NULL;
	struct pe_error *err = pe_includes_open(build->target->source, &includes);
	const struct pe_database *database = &build->database;

	for (size_t i = 0; !err && i < database->count; i++) {
		const struct pe_unit_entry *entry = &database->entries[i];

		if (in_program(build, entry))
			err = pe_includes_command(includes, entry->file, &entry->argv);
	}
	if (!err)
		err = pe_includes_search(includes, headers);
	for (size_t i = 0; !err && i < database->count; i++) {
		const struct pe_unit_entry *entry = &database->entries[i];
		const char *source = source_of(build, entry);

		if (in_program(build, entry) && pe_includes_reaches(includes, entry->file) &&
		    !pe_strv_has(ret, source) && !pe_strv_add(ret, source))
			err = pe_error_nomem();
	}
	return err;
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

	fprintf(out, "%s\t\n", unit->source); /* one that includes nothing is known too */
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

/* Asks about @sources; appends lines to @table. */
static struct pe_error *scan_program(const struct pe_build *build, const struct pe_strv *sources,
				     FILE *table)
{
	__attribute__((cleanup(scan_deinit))) struct scan scan = { .build = build };
	struct pe_error *err = NULL;

	/* All objects of a source are asked: their options may differ. */
	for (size_t i = 0; !err && i < sources->count; i++)
		err = pe_units_add(build, &scan.units, sources->items[i]);
	if (!err)
		err = scan_run(&scan);
	for (size_t i = 0; !err && i < scan.units.count; i++) {
		/* A unit that needs a generated header is not there to be asked: it would be
		 * left out in silence. */
		if (pe_run_succeeded(&scan.runs[i]))
			rule_write(build, &scan.units.items[i], scan.runs[i].out, table);
		else
			err = pe_error_new(PE_ERR_SYSTEM, "cannot find what %s includes:\n%.2000s",
					   scan.units.items[i].source, scan.runs[i].err);
	}
	return err;
}

/* ---- the answer ---- */

/* Those of @sources that no line of @table begins with. */
static struct pe_error *unknown_sources(const char *table, const struct pe_strv *sources,
					struct pe_strv *ret)
{
	pe_auto_strv struct pe_strv known = { 0 };

	for (const char *line = table; line && *line; line = strchr(line, '\n') + 1) {
		size_t n = strcspn(line, "\t");

		/* Lines of one source stand together. */
		if ((!known.count || strncmp(known.items[known.count - 1], line, n) ||
		     known.items[known.count - 1][n]) &&
		    !pe_strv_addf(&known, "%.*s", (int)n, line))
			return pe_error_nomem();
		if (!strchr(line, '\n'))
			break;
	}
	for (size_t i = 0; i < sources->count; i++) {
		if (!pe_strv_has(&known, sources->items[i]) && !pe_strv_add(ret, sources->items[i]))
			return pe_error_nomem();
	}
	return NULL;
}

/* What is known about @sources, asked where nothing is kept. Owned by the caller. */
static struct pe_error *table_load(const struct pe_build *build, const struct pe_strv *sources,
				   char **ret)
{
	pe_auto_free char *path = pe_format("%s/includes", build->target->dir);
	bool keep = build->target->immutable && !build->no_cache;
	pe_auto_strv struct pe_strv unknown = { 0 };
	pe_auto_free char *kept = NULL;
	struct pe_error *err = NULL;
	size_t size;

	if (!path)
		return pe_error_nomem();
	if (keep && pe_file_exists(path))
		err = pe_file_read(path, &kept, NULL);
	if (!err)
		err = unknown_sources(kept, sources, &unknown);
	if (err)
		return err;

	FILE *table = open_memstream(ret, &size);

	if (!table)
		return pe_error_nomem();
	fputs(kept ? kept : "", table);
	err = unknown.count ? scan_program(build, &unknown, table) : NULL;
	fclose(table);
	if (!err && keep && unknown.count)
		pe_error_free(pe_file_write(path, *ret, size));
	if (err) {
		free(*ret);
		*ret = NULL;
	}
	return err;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

struct pe_error *pe_depends_sources(const struct pe_build *build, const struct pe_strv *headers,
				    struct pe_strv *ret)
{
	pe_auto_strv struct pe_strv sources = { 0 };
	pe_auto_free char *table = NULL;
	struct pe_error *err = candidates(build, headers, &sources);
	char *save = NULL;

	if (!err)
		err = table_load(build, &sources, &table);
	if (err)
		return err;
	for (char *line = strtok_r(table, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *tab = strchr(line, '\t');

		if (!tab || !pe_strv_has(headers, tab + 1))
			continue;
		*tab = 0;
		/* The table is the target's: what was found for one of its plugins is kept too. */
		if (pe_strv_has(&sources, line) && !pe_strv_has(ret, line) &&
		    !pe_strv_add(ret, line))
			return pe_error_nomem();
	}
	if (ret->count)
		qsort(ret->items, ret->count, sizeof(*ret->items), by_text);
	return NULL;
}

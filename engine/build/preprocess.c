/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which units read differently in a patched tree; see build/units.h.
 *
 * Each unit's command runs in both trees with -E. What the compiler proper gets is tokens: where
 * they are the same, so is the code. (A line's number reaches it through __LINE__, which is
 * expanded by then.) This takes a small part of the time that compiling does.
 */
#include "build/command.h"
#include "build/files.h"
#include "build/run.h"
#include "build/tokens.h"
#include "build/units.h"
#include "engine/cleanup.h"

#include <string.h>

struct reading {
	char hex[65]; /* of its tokens; "" when it could not be preprocessed */
	bool ended;
	struct pe_strv argv;
	char *directory;
	char *file; /* with what the preprocessor gives */
};

struct preprocess {
	const struct pe_build *build;
	struct pe_units units;
	struct reading *readings; /* two a unit: unpatched, patched */
	struct pe_run *runs;	  /* parallel to them */
	size_t count, ended;
	size_t most;
	struct pe_strv differing; /* sources, in the order in which that was found */
	struct pe_error *err;
};

static void preprocess_deinit(struct preprocess *p)
{
	for (size_t i = 0; i < p->count; i++) {
		pe_run_deinit(&p->runs[i]);
		pe_strv_deinit(&p->readings[i].argv);
		free(p->readings[i].directory);
		free(p->readings[i].file);
	}
	free(p->runs);
	free(p->readings);
	pe_strv_deinit(&p->differing);
	pe_units_deinit(&p->units);
	pe_error_free(p->err);
}

static struct pe_error *hash_file(struct reading *reading)
{
	pe_auto_free char *text = NULL;
	size_t size;
	struct pe_error *err = pe_file_read(reading->file, &text, &size);

	return err ? err : pe_tokens_hash(text, size, reading->hex);
}

/* What cannot be preprocessed cannot be compiled: that is where it is said. */
static bool differs(const struct preprocess *p, size_t unit)
{
	const struct reading *old = &p->readings[2 * unit], *new = old + 1;

	return old->ended && new->ended && (!*old->hex || strcmp(old->hex, new->hex));
}

static struct pe_error *differing_note(struct preprocess *p, size_t unit)
{
	const char *source = p->units.items[unit].source;

	if (differs(p, unit) && !pe_strv_has(&p->differing, source) &&
	    !pe_strv_add(&p->differing, source))
		return pe_error_nomem();
	return NULL;
}

static bool on_end(void *ctx, struct pe_run *run)
{
	struct preprocess *p = ctx;
	const struct pe_build *build = p->build;
	struct reading *reading = &p->readings[run - p->runs];

	p->ended++;
	if (build->progress && p->ended % 16 == 0) {
		pe_auto_free char *text = pe_format("preprocessing what includes the header: %zu "
						    "of %zu",
						    p->ended, p->count);

		if (text)
			build->progress(build->progress_ctx, text);
	}
	if (pe_run_succeeded(run))
		p->err = hash_file(reading);
	/* Some MiB each: not kept. */
	unlink(reading->file);
	reading->ended = true;
	if (!p->err)
		p->err = differing_note(p, (run - p->runs) / 2);
	return !p->err && p->differing.count <= p->most;
}

static struct pe_error *add_run(struct preprocess *p, const struct pe_unit_entry *entry,
				const char *work)
{
	const char *root = p->build->target->source;
	struct reading *reading = &p->readings[p->count];

	reading->file = pe_format("%s/%zu.i", p->build->temp, p->count);
	if (!reading->file)
		return pe_error_nomem();

	/* All options count: -O defines macros too. -E stops what -c would begin. */
	struct pe_error *err = pe_command_make(entry, reading->file, root, work, &reading->argv);

	reading->directory = pe_command_directory(entry, root, work);
	p->runs[p->count++] = (struct pe_run){
		.argv = &reading->argv,
		.cwd = reading->directory,
		.env = &p->build->env,
		.tree = pe_build_tree(p->build),
	};
	if (!err && (!reading->directory || !pe_strv_add(&reading->argv, "-E") ||
		     !pe_strv_add(&reading->argv, "-P")))
		err = pe_error_nomem();
	return err;
}

static struct pe_error *preprocess_all(struct preprocess *p, const char *work)
{
	struct pe_error *err = NULL;

	p->readings = calloc(2 * p->units.count + 1, sizeof(*p->readings));
	p->runs = calloc(2 * p->units.count + 1, sizeof(*p->runs));
	if (!p->readings || !p->runs)
		return pe_error_nomem();
	for (size_t i = 0; !err && i < p->units.count; i++) {
		err = add_run(p, p->units.items[i].entry, NULL);
		if (!err)
			err = add_run(p, p->units.items[i].entry, work);
	}
	if (!err)
		err = pe_run_all(p->runs, p->count, pe_run_jobs(), on_end, p);
	return err ? err : pe_steal(p->err);
}

struct pe_error *pe_units_differing(const struct pe_build *build, const char *work,
				    const struct pe_strv *sources, size_t most, struct pe_strv *ret)
{
	__attribute__((cleanup(preprocess_deinit))) struct preprocess p = {
		.build = build,
		.most = most,
	};
	struct pe_error *err = NULL;

	for (size_t i = 0; !err && i < sources->count; i++)
		err = pe_units_add(build, &p.units, sources->items[i]);
	if (!err)
		err = preprocess_all(&p, work);
	/* In the order of @sources: the same patch whichever compiler ended first. */
	for (size_t i = 0; !err && i < p.units.count; i++) {
		const char *source = p.units.items[i].source;

		if (differs(&p, i) && !pe_strv_has(ret, source) && !pe_strv_add(ret, source))
			err = pe_error_nomem();
	}
	return err;
}

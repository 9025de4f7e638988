/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Compiling units, unpatched and patched; see build/units.h.
 *
 * Of a target whose source nobody edits, objects are kept under the hash of what determines them:
 * the command, and for the patched ones the diffs. They are compiled to a temporary name and
 * renamed, so that a kept object is always whole.
 */
#include "build/command.h"
#include "build/files.h"
#include "build/run.h"
#include "build/units.h"
#include "engine/cleanup.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#define MESSAGE_LINES 25

/* One compilation: its command, where the object goes, where it is made. */
struct job {
	const struct pe_unit *unit;
	bool patched;
	struct pe_strv argv;
	char *directory;
	char *object; /* final name */
	char *made;   /* name while it is made */
	bool ready;   /* kept from before */
};

struct jobs {
	const struct pe_build *build;
	const struct pe_patched_tree *tree;
	struct job *items;
	size_t count;
	size_t to_run, ended;
};

static void jobs_deinit(struct jobs *jobs)
{
	for (size_t i = 0; i < jobs->count; i++) {
		struct job *job = &jobs->items[i];

		pe_strv_deinit(&job->argv);
		free(job->directory);
		free(job->object);
		free(job->made);
	}
	free(jobs->items);
}

/* What names a kept object: its own command, paths and all, and the change. */
static struct pe_error *object_hash(const struct job *job, const char *change, char *hex)
{
	const struct pe_unit_entry *entry = job->unit->entry;
	pe_auto_free char *command = pe_strv_join(&entry->argv, "\n");
	pe_auto_free char *text =
		command ? pe_format("1\n%s\n%s\n%s\n%s", entry->directory, entry->file,
				    job->patched ? change : "", command)
			: NULL;

	if (!text)
		return pe_error_nomem();
	pe_sha256_hex(text, strlen(text), hex);
	return NULL;
}

/* Decides where the object goes and whether it is there. */
static struct pe_error *job_place(const struct jobs *jobs, struct job *job, size_t index)
{
	const struct pe_build *build = jobs->build;
	pe_auto_free char *kept_dir = pe_format("%s/objects", build->target->dir);
	char hex[65];
	struct pe_error *err = object_hash(job, jobs->tree ? jobs->tree->hash : "", hex);
	bool keep = false;

	if (!err && !kept_dir)
		err = pe_error_nomem();
	if (err)
		return err;
	if (build->target->immutable) {
		/* Somebody without rights to the store compiles each time. */
		pe_error_free(pe_dir_make(kept_dir));
		keep = !access(kept_dir, W_OK);
	}
	job->object = keep ? pe_format("%s/%s.o", kept_dir, hex)
			   : pe_format("%s/%zu.%s.o", build->temp, index,
				       job->patched ? "patched" : "base");
	job->made = job->object ? pe_format("%s.%d.tmp", job->object, getpid()) : NULL;
	if (!job->made)
		return pe_error_nomem();
	job->ready = keep && !build->no_cache && pe_file_exists(job->object);
	return NULL;
}

static struct pe_error *jobs_add(struct jobs *jobs, const struct pe_unit *unit, bool patched)
{
	const char *root = jobs->build->target->source;
	const char *work = patched ? jobs->tree->path : NULL;
	struct job *job = &jobs->items[jobs->count];

	*job = (struct job){ .unit = unit, .patched = patched };

	struct pe_error *err = job_place(jobs, job, jobs->count++);

	if (!err)
		err = pe_command_make(unit->entry, job->made, root, work, &job->argv);
	if (err)
		return err;
	job->directory = pe_command_directory(unit->entry, root, work);
	jobs->to_run += !job->ready;
	return job->directory ? NULL : pe_error_nomem();
}

static void report(struct jobs *jobs)
{
	const struct pe_build *build = jobs->build;

	if (!build->progress || !jobs->to_run)
		return;

	pe_auto_free char *text =
		pe_format("compiling: %zu of %zu objects done", jobs->ended, jobs->to_run);

	if (text)
		build->progress(build->progress_ctx, text);
}

static bool job_ended(void *ctx, struct pe_run *run)
{
	struct jobs *jobs = ctx;

	jobs->ended++;
	report(jobs);
	return pe_run_succeeded(run);
}

static const char *line_start(const char *text, const char *at)
{
	while (at > text && at[-1] != '\n')
		at--;
	return at;
}

/* The compiler's first errors, with the patched tree's name replaced by the source's. */
static char *message_of(const struct jobs *jobs, const char *text)
{
	const char *work = jobs->tree ? jobs->tree->path : "/";
	const char *from = strstr(text, "error:");
	size_t lines = 0, size = 0;
	char *message = NULL;
	FILE *out = open_memstream(&message, &size);

	if (!out)
		return NULL;
	if (!from)
		from = text;
	/* The whole line of the first error, and the one before when it names the function. */
	from = line_start(text, from);
	if (from > text && strstr(line_start(text, from - 1), ": In ") < from &&
	    strstr(line_start(text, from - 1), ": In "))
		from = line_start(text, from - 1);
	for (lines = 0; *from && lines < MESSAGE_LINES;) {
		if (jobs->tree && pe_starts_with(from, work) && from[strlen(work)] == '/') {
			fputs(jobs->build->target->source, out);
			from += strlen(work);
			continue;
		}
		lines += *from == '\n';
		putc(*from++, out);
	}
	if (*from)
		fputs("...", out);
	fclose(out);
	return message;
}

/*
 * Has the compiler read the source and found it wrong? It says where: "FILE:LINE:COLUMN: error:".
 * What has no such place (no compiler, no memory, killed) tells nothing of the source, nor does a
 * fatal error that is not about an included file: it could not write.
 */
static bool found_wrong(const struct pe_run *run)
{
	const char *text = run->err ? run->err : "";

	if (!WIFEXITED(run->status))
		return false;
	for (const char *at = text; (at = strstr(at, "error: ")); at++) {
		const char *line = line_start(text, at), *before = at;
		bool fatal = before - line > 6 && !strncmp(before - 6, "fatal ", 6);
		size_t end = strcspn(at, "\n");

		before -= fatal ? 6 : 0;
		if (before - line < 3 || before[-1] != ' ' || before[-2] != ':' ||
		    !isdigit((unsigned char)before[-3]))
			continue;
		if (!fatal || memmem(at, end, "No such file", strlen("No such file")))
			return true;
	}
	return false;
}

static struct pe_error *job_check(const struct jobs *jobs, const struct job *job,
				  const struct pe_run *run)
{
	char how[64];

	if (pe_run_succeeded(run)) {
		if (rename(job->made, job->object))
			return pe_error_errno(errno, "cannot keep the object %s", job->object);
		return NULL;
	}
	unlink(job->made);

	pe_auto_free char *message = message_of(jobs, run->err ? run->err : "");

	const char *which = job->patched ? "patched" : "unpatched";

	if (!found_wrong(run))
		return pe_error_new(PE_ERR_SYSTEM,
				    "the compiler could not do its work (%s) on the %s "
				    "%s:\n%s",
				    pe_run_how(run, how), which, job->unit->source,
				    message ? message : "");
	/* The unpatched source compiled when its package was built. */
	return pe_error_new(job->patched ? PE_ERR_COMPILE : PE_ERR_SYSTEM,
			    "the %s %s does not compile (%s):\n%s", which, job->unit->source,
			    pe_run_how(run, how), message ? message : "");
}

static struct pe_error *jobs_run(struct jobs *jobs)
{
	pe_auto_free struct pe_run *runs = calloc(jobs->count + 1, sizeof(*runs));
	pe_auto_free struct job **of = calloc(jobs->count + 1, sizeof(*of));
	struct pe_error *err = NULL;
	size_t count = 0;

	if (!runs || !of)
		return pe_error_nomem();
	for (size_t i = 0; i < jobs->count; i++) {
		struct job *job = &jobs->items[i];

		if (job->ready)
			continue;
		of[count] = job;
		runs[count++] = (struct pe_run){
			.argv = &job->argv,
			.cwd = job->directory,
			.env = &jobs->build->env,
			.tree = pe_build_tree(jobs->build),
			.status = -1, /* not run */
		};
	}
	report(jobs);
	err = pe_run_all(runs, count, pe_run_jobs(), job_ended, jobs);
	for (size_t i = 0; i < count; i++) {
		if (runs[i].status != -1 && !err)
			err = job_check(jobs, of[i], &runs[i]);
		else
			unlink(of[i]->made);
		pe_run_deinit(&runs[i]);
	}
	return err;
}

struct pe_error *pe_units_compile(const struct pe_build *build, struct pe_units *units,
				  const struct pe_patched_tree *tree)
{
	__attribute__((cleanup(jobs_deinit))) struct jobs jobs = { .build = build, .tree = tree };
	struct pe_error *err = NULL;

	jobs.items = calloc(2 * units->count + 1, sizeof(*jobs.items));
	if (!jobs.items)
		return pe_error_nomem();
	for (size_t i = 0; !err && i < units->count; i++) {
		/* The patched one first: that is where errors are. */
		if (tree)
			err = jobs_add(&jobs, &units->items[i], true);
		if (!err)
			err = jobs_add(&jobs, &units->items[i], false);
	}
	if (!err)
		err = jobs_run(&jobs);
	for (size_t i = 0; !err && i < jobs.count; i++) {
		struct job *job = &jobs.items[i];
		struct pe_unit *unit = (struct pe_unit *)job->unit;

		err = pe_object_open(job->object, job->patched ? &unit->patched : &unit->base);
		if (job->ready)
			pe_object_used(job->object);
	}
	if (!err && build->target->immutable && jobs.to_run) {
		pe_auto_free char *kept = pe_format("%s/objects", build->target->dir);

		/* A store that cannot be bounded now is bounded next time. */
		if (kept)
			pe_error_free(pe_objects_prune(kept, pe_objects_limit()));
	}
	return err;
}

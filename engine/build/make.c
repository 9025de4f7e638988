/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Making a patch; see build/make.h.
 *
 * The target's source is never written to: the diffs are applied to a mirror of links. Each
 * changed file is then sorted by what it is to the program: a unit to compile again, a header
 * whose units are found by their dependencies, an input of the build itself (refused), or nothing
 * of the program's (noted).
 */
#include "build/make.h"
#include "build/command.h"
#include "build/depends.h"
#include "build/files.h"
#include "build/lines.h"
#include "build/run.h"
#include "build/witness.h"
#include "engine/cleanup.h"
#include "engine/demangle.h"

#include <openssl/evp.h>
#include <string.h>

/* What a patch file has room for. */
static const size_t most_notes = 1024;

struct make {
	const struct pe_build *build;
	const struct pe_make_options *options;
	struct pe_make_result *result;
	struct pe_diff *diffs;
	size_t diff_count;
	struct pe_strv touched;	       /* paths, each once, in order of the diffs */
	struct pe_strv added;	       /* those of them that the source does not have */
	struct pe_strv sources;	       /* units to compile */
	size_t header_count;	       /* headers that change */
	struct pe_source_lines *lines; /* that the diffs touch; files are strings of touched */
	size_t line_count;
	char hash[65]; /* of the diffs and the original text of what they touch */
	struct witnessed *witnessed;
	size_t witnessed_count;
};

/* What was asked of other units. */
struct witnessed {
	char *name;
	uint64_t vaddr;
	bool found;
};

static void make_deinit(struct make *m)
{
	for (size_t i = 0; i < m->diff_count; i++)
		pe_diff_deinit(&m->diffs[i]);
	free(m->diffs);
	free(m->lines);
	for (size_t i = 0; i < m->witnessed_count; i++)
		free(m->witnessed[i].name);
	free(m->witnessed);
	pe_strv_deinit(&m->touched);
	pe_strv_deinit(&m->added);
	pe_strv_deinit(&m->sources);
}

void pe_make_result_deinit(struct pe_make_result *result)
{
	pe_select_report_deinit(&result->report);
	pe_units_deinit(&result->units);
	pe_strv_deinit(&result->notes);
}

static void progress(const struct make *m, const char *text)
{
	if (m->build->progress)
		m->build->progress(m->build->progress_ctx, text);
}

/* ---- the diffs ---- */

static struct pe_error *diff_note_files(struct make *m, const struct pe_diff *diff)
{
	for (size_t i = 0; i < diff->count; i++) {
		const char *path = diff->files[i].path;

		if (!pe_strv_has(&m->touched, path) && !pe_strv_add(&m->touched, path))
			return pe_error_nomem();
		if (diff->files[i].change == PE_DIFF_ADDED && !pe_strv_has(&m->added, path) &&
		    !pe_strv_add(&m->added, path))
			return pe_error_nomem();
		if (diff->files[i].change == PE_DIFF_REMOVED && pe_build_is_unit(m->build, path))
			return pe_error_new(PE_ERR_UNSUPPORTED,
					    "%s removes %s, a part of the program", diff->name,
					    path);
	}
	return NULL;
}

/* Real are the folders of changed files and those where compilers run. */
static struct pe_error *mirror_make(const struct make *m)
{
	const struct pe_database *database = &m->build->database;
	const char *root = m->build->target->source;
	pe_auto_strv struct pe_strv real = { 0 };

	for (size_t i = 0; i < m->touched.count; i++) {
		const char *path = m->touched.items[i];
		const char *slash = strrchr(path, '/');

		if (slash && !pe_strv_addf(&real, "%.*s", (int)(slash - path), path))
			return pe_error_nomem();
	}
	for (size_t i = 0; i < database->count; i++) {
		const char *dir = database->entries[i].directory;

		if (pe_path_below(dir, root) && strlen(dir) > strlen(root) &&
		    !pe_strv_has(&real, dir + strlen(root) + 1) &&
		    !pe_strv_add(&real, dir + strlen(root) + 1))
			return pe_error_nomem();
	}
	return pe_tree_mirror(root, m->options->work, &real);
}

/* Reads all diffs and applies them to the mirror, in order. */
static struct pe_error *diffs_apply(struct make *m)
{
	const char *root = m->build->target->source, *work = m->options->work;
	const struct pe_strv *names = m->options->diffs;
	struct pe_error *err = NULL;

	m->diffs = calloc(names->count + 1, sizeof(*m->diffs));
	if (!m->diffs)
		return pe_error_nomem();
	for (size_t i = 0; !err && i < names->count; i++) {
		pe_auto_free char *text = NULL;
		size_t size;

		err = pe_file_read(names->items[i], &text, &size);
		if (!err)
			err = pe_diff_parse(names->items[i], text, size, root, &m->added,
					    &m->diffs[i]);
		if (err)
			return err;
		m->diff_count++;
		err = diff_note_files(m, &m->diffs[i]);
	}
	if (!err)
		err = mirror_make(m);
	for (size_t i = 0; !err && i < m->diff_count; i++)
		err = pe_diff_apply(&m->diffs[i], root, work);
	return err;
}

/* The hash that says what went in: texts only, no path of this machine, no time. */
static struct pe_error *inputs_hash(struct make *m)
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	unsigned char digest[EVP_MAX_MD_SIZE];
	struct pe_error *err = NULL;

	if (!md || !EVP_DigestInit_ex(md, EVP_sha256(), NULL)) {
		EVP_MD_CTX_free(md);
		return pe_error_nomem();
	}
	for (size_t i = 0; i < m->diff_count; i++) {
		EVP_DigestUpdate(md, &m->diffs[i].size, sizeof(m->diffs[i].size));
		EVP_DigestUpdate(md, m->diffs[i].text, m->diffs[i].size);
	}
	for (size_t i = 0; !err && i < m->touched.count; i++) {
		const char *name = m->touched.items[i];
		pe_auto_free char *path = pe_format("%s/%s", m->build->target->source, name);
		pe_auto_free char *text = NULL;
		size_t size = 0;

		if (!path)
			err = pe_error_nomem();
		else if (!pe_strv_has(&m->added, name))
			err = pe_file_read(path, &text, &size);
		EVP_DigestUpdate(md, name, strlen(name) + 1);
		EVP_DigestUpdate(md, &size, sizeof(size));
		EVP_DigestUpdate(md, text ? text : "", size);
	}
	EVP_DigestFinal_ex(md, digest, NULL);
	EVP_MD_CTX_free(md);
	for (size_t i = 0; i < 32; i++)
		snprintf(m->hash + 2 * i, 3, "%02x", digest[i]);
	return err;
}

/* ---- what the changed files are ---- */

static bool has_suffix(const char *path, const char *const *suffixes)
{
	for (; *suffixes; suffixes++) {
		if (pe_ends_with(path, *suffixes))
			return true;
	}
	return false;
}

/* A directory of tests: what changes there is not in the program. */
static bool in_tests(const char *path)
{
	static const char *const names[] = { "mysql-test/", "unittest/",  "unittests/", "tests/",
					     "test/",	    "testsuite/", "debian/",	"man/",
					     "doc/",	    "docs/",	  "Docs/",	NULL };

	for (const char *p = path; p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL) {
		for (size_t i = 0; names[i]; i++) {
			if (pe_starts_with(p, names[i]))
				return true;
		}
	}
	return false;
}

enum pe_file_role pe_file_role(const char *path)
{
	static const char *const code[] = { ".h",   ".hh",  ".hpp", ".hxx", ".H",   ".c",   ".cc",
					    ".cpp", ".cxx", ".C",   ".ic",  ".inl", ".inc", ".i",
					    ".tpp", ".tcc", ".ipp", ".def", NULL };
	static const char *const made_from[] = { "CMakeLists.txt",
						 ".cmake",
						 "Makefile",
						 "meson.build",
						 ".mk",
						 ".in",
						 ".yy",
						 ".y",
						 ".l",
						 ".ll",
						 ".ac",
						 ".am",
						 ".S",
						 ".s",
						 ".asm",
						 "errmsg-utf8.txt",
						 NULL };

	if (in_tests(path))
		return PE_FILE_OTHER;
	if (has_suffix(path, made_from))
		return PE_FILE_BUILD;
	return has_suffix(path, code) ? PE_FILE_CODE : PE_FILE_OTHER;
}

bool pe_file_is_source(const char *path)
{
	static const char *const sources[] = { ".c", ".cc", ".cpp", ".cxx", ".C", NULL };

	return has_suffix(path, sources);
}

static struct pe_error *refuse_new_source(const struct make *m, const char *path)
{
	/* Another changed file may include it; alone it would silently be left out. */
	if (!pe_strv_has(&m->added, path) || !pe_file_is_source(path))
		return NULL;
	return pe_error_new(
		PE_ERR_UNSUPPORTED,
		"%s is a new source file that no command of the build compiles: put its "
		"functions into a file that is part of the program",
		path);
}

/* For the reasons that pe_select gives. */
static struct pe_error *lines_note(struct make *m, const char *path,
				   const struct pe_lines_hunk *hunks, size_t count)
{
	void *grown = reallocarray(m->lines, m->line_count + count, sizeof(*m->lines));

	if (!grown)
		return pe_error_nomem();
	m->lines = grown;
	for (size_t i = 0; i < count; i++) {
		unsigned long more = hunks[i].old_count ? hunks[i].old_count - 1 : 0;

		m->lines[m->line_count++] = (struct pe_source_lines){
			.file = path,
			.first = hunks[i].old_start,
			.last = hunks[i].old_start + more,
		};
	}
	return NULL;
}

/* Keeps line numbers; *changed is false when the file is as before. @path outlives @m. */
static struct pe_error *lines_stay(struct make *m, const char *path, bool *changed)
{
	pe_auto_free char *old = pe_format("%s/%s", m->build->target->source, path);
	pe_auto_free char *new = pe_format("%s/%s", m->options->work, path);
	pe_auto_free struct pe_lines_hunk *hunks = NULL;
	pe_auto_free char *text = NULL, *kept = NULL;
	size_t count = 0, size, kept_size;

	*changed = true;
	if (!old || !new)
		return pe_error_nomem();
	if (pe_strv_has(&m->added, path) || !pe_file_exists(new))
		return NULL;

	struct pe_error *err = pe_lines_diff(old, new, &hunks, &count);

	*changed = count > 0;
	if (err || !count)
		return err;
	err = lines_note(m, path, hunks, count);
	if (!err)
		err = pe_file_read(new, &text, &size);
	if (!err)
		err = pe_lines_keep(text, size, hunks, count, &kept, &kept_size);
	return err ? err : pe_file_write(new, kept, kept_size);
}

static struct pe_error *source_add(struct make *m, const char *source)
{
	if (!pe_strv_has(&m->sources, source) && !pe_strv_add(&m->sources, source))
		return pe_error_nomem();
	return NULL;
}

static struct pe_error *header_units(struct make *m, const struct pe_strv *headers)
{
	pe_auto_strv struct pe_strv sources = { 0 }, others = { 0 }, differing = { 0 };
	size_t most = m->options->max_units;
	size_t left = m->sources.count < most ? most - m->sources.count : 0;
	struct pe_error *err = pe_depends_sources(m->build, headers, &sources);

	for (size_t i = 0; !err && i < sources.count; i++)
		if (!pe_strv_has(&m->sources, sources.items[i]) &&
		    !pe_strv_add(&others, sources.items[i]))
			err = pe_error_nomem();
	if (!err)
		err = pe_units_differing(m->build, m->options->work, &others, left, &differing);
	for (size_t i = 0; !err && i < differing.count; i++)
		err = source_add(m, differing.items[i]);
	if (err || m->sources.count <= most)
		return err;

	pe_auto_free char *names = pe_strv_join(headers, ", ");

	return pe_error_new(PE_ERR_UNSUPPORTED,
			    "more than %zu source files of the program change with %s, which %zu "
			    "include; no more are compiled unless --max-units says so",
			    most, names ? names : "?", sources.count);
}

static struct pe_error *files_sort(struct make *m)
{
	pe_auto_strv struct pe_strv headers = { 0 };
	struct pe_error *err = NULL;

	for (size_t i = 0; !err && i < m->touched.count; i++) {
		const char *path = m->touched.items[i];
		bool unit = pe_build_is_unit(m->build, path), changed = true;
		enum pe_file_role role = unit ? PE_FILE_CODE : pe_file_role(path);

		if (role == PE_FILE_BUILD)
			return pe_error_new(PE_ERR_UNSUPPORTED,
					    "%s decides how the program is made, not what one of "
					    "its functions does: such a change cannot be patched "
					    "into a running process",
					    path);
		if (role == PE_FILE_OTHER) {
			if (!pe_strv_addf(&m->result->notes, "%s is no part of the program", path))
				return pe_error_nomem();
			continue;
		}
		err = refuse_new_source(m, path);
		if (!err)
			err = lines_stay(m, path, &changed);
		if (err || !changed)
			continue;
		if (unit)
			err = source_add(m, path);
		else if (!pe_strv_has(&m->added, path) && !pe_strv_add(&headers, path))
			err = pe_error_nomem();
	}
	m->header_count = headers.count;
	return err || !headers.count ? err : header_units(m, &headers);
}

/* ---- the manifest ---- */

static struct pe_error *compiler_fact(const struct pe_unit *unit, const struct pe_build *build,
				      char **ret)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	pe_auto_run struct pe_run run = {
		.argv = &argv,
		.env = &build->env,
		.tree = pe_build_tree(build),
	};
	size_t last = pe_command_compiler_words(unit->entry) - 1;

	if (!pe_strv_add(&argv, unit->entry->argv.items[last]) || !pe_strv_add(&argv, "--version"))
		return pe_error_nomem();

	struct pe_error *err = pe_run(&run);

	if (err)
		return err;
	*ret = strndup(run.out ? run.out : "", strcspn(run.out ? run.out : "", "\n"));
	return *ret ? NULL : pe_error_nomem();
}

/* What the diff says and the patch does not carry. */
static struct pe_error *notes_fill(const struct make *m, struct pe_patch *patch)
{
	const struct pe_strv *notes = &m->result->notes;

	patch->notes = calloc(notes->count + 1, sizeof(*patch->notes));
	if (!patch->notes)
		return pe_error_nomem();
	for (size_t i = 0; i < notes->count && i < most_notes; i++) {
		patch->notes[i] = strdup(notes->items[i]);
		if (!patch->notes[i])
			return pe_error_nomem();
		patch->note_count++;
	}
	return NULL;
}

static struct pe_error *facts_fill(const struct make *m, struct pe_patch *patch)
{
	const struct pe_unit *unit = &m->result->units.items[0];

	patch->product = strdup(m->build->target->product);
	patch->flags = pe_command_flags(unit->entry);
	patch->source_sha256 = strdup(m->hash);
	if (!patch->product || !patch->flags || !patch->source_sha256)
		return pe_error_nomem();
	return compiler_fact(unit, m->build, &patch->compiler);
}

/* ---- objects to patch ---- */

/* Where a name lies that no symbol table has: other units are asked once. */
static struct pe_error *find_address(void *ctx, const char *name, uint64_t *vaddr, bool *found)
{
	struct make *m = ctx;
	struct witnessed *w = NULL;

	for (size_t i = 0; !w && i < m->witnessed_count; i++)
		if (!strcmp(m->witnessed[i].name, name))
			w = &m->witnessed[i];
	if (!w) {
		pe_auto_free char *text = pe_format("looking for %s in the shipped program", name);
		struct witnessed *grown =
			reallocarray(m->witnessed, m->witnessed_count + 1, sizeof(*grown));

		if (!text || !grown)
			return pe_error_nomem();
		m->witnessed = grown;
		w = &grown[m->witnessed_count];
		*w = (struct witnessed){ .name = strdup(name) };
		if (!w->name)
			return pe_error_nomem();
		m->witnessed_count++;
		progress(m, text);

		struct pe_error *err = pe_witness_address(m->build, name, &w->vaddr, &w->found);

		if (err)
			return err;
	}
	*vaddr = w->vaddr;
	*found = w->found;
	return NULL;
}

static struct pe_error *units_select(struct make *m, struct pe_patch *patch)
{
	const struct pe_units *units = &m->result->units;
	pe_auto_free struct pe_unit_objects *objects = calloc(units->count, sizeof(*objects));

	if (!objects)
		return pe_error_nomem();
	for (size_t i = 0; i < units->count; i++) {
		const struct pe_unit *unit = &units->items[i];

		objects[i] = (struct pe_unit_objects){
			.source = unit->source,
			.base = unit->base,
			.patched = unit->patched,
			.match = unit->match,
		};
	}
	progress(m, "comparing and selecting");
	struct pe_select_options options = m->options->select;

	options.lines = m->lines;
	options.line_count = m->line_count;
	options.address = find_address;
	options.address_ctx = m;
	options.program = m->build->target->program;
	return pe_select(objects, units->count, m->build->image, &options, patch,
			 &m->result->report);
}

/*
 * Functions of the changed sources that the shipped program has otherwise than they are compiled
 * here. Those that the patch touches or relies on are refused; that the others differ may tell of
 * another configuration, with which everything that the patch adds is compiled. Of weak functions
 * the program has the copy of some other source.
 */
static struct pe_error *match_notes(struct make *m)
{
	enum { NAMED = 3 };

	for (size_t i = 0; i < m->result->units.count; i++) {
		const struct pe_unit *unit = &m->result->units.items[i];
		pe_auto_strv struct pe_strv names = { 0 };
		size_t count = 0;

		for (size_t k = 0; k < unit->match->function_count; k++) {
			const struct pe_match_function *f = &unit->match->functions[k];

			if (f->verdict != PE_MATCH_DIFFERENT || pe_match_is_weak(f->symbol) ||
			    strstr(f->symbol->name, ".cold") || count++ >= NAMED)
				continue;

			pe_auto_free char *name = pe_demangle(f->symbol->name);

			if (!name || !pe_strv_add(&names, name))
				return pe_error_nomem();
		}
		if (!count)
			continue;

		pe_auto_free char *list = pe_strv_join(&names, ", ");

		if (!list ||
		    !pe_strv_addf(
			    &m->result->notes,
			    "%zu function%s of %s that this patch leaves alone %s not compiled "
			    "here as shipped (%s%s): look with `care-build match' whether "
			    "the target is configured as its package was",
			    count, count == 1 ? "" : "s", unit->source, count == 1 ? "is" : "are",
			    list, count > NAMED ? ", ..." : ""))
			return pe_error_nomem();
	}
	return NULL;
}

struct pe_error *pe_make_patch(const struct pe_build *build, const struct pe_make_options *options,
			       struct pe_patch *patch, struct pe_make_result *ret)
{
	__attribute__((cleanup(make_deinit))) struct make m = {
		.build = build,
		.options = options,
		.result = ret,
	};

	*ret = (struct pe_make_result){ 0 };
	progress(&m, "applying the diff");

	struct pe_error *err = diffs_apply(&m);

	if (!err)
		err = pe_diffs_join(m.diffs, m.diff_count, &patch->diff, &patch->diff_size);
	if (!err)
		err = inputs_hash(&m);
	if (!err)
		err = files_sort(&m);
	if (!err && !m.sources.count)
		err = pe_error_new(PE_ERR_NOTHING,
				   m.header_count ? "no function of the shipped binary changes: "
						    "what includes the header reads the same"
						  : "the diff changes no source of the program");
	for (size_t i = 0; !err && i < m.sources.count; i++)
		err = pe_units_add(build, &ret->units, m.sources.items[i]);

	const struct pe_patched_tree tree = { .path = options->work, .hash = m.hash };

	if (!err)
		err = pe_units_compile(build, &ret->units, &tree);
	if (!err) {
		progress(&m, "matching the unpatched code with the shipped program");
		err = pe_units_match(build, &ret->units);
	}
	if (!err)
		err = match_notes(&m);
	if (!err)
		err = notes_fill(&m, patch);
	if (!err)
		err = facts_fill(&m, patch);
	return err ? err : units_select(&m, patch);
}

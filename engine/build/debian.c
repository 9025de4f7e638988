/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Preparing a target from a Debian source package; see build/debian.h.
 *
 * A straight list of steps (steps[] below), each one or two runs of Debian's own tools with their
 * output in the target's log. apt works on a sources list, package lists and a cache of our own,
 * and is only ever asked to download; packages are unpacked with dpkg-deb, never installed. The
 * one exception is the build dependencies, installed when we are root and some are missing.
 *
 * With a suite, configuring and everything after it runs inside a tree of that Debian release
 * (debian_tree.c), and build dependencies go there.
 */
#include "build/debian.h"
#include "build/database.h"
#include "build/debian_private.h"
#include "build/dry_run.h"
#include "build/files.h"
#include "build/run.h"
#include "build/units.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>

/* Bytes: source, packages and objects; a tree with compilers and libraries besides. */
#define SPACE_NEEDED (1500ULL << 20)
#define SPACE_NEEDED_TREE (4500ULL << 20)

static void preparation_deinit(struct preparation *p)
{
	free(p->dir);
	free(p->log);
	free(p->epoch);
	free(p->note);
	free(p->mirror);
	free((char *)p->tree.path);
	pe_strv_deinit(&p->tree.shared);
	pe_strv_deinit(&p->env);
}

/* debootstrap and a tree's apt know the proxy only from the environment. */
static struct pe_error *proxy_add(struct preparation *p)
{
	pe_auto_free char *proxy = NULL;
	struct pe_error *err = NULL;

	if (getenv("http_proxy"))
		return NULL;
	err = debian_output(p, ".", "apt-config --format '%v%n' dump Acquire::http::Proxy", &proxy,
			    NULL, NULL);
	if (err || !proxy)
		return err;
	proxy[strcspn(proxy, "\n")] = 0;
	if (!*proxy || !strcasecmp(proxy, "DIRECT"))
		return NULL;
	return pe_strv_addf(&p->env, "http_proxy=%s", proxy) ? NULL : pe_error_nomem();
}

static struct pe_error *environment_make(struct preparation *p)
{
	/* Debian's: what stands in /usr/local or in a home directory built no package. */
	struct pe_error *err = pe_build_environment("/usr/sbin:/usr/bin:/sbin:/bin", &p->env);

	if (!err && !pe_strv_add(&p->env, "DEBIAN_FRONTEND=noninteractive"))
		err = pe_error_nomem();
	if (err || !p->options->suite)
		return err;
	p->tree.path = pe_format("%s/tree", p->dir);
	if (!p->tree.path || !pe_strv_add(&p->tree.shared, p->dir))
		return pe_error_nomem();
	return proxy_add(p);
}

/* ---- the steps ---- */

static struct pe_error *need_program(const char *program, const char *package)
{
	if (pe_program_exists(program))
		return NULL;
	return pe_error_new(PE_ERR_SYSTEM, "the program %s is missing (apt-get install %s)",
			    program, package);
}

static struct pe_error *step_tools(struct preparation *p)
{
	static const struct {
		const char *program, *package;
	} needed[] = {
		{ "apt-get", "apt" },	 { "dpkg-source", "dpkg-dev" },
		{ "dpkg-deb", "dpkg" },	 { "dpkg-checkbuilddeps", "dpkg-dev" },
		{ "make", "make" },	 { "patch", "patch" },
		{ "diff", "diffutils" },
	};
	unsigned long long space = p->options->suite ? SPACE_NEEDED_TREE : SPACE_NEEDED;
	struct statvfs fs;
	struct pe_error *err = NULL;

	for (size_t i = 0; !err && i < sizeof(needed) / sizeof(*needed); i++)
		err = need_program(needed[i].program, needed[i].package);
	if (!err && p->options->suite)
		err = need_program("debootstrap", "debootstrap");
	if (err)
		return err;
	if (p->options->suite && geteuid() != 0)
		return pe_error_new(PE_ERR_PERMISSION,
				    "making a tree of Debian %s needs root (debootstrap, chroot)",
				    p->options->suite);
	if (!statvfs(p->dir, &fs) && (unsigned long long)fs.f_bavail * fs.f_frsize < space)
		return pe_error_new(
			PE_ERR_SYSTEM, "%s has %llu MiB of free space; %llu MiB are needed", p->dir,
			(unsigned long long)fs.f_bavail * fs.f_frsize >> 20, space >> 20);
	return NULL;
}

/* Whether the package lists name the source in the wanted version. */
static struct pe_error *lists_have(struct preparation *p, bool *ret)
{
	pe_auto_free char *command =
		pe_format("apt-cache -oDir::Etc::sourcelist=%s/apt/sources.list "
			  "-oDir::Etc::sourceparts=/nonexistent -oDir::State::lists=%s/apt/lists "
			  "-oDir::Cache=%s/apt/cache showsrc --only-source %s",
			  p->dir, p->dir, p->dir, p->recipe->source);
	pe_auto_free char *line = pe_format("\nVersion: %s\n", p->options->version);
	pe_auto_free char *out = NULL;
	struct pe_error *err = command && line ? debian_output(p, ".", command, &out, NULL, NULL)
					       : pe_error_nomem();

	*ret = !err && out && strstr(out, line);
	return err;
}

static struct pe_error *step_download(struct preparation *p)
{
	pe_auto_free char *dir = pe_format("%s/download", p->dir);
	pe_auto_free char *source = pe_format("%s=%s", p->recipe->source, p->options->version);
	struct pe_error *err = dir && source ? pe_dir_make(dir) : pe_error_nomem();
	bool listed = false;

	if (!err)
		err = lists_have(p, &listed);
	if (!err && !listed)
		return debian_pool_download(p);
	if (!err)
		err = debian_apt(p, "download", "source", "--download-only", "--only-source",
				 source, NULL);
	for (size_t i = 0; !err && p->recipe->packages[i]; i++) {
		pe_auto_free char *package =
			pe_format("%s=%s", p->recipe->packages[i], p->options->version);

		err = package ? debian_apt(p, "download", "download", package, NULL)
			      : pe_error_nomem();
	}
	return err;
}

/* The file in download/ that begins with @prefix and ends with @suffix; owned by the caller. */
static struct pe_error *downloaded(struct preparation *p, const char *prefix, const char *suffix,
				   char **ret)
{
	pe_auto_free char *dir = pe_format("%s/download", p->dir);
	pe_auto_strv struct pe_strv names = { 0 };
	struct pe_error *err = dir ? pe_dir_list(dir, &names) : pe_error_nomem();

	if (err)
		return err;
	for (size_t i = 0; i < names.count; i++) {
		if (pe_starts_with(names.items[i], prefix) &&
		    pe_ends_with(names.items[i], suffix)) {
			*ret = pe_format("download/%s", names.items[i]);
			return *ret ? NULL : pe_error_nomem();
		}
	}
	return pe_error_new(PE_ERR_SYSTEM, "apt-get downloaded no %s...%s to %s", prefix, suffix,
			    dir);
}

static struct pe_error *step_unpack(struct preparation *p)
{
	pe_auto_free char *prefix = pe_format("%s_", p->recipe->source);
	pe_auto_free char *dsc = NULL;
	struct pe_error *err = prefix ? downloaded(p, prefix, ".dsc", &dsc) : pe_error_nomem();

	if (!err)
		err = debian_tool(p, ".", "dpkg-source", "--no-check", "-x", dsc, "src", NULL);
	for (size_t i = 0; !err && p->recipe->packages[i]; i++) {
		pe_auto_free char *name = pe_format("%s_", p->recipe->packages[i]);
		pe_auto_free char *deb = NULL;

		err = name ? downloaded(p, name, ".deb", &deb) : pe_error_nomem();
		if (!err)
			err = debian_tool(p, ".", "dpkg-deb", "-x", deb, "root", NULL);
	}
	return err;
}

static struct pe_error *step_dependencies(struct preparation *p)
{
	pe_auto_free char *missing = NULL;
	bool satisfied;
	struct pe_error *err =
		debian_output(p, "src", "dpkg-checkbuilddeps", NULL, &missing, &satisfied);

	if (err || satisfied)
		return err;
	if (geteuid() != 0)
		return pe_error_new(PE_ERR_PERMISSION,
				    "build dependencies are missing; install them as root: "
				    "apt-get build-dep %s/src\n%s",
				    p->dir, missing);
	return debian_apt(p, ".", "build-dep", "-y", "--no-install-recommends", "./src", NULL);
}

static struct pe_error *step_configure(struct preparation *p)
{
	bool ok = false;
	/* As dpkg-buildpackage sets it: the time of the last entry of the changelog. */
	struct pe_error *err =
		debian_output(p, "src", "dpkg-parsechangelog -STimestamp", &p->epoch, NULL, &ok);

	if (err)
		return err;
	if (!ok || !p->epoch)
		return pe_error_new(PE_ERR_FORMAT, "the source has no readable debian/changelog");
	p->epoch[strcspn(p->epoch, "\n")] = 0;
	if (!pe_strv_addf(&p->env, "SOURCE_DATE_EPOCH=%s", p->epoch) ||
	    !pe_strv_add(&p->env, "CMAKE_EXPORT_COMPILE_COMMANDS=ON"))
		return pe_error_nomem();
	if (!p->recipe->dh_flags)
		return debian_tool(p, "src", "make", "-f", "debian/rules", p->recipe->configure,
				   NULL);

	/* As dh does before it calls debian/rules, with the options that debian/rules exports. */
	pe_auto_free char *rule = pe_format("care-build: ; eval \"$$(dpkg-buildflags --export=sh)\""
					    " && $(MAKE) -f debian/rules %s",
					    p->recipe->configure);
	pe_auto_free char *option = rule ? pe_format("--eval=%s", rule) : NULL;

	return option ? debian_tool(p, "src", "make", "-f", "debian/rules", option, "care-build",
				    NULL)
		      : pe_error_nomem();
}

/* A build that is no CMake's: what make would run tells how each source is compiled. */
static struct pe_error *compile_database_make(struct preparation *p)
{
	pe_auto_free char *dir = pe_format("src/%s", p->recipe->build_dir);
	pe_auto_free char *whole = pe_format("%s/src/%s", p->dir, p->recipe->build_dir);
	pe_auto_free char *path = whole ? pe_format("%s/compile_commands.json", whole) : NULL;
	pe_auto_free char *command = strdup("make -n"), *out = NULL, *err_out = NULL, *text = NULL;
	bool made = false;

	for (size_t i = 0; command && p->recipe->dry_run[i]; i++) {
		pe_auto_free char *before = command;

		command = pe_format("%s %s", before, p->recipe->dry_run[i]);
	}
	if (!dir || !path || !command)
		return pe_error_nomem();

	struct pe_error *err = debian_output(p, dir, command, &out, &err_out, &made);

	if (!err && !made)
		err = pe_error_new(PE_ERR_COMPILE, "`%s' failed in %s: %s", command, whole,
				   pe_text_tail(err_out ? err_out : "", 15));
	if (!err)
		err = pe_dry_run_database(out ? out : "", whole, &text);
	return err ? err : pe_file_write(path, text, strlen(text));
}

static struct pe_error *step_generate(struct preparation *p)
{
	pe_auto_free char *dir = pe_format("src/%s", p->recipe->build_dir);
	pe_auto_strv struct pe_strv argv = { 0 };
	bool ok = dir && pe_strv_add(&argv, "make") && pe_strv_addf(&argv, "-j%zu", pe_run_jobs());

	for (size_t i = 0; ok && p->recipe->generate[i]; i++)
		ok = pe_strv_add(&argv, p->recipe->generate[i]);
	struct pe_error *err = ok ? debian_tool_run(p, dir, &argv) : pe_error_nomem();

	return !err && p->recipe->dry_run ? compile_database_make(p) : err;
}

/* Libraries that the shipped program needs and this machine lacks: only a note. */
static struct pe_error *step_libraries(struct preparation *p)
{
	pe_auto_free char *command = pe_format("ldd root/%s", p->recipe->binary);
	pe_auto_free char *out = NULL;
	pe_auto_strv struct pe_strv lines = { 0 }, missing = { 0 };
	struct pe_error *err =
		command ? debian_output(p, ".", command, &out, NULL, NULL) : pe_error_nomem();

	if (!err)
		err = pe_split_lines(out, strlen(out), &lines);
	for (size_t i = 0; !err && i < lines.count; i++) {
		const char *line = lines.items[i] + strspn(lines.items[i], " \t");

		if (strstr(line, "=> not found") &&
		    !pe_strv_addf(&missing, "%.*s", (int)strcspn(line, " "), line))
			err = pe_error_nomem();
	}
	if (err || !missing.count)
		return err;

	pe_auto_free char *list = pe_strv_join(&missing, ", ");

	pe_auto_free char *before = pe_steal(p->note);

	p->note = pe_format("%s%s%s needs libraries that are not installed here: %s",
			    before ? before : "", before ? "; " : "", p->recipe->binary,
			    list ? list : "?");
	return NULL;
}

static char *checked_path(const struct preparation *p, const char *a, const char *b)
{
	return pe_format("%s/%s/%s", p->dir, a, b);
}

/* Looks at what was made, as its users will, and writes target.json. */
static struct pe_error *step_commit(struct preparation *p)
{
	const struct pe_debian_recipe *recipe = p->recipe;
	pe_auto_free char *source = pe_format("%s/src", p->dir);
	pe_auto_free char *root = pe_format("%s/root", p->dir);
	pe_auto_free char *binary = checked_path(p, "root", recipe->binary);
	pe_auto_free char *symbols =
		recipe->symbols ? checked_path(p, "root", recipe->symbols) : NULL;
	pe_auto_free char *build = checked_path(p, "src", recipe->build_dir);
	pe_auto_free char *database = build ? pe_format("%s/compile_commands.json", build) : NULL;
	char build_id[2 * PE_BUILD_ID_MAX + 1];
	struct pe_build_target target = {
		.name = (char *)p->options->name,
		.provider = (char *)recipe->name,
		.product = (char *)recipe->product,
		.version = (char *)p->options->version,
		.build_id = build_id,
		.source = source,
		.database = database,
		.binary = binary,
		.symbols = symbols,
		.root = root,
		.epoch = p->epoch,
		.tree = (char *)p->tree.path,
		.immutable = true,
	};
	struct pe_image *image = NULL;
	struct pe_database entries = { 0 };

	if (!source || !root || !binary || !database)
		return pe_error_nomem();

	struct pe_error *err = pe_build_target_image(&target, &image);

	if (err)
		return err;
	pe_build_id_hex(pe_image_build_id(image), build_id);
	pe_image_close(image);
	err = pe_database_read(database, &entries);
	pe_database_deinit(&entries);
	return err ? err : pe_store_commit(&target);
}

enum where {
	HERE,	/* on this machine */
	INSIDE, /* in the tree when there is one */
	NO_TREE,
	ONLY_TREE,
};

static const struct step {
	enum where where;
	const char *what;
	struct pe_error *(*run)(struct preparation *p);
} steps[] = {
	{ HERE, "checking tools and space", step_tools },
	{ HERE, "reading package lists", debian_step_lists },
	{ HERE, "downloading source and packages", step_download },
	{ HERE, "unpacking", step_unpack },
	{ ONLY_TREE, "making a tree of that Debian release (one to three minutes)",
	  debian_step_tree },
	{ ONLY_TREE, "installing compilers and libraries in it (minutes)",
	  debian_step_tree_install },
	{ INSIDE, "checking build dependencies", step_dependencies },
	{ INSIDE, "configuring as debian/rules does (about a minute)", step_configure },
	{ INSIDE, "generating sources (about half a minute)", step_generate },
	{ NO_TREE, "checking the program's libraries", step_libraries },
	{ HERE, "checking program, symbols and compile database", step_commit },
};

/* Whether the step is one of this target's. */
static bool step_wanted(const struct step *step, bool tree)
{
	return step->where != (tree ? NO_TREE : ONLY_TREE);
}

static size_t steps_count(bool tree)
{
	size_t count = 0;

	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++)
		count += step_wanted(&steps[i], tree);
	return count;
}

/* Removes parts of the target's directory, by name. */
static struct pe_error *parts_remove(const struct preparation *p, const char *const *names)
{
	struct pe_error *err = NULL;

	for (; !err && *names; names++) {
		pe_auto_free char *path = pe_format("%s/%s", p->dir, *names);

		err = path ? pe_tree_remove(path) : pe_error_nomem();
	}
	return err;
}

static struct pe_error *step_run(struct preparation *p, const struct step *step, size_t number)
{
	pe_auto_free char *text = pe_format("[%zu/%zu] %s", number,
					    steps_count(p->options->suite != NULL), step->what);

	if (p->options->progress && text)
		p->options->progress(p->options->ctx, text);
	p->inside = p->options->suite && step->where == INSIDE;

	struct pe_error *err = step->run(p);

	p->inside = false;
	return err ? pe_error_wrap(err, "preparing %s, step %zu (%s)", p->options->name, number,
				   step->what)
		   : NULL;
}

static struct pe_error *steps_run(struct preparation *p)
{
	static const char *const unfinished[] = { "src", "root", "objects", "apt", "log", NULL };
	static const char *const temporary[] = { "apt", "download", NULL };
	size_t number = 0;

	if (p->options->progress)
		p->options->progress(p->options->ctx,
				     "removing what an earlier attempt may have left");

	struct pe_error *err = parts_remove(p, unfinished);

	for (size_t i = 0; !err && i < sizeof(steps) / sizeof(*steps); i++) {
		if (step_wanted(&steps[i], p->options->suite != NULL))
			err = step_run(p, &steps[i], ++number);
	}
	return err ? err : parts_remove(p, temporary);
}

/* An existing target: NOTHING when it is the same, USAGE when it is another. */
static struct pe_error *existing_check(const struct pe_debian_options *options)
{
	struct pe_build_target *target = NULL;
	struct pe_error *err = pe_store_load(options->name, &target);

	if (err && err->code == PE_ERR_NO_TARGET) {
		pe_error_free(err);
		return NULL;
	}
	if (err)
		return err;
	if (!strcmp(target->version, options->version))
		err = pe_error_new(PE_ERR_NOTHING, "the target %s is there already, version %s",
				   options->name, options->version);
	else
		err = pe_error_new(PE_ERR_USAGE,
				   "the target %s is there already, with version %s (remove it, "
				   "or give another --name)",
				   options->name, target->version);
	pe_build_target_free(target);
	return err;
}

struct pe_error *pe_debian_add(const struct pe_debian_recipe *recipe,
			       const struct pe_debian_options *options, char **note)
{
	__attribute__((cleanup(preparation_deinit))) struct preparation p = {
		.recipe = recipe,
		.options = options,
	};
	pe_auto_free char *store = pe_store_dir();
	pe_auto_free char *store_real = NULL;
	pe_auto_fd int lock = -1;
	struct pe_error *err = existing_check(options);

	if (!err)
		err = pe_store_lock(options->name, &lock);
	if (!err)
		err = existing_check(options); /* another may have finished it meanwhile */
	if (err)
		return err;
	store_real = store ? realpath(store, NULL) : NULL;
	p.dir = store_real ? pe_format("%s/%s", store_real, options->name) : NULL;
	p.log = p.dir ? pe_format("%s/log", p.dir) : NULL;
	if (!p.log)
		return pe_error_nomem();
	err = environment_make(&p);
	if (!err)
		err = steps_run(&p);
	*note = pe_steal(p.note);
	return err;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Preparing a target from a Debian source package; see build/debian.h.
 *
 * A straight list of steps (steps[] below), each one or two runs of Debian's own tools with their
 * output in the target's log. apt works on a sources list, package lists and a cache of our own,
 * and is only ever asked to download; packages are unpacked with dpkg-deb, never installed. The
 * one exception is the build dependencies, installed when we are root and some are missing.
 */
#include "build/debian.h"
#include "build/database.h"
#include "build/files.h"
#include "build/run.h"
#include "build/units.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>

#define SPACE_NEEDED (1500ULL << 20)

struct preparation {
	const struct pe_debian_recipe *recipe;
	const struct pe_debian_options *options;
	char *dir; /* of the target in the store */
	char *log;
	struct pe_strv env;
	char *epoch;
	char *note;
};

static void preparation_deinit(struct preparation *p)
{
	free(p->dir);
	free(p->log);
	free(p->epoch);
	free(p->note);
	pe_strv_deinit(&p->env);
}

static struct pe_error *environment_make(struct pe_strv *env)
{
	/* Debian's: what stands in /usr/local or in a home directory built no package. */
	struct pe_error *err = pe_build_environment("/usr/sbin:/usr/bin:/sbin:/bin", env);

	if (!err && !pe_strv_add(env, "DEBIAN_FRONTEND=noninteractive"))
		err = pe_error_nomem();
	return err;
}

/* Runs a tool in @cwd (of the target's directory) with its output in the log. */
static struct pe_error *tool_run(struct preparation *p, const char *cwd, struct pe_strv *argv)
{
	pe_auto_free char *dir = pe_format("%s/%s", p->dir, cwd);
	pe_auto_free char *command = pe_strv_join(argv, " ");
	pe_auto_file FILE *log = fopen(p->log, "ae");
	struct pe_run run = { .argv = argv, .cwd = dir, .env = &p->env, .log = p->log };

	if (!dir || !command)
		return pe_error_nomem();
	if (!log)
		return pe_error_errno(errno, "cannot write %s", p->log);
	fprintf(log, "+ %s\n", command);
	fflush(log);

	struct pe_error *err = pe_run(&run);

	if (err || pe_run_succeeded(&run))
		return err;

	pe_auto_free char *text = NULL;
	char how[64];

	err = pe_file_read(p->log, &text, NULL);
	if (err)
		return err;
	const char *tail = pe_text_tail(text, 15);

	/* Nothing of the step before. */
	for (const char *next; (next = strstr(tail, "\n+ "));)
		tail = next + 1;
	return pe_error_new(PE_ERR_COMPILE, "%s failed (%s); the end of %s:\n%s", argv->items[0],
			    pe_run_how(&run, how), p->log, tail);
}

/* The same with its words as arguments, NULL at the end. */
static struct pe_error *tool(struct preparation *p, const char *cwd, ...)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	bool ok = true;
	va_list ap;

	va_start(ap, cwd);
	for (const char *word; (word = va_arg(ap, const char *));)
		ok = ok && pe_strv_add(&argv, word);
	va_end(ap);
	return ok ? tool_run(p, cwd, &argv) : pe_error_nomem();
}

/* What a tool prints; its exit status does not matter. */
static struct pe_error *tool_output(struct preparation *p, const char *cwd, const char *command,
				    char **out, char **err_out, bool *ok)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	pe_auto_free char *dir = pe_format("%s/%s", p->dir, cwd);
	pe_auto_run struct pe_run run = { .argv = &argv, .cwd = dir, .env = &p->env };
	struct pe_error *err = pe_split_command(command, &argv);

	if (!err && !dir)
		err = pe_error_nomem();
	if (!err)
		err = pe_run(&run);
	if (err)
		return err;
	if (out)
		*out = pe_steal(run.out);
	if (err_out)
		*err_out = pe_steal(run.err);
	if (ok)
		*ok = pe_run_succeeded(&run);
	return NULL;
}

/* ---- the steps ---- */

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
	struct statvfs fs;

	for (size_t i = 0; i < sizeof(needed) / sizeof(*needed); i++) {
		if (!pe_program_exists(needed[i].program))
			return pe_error_new(PE_ERR_SYSTEM,
					    "the program %s is missing (apt-get install %s)",
					    needed[i].program, needed[i].package);
	}
	if (!statvfs(p->dir, &fs) && (unsigned long long)fs.f_bavail * fs.f_frsize < SPACE_NEEDED)
		return pe_error_new(
			PE_ERR_SYSTEM, "%s has %llu MiB of free space; %llu MiB are needed", p->dir,
			(unsigned long long)fs.f_bavail * fs.f_frsize >> 20, SPACE_NEEDED >> 20);
	return NULL;
}

/* apt on our own sources list, package lists and cache. */
static struct pe_error *apt(struct preparation *p, const char *cwd, ...)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	bool ok = pe_strv_add(&argv, "apt-get") && pe_strv_add(&argv, "-q") &&
		  pe_strv_addf(&argv, "-oDir::Etc::sourcelist=%s/apt/sources.list", p->dir) &&
		  pe_strv_add(&argv, "-oDir::Etc::sourceparts=/nonexistent") &&
		  pe_strv_addf(&argv, "-oDir::State::lists=%s/apt/lists", p->dir) &&
		  pe_strv_addf(&argv, "-oDir::Cache=%s/apt/cache", p->dir) &&
		  pe_strv_add(&argv, "-oAcquire::Languages=none") &&
		  pe_strv_add(&argv, "-oAPT::Sandbox::User=root") &&
		  pe_strv_add(&argv, "-oDpkg::Use-Pty=0");
	va_list ap;

	va_start(ap, cwd);
	for (const char *word; (word = va_arg(ap, const char *));)
		ok = ok && pe_strv_add(&argv, word);
	va_end(ap);
	return ok ? tool_run(p, cwd, &argv) : pe_error_nomem();
}

char *pe_debian_sources(const char *targets, const char *codename, const char *keyring)
{
	pe_auto_free char *copy = strdup(targets);
	pe_auto_strv struct pe_strv lines = { 0 };
	pe_auto_free char *option = keyring ? pe_format("[signed-by=%s] ", keyring) : strdup("");
	char *save = NULL;

	if (!copy || !option)
		return NULL;
	/* Lines of "ORIGIN|SITE|SUITE|COMPONENT"; an origin that is not fetched yet is empty. */
	for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		const char *fields[4] = { "", "", "", "" };

		for (size_t i = 0; i < 4 && line; i++)
			fields[i] = strsep(&line, "|");
		if (!pe_starts_with(fields[2], codename) || !*fields[3] ||
		    (strcmp(fields[0], "Debian") && (*fields[0] || !strstr(fields[1], "debian"))))
			continue;
		for (size_t i = 0; i < 2; i++) {
			pe_auto_free char *text =
				pe_format("%s %s%s %s %s", i ? "deb-src" : "deb", option, fields[1],
					  fields[2], fields[3]);

			if (text && !pe_strv_has(&lines, text) && !pe_strv_add(&lines, text))
				return NULL;
		}
	}

	bool found = lines.count > 0;

	for (size_t i = 0; !found && i < 2; i++)
		pe_strv_addf(&lines, "%s %shttp://deb.debian.org/debian %s main",
			     i ? "deb-src" : "deb", option, codename);
	pe_strv_add(&lines, "");
	return pe_strv_join(&lines, "\n");
}

static struct pe_error *os_codename(char **ret)
{
	pe_auto_free char *text = NULL;
	struct pe_error *err = pe_file_read("/etc/os-release", &text, NULL);
	char *at = err ? NULL : strstr(text, "VERSION_CODENAME=");

	if (err)
		return err;
	if (!at)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "/etc/os-release names no VERSION_CODENAME: is this Debian?");
	at += strlen("VERSION_CODENAME=");
	at += *at == '"';
	*ret = strndup(at, strcspn(at, "\"\n"));
	return *ret ? NULL : pe_error_nomem();
}

static struct pe_error *step_lists(struct preparation *p)
{
	static const char *const debian_keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
	pe_auto_free char *codename = NULL, *targets = NULL, *sources = NULL;
	pe_auto_free char *lists = pe_format("%s/apt/lists/partial", p->dir);
	pe_auto_free char *cache = pe_format("%s/apt/cache/archives/partial", p->dir);
	pe_auto_free char *path = pe_format("%s/apt/sources.list", p->dir);
	struct pe_error *err = os_codename(&codename);

	if (!err && (!lists || !cache || !path))
		err = pe_error_nomem();
	if (!err)
		err = pe_dir_make(lists);
	if (!err)
		err = pe_dir_make(cache);
	if (!err)
		err = tool_output(p, ".",
				  "apt-get indextargets --format "
				  "$(ORIGIN)|$(SITE)|$(RELEASE)|$(COMPONENT) "
				  "'Created-By: Packages'",
				  &targets, NULL, NULL);
	if (err)
		return err;
	sources = pe_debian_sources(targets ? targets : "", codename,
				    pe_file_exists(debian_keyring) ? debian_keyring : NULL);
	if (!sources)
		return pe_error_nomem();
	err = pe_file_write(path, sources, strlen(sources));
	return err ? err : apt(p, ".", "update", "--error-on=any", NULL);
}

static struct pe_error *step_download(struct preparation *p)
{
	pe_auto_free char *dir = pe_format("%s/download", p->dir);
	pe_auto_free char *source = pe_format("%s=%s", p->recipe->source, p->options->version);
	struct pe_error *err = dir && source ? pe_dir_make(dir) : pe_error_nomem();

	if (!err)
		err = apt(p, "download", "source", "--download-only", "--only-source", source,
			  NULL);
	for (size_t i = 0; !err && p->recipe->packages[i]; i++) {
		pe_auto_free char *package =
			pe_format("%s=%s", p->recipe->packages[i], p->options->version);

		err = package ? apt(p, "download", "download", package, NULL) : pe_error_nomem();
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
		err = tool(p, ".", "dpkg-source", "--no-check", "-x", dsc, "src", NULL);
	for (size_t i = 0; !err && p->recipe->packages[i]; i++) {
		pe_auto_free char *name = pe_format("%s_", p->recipe->packages[i]);
		pe_auto_free char *deb = NULL;

		err = name ? downloaded(p, name, ".deb", &deb) : pe_error_nomem();
		if (!err)
			err = tool(p, ".", "dpkg-deb", "-x", deb, "root", NULL);
	}
	return err;
}

static struct pe_error *step_dependencies(struct preparation *p)
{
	pe_auto_free char *missing = NULL;
	bool satisfied;
	struct pe_error *err =
		tool_output(p, "src", "dpkg-checkbuilddeps", NULL, &missing, &satisfied);

	if (err || satisfied)
		return err;
	if (geteuid() != 0)
		return pe_error_new(PE_ERR_PERMISSION,
				    "build dependencies are missing; install them as root: "
				    "apt-get build-dep %s/src\n%s",
				    p->dir, missing);
	return apt(p, ".", "build-dep", "-y", "--no-install-recommends", "./src", NULL);
}

static struct pe_error *step_configure(struct preparation *p)
{
	bool ok = false;
	/* As dpkg-buildpackage sets it: the time of the last entry of the changelog. */
	struct pe_error *err =
		tool_output(p, "src", "dpkg-parsechangelog -STimestamp", &p->epoch, NULL, &ok);

	if (err)
		return err;
	if (!ok || !p->epoch)
		return pe_error_new(PE_ERR_FORMAT, "the source has no readable debian/changelog");
	p->epoch[strcspn(p->epoch, "\n")] = 0;
	if (!pe_strv_addf(&p->env, "SOURCE_DATE_EPOCH=%s", p->epoch) ||
	    !pe_strv_add(&p->env, "CMAKE_EXPORT_COMPILE_COMMANDS=ON"))
		return pe_error_nomem();
	return tool(p, "src", "make", "-f", "debian/rules", p->recipe->configure, NULL);
}

static struct pe_error *step_generate(struct preparation *p)
{
	pe_auto_free char *dir = pe_format("src/%s", p->recipe->build_dir);
	pe_auto_strv struct pe_strv argv = { 0 };
	bool ok = dir && pe_strv_add(&argv, "make") && pe_strv_addf(&argv, "-j%zu", pe_run_jobs());

	for (size_t i = 0; ok && p->recipe->generate[i]; i++)
		ok = pe_strv_add(&argv, p->recipe->generate[i]);
	return ok ? tool_run(p, dir, &argv) : pe_error_nomem();
}

/* Libraries that the shipped program needs and this machine lacks: only a note. */
static struct pe_error *step_libraries(struct preparation *p)
{
	pe_auto_free char *command = pe_format("ldd root/%s", p->recipe->binary);
	pe_auto_free char *out = NULL;
	pe_auto_strv struct pe_strv lines = { 0 }, missing = { 0 };
	struct pe_error *err =
		command ? tool_output(p, ".", command, &out, NULL, NULL) : pe_error_nomem();

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

	p->note = pe_format("%s needs libraries that are not installed here: %s", p->recipe->binary,
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

static const struct {
	const char *what;
	struct pe_error *(*run)(struct preparation *p);
} steps[] = {
	{ "checking tools and space", step_tools },
	{ "reading package lists", step_lists },
	{ "downloading source and packages", step_download },
	{ "unpacking", step_unpack },
	{ "checking build dependencies", step_dependencies },
	{ "configuring as debian/rules does (about a minute)", step_configure },
	{ "generating sources (about half a minute)", step_generate },
	{ "checking the program's libraries", step_libraries },
	{ "checking program, symbols and compile database", step_commit },
};

#define STEP_COUNT (sizeof(steps) / sizeof(*steps))

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

static struct pe_error *steps_run(struct preparation *p)
{
	static const char *const unfinished[] = { "src", "root", "objects", "apt", "log", NULL };
	static const char *const temporary[] = { "apt", "download", NULL };
	struct pe_error *err = parts_remove(p, unfinished);

	for (size_t i = 0; !err && i < STEP_COUNT; i++) {
		pe_auto_free char *text =
			pe_format("[%zu/%zu] %s", i + 1, STEP_COUNT, steps[i].what);

		if (p->options->progress && text)
			p->options->progress(p->options->ctx, text);
		err = steps[i].run(p);
		if (err)
			err = pe_error_wrap(err, "preparing %s, step %zu (%s)", p->options->name,
					    i + 1, steps[i].what);
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
	if (!err)
		err = environment_make(&p.env);
	if (err)
		return err;
	store_real = store ? realpath(store, NULL) : NULL;
	p.dir = store_real ? pe_format("%s/%s", store_real, options->name) : NULL;
	p.log = p.dir ? pe_format("%s/log", p.dir) : NULL;
	if (!p.log)
		return pe_error_nomem();
	err = steps_run(&p);
	*note = pe_steal(p.note);
	return err;
}

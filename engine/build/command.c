/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The variants of a compile command that we run; see build/command.h. */
#include "build/command.h"
#include "engine/cleanup.h"

#include <string.h>

/* Options whose value is a path: glued to the option, or the next word. */
static const char *const path_options[] = {
	"-I",
	"-isystem",
	"-iquote",
	"-idirafter",
	"-include",
	"-imacros",
	"-iprefix",
	"-iwithprefix",
	"-iwithprefixbefore",
	"--sysroot=",
	"-isysroot",
	"-B",
	"-fprofile-use=",
	"-fplugin=",
	"-specs=",
	"@",
	"-L",
	"-ffile-prefix-map=",
	"-fmacro-prefix-map=",
	"-fdebug-prefix-map=",
	NULL,
};

static const char *path_option(const char *word)
{
	const char *best = NULL;

	for (size_t i = 0; path_options[i]; i++) {
		if (pe_starts_with(word, path_options[i]) &&
		    (!best || strlen(path_options[i]) > strlen(best)))
			best = path_options[i];
	}
	return best;
}

/* Options that ask for dependency files: how many words, 0 when it is none. */
static size_t dependency_words(const char *word)
{
	if (!strcmp(word, "-MF") || !strcmp(word, "-MT") || !strcmp(word, "-MQ"))
		return 2;
	if (!strcmp(word, "-MD") || !strcmp(word, "-MMD") || !strcmp(word, "-MP") ||
	    !strcmp(word, "-MG") || pe_starts_with(word, "-MF") || pe_starts_with(word, "-MT") ||
	    pe_starts_with(word, "-MQ") || pe_starts_with(word, "-Wp,-MD") ||
	    pe_starts_with(word, "-Wp,-MMD") || pe_starts_with(word, "-save-temps") ||
	    !strcmp(word, "-gsplit-dwarf"))
		return 1;
	return 0;
}

/* @path as it is, or moved from below @root to below @work. */
static char *path_move(const char *path, const char *root, const char *work)
{
	size_t n = strlen(root);

	if (!work || strncmp(path, root, n) || (path[n] && !strchr("/=:,", path[n])))
		return strdup(path);
	return pe_format("%s%s", work, path + n);
}

static char *word_move(const char *word, const char *root, const char *work)
{
	const char *option = path_option(word);
	size_t n = option ? strlen(option) : 0;

	if (!option && *word == '-')
		return strdup(word);

	pe_auto_free char *moved = path_move(word + n, root, work);

	return moved ? pe_format("%.*s%s", (int)n, word, moved) : NULL;
}

static struct pe_error *refuse_lto(const struct pe_unit_entry *entry)
{
	bool lto = false;

	for (size_t i = 1; i < entry->argv.count; i++) {
		if (pe_starts_with(entry->argv.items[i], "-flto"))
			lto = true;
		else if (!strcmp(entry->argv.items[i], "-fno-lto"))
			lto = false;
	}
	if (!lto)
		return NULL;
	return pe_error_new(PE_ERR_UNSUPPORTED,
			    "%s is compiled with -flto: its object has no code to compare",
			    entry->file);
}

static bool add_own_options(const struct pe_unit_entry *entry, const char *object,
			    struct pe_strv *argv)
{
	bool debug = false;

	for (size_t i = 1; i < entry->argv.count; i++) {
		if (pe_starts_with(entry->argv.items[i], "-g"))
			debug = strcmp(entry->argv.items[i], "-g0") != 0;
	}
	return (debug || pe_strv_add(argv, "-g")) && pe_strv_add(argv, "-ffunction-sections") &&
	       pe_strv_add(argv, "-fdata-sections") &&
	       /* Some internal names hold a random number otherwise. */
	       pe_strv_add(argv, "-frandom-seed=care-build") && pe_strv_add(argv, "-o") &&
	       pe_strv_add(argv, object);
}

size_t pe_command_compiler_words(const struct pe_unit_entry *entry)
{
	const char *slash = strrchr(entry->argv.items[0], '/');
	const char *name = slash ? slash + 1 : entry->argv.items[0];
	bool launcher = !strcmp(name, "ccache") || !strcmp(name, "distcc") ||
			!strcmp(name, "sccache") || !strcmp(name, "icecc");

	return launcher && entry->argv.count > 1 && *entry->argv.items[1] != '-' ? 2 : 1;
}

struct pe_error *pe_command_make(const struct pe_unit_entry *entry, const char *object,
				 const char *root, const char *work, struct pe_strv *ret)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	struct pe_error *err = refuse_lto(entry);
	bool compiles = false;

	if (err)
		return err;
	/*
	 * GCC uses the last map that fits: the command's own maps, moved below @work like every
	 * other path, must win, so ours stands first.
	 */
	size_t compiler = pe_command_compiler_words(entry);
	bool ok = true;

	for (size_t i = 0; ok && i < compiler; i++)
		ok = pe_strv_add(&argv, entry->argv.items[i]);
	if (ok && work)
		ok = pe_strv_addf(&argv, "-ffile-prefix-map=%s=%s", work, root);
	for (size_t i = compiler; ok && i < entry->argv.count; i++) {
		const char *word = entry->argv.items[i];
		size_t skip = dependency_words(word);

		if (!strcmp(word, "-o"))
			skip = 2;
		else if (pe_starts_with(word, "-o"))
			skip = 1;
		if (skip) {
			i += skip - 1;
			continue;
		}
		if (!strcmp(word, "-c") && !object)
			continue;
		compiles |= !strcmp(word, "-c");
		ok = pe_strv_take(&argv, word_move(word, root, work));
	}
	if (ok && object)
		ok = (compiles || pe_strv_add(&argv, "-c")) &&
		     add_own_options(entry, object, &argv);
	if (!ok)
		return pe_error_nomem();
	*ret = argv;
	argv = (struct pe_strv){ 0 };
	return NULL;
}

char *pe_command_directory(const struct pe_unit_entry *entry, const char *root, const char *work)
{
	return path_move(entry->directory, root, work);
}

char *pe_command_flags(const struct pe_unit_entry *entry)
{
	pe_auto_strv struct pe_strv flags = { 0 };

	for (size_t i = 1; i < entry->argv.count; i++) {
		const char *word = entry->argv.items[i];
		const char *option = path_option(word);
		size_t skip = dependency_words(word);

		if (!strcmp(word, "-o") ||
		    (option && option[strlen(option) - 1] != '=' && !strcmp(word, option)))
			skip = 2;
		if (skip > 1)
			i += skip - 1;
		if (skip || option || *word != '-' || !strcmp(word, "-c") || strchr(word, '/') ||
		    pe_starts_with(word, "-o") || pe_starts_with(word, "-W") ||
		    pe_strv_has(&flags, word))
			continue;
		if (!pe_strv_add(&flags, word))
			return NULL;
	}
	return pe_strv_join(&flags, " ");
}

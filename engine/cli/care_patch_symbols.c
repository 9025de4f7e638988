/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * care-patch symbols: the names of patched code, for people, perf and gdb.
 *
 * Patched code lies in mappings that no file describes. What the ledgers in the process know of it
 * is written where other tools look:
 *
 *	gdb   an ELF file for each patch with its code, symbols and unwind tables, and a script
 *	      that loads them.
 *	perf  the same file, in a folder for `perf report --symfs`, under the name that the mapping
 *	      has in the process; a file that stands for a memfd is found in no other way.
 *	perf map  "ADDRESS SIZE NAME" a line, which perf reads for anonymous mappings (the fallback
 *	      of processes that may not execute from a memfd) and other profilers for all. Ours end
 *	      in " [care:PATCH]"; lines of others stay, ours of before go.
 *
 * Others may own the directories that we write to (/tmp): files are made under new names, never
 * through a link, readable by us alone, and then renamed.
 */
#include "cli/care_patch.h"
#include "engine/cleanup.h"
#include "engine/cli.h"
#include "engine/demangle.h"
#include "engine/symfile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- files ---- */

struct new_file {
	char *path, *temporary;
	FILE *out;
};

static struct pe_error *new_file_open(struct new_file *file, const char *path)
{
	struct stat st;

	*file = (struct new_file){ .path = strdup(path) };
	/* A device or a pipe would be replaced, not written to. */
	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
		return pe_error_new(PE_ERR_USAGE, "%s is no regular file", path);
	if (!file->path || asprintf(&file->temporary, "%s.XXXXXX", path) < 0)
		return pe_error_nomem();

	int fd = mkostemp(file->temporary, O_CLOEXEC);

	if (fd < 0)
		return pe_error_errno(errno, "cannot write %s", path);
	file->out = fdopen(fd, "w+");
	return file->out ? NULL : pe_error_nomem();
}

/* Under its name when @err is NULL and all was written; gone otherwise. */
static struct pe_error *new_file_close(struct new_file *file, struct pe_error *err)
{
	if (file->out && (ferror(file->out) || fclose(file->out)) && !err)
		err = pe_error_errno(errno, "cannot write %s", file->path);
	if (file->out && !err && rename(file->temporary, file->path))
		err = pe_error_errno(errno, "cannot write %s", file->path);
	if (file->out && err)
		unlink(file->temporary);
	free(file->temporary);
	free(file->path);
	return err;
}

/* ---- perf map ---- */

static const char perf_mark[] = " [care:";

/* The map that is there, or NULL. What is not a file of ours is not replaced. */
static struct pe_error *perf_open_old(const char *path, FILE **ret)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	*ret = NULL;
	if (fd < 0 && errno == ENOENT)
		return NULL;
	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_uid != geteuid() ||
	    st.st_nlink != 1) {
		if (fd >= 0)
			close(fd);
		return pe_error_new(PE_ERR_PERMISSION,
				    "%s is there already and not a file of ours: give another name "
				    "with --perf-map=FILE",
				    path);
	}
	*ret = fdopen(fd, "r");
	return *ret ? NULL : pe_error_nomem();
}

/* *kept: lines of others that were copied. */
static void perf_copy_others(FILE *old, FILE *out, size_t *kept)
{
	pe_auto_free char *line = NULL;
	size_t size = 0;

	while (old && getline(&line, &size, old) > 0) {
		if (strstr(line, perf_mark))
			continue;
		fputs(line, out);
		++*kept;
	}
}

static size_t perf_write_ours(const struct pe_applied_list *list, FILE *out)
{
	size_t written = 0;

	for (size_t i = 0; i < list->count; i++)
		for (size_t s = 0; s < list->items[i].symbol_count; s++, written++) {
			const struct pe_applied_symbol *symbol = &list->items[i].symbols[s];
			pe_auto_free char *name = pe_demangle(symbol->name);

			fprintf(out, "%" PRIx64 " %" PRIx64 " %s%s%s]\n", symbol->address,
				symbol->size, name ? name : symbol->name, perf_mark,
				list->items[i].name);
		}
	return written;
}

static bool same_mount_namespace(pid_t pid)
{
	char path[64];
	struct stat ours, theirs;

	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", pid);
	return stat("/proc/self/ns/mnt", &ours) || stat(path, &theirs) ||
	       (ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev);
}

struct pe_error *care_patch_write_perf_map(const struct care_patch_options *options,
					   const struct pe_applied_list *list)
{
	char path[64];
	const char *name = options->perf_map;
	struct new_file file = { 0 };
	size_t kept = 0, written = 0;
	FILE *old;

	if (!name && !same_mount_namespace(options->pid))
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "process %d has another mount namespace, where perf would look "
				    "for its map: name the file with --perf-map=FILE",
				    options->pid);
	snprintf(path, sizeof(path), "/tmp/perf-%d.map", options->pid);
	if (!name)
		name = path;

	struct pe_error *err = perf_open_old(name, &old);

	if (err)
		return err;
	err = new_file_open(&file, name);
	if (!err) {
		perf_copy_others(old, file.out, &kept);
		written = perf_write_ours(list, file.out);
	}
	err = new_file_close(&file, err);
	/* A map without a line would only hide that there is none. */
	if (!err && !kept && !written)
		unlink(name);
	if (old)
		fclose(old);
	if (!err && !options->json && !options->quiet)
		printf("%zu symbol%s in %s\n", written, written == 1 ? "" : "s", name);
	return err;
}

/* ---- files for gdb and perf ---- */

static struct pe_error *read_code(const struct pe_target *target, const struct pe_applied *patch,
				  uint8_t **text, uint8_t **eh_frame)
{
	*text = malloc(patch->text_size + 1);
	*eh_frame = malloc(patch->eh_frame_size + 1);
	if (!*text || !*eh_frame)
		return pe_error_nomem();

	struct pe_error *err = pe_target_read(target, patch->start, *text, patch->text_size);

	if (!err)
		err = pe_target_read(target, patch->eh_frame, *eh_frame, patch->eh_frame_size);
	return err;
}

static struct pe_error *write_symbol_file(const struct pe_target *target,
					  const struct pe_applied *patch, const char *path)
{
	pe_auto_free uint8_t *text = NULL, *eh_frame = NULL;
	pe_auto_free struct pe_symfile_symbol *symbols =
		calloc(patch->symbol_count + 1, sizeof(*symbols));
	struct pe_error *err =
		symbols ? read_code(target, patch, &text, &eh_frame) : pe_error_nomem();
	struct new_file file = { 0 };

	if (err)
		return err;
	for (size_t i = 0; i < patch->symbol_count; i++)
		symbols[i] = (struct pe_symfile_symbol){ patch->symbols[i].name,
							 patch->symbols[i].address - patch->start,
							 patch->symbols[i].size };

	const struct pe_symfile content = {
		.machine = patch->machine,
		.text = text,
		.text_size = patch->text_size,
		.eh_frame_address = patch->eh_frame_size ? patch->eh_frame - patch->start : 0,
		.eh_frame = eh_frame,
		.eh_frame_size = patch->eh_frame_size,
		.symbols = symbols,
		.symbol_count = patch->symbol_count,
	};

	err = new_file_open(&file, path);
	if (!err)
		err = pe_symfile_write(&content, fileno(file.out));
	return new_file_close(&file, err);
}

struct pe_error *care_patch_write_gdb(const struct care_patch_options *options,
				      const struct pe_target *target,
				      const struct pe_applied_list *list)
{
	pe_auto_free char *folder = realpath(options->gdb, NULL), *path = NULL;
	struct new_file script = { 0 };

	if (!folder)
		return pe_error_errno(errno, "cannot write symbol files to %s", options->gdb);
	if (asprintf(&path, "%s/care-%d.gdb", folder, options->pid) < 0)
		return pe_error_nomem();

	struct pe_error *err = new_file_open(&script, path);

	for (size_t i = 0; !err && i < list->count; i++) {
		const struct pe_applied *patch = &list->items[i];
		pe_auto_free char *name = NULL;

		if (asprintf(&name, "%s/care-%d-%" PRIu64 ".sym", folder, options->pid,
			     patch->sequence) < 0)
			return new_file_close(&script, pe_error_nomem());
		err = write_symbol_file(target, patch, name);
		fprintf(script.out, "# patch %s\nadd-symbol-file \"%s\" -o 0x%" PRIx64 "\n",
			patch->name, name, patch->start);
	}
	err = new_file_close(&script, err);
	if (!err && !options->json && !options->quiet)
		printf("gdb -p %d -x %s\n", options->pid, path);
	return err;
}

/* perf looks up all files under the folder then: the others are found through links. */
static struct pe_error *link_root(const struct care_patch_options *options, const char *folder)
{
	static const char *const names[] = { "bin", "lib", "lib64", "opt", "root", "sbin",
					     "srv", "tmp", "usr",   "var", "home" };

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		char from[64], to[PATH_MAX];

		snprintf(from, sizeof(from), "/proc/%d/root/%s", options->pid, names[i]);
		if (access(from, F_OK))
			continue;
		snprintf(from, sizeof(from), "/%s", names[i]);
		snprintf(to, sizeof(to), "%s/%s", folder, names[i]);
		if (symlink(from, to) && errno != EEXIST)
			return pe_error_errno(errno, "cannot make the link %s", to);
	}
	return NULL;
}

struct pe_error *care_patch_write_perf(const struct care_patch_options *options,
				       const struct pe_target *target,
				       const struct pe_applied_list *list)
{
	pe_auto_free char *folder = realpath(options->perf, NULL);

	if (!folder)
		return pe_error_errno(errno, "cannot write symbol files to %s", options->perf);

	struct pe_error *err = link_root(options, folder);

	/* A later patch of the same name is the one that runs. */
	for (size_t i = 0; !err && i < list->count; i++) {
		pe_auto_free char *path = NULL;

		if (asprintf(&path, "%s/memfd:care:%s (deleted)", folder, list->items[i].name) < 0)
			return pe_error_nomem();
		err = write_symbol_file(target, &list->items[i], path);
	}
	if (!err && !options->json && !options->quiet)
		printf("perf report --symfs %s --kallsyms /proc/kallsyms\n", folder);
	return err;
}

/* ---- people ---- */

struct found {
	const struct pe_applied *patch;
	const struct pe_applied_symbol *symbol;
	uint64_t address;
};

/* All symbols, or the one that the address asked for lies in. */
static struct pe_error *find_symbols(const struct care_patch_options *options,
				     const struct pe_applied_list *list, struct found **ret,
				     size_t *count)
{
	uint64_t wanted = options->what ? strtoull(options->what, NULL, 16) : 0;
	size_t all = 0;

	for (size_t i = 0; i < list->count; i++)
		all += list->items[i].symbol_count;
	*count = 0;
	*ret = calloc(all + 1, sizeof(**ret));
	if (!*ret)
		return pe_error_nomem();
	for (size_t i = 0; i < list->count; i++)
		for (size_t s = 0; s < list->items[i].symbol_count; s++) {
			const struct pe_applied_symbol *symbol = &list->items[i].symbols[s];

			if (options->what && wanted - symbol->address >= symbol->size)
				continue;
			(*ret)[(*count)++] =
				(struct found){ &list->items[i], symbol,
						options->what ? wanted : symbol->address };
		}
	if (*count)
		return NULL;
	if (options->what)
		return pe_error_new(PE_ERR_NOTHING,
				    "%s is no address in patched code of process %d", options->what,
				    options->pid);
	return pe_error_new(PE_ERR_NOTHING, "no patch is applied to process %d", options->pid);
}

static json_t *found_json(const struct found *found)
{
	char text[32];

	snprintf(text, sizeof(text), "0x%" PRIx64, found->address);
	return json_pack("{s:s, s:s, s:s, s:I, s:I}", "address", text, "name", found->symbol->name,
			 "patch", found->patch->name, "size", (json_int_t)found->symbol->size,
			 "offset", (json_int_t)(found->address - found->symbol->address));
}

static void found_row(struct pe_table *table, const struct found *found)
{
	pe_auto_free char *name = pe_demangle(found->symbol->name), *where = NULL;
	uint64_t offset = found->address - found->symbol->address;
	char text[32], size[32];

	snprintf(text, sizeof(text), "0x%" PRIx64, found->address);
	snprintf(size, sizeof(size), "%" PRIu64, found->symbol->size);
	if (offset && asprintf(&where, "%s+0x%" PRIx64, name, offset) < 0)
		where = NULL;
	pe_table_row(table,
		     (const char *const[]){ text, size, found->patch->name, where ? where : name });
}

struct pe_error *care_patch_print_symbols(const struct care_patch_options *options,
					  const struct pe_applied_list *list)
{
	static const char *const titles[] = { "ADDRESS", ">SIZE", "PATCH", "FUNCTION", NULL };
	pe_auto_free struct found *found = NULL;
	size_t count;
	struct pe_error *err = find_symbols(options, list, &found, &count);

	if (err)
		return err;
	if (options->json) {
		json_t *symbols = json_array();

		for (size_t i = 0; i < count; i++)
			json_array_append_new(symbols, found_json(&found[i]));
		pe_cli_json(json_pack("{s:i, s:o}", "pid", (int)options->pid, "symbols", symbols));
		return NULL;
	}

	struct pe_table *table = pe_table_new(titles);

	for (size_t i = 0; i < count; i++)
		found_row(table, &found[i]);
	pe_table_print_and_free(table);
	return NULL;
}

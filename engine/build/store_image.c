/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which file of a target is patched: its program, or a plugin or library of the same source. */
#include "build/files.h"
#include "build/store.h"
#include "engine/cleanup.h"

#include <fcntl.h>
#include <fts.h>
#include <string.h>

/* Linkers put notes in front of everything else. */
enum { HEAD = 64 * 1024 };

struct pe_error *pe_build_target_choose(struct pe_build_target *target, const char *path)
{
	pe_auto_free char *full = *path == '/' || !target->root
					  ? strdup(path)
					  : pe_format("%s/%s", target->root, path);
	char build_id[2 * PE_BUILD_ID_MAX + 1];
	struct pe_image *image = NULL;

	if (!full)
		return pe_error_nomem();
	if (!pe_file_exists(full))
		return pe_error_new(PE_ERR_USAGE, "there is no file %s in the packages of %s (%s)",
				    path, target->name, target->root ? target->root : "no folder");
	if (target->program)
		free(target->binary);
	else
		target->program = target->binary;
	target->binary = pe_steal(full);
	/* The list is the program's. */
	free(target->symbols);
	target->symbols = NULL;

	struct pe_error *err = pe_build_target_image(target, &image);

	if (err)
		return err;
	pe_build_id_hex(pe_image_build_id(image), build_id);
	pe_image_close(image);
	if (!*build_id)
		return pe_error_new(PE_ERR_UNSUPPORTED, "%s has no build-id", target->binary);
	free(target->build_id);
	target->build_id = strdup(build_id);
	return target->build_id ? NULL : pe_error_nomem();
}

/* A first look, without reading the whole file: does its head hold that id in a note of GNU? */
static bool may_have_id(const char *path, const struct pe_build_id *id)
{
	pe_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	pe_auto_free char *head = malloc(HEAD);
	char note[4 + PE_BUILD_ID_MAX] = "GNU";
	ssize_t size = fd >= 0 && head ? read(fd, head, HEAD) : -1;

	memcpy(note + 4, id->bytes, id->size);
	return size > 4 && !memcmp(head, "\177ELF", 4) &&
	       memmem(head, (size_t)size, note, 4 + id->size);
}

struct pe_error *pe_build_target_choose_id(struct pe_build_target *target, const char *build_id)
{
	char *roots[] = { target->root, NULL };
	pe_auto_free char *found = NULL;
	struct pe_build_id id;

	if (!strcmp(target->build_id, build_id) || !target->root ||
	    !pe_build_id_parse(build_id, &id))
		return NULL;

	FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOSTAT | FTS_NOCHDIR, NULL);

	for (FTSENT *entry; walk && !found && (entry = fts_read(walk));)
		if ((entry->fts_info == FTS_F || entry->fts_info == FTS_NSOK) &&
		    may_have_id(entry->fts_path, &id))
			found = strdup(entry->fts_path);
	if (walk)
		fts_close(walk);
	return found ? pe_build_target_choose(target, found) : NULL;
}

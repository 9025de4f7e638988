/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ELF objects of a process, read from its memory: a file that was deleted or replaced on disk
 * changes nothing here.
 *
 * A mapping of file offset 0 that begins with an ELF header is an image when its executable
 * segments are really mapped executable (a file that somebody merely reads is none). The order is
 * that of the loader's link map, because symbol binding depends on it.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/cleanup.h"
#include "engine/dynlookup.h"
#include "proc.h"

enum {
	PHDR_MAX = 128,
	NOTE_MAX = 65536,
	PAGE = 4096,
};

/* Ranks for the order: the program, the link map, what is left, the vDSO. */
enum { RANK_PROGRAM = 0, RANK_LINK_MAP = 1, RANK_OTHER = 1 << 20, RANK_VDSO = 1 << 21 };

struct found {
	struct pe_loaded_image image;
	int rank;
};

struct search {
	const struct pe_target *target;
	struct pe_maps maps;
	uint64_t phdr_addr; /* AT_PHDR: lies in the program */
	uint64_t base;	    /* AT_BASE: of the dynamic linker; 0: there is none */
	uint64_t vdso;	    /* AT_SYSINFO_EHDR */
	struct found *found;
	size_t count;
};

static void read_auxv(struct search *search)
{
	char path[64];
	Elf64_auxv_t auxv[64] = { 0 };

	snprintf(path, sizeof(path), "/proc/%d/auxv", search->target->pid);
	/* NUL-terminated by proc_read_file: the last entry is never needed. */
	ssize_t size = proc_read_file(path, (char *)auxv, sizeof(auxv));

	for (ssize_t i = 0; (i + 1) * (ssize_t)sizeof(*auxv) <= size; i++) {
		if (auxv[i].a_type == AT_PHDR)
			search->phdr_addr = auxv[i].a_un.a_val;
		else if (auxv[i].a_type == AT_BASE)
			search->base = auxv[i].a_un.a_val;
		else if (auxv[i].a_type == AT_SYSINFO_EHDR)
			search->vdso = auxv[i].a_un.a_val;
	}
}

static bool code_is_mapped(const struct pe_maps *maps, const Elf64_Phdr *phdr, uint64_t bias)
{
	const struct pe_map *map = pe_maps_at(maps, bias + phdr->p_vaddr);

	return map && (map->prot & PROT_EXEC);
}

static void read_build_id(const struct pe_target *target, const Elf64_Phdr *phdr, uint64_t bias,
			  struct pe_loaded_image *image)
{
	struct pe_build_id *id = &image->build_id;
	uint64_t start = bias + phdr->p_vaddr;

	if (id->size || phdr->p_memsz == 0 || phdr->p_memsz > NOTE_MAX)
		return;

	pe_auto_free uint8_t *notes = malloc(phdr->p_memsz);

	if (!notes || proc_read_some(target, start, notes, phdr->p_memsz) != phdr->p_memsz ||
	    !pe_build_id_from_notes(notes, phdr->p_memsz, id))
		return;

	const uint8_t *at = memmem(notes, phdr->p_memsz, id->bytes, id->size);

	image->build_id_addr = at ? start + (uint64_t)(at - notes) : 0;
}

/* Fills the image that begins at the mapping; false when there is none. */
static bool examine(const struct search *search, const struct pe_map *map,
		    struct pe_loaded_image *image)
{
	Elf64_Ehdr ehdr;
	Elf64_Phdr phdrs[PHDR_MAX];
	uint64_t bias = 0, high = 0;
	bool have_bias = false, have_code = false;

	if (proc_read_some(search->target, map->start, &ehdr, sizeof(ehdr)) != sizeof(ehdr) ||
	    memcmp(ehdr.e_ident, ELFMAG, SELFMAG) != 0 || ehdr.e_ident[EI_CLASS] != ELFCLASS64 ||
	    ehdr.e_phentsize != sizeof(*phdrs) || ehdr.e_phnum == 0 || ehdr.e_phnum > PHDR_MAX ||
	    ehdr.e_phoff > PAGE * 16)
		return false;

	size_t size = ehdr.e_phnum * sizeof(*phdrs);

	if (proc_read_some(search->target, map->start + ehdr.e_phoff, phdrs, size) != size)
		return false;

	for (size_t i = 0; i < ehdr.e_phnum && !have_bias; i++) {
		if (phdrs[i].p_type == PT_LOAD && (phdrs[i].p_offset & ~(PAGE - 1ULL)) == 0) {
			bias = map->start - (phdrs[i].p_vaddr & ~(PAGE - 1ULL));
			have_bias = true;
		}
	}
	if (!have_bias)
		return false;

	memset(image, 0, sizeof(*image));
	for (size_t i = 0; i < ehdr.e_phnum; i++) {
		const Elf64_Phdr *phdr = &phdrs[i];

		if (phdr->p_type == PT_LOAD) {
			if (phdr->p_vaddr + phdr->p_memsz > high)
				high = phdr->p_vaddr + phdr->p_memsz;
			if ((phdr->p_flags & PF_X) && !code_is_mapped(&search->maps, phdr, bias))
				return false;
			have_code |= (phdr->p_flags & PF_X) != 0;
		} else if (phdr->p_type == PT_DYNAMIC) {
			image->dynamic = bias + phdr->p_vaddr;
		} else if (phdr->p_type == PT_NOTE) {
			read_build_id(search->target, phdr, bias, image);
		}
	}
	image->start = map->start;
	image->end = (bias + high + PAGE - 1) & ~(PAGE - 1ULL);
	image->bias = bias;
	return have_code && image->end > image->start;
}

static struct pe_error *find_images(struct search *search)
{
	search->found = calloc(search->maps.count + 1, sizeof(*search->found));
	if (!search->found)
		return pe_error_nomem();
	for (size_t i = 0; i < search->maps.count; i++) {
		const struct pe_map *map = &search->maps.items[i];
		struct found *found = &search->found[search->count];
		bool is_vdso = map->start == search->vdso;

		/* Our own mappings are memfds with an ELF header nowhere; [vvar] is no file. */
		if (map->offset != 0 || !(map->prot & PROT_READ) || (!map->inode && !is_vdso))
			continue;
		if (!examine(search, map, &found->image))
			continue;
		found->image.is_program = search->phdr_addr >= found->image.start &&
					  search->phdr_addr < found->image.end;
		found->rank = found->image.is_program ? RANK_PROGRAM
			      : is_vdso		      ? RANK_VDSO
						      : RANK_OTHER + (int)search->count;
		found->image.path = strdup(map->path);
		if (!found->image.path)
			return pe_error_nomem();
		search->count++;
	}
	return NULL;
}

static void rank(void *ctx, int n, uint64_t dynamic)
{
	struct search *search = ctx;

	for (size_t i = 0; i < search->count; i++) {
		struct found *found = &search->found[i];

		if (found->rank >= RANK_OTHER && found->rank < RANK_VDSO && found->image.dynamic &&
		    found->image.dynamic == dynamic)
			found->rank = RANK_LINK_MAP + n;
	}
}

/* Without a link map the order is by address. */
static void rank_by_link_map(struct search *search, struct pe_link_map *ret)
{
	*ret = (struct pe_link_map){ .interpreted = search->base != 0 };
	for (size_t i = 0; i < search->count; i++) {
		if (search->found[i].image.is_program)
			ret->dynamic = search->found[i].image.dynamic;
	}
	proc_walk_link_map(search->target, ret, rank, search);
}

static int by_rank(const void *a, const void *b)
{
	const struct found *x = a, *y = b;

	return (x->rank > y->rank) - (x->rank < y->rank);
}

static void search_deinit(struct search *search)
{
	for (size_t i = 0; i < search->count; i++)
		free(search->found[i].image.path);
	free(search->found);
	pe_maps_deinit(&search->maps);
}

struct pe_error *pe_target_images(const struct pe_target *target, struct pe_loaded_images *ret)
{
	struct search search = { .target = target };
	struct pe_error *err = pe_target_maps(target, &search.maps);

	if (err)
		return err;
	read_auxv(&search);
	err = find_images(&search);
	if (!err && search.count == 0) {
		err = pe_target_alive(target);
		if (!err)
			err = pe_error_new(PE_ERR_UNSUPPORTED,
					   "process %d has no 64-bit ELF object in its memory",
					   target->pid);
	}

	struct pe_loaded_image *items = err ? NULL : calloc(search.count, sizeof(*items));

	if (!err && !items)
		err = pe_error_nomem();
	if (err) {
		search_deinit(&search);
		return err;
	}
	struct pe_link_map link_map;

	rank_by_link_map(&search, &link_map);
	qsort(search.found, search.count, sizeof(*search.found), by_rank);
	for (size_t i = 0; i < search.count; i++)
		items[i] = search.found[i].image;
	*ret = (struct pe_loaded_images){ .items = items,
					  .count = search.count,
					  .link_map = link_map };
	search.count = 0; /* the paths went over */
	search_deinit(&search);
	return NULL;
}

void pe_loaded_images_deinit(struct pe_loaded_images *images)
{
	for (size_t i = 0; i < images->count; i++)
		free(images->items[i].path);
	free(images->items);
	memset(images, 0, sizeof(*images));
}

bool pe_loaded_image_is_there(const struct pe_target *target, const struct pe_loaded_image *image)
{
	uint8_t now[PE_BUILD_ID_MAX];
	size_t size = image->build_id.size;

	return image->build_id_addr &&
	       proc_read_some(target, image->build_id_addr, now, size) == size &&
	       memcmp(now, image->build_id.bytes, size) == 0;
}

const struct pe_loaded_image *pe_loaded_images_find(const struct pe_loaded_images *images,
						    const struct pe_build_id *id)
{
	for (size_t i = 0; i < images->count; i++) {
		if (id->size && pe_build_id_equal(&images->items[i].build_id, id))
			return &images->items[i];
	}
	return NULL;
}

/* ---- symbols ---- */

static struct pe_error *read_callback(void *ctx, uint64_t addr, void *buf, size_t size)
{
	return pe_target_read(ctx, addr, buf, size);
}

/* By DT_SONAME, or by the file name where an object has none. */
static bool is_library(const struct pe_target *target, const struct pe_loaded_image *image,
		       const char *library)
{
	const char *slash = strrchr(image->path, '/');
	const char *base = slash ? slash + 1 : image->path;
	size_t size = strlen(library);
	char name[256] = "";
	uint64_t strtab, soname;

	if (strncmp(base, library, size) == 0 &&
	    (base[size] == '\0' || strcmp(base + size, " (deleted)") == 0))
		return true;
	if (!proc_dynamic_value(target, image->dynamic, DT_STRTAB, &strtab) ||
	    !proc_dynamic_value(target, image->dynamic, DT_SONAME, &soname) ||
	    size + 1 > sizeof(name))
		return false;
	if (strtab < image->bias)
		strtab += image->bias;
	return proc_read_some(target, strtab + soname, name, size + 1) == size + 1 &&
	       memcmp(name, library, size + 1) == 0;
}

struct pe_error *pe_target_find_symbol(const struct pe_target *target,
				       const struct pe_loaded_images *images, const char *name,
				       const char *library, const char *version,
				       struct pe_import *ret)
{
	bool library_seen = false;

	for (size_t i = 0; i < images->count; i++) {
		const struct pe_loaded_image *image = &images->items[i];
		struct pe_dyn_symbol symbol = { 0 };

		if (!image->dynamic || (library && !is_library(target, image, library)))
			continue;
		library_seen = true;

		struct pe_error *err = pe_dyn_find(read_callback, (void *)target, image->dynamic,
						   image->bias, name, version, &symbol);

		if (err)
			return pe_error_wrap(err, "cannot look %s up in %s", name, image->path);
		if (!symbol.found)
			continue;
		if (symbol.type == STT_TLS)
			return pe_error_new(PE_ERR_UNSUPPORTED,
					    "%s of %s is thread-local: it has no address", name,
					    image->path);
		ret->addr = symbol.addr;
		ret->size = symbol.size;
		ret->is_ifunc = symbol.type == STT_GNU_IFUNC;
		return NULL;
	}
	if (library && !library_seen)
		return pe_error_new(PE_ERR_NO_TARGET, "process %d has not loaded %s", target->pid,
				    library);
	return pe_error_new(PE_ERR_NO_TARGET, "no object of process %d defines %s%s%s%s%s",
			    target->pid, name, version ? "@" : "", version ? version : "",
			    library ? " in " : "", library ? library : "");
}

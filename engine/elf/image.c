/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Images: segments, identity and dynamic section. Only program headers are relied upon, as the
 * loader does; section headers serve to find .symtab, nothing else.
 */
#include <string.h>

#include "elf/image_private.h"
#include "engine/cleanup.h"

#define NEEDED_MAX 4096

bool image_grow(void *array, size_t *room, size_t count, size_t size)
{
	void **items = array;

	if (count < *room)
		return true;
	size_t more = *room ? *room * 2 : 64;
	void *grown = reallocarray(*items, more, size);
	if (!grown)
		return false;
	*items = grown;
	*room = more;
	return true;
}

static struct pe_error *segment_read(struct pe_image *image, const GElf_Phdr *phdr)
{
	if (phdr->p_filesz > phdr->p_memsz || phdr->p_offset > image->file.size ||
	    phdr->p_filesz > image->file.size - phdr->p_offset)
		return IMAGE_BAD(image, "a segment lies outside the file");
	if (phdr->p_vaddr + phdr->p_memsz < phdr->p_vaddr)
		return IMAGE_BAD(image, "a segment wraps around the address space");
	if (image->segment_count > 0) {
		const struct image_segment *last = &image->segments[image->segment_count - 1];

		if (phdr->p_vaddr < last->vaddr + last->memsz)
			return IMAGE_BAD(image, "its segments are not in order");
	}
	image->segments[image->segment_count++] =
		(struct image_segment){ phdr->p_vaddr, phdr->p_memsz, phdr->p_filesz,
					phdr->p_offset, phdr->p_flags };
	return NULL;
}

static struct pe_error *segments_read(struct pe_image *image)
{
	size_t count;

	if (elf_getphdrnum(image->file.elf, &count) < 0)
		return IMAGE_BAD(image, "%s", elf_errmsg(-1));
	image->segments = calloc(count + 1, sizeof(*image->segments));
	if (!image->segments)
		return pe_error_nomem();
	for (size_t i = 0; i < count; i++) {
		GElf_Phdr phdr;
		struct pe_error *err = NULL;

		if (!gelf_getphdr(image->file.elf, (int)i, &phdr))
			return IMAGE_BAD(image, "%s", elf_errmsg(-1));
		if (phdr.p_type == PT_LOAD) {
			err = segment_read(image, &phdr);
		} else if (phdr.p_type == PT_TLS) {
			image->tls_size = phdr.p_memsz;
			image->tls_align = phdr.p_align ? phdr.p_align : 1;
			if (image->tls_align & (image->tls_align - 1))
				err = IMAGE_BAD(image, "alignment of PT_TLS is no power of two");
		} else if (phdr.p_type == PT_GNU_RELRO) {
			image->relro =
				(struct image_range){ phdr.p_vaddr, phdr.p_vaddr + phdr.p_memsz };
		} else if (phdr.p_type == PT_DYNAMIC) {
			image->dynamic_vaddr = phdr.p_vaddr;
			image->dynamic_size = phdr.p_filesz;
		} else if (phdr.p_type == PT_GNU_EH_FRAME) {
			image->eh_frame_hdr = phdr.p_vaddr;
		} else if (phdr.p_type == PT_INTERP) {
			image->has_interpreter = true;
		}
		if (err)
			return err;
	}
	if (image->segment_count == 0)
		return IMAGE_BAD(image, "nothing in it is loaded");
	return NULL;
}

static uint64_t *dynamic_field(struct image_dynamic *dynamic, int64_t tag)
{
	switch (tag) {
	case DT_STRTAB:
		return &dynamic->strtab;
	case DT_STRSZ:
		return &dynamic->strsz;
	case DT_SYMTAB:
		return &dynamic->symtab;
	case DT_HASH:
		return &dynamic->hash;
	case DT_GNU_HASH:
		return &dynamic->gnu_hash;
	case DT_VERSYM:
		return &dynamic->versym;
	case DT_VERNEED:
		return &dynamic->verneed;
	case DT_VERNEEDNUM:
		return &dynamic->verneednum;
	case DT_VERDEF:
		return &dynamic->verdef;
	case DT_VERDEFNUM:
		return &dynamic->verdefnum;
	case DT_RELA:
		return &dynamic->rela;
	case DT_RELASZ:
		return &dynamic->relasz;
	case DT_JMPREL:
		return &dynamic->jmprel;
	case DT_PLTRELSZ:
		return &dynamic->pltrelsz;
	case DT_RELR:
		return &dynamic->relr;
	case DT_RELRSZ:
		return &dynamic->relrsz;
	case DT_SONAME:
		return &dynamic->soname;
	default:
		return NULL;
	}
}

const char *image_dynamic_string(const struct pe_image *image, uint64_t offset)
{
	if (offset >= image->dynamic.strsz)
		return NULL;
	size_t left = image->dynamic.strsz - offset;
	const char *string = pe_image_bytes(image, image->dynamic.strtab + offset, left);
	return string && memchr(string, '\0', left) ? string : NULL;
}

/* DT_NEEDED entries come before DT_STRTAB: hence the second walk. */
static struct pe_error *needed_read(struct pe_image *image, const Elf64_Dyn *entries, size_t count)
{
	for (size_t i = 0; i < count && entries[i].d_tag != DT_NULL; i++) {
		if (entries[i].d_tag != DT_NEEDED)
			continue;
		const char *name = image_dynamic_string(image, entries[i].d_un.d_val);
		if (!name || image->needed_count == NEEDED_MAX)
			return IMAGE_BAD(image, "DT_NEEDED names nothing");
		image->needed[image->needed_count++] = name;
	}
	return NULL;
}

static struct pe_error *dynamic_read(struct pe_image *image)
{
	size_t count = image->dynamic_size / sizeof(Elf64_Dyn), needed = 0;

	if (count == 0)
		return NULL; /* a static program */
	const void *bytes = pe_image_bytes(image, image->dynamic_vaddr, count * sizeof(Elf64_Dyn));
	if (!bytes)
		return IMAGE_BAD(image, "its dynamic section is not in the file");
	pe_auto_free Elf64_Dyn *entries = malloc(count * sizeof(*entries));
	if (!entries)
		return pe_error_nomem();
	memcpy(entries, bytes, count * sizeof(*entries));

	for (size_t i = 0; i < count && entries[i].d_tag != DT_NULL; i++) {
		uint64_t value = entries[i].d_un.d_val;
		uint64_t *field = dynamic_field(&image->dynamic, entries[i].d_tag);

		if (field)
			*field = value;
		else if (entries[i].d_tag == DT_NEEDED)
			needed++;
		else if (entries[i].d_tag == DT_FLAGS_1 && value & DF_1_PIE)
			image->says_pie = true;
		if (entries[i].d_tag == DT_BIND_NOW ||
		    (entries[i].d_tag == DT_FLAGS && value & DF_BIND_NOW) ||
		    (entries[i].d_tag == DT_FLAGS_1 && value & DF_1_NOW))
			image->dynamic.binds_now = true;
	}
	image->needed = calloc(needed + 1, sizeof(*image->needed));
	if (!image->needed)
		return pe_error_nomem();
	if (image->dynamic.soname) {
		image->soname = image_dynamic_string(image, image->dynamic.soname);
		if (!image->soname)
			return IMAGE_BAD(image, "DT_SONAME names nothing");
	}
	return needed_read(image, entries, count);
}

static struct pe_error *image_load(struct pe_image *image)
{
	GElf_Ehdr ehdr;
	struct pe_error *err = pe_elf_file_init(&image->file, image->path);

	if (err)
		return err;
	if (!gelf_getehdr(image->file.elf, &ehdr))
		return IMAGE_BAD(image, "%s", elf_errmsg(-1));
	if (ehdr.e_type != ET_EXEC && ehdr.e_type != ET_DYN)
		return pe_error_new(PE_ERR_FORMAT, "%s is neither a program nor a shared library",
				    image->path);
	image->type = ehdr.e_type;
	image->machine = ehdr.e_machine;
	image_file_build_id(&image->file, &image->build_id);
	if ((err = segments_read(image)) || (err = dynamic_read(image)) ||
	    (err = image_symbols_read(image)) || (err = image_slots_read(image)))
		return err;
	return image_extents_read(image);
}

struct pe_error *pe_image_open(const char *path, struct pe_image **ret)
{
	struct pe_image *image = calloc(1, sizeof(*image));

	if (image)
		image->path = strdup(path);
	if (!image || !image->path) {
		pe_image_close(image);
		return pe_error_nomem();
	}
	struct pe_error *err = image_load(image);
	if (err) {
		pe_image_close(image);
		return err;
	}
	*ret = image;
	return NULL;
}

void pe_image_close(struct pe_image *image)
{
	if (!image)
		return;
	image_symbols_deinit(image);
	image_slots_deinit(image);
	free(image->extents);
	free(image->needed);
	free(image->segments);
	free(image->path);
	pe_elf_file_deinit(&image->file);
	free(image);
}

const char *pe_image_path(const struct pe_image *image)
{
	return image->path;
}

const struct pe_build_id *pe_image_build_id(const struct pe_image *image)
{
	return &image->build_id;
}

bool pe_image_is_pie(const struct pe_image *image)
{
	return image->type == ET_DYN;
}

uint16_t pe_image_machine(const struct pe_image *image)
{
	return image->machine;
}

/* A plugin has no name that others link against, and libc an interpreter. */
bool pe_image_is_program(const struct pe_image *image)
{
	if (image->type == ET_EXEC || image->says_pie)
		return true;
	return image->has_interpreter && !image->soname;
}

const char *pe_image_soname(const struct pe_image *image)
{
	return image->soname;
}

bool pe_image_binds_now(const struct pe_image *image)
{
	return image->dynamic.binds_now;
}

void pe_image_extent(const struct pe_image *image, uint64_t *start, uint64_t *end)
{
	const struct image_segment *last = &image->segments[image->segment_count - 1];

	*start = image->segments[0].vaddr;
	*end = last->vaddr + last->memsz;
}

void pe_image_tls(const struct pe_image *image, uint64_t *size, uint64_t *align)
{
	*size = image->tls_size;
	*align = image->tls_size ? image->tls_align : 0;
}

const char *const *pe_image_needed(const struct pe_image *image, size_t *count)
{
	*count = image->needed_count;
	return image->needed;
}

static const struct image_segment *segment_at(const struct pe_image *image, uint64_t vaddr)
{
	for (size_t i = 0; i < image->segment_count; i++) {
		const struct image_segment *segment = &image->segments[i];

		if (vaddr >= segment->vaddr && vaddr - segment->vaddr < segment->memsz)
			return segment;
	}
	return NULL;
}

const void *pe_image_bytes(const struct pe_image *image, uint64_t vaddr, size_t size)
{
	const struct image_segment *segment = segment_at(image, vaddr);

	if (!segment)
		return NULL;
	uint64_t offset = vaddr - segment->vaddr;
	if (offset > segment->filesz || size > segment->filesz - offset)
		return NULL;
	return (const uint8_t *)image->file.map + segment->offset + offset;
}

bool pe_image_is_code(const struct pe_image *image, uint64_t vaddr)
{
	const struct image_segment *segment = segment_at(image, vaddr);

	return segment && segment->flags & PF_X;
}

bool pe_image_is_writable(const struct pe_image *image, uint64_t vaddr)
{
	const struct image_segment *segment = segment_at(image, vaddr);

	return segment && segment->flags & PF_W &&
	       !(vaddr >= image->relro.start && vaddr < image->relro.end);
}

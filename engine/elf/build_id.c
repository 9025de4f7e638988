/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Build-ids: what identifies an image, on disk as in memory. */
#include <elf.h>
#include <stdio.h>
#include <string.h>

#include "elf/image_private.h"

bool pe_build_id_equal(const struct pe_build_id *a, const struct pe_build_id *b)
{
	return a->size == b->size && memcmp(a->bytes, b->bytes, a->size) == 0;
}

void pe_build_id_hex(const struct pe_build_id *id, char *out)
{
	for (size_t i = 0; i < id->size; i++)
		sprintf(out + 2 * i, "%02x", id->bytes[i]);
	out[2 * id->size] = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool pe_build_id_parse(const char *hex, struct pe_build_id *ret)
{
	size_t length = strlen(hex);

	*ret = (struct pe_build_id){ 0 };
	if (length == 0 || length % 2 || length > sizeof(ret->bytes) * 2)
		return false;
	for (size_t i = 0; i < length; i += 2) {
		int high = hex_digit(hex[i]), low = hex_digit(hex[i + 1]);

		if (high < 0 || low < 0)
			return false;
		ret->bytes[i / 2] = (uint8_t)(high << 4 | low);
	}
	ret->size = length / 2;
	return true;
}

/*
 * Walks notes whose parts are padded to @align. gABI says 4; 64-bit producers of
 * .note.gnu.property pad to 8, and linkers have put both kinds into one segment.
 */
static bool notes_walk(const uint8_t *notes, size_t size, size_t align, struct pe_build_id *ret)
{
	size_t at = 0;

	while (size - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		uint32_t word;

		memcpy(&word, notes + at, sizeof(word));
		if (word == 0) { /* padding between two alignments; no note that we want is nameless
				  */
			at += sizeof(word);
			continue;
		}
		memcpy(&note, notes + at, sizeof(note));
		size_t name = at + sizeof(note);
		uint64_t desc =
			(name + (uint64_t)note.n_namesz + align - 1) & ~(uint64_t)(align - 1);

		if (desc > size || note.n_descsz > size - desc)
			return false;
		if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof(ELF_NOTE_GNU) &&
		    memcmp(notes + name, ELF_NOTE_GNU, sizeof(ELF_NOTE_GNU)) == 0 &&
		    note.n_descsz > 0 && note.n_descsz <= sizeof(ret->bytes)) {
			ret->size = note.n_descsz;
			memcpy(ret->bytes, notes + desc, note.n_descsz);
			return true;
		}
		uint64_t next = (desc + note.n_descsz + align - 1) & ~(uint64_t)(align - 1);
		if (next > size)
			return false;
		at = next;
	}
	return false;
}

bool pe_build_id_from_notes(const void *notes, size_t size, struct pe_build_id *ret)
{
	*ret = (struct pe_build_id){ 0 };
	return notes_walk(notes, size, 4, ret) || notes_walk(notes, size, 8, ret);
}

static bool notes_at(const struct pe_elf_file *file, uint64_t offset, uint64_t size,
		     struct pe_build_id *ret)
{
	if (offset > file->size || size > file->size - offset)
		return false;
	return pe_build_id_from_notes((const uint8_t *)file->map + offset, size, ret);
}

bool image_file_build_id(const struct pe_elf_file *file, struct pe_build_id *ret)
{
	size_t count;
	Elf_Scn *scn = NULL;

	*ret = (struct pe_build_id){ 0 };
	if (elf_getphdrnum(file->elf, &count) < 0)
		count = 0;
	for (size_t i = 0; i < count; i++) {
		GElf_Phdr phdr;

		if (gelf_getphdr(file->elf, (int)i, &phdr) && phdr.p_type == PT_NOTE &&
		    notes_at(file, phdr.p_offset, phdr.p_filesz, ret))
			return true;
	}
	while ((scn = elf_nextscn(file->elf, scn))) {
		GElf_Shdr shdr;

		if (gelf_getshdr(scn, &shdr) && shdr.sh_type == SHT_NOTE &&
		    notes_at(file, shdr.sh_offset, shdr.sh_size, ret))
			return true;
	}
	return false;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ELF headers of a patch file, as hostile input.
 *
 * Only the layout that our writer makes is accepted (format.h): sections in file order, the header
 * table last. That leaves no place for bytes that two tools would understand differently, and no
 * section can be counted twice.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/arch.h"
#include "patch/read.h"

#define BAD(...) pe_error_new(PE_ERR_FORMAT, __VA_ARGS__)

static const size_t fixed_sections = 8; /* .symtab .strtab, five of .care, .shstrtab */

static struct pe_error *check_header(const Elf64_Ehdr *eh, size_t size)
{
	static const uint8_t ident[EI_NIDENT] = {
		ELFMAG0,    ELFMAG1,	 ELFMAG2,    ELFMAG3,
		ELFCLASS64, ELFDATA2LSB, EV_CURRENT, ELFOSABI_NONE
	};

	if (memcmp(eh->e_ident, ident, SELFMAG))
		return BAD("it is no ELF file");
	if (memcmp(eh->e_ident, ident, sizeof(ident)))
		return BAD("ELF header: it is not ELF64, little-endian, System V");
	if (eh->e_type != ET_REL || eh->e_version != EV_CURRENT)
		return BAD("ELF header: it is no relocatable object, so no patch");
	if (!pe_arch_find(eh->e_machine))
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "ELF header: processor (machine %u) is not supported",
				    eh->e_machine);
	if (eh->e_entry || eh->e_phoff || eh->e_flags || eh->e_phnum || eh->e_phentsize ||
	    eh->e_ehsize != sizeof(*eh) || eh->e_shentsize != sizeof(Elf64_Shdr))
		return BAD("ELF header: a field is not what a patch has");
	if (eh->e_shnum < 1 + fixed_sections ||
	    eh->e_shnum > 1 + fixed_sections + 2 * PATCH_MAX_SECTIONS ||
	    eh->e_shnum >= SHN_LORESERVE)
		return BAD("ELF header: %u sections are too few or too many", eh->e_shnum);
	/* Truncated and extended files end here. */
	if (eh->e_shoff % 8 || eh->e_shoff > size ||
	    size - eh->e_shoff != (uint64_t)eh->e_shnum * sizeof(Elf64_Shdr))
		return BAD("ELF header: the section header table is not at the end of the file "
			   "(truncated?)");
	if (eh->e_shstrndx != eh->e_shnum - 1)
		return BAD("ELF header: the section names are not in the last section");
	return NULL;
}

static struct pe_error *check_null_section(const Elf64_Shdr *sh)
{
	static const Elf64_Shdr null;

	if (memcmp(sh, &null, sizeof(null)))
		return BAD("it is not null");
	return NULL;
}

/* Place and size of one section; *end is where the one before it ends. */
static struct pe_error *check_place(const Elf64_Shdr *sh, uint64_t table, uint64_t *end)
{
	uint64_t alignment = sh->sh_addralign;

	if (!alignment || alignment & (alignment - 1) || alignment > PATCH_MAX_ALIGN)
		return BAD("alignment %lu is no power of two up to %d", alignment, PATCH_MAX_ALIGN);
	if (sh->sh_offset != ((*end + alignment - 1) & -alignment))
		return BAD("it is not behind the section before it");
	if (sh->sh_addr)
		return BAD("it has an address");
	if (sh->sh_type == SHT_NOBITS) {
		*end = sh->sh_offset;
		return NULL;
	}
	if (sh->sh_offset > table || table - sh->sh_offset < sh->sh_size)
		return BAD("0x%lx bytes at 0x%lx are past the end of the sections", sh->sh_size,
			   sh->sh_offset);
	*end = sh->sh_offset + sh->sh_size;
	return NULL;
}

static struct pe_error *load_sections(struct care_file *file, uint64_t table)
{
	uint64_t end = sizeof(Elf64_Ehdr);

	for (size_t i = 0; i < file->section_count; i++) {
		struct care_section *s = &file->sections[i];
		struct pe_error *err;

		memcpy(&s->header, file->bytes + table + i * sizeof(s->header), sizeof(s->header));
		err = i ? check_place(&s->header, table, &end) : check_null_section(&s->header);
		if (err)
			return pe_error_wrap(err, "section %zu", i);
		if (i && s->header.sh_type != SHT_NOBITS)
			s->data = file->bytes + s->header.sh_offset;
	}
	if (((end + 7) & ~7ULL) != table)
		return BAD("there are bytes that belong to no section");
	return NULL;
}

/* Table that begins and ends with a zero byte: any offset inside begins a string that ends. */
static bool is_string_table(const struct care_section *s)
{
	return s->header.sh_type == SHT_STRTAB && s->header.sh_size &&
	       s->header.sh_size <= UINT32_MAX && !s->data[0] && !s->data[s->header.sh_size - 1];
}

static struct pe_error *name_sections(struct care_file *file)
{
	const struct care_section *names = &file->sections[file->section_count - 1];

	if (!is_string_table(names))
		return BAD("section %zu is no table of section names", file->section_count - 1);
	for (size_t i = 0; i < file->section_count; i++) {
		struct care_section *s = &file->sections[i];

		if (s->header.sh_name >= names->header.sh_size)
			return BAD("section %zu: its name is past the end of .shstrtab", i);
		s->name = (const char *)names->data + s->header.sh_name;
	}
	if (strcmp(names->name, ".shstrtab"))
		return BAD("the last section is not named .shstrtab");
	return NULL;
}

static struct pe_error *expect(struct care_file *file, size_t i, const char *name, uint32_t type,
			       uint64_t entry_size, const struct care_section **ret)
{
	const struct care_section *s = &file->sections[i];

	if (strcmp(s->name, name) || s->header.sh_type != type || s->header.sh_flags)
		return BAD("section %zu: a patch has %s there", i, name);
	if (s->header.sh_entsize != entry_size || (entry_size && s->header.sh_size % entry_size))
		return BAD("section %zu (%s): its size is no multiple of its records", i, name);
	*ret = s;
	return NULL;
}

static struct pe_error *check_checksum(const struct care_file *file, const struct care_section *s)
{
	uint8_t sum[PE_SHA256_SIZE];

	if (s->header.sh_size != sizeof(sum))
		return BAD(CARE_CHECKSUM ": it has %lu bytes, not %zu", s->header.sh_size,
			   sizeof(sum));
	care_checksum(file->bytes, file->size, s->header.sh_offset, sum);
	if (memcmp(sum, s->data, sizeof(sum)))
		return BAD("it is damaged: its contents do not give its checksum; fetch or build "
			   "it again");
	return NULL;
}

/* Which section is which; their number and order are fixed. */
static struct pe_error *sort_sections(struct care_file *file)
{
	size_t i = 1, count = file->section_count;

	while (i < count && file->sections[i].header.sh_flags & SHF_ALLOC)
		i++;
	file->own_count = i - 1;
	while (i < count && file->sections[i].header.sh_type == SHT_RELA)
		i++;
	file->rela_count = i - 1 - file->own_count;
	if (count - i != fixed_sections)
		return BAD("section %zu: %zu sections follow the relocations, not %zu", i,
			   count - i, fixed_sections);
	file->symtab_index = i;

	const struct care_section *checksum;
	struct pe_error *err =
		expect(file, i, ".symtab", SHT_SYMTAB, sizeof(Elf64_Sym), &file->symtab);

	if (!err)
		err = expect(file, i + 1, ".strtab", SHT_STRTAB, 0, &file->strtab);
	if (!err)
		err = expect(file, i + 2, CARE_MANIFEST, SHT_PROGBITS, 0, &file->manifest);
	if (!err)
		err = expect(file, i + 3, CARE_FUNCTIONS, SHT_PROGBITS, 0, &file->functions);
	if (!err)
		err = expect(file, i + 4, CARE_SYMBOLS, SHT_PROGBITS, 0, &file->symbols);
	if (!err)
		err = expect(file, i + 5, CARE_DIFF, SHT_PROGBITS, 0, &file->diff);
	if (!err)
		err = expect(file, i + 6, CARE_CHECKSUM, SHT_PROGBITS, 0, &checksum);
	if (!err && !is_string_table(file->strtab))
		err = BAD("section %zu (.strtab) does not begin and end with a zero byte", i + 1);
	if (!err && (!file->symtab->header.sh_size || file->symtab->header.sh_link != i + 1))
		err = BAD("section %zu (.symtab) is empty or not linked to .strtab", i);
	return err ? err : check_checksum(file, checksum);
}

struct pe_error *care_file_init(struct care_file *file, const void *bytes, size_t size)
{
	Elf64_Ehdr eh;
	struct pe_error *err;

	file->bytes = bytes;
	file->size = size;
	if (size > PATCH_MAX_FILE)
		return BAD("%zu bytes are more than a patch may have (%d)", size, PATCH_MAX_FILE);
	if (size < sizeof(eh))
		return BAD("%zu bytes are too few for an ELF file", size);
	memcpy(&eh, bytes, sizeof(eh));
	err = check_header(&eh, size);
	if (err)
		return err;
	file->machine = eh.e_machine;
	file->section_count = eh.e_shnum;
	file->sections = calloc(eh.e_shnum, sizeof(*file->sections));
	if (!file->sections)
		return pe_error_nomem();
	err = load_sections(file, eh.e_shoff);
	if (!err)
		err = name_sections(file);
	if (!err)
		err = sort_sections(file);
	return err;
}

void care_file_deinit(struct care_file *file)
{
	free(file->sections);
}

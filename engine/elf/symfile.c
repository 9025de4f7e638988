/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes symbol files: .text, .eh_frame, .symtab and the names, with libelf. */
#include "engine/symfile.h"

#include <gelf.h>
#include <libelf.h>
#include <string.h>

#include "engine/cleanup.h"

enum { TEXT = 1, EH_FRAME, SYMTAB, STRTAB, SECTION_COUNT };

/* The names of sections and symbols share one table, which begins with the empty name. */
struct names {
	char *bytes;
	size_t size;
};

static struct pe_error *elf_failed(void)
{
	return pe_error_new(PE_ERR_SYSTEM, "cannot write the symbol file: %s", elf_errmsg(-1));
}

static size_t names_add(struct names *names, const char *name)
{
	size_t at = names->size;

	strcpy(names->bytes + at, name);
	names->size += strlen(name) + 1;
	return at;
}

static struct pe_error *names_init(const struct pe_symfile *file, struct names *names)
{
	size_t size = 64; /* those of the sections */

	for (size_t i = 0; i < file->symbol_count; i++)
		size += strlen(file->symbols[i].name) + 1;
	names->bytes = malloc(size);
	if (!names->bytes)
		return pe_error_nomem();
	names_add(names, "");
	return NULL;
}

static Elf64_Sym *make_symbols(const struct pe_symfile *file, struct names *names)
{
	Elf64_Sym *symbols = calloc(file->symbol_count + 1, sizeof(*symbols));

	for (size_t i = 0; symbols && i < file->symbol_count; i++)
		symbols[i + 1] = (Elf64_Sym){
			.st_name = (Elf64_Word)names_add(names, file->symbols[i].name),
			.st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
			.st_shndx = TEXT,
			.st_value = file->symbols[i].address,
			.st_size = file->symbols[i].size,
		};
	return symbols;
}

static bool add_section(Elf *elf, const Elf64_Shdr *header, const void *bytes, Elf_Type type)
{
	Elf_Scn *section = elf_newscn(elf);
	Elf_Data *data = section ? elf_newdata(section) : NULL;
	Elf64_Shdr *out = data ? elf64_getshdr(section) : NULL;

	if (!out)
		return false;
	*out = *header;
	data->d_buf = (void *)bytes;
	data->d_size = header->sh_size;
	data->d_type = type;
	data->d_align = header->sh_addralign;
	data->d_version = EV_CURRENT;
	return true;
}

static bool add_sections(Elf *elf, const struct pe_symfile *file, struct names *names,
			 const Elf64_Sym *symbols)
{
	const Elf64_Shdr text = {
		.sh_name = (Elf64_Word)names_add(names, ".text"),
		.sh_type = SHT_PROGBITS,
		.sh_flags = SHF_ALLOC | SHF_EXECINSTR,
		.sh_addr = file->text_address,
		.sh_size = file->text_size,
		.sh_addralign = 16,
	};
	const Elf64_Shdr eh_frame = {
		.sh_name = (Elf64_Word)names_add(names, ".eh_frame"),
		.sh_type = file->eh_frame_size ? SHT_PROGBITS : SHT_NOBITS,
		.sh_flags = SHF_ALLOC,
		.sh_addr = file->eh_frame_address,
		.sh_size = file->eh_frame_size,
		.sh_addralign = 8,
	};
	const Elf64_Shdr symtab = {
		.sh_name = (Elf64_Word)names_add(names, ".symtab"),
		.sh_type = SHT_SYMTAB,
		.sh_link = STRTAB,
		.sh_info = 1, /* the first that is not local */
		.sh_size = (file->symbol_count + 1) * sizeof(*symbols),
		.sh_addralign = 8,
		.sh_entsize = sizeof(*symbols),
	};
	const Elf64_Shdr strtab = {
		.sh_name = (Elf64_Word)names_add(names, ".strtab"),
		.sh_type = SHT_STRTAB,
		.sh_size = names->size,
		.sh_addralign = 1,
	};

	return add_section(elf, &text, file->text, ELF_T_BYTE) &&
	       add_section(elf, &eh_frame, file->eh_frame, ELF_T_BYTE) &&
	       add_section(elf, &symtab, symbols, ELF_T_SYM) &&
	       add_section(elf, &strtab, names->bytes, ELF_T_BYTE);
}

static bool write_elf(Elf *elf, const struct pe_symfile *file, struct names *names,
		      const Elf64_Sym *symbols)
{
	Elf64_Ehdr *header = elf64_newehdr(elf);

	if (!header)
		return false;
	header->e_ident[EI_DATA] = ELFDATA2LSB;
	header->e_type = ET_DYN;
	header->e_machine = file->machine;
	header->e_version = EV_CURRENT;
	header->e_shstrndx = STRTAB;
	return add_sections(elf, file, names, symbols) && elf_update(elf, ELF_C_WRITE) >= 0;
}

struct pe_error *pe_symfile_write(const struct pe_symfile *file, int fd)
{
	struct names names = { 0 };
	struct pe_error *err = names_init(file, &names);
	pe_auto_free char *bytes = names.bytes;

	if (err)
		return err;
	pe_auto_free Elf64_Sym *symbols = make_symbols(file, &names);

	if (!symbols)
		return pe_error_nomem();
	elf_version(EV_CURRENT);

	Elf *elf = elf_begin(fd, ELF_C_WRITE, NULL);

	if (!elf)
		return elf_failed();
	if (!write_elf(elf, file, &names, symbols))
		err = elf_failed();
	elf_end(elf);
	return err;
}

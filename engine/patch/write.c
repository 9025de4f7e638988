/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing a patch as an ELF relocatable object; format.h tells the layout.
 *
 * Everything is appended to one buffer in file order while the section header table is collected
 * beside it. Nothing depends on time, paths or addresses: the same patch gives the same bytes.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/arch.h"
#include "engine/cleanup.h"
#include "engine/output.h"
#include "patch/format.h"

struct buffer {
	uint8_t *data;
	size_t size, room;
};

struct writer {
	const struct pe_patch *patch;
	struct buffer file, strings, section_names;
	Elf64_Shdr *sections;
	size_t section_count;
	uint32_t *elf_symbol; /* by index of the patch's symbol */
	uint32_t first_global;
	uint32_t symtab_index;
	size_t checksum; /* offset in the file */
	bool no_memory;
};

static void writer_deinit(struct writer *w)
{
	free(w->file.data);
	free(w->strings.data);
	free(w->section_names.data);
	free(w->sections);
	free(w->elf_symbol);
}

static void append(struct writer *w, struct buffer *buffer, const void *bytes, size_t size)
{
	if (w->no_memory || !size)
		return;
	if (buffer->room - buffer->size < size) {
		size_t room = 2 * (buffer->size + size);
		void *data = realloc(buffer->data, room);

		if (!data) {
			w->no_memory = true;
			return;
		}
		buffer->data = data;
		buffer->room = room;
	}
	memcpy(buffer->data + buffer->size, bytes, size);
	buffer->size += size;
}

static void align(struct writer *w, uint64_t alignment)
{
	static const uint8_t zeros[PATCH_MAX_ALIGN];

	append(w, &w->file, zeros, -w->file.size & (alignment - 1));
}

/* Offset 0 stands for none, so tables begin with an empty string. */
static uint32_t add_string(struct writer *w, struct buffer *table, const char *text)
{
	if (!table->size)
		append(w, table, "", 1);
	if (!text || !*text)
		return 0;

	uint32_t offset = (uint32_t)table->size;

	append(w, table, text, strlen(text) + 1);
	return offset;
}

/* Appends a section with its contents (none for NOBITS); returns its header for the rest. */
static Elf64_Shdr *add_section(struct writer *w, const char *name, uint32_t type, uint64_t flags,
			       uint64_t alignment, const void *data, uint64_t size)
{
	Elf64_Shdr *sh = &w->sections[w->section_count++];

	align(w, alignment);
	sh->sh_name = add_string(w, &w->section_names, name);
	sh->sh_type = type;
	sh->sh_flags = flags;
	sh->sh_offset = w->file.size;
	sh->sh_size = size;
	sh->sh_addralign = alignment;
	if (type != SHT_NOBITS)
		append(w, &w->file, data, size);
	return sh;
}

static void write_contents(struct writer *w)
{
	static const struct {
		uint32_t type;
		uint64_t flags;
	} kinds[] = {
		[PE_SECTION_TEXT] = { SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR },
		[PE_SECTION_RODATA] = { SHT_PROGBITS, SHF_ALLOC },
		[PE_SECTION_DATA] = { SHT_PROGBITS, SHF_ALLOC | SHF_WRITE },
		[PE_SECTION_BSS] = { SHT_NOBITS, SHF_ALLOC | SHF_WRITE },
		[PE_SECTION_EH_FRAME] = { SHT_PROGBITS, SHF_ALLOC },
	};

	for (size_t i = 0; i < w->patch->section_count; i++) {
		const struct pe_patch_section *s = &w->patch->sections[i];

		add_section(w, s->name, kinds[s->kind].type, kinds[s->kind].flags, s->align,
			    s->data, s->size);
	}
}

static struct pe_error *write_relocs(struct writer *w)
{
	for (size_t i = 0; i < w->patch->section_count; i++) {
		const struct pe_patch_section *s = &w->patch->sections[i];
		pe_auto_free char *name = NULL;

		if (!s->reloc_count)
			continue;
		if (asprintf(&name, ".rela%s", s->name) < 0)
			return pe_error_nomem();

		Elf64_Shdr *sh = add_section(w, name, SHT_RELA, SHF_INFO_LINK, 8, NULL, 0);

		sh->sh_size = s->reloc_count * sizeof(Elf64_Rela);
		sh->sh_entsize = sizeof(Elf64_Rela);
		sh->sh_link = w->symtab_index;
		sh->sh_info = (uint32_t)i + 1;
		for (size_t j = 0; j < s->reloc_count; j++) {
			const struct pe_patch_reloc *r = &s->relocs[j];
			const Elf64_Rela rela = {
				.r_offset = r->offset,
				.r_info = ELF64_R_INFO((uint64_t)w->elf_symbol[r->symbol], r->type),
				.r_addend = r->addend,
			};

			append(w, &w->file, &rela, sizeof(rela));
		}
	}
	return NULL;
}

static bool is_elf_local(const struct pe_patch_symbol *s)
{
	return s->kind == PE_SYM_LOCAL && !s->global;
}

/* ELF wants local symbols first; each half keeps the patch's order. */
static void number_symbols(struct writer *w)
{
	uint32_t next = 1;

	for (size_t i = 0; i < w->patch->symbol_count; i++)
		if (is_elf_local(&w->patch->symbols[i]))
			w->elf_symbol[i] = next++;
	w->first_global = next;
	for (size_t i = 0; i < w->patch->symbol_count; i++)
		if (!is_elf_local(&w->patch->symbols[i]))
			w->elf_symbol[i] = next++;
}

static Elf64_Sym elf_symbol(struct writer *w, const struct pe_patch_symbol *s)
{
	unsigned char bind = is_elf_local(s)	      ? STB_LOCAL
			     : s->kind == PE_SYM_ZERO ? STB_WEAK
						      : STB_GLOBAL;
	bool defined = s->kind == PE_SYM_LOCAL;

	return (Elf64_Sym){
		.st_name = add_string(w, &w->strings, s->name),
		.st_info = ELF64_ST_INFO(bind, s->type),
		.st_shndx = defined ? (uint16_t)(s->section + 1) : SHN_UNDEF,
		.st_value = defined ? s->value : 0,
		.st_size = s->size,
	};
}

static void write_symtab(struct writer *w)
{
	static const Elf64_Sym null_symbol;
	Elf64_Shdr *sh =
		add_section(w, ".symtab", SHT_SYMTAB, 0, 8, &null_symbol, sizeof(null_symbol));

	for (int local = 1; local >= 0; local--) {
		for (size_t i = 0; i < w->patch->symbol_count; i++) {
			const struct pe_patch_symbol *s = &w->patch->symbols[i];

			if (is_elf_local(s) != local)
				continue;

			const Elf64_Sym sym = elf_symbol(w, s);

			append(w, &w->file, &sym, sizeof(sym));
		}
	}
	sh->sh_size = (w->patch->symbol_count + 1) * sizeof(Elf64_Sym);
	sh->sh_entsize = sizeof(Elf64_Sym);
	sh->sh_link = w->symtab_index + 1;
	sh->sh_info = w->first_global;
}

static void build_functions(struct writer *w, struct buffer *out)
{
	const struct pe_patch *patch = w->patch;
	struct care_functions_header header = { .function_count = (uint32_t)patch->function_count };

	for (size_t i = 0; i < patch->function_count; i++)
		header.range_count += (uint32_t)patch->functions[i].range_count;
	append(w, out, &header, sizeof(header));
	for (size_t i = 0; i < patch->function_count; i++) {
		const struct pe_patch_function *f = &patch->functions[i];
		const struct care_function record = {
			.name = add_string(w, &w->strings, f->name),
			.reason = add_string(w, &w->strings, f->reason),
			.target = f->target,
			.symbol = f->symbol,
			.range_count = (uint32_t)f->range_count,
			.entry_skip = f->entry_skip,
			.entry_size = f->entry_size,
			.flags = f->displaced_call ? CARE_FUNCTION_DISPLACED_CALL : 0,
		};

		append(w, out, &record, sizeof(record));
	}
	for (size_t i = 0; i < patch->function_count; i++) {
		const struct pe_patch_function *f = &patch->functions[i];

		for (size_t j = 0; j < f->range_count; j++) {
			struct care_range record = {
				.vaddr = f->ranges[j].vaddr,
				.size = f->ranges[j].size,
			};

			memcpy(record.sha256, f->ranges[j].sha256, sizeof(record.sha256));
			append(w, out, &record, sizeof(record));
		}
	}
}

static void build_symbols(struct writer *w, struct buffer *out)
{
	static const uint8_t kinds[] = {
		[PE_SYM_TARGET] = CARE_SYMBOL_TARGET, [PE_SYM_SLOT] = CARE_SYMBOL_SLOT,
		[PE_SYM_IMPORT] = CARE_SYMBOL_IMPORT, [PE_SYM_TPOFF] = CARE_SYMBOL_TPOFF,
		[PE_SYM_ZERO] = CARE_SYMBOL_ZERO,     [PE_SYM_LOCAL] = CARE_SYMBOL_LOCAL,
	};

	for (size_t i = 0; i < w->patch->symbol_count; i++) {
		const struct pe_patch_symbol *s = &w->patch->symbols[i];
		bool in_image = s->kind == PE_SYM_TARGET || s->kind == PE_SYM_SLOT ||
				s->kind == PE_SYM_TPOFF;
		bool import = s->kind == PE_SYM_IMPORT;
		const struct care_symbol record = {
			.elf_symbol = w->elf_symbol[i],
			.kind = kinds[s->kind],
			.flags = s->global ? CARE_SYMBOL_GLOBAL : 0,
			.target = in_image ? s->target : 0,
			.library = import ? add_string(w, &w->strings, s->library) : 0,
			.value = in_image ? s->value : 0,
			.version = import ? add_string(w, &w->strings, s->version) : 0,
		};

		append(w, out, &record, sizeof(record));
	}
}

/* Of .symtab, .strtab and the .care sections; strings last, when all are known. */
static struct pe_error *write_tables(struct writer *w)
{
	static const uint8_t zeros[PE_SHA256_SIZE];
	pe_auto_free char *manifest = NULL;
	struct buffer functions = {}, symbols = {};
	struct pe_error *err = care_manifest_write(w->patch, &manifest);

	if (err)
		return err;
	write_symtab(w);
	build_functions(w, &functions);
	build_symbols(w, &symbols);
	add_string(w, &w->strings, "");
	add_section(w, ".strtab", SHT_STRTAB, 0, 1, w->strings.data, w->strings.size);
	add_section(w, CARE_MANIFEST, SHT_PROGBITS, 0, 1, manifest, strlen(manifest));
	add_section(w, CARE_FUNCTIONS, SHT_PROGBITS, 0, 8, functions.data, functions.size);
	add_section(w, CARE_SYMBOLS, SHT_PROGBITS, 0, 8, symbols.data, symbols.size);
	add_section(w, CARE_DIFF, SHT_PROGBITS, 0, 1, w->patch->diff, w->patch->diff_size);
	w->checksum =
		add_section(w, CARE_CHECKSUM, SHT_PROGBITS, 0, 1, zeros, sizeof(zeros))->sh_offset;
	free(functions.data);
	free(symbols.data);
	return NULL;
}

static void write_section_headers(struct writer *w, Elf64_Ehdr *eh)
{
	eh->e_shstrndx = (uint16_t)w->section_count;

	Elf64_Shdr *sh = add_section(w, ".shstrtab", SHT_STRTAB, 0, 1, NULL, 0);

	sh->sh_size = w->section_names.size;
	append(w, &w->file, w->section_names.data, w->section_names.size);
	align(w, 8);
	eh->e_shoff = w->file.size;
	eh->e_shnum = (uint16_t)w->section_count;
	append(w, &w->file, w->sections, w->section_count * sizeof(*w->sections));
}

static struct pe_error *serialize(struct writer *w)
{
	const struct pe_patch *patch = w->patch;
	size_t with_relocs = 0;
	Elf64_Ehdr eh = {
		.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
			     EV_CURRENT, ELFOSABI_NONE },
		.e_type = ET_REL,
		.e_machine = patch->targets[0].machine,
		.e_version = EV_CURRENT,
		.e_ehsize = sizeof(Elf64_Ehdr),
		.e_shentsize = sizeof(Elf64_Shdr),
	};

	for (size_t i = 0; i < patch->section_count; i++)
		with_relocs += patch->sections[i].reloc_count != 0;
	/* In front a null section; behind .symtab .strtab, five of .care, .shstrtab. */
	w->sections = calloc(1 + patch->section_count + with_relocs + 8, sizeof(*w->sections));
	w->elf_symbol = calloc(patch->symbol_count + 1, sizeof(*w->elf_symbol));
	if (!w->sections || !w->elf_symbol)
		return pe_error_nomem();
	w->section_count = 1;
	w->symtab_index = (uint32_t)(1 + patch->section_count + with_relocs);
	number_symbols(w);

	append(w, &w->file, &eh, sizeof(eh));
	write_contents(w);

	struct pe_error *err = write_relocs(w);

	if (!err)
		err = write_tables(w);
	if (err)
		return err;
	write_section_headers(w, &eh);
	if (w->no_memory)
		return pe_error_nomem();
	memcpy(w->file.data, &eh, sizeof(eh));
	if (w->file.size > PATCH_MAX_FILE)
		return pe_error_new(PE_ERR_FORMAT,
				    "the patch would be %zu bytes, more than %d are not read",
				    w->file.size, PATCH_MAX_FILE);

	uint8_t sum[PE_SHA256_SIZE];

	care_checksum(w->file.data, w->file.size, w->checksum, sum);
	memcpy(w->file.data + w->checksum, sum, sizeof(sum));
	return NULL;
}

struct pe_error *pe_patch_serialize(const struct pe_patch *patch, void **bytes, size_t *size)
{
	struct writer w __attribute__((cleanup(writer_deinit))) = { .patch = patch };
	struct pe_error *err = pe_patch_check(patch);

	if (!err)
		err = serialize(&w);
	if (err)
		return err;
	*size = w.file.size;
	*bytes = pe_steal(w.file.data);
	return NULL;
}

struct pe_error *pe_patch_write(const struct pe_patch *patch, const char *path)
{
	pe_auto_free void *bytes = NULL;
	pe_auto_free char *place = NULL, *temporary = NULL;
	size_t size;
	struct pe_error *err = pe_patch_serialize(patch, &bytes, &size);

	if (err)
		return pe_error_wrap(err, "cannot write %s", path);
	err = pe_output_place(path, bytes, size, &place);
	if (err || !place)
		return err;
	if (asprintf(&temporary, "%s.XXXXXX", place) < 0)
		return pe_error_nomem();

	pe_auto_fd int fd = mkostemp(temporary, O_CLOEXEC);

	if (fd < 0)
		return pe_error_errno(errno, "cannot create %s", path);
	if (!pe_output_write(fd, bytes, size) || fchmod(fd, 0644) || fsync(fd) ||
	    rename(temporary, place)) {
		err = pe_error_errno(errno, "cannot write %s", path);
		unlink(temporary);
	}
	return err;
}

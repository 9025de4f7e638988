/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading a patch: every index and offset of the file is checked before it is used; what the
 * values mean is then checked by pe_patch_check(). Memory is bounded by the size of the file and
 * by the limits of format.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/cleanup.h"
#include "patch/read.h"

#define BAD(...) pe_error_new(PE_ERR_FORMAT, __VA_ARGS__)

struct reader {
	struct care_file file;
	struct pe_patch *patch;
	uint32_t *symbol_of; /* by index in .symtab: index in the patch + 1; 0 unknown */
	size_t elf_symbol_count;
	size_t string_bytes; /* copied so far */
};

static void reader_deinit(struct reader *r)
{
	care_file_deinit(&r->file);
	pe_patch_free(r->patch);
	free(r->symbol_of);
}

/* ---- strings ---- */

static struct pe_error *copy_string(struct reader *r, const char *text, char **ret)
{
	size_t size = strlen(text) + 1;

	/* Many records may share one long string. */
	r->string_bytes += size;
	if (r->string_bytes > PATCH_MAX_STRINGS)
		return BAD("its strings need more than %d bytes", PATCH_MAX_STRINGS);
	*ret = strdup(text);
	return *ret ? NULL : pe_error_nomem();
}

/* The string at @offset of .strtab. */
static struct pe_error *get_string(struct reader *r, uint32_t offset, char **ret)
{
	const struct care_section *strtab = r->file.strtab;

	if (offset >= strtab->header.sh_size)
		return BAD("string 0x%x is past the end of .strtab", offset);
	return copy_string(r, (const char *)strtab->data + offset, ret);
}

/* Likewise; offset 0 is NULL. */
static struct pe_error *get_optional(struct reader *r, uint32_t offset, char **ret)
{
	return offset ? get_string(r, offset, ret) : NULL;
}

/* ---- sections ---- */

static struct pe_error *section_kind(const struct care_section *s, enum pe_patch_section_kind *ret)
{
	uint64_t flags = s->header.sh_flags;
	uint32_t type = s->header.sh_type;

	if (type == SHT_NOBITS && flags == (SHF_ALLOC | SHF_WRITE))
		*ret = PE_SECTION_BSS;
	else if (type != SHT_PROGBITS)
		return BAD("its type 0x%x is none that a patch has", type);
	else if (flags == (SHF_ALLOC | SHF_EXECINSTR))
		*ret = PE_SECTION_TEXT;
	else if (flags == (SHF_ALLOC | SHF_WRITE))
		*ret = PE_SECTION_DATA;
	else if (flags == SHF_ALLOC)
		*ret = strcmp(s->name, ".eh_frame") ? PE_SECTION_RODATA : PE_SECTION_EH_FRAME;
	else
		return BAD("its flags 0x%lx are none that a patch has", flags);
	if (s->header.sh_link || s->header.sh_info || s->header.sh_entsize)
		return BAD("a field of its header should be 0");
	return NULL;
}

static struct pe_error *read_section(struct reader *r, const struct care_section *from,
				     struct pe_patch_section *to)
{
	struct pe_error *err = section_kind(from, &to->kind);

	if (!err)
		err = copy_string(r, from->name, &to->name);
	if (err)
		return err;
	to->size = from->header.sh_size;
	to->align = from->header.sh_addralign;
	if (!from->data || !to->size)
		return NULL;
	to->data = malloc(to->size);
	if (!to->data)
		return pe_error_nomem();
	memcpy(to->data, from->data, to->size);
	return NULL;
}

static struct pe_error *read_sections(struct reader *r)
{
	struct pe_patch *patch = r->patch;
	struct pe_error *err = NULL;

	if (r->file.own_count > PATCH_MAX_SECTIONS)
		return BAD("%zu sections are more than %d", r->file.own_count, PATCH_MAX_SECTIONS);
	patch->sections = calloc(r->file.own_count + 1, sizeof(*patch->sections));
	if (!patch->sections)
		return pe_error_nomem();
	for (size_t i = 1; !err && i <= r->file.own_count; i++) {
		err = read_section(r, &r->file.sections[i],
				   &patch->sections[patch->section_count++]);
		if (err)
			err = pe_error_wrap(err, "section %zu", i);
	}
	return err;
}

/* ---- symbols ---- */

static struct pe_error *read_defined(struct reader *r, const struct care_symbol *record,
				     const Elf64_Sym *elf, struct pe_patch_symbol *to)
{
	unsigned char bind = to->global ? STB_GLOBAL : STB_LOCAL;

	if (!elf->st_shndx || elf->st_shndx > r->file.own_count)
		return BAD("section %u is past the %zu sections", elf->st_shndx, r->file.own_count);
	if (ELF64_ST_BIND(elf->st_info) != bind || record->value || record->target ||
	    record->library || record->version)
		return BAD("it and its .symtab entry do not agree");
	to->kind = PE_SYM_LOCAL;
	to->section = elf->st_shndx - 1U;
	to->value = elf->st_value;
	return NULL;
}

static struct pe_error *read_undefined(struct reader *r, const struct care_symbol *record,
				       const Elf64_Sym *elf, struct pe_patch_symbol *to)
{
	unsigned char bind = record->kind == CARE_SYMBOL_ZERO ? STB_WEAK : STB_GLOBAL;
	bool import = record->kind == CARE_SYMBOL_IMPORT;
	bool in_image = !import && record->kind != CARE_SYMBOL_ZERO;

	switch (record->kind) {
	case CARE_SYMBOL_TARGET:
		to->kind = PE_SYM_TARGET;
		break;
	case CARE_SYMBOL_SLOT:
		to->kind = PE_SYM_SLOT;
		break;
	case CARE_SYMBOL_IMPORT:
		to->kind = PE_SYM_IMPORT;
		break;
	case CARE_SYMBOL_TPOFF:
		to->kind = PE_SYM_TPOFF;
		break;
	case CARE_SYMBOL_ZERO:
		to->kind = PE_SYM_ZERO;
		break;
	default:
		return BAD("its kind %u is unknown", record->kind);
	}
	if (elf->st_shndx != SHN_UNDEF || elf->st_value || ELF64_ST_BIND(elf->st_info) != bind)
		return BAD("it and its .symtab entry do not agree");
	if ((!import && (record->library || record->version)) ||
	    (!in_image && (record->value || record->target)))
		return BAD("a field that its kind does not use should be 0");
	to->value = record->value;
	to->target = record->target;

	struct pe_error *err = get_optional(r, record->library, &to->library);

	return err ? err : get_optional(r, record->version, &to->version);
}

static struct pe_error *read_symbol(struct reader *r, size_t i, struct pe_patch_symbol *to)
{
	struct care_symbol record;
	Elf64_Sym elf;

	memcpy(&record, r->file.symbols->data + i * sizeof(record), sizeof(record));
	if (!record.elf_symbol || record.elf_symbol >= r->elf_symbol_count)
		return BAD("entry %u is past the %zu entries of .symtab", record.elf_symbol,
			   r->elf_symbol_count);
	if (r->symbol_of[record.elf_symbol])
		return BAD("entry %u of .symtab belongs to record %u", record.elf_symbol,
			   r->symbol_of[record.elf_symbol] - 1);
	if (record.flags & ~CARE_SYMBOL_GLOBAL || record.reserved || record.reserved2)
		return BAD("a reserved field is not 0");
	r->symbol_of[record.elf_symbol] = (uint32_t)i + 1;
	memcpy(&elf, r->file.symtab->data + record.elf_symbol * sizeof(elf), sizeof(elf));
	if (elf.st_other)
		return BAD("its .symtab entry has a visibility");
	to->type = ELF64_ST_TYPE(elf.st_info);
	to->global = record.flags & CARE_SYMBOL_GLOBAL;
	to->size = elf.st_size;

	struct pe_error *err = get_string(r, elf.st_name, &to->name);

	if (err)
		return err;
	return record.kind == CARE_SYMBOL_LOCAL ? read_defined(r, &record, &elf, to)
						: read_undefined(r, &record, &elf, to);
}

/* The first of .symtab is null; its local ones are counted by sh_info. */
static struct pe_error *check_symtab(struct reader *r)
{
	static const Elf64_Sym null;
	uint32_t first_global = r->file.symtab->header.sh_info;

	if (memcmp(r->file.symtab->data, &null, sizeof(null)))
		return BAD(".symtab: its first entry is not null");
	for (size_t i = 1; i < r->elf_symbol_count; i++) {
		const struct pe_patch_symbol *s = &r->patch->symbols[r->symbol_of[i] - 1];
		bool local = s->kind == PE_SYM_LOCAL && !s->global;

		if (local != (i < first_global))
			return BAD(".symtab: entry %zu: local symbols are not first", i);
	}
	if (!first_global || first_global > r->elf_symbol_count)
		return BAD(".symtab: it has %u local symbols of %zu", first_global,
			   r->elf_symbol_count);
	return NULL;
}

static struct pe_error *read_symbols(struct reader *r)
{
	struct pe_patch *patch = r->patch;
	size_t size = r->file.symbols->header.sh_size;
	size_t count = size / sizeof(struct care_symbol);
	struct pe_error *err = NULL;

	r->elf_symbol_count = r->file.symtab->header.sh_size / sizeof(Elf64_Sym);
	if (size % sizeof(struct care_symbol) || count != r->elf_symbol_count - 1)
		return BAD(CARE_SYMBOLS ": it has %zu bytes for %zu symbols of %zu", size,
			   r->elf_symbol_count - 1, sizeof(struct care_symbol));
	if (count > PATCH_MAX_SYMBOLS)
		return BAD("%zu symbols are more than %d", count, PATCH_MAX_SYMBOLS);
	patch->symbols = calloc(count + 1, sizeof(*patch->symbols));
	r->symbol_of = calloc(r->elf_symbol_count, sizeof(*r->symbol_of));
	if (!patch->symbols || !r->symbol_of)
		return pe_error_nomem();
	for (size_t i = 0; i < count; i++) {
		err = read_symbol(r, i, &patch->symbols[patch->symbol_count++]);
		if (err)
			return pe_error_wrap(err, CARE_SYMBOLS " record %zu", i);
	}
	return check_symtab(r);
}

/* ---- relocations ---- */

static struct pe_error *read_reloc(struct reader *r, const Elf64_Rela *rela,
				   struct pe_patch_reloc *to)
{
	uint64_t symbol = ELF64_R_SYM(rela->r_info);

	if (!symbol || symbol >= r->elf_symbol_count)
		return BAD("symbol %lu is past the %zu entries of .symtab", symbol,
			   r->elf_symbol_count);
	to->offset = rela->r_offset;
	to->type = ELF64_R_TYPE(rela->r_info);
	to->symbol = r->symbol_of[symbol] - 1;
	to->addend = rela->r_addend;
	return NULL;
}

static struct pe_error *read_rela(struct reader *r, const struct care_section *rela, uint32_t *last)
{
	const Elf64_Shdr *sh = &rela->header;
	uint32_t info = sh->sh_info;

	/* Ascending: no section gets relocations twice. */
	if (info <= *last || info > r->file.own_count)
		return BAD("it is for section %u, not for one from %u to %zu", info, *last + 1,
			   r->file.own_count);
	*last = info;

	struct pe_patch_section *to = &r->patch->sections[info - 1];

	if (strncmp(rela->name, ".rela", 5) || strcmp(rela->name + 5, to->name))
		return BAD("it is for section %u but not named so", info);
	if (sh->sh_link != r->file.symtab_index || sh->sh_flags != SHF_INFO_LINK ||
	    sh->sh_entsize != sizeof(Elf64_Rela) || sh->sh_size % sizeof(Elf64_Rela) ||
	    !sh->sh_size)
		return BAD("a field of its header is not what a patch has");

	size_t count = sh->sh_size / sizeof(Elf64_Rela);

	to->relocs = calloc(count, sizeof(*to->relocs));
	if (!to->relocs)
		return pe_error_nomem();
	for (size_t i = 0; i < count; i++) {
		Elf64_Rela record;
		struct pe_error *err;

		memcpy(&record, rela->data + i * sizeof(record), sizeof(record));
		err = read_reloc(r, &record, &to->relocs[to->reloc_count++]);
		if (err)
			return pe_error_wrap(err, "record %zu", i);
	}
	return NULL;
}

static struct pe_error *read_relas(struct reader *r)
{
	uint32_t last = 0;

	for (size_t i = 1; i <= r->file.rela_count; i++) {
		size_t index = r->file.own_count + i;
		struct pe_error *err = read_rela(r, &r->file.sections[index], &last);

		if (err)
			return pe_error_wrap(err, "section %zu (relocations)", index);
	}
	return NULL;
}

/* ---- functions ---- */

static struct pe_error *read_function(struct reader *r, const struct care_function *from,
				      const uint8_t **ranges, size_t *ranges_left,
				      struct pe_patch_function *to)
{
	if (from->flags & ~CARE_FUNCTION_DISPLACED_CALL || from->reserved)
		return BAD("a reserved field is not 0");
	if (from->range_count > *ranges_left)
		return BAD("its %u ranges are more than the %zu that are left", from->range_count,
			   *ranges_left);
	to->target = from->target;
	to->symbol = from->symbol;
	to->entry_skip = from->entry_skip;
	to->entry_size = from->entry_size;
	to->displaced_call = from->flags & CARE_FUNCTION_DISPLACED_CALL;
	to->ranges = calloc(from->range_count + 1UL, sizeof(*to->ranges));
	if (!to->ranges)
		return pe_error_nomem();
	for (size_t i = 0; i < from->range_count; i++) {
		struct care_range record;
		struct pe_patch_range *range = &to->ranges[to->range_count++];

		memcpy(&record, *ranges, sizeof(record));
		range->vaddr = record.vaddr;
		range->size = record.size;
		memcpy(range->sha256, record.sha256, sizeof(range->sha256));
		*ranges += sizeof(record);
		--*ranges_left;
	}

	struct pe_error *err = get_string(r, from->name, &to->name);

	return err ? err : get_optional(r, from->reason, &to->reason);
}

static struct pe_error *read_functions(struct reader *r)
{
	const struct care_section *s = r->file.functions;
	struct care_functions_header header;
	struct pe_patch *patch = r->patch;

	if (s->header.sh_size < sizeof(header))
		return BAD(CARE_FUNCTIONS ": it is too short");
	memcpy(&header, s->data, sizeof(header));
	if (header.function_count > PATCH_MAX_FUNCTIONS)
		return BAD(CARE_FUNCTIONS ": %u functions are more than %d", header.function_count,
			   PATCH_MAX_FUNCTIONS);
	if (s->header.sh_size != sizeof(header) +
					 header.function_count * sizeof(struct care_function) +
					 header.range_count * sizeof(struct care_range))
		return BAD(CARE_FUNCTIONS ": its size does not fit %u functions and %u ranges",
			   header.function_count, header.range_count);

	const uint8_t *next = s->data + sizeof(header);
	const uint8_t *ranges = next + header.function_count * sizeof(struct care_function);
	size_t ranges_left = header.range_count;

	patch->functions = calloc(header.function_count + 1UL, sizeof(*patch->functions));
	if (!patch->functions)
		return pe_error_nomem();
	for (size_t i = 0; i < header.function_count; i++, next += sizeof(struct care_function)) {
		struct care_function record;
		struct pe_error *err;

		memcpy(&record, next, sizeof(record));
		err = read_function(r, &record, &ranges, &ranges_left,
				    &patch->functions[patch->function_count++]);
		if (err)
			return pe_error_wrap(err, CARE_FUNCTIONS " record %zu", i);
	}
	if (ranges_left)
		return BAD(CARE_FUNCTIONS ": %zu ranges belong to no function", ranges_left);
	return NULL;
}

/* ---- the diff ---- */

static struct pe_error *read_diff(struct reader *r)
{
	size_t size = r->file.diff->header.sh_size;

	if (!size)
		return NULL;
	r->patch->diff = malloc(size + 1);
	if (!r->patch->diff)
		return pe_error_nomem();
	memcpy(r->patch->diff, r->file.diff->data, size);
	r->patch->diff[size] = '\0';
	r->patch->diff_size = size;
	return NULL;
}

/* ---- all of it ---- */

static struct pe_error *parse(struct reader *r, const void *bytes, size_t size)
{
	struct pe_error *err = care_file_init(&r->file, bytes, size);

	if (err)
		return err;
	r->patch = pe_patch_new();
	if (!r->patch)
		return pe_error_nomem();
	/* First, for the version of the format is in it. */
	err = care_manifest_read((const char *)r->file.manifest->data,
				 r->file.manifest->header.sh_size, r->patch);
	if (!err)
		err = read_sections(r);
	if (!err)
		err = read_symbols(r);
	if (!err)
		err = read_relas(r);
	if (!err)
		err = read_functions(r);
	if (!err)
		err = read_diff(r);
	if (!err)
		err = pe_patch_check(r->patch);
	if (!err && r->patch->targets[0].machine != r->file.machine)
		err = BAD("ELF header and manifest name different processors");
	return err;
}

struct pe_error *pe_patch_parse(const void *bytes, size_t size, struct pe_patch **ret)
{
	struct reader r __attribute__((cleanup(reader_deinit))) = {};
	struct pe_error *err = parse(&r, bytes, size);

	if (!err)
		*ret = pe_steal(r.patch);
	return err;
}

static struct pe_error *read_all(int fd, uint8_t *bytes, size_t size)
{
	while (size) {
		ssize_t n = read(fd, bytes, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return pe_error_errno(errno, "cannot read it");
		if (!n)
			return BAD("it became shorter while it was read");
		bytes += n;
		size -= (size_t)n;
	}
	return NULL;
}

struct pe_error *pe_patch_read(const char *path, struct pe_patch **ret)
{
	struct stat st;
	/* A FIFO must not hold us. */
	pe_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return pe_error_errno(errno, "cannot open %s", path);
	if (fstat(fd, &st))
		return pe_error_errno(errno, "cannot stat %s", path);
	if (!S_ISREG(st.st_mode))
		return BAD("%s: it is no regular file", path);
	if (st.st_size > PATCH_MAX_FILE)
		return BAD("%s: %ld bytes are more than a patch may have (%d)", path, st.st_size,
			   PATCH_MAX_FILE);

	size_t size = (size_t)st.st_size;
	pe_auto_free uint8_t *bytes = malloc(size + 1);

	if (!bytes)
		return pe_error_nomem();

	struct pe_error *err = read_all(fd, bytes, size);

	if (!err)
		err = pe_patch_parse(bytes, size, ret);
	return err ? pe_error_wrap(err, "%s", path) : NULL;
}

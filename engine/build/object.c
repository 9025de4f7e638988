/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads a relocatable object into linked tables. Passes: sections, symbols (each points to its
 * section), COMDAT groups, relocations (each points to its symbol), indices for look-ups.
 * An object may come from anywhere, so each pass checks what the next one relies on.
 */
#include "build/object.h"

#include <gelf.h>
#include <string.h>

#include "elf/file.h"
#include "engine/cleanup.h"

struct object_private {
	struct pe_elf_file file;
	Elf_Scn *symtab;
	struct pe_object_symbol **by_name;    /* defined and named, by name then index */
	struct pe_object_symbol **by_section; /* the same, by section then value then index */
	size_t sorted_count;
};

#define BAD(object, fmt, ...)                                       \
	pe_error_new(PE_ERR_FORMAT, "%s is a damaged object: " fmt, \
		     (object)->path __VA_OPT__(, ) __VA_ARGS__)

static struct pe_error *section_read(struct pe_object *object, Elf_Scn *scn, size_t names)
{
	struct object_private *private = object->private_data;
	struct pe_object_section *section = &object->sections[elf_ndxscn(scn)];
	GElf_Shdr shdr;

	if (!gelf_getshdr(scn, &shdr))
		return BAD(object, "no header of section %zu", elf_ndxscn(scn));
	section->name = elf_strptr(private->file.elf, names, shdr.sh_name);
	if (!section->name)
		return BAD(object, "no name of section %zu", elf_ndxscn(scn));
	section->type = shdr.sh_type;
	section->flags = shdr.sh_flags;
	section->size = shdr.sh_size;
	section->align = shdr.sh_addralign ? shdr.sh_addralign : 1;
	section->entsize = shdr.sh_entsize;
	if (section->align & (section->align - 1))
		return BAD(object, "alignment of %s is no power of two", section->name);
	if (shdr.sh_type == SHT_SYMTAB) {
		if (private->symtab)
			return BAD(object, "two symbol tables");
		private->symtab = scn;
	}
	if (shdr.sh_type == SHT_NOBITS || shdr.sh_type == SHT_NULL) {
		if (shdr.sh_flags & SHF_EXECINSTR && shdr.sh_size)
			return BAD(object, "%s is code without bytes", section->name);
		return NULL;
	}
	/* Straight from the mapping: libelf would copy and convert, we only handle our own order.
	 */
	if (shdr.sh_offset > private->file.size ||
	    shdr.sh_size > private->file.size - shdr.sh_offset)
		return BAD(object, "%s lies outside the file", section->name);
	section->data = (const uint8_t *)private->file.map + shdr.sh_offset;
	return NULL;
}

static struct pe_error *sections_read(struct pe_object *object)
{
	struct object_private *private = object->private_data;
	Elf *elf = private->file.elf;
	size_t count, names;

	if (elf_getshdrnum(elf, &count) < 0 || elf_getshdrstrndx(elf, &names) < 0 || count == 0)
		return BAD(object, "no section headers: %s", elf_errmsg(-1));
	if (count > private->file.size / sizeof(Elf64_Shdr))
		return BAD(object, "%zu sections in %zu bytes", count, private->file.size);
	object->sections = calloc(count, sizeof(*object->sections));
	if (!object->sections)
		return pe_error_nomem();
	object->section_count = count;
	object->sections[0].name = "";
	for (size_t i = 0; i < count; i++)
		object->sections[i].index = i;
	for (size_t i = 1; i < count; i++) {
		Elf_Scn *scn = elf_getscn(elf, i);
		struct pe_error *err =
			scn ? section_read(object, scn, names) : BAD(object, "no section %zu", i);
		if (err)
			return err;
	}
	return NULL;
}

static struct pe_error *symbol_place(struct pe_object *object, struct pe_object_symbol *symbol,
				     const GElf_Sym *sym, Elf32_Word xindex)
{
	size_t index = sym->st_shndx == SHN_XINDEX ? xindex : sym->st_shndx;

	if (sym->st_shndx == SHN_UNDEF)
		return NULL;
	symbol->defined = true;
	if (sym->st_shndx == SHN_ABS || sym->st_shndx == SHN_COMMON) {
		symbol->absolute = sym->st_shndx == SHN_ABS;
		symbol->common = sym->st_shndx == SHN_COMMON;
		return NULL;
	}
	if (index >= object->section_count ||
	    (sym->st_shndx >= SHN_LORESERVE && sym->st_shndx != SHN_XINDEX))
		return BAD(object, "symbol %zu is in section %zu of %zu", symbol->index, index,
			   object->section_count);
	symbol->section = &object->sections[index];
	if (symbol->value > symbol->section->size ||
	    symbol->size > symbol->section->size - symbol->value)
		return BAD(object, "symbol %zu reaches beyond %s", symbol->index,
			   symbol->section->name);
	return NULL;
}

static struct pe_error *symbol_read(struct pe_object *object, struct pe_object_symbol *symbol,
				    Elf_Data *data, Elf_Data *xdata, size_t strings)
{
	struct object_private *private = object->private_data;
	Elf32_Word xindex = 0;
	GElf_Sym sym;

	if (!gelf_getsymshndx(data, xdata, (int)symbol->index, &sym, &xindex))
		return BAD(object, "no symbol %zu", symbol->index);
	symbol->name = elf_strptr(private->file.elf, strings, sym.st_name);
	if (!symbol->name)
		return BAD(object, "no name of symbol %zu", symbol->index);
	symbol->type = GELF_ST_TYPE(sym.st_info);
	symbol->bind = GELF_ST_BIND(sym.st_info);
	symbol->visibility = GELF_ST_VISIBILITY(sym.st_other);
	symbol->value = sym.st_value;
	symbol->size = sym.st_size;
	struct pe_error *err = symbol_place(object, symbol, &sym, xindex);
	if (!err && symbol->type == STT_SECTION && symbol->section)
		symbol->name = symbol->section->name;
	return err;
}

/* The SHT_SYMTAB_SHNDX data that extends the symbol table, or NULL. */
static Elf_Data *xindex_data(const struct pe_object *object, size_t symtab)
{
	const struct object_private *private = object->private_data;

	for (size_t i = 1; i < object->section_count; i++) {
		Elf_Scn *scn = elf_getscn(private->file.elf, i);
		GElf_Shdr shdr;

		if (object->sections[i].type == SHT_SYMTAB_SHNDX && gelf_getshdr(scn, &shdr) &&
		    shdr.sh_link == symtab)
			return elf_getdata(scn, NULL);
	}
	return NULL;
}

static struct pe_error *symbols_read(struct pe_object *object)
{
	struct object_private *private = object->private_data;
	GElf_Shdr shdr;

	if (!private->symtab)
		return BAD(object, "no symbol table");
	Elf_Data *data = elf_getdata(private->symtab, NULL);
	if (!gelf_getshdr(private->symtab, &shdr) || !data || shdr.sh_entsize != sizeof(Elf64_Sym))
		return BAD(object, "unreadable symbol table: %s", elf_errmsg(-1));
	object->symbol_count = data->d_size / sizeof(Elf64_Sym);
	if (object->symbol_count == 0)
		return BAD(object, "empty symbol table");
	object->symbols = calloc(object->symbol_count, sizeof(*object->symbols));
	if (!object->symbols)
		return pe_error_nomem();

	Elf_Data *xdata = xindex_data(object, elf_ndxscn(private->symtab));
	for (size_t i = 0; i < object->symbol_count; i++) {
		object->symbols[i].index = i;
		struct pe_error *err =
			symbol_read(object, &object->symbols[i], data, xdata, shdr.sh_link);
		if (err)
			return err;
	}
	return NULL;
}

static struct pe_error *group_read(struct pe_object *object, size_t index)
{
	struct object_private *private = object->private_data;
	const struct pe_object_section *group = &object->sections[index];
	GElf_Shdr shdr;

	if (!gelf_getshdr(elf_getscn(private->file.elf, index), &shdr) || group->size % 4 ||
	    group->size < 4 || shdr.sh_info >= object->symbol_count)
		return BAD(object, "unreadable section group %zu", index);
	for (uint64_t at = 0; at < group->size; at += 4) {
		uint32_t word;

		memcpy(&word, group->data + at, sizeof(word));
		if (at == 0 && !(word & GRP_COMDAT))
			return NULL;
		if (at == 0)
			continue;
		if (word >= object->section_count)
			return BAD(object, "section group %zu has member %u of %zu", index, word,
				   object->section_count);
		object->sections[word].group = object->symbols[shdr.sh_info].name;
	}
	return NULL;
}

static size_t reloc_size_x86_64(uint32_t type)
{
	switch (type) {
	case R_X86_64_NONE:
	case R_X86_64_TLSDESC_CALL:
		return 0;
	case R_X86_64_8:
	case R_X86_64_PC8:
		return 1;
	case R_X86_64_16:
	case R_X86_64_PC16:
		return 2;
	case R_X86_64_64:
	case R_X86_64_PC64:
	case R_X86_64_DTPMOD64:
	case R_X86_64_DTPOFF64:
	case R_X86_64_TPOFF64:
	case R_X86_64_GOTOFF64:
	case R_X86_64_GOT64:
	case R_X86_64_GOTPCREL64:
	case R_X86_64_GOTPC64:
	case R_X86_64_PLTOFF64:
	case R_X86_64_SIZE64:
		return 8;
	default:
		return 4;
	}
}

static int reloc_compare(const void *a, const void *b)
{
	const struct pe_object_reloc *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static struct pe_error *relocs_read(struct pe_object *object, size_t index)
{
	struct object_private *private = object->private_data;
	const struct pe_object_section *rela = &object->sections[index];
	GElf_Shdr shdr;

	if (!gelf_getshdr(elf_getscn(private->file.elf, index), &shdr) ||
	    shdr.sh_info >= object->section_count || shdr.sh_link != elf_ndxscn(private->symtab) ||
	    rela->size % sizeof(Elf64_Rela))
		return BAD(object, "unreadable relocation section %s", rela->name);
	struct pe_object_section *section = &object->sections[shdr.sh_info];
	/* Those of debug sections are many and nobody asks for them here. */
	if (!(section->flags & SHF_ALLOC) || rela->size == 0)
		return NULL;
	if (section->relocs || rela->type == SHT_REL)
		return BAD(object, "unexpected relocation section %s", rela->name);
	size_t count = rela->size / sizeof(Elf64_Rela);
	section->relocs = calloc(count, sizeof(*section->relocs));
	if (!section->relocs)
		return pe_error_nomem();
	section->reloc_count = count;
	for (size_t i = 0; i < count; i++) {
		struct pe_object_reloc *reloc = &section->relocs[i];
		Elf64_Rela raw;

		memcpy(&raw, rela->data + i * sizeof(raw), sizeof(raw));
		*reloc = (struct pe_object_reloc){ raw.r_offset, ELF64_R_TYPE(raw.r_info),
						   raw.r_addend, NULL };
		size_t size = object->machine == EM_X86_64 ? reloc_size_x86_64(reloc->type) : 4;
		if (ELF64_R_SYM(raw.r_info) >= object->symbol_count ||
		    reloc->offset > section->size || size > section->size - reloc->offset ||
		    (size > 0 && !section->data))
			return BAD(object, "relocation %zu of %s points outside", i, section->name);
		reloc->symbol = &object->symbols[ELF64_R_SYM(raw.r_info)];
	}
	qsort(section->relocs, count, sizeof(*section->relocs), reloc_compare);
	return NULL;
}

static int order_index(const struct pe_object_symbol *x, const struct pe_object_symbol *y)
{
	return x->index < y->index ? -1 : x->index > y->index;
}

static int by_name_compare(const void *a, const void *b)
{
	const struct pe_object_symbol *x = *(struct pe_object_symbol *const *)a;
	const struct pe_object_symbol *y = *(struct pe_object_symbol *const *)b;
	int order = strcmp(x->name, y->name);

	return order ? order : order_index(x, y);
}

static int by_section_compare(const void *a, const void *b)
{
	const struct pe_object_symbol *x = *(struct pe_object_symbol *const *)a;
	const struct pe_object_symbol *y = *(struct pe_object_symbol *const *)b;
	size_t xs = x->section ? x->section->index : 0, ys = y->section ? y->section->index : 0;

	if (xs != ys)
		return xs < ys ? -1 : 1;
	if (x->value != y->value)
		return x->value < y->value ? -1 : 1;
	return order_index(x, y);
}

static struct pe_error *symbols_index(struct pe_object *object)
{
	struct object_private *private = object->private_data;

	private->by_name = calloc(object->symbol_count, sizeof(*private->by_name));
	private->by_section = calloc(object->symbol_count, sizeof(*private->by_section));
	if (!private->by_name || !private->by_section)
		return pe_error_nomem();
	for (size_t i = 0; i < object->symbol_count; i++) {
		struct pe_object_symbol *symbol = &object->symbols[i];

		if (!symbol->defined || symbol->name[0] == '\0' || symbol->type == STT_SECTION ||
		    symbol->type == STT_FILE)
			continue;
		private->by_name[private->sorted_count] = symbol;
		private->by_section[private->sorted_count++] = symbol;
	}
	qsort(private->by_name, private->sorted_count, sizeof(*private->by_name), by_name_compare);
	qsort(private->by_section, private->sorted_count, sizeof(*private->by_section),
	      by_section_compare);
	return NULL;
}

static struct pe_error *object_load(struct pe_object *object)
{
	struct object_private *private = object->private_data;
	GElf_Ehdr ehdr;
	struct pe_error *err = pe_elf_file_init(&private->file, object->path);

	if (err)
		return err;
	object->map = private->file.map;
	object->map_size = private->file.size;
	if (!gelf_getehdr(private->file.elf, &ehdr))
		return BAD(object, "%s", elf_errmsg(-1));
	if (ehdr.e_type != ET_REL)
		return pe_error_new(PE_ERR_FORMAT, "%s is no relocatable object", object->path);
	object->machine = ehdr.e_machine;

	if ((err = sections_read(object)) || (err = symbols_read(object)))
		return err;
	for (size_t i = 1; i < object->section_count && !err; i++) {
		uint32_t type = object->sections[i].type;

		if (type == SHT_GROUP)
			err = group_read(object, i);
		else if (type == SHT_RELA || type == SHT_REL)
			err = relocs_read(object, i);
	}
	return err ? err : symbols_index(object);
}

struct pe_error *pe_object_open(const char *path, struct pe_object **ret)
{
	struct pe_object *object = calloc(1, sizeof(*object));

	if (object) {
		object->private_data = calloc(1, sizeof(struct object_private));
		object->path = strdup(path);
	}
	if (!object || !object->private_data || !object->path) {
		pe_object_close(object);
		return pe_error_nomem();
	}
	struct pe_error *err = object_load(object);
	if (err) {
		pe_object_close(object);
		return err;
	}
	*ret = object;
	return NULL;
}

void pe_object_close(struct pe_object *object)
{
	if (!object)
		return;
	struct object_private *private = object->private_data;
	for (size_t i = 0; i < object->section_count; i++)
		free(object->sections[i].relocs);
	free(object->sections);
	free(object->symbols);
	free(object->path);
	if (private) {
		free(private->by_name);
		free(private->by_section);
		pe_elf_file_deinit(&private->file);
		free(private);
	}
	free(object);
}

struct pe_object_symbol *pe_object_find(const struct pe_object *object, const char *name)
{
	const struct object_private *private = object->private_data;
	size_t low = 0, high = private->sorted_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (strcmp(private->by_name[middle]->name, name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == private->sorted_count || strcmp(private->by_name[low]->name, name) != 0)
		return NULL;
	return private->by_name[low];
}

static bool symbol_covers(const struct pe_object_symbol *symbol, uint64_t offset)
{
	if (symbol->size == 0)
		return symbol->value == offset;
	return offset >= symbol->value && offset - symbol->value < symbol->size;
}

struct pe_object_symbol *pe_object_symbol_at(const struct pe_object *object,
					     const struct pe_object_section *section,
					     uint64_t offset)
{
	const struct object_private *private = object->private_data;
	struct pe_object_symbol *other = NULL;
	size_t low = 0, high = private->sorted_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct pe_object_section *s = private->by_section[middle]->section;

		if ((s ? s->index : 0) < section->index)
			low = middle + 1;
		else
			high = middle;
	}
	/* A section holds few symbols with -ffunction-sections; sizes may nest, so look at all. */
	for (; low < private->sorted_count; low++) {
		struct pe_object_symbol *symbol = private->by_section[low];

		if (symbol->section != section || symbol->value > offset)
			break;
		if (!symbol_covers(symbol, offset))
			continue;
		if (symbol->type != STT_NOTYPE)
			return symbol;
		if (!other)
			other = symbol;
	}
	return other;
}

const struct pe_object_reloc *pe_object_relocs_in(const struct pe_object_section *section,
						  uint64_t start, uint64_t end, size_t *count)
{
	size_t low = 0, high = section->reloc_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (section->relocs[middle].offset < start)
			low = middle + 1;
		else
			high = middle;
	}
	size_t first = low;
	while (low < section->reloc_count && section->relocs[low].offset < end)
		low++;
	*count = low - first;
	return section->relocs ? section->relocs + first : NULL;
}

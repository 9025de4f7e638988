/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Symbols of an image from every source at hand: .symtab, .dynsym, a separate debug file, an
 * `nm --defined-only` list. Each source keeps its own array; two indices, by name and by address,
 * are over all of them. What two sources both know becomes one symbol: the better source's, with
 * the size and type that the other knows better.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <zlib.h>

#include "elf/image_private.h"
#include "engine/cleanup.h"

#define NM_TEXT_MAX ((size_t)1 << 30) /* bytes after decompression */

static struct pe_error *symbol_add(struct image_source *source,
				   const struct pe_image_symbol *symbol)
{
	if (!image_grow(&source->symbols, &source->room, source->count, sizeof(*source->symbols)))
		return pe_error_nomem();
	source->symbols[source->count++] = *symbol;
	return NULL;
}

static void source_free(struct image_source *source)
{
	pe_elf_file_deinit(&source->file);
	free(source->symbols);
	free(source->text);
	free(source);
}

/* ---- ELF symbol tables ---- */

struct table {
	const uint8_t *symbols;
	size_t count;
	const char *strings; /* ends with NUL */
	size_t strings_size;
};

static struct pe_error *table_add(struct image_source *source, const struct table *table,
				  enum pe_symbol_source kind)
{
	for (size_t i = 1; i < table->count; i++) {
		Elf64_Sym sym;

		memcpy(&sym, table->symbols + i * sizeof(sym), sizeof(sym));
		uint8_t type = ELF64_ST_TYPE(sym.st_info);
		if (sym.st_shndx == SHN_UNDEF || sym.st_shndx == SHN_ABS ||
		    sym.st_shndx == SHN_COMMON || type == STT_SECTION || type == STT_FILE ||
		    sym.st_name >= table->strings_size || table->strings[sym.st_name] == '\0')
			continue;
		struct pe_error *err = symbol_add(
			source, &(struct pe_image_symbol){ table->strings + sym.st_name,
							   sym.st_value, sym.st_size, type,
							   ELF64_ST_BIND(sym.st_info), kind });
		if (err)
			return err;
	}
	return NULL;
}

static bool in_file(const struct pe_elf_file *file, const GElf_Shdr *shdr)
{
	return shdr->sh_offset <= file->size && shdr->sh_size <= file->size - shdr->sh_offset;
}

/* The symbol table section of @type; false when there is none or when it is damaged. */
static bool table_find(const struct pe_elf_file *file, uint32_t type, struct table *ret)
{
	Elf_Scn *scn = NULL;
	GElf_Shdr shdr, strings;

	while ((scn = elf_nextscn(file->elf, scn))) {
		if (!gelf_getshdr(scn, &shdr) || shdr.sh_type != type)
			continue;
		if (!in_file(file, &shdr) ||
		    !gelf_getshdr(elf_getscn(file->elf, shdr.sh_link), &strings) ||
		    strings.sh_type != SHT_STRTAB || !in_file(file, &strings) ||
		    strings.sh_size == 0)
			return false;
		ret->symbols = (const uint8_t *)file->map + shdr.sh_offset;
		ret->count = shdr.sh_size / sizeof(Elf64_Sym);
		ret->strings = (const char *)file->map + strings.sh_offset;
		ret->strings_size = strings.sh_size;
		return ret->strings[ret->strings_size - 1] == '\0';
	}
	return false;
}

/* How many dynamic symbols a GNU hash table covers; the loader needs no count, so none is kept. */
static size_t gnu_hash_count(const struct pe_image *image, uint64_t vaddr)
{
	const uint8_t *bytes = pe_image_bytes(image, vaddr, 16);
	uint32_t head[4], last = 0, word; /* nbuckets, symoffset, bloom words, shift */

	if (!bytes)
		return 0;
	memcpy(head, bytes, sizeof(head));
	uint64_t buckets = vaddr + 16 + 8 * (uint64_t)head[2];
	bytes = pe_image_bytes(image, buckets, 4 * (size_t)head[0]);
	for (uint32_t i = 0; bytes && i < head[0]; i++) {
		memcpy(&word, bytes + 4 * (size_t)i, sizeof(word));
		last = word > last ? word : last;
	}
	if (last < head[1])
		return 0;
	for (;; last++) {
		bytes = pe_image_bytes(
			image, buckets + 4 * (uint64_t)head[0] + 4 * (uint64_t)(last - head[1]), 4);
		if (!bytes)
			return 0;
		memcpy(&word, bytes, sizeof(word));
		if (word & 1)
			return (size_t)last + 1;
	}
}

/* .dynsym as the loader finds it, for images without section headers. */
static bool dynamic_table(const struct pe_image *image, struct table *ret)
{
	const struct image_dynamic *dynamic = &image->dynamic;
	uint32_t head[2]; /* nbucket, nchain */
	const void *bytes = dynamic->hash ? pe_image_bytes(image, dynamic->hash, 8) : NULL;

	ret->count = dynamic->gnu_hash ? gnu_hash_count(image, dynamic->gnu_hash) : 0;
	if (bytes) {
		memcpy(head, bytes, sizeof(head));
		ret->count = head[1];
	}
	ret->symbols = pe_image_bytes(image, dynamic->symtab, ret->count * sizeof(Elf64_Sym));
	ret->strings = pe_image_bytes(image, dynamic->strtab, dynamic->strsz);
	ret->strings_size = dynamic->strsz;
	return ret->symbols && ret->strings && ret->strings_size > 0 &&
	       ret->strings[ret->strings_size - 1] == '\0';
}

/* ---- indices ---- */

static int order(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

static int by_name_compare(const void *a, const void *b)
{
	const struct pe_image_symbol *x = *(struct pe_image_symbol *const *)a;
	const struct pe_image_symbol *y = *(struct pe_image_symbol *const *)b;
	int result = strcmp(x->name, y->name);

	if (result == 0)
		result = order(x->source, y->source);
	return result ? result : order(x->vaddr, y->vaddr);
}

/* Alike ones next to each other, the best source first. */
static int alike_compare(const void *a, const void *b)
{
	const struct pe_image_symbol *x = *(struct pe_image_symbol *const *)a;
	const struct pe_image_symbol *y = *(struct pe_image_symbol *const *)b;
	int result = order(x->type == STT_TLS, y->type == STT_TLS);

	if (result == 0)
		result = order(x->vaddr, y->vaddr);
	if (result == 0)
		result = strcmp(x->name, y->name);
	return result ? result : order(x->source, y->source);
}

static int by_vaddr_compare(const void *a, const void *b)
{
	const struct pe_image_symbol *x = *(struct pe_image_symbol *const *)a;
	const struct pe_image_symbol *y = *(struct pe_image_symbol *const *)b;
	int result = order(x->type == STT_TLS, y->type == STT_TLS);

	if (result == 0)
		result = order(x->vaddr, y->vaddr);
	if (result == 0)
		result = order(x->source, y->source);
	return result ? result : strcmp(x->name, y->name);
}

/* Both are one symbol: an nm list guesses the type from a letter and knows no size. */
static void symbol_merge(struct pe_image_symbol *kept, const struct pe_image_symbol *other)
{
	if (kept->source == PE_SOURCE_NM) {
		kept->type = other->type;
		kept->bind = other->bind;
	}
	if (kept->size == 0)
		kept->size = other->size;
}

static struct pe_error *symbols_index(struct pe_image *image)
{
	size_t total = 0, count = 0;

	for (const struct image_source *source = image->sources; source; source = source->next)
		total += source->count;
	struct pe_image_symbol **by_name = calloc(total + 1, sizeof(*by_name));
	struct pe_image_symbol **list = calloc(total + 1, sizeof(*list));
	if (!by_name || !list) {
		free(by_name);
		free(list);
		return pe_error_nomem();
	}
	free(image->by_name);
	free(image->by_vaddr);
	image->by_name = by_name;
	image->by_vaddr = list;

	for (const struct image_source *source = image->sources; source; source = source->next) {
		for (size_t i = 0; i < source->count; i++)
			list[count++] = &source->symbols[i];
	}
	qsort(list, total, sizeof(*list), alike_compare);
	count = 0;
	for (size_t i = 0; i < total; i++) {
		struct pe_image_symbol *last = count ? list[count - 1] : NULL;

		if (last && last->vaddr == list[i]->vaddr &&
		    strcmp(last->name, list[i]->name) == 0 &&
		    (last->type == STT_TLS) == (list[i]->type == STT_TLS))
			symbol_merge(last, list[i]);
		else
			list[count++] = list[i];
	}
	image->index_count = count;
	qsort(list, count, sizeof(*list), by_vaddr_compare);
	for (image->tls_index = 0; image->tls_index < count; image->tls_index++) {
		if (list[image->tls_index]->type == STT_TLS)
			break;
	}
	memcpy(by_name, list, count * sizeof(*list));
	qsort(by_name, count, sizeof(*by_name), by_name_compare);
	return NULL;
}

/* Takes @source over, unless reading it went wrong. */
static struct pe_error *source_add(struct pe_image *image, struct image_source *source,
				   struct pe_error *err)
{
	if (err) {
		source_free(source);
		return err;
	}
	source->next = image->sources;
	image->sources = source;
	return symbols_index(image);
}

struct pe_error *image_symbols_read(struct pe_image *image)
{
	struct image_source *source = calloc(1, sizeof(*source));
	struct pe_error *err = NULL;
	struct table table;

	if (!source)
		return pe_error_nomem();
	if (table_find(&image->file, SHT_SYMTAB, &table))
		err = table_add(source, &table, PE_SOURCE_SYMTAB);
	if (!err && (table_find(&image->file, SHT_DYNSYM, &table) || dynamic_table(image, &table)))
		err = table_add(source, &table, PE_SOURCE_DYNSYM);
	return source_add(image, source, err);
}

void image_symbols_deinit(struct pe_image *image)
{
	while (image->sources) {
		struct image_source *next = image->sources->next;

		source_free(image->sources);
		image->sources = next;
	}
	free(image->by_name);
	free(image->by_vaddr);
}

/* ---- a separate debug file ---- */

static struct pe_error *debug_read(struct image_source *source, const struct pe_image *image,
				   const char *path)
{
	struct pe_build_id id;
	struct table table;
	struct pe_error *err = pe_elf_file_init(&source->file, path);

	if (err)
		return err;
	if (!image_file_build_id(&source->file, &id) || !pe_build_id_equal(&id, &image->build_id))
		return pe_error_new(PE_ERR_MISMATCH,
				    "%s is the debug file of another build than %s", path,
				    image->path);
	if (!table_find(&source->file, SHT_SYMTAB, &table))
		return pe_error_new(PE_ERR_FORMAT, "%s has no symbol table", path);
	return table_add(source, &table, PE_SOURCE_DEBUG);
}

struct pe_error *pe_image_add_debug(struct pe_image *image, const char *path)
{
	struct image_source *source = calloc(1, sizeof(*source));

	if (!source)
		return pe_error_nomem();
	return source_add(image, source, debug_read(source, image, path));
}

/* ---- an nm list ---- */

static struct pe_error *text_read(const char *path, char **ret)
{
	pe_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return pe_error_errno(errno, "cannot open %s", path);
	gzFile in = gzdopen(fd, "rb"); /* reads plain files as they are */
	if (!in)
		return pe_error_nomem();
	fd = -1;

	pe_auto_free char *text = NULL;
	struct pe_error *err = NULL;
	size_t size = 0, room = 0;
	for (int got = 1; got > 0 && !err; size += (size_t)got) {
		if (room - size < 65536) {
			room = room ? room * 2 : (size_t)1 << 20;
			char *more = room <= NM_TEXT_MAX ? realloc(text, room) : NULL;
			if (!more) {
				err = pe_error_nomem();
				break;
			}
			text = more;
		}
		got = gzread(in, text + size, 65535);
		if (got < 0) {
			err = pe_error_new(PE_ERR_FORMAT, "cannot unpack %s", path);
			break;
		}
	}
	if (gzclose(in) != Z_OK && !err)
		err = pe_error_new(PE_ERR_FORMAT, "%s is cut short", path);
	if (err)
		return err;
	text[size] = '\0';
	*ret = pe_steal(text);
	return NULL;
}

/* What nm's letter tells; false for symbols that are no place in the image. */
static bool nm_letter(char letter, uint8_t *type, uint8_t *bind)
{
	*bind = isupper((unsigned char)letter) ? STB_GLOBAL : STB_LOCAL;
	switch (letter) {
	case 'T':
	case 't':
		*type = STT_FUNC;
		return true;
	case 'W':
	case 'w':
		*type = STT_FUNC;
		*bind = STB_WEAK;
		return true;
	case 'i':
		*type = STT_GNU_IFUNC;
		*bind = STB_GLOBAL;
		return true;
	case 'V':
	case 'v':
		*type = STT_OBJECT;
		*bind = STB_WEAK;
		return true;
	case 'u':
		*type = STT_OBJECT;
		*bind = STB_GNU_UNIQUE;
		return true;
	case 'D':
	case 'd':
	case 'B':
	case 'b':
	case 'R':
	case 'r':
	case 'G':
	case 'g':
	case 'S':
	case 's':
		*type = STT_OBJECT;
		return true;
	default:
		return false;
	}
}

/*
 * nm prints thread-locals among the data, with their offset in the TLS block as address: known by
 * an address below the TLS size where the image has no data.
 */
static bool is_thread_local(const struct pe_image *image, const struct pe_image_symbol *symbol)
{
	return symbol->type == STT_OBJECT && symbol->vaddr < image->tls_size &&
	       !pe_image_is_writable(image, symbol->vaddr);
}

/* "ADDRESS LETTER NAME", cut in place. False for a line that is something else. */
static bool nm_line(char *line, struct pe_image_symbol *ret, bool *wanted)
{
	char *end;

	if (!isxdigit((unsigned char)line[0]))
		return false;
	errno = 0;
	*ret = (struct pe_image_symbol){ .vaddr = strtoull(line, &end, 16),
					 .source = PE_SOURCE_NM };
	if (errno || end[0] != ' ' || !end[1] || end[2] != ' ' || !end[3])
		return false;
	*wanted = nm_letter(end[1], &ret->type, &ret->bind);
	ret->name = end + 3;
	end[3 + strcspn(end + 3, "@\r")] = '\0';
	return ret->name[0] != '\0';
}

/* The list is of this build when it agrees with the image's own symbols and lies within it. */
static struct pe_error *nm_check(const struct pe_image *image, const struct pe_image_symbol *symbol,
				 const char *path)
{
	uint64_t start, end;
	size_t count;
	bool agrees = true;

	pe_image_extent(image, &start, &end);
	if (symbol->type != STT_TLS && (symbol->vaddr < start || symbol->vaddr > end))
		return pe_error_new(PE_ERR_MISMATCH,
				    "%s is of another build than %s: %s at %#lx is outside", path,
				    image->path, symbol->name, symbol->vaddr);
	const struct pe_image_symbol *const *known = pe_image_find(image, symbol->name, &count);
	for (size_t i = 0; i < count; i++) {
		if (known[i]->source == PE_SOURCE_NM || known[i]->bind == STB_LOCAL ||
		    symbol->bind == STB_LOCAL)
			continue;
		if (known[i]->vaddr == symbol->vaddr)
			return NULL;
		agrees = false;
	}
	if (agrees)
		return NULL;
	return pe_error_new(PE_ERR_MISMATCH,
			    "%s is of another build than %s: %s is at %#lx, not at %#lx", path,
			    image->path, symbol->name, known[0]->vaddr, symbol->vaddr);
}

static struct pe_error *nm_read(struct image_source *source, const struct pe_image *image,
				const char *path)
{
	struct pe_error *err = text_read(path, &source->text);
	char *rest = source->text;
	size_t number = 0;

	if (err)
		return err;

	for (char *line; (line = strsep(&rest, "\n"));) {
		struct pe_image_symbol symbol;
		bool wanted = false;

		number++;
		if (line[0] == '\0' || line[0] == ' ') /* undefined symbols have no address */
			continue;
		if (!nm_line(line, &symbol, &wanted))
			return pe_error_new(PE_ERR_FORMAT, "%s is no list of nm: line %zu", path,
					    number);
		if (!wanted)
			continue;
		if (is_thread_local(image, &symbol))
			symbol.type = STT_TLS;
		err = nm_check(image, &symbol, path);
		if (!err)
			err = symbol_add(source, &symbol);
		if (err)
			return err;
	}
	if (source->count == 0)
		return pe_error_new(PE_ERR_FORMAT, "%s lists no symbol", path);
	return NULL;
}

struct pe_error *pe_image_add_nm(struct pe_image *image, const char *path)
{
	struct image_source *source = calloc(1, sizeof(*source));

	if (!source)
		return pe_error_nomem();
	return source_add(image, source, nm_read(source, image, path));
}

/* ---- look-ups ---- */

const struct pe_image_symbol *const *pe_image_find(const struct pe_image *image, const char *name,
						   size_t *count)
{
	size_t low = 0, high = image->index_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (strcmp(image->by_name[middle]->name, name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	for (high = low;
	     high < image->index_count && strcmp(image->by_name[high]->name, name) == 0;)
		high++;
	*count = high - low;
	return (const struct pe_image_symbol *const *)image->by_name + low;
}

/* The first of by_vaddr (thread-locals excepted) at or above @vaddr. */
static size_t lower_bound(const struct pe_image *image, uint64_t vaddr)
{
	size_t low = 0, high = image->tls_index;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (image->by_vaddr[middle]->vaddr < vaddr)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const struct pe_image_symbol *const *pe_image_at(const struct pe_image *image, uint64_t vaddr,
						 size_t *count)
{
	size_t first = lower_bound(image, vaddr), last = first;

	while (last < image->tls_index && image->by_vaddr[last]->vaddr == vaddr)
		last++;
	*count = last - first;
	return (const struct pe_image_symbol *const *)image->by_vaddr + first;
}

const struct pe_image_symbol *pe_image_function_before(const struct pe_image *image, uint64_t vaddr)
{
	size_t at = vaddr == UINT64_MAX ? image->tls_index : lower_bound(image, vaddr + 1);

	while (at > 0) {
		const struct pe_image_symbol *symbol = image->by_vaddr[--at];

		if (symbol->type == STT_FUNC || symbol->type == STT_GNU_IFUNC)
			return symbol;
	}
	return NULL;
}

const struct pe_image_symbol *const *pe_image_symbols(const struct pe_image *image, size_t *count)
{
	*count = image->index_count;
	return (const struct pe_image_symbol *const *)image->by_vaddr;
}

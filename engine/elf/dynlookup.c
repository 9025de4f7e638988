/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dynamic symbol look-up over a reader: DT_GNU_HASH (or DT_HASH) for the name, DT_VERSYM and
 * DT_VERDEF for the version. The tables come from foreign memory: sizes bound every loop.
 */
#include "engine/dynlookup.h"

#include <elf.h>
#include <string.h>

#include "engine/cleanup.h"

#define DYNAMIC_MAX 512	      /* entries; real ones have 20 to 40 */
#define DYNAMIC_STEP 32	      /* entries read at once: of another process, a system call each */
#define CHAIN_MAX (1u << 20)  /* symbols in one hash chain */
#define VERSION_MAX 4096      /* definitions in one object */
#define VERSYM_HIDDEN 0x8000u /* not the default version */

struct dyn {
	pe_read_fn read;
	void *ctx;
	uint64_t bias;
	uint64_t gnu_hash, hash, symtab, strtab, versym, verdef; /* run-time addresses, or 0 */
	uint64_t strsz, verdefnum;
};

/* ld.so adds the bias to addresses of the dynamic section in memory, except in the vDSO. */
static void take_entry(struct dyn *dyn, const Elf64_Dyn *entry)
{
	uint64_t value = entry->d_un.d_val;
	uint64_t addr = value < dyn->bias ? value + dyn->bias : value;

	switch (entry->d_tag) {
	case DT_GNU_HASH:
		dyn->gnu_hash = addr;
		break;
	case DT_HASH:
		dyn->hash = addr;
		break;
	case DT_SYMTAB:
		dyn->symtab = addr;
		break;
	case DT_STRTAB:
		dyn->strtab = addr;
		break;
	case DT_STRSZ:
		dyn->strsz = value;
		break;
	case DT_VERSYM:
		dyn->versym = addr;
		break;
	case DT_VERDEF:
		dyn->verdef = addr;
		break;
	case DT_VERDEFNUM:
		dyn->verdefnum = value;
		break;
	}
}

/* @entries at @addr, as many as can be read, at least one. */
static struct pe_error *read_entries(struct dyn *dyn, uint64_t addr,
				     Elf64_Dyn entries[DYNAMIC_STEP], size_t *count)
{
	struct pe_error *err = dyn->read(dyn->ctx, addr, entries, DYNAMIC_STEP * sizeof(*entries));

	*count = DYNAMIC_STEP;
	if (!err)
		return NULL;
	/* The section may end before that, and its mapping with it. */
	pe_error_free(err);
	*count = 1;
	return dyn->read(dyn->ctx, addr, entries, sizeof(*entries));
}

static struct pe_error *dyn_read_tables(struct dyn *dyn, uint64_t dynamic)
{
	Elf64_Dyn entries[DYNAMIC_STEP];
	size_t count;

	for (size_t i = 0; i < DYNAMIC_MAX; i += count) {
		struct pe_error *err =
			read_entries(dyn, dynamic + i * sizeof(*entries), entries, &count);

		if (err)
			return pe_error_wrap(err, "cannot read the dynamic section");
		for (size_t j = 0; j < count; j++) {
			if (entries[j].d_tag == DT_NULL)
				return NULL;
			take_entry(dyn, &entries[j]);
		}
	}
	return pe_error_new(PE_ERR_FORMAT, "the dynamic section has no end");
}

static struct pe_error *string_equals(const struct dyn *dyn, uint64_t offset, const char *text,
				      bool *equal)
{
	size_t left = strlen(text) + 1;

	*equal = false;
	if (offset > dyn->strsz || left > dyn->strsz - offset)
		return NULL;
	for (uint64_t addr = dyn->strtab + offset; left > 0;) {
		char part[256];
		size_t size = left < sizeof(part) ? left : sizeof(part);
		struct pe_error *err = dyn->read(dyn->ctx, addr, part, size);

		if (err)
			return pe_error_wrap(err, "cannot read the dynamic strings");
		if (memcmp(part, text, size) != 0)
			return NULL;
		addr += size;
		text += size;
		left -= size;
	}
	*equal = true;
	return NULL;
}

/* Is the version definition number @index called @version? */
static struct pe_error *version_named(const struct dyn *dyn, uint16_t index, const char *version,
				      bool *equal)
{
	uint64_t addr = dyn->verdef;

	*equal = false;
	for (uint64_t i = 0; i < dyn->verdefnum && i < VERSION_MAX; i++) {
		Elf64_Verdef def;
		Elf64_Verdaux aux;
		struct pe_error *err = dyn->read(dyn->ctx, addr, &def, sizeof(def));

		if (err)
			return pe_error_wrap(err, "cannot read the version definitions");
		if ((def.vd_ndx & ~VERSYM_HIDDEN) == index) {
			err = dyn->read(dyn->ctx, addr + def.vd_aux, &aux, sizeof(aux));
			if (err)
				return pe_error_wrap(err, "cannot read the version definitions");
			return string_equals(dyn, aux.vda_name, version, equal);
		}
		if (def.vd_next == 0)
			return NULL;
		addr += def.vd_next;
	}
	return NULL;
}

static struct pe_error *version_fits(const struct dyn *dyn, uint32_t index, const char *version,
				     bool *fits)
{
	uint16_t versym;

	*fits = true;
	if (!dyn->versym || (version && !dyn->verdef))
		return NULL;
	struct pe_error *err =
		dyn->read(dyn->ctx, dyn->versym + 2 * (uint64_t)index, &versym, sizeof(versym));
	if (err)
		return pe_error_wrap(err, "cannot read the version table");
	if (version)
		return version_named(dyn, versym & ~VERSYM_HIDDEN, version, fits);
	*fits = !(versym & VERSYM_HIDDEN) && versym != VER_NDX_LOCAL;
	return NULL;
}

/* Takes symbol @index as the answer when it is defined here with that name and version. */
static struct pe_error *symbol_try(const struct dyn *dyn, uint32_t index, const char *name,
				   const char *version, struct pe_dyn_symbol *ret)
{
	Elf64_Sym sym;
	bool same;
	struct pe_error *err =
		dyn->read(dyn->ctx, dyn->symtab + sizeof(sym) * (uint64_t)index, &sym, sizeof(sym));

	if (err)
		return pe_error_wrap(err, "cannot read the dynamic symbols");
	if (sym.st_shndx == SHN_UNDEF || ELF64_ST_BIND(sym.st_info) == STB_LOCAL)
		return NULL;
	err = string_equals(dyn, sym.st_name, name, &same);
	if (err || !same)
		return err;
	err = version_fits(dyn, index, version, &same);
	if (err || !same)
		return err;
	ret->found = true;
	ret->type = ELF64_ST_TYPE(sym.st_info);
	ret->size = sym.st_size;
	ret->addr = sym.st_value;
	if (ret->type != STT_TLS && sym.st_shndx != SHN_ABS)
		ret->addr += dyn->bias;
	return NULL;
}

static uint32_t gnu_hash_of(const char *name)
{
	uint32_t hash = 5381;

	for (; *name; name++)
		hash = hash * 33 + (unsigned char)*name;
	return hash;
}

static struct pe_error *gnu_hash_walk(const struct dyn *dyn, const char *name, const char *version,
				      struct pe_dyn_symbol *ret)
{
	uint32_t head[4], index, hash = gnu_hash_of(name); /* nbuckets, symoffset, bloom, shift */
	struct pe_error *err = dyn->read(dyn->ctx, dyn->gnu_hash, head, sizeof(head));

	if (err)
		return pe_error_wrap(err, "cannot read the GNU hash table");
	if (head[0] == 0)
		return NULL;
	uint64_t buckets = dyn->gnu_hash + sizeof(head) + 8 * (uint64_t)head[2];
	uint64_t chains = buckets + 4 * (uint64_t)head[0];

	err = dyn->read(dyn->ctx, buckets + 4 * (uint64_t)(hash % head[0]), &index, sizeof(index));
	if (err)
		return pe_error_wrap(err, "cannot read the GNU hash table");
	if (index < head[1])
		return NULL;
	for (uint32_t steps = 0; steps < CHAIN_MAX; steps++, index++) {
		uint32_t word;

		err = dyn->read(dyn->ctx, chains + 4 * ((uint64_t)index - head[1]), &word,
				sizeof(word));
		if (err)
			return pe_error_wrap(err, "cannot read the GNU hash table");
		if ((word | 1) == (hash | 1)) {
			err = symbol_try(dyn, index, name, version, ret);
			if (err || ret->found)
				return err;
		}
		if (word & 1)
			return NULL;
	}
	return pe_error_new(PE_ERR_FORMAT, "a GNU hash chain has no end");
}

static uint32_t sysv_hash_of(const char *name)
{
	uint32_t hash = 0;

	for (; *name; name++) {
		hash = (hash << 4) + (unsigned char)*name;
		hash ^= (hash >> 24) & 0xf0;
	}
	return hash & 0x0fffffff;
}

static struct pe_error *sysv_hash_walk(const struct dyn *dyn, const char *name, const char *version,
				       struct pe_dyn_symbol *ret)
{
	uint32_t head[2], index; /* nbucket, nchain */
	struct pe_error *err = dyn->read(dyn->ctx, dyn->hash, head, sizeof(head));

	if (err)
		return pe_error_wrap(err, "cannot read the hash table");
	if (head[0] == 0)
		return NULL;
	uint64_t at = dyn->hash + sizeof(head) + 4 * (uint64_t)(sysv_hash_of(name) % head[0]);
	uint64_t chains = dyn->hash + sizeof(head) + 4 * (uint64_t)head[0];

	for (uint32_t steps = 0; steps <= head[1] && steps < CHAIN_MAX; steps++) {
		err = dyn->read(dyn->ctx, at, &index, sizeof(index));
		if (err)
			return pe_error_wrap(err, "cannot read the hash table");
		if (index == STN_UNDEF || index >= head[1])
			return NULL;
		err = symbol_try(dyn, index, name, version, ret);
		if (err || ret->found)
			return err;
		at = chains + 4 * (uint64_t)index;
	}
	return NULL;
}

struct pe_error *pe_dyn_find(pe_read_fn read, void *ctx, uint64_t dynamic, uint64_t bias,
			     const char *name, const char *version, struct pe_dyn_symbol *ret)
{
	struct dyn dyn = { .read = read, .ctx = ctx, .bias = bias };
	struct pe_error *err = dyn_read_tables(&dyn, dynamic);

	*ret = (struct pe_dyn_symbol){ 0 };
	if (err)
		return err;
	if (!dyn.symtab || !dyn.strtab)
		return NULL;
	if (dyn.gnu_hash)
		return gnu_hash_walk(&dyn, name, version, ret);
	if (dyn.hash)
		return sysv_hash_walk(&dyn, name, version, ret);
	return NULL;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dynamic relocations: which slot the loader binds to which imported symbol, and which pointers it
 * only moves by the load bias. PLT entries are recognised by their code, since linkers have laid
 * PLTs out in many ways (.plt, .plt.got, .plt.sec, with and without IBT) and section headers may
 * be missing.
 */
#include <stdlib.h>
#include <string.h>

#include "elf/image_private.h"

#define VERSION_MAX 0x8000 /* indices of .gnu.version */

static struct pe_error *version_set(struct pe_image *image, uint16_t index, uint64_t name)
{
	index &= VERSION_MAX - 1;
	if (!image->versions) {
		image->versions = calloc(VERSION_MAX, sizeof(*image->versions));
		if (!image->versions)
			return pe_error_nomem();
	}
	image->versions[index] = image_dynamic_string(image, name);
	if (!image->versions[index])
		return IMAGE_BAD(image, "version %u names nothing", index);
	return NULL;
}

static struct pe_error *verneed_read(struct pe_image *image)
{
	uint64_t at = image->dynamic.verneed;

	for (uint64_t i = 0; i < image->dynamic.verneednum && i < VERSION_MAX; i++) {
		Elf64_Verneed need;
		const void *bytes = pe_image_bytes(image, at, sizeof(need));

		if (!bytes)
			return IMAGE_BAD(image, "DT_VERNEED points outside");
		memcpy(&need, bytes, sizeof(need));
		uint64_t aux_at = at + need.vn_aux;
		for (uint16_t j = 0; j < need.vn_cnt; j++) {
			Elf64_Vernaux aux;

			bytes = pe_image_bytes(image, aux_at, sizeof(aux));
			if (!bytes)
				return IMAGE_BAD(image, "DT_VERNEED points outside");
			memcpy(&aux, bytes, sizeof(aux));
			struct pe_error *err = version_set(image, aux.vna_other, aux.vna_name);
			if (err || aux.vna_next == 0) {
				if (err)
					return err;
				break;
			}
			aux_at += aux.vna_next;
		}
		if (need.vn_next == 0)
			break;
		at += need.vn_next;
	}
	return NULL;
}

static struct pe_error *verdef_read(struct pe_image *image)
{
	uint64_t at = image->dynamic.verdef;

	for (uint64_t i = 0; i < image->dynamic.verdefnum && i < VERSION_MAX; i++) {
		Elf64_Verdef def;
		Elf64_Verdaux aux;
		const void *bytes = pe_image_bytes(image, at, sizeof(def));

		if (bytes) {
			memcpy(&def, bytes, sizeof(def));
			bytes = pe_image_bytes(image, at + def.vd_aux, sizeof(aux));
		}
		if (!bytes)
			return IMAGE_BAD(image, "DT_VERDEF points outside");
		memcpy(&aux, bytes, sizeof(aux));
		struct pe_error *err = def.vd_flags & VER_FLG_BASE
					       ? NULL
					       : version_set(image, def.vd_ndx, aux.vda_name);
		if (err)
			return err;
		if (def.vd_next == 0)
			break;
		at += def.vd_next;
	}
	return NULL;
}

static const char *symbol_version(const struct pe_image *image, uint32_t index)
{
	uint16_t versym;
	const void *bytes =
		image->dynamic.versym && image->versions
			? pe_image_bytes(image, image->dynamic.versym + 2 * (uint64_t)index,
					 sizeof(versym))
			: NULL;

	if (!bytes)
		return "";
	memcpy(&versym, bytes, sizeof(versym));
	const char *version = image->versions[versym & (VERSION_MAX - 1)];
	return version ? version : "";
}

static struct pe_error *slot_add(struct pe_image *image, const Elf64_Rela *rela)
{
	uint32_t index = (uint32_t)ELF64_R_SYM(rela->r_info);
	struct pe_image_slot slot = { .vaddr = rela->r_offset,
				      .symbol = "",
				      .version = "",
				      .type = (uint32_t)ELF64_R_TYPE(rela->r_info),
				      .addend = rela->r_addend };

	if (index != STN_UNDEF) {
		Elf64_Sym sym;
		const void *bytes = pe_image_bytes(
			image, image->dynamic.symtab + sizeof(sym) * (uint64_t)index, sizeof(sym));

		if (!bytes)
			return IMAGE_BAD(image, "a dynamic relocation names symbol %u", index);
		memcpy(&sym, bytes, sizeof(sym));
		slot.symbol = image_dynamic_string(image, sym.st_name);
		if (!slot.symbol)
			return IMAGE_BAD(image, "dynamic symbol %u has no name", index);
		slot.symbol_type = ELF64_ST_TYPE(sym.st_info);
		slot.version = symbol_version(image, index);
	}
	if (!image_grow(&image->slots, &image->slot_room, image->slot_count, sizeof(slot)))
		return pe_error_nomem();
	image->slots[image->slot_count++] = slot;
	return NULL;
}

static struct pe_error *relative_add(struct pe_image *image, uint64_t vaddr, uint64_t target)
{
	if (!image_grow(&image->relatives, &image->relative_room, image->relative_count,
			sizeof(*image->relatives)))
		return pe_error_nomem();
	image->relatives[image->relative_count++] = (struct image_relative){ vaddr, target };
	return NULL;
}

static bool is_relative(const struct pe_image *image, uint32_t type)
{
	return type == (image->machine == EM_AARCH64 ? (uint32_t)R_AARCH64_RELATIVE
						     : (uint32_t)R_X86_64_RELATIVE);
}

static struct pe_error *rela_read(struct pe_image *image, uint64_t vaddr, uint64_t size)
{
	const uint8_t *bytes = pe_image_bytes(image, vaddr, size);

	if (size == 0)
		return NULL;
	if (!bytes)
		return IMAGE_BAD(image, "its dynamic relocations are not in the file");
	for (uint64_t at = 0; size - at >= sizeof(Elf64_Rela); at += sizeof(Elf64_Rela)) {
		Elf64_Rela rela;

		memcpy(&rela, bytes + at, sizeof(rela));
		struct pe_error *err =
			is_relative(image, (uint32_t)ELF64_R_TYPE(rela.r_info))
				? relative_add(image, rela.r_offset, (uint64_t)rela.r_addend)
				: slot_add(image, &rela);
		if (err)
			return err;
	}
	return NULL;
}

static struct pe_error *relr_one(struct pe_image *image, uint64_t vaddr)
{
	uint64_t target;
	const void *bytes = pe_image_bytes(image, vaddr, sizeof(target));

	if (!bytes)
		return IMAGE_BAD(image, "DT_RELR points outside");
	memcpy(&target, bytes, sizeof(target));
	return relative_add(image, vaddr, target);
}

/* gABI, "Relative relocation table": an address, then bitmaps of the 63 words behind it. */
static struct pe_error *relr_read(struct pe_image *image)
{
	uint64_t size = image->dynamic.relrsz, base = 0;
	const uint8_t *bytes = pe_image_bytes(image, image->dynamic.relr, size);

	if (size == 0)
		return NULL;
	if (!bytes)
		return IMAGE_BAD(image, "its dynamic relocations are not in the file");
	for (uint64_t at = 0; size - at >= 8; at += 8) {
		struct pe_error *err = NULL;
		uint64_t entry;

		memcpy(&entry, bytes + at, sizeof(entry));
		if (!(entry & 1)) {
			err = relr_one(image, entry);
			base = entry + 8;
		} else {
			for (uint64_t bit = 0; bit < 63 && !err; bit++) {
				if (entry >> (bit + 1) & 1)
					err = relr_one(image, base + 8 * bit);
			}
			base += (uint64_t)8 * 63;
		}
		if (err)
			return err;
	}
	return NULL;
}

static int slot_compare(const void *a, const void *b)
{
	const struct pe_image_slot *x = a, *y = b;

	return x->vaddr < y->vaddr ? -1 : x->vaddr > y->vaddr;
}

static int relative_compare(const void *a, const void *b)
{
	const struct image_relative *x = a, *y = b;

	return x->vaddr < y->vaddr ? -1 : x->vaddr > y->vaddr;
}

/* How well a slot serves as the address of its symbol; 0: not at all. */
static int slot_rank(const struct pe_image *image, const struct pe_image_slot *slot)
{
	if (image->machine == EM_AARCH64)
		return slot->type == R_AARCH64_COPY				       ? 3
		       : slot->type == R_AARCH64_GLOB_DAT			       ? 2
		       : slot->type == R_AARCH64_JUMP_SLOT && image->dynamic.binds_now ? 1
										       : 0;
	return slot->type == R_X86_64_COPY				      ? 3
	       : slot->type == R_X86_64_GLOB_DAT			      ? 2
	       : slot->type == R_X86_64_JUMP_SLOT && image->dynamic.binds_now ? 1
									      : 0;
}

static int slot_name_compare(const void *a, const void *b, void *ctx)
{
	const struct pe_image_slot *x = *(struct pe_image_slot *const *)a;
	const struct pe_image_slot *y = *(struct pe_image_slot *const *)b;
	int result = strcmp(x->symbol, y->symbol);

	if (result == 0)
		result = slot_rank(ctx, y) - slot_rank(ctx, x);
	return result ? result : slot_compare(x, y);
}

static struct pe_error *slots_index(struct pe_image *image)
{
	image->slots_by_name = calloc(image->slot_count + 1, sizeof(*image->slots_by_name));
	if (!image->slots_by_name)
		return pe_error_nomem();
	if (image->relative_count > 0)
		qsort(image->relatives, image->relative_count, sizeof(*image->relatives),
		      relative_compare);
	if (image->slot_count == 0)
		return NULL;
	qsort(image->slots, image->slot_count, sizeof(*image->slots), slot_compare);
	for (size_t i = 0; i < image->slot_count; i++)
		image->slots_by_name[i] = &image->slots[i];
	qsort_r(image->slots_by_name, image->slot_count, sizeof(*image->slots_by_name),
		slot_name_compare, image);
	return NULL;
}

struct pe_error *image_slots_read(struct pe_image *image)
{
	const struct image_dynamic *dynamic = &image->dynamic;
	struct pe_error *err = NULL;

	if (dynamic->verneed)
		err = verneed_read(image);
	if (!err && dynamic->verdef)
		err = verdef_read(image);
	if (!err)
		err = rela_read(image, dynamic->rela, dynamic->relasz);
	if (!err)
		err = rela_read(image, dynamic->jmprel, dynamic->pltrelsz);
	if (!err)
		err = relr_read(image);
	return err ? err : slots_index(image);
}

void image_slots_deinit(struct pe_image *image)
{
	free(image->versions);
	free(image->slots);
	free(image->slots_by_name);
	free(image->relatives);
}

const struct pe_image_slot *pe_image_find_slot(const struct pe_image *image, const char *symbol,
					       const char *version)
{
	size_t low = 0, high = image->slot_count;

	if (symbol[0] == '\0')
		return NULL;
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (strcmp(image->slots_by_name[middle]->symbol, symbol) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < image->slot_count && strcmp(image->slots_by_name[low]->symbol, symbol) == 0;
	     low++) {
		const struct pe_image_slot *slot = image->slots_by_name[low];

		if (slot_rank(image, slot) > 0 && (!version || strcmp(slot->version, version) == 0))
			return slot;
	}
	return NULL;
}

const struct pe_image_slot *pe_image_slot_at(const struct pe_image *image, uint64_t vaddr)
{
	struct pe_image_slot key = { .vaddr = vaddr };

	if (image->slot_count == 0)
		return NULL;
	return bsearch(&key, image->slots, image->slot_count, sizeof(key), slot_compare);
}

const struct pe_image_slot *pe_image_ifunc_slot(const struct pe_image *image, uint64_t resolver)
{
	uint32_t type = image->machine == EM_AARCH64 ? R_AARCH64_IRELATIVE : R_X86_64_IRELATIVE;

	for (size_t i = 0; i < image->slot_count; i++) {
		const struct pe_image_slot *slot = &image->slots[i];

		if (slot->type == type && (uint64_t)slot->addend == resolver)
			return slot;
	}
	return NULL;
}

/* Is the word behind @slot, which holds a module, the offset of the same variable? */
static bool is_tls_pair(const struct pe_image *image, const struct pe_image_slot *slot)
{
	const struct pe_image_slot *second = pe_image_slot_at(image, slot->vaddr + 8);

	return second && second->type == R_X86_64_DTPOFF64 && !strcmp(second->symbol, slot->symbol);
}

const struct pe_image_slot *pe_image_tls_slot(const struct pe_image *image, uint32_t type,
					      const char *symbol)
{
	for (size_t i = 0; symbol[0] && i < image->slot_count; i++) {
		const struct pe_image_slot *slot = &image->slots[i];

		if (slot->type == type && !strcmp(slot->symbol, symbol) && !slot->addend &&
		    (type != R_X86_64_DTPMOD64 || is_tls_pair(image, slot)))
			return slot;
	}
	return NULL;
}

const struct pe_image_slot *pe_image_tls_own_slot(const struct pe_image *image, uint32_t type,
						  uint64_t offset)
{
	for (size_t i = 0; i < image->slot_count; i++) {
		const struct pe_image_slot *slot = &image->slots[i];
		uint64_t value = (uint64_t)slot->addend;

		if (slot->type != type || slot->symbol[0])
			continue;
		if (type == R_X86_64_DTPMOD64) {
			/* The linker knew the offset. */
			const void *second = pe_image_bytes(image, slot->vaddr + 8, sizeof(value));

			if (!second || pe_image_slot_at(image, slot->vaddr + 8))
				continue;
			memcpy(&value, second, sizeof(value));
		}
		if (value == offset)
			return slot;
	}
	return NULL;
}

const struct pe_image_slot *pe_image_plt_slot(const struct pe_image *image, uint64_t vaddr)
{
	static const uint8_t endbr64[] = { 0xf3, 0x0f, 0x1e, 0xfa };
	const uint8_t *code = pe_image_bytes(image, vaddr, sizeof(endbr64));
	int32_t disp;

	if (image->machine != EM_X86_64 || !pe_image_is_code(image, vaddr) || !code)
		return NULL;
	if (memcmp(code, endbr64, sizeof(endbr64)) == 0)
		vaddr += sizeof(endbr64);
	code = pe_image_bytes(image, vaddr, 7);
	if (!code)
		return NULL;
	if (code[0] == 0xf2) { /* bnd */
		code++;
		vaddr++;
	}
	if (code[0] != 0xff || code[1] != 0x25) /* jmp *disp(%rip) */
		return NULL;
	memcpy(&disp, code + 2, sizeof(disp));
	return pe_image_slot_at(image, vaddr + 6 + (uint64_t)(int64_t)disp);
}

bool pe_image_relative_at(const struct pe_image *image, uint64_t vaddr, uint64_t *target)
{
	struct image_relative key = { .vaddr = vaddr };
	const struct image_relative *found =
		image->relative_count ? bsearch(&key, image->relatives, image->relative_count,
						sizeof(key), relative_compare)
				      : NULL;

	if (found)
		*target = found->target;
	return found != NULL;
}

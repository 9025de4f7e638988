/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a name means outside the patch. In this order: what the image defines and exports, what it
 * imports (its own relocated slot, or its copy), what only it knows (a static name, if it is the
 * only one), what a library that it needs defines, or the program that loads it as a plugin.
 * Libraries are looked into as this host has them, just to find a name that nothing defines before
 * a target does; when one is missing here the name gets the benefit of the doubt and is resolved
 * when the patch is applied.
 */
#include <elf.h>
#include <string.h>

#include "build/select_private.h"

static void fill(struct pe_sel_dest *ret, enum pe_patch_symbol_kind kind,
		 const struct pe_object_symbol *symbol, uint8_t type, uint64_t value)
{
	*ret = (struct pe_sel_dest){ .kind = kind,
				     .name = symbol->name,
				     .type = type,
				     .global = symbol->bind != STB_LOCAL,
				     .value = value,
				     .size = symbol->size };
}

static bool usable(const struct pe_image_symbol *symbol)
{
	return symbol->type != STT_TLS && symbol->type != STT_FILE && symbol->type != STT_SECTION;
}

/*
 * A symbol of the image itself. An indirect function is called through the slot that the loader
 * filled with what its resolver chose: the address of the symbol is that of the resolver.
 */
static struct pe_error *fill_own(struct pe_sel *sel, const struct pe_object_symbol *symbol,
				 const struct pe_image_symbol *own, struct pe_sel_dest *ret)
{
	if (own->type != STT_GNU_IFUNC && symbol->type != STT_GNU_IFUNC) {
		fill(ret, PE_SYM_TARGET, symbol, own->type, own->vaddr);
		return NULL;
	}
	const struct pe_image_slot *slot = pe_image_ifunc_slot(sel->image, own->vaddr);
	if (!slot)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "changed code refers to %s, an indirect function of the "
				    "shipped binary that has no slot there",
				    symbol->name);
	fill(ret, PE_SYM_SLOT, symbol, STT_FUNC, slot->vaddr);
	return NULL;
}

struct pe_error *pe_sel_in_image(struct pe_sel *sel, const struct pe_object_symbol *symbol,
				 struct pe_sel_dest *ret, bool *found)
{
	size_t count;
	const struct pe_image_symbol *const *list = pe_image_find(sel->image, symbol->name, &count);
	const struct pe_image_symbol *shared = NULL, *local = NULL;
	bool several = false;

	*found = true;
	for (size_t i = 0; i < count; i++) {
		const struct pe_image_symbol *s = list[i];

		if (!usable(s))
			continue;
		if (s->bind != STB_LOCAL && !shared)
			shared = s;
		else if (s->bind == STB_LOCAL && local && local->vaddr != s->vaddr)
			several = true;
		else if (s->bind == STB_LOCAL)
			local = s;
	}
	if (shared)
		return fill_own(sel, symbol, shared, ret);
	const struct pe_image_slot *slot = pe_image_find_slot(sel->image, symbol->name, NULL);
	if (slot) {
		fill(ret, slot->type == R_X86_64_COPY ? PE_SYM_TARGET : PE_SYM_SLOT, symbol,
		     slot->symbol_type, slot->vaddr);
		return NULL;
	}
	if (several)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "changed code refers to %s, a name that several static "
				    "symbols of the shipped binary have",
				    symbol->name);
	*found = local;
	return local ? fill_own(sel, symbol, local, ret) : NULL;
}

/* ---- libraries ---- */

static const char *const library_folders[] = {
	"/lib/x86_64-linux-gnu",
	"/usr/lib/x86_64-linux-gnu",
	"/lib64",
	"/usr/lib64",
	"/lib",
	"/usr/lib",
};

static struct pe_error *libraries_open(struct pe_sel *sel)
{
	size_t count;
	const char *const *needed = pe_image_needed(sel->image, &count);

	sel->libraries_open = true;
	sel->libraries_complete = true;
	sel->libraries = calloc(count + 2, sizeof(struct pe_image *));
	if (!sel->libraries)
		return pe_error_nomem();
	if (sel->options->program) {
		struct pe_error *err =
			pe_image_open(sel->options->program, &sel->libraries[sel->library_count]);

		if (err)
			return err;
		sel->library_count++;
	}
	for (size_t i = 0; i < count; i++) {
		struct pe_image *library = NULL;

		for (size_t f = 0; f < sizeof(library_folders) / sizeof(*library_folders); f++) {
			pe_auto_free char *path = NULL;

			if (library)
				break;
			if (asprintf(&path, "%s/%s", library_folders[f], needed[i]) < 0)
				return pe_error_nomem();
			pe_error_free(access(path, R_OK) ? NULL : pe_image_open(path, &library));
		}
		if (library)
			sel->libraries[sel->library_count++] = library;
		else
			sel->libraries_complete = false;
	}
	return NULL;
}

void pe_sel_libraries_close(struct pe_sel *sel)
{
	for (size_t i = 0; i < sel->library_count; i++)
		pe_image_close(sel->libraries[i]);
	free(sel->libraries);
}

static const struct pe_image_symbol *in_libraries(const struct pe_sel *sel, const char *name)
{
	for (size_t i = 0; i < sel->library_count; i++) {
		size_t count;
		const struct pe_image_symbol *const *list =
			pe_image_find(sel->libraries[i], name, &count);

		for (size_t k = 0; k < count; k++) {
			if (list[k]->source == PE_SOURCE_DYNSYM && list[k]->bind != STB_LOCAL)
				return list[k];
		}
	}
	return NULL;
}

struct pe_error *pe_sel_outside(struct pe_sel *sel, const struct pe_object_symbol *symbol,
				struct pe_sel_dest *ret, bool *found)
{
	if (!sel->libraries_open) {
		struct pe_error *err = libraries_open(sel);
		if (err)
			return err;
	}
	const struct pe_image_symbol *definition = in_libraries(sel, symbol->name);
	bool weak = symbol->bind == STB_WEAK;

	*found = definition || weak || !sel->libraries_complete;
	if (definition)
		fill(ret, PE_SYM_IMPORT, symbol, definition->type, 0);
	else
		fill(ret, weak ? PE_SYM_ZERO : PE_SYM_IMPORT, symbol, symbol->type, 0);
	/* Which of a library's forms it has is not ours to say: the loader's choice at apply. */
	if (ret->type == STT_GNU_IFUNC)
		ret->type = STT_FUNC;
	return NULL;
}

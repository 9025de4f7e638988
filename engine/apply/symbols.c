/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The run-time values of what a patch refers to outside itself.
 *
 * Addresses in the patched images are bias + offset; slots hold what the dynamic linker bound; the
 * rest is looked up by name and version in the libraries of the process. An indirect function's
 * address is what its resolver says when the process itself calls it.
 */
#include "internal.h"

#include <elf.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/cleanup.h"

static const uint64_t resolver_timeout_us = 1000000;

static struct pe_error *resolve_import(struct pe_target *target, struct pe_plan *plan,
				       const struct pe_patch_symbol *symbol, uint32_t index)
{
	struct pe_import import;
	struct pe_error *err = pe_target_find_symbol(target, &plan->images, symbol->name,
						     symbol->library, symbol->version, &import);

	if (err) {
		if (err->code == PE_ERR_NO_TARGET)
			err->code = PE_ERR_UNSUPPORTED;
		return pe_error_wrap(err, "the patch needs %s%s%s", symbol->name,
				     symbol->library ? " of " : "",
				     symbol->library ? symbol->library : "");
	}
	plan->values[index] = import.addr;
	plan->ifunc[index] = import.is_ifunc;
	return NULL;
}

/*
 * A library that is being loaded has its slots as the file has them until the dynamic linker comes
 * to them: zero, or an address from before it was moved to its place.
 */
static struct pe_error *read_slot(struct pe_target *target, const struct pe_plan *plan,
				  const struct pe_patch_symbol *symbol, const struct pe_maps *maps,
				  uint64_t *value)
{
	uint64_t slot = plan->targets[symbol->target]->bias + symbol->value;
	struct pe_error *err = pe_target_read(target, slot, value, sizeof(*value));

	if (err)
		return pe_error_wrap(err, "cannot read the slot of %s", symbol->name);

	const struct pe_map *map = *value ? pe_maps_at(maps, *value) : NULL;

	if (map && (symbol->type != STT_FUNC || (map->prot & PROT_EXEC)))
		return NULL;
	return pe_error_new(*value ? PE_ERR_BUSY : PE_ERR_UNSUPPORTED,
			    "the slot of %s at 0x%lx is not bound in this process (0x%lx)",
			    symbol->name, (unsigned long)slot, (unsigned long)*value);
}

struct pe_error *plan_resolve_symbols(struct pe_target *target, struct pe_plan *plan)
{
	const struct pe_patch *patch = plan->patch;
	struct pe_maps maps = { 0 };
	struct pe_error *err = pe_target_maps(target, &maps);

	if (err)
		return err;
	plan->values = calloc(patch->symbol_count + 1, sizeof(*plan->values));
	plan->ifunc = calloc(patch->symbol_count + 1, sizeof(*plan->ifunc));
	if (!plan->values || !plan->ifunc)
		err = pe_error_nomem();
	for (uint32_t i = 0; !err && i < patch->symbol_count; i++) {
		const struct pe_patch_symbol *symbol = &patch->symbols[i];

		switch (symbol->kind) {
		case PE_SYM_TARGET:
			plan->values[i] = plan->targets[symbol->target]->bias + symbol->value;
			plan->ifunc[i] = symbol->type == STT_GNU_IFUNC;
			break;
		case PE_SYM_SLOT:
			err = read_slot(target, plan, symbol, &maps, &plan->values[i]);
			break;
		case PE_SYM_IMPORT:
			err = resolve_import(target, plan, symbol, i);
			break;
		case PE_SYM_TPOFF:
			plan->values[i] = symbol->value;
			break;
		case PE_SYM_ZERO:
		case PE_SYM_LOCAL:
			break;
		}
	}
	pe_maps_deinit(&maps);
	return err;
}

struct pe_error *plan_call_resolvers(struct pe_target *target, struct pe_plan *plan,
				     uint64_t deadline)
{
	static const uint64_t no_args[6];
	struct pe_injector *injector = NULL;
	struct pe_error *err = NULL;

	for (uint32_t i = 0; !err && i < plan->patch->symbol_count; i++) {
		if (!plan->ifunc[i])
			continue;
		if (!injector)
			err = inject_begin_until(target, PE_INJECT_FUNCTION, deadline, &injector);
		if (!err)
			err = pe_inject_call(injector, plan->values[i], no_args,
					     resolver_timeout_us, &plan->values[i]);
		if (err)
			err = pe_error_wrap(err, "cannot resolve the indirect function %s",
					    plan->patch->symbols[i].name);
		else
			plan->ifunc[i] = false;
	}
	if (injector) {
		struct pe_error *end = pe_inject_end(injector);

		if (err)
			pe_error_free(end);
		else
			err = end;
	}
	return err;
}

static bool has_eh_frame(const struct pe_patch *patch)
{
	for (size_t i = 0; i < patch->section_count; i++)
		if (patch->sections[i].kind == PE_SECTION_EH_FRAME)
			return true;
	return false;
}

static bool handles_exceptions(const struct pe_patch *patch)
{
	for (size_t i = 0; i < patch->section_count; i++)
		if (is_except_table(&patch->sections[i]))
			return true;
	return false;
}

/*
 * Unwind tables are made known to the libgcc_s that the process itself uses: exceptions and
 * pthread_cancel pass through new code by it. A patch that catches or cleans up cannot do without.
 */
struct pe_error *plan_resolve_unwind(struct pe_target *target, struct pe_plan *plan)
{
	static const char library[] = "libgcc_s.so.1";
	struct pe_import reg, dereg;

	if (!has_eh_frame(plan->patch))
		return NULL;

	pe_auto_error struct pe_error *err = pe_target_find_symbol(
		target, &plan->images, "__register_frame_info", library, NULL, &reg);
	pe_auto_error struct pe_error *err2 = pe_target_find_symbol(
		target, &plan->images, "__deregister_frame_info", library, NULL, &dereg);

	if (!err && !err2) {
		plan->register_function = reg.addr;
		plan->deregister_function = dereg.addr;
		return NULL;
	}
	if (handles_exceptions(plan->patch))
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "the patch handles exceptions, but the process has no %s to "
				    "register its unwind tables with",
				    library);
	plan->unwind_note = "no libgcc_s in the process: nothing can unwind through new code";
	return NULL;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From two versions of some objects and the shipped image to a patch. In plain words:
 *
 *  correlate  Find for every symbol of a patched object its counterpart in the base object,
 *	       whatever numbers the compiler put into its name (correlate.c).
 *  compare    Tell which functions changed: other bytes, or references that lead to something
 *	       else; or which data changed (compare.c).
 *  select     Changed functions that the image has are replaced; the match says where they are
 *	       and that they are what we think (select_functions.c). From them follow every
 *	       reference: what the image has is used there, what is new comes along
 *	       (select_closure.c, select_outside.c).
 *  guard      Refuse what no patch can do to a running process: other layouts of types in use,
 *	       changed data, constructors, signatures that others rely on, shared or too short
 *	       entries (guard*.c).
 *  emit       Copy sections, relax thread-local access, write relocations, symbols, unwind tables
 *	       and the replaced functions in a fixed order (emit.c, emit_unwind.c).
 *
 * What must not change at all is guarded before functions are selected, so that the refusal names
 * the cause and not a consequence.
 */
#include <elf.h>
#include <string.h>

#include "build/select_private.h"

static struct pe_error *unit_init(struct pe_sel_unit *unit, const struct pe_unit_objects *in,
				  const struct pe_arch *arch)
{
	unit->in = in;
	struct pe_error *err = pe_sel_object_init(&unit->base, in->base, arch);
	if (!err)
		err = pe_sel_object_init(&unit->patched, in->patched, arch);
	if (err)
		return err;
	unit->symbols = calloc(in->patched->symbol_count + 1, sizeof(*unit->symbols));
	unit->counterpart = calloc(in->base->symbol_count + 1, sizeof(struct pe_object_symbol *));
	unit->sections = calloc(in->patched->section_count + 1, sizeof(*unit->sections));
	return unit->symbols && unit->counterpart && unit->sections ? NULL : pe_error_nomem();
}

static void unit_deinit(struct pe_sel_unit *unit)
{
	for (size_t i = 0; unit->symbols && i < unit->in->patched->symbol_count; i++)
		free(unit->symbols[i].reason);
	for (size_t i = 0; unit->sections && i < unit->in->patched->section_count; i++)
		free(unit->sections[i].pieces);
	free(unit->symbols);
	free(unit->counterpart);
	free(unit->sections);
	pe_sel_debug_free(unit->debug);
	pe_sel_object_deinit(&unit->base);
	pe_sel_object_deinit(&unit->patched);
}

static struct pe_error *init(struct pe_sel *sel, const struct pe_unit_objects *units, size_t count)
{
	sel->arch = pe_arch_find(pe_image_machine(sel->image));
	if (!sel->arch)
		return pe_error_new(PE_ERR_UNSUPPORTED, "processor %u is not supported",
				    pe_image_machine(sel->image));
	sel->units = calloc(count + 1, sizeof(*sel->units));
	if (!sel->units)
		return pe_error_nomem();
	for (size_t i = 0; i < count; i++) {
		sel->unit_count++;
		struct pe_error *err = unit_init(&sel->units[i], &units[i], sel->arch);
		if (err)
			return err;
	}
	return NULL;
}

static void deinit(struct pe_sel *sel)
{
	for (size_t i = 0; i < sel->unit_count; i++)
		unit_deinit(&sel->units[i]);
	pe_sel_libraries_close(sel);
	free(sel->units);
	free(sel->work);
	free(sel->entangled_why);
}

static struct pe_error *correlate(struct pe_sel *sel)
{
	struct pe_error *err = NULL;

	for (size_t i = 0; i < sel->unit_count && !err; i++)
		err = pe_sel_correlate(&sel->units[i]);
	return err;
}

static void compare(struct pe_sel *sel)
{
	for (size_t i = 0; i < sel->unit_count; i++)
		pe_sel_compare(&sel->units[i]);
}

/* One replaced function may change by itself; several may when their maker says so. */
static struct pe_error *decide_independent(struct pe_sel *sel, struct pe_patch *patch)
{
	if (sel->options->force_independent && sel->entangled)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "the functions cannot change one by one (--independent): %s",
				    sel->entangled_why);
	patch->independent = sel->options->force_independent ||
			     (sel->replaced_count == 1 && !sel->options->force_dependent);
	return NULL;
}

/* ---- the report ---- */

static struct pe_error *report_add(struct pe_select_report *report, const char *symbol,
				   enum pe_changed_kind kind, const char *reason, uint64_t old_size,
				   uint64_t new_size)
{
	void *grown = reallocarray(report->items, report->count + 1, sizeof(*report->items));

	if (!grown)
		return pe_error_nomem();
	report->items = grown;
	struct pe_select_item *item = &report->items[report->count++];
	*item = (struct pe_select_item){ .name = pe_demangle(symbol),
					 .symbol = strdup(symbol),
					 .kind = kind,
					 .reason = strdup(reason),
					 .old_size = old_size,
					 .new_size = new_size };
	return item->name && item->symbol && item->reason ? NULL : pe_error_nomem();
}

static struct pe_error *report_symbol(const struct pe_sel_unit *unit, size_t index,
				      struct pe_select_report *report)
{
	const struct pe_object_symbol *p = &unit->in->patched->symbols[index];
	const struct pe_sel_symbol *s = &unit->symbols[index];
	const struct pe_object_symbol *cold = unit->patched.cold[index];
	const struct pe_object_symbol *base_cold = s->base ? unit->base.cold[s->base->index] : NULL;
	uint64_t size = p->size + (cold ? cold->size : 0);

	if (s->reason)
		return report_add(report, p->name, PE_CHANGED_REPLACED, s->reason,
				  s->base->size + (base_cold ? base_cold->size : 0), size);
	if (!p->section || !p->name[0] || p->type == STT_SECTION || pe_sel_is_label(p) ||
	    !unit->sections[p->section->index].included || s->replaced ||
	    unit->patched.parent[index])
		return NULL;
	if (pe_sel_is_text(p->section))
		return p->type == STT_FUNC
			       ? report_add(report, p->name, PE_CHANGED_NEW,
					    s->base ? "not in the shipped binary" : "new", 0, size)
			       : NULL;
	return report_add(report, p->name, PE_CHANGED_DATA_NEW,
			  s->base ? s->state == PE_SEL_CHANGED ? "changed constant"
							       : "copied constant"
				  : "new",
			  0, p->size);
}

static struct pe_error *fill_report(const struct pe_sel *sel, const struct pe_patch *patch,
				    struct pe_select_report *report)
{
	for (size_t u = 0; u < sel->unit_count; u++) {
		const struct pe_sel_unit *unit = &sel->units[u];

		for (size_t i = 1; i < unit->in->patched->symbol_count; i++) {
			struct pe_error *err = report_symbol(unit, i, report);
			if (err)
				return err;
		}
	}
	for (size_t i = 0; i < patch->symbol_count; i++)
		report->outside_symbols += patch->symbols[i].kind != PE_SYM_LOCAL;
	return NULL;
}

void pe_select_report_deinit(struct pe_select_report *report)
{
	for (size_t i = 0; i < report->count; i++) {
		free(report->items[i].name);
		free(report->items[i].symbol);
		free(report->items[i].reason);
	}
	free(report->items);
	*report = (struct pe_select_report){ 0 };
}

/* ---- the passes ---- */

static struct pe_error *run(struct pe_sel *sel, struct pe_patch *patch,
			    struct pe_select_report *report)
{
	struct pe_error *err = correlate(sel);

	if (!err) {
		compare(sel);
		err = pe_sel_guard_units(sel);
	}
	if (!err)
		err = pe_sel_functions(sel);
	if (!err)
		err = pe_sel_guard_signatures(sel);
	if (!err)
		err = pe_sel_guard_entries(sel);
	if (!err)
		err = pe_sel_closure(sel);
	if (!err)
		err = pe_sel_guard_exit(sel);
	if (!err)
		err = decide_independent(sel, patch);
	if (!err)
		err = pe_sel_emit(sel, patch);
	if (!err)
		err = fill_report(sel, patch, report);
	return err;
}

struct pe_error *pe_select(const struct pe_unit_objects *units, size_t unit_count,
			   const struct pe_image *image, const struct pe_select_options *options,
			   struct pe_patch *patch, struct pe_select_report *report)
{
	struct pe_sel sel = { .image = image, .options = options };

	*report = (struct pe_select_report){ 0 };
	struct pe_error *err = init(&sel, units, unit_count);
	if (!err)
		err = run(&sel, patch, report);
	deinit(&sel);
	if (err)
		pe_select_report_deinit(report);
	return err;
}

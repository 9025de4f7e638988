/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What in the shipped image leads to some of its bytes. Any four bytes of code that stand where an
 * instruction has its field and lead there, as a call, a jump or the loading of an address does,
 * and any pointer in its data. Nothing is decoded, so nothing is missed that a decoder would take
 * for something else; what is found by chance (once in thousands of questions) leads to a refusal.
 */
#include <elf.h>
#include <string.h>

#include "build/select_private.h"

bool pe_sel_is_replaced(const struct pe_sel *sel, uint64_t vaddr)
{
	for (size_t u = 0; u < sel->unit_count; u++) {
		const struct pe_sel_unit *unit = &sel->units[u];

		for (size_t i = 1; i < unit->in->patched->symbol_count; i++) {
			const struct pe_sel_symbol *s = &unit->symbols[i];

			if (s->reason && vaddr >= s->vaddr && vaddr < s->vaddr + s->size)
				return true;
		}
	}
	return false;
}

/* Do four bytes behind @before make the field of an instruction: call, jump, jcc, x(%rip)? */
static bool is_field(const uint8_t *code, size_t before)
{
	uint8_t last = before ? code[before - 1] : 0;

	return last == 0xe8 || last == 0xe9 || (last & 0xc7) == 0x05 ||
	       ((last & 0xf0) == 0x80 && before > 1 && code[before - 2] == 0x0f);
}

struct range {
	uint64_t start, end;
};

static bool leads_into(const struct pe_sel *sel, const struct range *to, uint64_t at,
		       const uint8_t *code, size_t i)
{
	int32_t field;

	memcpy(&field, code + i, 4);
	uint64_t relative = at + 4 + (uint64_t)(int64_t)field, absolute = (uint32_t)field;

	if (relative >= to->start && relative < to->end && is_field(code, i))
		return true;
	/* A program at a fixed address may load the address itself. */
	return !pe_image_is_pie(sel->image) && absolute >= to->start && absolute < to->end;
}

static struct pe_error *name_of(const struct pe_sel *sel, uint64_t vaddr, char **ret)
{
	const struct pe_image_symbol *symbol = pe_image_function_before(sel->image, vaddr);
	pe_auto_free char *name = symbol ? pe_demangle(symbol->name) : NULL;
	int ok = name ? asprintf(ret, "%s%s", name, strchr(name, '(') ? "" : "()")
		      : asprintf(ret, "code at 0x%lx", vaddr);

	return ok < 0 ? pe_error_nomem() : NULL;
}

static struct pe_error *search_code(const struct pe_sel *sel, const struct range *to,
				    uint64_t vaddr, uint64_t end, char **who)
{
	const uint8_t *code = NULL;
	uint64_t size = end - vaddr;

	/* The last page of a segment may be in the file in part. */
	while (size && !(code = pe_image_bytes(sel->image, vaddr, size)))
		size--;
	for (size_t i = 0; i + 4 <= size; i++) {
		if (leads_into(sel, to, vaddr + i, code, i) && !pe_sel_is_replaced(sel, vaddr + i))
			return name_of(sel, vaddr + i, who);
	}
	return NULL;
}

struct pe_error *pe_sel_reference(const struct pe_sel *sel, uint64_t start, uint64_t end,
				  char **who)
{
	static const uint64_t page = 4096;
	const struct range to = { start, end };
	uint64_t first, last, target;
	struct pe_error *err = NULL;

	*who = NULL;
	pe_image_extent(sel->image, &first, &last);
	for (uint64_t at = first & -page, from = at; at < last && !err && !*who; from = at) {
		bool code = pe_image_is_code(sel->image, from);

		for (at += page; at < last && code && pe_image_is_code(sel->image, at);)
			at += page;
		if (code)
			err = search_code(sel, &to, from, at, who);
	}
	for (uint64_t at = first & -(uint64_t)8; at < last && !err && !*who; at += 8) {
		if (pe_image_relative_at(sel->image, at, &target) && target >= start &&
		    target < end && asprintf(who, "a pointer at 0x%lx", at) < 0)
			err = pe_error_nomem();
	}
	return err;
}

/*
 * Bytes from @vaddr, the end of a function, that are no part of anything: no unwind table or symbol
 * begins there, nothing leads there. Functions are aligned to 16 bytes, so they are at most 15.
 */
struct pe_error *pe_sel_padding(const struct pe_sel *sel, uint64_t vaddr, size_t *ret)
{
	uint64_t end = (vaddr + 15) & -(uint64_t)16, start, stop;
	pe_auto_free char *who = NULL;
	size_t count;

	*ret = 0;
	if (pe_image_function_extent(sel->image, vaddr, &start, &stop))
		return NULL;
	if (pe_image_extent_from(sel->image, vaddr, &start, &stop) && start < end)
		end = start;
	for (uint64_t at = vaddr; at < end; at++) {
		pe_image_at(sel->image, at, &count);
		if (count || !pe_image_is_code(sel->image, at))
			end = at;
	}
	if (end == vaddr || !pe_image_bytes(sel->image, vaddr, end - vaddr))
		return NULL;
	struct pe_error *err = pe_sel_reference(sel, vaddr, end, &who);
	if (!err && !who)
		*ret = end - vaddr;
	return err;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The few instructions that we write ourselves: entry jump, selecting stub, far jump. */
#include "arch/x86_64/x86_64.h"

#include <string.h>

static const size_t select_stub_size = 18;
static const size_t plt_stub_size = 6;

void x86_put_u32(uint8_t *field, uint32_t value)
{
	memcpy(field, &value, sizeof(value));
}

struct pe_error *x86_put_rel32(const char *what, uint64_t next, uint64_t to, uint8_t *field)
{
	int64_t distance = (int64_t)(to - next);

	if (distance != (int32_t)distance)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "%s to 0x%lx is out of reach: it would stand before 0x%lx",
				    what, to, next);
	x86_put_u32(field, (uint32_t)distance);
	return NULL;
}

struct pe_error *x86_jump_encode(uint64_t from, uint64_t to, uint8_t *out)
{
	out[0] = 0xe9;
	return x86_put_rel32("a jump", from + X86_JUMP_SIZE, to, out + 1);
}

bool x86_jump_decode(uint64_t at, const uint8_t *code, size_t size, uint64_t *to)
{
	int32_t distance;

	if (size < X86_JUMP_SIZE || code[0] != 0xe9)
		return false;
	memcpy(&distance, code + 1, sizeof(distance));
	*to = at + X86_JUMP_SIZE + (uint64_t)(int64_t)distance;
	return true;
}

struct pe_error *x86_select_stub(uint64_t at, uint64_t word, uint64_t when_zero, uint64_t otherwise,
				 uint8_t *out, size_t *out_size)
{
	if (word % sizeof(uint32_t))
		return pe_error_new(PE_ERR_INTERNAL, "the word at 0x%lx is not aligned", word);

	/* cmpl $0, word(%rip); jne otherwise; jmp when_zero */
	static const uint8_t code[] = { 0x83, 0x3d, 0, 0, 0,	0, 0, 0x0f, 0x85,
					0,    0,    0, 0, 0xe9, 0, 0, 0,    0 };
	_Static_assert(sizeof(code) <= PE_STUB_MAX, "a stub is short");
	memcpy(out, code, select_stub_size);

	struct pe_error *err = x86_put_rel32("the selecting word", at + 7, word, out + 2);

	if (!err)
		err = x86_put_rel32("a jump", at + 13, otherwise, out + 9);
	if (!err)
		err = x86_put_rel32("a jump", at + 18, when_zero, out + 14);
	*out_size = select_stub_size;
	return err;
}

struct pe_error *x86_plt_stub(uint64_t at, uint64_t slot, uint8_t *out, size_t *out_size)
{
	/* jmp *slot(%rip) */
	out[0] = 0xff;
	out[1] = 0x25;
	*out_size = plt_stub_size;
	return x86_put_rel32("the slot of a far jump", at + plt_stub_size, slot, out + 2);
}

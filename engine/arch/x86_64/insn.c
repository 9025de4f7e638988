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

static uint8_t *put_mov64(uint8_t *at, const uint8_t opcode[2], uint64_t value)
{
	memcpy(at, opcode, 2);
	memcpy(at + 2, &value, sizeof(value));
	return at + 2 + sizeof(value);
}

/* movl $value, flag(%rip), at the run-time address @here. */
static struct pe_error *put_flag(uint8_t **at, uint64_t here, uint64_t flag, uint32_t value)
{
	uint8_t *out = *at;

	out[0] = 0xc7;
	out[1] = 0x05;
	x86_put_u32(out + 6, value);
	*at += 10;
	return x86_put_rel32("the flag of a call", here + 10, flag, out + 2);
}

struct pe_error *x86_call_stub(uint64_t at, uint64_t function, uint64_t arg0, uint64_t arg1,
			       uint64_t flag, uint32_t before, uint32_t after, uint8_t *out,
			       size_t *out_size)
{
	/* push %rbp; mov %rsp, %rbp; and $-16, %rsp */
	static const uint8_t enter[] = { 0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xe4, 0xf0 };
	static const uint8_t mov_rdi[] = { 0x48, 0xbf }, mov_rsi[] = { 0x48, 0xbe };
	static const uint8_t mov_rax[] = { 0x48, 0xb8 };
	static const uint8_t call_rax[] = { 0xff, 0xd0 }, leave_ret[] = { 0xc9, 0xc3 };
	uint8_t *end = out + sizeof(enter);

	_Static_assert(sizeof(enter) + 2 * 10 + 3 * 10 + 2 + 2 <= PE_STUB_MAX, "a stub is short");
	memcpy(out, enter, sizeof(enter));

	struct pe_error *err = put_flag(&end, at + (uint64_t)(end - out), flag, before);

	if (err)
		return err;
	end = put_mov64(end, mov_rdi, arg0);
	end = put_mov64(end, mov_rsi, arg1);
	end = put_mov64(end, mov_rax, function);
	memcpy(end, call_rax, sizeof(call_rax));
	end += sizeof(call_rax);
	err = put_flag(&end, at + (uint64_t)(end - out), flag, after);
	if (err)
		return err;
	memcpy(end, leave_ret, sizeof(leave_ret));
	*out_size = (size_t)(end - out) + sizeof(leave_ret);
	return NULL;
}

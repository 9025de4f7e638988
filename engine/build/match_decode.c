/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Decodes a relocation field of shipped x86-64 code: what does the image refer to where the object
 * has a relocation? Undoes the rewritings that linkers do (x86-64 psABI: B.2 "Optimize GOTPCRELX
 * Relocations"; "ELF Handling For Thread-Local Storage", 11.1.2: GD, LD and IE to IE or LE).
 *
 * P: address of the field, V: its value, A: addend. PC-relative fields hold S + A - P, so that
 * S = V + P - A whatever follows the field in its instruction.
 */
#include <elf.h>
#include <string.h>

#include "build/match_private.h"

struct field {
	const struct match_code *code;
	uint64_t at; /* of the field in the code */
	int64_t addend;
	const uint8_t *old, *new; /* the field in the object and in the image */
};

static int64_t value32(const uint8_t *bytes)
{
	int32_t value;

	memcpy(&value, bytes, sizeof(value));
	return value;
}

static uint64_t value64(const uint8_t *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return value;
}

/* S of a PC-relative field that stands @shift bytes off the relocation's own place. */
static uint64_t pc_relative(const struct field *field, int shift)
{
	uint64_t place = field->code->vaddr + field->at + (uint64_t)(int64_t)shift;

	return (uint64_t)value32(field->new + shift) + place - (uint64_t)field->addend;
}

static void cover(struct match_ref *ref, const struct field *field, uint64_t before, uint64_t after)
{
	ref->start = field->at - before;
	ref->end = field->at + after;
}

static uint8_t reg_of(uint8_t modrm)
{
	return modrm >> 3 & 7;
}

/* The REX prefix when a register moves from ModRM.reg to ModRM.rm: R becomes B. */
static uint8_t rex_moved(uint8_t rex)
{
	return (uint8_t)((rex & ~0x04) | (rex & 0x04) >> 2);
}

/* `OP foo@GOTPCREL(%rip), %reg` that became `OP $foo, %reg` with @opcode and @modrm. */
static bool became_immediate(const struct field *field, bool rex, uint8_t opcode, uint8_t modrm)
{
	return field->new[-2] == opcode && field->new[-1] == modrm &&
	       (!rex || field->new[-3] == rex_moved(field->old[-3]));
}

static void gotpcrel_decode(const struct field *field, bool rex, struct match_ref *ref)
{
	const uint8_t *old = field->old, *new = field->new;

	cover(ref, field, 0, 4);
	ref->kind = MATCH_REF_SLOT;
	ref->value = pc_relative(field, 0);
	if (field->at < (rex ? 3 : 2) || memcmp(old - 2, new - 2, 2) == 0)
		return;

	uint8_t reg = reg_of(old[-1]);
	if (old[-2] == 0x8b && new[-2] == 0x8d && old[-1] == new[-1]) { /* mov -> lea */
		cover(ref, field, 2, 4);
		ref->kind = MATCH_REF_ADDRESS;
	} else if (old[-2] == 0xff && old[-1] == 0x15 && new[-2] == 0x67 && new[-1] == 0xe8) {
		cover(ref, field, 2, 4); /* call *slot -> addr32 call */
		ref->kind = MATCH_REF_ADDRESS;
	} else if (old[-2] == 0xff &&
		   ((old[-1] == 0x25 && new[-2] == 0xe9) || (old[-1] == 0x15 && new[-2] == 0xe8)) &&
		   new[3] ==
			   0x90) { /* jmp *slot -> jmp; nop (call likewise with call-nop=suffix) */
		cover(ref, field, 2, 4);
		ref->kind = MATCH_REF_ADDRESS;
		ref->value = pc_relative(field, -1);
	} else if ((old[-2] == 0x8b && became_immediate(field, rex, 0xc7, 0xc0 | reg)) ||
		   (old[-2] == 0x85 && became_immediate(field, rex, 0xf7, 0xc0 | reg)) ||
		   ((old[-2] & 0xc7) == 0x03 &&
		    became_immediate(field, rex, 0x81, 0xc0 | (old[-2] & 0x38) | reg))) {
		cover(ref, field, rex ? 3 : 2, 4);
		ref->kind = MATCH_REF_ADDRESS;
		ref->value = (uint64_t)value32(new);
	}
}

/* TLS block offset of a variable at @tpoff from the thread pointer. */
static void tls_ref(const struct match_state *state, int64_t tpoff, struct match_ref *ref)
{
	ref->kind = MATCH_REF_TLS;
	ref->value = (uint64_t)tpoff + state->tls_end;
}

static const uint8_t mov_fs0_rax[] = { 0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0 };

/* data16 lea x@tlsgd(%rip),%rdi; data16 data16 rex64 call __tls_get_addr: 16 bytes. */
static void tlsgd_decode(const struct match_state *state, const struct field *field,
			 struct match_ref *ref)
{
	const uint8_t *new = field->new - 4;

	cover(ref, field, 0, 4);
	ref->kind = MATCH_REF_PAIR;
	ref->value = pc_relative(field, 0);
	if (field->at < 4 || field->code->size - field->at < 12 ||
	    memcmp(new, mov_fs0_rax, sizeof(mov_fs0_rax)) != 0)
		return;
	if (new[9] == 0x48 && new[10] == 0x8d && new[11] == 0x80) { /* lea x@tpoff(%rax),%rax */
		cover(ref, field, 4, 12);
		tls_ref(state, value32(new + 12), ref);
	} else if (new[9] == 0x48 && new[10] == 0x03 && new[11] == 0x05) { /* add slot,%rax */
		cover(ref, field, 4, 12);
		ref->kind = MATCH_REF_SLOT;
		ref->value = field->code->vaddr + field->at + 12 + (uint64_t)value32(new + 12);
	}
}

/* lea x@tlsld(%rip),%rdi; call __tls_get_addr: 12 bytes, 13 when the call is indirect. */
static void tlsld_decode(const struct field *field, struct match_ref *ref)
{
	cover(ref, field, 0, 4);
	ref->kind = MATCH_REF_MODULE;
	ref->value = pc_relative(field, 0);
	for (uint64_t prefixes = 3; prefixes <= 4; prefixes++) {
		const uint8_t *new = field->new - 3;

		if (field->at < 3 || field->code->size - field->at < prefixes + 6 ||
		    memcmp(new, "\x66\x66\x66\x66", prefixes) != 0 ||
		    memcmp(new + prefixes, mov_fs0_rax, sizeof(mov_fs0_rax)) != 0)
			continue;
		cover(ref, field, 3, prefixes + 6);
		ref->kind = MATCH_REF_NONE;
		return;
	}
}

/* mov or add x@gottpoff(%rip),%reg. */
static void gottpoff_decode(const struct match_state *state, const struct field *field,
			    struct match_ref *ref)
{
	const uint8_t *old = field->old, *new = field->new;

	cover(ref, field, 0, 4);
	ref->kind = MATCH_REF_SLOT;
	ref->value = pc_relative(field, 0);
	if (field->at < 3 || memcmp(old - 3, new - 3, 3) == 0)
		return;

	uint8_t reg = reg_of(old[-1]), rex = old[-3];
	bool immediate = (old[-2] == 0x8b && became_immediate(field, true, 0xc7, 0xc0 | reg)) ||
			 (old[-2] == 0x03 && became_immediate(field, true, 0x81, 0xc0 | reg));
	bool lea = old[-2] == 0x03 && new[-2] == 0x8d && new[-1] == (0x80 | reg | reg << 3) &&
		   new[-3] == (uint8_t)(rex | (rex & 0x04) >> 2);
	if (immediate || lea) {
		cover(ref, field, 3, 4);
		tls_ref(state, value32(new), ref);
	}
}

/* Local dynamic: an offset in the block, or from the thread pointer (negative) once relaxed. */
static void dtpoff_decode(const struct match_state *state, const struct field *field,
			  struct match_ref *ref)
{
	int64_t offset = value32(field->new) - field->addend;

	cover(ref, field, 0, 4);
	ref->kind = MATCH_REF_TLS;
	ref->value = (uint64_t)(offset < 0 ? offset + (int64_t)state->tls_end : offset);
}

static bool wide(uint32_t type)
{
	return type == R_X86_64_64 || type == R_X86_64_PC64;
}

bool match_decode(const struct match_state *state, const struct match_code *code,
		  const struct pe_object_reloc *reloc, struct match_ref *ret)
{
	struct field field = { code, reloc->offset - code->offset, reloc->addend, NULL, NULL };
	uint64_t size = wide(reloc->type) ? 8 : 4;

	if (field.at > code->size || size > code->size - field.at)
		return false;
	field.old = code->object + field.at;
	field.new = code->image + field.at;
	*ret = (struct match_ref){ .reloc = reloc };
	cover(ret, &field, 0, size);
	switch (reloc->type) {
	case R_X86_64_PC32:
	case R_X86_64_PLT32:
		ret->kind = MATCH_REF_ADDRESS;
		ret->value = pc_relative(&field, 0);
		return true;
	case R_X86_64_PC64:
		ret->kind = MATCH_REF_ADDRESS;
		ret->value = value64(field.new) + code->vaddr + field.at - (uint64_t)reloc->addend;
		return true;
	case R_X86_64_32:
		ret->kind = MATCH_REF_ADDRESS;
		ret->value = (uint32_t)value32(field.new) - (uint64_t)reloc->addend;
		return true;
	case R_X86_64_32S:
		ret->kind = MATCH_REF_ADDRESS;
		ret->value = (uint64_t)value32(field.new) - (uint64_t)reloc->addend;
		return true;
	case R_X86_64_64:
		ret->kind = MATCH_REF_SLOT;
		ret->value = code->vaddr + field.at;
		return true;
	case R_X86_64_GOTPCREL:
	case R_X86_64_GOTPCRELX:
		gotpcrel_decode(&field, false, ret);
		return true;
	case R_X86_64_REX_GOTPCRELX:
		gotpcrel_decode(&field, true, ret);
		return true;
	case R_X86_64_TLSGD:
		tlsgd_decode(state, &field, ret);
		return true;
	case R_X86_64_TLSLD:
		tlsld_decode(&field, ret);
		return true;
	case R_X86_64_GOTTPOFF:
		gottpoff_decode(state, &field, ret);
		return true;
	case R_X86_64_DTPOFF32:
		dtpoff_decode(state, &field, ret);
		return true;
	case R_X86_64_TPOFF32:
		tls_ref(state, value32(field.new) - reloc->addend, ret);
		return true;
	default:
		return false;
	}
}

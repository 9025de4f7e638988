/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A small valid patch that has one of everything: both unit tests and fuzzer start from it.
 * Everything is allocated, so that tests may change it and pe_patch_free() it.
 */
#ifndef SAMPLE_PATCH_H
#define SAMPLE_PATCH_H

#include <assert.h>
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "patch/format.h"

enum {
	SAMPLE_TEXT,
	SAMPLE_RODATA,
	SAMPLE_DATA,
	SAMPLE_BSS,
	SAMPLE_EH_FRAME,
	SAMPLE_SECTIONS,
};

enum {
	SAMPLE_FOO,	/* LOCAL, global, .text */
	SAMPLE_HELPER,	/* LOCAL, .text */
	SAMPLE_STRING,	/* LOCAL, section symbol of .rodata */
	SAMPLE_COUNTER, /* LOCAL, .bss */
	SAMPLE_TARGET,
	SAMPLE_SLOT,
	SAMPLE_IMPORT,
	SAMPLE_TPOFF,
	SAMPLE_ZERO,
	SAMPLE_SYMBOLS,
};

static inline void *sample_copy(const void *bytes, size_t size)
{
	void *copy = malloc(size ? size : 1);

	assert(copy);
	return memcpy(copy, bytes, size);
}

/* Makes the checksum of a damaged file right, so that what is behind it is tried; a file whose
 * headers do not lead to the checksum stays as it is. */
static inline void sample_seal(uint8_t *bytes, size_t size)
{
	Elf64_Ehdr eh;
	Elf64_Shdr sh;
	uint8_t sum[PE_SHA256_SIZE];

	if (size < sizeof(eh))
		return;
	memcpy(&eh, bytes, sizeof(eh));
	/* The last section but one. */
	uint64_t at = eh.e_shoff + (eh.e_shnum - 2UL) * sizeof(sh);

	if (eh.e_shnum < 2 || eh.e_shoff > size || at > size || size - at < sizeof(sh))
		return;
	memcpy(&sh, bytes + at, sizeof(sh));
	if (sh.sh_offset > size || size - sh.sh_offset < sizeof(sum))
		return;
	care_checksum(bytes, size, sh.sh_offset, sum);
	memcpy(bytes + sh.sh_offset, sum, sizeof(sum));
}

static inline void sample_section(struct pe_patch *p, size_t i, const char *name,
				  enum pe_patch_section_kind kind, uint64_t align,
				  const void *bytes, size_t size)
{
	p->sections[i] = (struct pe_patch_section){
		.name = strdup(name),
		.kind = kind,
		.size = size,
		.align = align,
		.data = bytes ? sample_copy(bytes, size) : NULL,
	};
}

static inline void sample_relocs(struct pe_patch *p, size_t i, const struct pe_patch_reloc *relocs,
				 size_t count)
{
	p->sections[i].relocs = sample_copy(relocs, count * sizeof(*relocs));
	p->sections[i].reloc_count = count;
}

static inline void sample_sections(struct pe_patch *p)
{
	static const uint8_t text[] = {
		/* foo: */
		0x48, 0x8d, 0x3d, 0, 0, 0, 0,	    /* lea string(%rip),%rdi */
		0x48, 0x8b, 0x05, 0, 0, 0, 0,	    /* mov slot@GOTPCREL(%rip),%rax */
		0x64, 0x8b, 0x14, 0x25, 0, 0, 0, 0, /* mov %fs:tls@tpoff,%edx */
		0xff, 0x05, 0, 0, 0, 0,		    /* incl counter(%rip) */
		0xe9, 0, 0, 0, 0,		    /* jmp import */
		/* helper: */
		0xe8, 0, 0, 0, 0,		 /* call target */
		0x48, 0x83, 0x3d, 0, 0, 0, 0, 0, /* cmpq $0,weak@GOTPCREL(%rip) */
		0xc3,				 /* ret */
	};
	static const uint8_t rodata[] = "hello from a patch";
	static const uint8_t data[8] = { 0 };
	static const uint8_t eh_frame[] = { /* CIE "zR", pc-relative sdata4 */
					    20, 0, 0, 0, 0, 0, 0, 0, 1, 'z', 'R', 0, 1, 0x78, 16, 1,
					    0x1b, 0x0c, 7, 8, 0x90, 1, 0, 0,
					    /* FDE of foo */
					    16, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 33, 0, 0, 0, 0, 0,
					    0, 0,
					    /* terminator */
					    0, 0, 0, 0
	};
	static const struct pe_patch_reloc text_relocs[] = {
		{ 3, R_X86_64_PC32, SAMPLE_STRING, -4 },
		{ 10, R_X86_64_REX_GOTPCRELX, SAMPLE_SLOT, -4 },
		{ 18, R_X86_64_TPOFF32, SAMPLE_TPOFF, 0 },
		{ 24, R_X86_64_PC32, SAMPLE_COUNTER, -4 },
		{ 29, R_X86_64_PLT32, SAMPLE_IMPORT, -4 },
		{ 34, R_X86_64_PLT32, SAMPLE_TARGET, -4 },
		{ 41, R_X86_64_GOTPCREL, SAMPLE_ZERO, -5 },
	};
	static const struct pe_patch_reloc data_relocs[] = {
		{ 0, R_X86_64_64, SAMPLE_HELPER, 0 },
	};
	static const struct pe_patch_reloc eh_frame_relocs[] = {
		{ 32, R_X86_64_PC32, SAMPLE_FOO, 0 },
	};

	p->sections = calloc(SAMPLE_SECTIONS, sizeof(*p->sections));
	assert(p->sections);
	p->section_count = SAMPLE_SECTIONS;
	sample_section(p, SAMPLE_TEXT, ".text.foo", PE_SECTION_TEXT, 16, text, sizeof(text));
	sample_section(p, SAMPLE_RODATA, ".rodata.str", PE_SECTION_RODATA, 1, rodata,
		       sizeof(rodata));
	sample_section(p, SAMPLE_DATA, ".data.rel.ro", PE_SECTION_DATA, 8, data, sizeof(data));
	sample_section(p, SAMPLE_BSS, ".bss.counter", PE_SECTION_BSS, 64, NULL, 256);
	sample_section(p, SAMPLE_EH_FRAME, ".eh_frame", PE_SECTION_EH_FRAME, 8, eh_frame,
		       sizeof(eh_frame));
	sample_relocs(p, SAMPLE_TEXT, text_relocs, sizeof(text_relocs) / sizeof(*text_relocs));
	sample_relocs(p, SAMPLE_DATA, data_relocs, sizeof(data_relocs) / sizeof(*data_relocs));
	sample_relocs(p, SAMPLE_EH_FRAME, eh_frame_relocs,
		      sizeof(eh_frame_relocs) / sizeof(*eh_frame_relocs));
}

static inline void sample_symbols(struct pe_patch *p)
{
	static const struct pe_patch_symbol symbols[SAMPLE_SYMBOLS] = {
		[SAMPLE_FOO] = { .name = (char *)"_ZN4Item3fooEv",
				 .kind = PE_SYM_LOCAL,
				 .type = STT_FUNC,
				 .global = true,
				 .section = SAMPLE_TEXT,
				 .size = 33 },
		[SAMPLE_HELPER] = { .name = (char *)"helper",
				    .kind = PE_SYM_LOCAL,
				    .type = STT_FUNC,
				    .section = SAMPLE_TEXT,
				    .value = 33,
				    .size = 14 },
		[SAMPLE_STRING] = { .name = (char *)"",
				    .kind = PE_SYM_LOCAL,
				    .type = STT_SECTION,
				    .section = SAMPLE_RODATA },
		[SAMPLE_COUNTER] = { .name = (char *)"counter.0",
				     .kind = PE_SYM_LOCAL,
				     .type = STT_OBJECT,
				     .section = SAMPLE_BSS,
				     .value = 64,
				     .size = 4 },
		[SAMPLE_TARGET] = { .name = (char *)"my_error",
				    .kind = PE_SYM_TARGET,
				    .type = STT_FUNC,
				    .global = true,
				    .value = 0xe86e50 },
		[SAMPLE_SLOT] = { .name = (char *)"stderr",
				  .kind = PE_SYM_SLOT,
				  .type = STT_OBJECT,
				  .global = true,
				  .value = 0x18ca008,
				  .size = 8 },
		[SAMPLE_IMPORT] = { .name = (char *)"puts",
				    .kind = PE_SYM_IMPORT,
				    .type = STT_FUNC,
				    .global = true,
				    .library = (char *)"libc.so.6",
				    .version = (char *)"GLIBC_2.2.5" },
		[SAMPLE_TPOFF] = { .name = (char *)"THR_KEY_mysys",
				   .kind = PE_SYM_TPOFF,
				   .type = STT_TLS,
				   .value = (uint64_t)-64 },
		[SAMPLE_ZERO] = { .name = (char *)"__gmon_start__", .kind = PE_SYM_ZERO },
	};

	p->symbols = sample_copy(symbols, sizeof(symbols));
	p->symbol_count = SAMPLE_SYMBOLS;
	for (size_t i = 0; i < SAMPLE_SYMBOLS; i++) {
		struct pe_patch_symbol *s = &p->symbols[i];

		s->name = strdup(s->name);
		s->library = s->library ? strdup(s->library) : NULL;
		s->version = s->version ? strdup(s->version) : NULL;
	}
}

static inline void sample_functions(struct pe_patch *p)
{
	static const struct pe_patch_range foo[] = { { 0x8c0100, 200, { 1, 2, 3 } },
						     { 0x6a0000, 30, { 4, 5, 6 } } };
	static const struct pe_patch_range helper[] = { { 0x8c0200, 64, { 7 } } };

	p->functions = calloc(2, sizeof(*p->functions));
	assert(p->functions);
	p->function_count = 2;
	p->functions[0] = (struct pe_patch_function){
		.name = strdup("_ZN4Item3fooEv"),
		.reason = strdup("changed"),
		.symbol = SAMPLE_FOO,
		.ranges = sample_copy(foo, sizeof(foo)),
		.range_count = 2,
		.entry_size = 6,
		.displaced_call = true,
	};
	p->functions[1] = (struct pe_patch_function){
		.name = strdup("helper"),
		.symbol = SAMPLE_HELPER,
		.ranges = sample_copy(helper, sizeof(helper)),
		.range_count = 1,
		.entry_skip = 4,
		.entry_size = 5,
	};
}

static inline void sample_targets(struct pe_patch *p)
{
	p->targets = calloc(2, sizeof(*p->targets));
	assert(p->targets);
	p->target_count = 2;
	p->targets[0] = (struct pe_patch_target){
		.name = strdup("mariadbd"),
		.is_program = true,
		.is_pie = true,
		.build_id = { 4, { 0x7a, 0x14, 0xd3, 0x9c } },
		.machine = EM_X86_64,
	};
	p->targets[1] = (struct pe_patch_target){
		.name = strdup("libssl.so.3"),
		.is_pie = true,
		.build_id = { 2, { 0x01, 0x02 } },
		.machine = EM_X86_64,
	};
}

static inline struct pe_patch *sample_patch(void)
{
	struct pe_patch *p = pe_patch_new();

	assert(p);
	p->name = strdup("cve-2026-49261");
	p->description = strdup("Quotes what \xe2\x80\x9cwsrep\xe2\x80\x9d passes on\nto a shell");
	p->kind = strdup("security");
	p->product = strdup("db");
	p->level = 3;
	p->independent = true;
	p->compiler = strdup("gcc 12.2.0");
	p->flags = strdup("-O2 -g");
	p->source_sha256 =
		strdup("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
	p->cves = calloc(1, sizeof(*p->cves));
	p->gates = calloc(1, sizeof(*p->gates));
	p->notes = calloc(1, sizeof(*p->notes));
	assert(p->cves && p->gates && p->notes);
	p->cve_count = 1;
	p->cves[0].id = strdup("CVE-2026-49261");
	p->cves[0].cvss = strdup("10.0");
	p->gate_count = 1;
	p->gates[0] = strdup("no-ddl");
	p->note_count = 1;
	p->notes[0] = strdup("README is no part of the program");
	p->diff = strdup("--- a/foo.c\n+++ b/foo.c\n@@ -1 +1 @@\n-one\n+two\n");
	p->diff_size = strlen(p->diff);
	sample_targets(p);
	sample_sections(p);
	sample_symbols(p);
	sample_functions(p);
	return p;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The frame that lets an injected call heal itself: a complete rt_sigframe of x86-64 that
 * rt_sigreturn turns into the thread's original registers, floating point state and signal mask.
 */
#ifndef ENGINE_ARCH_X86_64_SIGFRAME_H
#define ENGINE_ARCH_X86_64_SIGFRAME_H

#include <stddef.h>
#include <stdint.h>
#include <sys/user.h>

#include "engine/error.h"

enum {
	PE_SIGFRAME_SCRATCH = 1024, /* bytes for the caller */
	PE_SIGFRAME_CALL = 16, /* bytes below the frame for what a called function returns to */
	PE_SIGFRAME_SW_BYTES = 48,
	PE_SIGFRAME_SW_OFFSET = 464, /* in the FXSAVE area */
};

/* What the kernel puts in signal frames of this machine, as one of our own shows. */
struct pe_sigframe_format {
	uint64_t uc_flags;
	uint8_t sw_bytes[PE_SIGFRAME_SW_BYTES]; /* struct _fpx_sw_bytes */
	uint64_t xfeatures;
	uint32_t xstate_size;
};

struct pe_sigframe {
	uint64_t sp;	  /* of the frame: holds the address of __restore_rt; 8 modulo 16 */
	uint64_t call;	  /* PE_SIGFRAME_CALL bytes right below sp */
	uint64_t result;  /* 8 bytes where a called function's result is kept */
	uint64_t scratch; /* PE_SIGFRAME_SCRATCH bytes, 16-byte aligned */
	uint64_t base;	  /* run-time address of bytes[0]; equal to call */
	uint8_t *bytes;	  /* owned */
	size_t size;
};

/*
 * Builds the frame for a thread that must go on with @regs (below their red zone), @sigmask and
 * the floating point state @xstate (NT_X86_XSTATE, @xstate_size bytes). UNSUPPORTED when the
 * thread uses processor state that a signal frame of this machine does not carry.
 */
struct pe_error *pe_sigframe_build(const struct pe_sigframe_format *format,
				   const struct user_regs_struct *regs, uint64_t sigmask,
				   const uint8_t *xstate, size_t xstate_size, uint64_t restore_rt,
				   struct pe_sigframe *ret) pe_must_check;
void pe_sigframe_deinit(struct pe_sigframe *frame);

#endif

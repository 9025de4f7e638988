/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The self-healing frame. Layout, from high addresses to low:
 *
 *	original sp
 *	128 bytes of red zone, untouched
 *	scratch, result slot
 *	XSAVE area (64-byte aligned), MAGIC2
 *	struct rt_sigframe of the kernel: return address, ucontext, siginfo
 *	what a called function returns through (16 bytes)
 *
 * The rules are those of arch/x86/kernel/signal_64.c and fpu/signal.c: rt_sigreturn reads the
 * frame at sp - 8, wants magic numbers and sizes of the XSAVE area that fit, resets all floating
 * point state when there is none, and ignores an alternate stack that it cannot set.
 */
#include "arch/x86_64/sigframe.h"

#include <string.h>

#include "engine/cleanup.h"

enum {
	RED_ZONE = 128,
	XSTATE_BV_OFFSET = 512, /* XSAVE header */
	FXSAVE_AND_HEADER = 576,
	MAGIC1 = 0x46505853,
	MAGIC2 = 0x46505845,
	/* Neither SS_ONSTACK nor SS_DISABLE: sigaltstack refuses it, and nothing is changed. */
	SS_FLAGS_INVALID = 4,
	USER_CS = 0x33,
};

/* struct sigcontext, struct ucontext and struct rt_sigframe as the kernel has them. */
struct kernel_sigcontext {
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
	uint16_t cs, gs, fs, ss;
	uint64_t err, trapno, oldmask, cr2;
	uint64_t fpstate;
	uint64_t reserved[8];
};

struct kernel_ucontext {
	uint64_t flags, link;
	uint64_t stack_sp;
	int32_t stack_flags, stack_padding;
	uint64_t stack_size;
	struct kernel_sigcontext mcontext;
	uint64_t sigmask;
};

struct kernel_rt_sigframe {
	uint64_t pretcode;
	struct kernel_ucontext uc;
	uint8_t siginfo[128];
};

_Static_assert(sizeof(struct kernel_sigcontext) == 256, "sigcontext of the kernel's ABI");
_Static_assert(sizeof(struct kernel_ucontext) == 304, "ucontext of the kernel's ABI");
_Static_assert(sizeof(struct kernel_rt_sigframe) == 440, "rt_sigframe of the kernel's ABI");

static void fill_sigcontext(struct kernel_sigcontext *sc, const struct user_regs_struct *regs,
			    uint64_t fpstate)
{
	*sc = (struct kernel_sigcontext){
		.r8 = regs->r8,
		.r9 = regs->r9,
		.r10 = regs->r10,
		.r11 = regs->r11,
		.r12 = regs->r12,
		.r13 = regs->r13,
		.r14 = regs->r14,
		.r15 = regs->r15,
		.rdi = regs->rdi,
		.rsi = regs->rsi,
		.rbp = regs->rbp,
		.rbx = regs->rbx,
		.rdx = regs->rdx,
		.rax = regs->rax,
		.rcx = regs->rcx,
		.rsp = regs->rsp,
		.rip = regs->rip,
		.eflags = regs->eflags,
		.cs = (uint16_t)regs->cs,
		.ss = (uint16_t)regs->ss,
		.fpstate = fpstate,
	};
}

static struct pe_error *check_state(const struct pe_sigframe_format *format,
				    const struct user_regs_struct *regs, const uint8_t *xstate,
				    size_t xstate_size)
{
	uint32_t magic1;
	uint64_t in_use;

	memcpy(&magic1, format->sw_bytes, sizeof(magic1));
	if (magic1 != MAGIC1 || format->xstate_size < FXSAVE_AND_HEADER)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "signal frames of this machine have no XSAVE area");
	if (regs->cs != USER_CS)
		return pe_error_new(PE_ERR_UNSUPPORTED, "the thread runs 32-bit code (cs %#llx)",
				    regs->cs);
	if (xstate_size < format->xstate_size)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "the thread's processor state has %zu bytes, a signal frame %u",
				    xstate_size, format->xstate_size);
	memcpy(&in_use, xstate + XSTATE_BV_OFFSET, sizeof(in_use));
	if (in_use & ~format->xfeatures)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "the thread uses processor state %#lx that a signal frame "
				    "(%#lx) does not carry",
				    (unsigned long)in_use, (unsigned long)format->xfeatures);
	return NULL;
}

struct pe_error *pe_sigframe_build(const struct pe_sigframe_format *format,
				   const struct user_regs_struct *regs, uint64_t sigmask,
				   const uint8_t *xstate, size_t xstate_size, uint64_t restore_rt,
				   struct pe_sigframe *ret)
{
	struct pe_error *err = check_state(format, regs, xstate, xstate_size);

	if (err)
		return err;

	uint64_t top = (regs->rsp - RED_ZONE) & ~15ULL;
	struct pe_sigframe frame = { .scratch = top - PE_SIGFRAME_SCRATCH };

	frame.result = frame.scratch - 16;

	const uint32_t magic2 = MAGIC2;
	uint64_t fpstate = (frame.result - format->xstate_size - sizeof(magic2)) & ~63ULL;

	frame.sp = ((fpstate - sizeof(struct kernel_rt_sigframe)) & ~15ULL) - 8;
	frame.call = frame.base = frame.sp - PE_SIGFRAME_CALL;
	frame.size = top - frame.base;
	frame.bytes = calloc(1, frame.size);
	if (!frame.bytes)
		return pe_error_nomem();

	struct kernel_rt_sigframe rt = {
		.pretcode = restore_rt,
		.uc.flags = format->uc_flags,
		.uc.stack_flags = SS_FLAGS_INVALID,
		.uc.sigmask = sigmask,
	};

	fill_sigcontext(&rt.uc.mcontext, regs, fpstate);
	memcpy(frame.bytes + (frame.sp - frame.base), &rt, sizeof(rt));

	uint8_t *fp = frame.bytes + (fpstate - frame.base);

	memcpy(fp, xstate, format->xstate_size);
	memcpy(fp + PE_SIGFRAME_SW_OFFSET, format->sw_bytes, sizeof(format->sw_bytes));
	memcpy(fp + format->xstate_size, &magic2, sizeof(magic2));
	*ret = frame;
	return NULL;
}

void pe_sigframe_deinit(struct pe_sigframe *frame)
{
	free(frame->bytes);
	memset(frame, 0, sizeof(*frame));
}

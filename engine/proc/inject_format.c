/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What signal frames look like on this machine: one of our own tells. NT_X86_XSTATE would tell a
 * size that includes features which need permission (AMX).
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "inject.h"

static struct pe_sigframe_format own_format;
static bool own_format_known;

static void capture_format(int sig, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;
	const uint8_t *fp = (const uint8_t *)uc->uc_mcontext.fpregs;

	own_format.uc_flags = uc->uc_flags;
	if (!fp)
		return;
	memcpy(own_format.sw_bytes, fp + PE_SIGFRAME_SW_OFFSET, PE_SIGFRAME_SW_BYTES);
	/* struct _fpx_sw_bytes: magic1, extended_size, xfeatures, xstate_size */
	memcpy(&own_format.xfeatures, own_format.sw_bytes + 8, sizeof(own_format.xfeatures));
	memcpy(&own_format.xstate_size, own_format.sw_bytes + 16, sizeof(own_format.xstate_size));
}

struct pe_error *inject_learn_format(void)
{
	struct sigaction action = { .sa_sigaction = capture_format, .sa_flags = SA_SIGINFO };
	struct sigaction old;
	int sig = SIGRTMAX - 2;
	sigset_t set, old_set;

	if (own_format_known)
		return NULL;
	sigemptyset(&set);
	sigaddset(&set, sig);
	if (sigaction(sig, &action, &old))
		return pe_error_errno(errno, "cannot catch a signal");
	sigprocmask(SIG_UNBLOCK, &set, &old_set);
	raise(sig);
	sigprocmask(SIG_SETMASK, &old_set, NULL);
	sigaction(sig, &old, NULL);
	own_format_known = true;
	return NULL;
}

const struct pe_sigframe_format *inject_own_format(void)
{
	return &own_format;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Cancelling: signals that would end the patcher are held back while it works, and looked at only
 * where nothing is half done. Up to the commit they take the operation back; afterwards it is
 * finished, and they have come too late.
 */
#include "internal.h"

#include <signal.h>
#include <string.h>
#include <time.h>

static _Thread_local bool may_cancel;

static sigset_t cancelling_signals(void)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		sigaddset(&set, numbers[i]);
	return set;
}

void cancel_begin(const struct pe_apply_options *options, sigset_t *before)
{
	sigset_t set = cancelling_signals();

	may_cancel = options && options->cancellable;
	if (may_cancel)
		pthread_sigmask(SIG_BLOCK, &set, before);
}

void cancel_end(const struct pe_apply_options *options, const sigset_t *before)
{
	const struct timespec now = { 0 };
	sigset_t set = cancelling_signals();

	may_cancel = false;
	if (!options || !options->cancellable)
		return;
	/* They have had their effect, or came too late for it. */
	while (sigtimedwait(&set, NULL, &now) > 0)
		;
	pthread_sigmask(SIG_SETMASK, before, NULL);
}

void cancel_forbid(void)
{
	may_cancel = false;
}

struct pe_error *cancel_check(void)
{
	sigset_t set = cancelling_signals(), pending;

	if (!may_cancel || sigpending(&pending))
		return NULL;
	for (int number = 1; number < SIGRTMIN; number++)
		if (sigismember(&set, number) && sigismember(&pending, number))
			return pe_error_new(PE_ERR_CANCELLED, "cancelled by signal SIG%s",
					    sigabbrev_np(number));
	return NULL;
}

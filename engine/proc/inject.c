/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Injected calls that heal themselves.
 *
 * A complete signal frame with the thread's original state lies below its red zone before its
 * registers are touched. Every call returns into that frame: a system call through `syscall; ret`
 * of the C library, a function through `mov %rax, (%rbx); pop %rbx; ret`, which keeps its result;
 * both then into __restore_rt. If we die at any moment, the thread finishes the call, returns
 * from the "signal" and issues its interrupted system call again. If we live, rt_sigreturn is
 * never executed: the thread is led back to where it was stopped, inside the kernel's signal
 * code, and gets its registers there, so that the kernel itself restarts the interrupted call
 * (with the time that was left of its timeout, and with EINTR if a handler runs).
 *
 * Order: registers before mask on the way in, mask before registers on the way out. The other
 * order would leave a thread with all signals blocked and no frame to give them back.
 */
#include "inject.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "engine/cleanup.h"
#include "gadgets.h"
#include "stragglers.h"

enum {
	STOP_US = 100000,     /* a blocked thread stops within microseconds */
	FIFO_US = 10000000,   /* of processor time */
	SYSCALL_US = 5000000, /* an injected system call; munmap may wait for a lock */
	GRACE_US = 1000000,
	KERNEL_SIGSET = 8,
	SYSCALL_SIZE = 2,
	RESTORE_RT_SIZE = 9,
	EFLAGS_TF = 0x100,
	EFLAGS_DF = 0x400,
	REGSET_X86_SHSTK = 0x204,
};

/* ---- holding the thread ---- */

void inject_let_go(struct pe_injector *injector, int signal)
{
	if (injector->tid)
		ptrace(PTRACE_DETACH, injector->tid, NULL, (void *)(intptr_t)signal);
	if (injector->target->held_tid == injector->tid)
		injector->target->held_tid = 0;
	injector->tid = 0;
	fifo_end(&injector->fifo);
}

/* The thread did not stop: the kernel detaches it when it does, or when we exit. */
static void remember_straggler(struct pe_injector *injector)
{
	struct pe_target *target = injector->target;
	straggler_add(target, injector->tid);
	injector->tid = 0;
	target->held_tid = 0;
	fifo_end(&injector->fifo);
}

static struct pe_error *read_state(struct pe_injector *injector)
{
	struct iovec iov = { .iov_base = injector->xstate, .iov_len = XSTATE_MAX };
	pid_t tid = injector->tid;

	if (ptrace(PTRACE_GETREGS, tid, NULL, &injector->regs))
		return pe_error_errno(errno, "cannot read the registers of thread %d", tid);
	tracee_fix_eintr(tid, &injector->regs);
	injector->nr = -1;
	if (tracee_in_syscall(&injector->regs))
		injector->nr = injector->regs.orig_rax == SYS_restart_syscall
				       ? tracee_restarted_nr(injector->target, injector->regs.rip)
				       : (int64_t)injector->regs.orig_rax;
	if (ptrace(PTRACE_GETSIGMASK, tid, (void *)KERNEL_SIGSET, &injector->sigmask))
		return pe_error_errno(errno, "cannot read the signal mask of thread %d", tid);
	if (ptrace(PTRACE_GETREGSET, tid, (void *)NT_X86_XSTATE, &iov))
		return pe_error_errno(errno, "cannot read the processor state of thread %d", tid);
	injector->xstate_size = iov.iov_len;

	uint64_t shadow_stack;

	iov = (struct iovec){ .iov_base = &shadow_stack, .iov_len = sizeof(shadow_stack) };
	if (ptrace(PTRACE_GETREGSET, tid, (void *)REGSET_X86_SHSTK, &iov) == 0)
		return pe_error_new(PE_ERR_UNSUPPORTED, "thread %d has a shadow stack", tid);
	return NULL;
}

/* Seized by us at an earlier try, and still not stopped? */
static bool is_straggler(struct pe_target *target, pid_t tid)
{
	if (target->straggler_count)
		stragglers_release(target, 0);
	for (size_t i = 0; i < target->straggler_count; i++)
		if (target->stragglers[i] == tid)
			return true;
	return false;
}

static struct pe_error *cannot_seize(const struct pe_injector *injector, pid_t tid, int errnum)
{
	pid_t tracer = errnum == EPERM ? pe_target_tracer(injector->target) : 0;

	if (tracer)
		return pe_error_new(PE_ERR_BUSY, "thread %d is traced by process %d", tid, tracer);
	/* Dead threads are refused with EPERM too. */
	if (errnum == ESRCH ||
	    !proc_read_thread(injector->target->pid, tid, &(struct pe_thread){ 0 }))
		return pe_error_new(PE_ERR_BUSY, "thread %d has just ended", tid);
	return pe_error_errno(errnum, "cannot seize thread %d", tid);
}

struct pe_error *inject_hold(struct pe_injector *injector, pid_t tid)
{
	int status = 0;

	if (is_straggler(injector->target, tid))
		return pe_error_new(PE_ERR_BUSY, "thread %d has not stopped yet", tid);
	fifo_begin(&injector->fifo, FIFO_US);
	if (ptrace(PTRACE_SEIZE, tid, NULL, (void *)PTRACE_O_TRACESYSGOOD)) {
		struct pe_error *err = cannot_seize(injector, tid, errno);

		inject_let_go(injector, 0);
		return err;
	}
	injector->tid = tid;
	ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
	waiter_set_deadline(&injector->waiter, pe_now_us() + STOP_US);
	switch (waiter_wait(&injector->waiter, injector->target, tid, &status)) {
	case WAIT_GONE:
		injector->tid = 0;
		inject_let_go(injector, 0);
		return pe_error_new(PE_ERR_BUSY, "thread %d has just ended", tid);
	case WAIT_TIMEOUT:
		remember_straggler(injector);
		return pe_error_new(PE_ERR_BUSY, "thread %d does not stop", tid);
	case WAIT_STOPPED:
		break;
	}
	if (tracee_is_group_stop(status) || !tracee_is_event_stop(status)) {
		inject_let_go(injector, tracee_pending_signal(status));
		return pe_error_new(PE_ERR_BUSY,
				    tracee_is_group_stop(status) ? "thread %d is stopped (SIGSTOP)"
								 : "thread %d got a signal",
				    tid);
	}
	injector->target->held_tid = tid;

	/*
	 * The process may have become another program since we looked, and nothing that we know
	 * is true there. From here on it cannot unseen: an exec kills the thread that we hold.
	 */
	struct pe_error *err = pe_target_alive(injector->target);

	if (!err)
		err = read_state(injector);
	if (!err)
		err = tracee_suspend_seccomp(injector->target, tid);
	if (err)
		inject_let_go(injector, 0);
	return err;
}

/* ---- running it ---- */

/*
 * The state from which an interrupted system call is issued from its start: rt_sigreturn, and
 * calls that our function is stopped in, spoil what restart_syscall would need. Where the number
 * is not known, the call returns EINTR.
 */
static struct user_regs_struct healed_regs(const struct pe_injector *injector)
{
	struct user_regs_struct regs = injector->regs;

	if (!tracee_in_syscall(&regs))
		return regs;
	if (injector->nr >= 0) {
		regs.rip -= SYSCALL_SIZE;
		regs.rax = (unsigned long long)injector->nr;
	} else {
		regs.rax = (unsigned long long)-EINTR;
	}
	regs.orig_rax = (unsigned long long)-1;
	return regs;
}

struct pe_error *inject_prepare(struct pe_injector *injector)
{
	struct user_regs_struct regs = healed_regs(injector);

	if (injector->frame.bytes)
		return NULL;

	struct pe_error *err = pe_sigframe_build(
		inject_own_format(), &regs, injector->sigmask, injector->xstate,
		injector->xstate_size, injector->target->gadgets.restore_rt, &injector->frame);

	if (err)
		return err;
	err = pe_target_write(injector->target, injector->frame.base, injector->frame.bytes,
			      injector->frame.size);
	if (err)
		pe_sigframe_deinit(&injector->frame);
	return err;
}

/* Signals that an instruction raises stay unblocked: blocked ones would kill at once. */
static uint64_t blocked_mask(void)
{
	static const int synchronous[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS };
	uint64_t mask = ~0ULL;

	for (size_t i = 0; i < sizeof(synchronous) / sizeof(*synchronous); i++)
		mask &= ~(1ULL << (synchronous[i] - 1));
	return mask;
}

static struct pe_error *gone(const struct pe_injector *injector, pid_t tid)
{
	struct pe_error *err = pe_target_alive(injector->target);

	return err ? err
		   : pe_error_new(PE_ERR_DIED, "thread %d of process %d is gone", tid,
				  injector->target->pid);
}

static struct pe_error *set_regs(struct pe_injector *injector, const struct user_regs_struct *regs)
{
	if (ptrace(PTRACE_SETREGS, injector->tid, NULL, regs) == 0)
		return NULL;
	return errno == ESRCH ? gone(injector, injector->tid)
			      : pe_error_errno(errno, "cannot set the registers of thread %d",
					       injector->tid);
}

/* Sets the registers of a call; at the first one also the mask. */
static struct pe_error *enter(struct pe_injector *injector, struct user_regs_struct *regs)
{
	uint64_t mask = blocked_mask();

	regs->orig_rax = (unsigned long long)-1;
	regs->eflags &= ~(unsigned long long)(EFLAGS_TF | EFLAGS_DF);

	struct pe_error *err = set_regs(injector, regs);

	if (err || injector->installed)
		return err;
	injector->installed = true;
	if (ptrace(PTRACE_SETSIGMASK, injector->tid, (void *)KERNEL_SIGSET, &mask))
		return pe_error_errno(errno, "cannot block the signals of thread %d",
				      injector->tid);
	return NULL;
}

enum goal { GOAL_SYSCALL_DONE, GOAL_FUNCTION_DONE, GOAL_EVENT_STOP };

struct run {
	enum goal goal;
	bool entered; /* our system call has begun */
	int64_t result;
};

/* A system call stop: is it the one that we wait for? */
static bool run_at_syscall_stop(struct pe_injector *injector, struct run *run)
{
	struct __ptrace_syscall_info info = { 0 };
	const struct gadgets *gadgets = &injector->target->gadgets;

	if (ptrace(PTRACE_GET_SYSCALL_INFO, injector->tid, (void *)sizeof(info), &info) <= 0)
		return false;
	if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
		if (run->goal == GOAL_FUNCTION_DONE)
			return info.entry.nr == SYS_rt_sigreturn &&
			       info.instruction_pointer == gadgets->restore_rt + RESTORE_RT_SIZE &&
			       info.stack_pointer == injector->frame.sp + 8;
		run->entered = info.instruction_pointer == gadgets->syscall_ret + SYSCALL_SIZE;
	} else if (info.op == PTRACE_SYSCALL_INFO_EXIT) {
		if (info.exit.rval == -K_ERESTART_RESTARTBLOCK)
			injector->restart_data_lost = true;
		run->result = info.exit.rval;
		return run->goal == GOAL_SYSCALL_DONE && run->entered;
	}
	return false;
}

/*
 * One stop on the way. True when the goal is reached. *signal is what to go on with. A fault of
 * the called function is kept from the target and ends the run.
 */
static bool run_at_stop(struct pe_injector *injector, struct run *run, int status, int *signal)
{
	*signal = 0;
	if (status == (SIGTRAP | 0x80))
		return run_at_syscall_stop(injector, run);
	/* Once somebody has sent SIGSTOP, all event stops show as group stops; we only need to be
	 * in the kernel's signal code, and there both are. */
	if (tracee_is_event_stop(status))
		return run->goal == GOAL_EVENT_STOP;

	int pending = tracee_pending_signal(status);

	if (pending && !(blocked_mask() & (1ULL << (pending - 1)))) {
		injector->crash_signal = pending;
		return true;
	}
	*signal = pending;
	return false;
}

/* Past the deadline the thread is left to finish and heal by itself: nothing is taken back. */
static struct pe_error *abandon(struct pe_injector *injector, int status)
{
	struct user_regs_struct regs;
	pid_t tid = injector->tid;

	if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) == 0)
		tracee_fix_eintr(tid, &regs);
	inject_let_go(injector, tracee_pending_signal(status));
	return pe_error_new(PE_ERR_BUSY,
			    "the call injected into thread %d did not return in time; the thread "
			    "goes on by itself when it does",
			    tid);
}

static struct pe_error *run_until(struct pe_injector *injector, struct run *run, uint64_t limit_us)
{
	bool late = false;
	int signal = 0;
	pid_t tid = injector->tid;
	/* Any stop takes a pending interrupt with it: no system call stops before that one. */
	enum __ptrace_request request = run->goal == GOAL_EVENT_STOP ? PTRACE_CONT : PTRACE_SYSCALL;

	waiter_set_deadline(&injector->waiter, pe_now_us() + limit_us);
	for (;;) {
		int status = 0;

		if (ptrace(request, tid, NULL, (void *)(intptr_t)signal) && errno == ESRCH)
			return gone(injector, tid);

		enum wait_result result =
			waiter_wait(&injector->waiter, injector->target, tid, &status);

		if (result == WAIT_TIMEOUT) {
			ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
			late = true;
			waiter_set_deadline(&injector->waiter, pe_now_us() + GRACE_US);
			result = waiter_wait(&injector->waiter, injector->target, tid, &status);
		}
		if (result == WAIT_GONE)
			return gone(injector, tid);
		if (result == WAIT_TIMEOUT) {
			remember_straggler(injector);
			return pe_error_new(PE_ERR_BUSY,
					    "the call injected into thread %d blocks and cannot "
					    "be interrupted",
					    tid);
		}
		if (run_at_stop(injector, run, status, &signal))
			return NULL;
		if (late || pe_now_us() >= injector->waiter.deadline)
			return abandon(injector, status);
	}
}

static struct pe_error *check_usable(const struct pe_injector *injector)
{
	if (!injector->tid)
		return pe_error_new(PE_ERR_BUSY, "the thread was let go after an earlier failure");
	if (injector->crash_signal)
		return pe_error_new(PE_ERR_INTERNAL, "an earlier injected call crashed");
	return NULL;
}

static void set_arguments(struct user_regs_struct *regs, const uint64_t args[6])
{
	regs->rdi = args[0];
	regs->rsi = args[1];
	regs->rdx = args[2];
	regs->r8 = args[4];
	regs->r9 = args[5];
}

struct pe_error *pe_inject_syscall(struct pe_injector *injector, long nr, const uint64_t args[6],
				   int64_t *result)
{
	struct user_regs_struct regs = injector->regs;
	struct run run = { .goal = GOAL_SYSCALL_DONE };
	struct pe_error *err = check_usable(injector);

	if (!err)
		err = inject_prepare(injector);
	if (err)
		return err;
	set_arguments(&regs, args);
	regs.r10 = args[3];
	regs.rax = (unsigned long long)nr;
	regs.rip = injector->target->gadgets.syscall_ret;
	regs.rsp = injector->frame.sp;
	err = enter(injector, &regs);
	if (!err)
		err = run_until(injector, &run, SYSCALL_US);
	if (!err && injector->crash_signal)
		err = pe_error_new(PE_ERR_UNSUPPORTED,
				   "system call %ld injected into thread %d raised signal %d (%s)",
				   nr, injector->tid, injector->crash_signal,
				   strsignal(injector->crash_signal));
	if (!err)
		*result = run.result;
	return err;
}

struct pe_error *pe_inject_call(struct pe_injector *injector, uint64_t addr, const uint64_t args[6],
				uint64_t timeout_us, uint64_t *result)
{
	const struct gadgets *gadgets = &injector->target->gadgets;
	const struct pe_sigframe *frame = &injector->frame;
	struct user_regs_struct regs = injector->regs;
	struct run run = { .goal = GOAL_FUNCTION_DONE };
	struct pe_error *err = check_usable(injector);

	if (!err && !gadgets->store_ret)
		err = pe_error_new(PE_ERR_UNSUPPORTED,
				   "process %d has no code that can keep the result of a call",
				   injector->target->pid);
	if (!err)
		err = inject_prepare(injector);
	if (err)
		return err;

	const uint64_t way_back[2] = { gadgets->store_ret, 0 };

	err = pe_target_write(injector->target, frame->call, way_back, sizeof(way_back));
	if (err)
		return err;
	set_arguments(&regs, args);
	regs.rcx = args[3];
	regs.rax = 0;
	regs.rbx = frame->result;
	regs.rip = addr;
	regs.rsp = frame->call;
	injector->fp_dirty = true;
	err = enter(injector, &regs);
	if (!err)
		err = run_until(injector, &run, timeout_us);
	if (!err && injector->crash_signal) {
		ptrace(PTRACE_GETREGS, injector->tid, NULL, &regs);
		err = pe_error_new(PE_ERR_UNSUPPORTED,
				   "the function at %#" PRIx64 " injected into thread %d raised "
				   "signal %d (%s) at %#llx",
				   addr, injector->tid, injector->crash_signal,
				   strsignal(injector->crash_signal), regs.rip);
	}
	if (!err)
		err = pe_target_read(injector->target, frame->result, result, sizeof(*result));
	return err;
}

struct pe_error *pe_inject_scratch(struct pe_injector *injector, const void *bytes, size_t size,
				   uint64_t *addr)
{
	struct pe_error *err = check_usable(injector);

	if (!err)
		err = inject_prepare(injector);
	if (err)
		return err;
	if (size > PE_SIGFRAME_SCRATCH - injector->scratch_used)
		return pe_error_new(PE_ERR_INTERNAL, "no %zu bytes of scratch memory left", size);
	*addr = injector->frame.scratch + injector->scratch_used;
	err = pe_target_write(injector->target, *addr, bytes, size);
	if (!err)
		injector->scratch_used += (size + 15) & ~15UL;
	return err;
}

/* ---- the way back ---- */

/*
 * Brings the thread from a system call stop back into the kernel's signal code, where it was
 * when we found it. Should we die on the way, it runs into __restore_rt.
 */
static struct pe_error *return_to_event_stop(struct pe_injector *injector)
{
	struct user_regs_struct regs = injector->regs;
	struct run run = { .goal = GOAL_EVENT_STOP };

	regs.rip = injector->target->gadgets.restore_rt;
	regs.rsp = injector->frame.sp + 8;
	regs.rax = 0;

	struct pe_error *err = enter(injector, &regs);

	if (err)
		return err;
	if (ptrace(PTRACE_INTERRUPT, injector->tid, NULL, NULL))
		return gone(injector, injector->tid);
	return run_until(injector, &run, GRACE_US);
}

static struct pe_error *restore(struct pe_injector *injector)
{
	struct iovec iov = { .iov_base = injector->xstate, .iov_len = injector->xstate_size };
	struct user_regs_struct regs = injector->regs;
	struct pe_error *err = NULL;

	/* After a fault the thread stands in the signal code already. */
	if (!injector->crash_signal)
		err = return_to_event_stop(injector);
	if (err)
		return err;
	/* restart_syscall would continue the call of the function that ran meanwhile. */
	if (injector->restart_data_lost && (int64_t)regs.rax == -K_ERESTART_RESTARTBLOCK)
		regs = healed_regs(injector);
	if (injector->fp_dirty &&
	    ptrace(PTRACE_SETREGSET, injector->tid, (void *)NT_X86_XSTATE, &iov))
		return pe_error_errno(errno, "cannot restore the processor state of thread %d",
				      injector->tid);
	if (ptrace(PTRACE_SETSIGMASK, injector->tid, (void *)KERNEL_SIGSET, &injector->sigmask))
		return pe_error_errno(errno, "cannot restore the signal mask of thread %d",
				      injector->tid);
	return set_regs(injector, &regs);
}

struct pe_error *pe_inject_end(struct pe_injector *injector)
{
	struct pe_error *err = NULL;

	if (injector->tid && injector->installed)
		err = restore(injector);
	/* Where restoring failed, the frame still heals the thread. */
	inject_let_go(injector, 0);
	waiter_deinit(&injector->waiter);
	pe_sigframe_deinit(&injector->frame);
	free(injector->xstate);
	free(injector);
	return err;
}

struct pe_error *inject_new(struct pe_target *target, struct pe_injector **ret)
{
	struct pe_error *err = inject_learn_format();

	if (!err)
		err = gadgets_find(target);
	if (err)
		return err;

	struct pe_injector *injector = calloc(1, sizeof(*injector));

	if (!injector)
		return pe_error_nomem();
	injector->target = target;
	injector->xstate = malloc(XSTATE_MAX);
	err = injector->xstate ? waiter_init(&injector->waiter, pe_now_us() + STOP_US)
			       : pe_error_nomem();
	if (err) {
		free(injector->xstate);
		free(injector);
		return err;
	}
	*ret = injector;
	return NULL;
}

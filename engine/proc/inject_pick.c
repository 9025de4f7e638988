/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which thread runs an injected call.
 *
 * Best is a thread that waits for work: in a condition variable or in poll. A plain futex wait may
 * be a lock that it is about to hold. Other system calls that the kernel restarts come next, then
 * those that show EINTR should we die between the interrupt and the frame, and for system calls
 * even a thread that computes: it is interrupted like by a signal. Threads are looked at again
 * once they stand still.
 */
#include <dirent.h>
#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "engine/cleanup.h"
#include "inject.h"
#include "locks.h"

enum { TRIES_MAX = 24, PATIENCE_US = 50000, PAUSE_US = 1000 };

enum rank { RANK_UNFIT, RANK_WAITS, RANK_FUTEX, RANK_RESTARTABLE, RANK_EINTR, RANK_COMPUTES };

struct candidate {
	const struct pe_thread *thread;
	enum rank rank;
};

static enum rank rank_thread(const struct pe_target *target, const struct pe_thread *thread)
{
	int64_t nr = thread->nr;

	if (thread->running || nr < 0)
		return RANK_COMPUTES;
	/* After a first stop all timed waits are there. */
	if (nr == SYS_restart_syscall)
		nr = tracee_restarted_nr(target, thread->pc);
	switch (nr) {
	case SYS_futex:
		if ((thread->args[1] & (uint64_t)FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET)
			return RANK_WAITS;
		return (thread->args[1] & (uint64_t)FUTEX_CMD_MASK) == FUTEX_WAIT ? RANK_FUTEX
										  : RANK_UNFIT;
	case SYS_poll:
	case SYS_ppoll:
		return RANK_WAITS;
	case SYS_read:
	case SYS_accept:
	case SYS_accept4:
	case SYS_recvfrom:
	case SYS_recvmsg:
	case SYS_recvmmsg:
	case SYS_connect:
	case SYS_write:
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_splice:
	case SYS_sendfile:
	case SYS_flock:
	case SYS_fcntl:
	case SYS_msgrcv:
	case SYS_mq_timedreceive:
	case SYS_wait4:
	case SYS_waitid:
	case SYS_pause:
	case SYS_nanosleep:
	case SYS_clock_nanosleep:
	case SYS_select:
	case SYS_pselect6:
		return RANK_RESTARTABLE;
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
	case SYS_rt_sigtimedwait:
	case SYS_semop:
	case SYS_semtimedop:
	case SYS_io_getevents:
	case SYS_io_pgetevents:
	case SYS_io_uring_enter:
		return RANK_EINTR;
	case -1:
		/* A timed wait of unknown number: were we killed, it would show EINTR. */
		return RANK_EINTR;
	default:
		return RANK_UNFIT;
	}
}

static bool rank_fits(enum rank rank, enum pe_inject_for purpose)
{
	if (rank == RANK_UNFIT)
		return false;
	return purpose == PE_INJECT_SYSCALL || (rank != RANK_FUTEX && rank != RANK_COMPUTES);
}

static int by_rank(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	return (x->rank > y->rank) - (x->rank < y->rank);
}

/*
 * A computing thread may stand in a restartable sequence, which the kernel aborts when it is
 * preempted or gets a signal; moving its registers aside would go unnoticed.
 */
static bool in_rseq(const struct pe_injector *injector)
{
	struct __ptrace_rseq_configuration config = { 0 };
	uint64_t descriptor = 0;

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, injector->tid, (void *)sizeof(config), &config) <=
		    0 ||
	    !config.rseq_abi_pointer)
		return false;
	/* struct rseq: cpu_id_start, cpu_id, then the descriptor's address */
	return proc_read_some(injector->target, config.rseq_abi_pointer + 8, &descriptor,
			      sizeof(descriptor)) != sizeof(descriptor) ||
	       descriptor != 0;
}

/* The thread stands still: is it what it seemed to be? */
static struct pe_error *check_held(const struct pe_injector *injector,
				   const struct candidate *candidate, enum pe_inject_for purpose)
{
	const struct user_regs_struct *regs = &injector->regs;
	uint8_t code[2] = { 0 };

	if (tracee_in_syscall(regs)) {
		(void)proc_read_some(injector->target, regs->rip - 2, code, sizeof(code));
		if (code[0] != 0x0f || code[1] != 0x05)
			return pe_error_new(PE_ERR_BUSY,
					    "thread %d is in a system call that cannot be issued "
					    "again",
					    injector->tid);
		if ((int64_t)regs->orig_rax == candidate->thread->nr)
			return NULL;
	}
	if (purpose == PE_INJECT_FUNCTION)
		return pe_error_new(PE_ERR_BUSY, "thread %d has woken up", injector->tid);
	if (!tracee_in_syscall(regs) && in_rseq(injector))
		return pe_error_new(PE_ERR_BUSY, "thread %d is in a restartable sequence",
				    injector->tid);
	return NULL;
}

/* What a thread must be fit for. */
struct wish {
	enum pe_inject_for purpose;
	struct lock_code locks; /* for a function */
};

static struct pe_error *try_candidate(struct pe_injector *injector,
				      const struct candidate *candidate, const struct wish *wish)
{
	struct pe_error *err = inject_hold(injector, candidate->thread->tid);

	if (err)
		return err;
	err = check_held(injector, candidate, wish->purpose);
	if (!err && wish->purpose == PE_INJECT_FUNCTION)
		err = lock_code_check(&wish->locks, injector->target, injector->tid,
				      &injector->regs);
	/* The frame is built now, so that a thread that cannot take it is found unfit here. */
	if (!err)
		err = inject_prepare(injector);
	if (err)
		inject_let_go(injector, 0);
	return err;
}

static struct pe_error *try_all(struct pe_injector *injector, struct candidate *candidates,
				size_t count, const struct wish *wish)
{
	struct pe_error *err = NULL;
	size_t tries = 0;

	for (size_t i = 0; i < count && tries < TRIES_MAX; i++) {
		if (!rank_fits(candidates[i].rank, wish->purpose))
			continue;
		tries++;
		pe_error_free(err);
		err = try_candidate(injector, &candidates[i], wish);
		if (!err)
			return NULL;
	}
	if (!err)
		return pe_error_new(PE_ERR_BUSY,
				    "none of the %zu threads of process %d is fit for an injected "
				    "call now",
				    count, injector->target->pid);
	/* All unfit is "not now"; what the whole process lacks keeps its own code. */
	if (err->code != PE_ERR_UNSUPPORTED && err->code != PE_ERR_SANDBOXED &&
	    err->code != PE_ERR_PERMISSION)
		err->code = PE_ERR_BUSY;
	return pe_error_wrap(err, "no thread of process %d is fit for an injected call now",
			     injector->target->pid);
}

/*
 * First come, first tried: under load a thread that waits now has work a moment later, so nothing
 * may stand between the look at a thread and its interruption. NULL error and no thread held when
 * none was fit.
 */
static struct pe_error *pick_waiting(struct pe_injector *injector, const struct wish *wish)
{
	char path[64];
	size_t tries = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", injector->target->pid);
	DIR *dir = opendir(path);

	if (!dir)
		return pe_error_errno(errno, "cannot list the threads of process %d",
				      injector->target->pid);
	for (struct dirent *entry; !injector->tid && tries < TRIES_MAX && (entry = readdir(dir));) {
		struct pe_thread thread;
		struct candidate candidate = { &thread, RANK_WAITS };

		if (entry->d_name[0] == '.' ||
		    !proc_read_thread(injector->target->pid, (pid_t)atoi(entry->d_name), &thread) ||
		    rank_thread(injector->target, &thread) != RANK_WAITS)
			continue;
		tries++;
		pe_error_free(try_candidate(injector, &candidate, wish));
	}
	closedir(dir);
	return NULL;
}

static struct pe_error *pick(struct pe_injector *injector, const struct wish *wish)
{
	struct pe_threads threads;
	struct pe_error *err = pick_waiting(injector, wish);

	if (err || injector->tid)
		return err;
	err = pe_target_threads(injector->target, &threads);
	if (err)
		return err;

	pe_auto_free struct candidate *candidates = calloc(threads.count, sizeof(*candidates));

	for (size_t i = 0; candidates && i < threads.count; i++) {
		candidates[i].thread = &threads.items[i];
		candidates[i].rank = rank_thread(injector->target, &threads.items[i]);
	}
	if (candidates) {
		qsort(candidates, threads.count, sizeof(*candidates), by_rank);
		err = try_all(injector, candidates, threads.count, wish);
	} else {
		err = pe_error_nomem();
	}
	pe_threads_deinit(&threads);
	return err;
}

/* Threads go to sleep and wake up all the time: a moment later one may be fit. */
static struct pe_error *pick_patiently(struct pe_injector *injector, const struct wish *wish)
{
	for (uint64_t end = pe_now_us() + PATIENCE_US;;) {
		struct pe_error *err = pick(injector, wish);

		if (!err || err->code != PE_ERR_BUSY || pe_now_us() >= end)
			return err;
		pe_error_free(err);
		pe_target_sleep(injector->target, PAUSE_US);
	}
}

struct pe_error *pe_inject_begin(struct pe_target *target, enum pe_inject_for purpose,
				 struct pe_injector **ret)
{
	struct pe_injector *injector = NULL;
	struct wish wish = { .purpose = purpose };
	struct pe_error *err = pe_target_alive(target);
	pid_t tracer = err ? 0 : pe_target_tracer(target);

	if (tracer)
		err = pe_error_new(PE_ERR_BUSY, "process %d is traced by process %d", target->pid,
				   tracer);
	if (!err && purpose == PE_INJECT_FUNCTION)
		err = lock_code_find(target, &wish.locks);
	if (!err)
		err = inject_new(target, &injector);
	if (!err)
		err = pick_patiently(injector, &wish);
	lock_code_deinit(&wish.locks);
	if (!err) {
		*ret = injector;
		return NULL;
	}
	if (injector)
		pe_error_free(pe_inject_end(injector));

	struct pe_error *dead = pe_target_alive(target);

	if (!dead)
		return err;
	pe_error_free(err);
	return dead;
}

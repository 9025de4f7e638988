/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One traced thread: waiting for its stops without consuming them, and what its registers say
 * about an interrupted system call.
 */
#ifndef ENGINE_PROC_TRACEE_H
#define ENGINE_PROC_TRACEE_H

#include <time.h>

#include "proc.h"

/* What the kernel leaves in rax of an interrupted call while a tracer looks (linux/errno.h). */
enum {
	K_ERESTARTSYS = 512,
	K_ERESTARTNOINTR = 513,
	K_ERESTARTNOHAND = 514,
	K_ERESTART_RESTARTBLOCK = 516,
};

/* Bounds blocking waits: a timer of the calling thread interrupts them past the deadline. */
struct waiter {
	timer_t timer;
	bool made;
	uint64_t deadline; /* of pe_now_us */
};

struct pe_error *waiter_init(struct waiter *waiter, uint64_t deadline) pe_must_check;
void waiter_set_deadline(struct waiter *waiter, uint64_t deadline);
void waiter_deinit(struct waiter *waiter);

enum wait_result { WAIT_STOPPED, WAIT_GONE, WAIT_TIMEOUT };

/*
 * Waits until the thread stands in a ptrace stop; *status is its signal, with the event in bits 8
 * to 15. The stop is not consumed: were we to die, the kernel would lose its signal.
 */
enum wait_result waiter_wait(struct waiter *waiter, const struct pe_target *target, pid_t tid,
			     int *status);
/* The same without blocking. */
enum wait_result tracee_poll(const struct pe_target *target, pid_t tid, int *status);

/* The signal to detach with: that of a signal-delivery stop, else 0. */
int tracee_pending_signal(int status);
bool tracee_is_event_stop(int status);
bool tracee_is_group_stop(int status);

/*
 * Some calls return EINTR when a thread is merely interrupted by a tracer. Turns that into the
 * value that makes the kernel issue the call again, or return EINTR all the same when a handler
 * runs. Harmless at any time, and stays right if we die.
 */
void tracee_fix_eintr(pid_t tid, struct user_regs_struct *regs);
/*
 * The real number of a call that shows as restart_syscall (a poll or timed wait that was stopped
 * before), from the `mov $nr, %eax` right before its syscall instruction; -1 when it is not there.
 * @pc is behind the syscall instruction.
 */
int64_t tracee_restarted_nr(const struct pe_target *target, uint64_t pc);
/* True when the thread was interrupted in a system call that the kernel will issue again. */
bool tracee_in_syscall(const struct user_regs_struct *regs);

/*
 * A sandbox may forbid the calls that we inject, and kill for them. The kernel suspends it for a
 * traced thread that stands, until it is let go; so the thread itself gains nothing. UNSUPPORTED
 * where that is refused.
 */
struct pe_error *tracee_suspend_seccomp(const struct pe_target *target, pid_t tid) pe_must_check;

#endif

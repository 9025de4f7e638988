/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The stop of all threads of a process.
 *
 * All threads are seized, which stops nobody; then all are interrupted, so that they stop at the
 * same time; then each is waited for. A thread that was born in between is found by listing again
 * until a list shows nothing new: by then all its possible parents stand. What can be made before
 * the first interrupt (buffers, the unwinder, the list) is made before it.
 *
 * States of a thread: seized -> interrupted -> stopped -> detached. One that does not stop within
 * the limit (uninterruptible sleep) cannot be detached either: it becomes a straggler of the
 * target and is detached when it stops.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "engine/cleanup.h"
#include "fifo.h"
#include "gadgets.h"
#include "sharers.h"
#include "stack.h"
#include "stragglers.h"
#include "tracee.h"
#include "unwind.h"

enum {
	FIFO_SPARE_US = 1000000,
	LIST_BUFFER = 65536,
	ROOM = 256, /* threads that may be born meanwhile without an allocation */
	STRAGGLER_US = 1000000,
	LEADER_US = 20000,
	DEFAULT_LIMIT_US = 1000000,
};

enum phase { PHASE_SEIZED, PHASE_STOPPED, PHASE_LEFT_OUT, PHASE_IGNORED };

struct member {
	pid_t tid;
	enum phase phase;
};

enum part {
	PART_INTERRUPT,
	PART_WAIT,
	PART_LOOK,
	PART_LIST,
	PART_CHECK,
	PART_COMMIT,
	PART_DETACH,
	PART_COUNT,
};

struct pe_stop {
	struct pe_target *target;
	struct pe_stop_options options;
	struct member *members; /* every task ever listed */
	size_t member_count, ignored;
	struct pe_stopped_thread *threads; /* those that stand */
	bool *clean;			   /* of the same index: known to be in nobody's way */
	size_t count, capacity;		   /* of both arrays */
	uint32_t *hash;			   /* tid -> index in members, plus 1 */
	size_t hash_size;		   /* a power of two */
	int task_fd;
	char *list_buffer;
	uint8_t *stack_buffer;
	struct stack_checker early; /* with options.ranges: looks while others still stop */
	struct waiter waiter;
	struct sharers sharers;
	uint64_t begin_us, deadline_us;
	uint64_t parts_ns[PART_COUNT], lap_ns; /* when the last part ended */
	bool links_count_threads;
	struct fifo fifo;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* What has been done since the last lap was @part. */
static void lap(struct pe_stop *stop, enum part part)
{
	uint64_t now = now_ns();

	stop->parts_ns[part] += now - stop->lap_ns;
	stop->lap_ns = now;
}

/* ---- the list of threads ---- */

static uint32_t *slot_of(const struct pe_stop *stop, pid_t tid)
{
	size_t at = (uint32_t)tid * 2654435761u & (stop->hash_size - 1);

	while (stop->hash[at] && stop->members[stop->hash[at] - 1].tid != tid)
		at = (at + 1) & (stop->hash_size - 1);
	return &stop->hash[at];
}

static struct pe_error *reserve(struct pe_stop *stop, size_t capacity)
{
	size_t hash_size = 1024;

	while (hash_size < capacity * 4)
		hash_size *= 2;

	struct member *members = reallocarray(stop->members, capacity, sizeof(*members));

	if (members)
		stop->members = members;

	struct pe_stopped_thread *threads = reallocarray(stop->threads, capacity, sizeof(*threads));

	if (threads)
		stop->threads = threads;

	bool *clean = reallocarray(stop->clean, capacity, sizeof(*clean));

	if (clean)
		stop->clean = clean;

	uint32_t *hash = calloc(hash_size, sizeof(*hash));

	if (!members || !threads || !clean || !hash) {
		free(hash);
		return pe_error_nomem();
	}
	/* Touched now: a page fault while threads stand costs everybody. */
	memset(members + stop->member_count, 0, (capacity - stop->member_count) * sizeof(*members));
	memset(threads + stop->count, 0, (capacity - stop->count) * sizeof(*threads));
	memset(clean + stop->count, 0, (capacity - stop->count) * sizeof(*clean));
	free(stop->hash);
	stop->hash = hash;
	stop->hash_size = hash_size;
	stop->capacity = capacity;
	for (size_t i = 0; i < stop->member_count; i++)
		*slot_of(stop, stop->members[i].tid) = (uint32_t)i + 1;
	return NULL;
}

/* Seizes a task that was listed; *phase tells what came of it. */
static struct pe_error *seize(struct pe_stop *stop, pid_t tid, enum phase *phase)
{
	struct task_stat stat;

	*phase = PHASE_LEFT_OUT;
	if (proc_task_stat(stop->target->pid, tid, &stat))
		return NULL;
	if (!proc_task_is_user_thread(&stat)) {
		*phase = PHASE_IGNORED;
		return NULL;
	}
	if (ptrace(PTRACE_SEIZE, tid, NULL, (void *)PTRACE_O_TRACESYSGOOD) == 0 ||
	    straggler_take(stop->target, tid)) {
		*phase = PHASE_SEIZED;
		return NULL;
	}
	if (errno == ESRCH)
		return NULL;

	int errnum = errno;

	/* A thread that has just died cannot be seized either. */
	if (proc_task_stat(stop->target->pid, tid, &stat) || !proc_task_is_user_thread(&stat))
		return NULL;
	return pe_error_errno(errnum, "cannot seize thread %d (%s) of process %d", tid, stat.comm,
			      stop->target->pid);
}

static struct pe_error *list_task(struct pe_stop *stop, pid_t tid, bool *news)
{
	uint32_t *slot = slot_of(stop, tid);
	struct member *member = *slot ? &stop->members[*slot - 1] : NULL;

	/* One that died can be back: its number given to a new thread. */
	if (member && member->phase != PHASE_LEFT_OUT)
		return NULL;
	if (!member) {
		if (stop->member_count == stop->capacity) {
			struct pe_error *err = reserve(stop, stop->capacity * 2);

			if (err)
				return err;
			slot = slot_of(stop, tid);
		}
		member = &stop->members[stop->member_count++];
		*slot = (uint32_t)stop->member_count;
		*member = (struct member){ .tid = tid, .phase = PHASE_LEFT_OUT };
		*news = true;
	}

	struct pe_error *err = seize(stop, tid, &member->phase);

	if (member->phase != PHASE_LEFT_OUT)
		*news = true;
	stop->ignored += member->phase == PHASE_IGNORED;
	return err;
}

/*
 * The links of /proc/PID/task are 2 and one a thread (proc_task_getattr). Asked of ourselves, in
 * case a kernel or another implementation of /proc thinks otherwise.
 */
static bool links_count_threads(void)
{
	struct stat st;
	struct task_stat self;

	return stat("/proc/self/task", &st) == 0 && proc_task_stat(getpid(), 0, &self) == 0 &&
	       st.st_nlink == self.num_threads + 2;
}

/*
 * True when those that stand are all that there are: one call, where a list takes about a
 * microsecond a thread. Whatever else exists, a thread born meanwhile or a worker of the kernel,
 * makes the number greater, and none that stands can be gone.
 */
static bool all_stand(const struct pe_stop *stop)
{
	struct stat st;

	return stop->links_count_threads && fstat(stop->task_fd, &st) == 0 &&
	       st.st_nlink == stop->count + 2;
}

/* Lists all tasks and seizes the new ones. */
static struct pe_error *list_tasks(struct pe_stop *stop, bool *news)
{
	struct task_stat stat;
	size_t seen = 0;

	*news = false;
	lseek(stop->task_fd, 0, SEEK_SET);
	for (;;) {
		ssize_t size = getdents64(stop->task_fd, stop->list_buffer, LIST_BUFFER);

		if (size < 0)
			return pe_target_alive(stop->target)
				       ?: pe_error_errno(errno,
							 "cannot list the threads of process %d",
							 stop->target->pid);
		if (size == 0)
			break;
		for (ssize_t at = 0; at < size;) {
			const struct dirent64 *entry = (void *)(stop->list_buffer + at);

			at += entry->d_reclen;
			if (entry->d_name[0] == '.')
				continue;
			seen++;

			struct pe_error *err =
				list_task(stop, (pid_t)strtol(entry->d_name, NULL, 10), news);

			if (err)
				return err;
		}
	}
	/*
	 * The kernel ends a list early when the task at hand dies. Of those that we hold none can;
	 * where there are others (kernel workers), count.
	 */
	if (stop->ignored && proc_task_stat(stop->target->pid, 0, &stat) == 0 &&
	    stat.num_threads != seen)
		*news = true;
	return NULL;
}

/* ---- stopping ---- */

static struct pe_error *too_long(const struct pe_stop *stop, pid_t tid)
{
	struct task_stat stat = { .comm = "?", .state = '?' };

	(void)proc_task_stat(stop->target->pid, tid, &stat);
	return pe_error_new(PE_ERR_BUSY,
			    "thread %d (%s, state %c) of process %d did not stop within %llu us",
			    tid, stat.comm, stat.state, stop->target->pid,
			    (unsigned long long)stop->options.limit_us);
}

/* The first thread of a process can die before the others and is not reported then. */
static bool leader_is_dead(const struct pe_stop *stop)
{
	struct task_stat stat;

	return proc_task_stat(stop->target->pid, stop->target->pid, &stat) == 0 &&
	       stat.state == 'Z';
}

static enum wait_result wait_member(struct pe_stop *stop, pid_t tid, int *status)
{
	if (tid != stop->target->pid)
		return waiter_wait(&stop->waiter, stop->target, tid, status);

	uint64_t soon = pe_now_us() + LEADER_US;
	enum wait_result result;

	waiter_set_deadline(&stop->waiter, soon < stop->deadline_us ? soon : stop->deadline_us);
	result = waiter_wait(&stop->waiter, stop->target, tid, status);
	waiter_set_deadline(&stop->waiter, stop->deadline_us);
	if (result != WAIT_TIMEOUT)
		return result;
	if (leader_is_dead(stop))
		return WAIT_GONE;
	return waiter_wait(&stop->waiter, stop->target, tid, status);
}

/* Interrupts all that are seized, then waits for each. */
static struct pe_error *collect(struct pe_stop *stop, size_t first)
{
	for (size_t i = first; i < stop->member_count; i++) {
		if (stop->members[i].phase == PHASE_SEIZED)
			ptrace(PTRACE_INTERRUPT, stop->members[i].tid, NULL, NULL);
	}
	lap(stop, PART_INTERRUPT);
	for (size_t i = first; i < stop->member_count; i++) {
		struct member *member = &stop->members[i];
		struct pe_stopped_thread *thread = &stop->threads[stop->count];
		int status = 0;

		if (member->phase != PHASE_SEIZED)
			continue;

		enum wait_result result = wait_member(stop, member->tid, &status);

		lap(stop, PART_WAIT);
		if (result == WAIT_TIMEOUT)
			return too_long(stop, member->tid);
		if (result == WAIT_GONE ||
		    ptrace(PTRACE_GETREGS, member->tid, NULL, &thread->regs)) {
			member->phase = PHASE_LEFT_OUT;
			continue;
		}
		member->phase = PHASE_STOPPED;
		thread->tid = member->tid;
		thread->pending_signal = tracee_pending_signal(status);
		tracee_fix_eintr(thread->tid, &thread->regs);
		if (stop->options.ranges)
			stop->clean[stop->count] =
				stack_is_clean(&stop->early, thread->tid, &thread->regs);
		stop->count++;
		lap(stop, PART_LOOK);
	}
	return NULL;
}

static bool stands(const void *ctx, pid_t tid)
{
	const struct pe_stop *stop = ctx;

	return *slot_of(stop, tid) != 0;
}

static struct pe_error *stop_threads(struct pe_stop *stop)
{
	size_t first = 0;
	bool news;
	struct pe_error *err = list_tasks(stop, &news);

	if (err)
		return err;
	if (stop->options.fifo)
		fifo_begin(&stop->fifo, 2 * stop->options.limit_us + FIFO_SPARE_US);
	stop->begin_us = pe_now_us();
	stop->lap_ns = now_ns();
	stop->deadline_us = stop->begin_us + stop->options.limit_us;
	waiter_set_deadline(&stop->waiter, stop->deadline_us);
	do {
		err = collect(stop, first);
		/* A number that came back sits among the old ones. */
		first = 0;
		news = false;
		if (!err && !all_stand(stop))
			err = list_tasks(stop, &news);
		lap(stop, PART_LIST);
		if (!err)
			err = pe_stop_within_limit(stop);
	} while (!err && news);
	if (err)
		return err;
	if (stop->count == 0)
		return pe_error_new(PE_ERR_DIED, "process %d has no threads any more",
				    stop->target->pid);
	stop->target->held_tid = stop->threads[0].tid;
	/* An exec in between would have left us with another program. */
	err = pe_target_alive(stop->target);
	return err ? err : sharers_check(&stop->sharers, stop->target, stands, stop);
}

static struct pe_error *prepare(struct pe_stop *stop)
{
	struct pe_maps maps;
	struct task_stat stat;
	char path[64];
	struct pe_target *target = stop->target;
	struct pe_error *err = pe_target_alive(target);
	pid_t tracer = err ? 0 : pe_target_tracer(target);

	if (err)
		return err;
	if (tracer)
		return pe_error_new(PE_ERR_BUSY, "process %d is traced by process %d", target->pid,
				    tracer);
	/* Without them signal frames are not recognised, no more. */
	pe_error_free(gadgets_find(target));
	err = pe_target_maps(target, &maps);
	if (err)
		return err;
	unwinder_prepare(target, &maps);
	pe_maps_deinit(&maps);

	snprintf(path, sizeof(path), "/proc/%d/task", target->pid);
	stop->task_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (stop->task_fd < 0 || proc_task_stat(target->pid, 0, &stat))
		return errno == ENOENT || errno == ESRCH
			       ? pe_error_new(PE_ERR_DIED, "process %d is gone", target->pid)
			       : pe_error_errno(errno, "cannot list the threads of process %d",
						target->pid);
	stop->links_count_threads = links_count_threads();
	stop->list_buffer = malloc(LIST_BUFFER);
	stop->stack_buffer = malloc(STACK_BUFFER);
	if (!stop->list_buffer || !stop->stack_buffer)
		return pe_error_nomem();
	memset(stop->list_buffer, 0, LIST_BUFFER);
	memset(stop->stack_buffer, 0, STACK_BUFFER);
	stop->early = (struct stack_checker){
		.target = target,
		.maps = stop->options.maps,
		.ranges = stack_ranges(stop->options.ranges,
				       stop->options.ranges ? stop->options.range_count : 0,
				       stop->options.match),
		.buffer = stop->stack_buffer,
	};
	err = reserve(stop, stat.num_threads * 2 + ROOM);
	if (!err)
		err = sharers_init(&stop->sharers, target);
	return err ? err : waiter_init(&stop->waiter, pe_now_us() + stop->options.limit_us);
}

static void stop_free(struct pe_stop *stop)
{
	waiter_deinit(&stop->waiter);
	sharers_deinit(&stop->sharers);
	if (stop->task_fd >= 0)
		close(stop->task_fd);
	free(stop->members);
	free(stop->threads);
	free(stop->clean);
	stack_checker_deinit(&stop->early);
	free(stop->hash);
	free(stop->list_buffer);
	free(stop->stack_buffer);
	free(stop);
}

struct pe_error *pe_stop_all(struct pe_target *target, const struct pe_stop_options *options,
			     struct pe_stop **ret)
{
	struct pe_stop *stop = calloc(1, sizeof(*stop));

	if (!stop)
		return pe_error_nomem();
	stop->target = target;
	stop->options = *options;
	stop->task_fd = -1;
	stop->sharers.loadavg_fd = -1;
	if (!stop->options.limit_us)
		stop->options.limit_us = DEFAULT_LIMIT_US;

	struct pe_error *err = prepare(stop);

	if (!err)
		err = stop_threads(stop);
	if (err) {
		pe_stop_resume(stop, NULL);
		return err;
	}
	*ret = stop;
	return NULL;
}

/* ---- while they stand ---- */

const struct pe_stopped_thread *pe_stop_threads(const struct pe_stop *stop, size_t *count)
{
	*count = stop->count;
	return stop->threads;
}

bool pe_stop_fifo_refused(const struct pe_stop *stop)
{
	return stop->fifo.refused;
}

struct pe_error *pe_stop_within_limit(const struct pe_stop *stop)
{
	if (pe_now_us() < stop->deadline_us)
		return NULL;
	return pe_error_new(PE_ERR_BUSY, "process %d was held for more than %llu us",
			    stop->target->pid, (unsigned long long)stop->options.limit_us);
}

struct pe_error *pe_stop_check(struct pe_stop *stop, const struct pe_maps *maps,
			       const struct pe_range *ranges, size_t range_count,
			       enum pe_range_match match, bool stacks, struct pe_stack_hits *hits)
{
	struct stack_checker checker = {
		.target = stop->target,
		.maps = maps,
		.ranges = stack_ranges(ranges, range_count, match),
		.buffer = stop->stack_buffer,
		.hits = hits,
	};
	/* Was it the same question? */
	bool early = ranges == stop->options.ranges && range_count == stop->options.range_count &&
		     match == stop->options.match;
	struct pe_error *err = pe_stop_within_limit(stop);

	lap(stop, PART_COMMIT);
	for (size_t i = 0; i < stop->count && !err; i++) {
		if (early && stop->clean[i])
			continue;
		err = stack_check_stopped(&checker, stop->threads[i].tid, &stop->threads[i].regs,
					  stacks);
		if (!err)
			err = pe_stop_within_limit(stop);
	}
	stack_checker_deinit(&checker);
	lap(stop, PART_CHECK);
	return err;
}

/* ---- going on ---- */

static void tell_parts(struct pe_stop *stop)
{
	const uint64_t *ns = stop->parts_ns;

	if (stop->options.parts)
		*stop->options.parts = (struct pe_pause_parts){
			.interrupt_us = ns[PART_INTERRUPT] / 1000,
			.wait_us = ns[PART_WAIT] / 1000,
			.look_us = ns[PART_LOOK] / 1000,
			.list_us = ns[PART_LIST] / 1000,
			.check_us = ns[PART_CHECK] / 1000,
			.commit_us = ns[PART_COMMIT] / 1000,
			.detach_us = ns[PART_DETACH] / 1000,
		};
}

static void add_stragglers(struct pe_stop *stop)
{
	for (size_t i = 0; i < stop->member_count; i++) {
		if (stop->members[i].phase != PHASE_SEIZED)
			continue;
		straggler_add(stop->target, stop->members[i].tid);
		/* Those that were seized only must stop once to be let go. */
		ptrace(PTRACE_INTERRUPT, stop->members[i].tid, NULL, NULL);
	}
}

void pe_stop_resume(struct pe_stop *stop, uint64_t *pause_us)
{
	lap(stop, PART_COMMIT);
	for (size_t i = 0; i < stop->count; i++)
		ptrace(PTRACE_DETACH, stop->threads[i].tid, NULL,
		       (void *)(intptr_t)stop->threads[i].pending_signal);

	uint64_t end_us = pe_now_us();

	lap(stop, PART_DETACH);
	fifo_end(&stop->fifo);
	if (pause_us)
		*pause_us = stop->begin_us ? end_us - stop->begin_us : 0;
	tell_parts(stop);
	stop->target->held_tid = 0;
	add_stragglers(stop);
	stragglers_release(stop->target, STRAGGLER_US);
	stop_free(stop);
}

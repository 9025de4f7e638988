/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tasks on ucontext(3). The loop's own context switches into a task and is switched back to when
 * the task waits or ends; a task never switches to another one. What is ready is run by an idle
 * handle, which is active only while something is, so that the loop sleeps otherwise.
 */
#include "agent/daemon/task.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#endif

/* Virtual: what a task does not touch costs nothing. JSON may be nested deeply. */
enum { STACK_SIZE = 512 << 10 };

struct agent_task {
	ucontext_t context;
	void *stack;
	void *shadow; /* the sanitizer's own, while the task waits */
	void (*run)(void *arg);
	void *arg;
	struct agent_task *next_ready, *next_queued;
	bool ready;   /* in the list */
	bool waiting; /* for a wake */
	bool woken;   /* a wake came that nobody has waited for yet */
	bool done;
};

static struct {
	uv_loop_t *loop;
	uv_idle_t idle;
	ucontext_t context;	/* of the loop, while a task runs */
	const void *loop_stack; /* its lowest address; known to the sanitizer alone */
	size_t loop_stack_size;
	struct agent_task *self;
	struct agent_task *first, *last; /* ready */
	size_t count;
} tasks;

uv_loop_t *agent_loop(void)
{
	return tasks.loop;
}

struct agent_task *agent_task_self(void)
{
	return tasks.self;
}

size_t agent_task_count(void)
{
	return tasks.count;
}

/* ---- what AddressSanitizer has to be told of stacks (common_interface_defs.h) ---- */

#ifdef __SANITIZE_ADDRESS__
static void stack_leave(void **shadow, const void *to, size_t size)
{
	__sanitizer_start_switch_fiber(shadow, to, size);
}

static void stack_entered(void *shadow, const void **from, size_t *size)
{
	__sanitizer_finish_switch_fiber(shadow, from, size);
}

/* What only a waiting task's locals point to is no leak. */
static void stack_begins(const void *stack)
{
	__lsan_register_root_region(stack, STACK_SIZE);
}

static void stack_ends(const void *stack)
{
	__lsan_unregister_root_region(stack, STACK_SIZE);
	ASAN_UNPOISON_MEMORY_REGION(stack, STACK_SIZE);
}
#else
static void stack_leave(void **shadow, const void *to, size_t size)
{
}

static void stack_entered(void *shadow, const void **from, size_t *size)
{
}

static void stack_begins(const void *stack)
{
}

static void stack_ends(const void *stack)
{
}
#endif

static void task_free(struct agent_task *task)
{
	stack_ends(task->stack);
	munmap(task->stack, STACK_SIZE);
	free(task);
	tasks.count--;
}

static void enter(struct agent_task *task)
{
	void *shadow = NULL;

	tasks.self = task;
	stack_leave(&shadow, task->stack, STACK_SIZE);
	swapcontext(&tasks.context, &task->context);
	stack_entered(shadow, NULL, NULL);
	tasks.self = NULL;
	if (task->done)
		task_free(task);
}

static void run_ready(uv_idle_t *idle)
{
	/* Only those that are ready now: what they wake has its turn after the loop's events. */
	struct agent_task *last = tasks.last;

	while (tasks.first) {
		struct agent_task *task = tasks.first;
		bool end = task == last;

		tasks.first = task->next_ready;
		if (!tasks.first)
			tasks.last = NULL;
		task->ready = false;
		enter(task);
		if (end)
			break;
	}
	if (!tasks.first)
		uv_idle_stop(idle);
}

static void make_ready(struct agent_task *task)
{
	if (task->ready)
		return;
	task->ready = true;
	task->next_ready = NULL;
	if (tasks.last)
		tasks.last->next_ready = task;
	else
		tasks.first = task;
	tasks.last = task;
	uv_idle_start(&tasks.idle, run_ready);
}

struct pe_error *agent_tasks_init(uv_loop_t *loop)
{
	tasks.loop = loop;
	uv_idle_init(loop, &tasks.idle);
	return NULL;
}

void agent_tasks_deinit(void)
{
	uv_close((uv_handle_t *)&tasks.idle, NULL);
}

static void begin(void)
{
	struct agent_task *task = tasks.self;

	stack_entered(NULL, &tasks.loop_stack, &tasks.loop_stack_size);
	task->run(task->arg);
	task->done = true;
	stack_leave(NULL, tasks.loop_stack, tasks.loop_stack_size);
	swapcontext(&task->context, &tasks.context);
}

struct pe_error *agent_task_start(void (*run)(void *arg), void *arg)
{
	struct agent_task *task = calloc(1, sizeof(*task));
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	if (!task)
		return pe_error_nomem();
	task->stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	/* The lowest page stays out of reach: an overflow ends the process and not its neighbour.
	 */
	if (task->stack == MAP_FAILED || mprotect(task->stack, page, PROT_NONE) != 0) {
		free(task);
		return pe_error_errno(errno, "no stack for a task");
	}
	stack_begins(task->stack);
	task->run = run;
	task->arg = arg;
	getcontext(&task->context);
	task->context.uc_stack.ss_sp = task->stack;
	task->context.uc_stack.ss_size = STACK_SIZE;
	makecontext(&task->context, begin, 0);
	tasks.count++;
	make_ready(task);
	return NULL;
}

/* ---- waiting ---- */

static void leave(void)
{
	struct agent_task *self = tasks.self;

	stack_leave(&self->shadow, tasks.loop_stack, tasks.loop_stack_size);
	swapcontext(&self->context, &tasks.context);
	stack_entered(self->shadow, &tasks.loop_stack, &tasks.loop_stack_size);
}

void agent_task_wake(struct agent_task *task)
{
	task->woken = true;
	if (task->waiting)
		make_ready(task);
}

/* A timer or a poll handle outlives its wait: libuv closes handles in its own time. */
struct waiter {
	union {
		uv_handle_t handle;
		uv_timer_t timer;
		uv_poll_t poll;
	};
	struct agent_task *task;
	bool fired;
	short events;
};

static void waiter_freed(uv_handle_t *handle)
{
	free(handle->data);
}

static void waiter_close(struct waiter *waiter)
{
	if (waiter)
		uv_close(&waiter->handle, waiter_freed);
}

static void timer_fired(uv_timer_t *timer)
{
	struct waiter *waiter = timer->data;

	waiter->fired = true;
	make_ready(waiter->task);
}

static struct waiter *timer_start(int timeout_ms)
{
	struct waiter *waiter = timeout_ms < 0 ? NULL : calloc(1, sizeof(*waiter));

	if (!waiter)
		return NULL;
	waiter->task = tasks.self;
	uv_timer_init(tasks.loop, &waiter->timer);
	waiter->handle.data = waiter;
	/* The loop's clock stands while callbacks run. */
	uv_update_time(tasks.loop);
	uv_timer_start(&waiter->timer, timer_fired, (uint64_t)timeout_ms, 0);
	return waiter;
}

bool agent_task_wait(int timeout_ms)
{
	struct agent_task *self = tasks.self;

	if (!self->woken) {
		struct waiter *timer = timer_start(timeout_ms);

		self->waiting = true;
		leave();
		self->waiting = false;
		waiter_close(timer);
	}

	bool woken = self->woken;

	self->woken = false;
	return woken;
}

void agent_task_sleep(uint64_t ms)
{
	struct waiter *timer = timer_start((int)ms);

	while (timer && !timer->fired)
		leave();
	waiter_close(timer);
}

static void poll_fired(uv_poll_t *poll, int status, int events)
{
	struct waiter *waiter = poll->data;

	waiter->fired = true;
	waiter->events = (short)(status < 0 ? POLLERR
					    : (events & UV_READABLE ? POLLIN : 0) |
						      (events & UV_WRITABLE ? POLLOUT : 0) |
						      (events & UV_PRIORITIZED ? POLLPRI : 0));
	uv_poll_stop(poll);
	make_ready(waiter->task);
}

short agent_task_poll(void *unused, int fd, short events, int timeout_ms)
{
	struct waiter *poll = calloc(1, sizeof(*poll));
	int wanted = (events & POLLIN ? UV_READABLE : 0) | (events & POLLOUT ? UV_WRITABLE : 0) |
		     (events & POLLPRI ? UV_PRIORITIZED : 0);

	if (!poll)
		return POLLERR;
	poll->task = tasks.self;
	if (uv_poll_init(tasks.loop, &poll->poll, fd) != 0) {
		free(poll);
		return POLLERR;
	}
	poll->handle.data = poll;
	uv_poll_start(&poll->poll, wanted, poll_fired);

	struct waiter *timer = timer_start(timeout_ms);

	while (!poll->fired && !(timer && timer->fired))
		leave();

	short got = poll->fired ? poll->events : 0;

	waiter_close(timer);
	waiter_close(poll);
	return got;
}

/* ---- threads ---- */

struct threaded {
	uv_work_t work;
	struct agent_task *task;
	void (*run)(void *arg);
	void *arg;
	bool done;
};

static void thread_run(uv_work_t *work)
{
	struct threaded *threaded = work->data;

	threaded->run(threaded->arg);
}

static void thread_done(uv_work_t *work, int status)
{
	struct threaded *threaded = work->data;

	threaded->done = true;
	make_ready(threaded->task);
}

void agent_task_in_thread(void (*work)(void *arg), void *arg)
{
	struct threaded threaded = { .task = tasks.self, .run = work, .arg = arg };

	threaded.work.data = &threaded;
	uv_queue_work(tasks.loop, &threaded.work, thread_run, thread_done);
	while (!threaded.done)
		leave();
}

/* ---- locks ---- */

void agent_lock_take(struct agent_lock *lock)
{
	struct agent_task *self = tasks.self;

	if (!lock->holder) {
		lock->holder = self;
		return;
	}
	self->next_queued = NULL;
	if (lock->last)
		lock->last->next_queued = self;
	else
		lock->first = self;
	lock->last = self;
	while (lock->holder != self)
		leave();
}

void agent_lock_drop(struct agent_lock *lock)
{
	lock->holder = lock->first;
	if (!lock->first)
		return;
	lock->first = lock->first->next_queued;
	if (!lock->first)
		lock->last = NULL;
	make_ready(lock->holder);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stopping all threads, and telling which of them are inside certain code. */
#include "proc_child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <ucontext.h>

static const struct pe_stop_options fifo = { .fifo = true, .limit_us = 2000000 };
static volatile int never;

/* ---- code that threads are in ---- */

/* As small under the sanitizers as without. */
#define CODE __attribute__((noinline, noclone, no_sanitize("address", "undefined")))

static CODE void wait_here(struct shared *shared)
{
	__atomic_add_fetch(&shared->errors, 1, __ATOMIC_RELAXED);
	shared->ready = 1;
	while (!never)
		pause();
	__asm__ volatile("");
}

static CODE void inside_function(struct shared *shared)
{
	wait_here(shared);
	__asm__ volatile("");
}

static CODE int left_function(int depth)
{
	volatile char room[64] = { (char)depth };

	return depth ? left_function(depth - 1) + room[3] : 0;
}

/* Room that keeps what deeper calls left there: return addresses into left_function. */
static CODE void with_stale_words(struct shared *shared)
{
	volatile uint64_t room[512];

	never = left_function(20) * (int)sizeof(room) * 0;
	__asm__ volatile("" : : "r"(room) : "memory");
	wait_here(shared);
	__asm__ volatile("" : : "r"(room) : "memory");
}

static CODE void stale(struct shared *shared)
{
	left_function(20);
	with_stale_words(shared);
	__asm__ volatile("");
}

static CODE __attribute__((noreturn)) void busy_function(struct shared *shared)
{
	shared->ready = 1;
	for (;;)
		shared->loops++;
}

static CODE void raising_function(void)
{
	raise(SIGUSR1);
	__asm__ volatile("");
}

static struct shared *handler_shared;

static void handler(int sig)
{
	wait_here(handler_shared);
}

/* Inside a handler, that interrupted busy_function. */
static CODE void body_signal(struct shared *shared)
{
	handler_shared = shared;
	signal(SIGALRM, handler);
	ualarm(20000, 0);
	for (;;)
		__asm__ volatile("");
}

static void body_altstack(struct shared *shared)
{
	stack_t stack = { .ss_sp = malloc(1 << 16), .ss_size = 1 << 16 };
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_ONSTACK };

	handler_shared = shared;
	sigaltstack(&stack, NULL);
	sigaction(SIGUSR1, &action, NULL);
	raising_function();
}

static void coroutine(void)
{
	wait_here(handler_shared);
}

static CODE void resumes_coroutine(ucontext_t *here, ucontext_t *there)
{
	swapcontext(here, there);
	__asm__ volatile("");
}

static void body_coroutine(struct shared *shared)
{
	static ucontext_t here, there;

	handler_shared = shared;
	getcontext(&there);
	there.uc_stack.ss_sp = malloc(1 << 16);
	there.uc_stack.ss_size = 1 << 16;
	there.uc_link = &here;
	makecontext(&there, coroutine, 0);
	resumes_coroutine(&here, &there);
}

static void *short_life(void *arg)
{
	((struct shared *)arg)->loops++;
	return NULL;
}

static void *mother(void *arg)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	for (;;) {
		if (pthread_create(&thread, &attr, short_life, arg) == 0)
			pthread_join(thread, NULL);
	}
	return NULL;
}

static void body_churn(struct shared *shared)
{
	pthread_t thread;

	for (int i = 0; i < 3; i++)
		pthread_create(&thread, NULL, mother, shared);
	shared->ready = 1;
	for (;;)
		pause();
}

static void *sleeper(void *arg)
{
	wait_here(arg);
	return NULL;
}

static void body_leader_exits(struct shared *shared)
{
	pthread_t thread;

	pthread_create(&thread, NULL, sleeper, shared);
	pthread_exit(NULL);
}

static void body_many(struct shared *shared)
{
	static struct shared waiting; /* errors: how many wait */
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	for (int i = 0; i < 300; i++)
		pthread_create(&thread, &attr, sleeper, &waiting);
	while (waiting.errors < 300)
		usleep(1000);
	wait_here(shared);
}

/* ---- helpers ---- */

static struct pe_range range_of(void *function, uint64_t size)
{
	return (struct pe_range){ .start = (uintptr_t)function, .end = (uintptr_t)function + size };
}

struct seen {
	size_t count, precise;
	uint64_t pause_us;
	size_t predicted;
};

static struct seen check(pid_t pid, struct pe_range range, enum pe_range_match match)
{
	struct pe_target *target;
	struct pe_maps maps;
	struct pe_stop *stop;
	struct pe_stack_hits hits = { 0 };
	struct seen seen = { 0 };
	size_t unknown;

	succeed(pe_target_open(pid, &target));
	succeed(pe_target_maps(target, &maps));
	succeed(pe_stack_predict(target, &maps, &range, 1, match, &hits, &unknown));
	seen.predicted = hits.count;
	pe_stack_hits_deinit(&hits);
	succeed(pe_stop_all(target, &fifo, &stop));
	struct pe_error *err = pe_stop_check(stop, &maps, &range, 1, match, true, &hits);
	pe_stop_resume(stop, &seen.pause_us);
	succeed(err);
	for (size_t i = 0; i < hits.count; i++)
		seen.precise += hits.items[i].precise;
	seen.count = hits.count;
	pe_stack_hits_deinit(&hits);
	pe_maps_deinit(&maps);
	pe_target_close(target);
	return seen;
}

static struct seen check_body(void (*body)(struct shared *), struct pe_range range)
{
	struct shared *shared = shared_new();
	pid_t pid = child_start(body, shared);
	struct seen seen = check(pid, range, PE_MATCH_BODY);

	assert_true(child_lives(pid));
	child_end(pid);
	shared_free(shared);
	return seen;
}

enum { SMALL = 24 }; /* bytes; none of the functions has less */

/* ---- tests ---- */

static void a_hundred_stops_lose_no_thread_that_is_born_or_dies(void **state)
{
	struct shared *shared = shared_new();
	struct pe_target *target;
	pid_t pid = child_start(body_churn, shared);

	succeed(pe_target_open(pid, &target));
	for (int i = 0; i < 100; i++) {
		struct pe_stop *stop;
		size_t count;

		succeed(pe_stop_all(target, &fifo, &stop));
		assert_true(pe_stop_threads(stop, &count)[0].tid > 0);
		assert_true(count >= 4);
		/* Nobody runs: the counter stands still. */
		uint64_t loops = shared->loops;

		usleep(500);
		assert_int_equal(shared->loops, loops);
		pe_stop_resume(stop, NULL);
		usleep(1000);
	}
	assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
	assert_true(child_goes_on(shared));
	assert_true(child_lives(pid));
	pe_target_close(target);
	child_end(pid);
	shared_free(shared);
}

static void a_return_address_is_found_and_confirmed(void **state)
{
	struct seen seen = check_body(inside_function, range_of(inside_function, SMALL));

	assert_true(seen.predicted >= 1);
	assert_int_equal(seen.count, 1);
	assert_int_equal(seen.precise, 1);
}

static void stale_words_are_denied_by_unwinding(void **state)
{
	struct seen seen = check_body(stale, range_of(left_function, 96));

	assert_true(seen.predicted >= 1);
	assert_int_equal(seen.count, 0);
}

static void a_program_counter_is_found(void **state)
{
	struct seen seen = check_body(busy_function, range_of(busy_function, SMALL));

	assert_int_equal(seen.count, 1);
	assert_int_equal(seen.precise, 1);
}

static void code_that_a_signal_interrupted_is_found_on_both_kinds_of_stack(void **state)
{
	/* The loop of body_signal itself, somewhere behind its calls. */
	struct seen seen = check_body(body_signal, range_of(body_signal, 96));

	assert_int_equal(seen.count, 1);
	assert_int_equal(seen.precise, 1);
	seen = check_body(body_altstack, range_of(raising_function, SMALL));
	assert_int_equal(seen.count, 1);
	assert_int_equal(seen.precise, 1);
	/* And nothing else. */
	seen = check_body(body_altstack, range_of(busy_function, SMALL));
	assert_int_equal(seen.count, 0);
}

static void what_waits_for_a_coroutine_is_found(void **state)
{
	struct seen seen = check_body(body_coroutine, range_of(resumes_coroutine, SMALL));

	assert_true(seen.count >= 1);
}

static void only_the_interior_counts_when_asked(void **state)
{
	struct shared *shared = shared_new();
	pid_t pid = child_start(inside_function, shared);
	struct pe_range range = range_of(inside_function, 1);

	for (uint64_t end = 1; end < SMALL; end++) {
		range.end = range.start + end;
		struct seen body = check(pid, range, PE_MATCH_BODY);
		struct seen interior = check(pid, range, PE_MATCH_INTERIOR);

		if (body.count && !interior.count) {
			/* The return address is exactly the end. */
			range.end++;
			assert_int_equal(check(pid, range, PE_MATCH_INTERIOR).count, 1);
			child_end(pid);
			shared_free(shared);
			return;
		}
	}
	fail_msg("no end was found");
}

static void a_stopped_process_stays_stopped(void **state)
{
	struct shared *shared = shared_new();
	struct pe_target *target;
	struct pe_stop *stop;
	pid_t pid = child_start(body_churn, shared);
	int status;

	kill(pid, SIGSTOP);
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
	succeed(pe_target_open(pid, &target));
	for (int i = 0; i < 20; i++) {
		succeed(pe_stop_all(target, &fifo, &stop));
		pe_stop_resume(stop, NULL);
	}
	usleep(20000);
	uint64_t loops = shared->loops;

	usleep(20000);
	assert_int_equal(shared->loops, loops);
	kill(pid, SIGCONT);
	assert_true(child_goes_on(shared));
	assert_true(child_lives(pid));
	pe_target_close(target);
	child_end(pid);
	shared_free(shared);
}

static void signals_that_arrive_during_a_stop_are_delivered(void **state)
{
	struct shared *shared = shared_new();
	struct pe_target *target;
	struct pe_stop *stop;
	pid_t pid = child_start(body_altstack, shared);

	succeed(pe_target_open(pid, &target));
	for (int i = 0; i < 20; i++) {
		succeed(pe_stop_all(target, &fifo, &stop));
		kill(pid, SIGCHLD); /* ignored by default */
		pe_stop_resume(stop, NULL);
	}
	assert_true(child_lives(pid));
	succeed(pe_stop_all(target, &fifo, &stop));
	kill(pid, SIGTERM);
	pe_stop_resume(stop, NULL);
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WTERMSIG(status), SIGTERM);
	expect(pe_stop_all(target, &fifo, &stop), PE_ERR_DIED);
	pe_target_close(target);
	shared_free(shared);
}

static void a_traced_process_is_refused_and_left_alone(void **state)
{
	struct shared *shared = shared_new();
	struct pe_target *target;
	struct pe_stop *stop;
	struct pe_injector *injector;
	pid_t pid = child_start(body_churn, shared);
	pid_t tracer = fork();

	if (tracer == 0) {
		ptrace(PTRACE_SEIZE, pid, NULL, NULL);
		for (;;)
			pause();
	}
	usleep(50000);
	succeed(pe_target_open(pid, &target));
	assert_int_equal(pe_target_tracer(target), tracer);
	expect(pe_stop_all(target, &fifo, &stop), PE_ERR_BUSY);
	expect(pe_inject_begin(target, PE_INJECT_SYSCALL, &injector), PE_ERR_BUSY);
	child_end(tracer);
	usleep(10000);
	assert_int_equal(pe_target_tracer(target), 0);
	succeed(pe_stop_all(target, &fifo, &stop));
	pe_stop_resume(stop, NULL);
	assert_true(child_lives(pid));
	pe_target_close(target);
	child_end(pid);
	shared_free(shared);
}

static void a_process_whose_first_thread_has_exited_is_refused(void **state)
{
	struct shared *shared = shared_new();
	struct pe_target *target;
	pid_t pid = child_start(body_leader_exits, shared);

	expect(pe_target_open(pid, &target), PE_ERR_UNSUPPORTED);
	child_end(pid);
	shared_free(shared);
}

static void past_the_limit_nobody_is_held(void **state)
{
	struct shared *shared = shared_new();
	struct pe_target *target;
	struct pe_stop *stop;
	struct pe_maps maps;
	struct pe_range range = range_of(busy_function, SMALL);
	struct pe_stack_hits hits = { 0 };
	const struct pe_stop_options brief = { .fifo = true, .limit_us = 100000 };
	pid_t pid = child_start(busy_function, shared);

	succeed(pe_target_open(pid, &target));
	succeed(pe_target_maps(target, &maps));
	succeed(pe_stop_all(target, &brief, &stop));
	usleep(110000);
	expect(pe_stop_within_limit(stop), PE_ERR_BUSY);
	expect(pe_stop_check(stop, &maps, &range, 1, PE_MATCH_BODY, true, &hits), PE_ERR_BUSY);
	pe_stop_resume(stop, NULL);
	assert_true(child_goes_on(shared));
	pe_maps_deinit(&maps);
	pe_target_close(target);
	child_end(pid);
	shared_free(shared);
}

static int wait_for_stop(void *shared)
{
	while (!((struct shared *)shared)->stop)
		poll(NULL, 0, 1);
	return 0;
}

/* Has a process of its own number in its memory, as vfork and some sandboxes make them. */
static void body_shares_memory(struct shared *shared)
{
	static char stack[65536] __attribute__((aligned(16)));
	pid_t pid = clone(wait_for_stop, stack + sizeof(stack), CLONE_VM | SIGCHLD, shared);

	shared->errors = (uint64_t)pid;
	shared->ready = 1;
	waitpid(pid, NULL, 0);
	for (;;) {
		shared->loops++;
		poll(NULL, 0, 1);
	}
}

static void a_process_whose_memory_another_one_shares_is_not_held(void **state)
{
	const struct pe_stop_options options = { .limit_us = 1000000 };
	struct shared *shared = shared_new();
	struct pe_target *target;
	struct pe_stop *stop;
	char number[32];
	pid_t pid = child_start(body_shares_memory, shared);

	succeed(pe_target_open(pid, &target));

	struct pe_error *err = pe_stop_all(target, &options, &stop);

	assert_non_null(err);
	snprintf(number, sizeof(number), "process %d shares", (int)shared->errors);

	pe_auto_free char *text = pe_error_text(err);

	assert_non_null(strstr(text, number));
	expect(err, PE_ERR_BUSY);
	/* When that one has gone, all is well. */
	shared->stop = 1;
	assert_true(child_goes_on(shared));
	succeed(pe_stop_all(target, &options, &stop));
	pe_stop_resume(stop, NULL);
	assert_true(child_goes_on(shared));
	pe_target_close(target);
	child_end(pid);
	shared_free(shared);
}

static void *missing_page;

static void *read_to_missing_page(void *arg)
{
	struct shared *shared = arg;
	int zeros = open("/dev/zero", O_RDONLY);

	shared->ready = 1;
	if (zeros < 0 || read(zeros, missing_page, 1) != 1)
		_exit(1);
	for (;;) {
		shared->loops++;
		poll(NULL, 0, 1);
	}
	return NULL;
}

/* A thread waits inside the kernel for a page, and no signal gets it out, until stop is set. */
static void body_waits_in_the_kernel(struct shared *shared)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register wanted = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_zeropage page = { 0 };
	pthread_t thread;

	missing_page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	page.range.start = wanted.range.start = (uintptr_t)missing_page;
	page.range.len = wanted.range.len = 4096;
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &wanted)) {
		shared->errors = (uint64_t)errno;
		shared->ready = 1;
		pause();
	}
	pthread_create(&thread, NULL, read_to_missing_page, shared);
	while (!shared->stop)
		poll(NULL, 0, 1);
	ioctl(fd, UFFDIO_ZEROPAGE, &page);
	pause();
}

static struct pe_error *stop_briefly(void *target)
{
	const struct pe_stop_options brief = { .limit_us = 50000 };
	struct pe_stop *stop;
	struct pe_error *err = pe_stop_all(target, &brief, &stop);

	if (!err)
		pe_stop_resume(stop, NULL);
	return err;
}

static void a_thread_that_could_not_be_stopped_in_time_is_not_held_later(void **state)
{
	struct shared *shared = shared_new();
	struct pe_target *target;
	pid_t pid = child_start(body_waits_in_the_kernel, shared);

	if (shared->errors) {
		print_message("no userfaultfd here: %s\n", strerror((int)shared->errors));
		child_end(pid);
		shared_free(shared);
		skip();
	}
	succeed(pe_target_open(pid, &target));
	expect(pe_target_trace(target, stop_briefly, target), PE_ERR_BUSY);
	assert_int_equal(pe_target_tracer(target), 0);
	/* We are still there, and it goes on as soon as the kernel lets it. */
	assert_int_equal(shared->loops, 0);
	shared->stop = 1;
	assert_true(child_goes_on(shared));
	succeed(pe_target_trace(target, stop_briefly, target));
	assert_true(child_goes_on(shared));
	pe_target_close(target);
	child_end(pid);
	shared_free(shared);
}

static void three_hundred_threads_stand_for_some_milliseconds_only(void **state)
{
	struct shared *shared = shared_new();
	pid_t pid = child_start(body_many, shared);
	struct seen seen = check(pid, range_of(sleeper, SMALL), PE_MATCH_BODY);

	assert_int_equal(seen.count, 300);
	assert_int_equal(seen.precise, 300);
	seen = check(pid, range_of(busy_function, SMALL), PE_MATCH_BODY);
	print_message("300 threads stood for %llu us\n", (unsigned long long)seen.pause_us);
	assert_int_equal(seen.count, 0);
	child_end(pid);
	shared_free(shared);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_hundred_stops_lose_no_thread_that_is_born_or_dies),
		cmocka_unit_test(a_return_address_is_found_and_confirmed),
		cmocka_unit_test(stale_words_are_denied_by_unwinding),
		cmocka_unit_test(a_program_counter_is_found),
		cmocka_unit_test(code_that_a_signal_interrupted_is_found_on_both_kinds_of_stack),
		cmocka_unit_test(what_waits_for_a_coroutine_is_found),
		cmocka_unit_test(only_the_interior_counts_when_asked),
		cmocka_unit_test(a_stopped_process_stays_stopped),
		cmocka_unit_test(signals_that_arrive_during_a_stop_are_delivered),
		cmocka_unit_test(a_traced_process_is_refused_and_left_alone),
		cmocka_unit_test(a_process_whose_first_thread_has_exited_is_refused),
		cmocka_unit_test(past_the_limit_nobody_is_held),
		cmocka_unit_test(a_process_whose_memory_another_one_shares_is_not_held),
		cmocka_unit_test(a_thread_that_could_not_be_stopped_in_time_is_not_held_later),
		cmocka_unit_test(three_hundred_threads_stand_for_some_milliseconds_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

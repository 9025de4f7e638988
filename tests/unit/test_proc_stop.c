/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stopping all threads: nobody is lost, and nobody is held longer than allowed. */
#include "stop_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

/* ---- code that threads are in ---- */

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

static void body_leader_exits(struct shared *shared)
{
	pthread_t thread;

	pthread_create(&thread, NULL, sleeper, shared);
	pthread_exit(NULL);
}

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_hundred_stops_lose_no_thread_that_is_born_or_dies),
		cmocka_unit_test(a_stopped_process_stays_stopped),
		cmocka_unit_test(signals_that_arrive_during_a_stop_are_delivered),
		cmocka_unit_test(a_traced_process_is_refused_and_left_alone),
		cmocka_unit_test(a_process_whose_first_thread_has_exited_is_refused),
		cmocka_unit_test(past_the_limit_nobody_is_held),
		cmocka_unit_test(a_process_whose_memory_another_one_shares_is_not_held),
		cmocka_unit_test(a_thread_that_could_not_be_stopped_in_time_is_not_held_later),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

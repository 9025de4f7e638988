/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Telling which stopped threads are inside certain code. */
#include "stop_fixture.h"

#include <ucontext.h>

/* ---- code that threads are in ---- */

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

/* Inside a handler, that interrupted busy_function. */
static CODE void body_signal(struct shared *shared)
{
	handler_shared = shared;
	signal(SIGALRM, handler);
	ualarm(20000, 0);
	for (;;)
		__asm__ volatile("");
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

/* ---- tests ---- */

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
		cmocka_unit_test(a_return_address_is_found_and_confirmed),
		cmocka_unit_test(stale_words_are_denied_by_unwinding),
		cmocka_unit_test(a_program_counter_is_found),
		cmocka_unit_test(code_that_a_signal_interrupted_is_found_on_both_kinds_of_stack),
		cmocka_unit_test(what_waits_for_a_coroutine_is_found),
		cmocka_unit_test(only_the_interior_counts_when_asked),
		cmocka_unit_test(three_hundred_threads_stand_for_some_milliseconds_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

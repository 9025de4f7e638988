/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Injected calls: results, nothing changed in the thread, and what a killed tracer leaves. */
#include "proc_child.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

static const uint64_t no_args[6] = { 0 };

/* ---- bodies of children ---- */

static void body_pause(struct shared *shared)
{
	shared->ready = 1;
	for (;;) {
		pause();
		shared->errors++;
	}
}

static void body_condvar(struct shared *shared)
{
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

	pthread_mutex_lock(&mutex);
	shared->ready = 1;
	for (;;) {
		pthread_cond_wait(&cond, &mutex);
		shared->errors++;
	}
}

/* A leaf that keeps values in its red zone and in every kind of register, and checks them. */
static void body_red_zone(struct shared *shared)
{
	shared->ready = 1;
	for (;;) {
		uint64_t bad = 0;

		__asm__ volatile("movabs $0x1122334455667788, %%rax\n"
				 "movq %%rax, %%xmm5\n"
				 "vpbroadcastq %%xmm5, %%ymm6\n"
				 "mov $16, %%ecx\n"
				 "1: mov %%rax, -136(%%rsp,%%rcx,8)\n"
				 "dec %%ecx\n"
				 "jnz 1b\n"
				 "mov $3000, %%edx\n"
				 "2: mov $16, %%ecx\n"
				 "3: cmp %%rax, -136(%%rsp,%%rcx,8)\n"
				 "jne 4f\n"
				 "dec %%ecx\n"
				 "jnz 3b\n"
				 "vpextrq $1, %%xmm6, %%rsi\n"
				 "cmp %%rax, %%rsi\n"
				 "jne 4f\n"
				 "vextracti128 $1, %%ymm6, %%xmm7\n"
				 "movq %%xmm7, %%rsi\n"
				 "cmp %%rax, %%rsi\n"
				 "jne 4f\n"
				 "dec %%edx\n"
				 "jnz 2b\n"
				 "jmp 5f\n"
				 "4: inc %0\n"
				 "5:\n"
				 : "+r"(bad)
				 :
				 : "rax", "rcx", "rdx", "rsi", "xmm5", "xmm6", "xmm7", "memory",
				   "cc");
		shared->errors += bad;
		shared->loops++;
	}
}

/* Only a timed wait, which an earlier stop turned into restart_syscall. */
static void body_poll(struct shared *shared)
{
	shared->ready = 1;
	for (;;) {
		int ret = poll(NULL, 0, 20);

		shared->errors += ret != 0;
		shared->loops++;
	}
}

enum { CALLS = 12 };

/* Calls of every kind, each must end by itself and with its own result, never with EINTR. */
static void *blocker(void *arg)
{
	struct shared *shared = ((struct shared **)arg)[0];
	long kind = ((long *)arg)[1];
	struct timespec ms = { .tv_nsec = 20000000 };
	int fds[2];
	struct pollfd pfd;
	struct epoll_event event;
	sigset_t set;
	struct sembuf sem = { .sem_op = -1 };

	if (pipe(fds))
		_exit(1);
	pfd = (struct pollfd){ .fd = fds[0], .events = POLLIN };
	int epoll = epoll_create1(0);
	int semid = semget(IPC_PRIVATE, 1, 0600);
	int unix_pair[2], listener = socket(AF_INET, SOCK_STREAM, 0);
	struct timeval tv = { .tv_usec = 20000 };

	socketpair(AF_UNIX, SOCK_STREAM, 0, unix_pair);
	setsockopt(unix_pair[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	listen(listener, 1);
	setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	while (!shared->stop) {
		long ret = -1;
		int expected = 0;
		char byte;

		errno = 0;
		switch (kind) {
		case 0:
			ret = poll(&pfd, 1, 20);
			break;
		case 1:
			ret = epoll_wait(epoll, &event, 1, 20);
			break;
		case 2:
			ret = nanosleep(&ms, NULL);
			break;
		case 3:
			ret = sigtimedwait(&set, NULL, &ms);
			expected = EAGAIN;
			break;
		case 4:
			ret = ppoll(&pfd, 1, &ms, &set);
			break;
		case 5:
			ret = clock_nanosleep(CLOCK_MONOTONIC, 0, &ms, NULL);
			break;
		case 6:
			ret = recv(unix_pair[0], &byte, 1, 0);
			expected = EAGAIN;
			break;
		case 7:
			ret = accept(listener, NULL, NULL);
			expected = EAGAIN;
			break;
		case 8:
			ret = semtimedop(semid, &sem, 1, &ms);
			expected = EAGAIN;
			break;
		case 9:
			ret = epoll_pwait(epoll, &event, 1, 20, &set);
			break;
		case 10:
			ret = syscall(SYS_futex, &shared->ready, 0, 1, &ms, NULL, 0);
			expected = ETIMEDOUT;
			break;
		case 11:
			ret = select(fds[0] + 1, NULL, NULL, NULL, &tv);
			tv.tv_usec = 20000;
			break;
		}
		if (ret > 0 || (ret < 0 && errno != expected) || (expected && ret == 0)) {
			shared->errors |= 1ULL << kind;
		}
		__atomic_add_fetch(&shared->loops, 1, __ATOMIC_RELAXED);
	}
	semctl(semid, 0, IPC_RMID);
	return NULL;
}

static void body_blockers(struct shared *shared)
{
	static long args[CALLS][2];
	pthread_t threads[CALLS];

	shared->ready = 1;
	for (long i = 0; i < CALLS; i++) {
		args[i][0] = (long)shared;
		args[i][1] = i;
		pthread_create(&threads[i], NULL, blocker, args[i]);
	}
	for (long i = 0; i < CALLS; i++)
		pthread_join(threads[i], NULL);
}

static __attribute__((noinline)) long function_add(long a, long b, long c, long d, long e, long f)
{
	double x = (double)a * 1.5;

	__asm__ volatile("" : "+x"(x));
	return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + (long)(x * 0);
}

static __attribute__((no_sanitize("undefined", "address"))) long function_crash(void)
{
	volatile int *volatile nowhere = NULL;

	*nowhere = 1;
	return 0;
}

static long function_slow(void)
{
	struct timespec ms = { .tv_nsec = 300000000 };

	nanosleep(&ms, NULL);
	return 7;
}

/* On a busy machine the thread may be on its way into its wait for long. */
static struct pe_injector *begin(struct pe_target *target, enum pe_inject_for purpose)
{
	struct pe_injector *injector = NULL;

	for (int i = 0; i < 100; i++) {
		struct pe_error *err = pe_inject_begin(target, purpose, &injector);

		if (!err)
			return injector;
		if (err->code != PE_ERR_BUSY || i == 99)
			succeed(err);
		pe_error_free(err);
		usleep(20000);
	}
	return NULL;
}

/* ---- tests ---- */

static void inject_getpid(struct pe_target *target)
{
	struct pe_injector *injector;
	int64_t result = 0;

	injector = begin(target, PE_INJECT_SYSCALL);
	succeed(pe_inject_syscall(injector, SYS_getpid, no_args, &result));
	assert_int_equal(result, pe_target_pid(target));
	succeed(pe_inject_end(injector));
}

static void a_blocked_thread_runs_system_calls_and_stays_blocked(void **state)
{
	void (*bodies[])(struct shared *) = { body_pause, body_condvar };

	for (size_t b = 0; b < 2; b++) {
		struct shared *shared = shared_new();
		struct pe_target *target;
		struct pe_injector *injector;
		pid_t pid = child_start(bodies[b], shared);
		int64_t result;

		succeed(pe_target_open(pid, &target));
		for (int i = 0; i < 50; i++)
			inject_getpid(target);
		injector = begin(target, PE_INJECT_SYSCALL);
		for (int i = 0; i < 20; i++) {
			succeed(pe_inject_syscall(injector, SYS_getppid, no_args, &result));
			assert_int_equal(result, getpid());
		}
		const uint64_t args[6] = { 99, 0, 0, 0, 0, 0 };

		succeed(pe_inject_syscall(injector, SYS_close, args, &result));
		assert_int_equal(result, -EBADF);
		succeed(pe_inject_end(injector));
		/* Begun and ended without a call. */
		injector = begin(target, PE_INJECT_SYSCALL);
		succeed(pe_inject_end(injector));
		usleep(20000);
		assert_true(child_lives(pid));
		assert_int_equal(shared->errors, 0);
		pe_target_close(target);
		child_end(pid);
		shared_free(shared);
	}
}

static void mmap_with_scratch_makes_memory_in_the_target(void **state)
{
	struct shared *shared = shared_new();
	struct pe_target *target;
	struct pe_injector *injector;
	pid_t pid = child_start(body_condvar, shared);
	uint64_t name;
	int64_t fd, addr;
	char back[8];

	succeed(pe_target_open(pid, &target));
	injector = begin(target, PE_INJECT_SYSCALL);
	succeed(pe_inject_scratch(injector, "care:x", 7, &name));
	succeed(pe_target_read(target, name, back, 7));
	assert_string_equal(back, "care:x");
	succeed(pe_inject_syscall(injector, SYS_memfd_create, (uint64_t[6]){ name, 1 }, &fd));
	assert_true(fd >= 0);
	succeed(pe_inject_syscall(injector, SYS_ftruncate, (uint64_t[6]){ (uint64_t)fd, 4096 },
				  &addr));
	assert_int_equal(addr, 0);
	succeed(pe_inject_syscall(
		injector, SYS_mmap,
		(uint64_t[6]){ 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, (uint64_t)fd, 0 },
		&addr));
	assert_true(addr > 0);
	succeed(pe_target_write(target, (uint64_t)addr, "hello", 6));
	expect(pe_inject_scratch(injector, back, 2000, &name), PE_ERR_INTERNAL);
	succeed(pe_inject_end(injector));

	struct pe_maps maps;

	succeed(pe_target_maps(target, &maps));
	const struct pe_map *map = pe_maps_at(&maps, (uint64_t)addr);

	assert_non_null(map);
	assert_string_equal(map->path, "/memfd:care:x (deleted)");
	pe_maps_deinit(&maps);
	assert_int_equal(shared->errors, 0);
	pe_target_close(target);
	child_end(pid);
	shared_free(shared);
}

static void functions_are_called_with_arguments_and_return_their_result(void **state)
{
	struct shared *shared = shared_new();
	struct pe_target *target;
	struct pe_injector *injector;
	pid_t pid = child_start(body_condvar, shared);
	uint64_t result = 0;
	int64_t raw;
	const uint64_t args[6] = { 1, 2, 3, 4, 5, 6 };

	succeed(pe_target_open(pid, &target));
	for (int i = 0; i < 20; i++) {
		injector = begin(target, PE_INJECT_FUNCTION);
		succeed(pe_inject_call(injector, (uintptr_t)function_add, args, 100000, &result));
		assert_int_equal(result, 1 + 4 + 9 + 16 + 25 + 36);
		succeed(pe_inject_syscall(injector, SYS_getpid, no_args, &raw));
		assert_int_equal(raw, pid);
		succeed(pe_inject_call(injector, (uintptr_t)function_add, args, 100000, &result));
		assert_int_equal(result, 1 + 4 + 9 + 16 + 25 + 36);
		succeed(pe_inject_end(injector));
	}
	assert_int_equal(shared->errors, 0);
	assert_true(child_lives(pid));
	pe_target_close(target);
	child_end(pid);
	shared_free(shared);
}

static void a_crashing_function_is_reported_and_the_thread_goes_on(void **state)
{
	struct shared *shared = shared_new();
	struct pe_target *target;
	struct pe_injector *injector;
	pid_t pid = child_start(body_condvar, shared);
	uint64_t result = 0;

	succeed(pe_target_open(pid, &target));
	injector = begin(target, PE_INJECT_FUNCTION);
	expect(pe_inject_call(injector, (uintptr_t)function_crash, no_args, 100000, &result),
	       PE_ERR_UNSUPPORTED);
	succeed(pe_inject_end(injector));
	inject_getpid(target);
	usleep(20000);
	assert_true(child_lives(pid));
	assert_int_equal(shared->errors, 0);
	pe_target_close(target);
	child_end(pid);
	shared_free(shared);
}

static void a_slow_function_is_left_to_finish_and_heals_by_itself(void **state)
{
	struct shared *shared = shared_new();
	struct pe_target *target;
	struct pe_injector *injector;
	pid_t pid = child_start(body_condvar, shared);
	uint64_t result = 0;

	succeed(pe_target_open(pid, &target));
	injector = begin(target, PE_INJECT_FUNCTION);
	expect(pe_inject_call(injector, (uintptr_t)function_slow, no_args, 20000, &result),
	       PE_ERR_BUSY);
	succeed(pe_inject_end(injector));
	usleep(500000);
	assert_true(child_lives(pid));
	inject_getpid(target);
	usleep(10000);
	assert_true(child_lives(pid));
	assert_int_equal(shared->errors, 0);
	pe_target_close(target);
	child_end(pid);
	shared_free(shared);
}

static void red_zone_and_registers_survive_a_thousand_injected_calls(void **state)
{
	struct shared *shared = shared_new();
	struct pe_target *target;
	pid_t pid = child_start(body_red_zone, shared);

	succeed(pe_target_open(pid, &target));
	for (int i = 0; i < 1000; i++)
		inject_getpid(target);

	assert_true(child_goes_on(shared));
	assert_int_equal(shared->errors, 0);
	pe_target_close(target);
	child_end(pid);
	shared_free(shared);
}

static void a_living_patcher_never_shows_eintr_to_blocked_calls(void **state)
{
	struct shared *shared = shared_new();
	struct pe_target *target;
	struct pe_stop *stop;
	const struct pe_stop_options options = { .limit_us = 1000000 };
	pid_t pid = child_start(body_blockers, shared);
	int status;

	succeed(pe_target_open(pid, &target));
	for (int i = 0; i < 200; i++) {
		inject_getpid(target);
		succeed(pe_stop_all(target, &options, &stop));
		pe_stop_resume(stop, NULL);
		usleep((useconds_t)(i % 7) * 6000);
	}
	shared->stop = 1;
	pe_target_close(target);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(shared->loops > 10 * CALLS);
	assert_int_equal(shared->errors, 0);
	shared_free(shared);
}

/* Kills a tracer at random moments of injecting; the target must go on as if nothing was. */
static void kill_tracers(void (*body)(struct shared *), enum pe_inject_for purpose, int rounds)
{
	struct shared *shared = shared_new();
	pid_t pid = child_start(body, shared);

	srandom((unsigned int)getpid());
	for (int i = 0; i < rounds; i++) {
		pid_t tracer = fork();

		if (tracer == 0) {
			struct pe_target *target;
			struct pe_injector *injector;
			const uint64_t args[6] = { 1, 2, 3, 4, 5, 6 };
			uint64_t result;
			int64_t raw;

			if (pe_target_open(pid, &target))
				_exit(1);
			for (;;) {
				if (pe_inject_begin(target, purpose, &injector))
					continue;
				for (int n = 0; n < 3; n++)
					(void)!pe_inject_syscall(injector, SYS_getpid, no_args,
								 &raw);
				if (purpose == PE_INJECT_FUNCTION)
					(void)!pe_inject_call(injector, (uintptr_t)function_add,
							      args, 100000, &result);
				(void)!pe_inject_end(injector);
			}
		}
		usleep(2000 + (useconds_t)random() % 5000);
		assert_int_equal(waitpid(tracer, NULL, WNOHANG), 0);
		child_end(tracer);
		assert_true(child_lives(pid));
	}
	usleep(20000);

	struct pe_target *target;
	struct pe_threads threads;

	succeed(pe_target_open(pid, &target));
	inject_getpid(target);
	succeed(pe_target_threads(target, &threads));
	pe_threads_deinit(&threads);
	if (body != body_condvar)
		assert_true(child_goes_on(shared));
	usleep(20000);
	assert_true(child_lives(pid));
	if (body != body_blockers)
		assert_int_equal(shared->errors, 0);
	pe_target_close(target);
	child_end(pid);
	shared_free(shared);
}

static void killed_tracers_leave_a_computing_thread_intact(void **state)
{
	kill_tracers(body_red_zone, PE_INJECT_SYSCALL, 100);
}

static void killed_tracers_leave_a_timed_wait_intact(void **state)
{
	kill_tracers(body_poll, PE_INJECT_FUNCTION, 100);
}

static void killed_tracers_leave_blocked_threads_intact(void **state)
{
	kill_tracers(body_condvar, PE_INJECT_FUNCTION, 100);
	kill_tracers(body_blockers, PE_INJECT_FUNCTION, 50);
}

static volatile sig_atomic_t child_signals;

static void count_signal(int sig)
{
	child_signals++;
}

static void the_parent_sees_nothing(void **state)
{
	struct shared *shared = shared_new();
	struct sigaction action = { .sa_handler = count_signal }, old;
	struct pe_target *target;
	struct pe_stop *stop;
	const struct pe_stop_options options = { .limit_us = 1000000 };
	pid_t pid = child_start(body_condvar, shared);
	pid_t tracer = fork();
	int status;

	if (tracer == 0) {
		struct pe_error *err = pe_target_open(pid, &target);

		for (int i = 0; i < 50 && !err; i++) {
			inject_getpid(target);
			err = pe_stop_all(target, &options, &stop);
			if (!err)
				pe_stop_resume(stop, NULL);
		}
		_exit(err ? 1 : 0);
	}
	action.sa_flags = 0;
	sigaction(SIGCHLD, &action, &old);
	child_signals = 0;
	while (waitpid(tracer, &status, WNOHANG) == 0) {
		int other;

		assert_int_equal(waitpid(pid, &other, WNOHANG | WUNTRACED | WCONTINUED), 0);
		usleep(1000);
	}
	assert_int_equal(status, 0);
	assert_true(child_signals <= 1); /* the tracer's own end */
	sigaction(SIGCHLD, &old, NULL);
	child_end(pid);
	shared_free(shared);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_blocked_thread_runs_system_calls_and_stays_blocked),
		cmocka_unit_test(mmap_with_scratch_makes_memory_in_the_target),
		cmocka_unit_test(functions_are_called_with_arguments_and_return_their_result),
		cmocka_unit_test(a_crashing_function_is_reported_and_the_thread_goes_on),
		cmocka_unit_test(a_slow_function_is_left_to_finish_and_heals_by_itself),
		cmocka_unit_test(red_zone_and_registers_survive_a_thousand_injected_calls),
		cmocka_unit_test(a_living_patcher_never_shows_eintr_to_blocked_calls),
		cmocka_unit_test(the_parent_sees_nothing),
		cmocka_unit_test(killed_tracers_leave_a_computing_thread_intact),
		cmocka_unit_test(killed_tracers_leave_a_timed_wait_intact),
		cmocka_unit_test(killed_tracers_leave_blocked_threads_intact),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

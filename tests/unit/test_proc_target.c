/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Maps, images, symbols, threads and memory of real child processes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "engine/cleanup.h"
#include "engine/target.h"

static const char marker[] = "a text that the child has at the same address";
static volatile int shared_number = 41;

static void *sleeper(void *arg)
{
	for (;;)
		pause();
	return arg;
}

/* A child of this program with 3 threads; the same program, so the same addresses. */
static pid_t child_start(void)
{
	int ready[2];

	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();

	if (pid == 0) {
		pthread_t thread;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int i = 0; i < 2; i++)
			pthread_create(&thread, NULL, sleeper, NULL);
		usleep(20000);
		if (write(ready[1], "x", 1) != 1)
			_exit(1);
		sleeper(NULL);
	}

	char byte;

	assert_true(pid > 0);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static void child_end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void succeed(struct pe_error *err)
{
	if (!err)
		return;
	pe_auto_free char *text = pe_error_text(err);

	fail_msg("%s", text);
}

static void expect(struct pe_error *err, enum pe_code code)
{
	assert_non_null(err);
	assert_int_equal(err->code, code);
	pe_error_free(err);
}

static void maps_name_the_mapping_of_an_address(void **state)
{
	struct pe_target *target;
	struct pe_maps maps;
	pid_t pid = child_start();

	succeed(pe_target_open(pid, &target));
	succeed(pe_target_maps(target, &maps));
	assert_true(maps.count > 10);

	const struct pe_map *code = pe_maps_at(&maps, (uintptr_t)child_start);

	assert_non_null(code);
	assert_int_equal(code->prot, PROT_READ | PROT_EXEC);
	assert_non_null(strstr(code->path, "test_proc_target"));

	const struct pe_map *stack = pe_maps_at(&maps, (uintptr_t)&pid);

	assert_non_null(stack);
	assert_string_equal(stack->path, "[stack]");
	assert_null(pe_maps_at(&maps, 0));
	assert_null(pe_maps_at(&maps, UINT64_MAX));
	pe_maps_deinit(&maps);
	pe_target_close(target);
	child_end(pid);
}

static void memory_is_read_and_written_through_page_protection(void **state)
{
	struct pe_target *target;
	char text[sizeof(marker)];
	int number;
	pid_t pid = child_start();

	succeed(pe_target_open(pid, &target));
	succeed(pe_target_read(target, (uintptr_t)marker, text, sizeof(text)));
	assert_string_equal(text, marker);
	text[0] = 'A';
	succeed(pe_target_write(target, (uintptr_t)marker, text, sizeof(text)));
	memset(text, 0, sizeof(text));
	succeed(pe_target_read(target, (uintptr_t)marker, text, sizeof(text)));
	assert_int_equal(text[0], 'A');
	assert_int_equal(marker[0], 'a');
	succeed(pe_target_read(target, (uintptr_t)&shared_number, &number, sizeof(number)));
	assert_int_equal(number, 41);
	expect(pe_target_read(target, 16, &number, sizeof(number)), PE_ERR_SYSTEM);
	expect(pe_target_write(target, 16, &number, sizeof(number)), PE_ERR_SYSTEM);
	pe_target_close(target);
	child_end(pid);
}

static void images_come_program_first_in_link_map_order_and_vdso_last(void **state)
{
	struct pe_target *target;
	struct pe_loaded_images images;
	pid_t pid = child_start();

	succeed(pe_target_open(pid, &target));
	succeed(pe_target_images(target, &images));
	assert_true(images.count >= 3);
	assert_true(images.items[0].is_program);
	assert_non_null(strstr(images.items[0].path, "test_proc_target"));
	assert_int_equal(images.items[0].build_id.size, 20);
	assert_ptr_equal(pe_loaded_images_find(&images, &images.items[1].build_id),
			 &images.items[1]);
	for (size_t i = 1; i < images.count; i++)
		assert_false(images.items[i].is_program);
	assert_string_equal(images.items[images.count - 1].path, "[vdso]");
	assert_true(images.items[images.count - 1].build_id.size > 0);
	pe_loaded_images_deinit(&images);
	pe_target_close(target);
	child_end(pid);
}

static void symbols_are_found_where_the_loader_binds_them(void **state)
{
	struct pe_target *target;
	struct pe_loaded_images images;
	struct pe_import import;
	pid_t pid = child_start();

	succeed(pe_target_open(pid, &target));
	succeed(pe_target_images(target, &images));
	succeed(pe_target_find_symbol(target, &images, "getppid", "libc.so.6", NULL, &import));
	assert_int_equal(import.addr, (uintptr_t)dlsym(RTLD_DEFAULT, "getppid"));
	assert_false(import.is_ifunc);
	assert_true(import.size > 0);
	succeed(pe_target_find_symbol(target, &images, "memcpy", "libc.so.6", NULL, &import));
	assert_true(import.is_ifunc);
	succeed(pe_target_find_symbol(target, &images, "memcpy", NULL, "GLIBC_2.2.5", &import));
	expect(pe_target_find_symbol(target, &images, "no_such_symbol", NULL, NULL, &import),
	       PE_ERR_NO_TARGET);
	expect(pe_target_find_symbol(target, &images, "getppid", "libno.so.1", NULL, &import),
	       PE_ERR_NO_TARGET);
	expect(pe_target_find_symbol(target, &images, "getppid", NULL, "GLIBC_9.9", &import),
	       PE_ERR_NO_TARGET);
	pe_loaded_images_deinit(&images);
	pe_target_close(target);
	child_end(pid);
}

static void blocked_threads_show_their_system_call_and_stack(void **state)
{
	struct pe_target *target;
	struct pe_threads threads;
	pid_t pid = child_start();

	usleep(50000);
	succeed(pe_target_open(pid, &target));
	succeed(pe_target_threads(target, &threads));
	assert_int_equal(threads.count, 3);
	for (size_t i = 0; i < threads.count; i++) {
		assert_false(threads.items[i].running);
		assert_int_equal(threads.items[i].nr, SYS_pause);
		assert_true(threads.items[i].sp > 4096);
		assert_true(threads.items[i].pc > 4096);
		assert_non_null(strstr(threads.items[i].comm, "test_proc"));
	}
	pe_threads_deinit(&threads);
	pe_target_close(target);
	child_end(pid);
}

static void what_is_no_target_is_refused_by_name(void **state)
{
	struct pe_target *target;

	expect(pe_target_open(getpid(), &target), PE_ERR_NO_TARGET);
	expect(pe_target_open(2, &target), PE_ERR_NO_TARGET);
	expect(pe_target_open(0, &target), PE_ERR_NO_TARGET);
	expect(pe_target_open(1 << 29, &target), PE_ERR_NO_TARGET);
}

static void death_and_exec_are_noticed(void **state)
{
	struct pe_target *target;
	char byte;
	pid_t pid = child_start();

	succeed(pe_target_open(pid, &target));
	succeed(pe_target_alive(target));
	child_end(pid);
	expect(pe_target_alive(target), PE_ERR_DIED);
	expect(pe_target_read(target, (uintptr_t)marker, &byte, 1), PE_ERR_DIED);
	pe_target_close(target);

	pid = fork();
	if (pid == 0) {
		usleep(200000);
		execl("/bin/sleep", "sleep", "100", NULL);
		_exit(1);
	}
	usleep(20000);
	succeed(pe_target_open(pid, &target));
	succeed(pe_target_alive(target));
	usleep(400000);
	expect(pe_target_alive(target), PE_ERR_DIED);
	expect(pe_target_read(target, (uintptr_t)marker, &byte, 1), PE_ERR_DIED);
	pe_target_close(target);
	child_end(pid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(maps_name_the_mapping_of_an_address),
		cmocka_unit_test(memory_is_read_and_written_through_page_protection),
		cmocka_unit_test(images_come_program_first_in_link_map_order_and_vdso_last),
		cmocka_unit_test(symbols_are_found_where_the_loader_binds_them),
		cmocka_unit_test(blocked_threads_show_their_system_call_and_stack),
		cmocka_unit_test(what_is_no_target_is_refused_by_name),
		cmocka_unit_test(death_and_exec_are_noticed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

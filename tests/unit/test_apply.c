/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Patches made by hand are applied to children of the test and taken back; each test looks at what
 * the child does, at its mappings and at the bytes of its code.
 */
#include "apply_fixture.h"

#include <sys/syscall.h>
#include <sys/vfs.h>

static void one_function_changes_and_changes_back(void **state)
{
	struct fixture f = start(body_answers);
	struct pe_patch *patch = patch_first("one", 42);
	struct pe_applied_list list;

	assert_int_equal(ask('f'), 1);
	must_apply(&f, patch);
	assert_int_equal(ask('f'), 42);
	succeed(pe_applied_read(f.target, &list));
	assert_int_equal(list.count, 1);
	assert_string_equal(list.items[0].name, "one");
	assert_string_equal(list.items[0].functions[0], "first");
	assert_int_equal(list.items[0].state, PE_STATE_APPLIED);
	assert_false(list.items[0].inherited);
	pe_applied_list_deinit(&list);
	must_revert(&f, "one");
	assert_int_equal(ask('f'), 1);
	assert_untouched(&f);
	pe_patch_free(patch);
	finish(&f);
}

static void several_functions_change_behind_one_word(void **state)
{
	for (int independent = 0; independent <= 1; independent++) {
		struct fixture f = start(body_threads);
		struct pe_patch *patch = patch_both(independent);

		must_apply(&f, patch);
		assert_int_equal(ask('f'), 43);
		assert_int_equal(ask('s'), 44);
		must_revert(&f, "both");
		assert_int_equal(ask('f'), 1);
		assert_int_equal(ask('s'), 2);
		assert_int_equal(f.shared->errors, 0);
		assert_untouched(&f);
		pe_patch_free(patch);
		finish(&f);
	}
}

static void a_hundred_flips_under_callers_harm_nobody(void **state)
{
	struct fixture f = start(body_threads);
	struct pe_patch *patch = patch_both(false);

	for (int i = 0; i < 100; i++) {
		must_apply(&f, patch);
		must_revert(&f, "both");
	}
	assert_int_equal(f.shared->errors, 0);
	assert_untouched(&f);
	pe_patch_free(patch);
	finish(&f);
}

static void the_second_time_there_is_nothing_to_do(void **state)
{
	struct fixture f = start(body_answers);
	struct pe_patch *patch = patch_first("one", 42);
	struct pe_patch *other = patch_first("one", 43);
	struct pe_switch_result result;

	must_apply(&f, patch);
	expect(apply(&f, patch, 0, &result), PE_ERR_NOTHING);
	expect(apply(&f, other, 0, &result), PE_ERR_UNSUPPORTED);
	assert_int_equal(ask('f'), 42);
	must_revert(&f, "one");
	expect(pe_revert(f.target, "one", NULL, &result), PE_ERR_NOTHING);
	pe_switch_result_deinit(&result);
	pe_patch_free(patch);
	pe_patch_free(other);
	finish(&f);
}

static void patches_stack_and_peel_off_in_order(void **state)
{
	struct fixture f = start(body_threads);
	struct pe_patch *lower = patch_both(false);
	struct pe_patch *upper = patch_first("upper", 99);
	struct pe_switch_result result;

	must_apply(&f, lower);
	must_apply(&f, upper);
	assert_int_equal(ask('f'), 99);
	assert_int_equal(ask('s'), 44);
	expect(pe_revert(f.target, "both", NULL, &result), PE_ERR_BUSY);
	pe_switch_result_deinit(&result);
	must_revert(&f, "upper");
	assert_int_equal(ask('f'), 43);
	must_revert(&f, "both");
	assert_int_equal(ask('f'), 1);
	assert_untouched(&f);
	pe_patch_free(lower);
	pe_patch_free(upper);
	finish(&f);
}

static void a_function_that_never_ends_is_named_and_nothing_stays(void **state)
{
	static const char *const names[] = { "sleeper" };
	struct fixture f = start(body_busy);
	struct pe_patch *patch = make_patch("busy", names, 1, 1, false);
	struct pe_switch_result result;
	struct pe_error *err = apply(&f, patch, 500000, &result);

	assert_non_null(err);
	pe_auto_free char *text = pe_error_text(err);
	assert_non_null(strstr(text, "is in sleeper"));
	assert_true(result.blockers.count >= 1);
	assert_string_equal(result.blocking_functions[0], "sleeper");
	expect(err, PE_ERR_BUSY);
	pe_switch_result_deinit(&result);
	assert_untouched(&f);
	/* One whose calls may change one by one does not wait for it. */
	patch->independent = true;
	must_apply(&f, patch);
	pe_patch_free(patch);
	finish(&f);
}

static void another_build_is_refused_with_both_build_ids(void **state)
{
	struct fixture f = start(body_answers);
	struct pe_patch *patch = patch_first("one", 42);
	struct pe_switch_result result;
	char wanted[2 * PE_BUILD_ID_MAX + 1], found[2 * PE_BUILD_ID_MAX + 1];

	pe_build_id_hex(&patch->targets[0].build_id, found);
	patch->targets[0].build_id.bytes[0] ^= 1;
	pe_build_id_hex(&patch->targets[0].build_id, wanted);
	struct pe_error *err = apply(&f, patch, 0, &result);
	pe_auto_free char *text = pe_error_text(err);

	assert_non_null(strstr(text, wanted));
	assert_non_null(strstr(text, found));
	expect(err, PE_ERR_MISMATCH);
	assert_untouched(&f);
	pe_patch_free(patch);
	finish(&f);
}

static void foreign_bytes_in_a_function_are_named(void **state)
{
	struct fixture f = start(body_answers);
	struct pe_patch *patch = patch_first("one", 42);
	struct pe_switch_result result;
	const uint8_t int3 = 0xcc;
	struct pe_loaded_images images;
	uint8_t before;

	succeed(pe_target_images(f.target, &images));
	uint64_t addr = images.items[0].bias + patch->functions[0].ranges[0].vaddr + 2;
	pe_loaded_images_deinit(&images);

	succeed(pe_target_read(f.target, addr, &before, 1));
	succeed(pe_target_write(f.target, addr, &int3, 1));
	struct pe_error *err = apply(&f, patch, 0, &result);
	pe_auto_free char *text = pe_error_text(err);

	assert_non_null(strstr(text, "breakpoint or uprobe at first"));
	expect(err, PE_ERR_UNSUPPORTED);
	succeed(pe_target_write(f.target, addr, &before, 1));
	assert_untouched(&f);
	pe_patch_free(patch);
	finish(&f);
}

static void a_wrong_hash_means_another_build(void **state)
{
	struct fixture f = start(body_answers);
	struct pe_patch *patch = patch_first("one", 42);
	struct pe_switch_result result;

	patch->functions[0].ranges[0].sha256[0] ^= 1;
	expect(apply(&f, patch, 0, &result), PE_ERR_MISMATCH);
	assert_untouched(&f);
	pe_patch_free(patch);
	finish(&f);
}

static void a_traced_process_is_left_alone(void **state)
{
	struct fixture f = start(body_answers);
	struct pe_patch *patch = patch_first("one", 42);
	struct pe_switch_result result;
	int ready[2];
	char byte;

	assert_int_equal(pipe(ready), 0);
	pid_t tracer = fork();
	if (tracer == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		byte = ptrace(PTRACE_SEIZE, f.pid, 0, 0) == 0;
		if (write(ready[1], &byte, 1) == 1)
			pause();
		_exit(0);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(byte, 1);
	struct pe_error *err = apply(&f, patch, 0, &result);
	pe_auto_free char *text = pe_error_text(err);
	char expected[32];
	snprintf(expected, sizeof(expected), "%d", tracer);
	assert_non_null(strstr(text, expected));
	expect(err, PE_ERR_BUSY);
	child_end(tracer);
	assert_untouched(&f);
	must_apply(&f, patch);
	close(ready[0]);
	close(ready[1]);
	pe_patch_free(patch);
	finish(&f);
}

static void two_patchers_do_not_meet(void **state)
{
	struct fixture f = start(body_answers);
	struct pe_patch *patch = patch_first("one", 42);
	struct pe_switch_result result;
	char path[128];

	snprintf(path, sizeof(path), "/run/dbcare/%d-%lu.lock", f.pid,
		 (unsigned long)pe_target_start_time(f.target));
	must_apply(&f, patch);
	must_revert(&f, "one");
	assert_int_equal(access(path, F_OK), -1);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);

	char holder[64];

	/* Who holds it is known from the kernel, whatever the file says. */
	assert_int_equal(dprintf(fd, "4711\n"), 5);
	snprintf(holder, sizeof(holder), "another patcher (process %d)", getpid());
	for (int lock = 0; lock < 2; lock++) {
		struct pe_error *err = apply(&f, patch, 0, &result);
		pe_auto_free char *text = pe_error_text(err);

		assert_non_null(strstr(text, holder));
		expect(err, PE_ERR_BUSY);
		assert_untouched(&f);
		close(fd);
		/* The other one: on the process itself. Kernels before 6.9 do not have it. */
		fd = (int)syscall(SYS_pidfd_open, f.pid, 0);

		struct statfs fs;

		assert_int_equal(fstatfs(fd, &fs), 0);
		if (fs.f_type != 0x50494446)
			break;
		assert_int_equal(flock(fd, lock ? LOCK_UN : LOCK_EX | LOCK_NB), 0);
	}
	close(fd);
	must_apply(&f, patch);
	pe_patch_free(patch);
	finish(&f);
}

static uint64_t writable_piece(struct fixture *f)
{
	uint64_t start = 0;
	struct pe_maps maps;

	succeed(pe_target_maps(f->target, &maps));
	for (size_t i = 0; i < maps.count; i++)
		if (strstr(maps.items[i].path, "care:") && (maps.items[i].prot & PROT_WRITE))
			start = maps.items[i].start;
	pe_maps_deinit(&maps);
	assert_int_not_equal(start, 0);
	return start;
}

static void a_damaged_ledger_is_not_believed(void **state)
{
	struct fixture f = start(body_answers);
	struct pe_patch *patch = patch_first("one", 42);
	struct pe_switch_result result;
	struct pe_applied_list list;

	must_apply(&f, patch);
	uint64_t ledger = writable_piece(&f);
	for (uint64_t offset = 8; offset < 400; offset += 7) {
		uint8_t byte;

		succeed(pe_target_read(f.target, ledger + offset, &byte, 1));
		byte ^= 0x40;
		succeed(pe_target_write(f.target, ledger + offset, &byte, 1));
		/* The part that changes during life has no checksum; it must not be fatal either.
		 */
		struct pe_error *err = pe_applied_read(f.target, &list);
		if (err)
			expect(err, PE_ERR_FORMAT);
		else
			pe_applied_list_deinit(&list);
		byte ^= 0x40;
		succeed(pe_target_write(f.target, ledger + offset, &byte, 1));
	}
	uint8_t byte;
	succeed(pe_target_read(f.target, ledger + 60, &byte, 1));
	byte ^= 1;
	succeed(pe_target_write(f.target, ledger + 60, &byte, 1));
	expect(pe_revert(f.target, "one", NULL, &result), PE_ERR_FORMAT);
	pe_switch_result_deinit(&result);
	assert_int_equal(ask('f'), 42);
	byte ^= 1;
	succeed(pe_target_write(f.target, ledger + 60, &byte, 1));
	must_revert(&f, "one");
	assert_untouched(&f);
	pe_patch_free(patch);
	finish(&f);
}

static void no_page_is_writable_and_executable(void **state)
{
	struct fixture f = start(body_answers);
	struct pe_patch *patch = patch_both(false);
	struct pe_maps maps;

	must_apply(&f, patch);
	succeed(pe_target_maps(f.target, &maps));
	for (size_t i = 0; i < maps.count; i++)
		assert_int_not_equal(maps.items[i].prot & (PROT_WRITE | PROT_EXEC),
				     PROT_WRITE | PROT_EXEC);
	pe_maps_deinit(&maps);
	pe_patch_free(patch);
	finish(&f);
}

static void a_forked_child_is_patched_too_and_apart_from_its_parent(void **state)
{
	struct fixture f = start(body_answers);
	struct pe_patch *patch = patch_first("one", 42);
	struct pe_applied_list list;
	struct pe_target *child = NULL;
	struct pe_switch_result result;

	must_apply(&f, patch);
	pid_t pid = ask('k');
	succeed(pe_target_open(pid, &child));
	succeed(pe_applied_read(child, &list));
	assert_int_equal(list.count, 1);
	assert_true(list.items[0].inherited);
	pe_applied_list_deinit(&list);
	succeed(pe_revert(child, "one", NULL, &result));
	pe_switch_result_deinit(&result);
	succeed(pe_applied_read(child, &list));
	assert_int_equal(list.count, 0);
	pe_applied_list_deinit(&list);
	assert_int_equal(ask('f'), 42);
	pe_target_close(child);
	kill(pid, SIGKILL);
	must_revert(&f, "one");
	assert_untouched(&f);
	pe_patch_free(patch);
	finish(&f);
}

/* Without a descriptor to spare there is no memfd. */
static void without_a_memfd_anonymous_memory_serves(void **state)
{
	struct fixture f = start(body_answers);
	struct pe_patch *patch = patch_both(false);
	struct rlimit none = { 1, 1 }; /* poll wants one */
	struct pe_switch_result result;

	assert_int_equal(prlimit(f.pid, RLIMIT_NOFILE, &none, NULL), 0);
	succeed(apply(&f, patch, 5000000, &result));
	assert_non_null(strstr(result.note, "anonymous memory"));
	pe_switch_result_deinit(&result);
	assert_int_equal(ask('f'), 43);
	assert_int_equal(ask('s'), 44);
	must_revert(&f, "both");
	assert_int_equal(ask('f'), 1);
	assert_untouched(&f);
	pe_patch_free(patch);
	finish(&f);
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "--child"))
		return child_main(argv);

	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_function_changes_and_changes_back),
		cmocka_unit_test(several_functions_change_behind_one_word),
		cmocka_unit_test(a_hundred_flips_under_callers_harm_nobody),
		cmocka_unit_test(the_second_time_there_is_nothing_to_do),
		cmocka_unit_test(patches_stack_and_peel_off_in_order),
		cmocka_unit_test(a_function_that_never_ends_is_named_and_nothing_stays),
		cmocka_unit_test(another_build_is_refused_with_both_build_ids),
		cmocka_unit_test(foreign_bytes_in_a_function_are_named),
		cmocka_unit_test(a_wrong_hash_means_another_build),
		cmocka_unit_test(a_traced_process_is_left_alone),
		cmocka_unit_test(two_patchers_do_not_meet),
		cmocka_unit_test(a_damaged_ledger_is_not_believed),
		cmocka_unit_test(no_page_is_writable_and_executable),
		cmocka_unit_test(a_forked_child_is_patched_too_and_apart_from_its_parent),
		cmocka_unit_test(without_a_memfd_anonymous_memory_serves),
	};

	cmocka_set_test_filter(getenv("FILTER"));
	return cmocka_run_group_tests(tests, open_own_image, close_own_image);
}

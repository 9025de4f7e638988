/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Patches made by hand are applied to children of the test and taken back; each test looks at what
 * the child does, at its mappings and at the bytes of its code.
 */
#include "proc_child.h"

#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <openssl/sha.h>
#include <poll.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/ptrace.h>
#include <sys/resource.h>

#include "engine/apply.h"
#include "engine/arch.h"
#include "engine/image.h"

/* ---- the child ---- */

struct talk {
	int to_child[2], from_child[2];
};

static struct talk talk;

/* Bodies long enough for a jump, and called through the symbol. */
__attribute__((noinline, noclone, noipa)) int first(int x)
{
	__asm__ volatile("nop; nop; nop; nop; nop; nop");
	return x + 1;
}

__attribute__((noinline, noclone, noipa)) int second(int x)
{
	__asm__ volatile("nop; nop; nop; nop; nop; nop");
	return x + 2;
}

/* Blocks inside until told to go. */
__attribute__((noinline, noclone, noipa)) int sleeper(struct shared *shared)
{
	int n = 0;

	while (!shared->stop) {
		poll(NULL, 0, 5);
		n++;
	}
	return n;
}

static pid_t fork_pausing(void)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;)
		poll(NULL, 0, -1);
}

/* Answers questions: 'f' and 's' call the functions, 'k' forks. */
static void answer_loop(void)
{
	struct pollfd pfd = { .fd = talk.to_child[0], .events = POLLIN };
	char question;

	while (poll(&pfd, 1, -1) > 0) {
		if (read(talk.to_child[0], &question, 1) != 1)
			return;
		int answer = question == 'f'   ? first(0)
			     : question == 's' ? second(0)
					       : fork_pausing();
		if (write(talk.from_child[1], &answer, sizeof(answer)) < 0)
			return;
	}
}

static void body_answers(struct shared *shared)
{
	shared->ready = 1;
	answer_loop();
}

/* Calls both functions for ever: they must always be of one version (1+2 or 43+44). */
static void *check_contract(void *arg)
{
	struct shared *shared = arg;

	while (!shared->stop) {
		int a = first(0), b = second(0);

		/* Between the calls the version may change once; a later pair tells it. */
		if (!((a == 1 && b == 2) || (a == 43 && b == 44) || (a == 1 && b == 44) ||
		      (a == 43 && b == 2)))
			shared->errors++;
		shared->loops++;
	}
	return NULL;
}

static void body_threads(struct shared *shared)
{
	pthread_t threads[3];

	for (size_t i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, check_contract, shared);
	shared->ready = 1;
	answer_loop();
}

static void *run_sleeper(void *arg)
{
	sleeper(arg);
	return NULL;
}

static void body_busy(struct shared *shared)
{
	pthread_t thread;

	pthread_create(&thread, NULL, run_sleeper, shared);
	shared->ready = 1;
	answer_loop();
}

/*
 * Children are executed afresh: a fork would carry copies of what the patcher itself knows, which
 * looks like references to the patch.
 */
static void (*const bodies[])(struct shared *) = { body_answers, body_threads, body_busy };

static int child_main(char **argv)
{
	struct shared *shared =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[3]), 0);

	if (shared == MAP_FAILED)
		return 1;
	talk.to_child[0] = atoi(argv[4]);
	talk.from_child[1] = atoi(argv[5]);
	bodies[atoi(argv[2])](shared);
	return 0;
}

static pid_t child_exec(size_t body, int shared_fd, struct shared *shared)
{
	char numbers[4][16];
	pid_t pid;

	snprintf(numbers[0], 16, "%zu", body);
	snprintf(numbers[1], 16, "%d", shared_fd);
	snprintf(numbers[2], 16, "%d", talk.to_child[0]);
	snprintf(numbers[3], 16, "%d", talk.from_child[1]);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl("/proc/self/exe", "test_apply", "--child", numbers[0], numbers[1], numbers[2],
		      numbers[3], NULL);
		_exit(127);
	}
	for (int i = 0; i < 5000 && !shared->ready; i++)
		usleep(1000);
	assert_int_equal(shared->ready, 1);
	usleep(10000);
	return pid;
}

static int ask(char question)
{
	int answer = -1;

	assert_int_equal(write(talk.to_child[1], &question, 1), 1);
	struct pollfd pfd = { .fd = talk.from_child[0], .events = POLLIN };
	assert_int_equal(poll(&pfd, 1, 10000), 1);
	assert_int_equal(read(talk.from_child[0], &answer, sizeof(answer)), sizeof(answer));
	return answer;
}

/* ---- patches by hand ---- */

static struct pe_image *own_image;

static void describe_function(struct pe_patch *patch, size_t i, const char *name, uint32_t symbol)
{
	struct pe_patch_function *f = &patch->functions[i];
	size_t count;
	const struct pe_image_symbol *const *symbols = pe_image_find(own_image, name, &count);
	struct pe_entry entry = { 0 };

	assert_int_equal(count, 1);
	const uint8_t *code = pe_image_bytes(own_image, symbols[0]->vaddr, symbols[0]->size);
	succeed(pe_arch_x86_64.entry_examine(symbols[0]->vaddr, code, symbols[0]->size, &entry));
	f->name = strdup(name);
	f->reason = strdup("changed");
	f->symbol = symbol;
	f->ranges = calloc(1, sizeof(*f->ranges));
	f->range_count = 1;
	f->ranges[0].vaddr = symbols[0]->vaddr;
	f->ranges[0].size = symbols[0]->size;
	SHA256(code, symbols[0]->size, f->ranges[0].sha256);
	f->entry_skip = entry.skip;
	f->entry_size = entry.displaced;
	f->displaced_call = entry.has_call;
}

/* Replaces each named function by one that returns value, value + 1, ... */
static struct pe_patch *make_patch(const char *name, const char *const *functions, size_t count,
				   int value, bool independent)
{
	struct pe_patch *patch = pe_patch_new();

	patch->name = strdup(name);
	patch->description = strdup("made by hand");
	patch->kind = strdup("bugfix");
	patch->product = strdup("db");
	patch->level = 1;
	patch->independent = independent;
	patch->targets = calloc(1, sizeof(*patch->targets));
	patch->target_count = 1;
	patch->targets[0] = (struct pe_patch_target){ .name = strdup("test_apply"),
						      .is_program = true,
						      .is_pie = true,
						      .build_id = *pe_image_build_id(own_image),
						      .machine = EM_X86_64 };
	patch->functions = calloc(count, sizeof(*patch->functions));
	patch->symbols = calloc(count, sizeof(*patch->symbols));
	patch->sections = calloc(1, sizeof(*patch->sections));
	patch->section_count = 1;
	patch->sections[0] = (struct pe_patch_section){ .name = strdup(".text.new"),
							.kind = PE_SECTION_TEXT,
							.size = 16 * count,
							.align = 16,
							.data = calloc(count, 16) };
	for (size_t i = 0; i < count; i++) {
		uint8_t *code = patch->sections[0].data + 16 * i;
		int result = value + (int)i;

		code[0] = 0xb8; /* mov $result, %eax; ret */
		memcpy(code + 1, &result, sizeof(result));
		code[5] = 0xc3;
		patch->symbols[i] = (struct pe_patch_symbol){ .name = strdup(functions[i]),
							      .kind = PE_SYM_LOCAL,
							      .type = STT_FUNC,
							      .value = 16 * i,
							      .size = 6 };
		describe_function(patch, i, functions[i], (uint32_t)i);
	}
	patch->function_count = patch->symbol_count = count;
	succeed(pe_patch_check(patch));
	return patch;
}

static struct pe_patch *patch_first(const char *name, int value)
{
	static const char *const names[] = { "first" };

	return make_patch(name, names, 1, value, true);
}

static struct pe_patch *patch_both(bool independent)
{
	static const char *const names[] = { "first", "second" };

	return make_patch("both", names, 2, 43, independent);
}

/* ---- helpers ---- */

struct fixture {
	struct shared *shared;
	struct pe_target *target;
	pid_t pid;
	char *maps_before;
	uint8_t text_before[SHA256_DIGEST_LENGTH];
};

static char *read_maps(pid_t pid)
{
	char path[64], *text = NULL;
	size_t size = 0, got;
	char buf[4096];
	FILE *out = open_memstream(&text, &size);

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	FILE *in = fopen(path, "re");
	assert_non_null(in);
	while ((got = fread(buf, 1, sizeof(buf), in)) > 0)
		fwrite(buf, 1, got, out);
	fclose(in);
	fclose(out);
	return text;
}

/* Of all executable bytes of the program. */
static void hash_text(struct fixture *f, uint8_t *hash)
{
	struct pe_maps maps;
	SHA256_CTX sha;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
	SHA256_Init(&sha);
	succeed(pe_target_maps(f->target, &maps));
	for (size_t i = 0; i < maps.count; i++) {
		if (!(maps.items[i].prot & PROT_EXEC) || !strstr(maps.items[i].path, "test_apply"))
			continue;
		size_t size = maps.items[i].end - maps.items[i].start;
		pe_auto_free uint8_t *bytes = malloc(size);
		succeed(pe_target_read(f->target, maps.items[i].start, bytes, size));
		SHA256_Update(&sha, bytes, size);
	}
	pe_maps_deinit(&maps);
	SHA256_Final(hash, &sha);
#pragma GCC diagnostic pop
}

static struct fixture start(void (*body)(struct shared *))
{
	struct fixture f = { 0 };
	int fd = memfd_create("shared", 0);
	size_t index = 0;

	assert_int_equal(ftruncate(fd, 4096), 0);
	f.shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(f.shared, MAP_FAILED);
	while (bodies[index] != body)
		index++;
	assert_int_equal(pipe(talk.to_child), 0);
	assert_int_equal(pipe(talk.from_child), 0);
	f.pid = child_exec(index, fd, f.shared);
	close(fd);
	succeed(pe_target_open(f.pid, &f.target));
	/* First calls touch pages and bind symbols. */
	if (body != body_busy)
		ask('f');
	f.maps_before = read_maps(f.pid);
	hash_text(&f, f.text_before);
	return f;
}

static void finish(struct fixture *f)
{
	assert_true(child_lives(f->pid));
	pe_target_close(f->target);
	child_end(f->pid);
	for (int i = 0; i < 2; i++) {
		close(talk.to_child[i]);
		close(talk.from_child[i]);
	}
	free(f->maps_before);
	shared_free(f->shared);
}

/* Nothing of ours is left: mappings, descriptors, code. */
static void assert_untouched(struct fixture *f)
{
	pe_auto_free char *maps = read_maps(f->pid);
	uint8_t hash[SHA256_DIGEST_LENGTH];
	char path[64];

	assert_string_equal(maps, f->maps_before);
	hash_text(f, hash);
	assert_memory_equal(hash, f->text_before, sizeof(hash));
	snprintf(path, sizeof(path), "/proc/%d/fd", f->pid);
	DIR *dir = opendir(path);
	assert_non_null(dir);
	for (struct dirent *e; (e = readdir(dir));) {
		char link[128] = "";

		if (readlinkat(dirfd(dir), e->d_name, link, sizeof(link) - 1) > 0)
			assert_null(strstr(link, "care:"));
	}
	closedir(dir);
}

static struct pe_error *apply(struct fixture *f, const struct pe_patch *patch, uint64_t timeout_us,
			      struct pe_switch_result *result)
{
	const struct pe_apply_options options = { .timeout_us = timeout_us };
	struct pe_plan *plan = NULL;
	struct pe_error *err = pe_plan_create(f->target, patch, &plan);

	*result = (struct pe_switch_result){ 0 };
	if (!err)
		err = pe_apply(f->target, plan, &options, result);
	pe_plan_free(plan);
	return err;
}

static void must_apply(struct fixture *f, const struct pe_patch *patch)
{
	struct pe_switch_result result;

	succeed(apply(f, patch, 5000000, &result));
	assert_true(result.pause_us > 0);
	pe_switch_result_deinit(&result);
}

static void must_revert(struct fixture *f, const char *name)
{
	struct pe_switch_result result;

	succeed(pe_revert(f->target, name, NULL, &result));
	if (result.memory_kept)
		fail_msg("memory kept: %s", result.note);
	pe_switch_result_deinit(&result);
}

/* ---- tests ---- */

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
	assert_int_equal(dprintf(fd, "4711\n"), 5);
	struct pe_error *err = apply(&f, patch, 0, &result);
	pe_auto_free char *text = pe_error_text(err);
	assert_non_null(strstr(text, "4711"));
	expect(err, PE_ERR_BUSY);
	close(fd);
	assert_untouched(&f);
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

static int open_own_image(void **state)
{
	struct pe_error *err = pe_image_open("/proc/self/exe", &own_image);

	pe_error_free(err);
	return err ? -1 : 0;
}

static int close_own_image(void **state)
{
	pe_image_close(own_image);
	return 0;
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

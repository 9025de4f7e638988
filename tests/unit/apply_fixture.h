/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the tests of engine/apply share: a child whose functions are patched, patches made by hand
 * for them, and looks at its mappings and code. The child is this very program, started anew.
 */
#ifndef UNIT_APPLY_FIXTURE_H
#define UNIT_APPLY_FIXTURE_H

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

	shared->ready = 1; /* only now does somebody sleep in here */
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
	succeed(pe_arch_x86_64.entry_examine(symbols[0]->vaddr, code, symbols[0]->size, 0, &entry));
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

/* Set-up and end of a group of tests. */
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

/* Threads that were just made, and a sanitizer below them, still map memory: waits until none does.
 */
static char *read_stable_maps(pid_t pid)
{
	char *maps = read_maps(pid);

	for (int same = 0, tries = 0; same < 5 && tries < 100; tries++) {
		usleep(20000);

		char *now = read_maps(pid);

		same = strcmp(now, maps) ? 0 : same + 1;
		free(maps);
		maps = now;
	}
	return maps;
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
		if (!(maps.items[i].prot & PROT_EXEC) || !strstr(maps.items[i].path, "/test_"))
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
	f.maps_before = read_stable_maps(f.pid);
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

	/* A thread that was still in the code keeps its memory until somebody looks again. */
	for (int tries = 0; strcmp(maps, f->maps_before) != 0 && tries < 50; tries++) {
		struct pe_recovery recovery = { 0 };

		usleep(50000);
		pe_error_free(pe_recover(f->target, &recovery));
		pe_recovery_deinit(&recovery);
		free(maps);
		maps = read_maps(f->pid);
	}
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

/* A thread that lost its processor inside reverted code keeps its memory: looks again. */
static void must_release(struct fixture *f)
{
	bool kept = true;

	for (int i = 0; i < 200 && kept; i++) {
		struct pe_recovery recovery;
		struct pe_applied_list list;

		succeed(pe_recover(f->target, &recovery));
		pe_recovery_deinit(&recovery);
		succeed(pe_applied_read(f->target, &list));
		kept = false;
		for (size_t p = 0; p < list.count; p++)
			kept |= list.items[p].state == PE_STATE_REVERTED;
		pe_applied_list_deinit(&list);
		usleep(20000);
	}
	assert_false(kept);
}

static void must_revert(struct fixture *f, const char *name)
{
	struct pe_switch_result result;

	succeed(pe_revert(f->target, name, NULL, &result));
	if (result.memory_kept)
		must_release(f);
	pe_switch_result_deinit(&result);
}

#endif

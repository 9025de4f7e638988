/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Children that the process tests look at: forks of the test itself, so at the same addresses. */
#ifndef TESTS_UNIT_PROC_CHILD_H
#define TESTS_UNIT_PROC_CHILD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "engine/cleanup.h"
#include "engine/target.h"

/* What a child and the test share. */
struct shared {
	volatile uint64_t loops;
	volatile uint64_t errors;
	volatile int stop;
	volatile int ready;
};

static inline void succeed(struct pe_error *err)
{
	if (!err)
		return;
	pe_auto_free char *text = pe_error_text(err);

	fail_msg("%s: %s", pe_code_name(err->code), text);
}

static inline void expect(struct pe_error *err, enum pe_code code)
{
	assert_non_null(err);
	assert_string_equal(pe_code_name(err->code), pe_code_name(code));
	pe_error_free(err);
}

static inline struct shared *shared_new(void)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(page, MAP_FAILED);
	memset(page, 0, 4096);
	return page;
}

static inline void shared_free(struct shared *shared)
{
	munmap(shared, 4096);
}

/* Forks a child that runs @body; it must set ready. */
static inline pid_t child_start(void (*body)(struct shared *), struct shared *shared)
{
	shared->ready = 0;
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		body(shared);
		_exit(0);
	}
	assert_true(pid > 0);
	for (int i = 0; i < 5000 && !shared->ready; i++)
		usleep(1000);
	assert_int_equal(shared->ready, 1);
	usleep(10000);
	return pid;
}

static inline void child_end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static inline bool child_lives(pid_t pid)
{
	int status;

	return waitpid(pid, &status, WNOHANG) == 0;
}

/* Does its loop go round? With patience: the machine may be busy. */
static inline bool child_goes_on(const struct shared *shared)
{
	uint64_t loops = shared->loops;

	for (int i = 0; i < 5000 && shared->loops == loops; i++)
		usleep(1000);
	return shared->loops != loops;
}

#endif

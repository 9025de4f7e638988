/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whose thread a thread is, also as seen by somebody to whom /proc shows nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dbcare/proc.h"

enum { NOBODY = 65534 };

static struct {
	pid_t tid;
	sem_t ready, end;
} other;

static void *wait_for_the_end(void *arg)
{
	other.tid = gettid();
	sem_post(&other.ready);
	sem_wait(&other.end);
	return arg;
}

/* Runs @look in a child, which answers by its exit status; @become: what it does before. */
static int in_child(int (*look)(void), void (*become)(void))
{
	pid_t child = fork();
	int status = 0;

	if (child == 0) {
		become();
		_exit(look());
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* 0: right in all cases. */
static int look_at_parent(void)
{
	pid_t parent = getppid();

	if (!dbc_is_thread_of(parent, parent) || !dbc_is_thread_of(other.tid, parent))
		return 1;
	if (dbc_is_thread_of(gettid(), parent) || dbc_is_thread_of(other.tid, getpid()))
		return 2;
	return dbc_is_thread_of(other.tid, 1) ? 3 : 0;
}

static void nothing(void)
{
}

static void become_nobody(void)
{
	if (geteuid() == 0 && setuid(NOBODY) != 0)
		abort();
}

/* A filter whose answer looks like the kernel's to somebody without the right. */
static void forbid_tgkill(void)
{
	struct sock_filter lines[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_tgkill, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(lines) / sizeof(*lines), lines };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
		abort();
}

static void a_thread_is_told_from_those_of_other_processes(void **state)
{
	assert_int_equal(in_child(look_at_parent, nothing), 0);
}

static void it_is_told_without_the_right_to_send_signals(void **state)
{
	assert_int_equal(in_child(look_at_parent, become_nobody), 0);
}

static void it_is_told_where_a_filter_forbids_to_ask(void **state)
{
	assert_int_equal(in_child(look_at_parent, forbid_tgkill), 0);
}

static int start_thread(void **state)
{
	pthread_t thread;

	sem_init(&other.ready, 0, 0);
	sem_init(&other.end, 0, 0);
	if (pthread_create(&thread, NULL, wait_for_the_end, NULL) != 0)
		return -1;
	pthread_detach(thread);
	return sem_wait(&other.ready);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_thread_is_told_from_those_of_other_processes),
		cmocka_unit_test(it_is_told_without_the_right_to_send_signals),
		cmocka_unit_test(it_is_told_where_a_filter_forbids_to_ask),
	};

	return cmocka_run_group_tests(tests, start_thread, NULL);
}

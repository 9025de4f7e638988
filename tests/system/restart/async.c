/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Asynchronous I/O, old and new. */
#include "kind.h"

#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <sys/mman.h>

static int make_aio(struct kind *kind)
{
	static aio_context_t context;

	kind->memory = &context;
	return is(syscall(SYS_io_setup, 8, &context), 0);
}

static int wait_io_getevents(struct kind *kind)
{
	struct io_event event;
	struct timespec timeout = wait_ts;

	return is(syscall(SYS_io_getevents, *(aio_context_t *)kind->memory, 1, 1, &event, &timeout),
		  0);
}

struct ring {
	char *memory;
	unsigned int *head, *tail;
};

static int make_uring(struct kind *kind)
{
	struct io_uring_params p = { 0 };
	struct ring *ring = malloc(sizeof(*ring));

	kind->fd[0] = (int)syscall(SYS_io_uring_setup, 4, &p);
	if (kind->fd[0] < 0)
		return errno;
	ring->memory = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe),
			    PROT_READ | PROT_WRITE, MAP_SHARED, kind->fd[0], IORING_OFF_CQ_RING);
	struct io_uring_sqe *sqes = mmap(NULL, p.sq_entries * sizeof(*sqes), PROT_READ | PROT_WRITE,
					 MAP_SHARED, kind->fd[0], IORING_OFF_SQES);
	char *sq = mmap(NULL, p.sq_off.array + p.sq_entries * sizeof(int), PROT_READ | PROT_WRITE,
			MAP_SHARED, kind->fd[0], IORING_OFF_SQ_RING);

	if (ring->memory == MAP_FAILED || sqes == MAP_FAILED || sq == MAP_FAILED)
		return errno;
	ring->head = (unsigned int *)(ring->memory + p.cq_off.head);
	ring->tail = (unsigned int *)(ring->memory + p.cq_off.tail);
	kind->memory = ring;
	/* One timeout that comes again and again by being submitted again. */
	sqes[0] = (struct io_uring_sqe){ .opcode = IORING_OP_TIMEOUT,
					 .fd = -1,
					 .addr = (uint64_t)(uintptr_t)&wait_ts,
					 .len = 1 };
	((unsigned int *)(sq + p.sq_off.array))[0] = 0;
	kind->fd[1] = 0;
	ring->memory = sq + p.sq_off.tail;
	return 0;
}

static int wait_io_uring(struct kind *kind)
{
	struct ring *ring = kind->memory;
	unsigned int *sq_tail = (unsigned int *)ring->memory;

	__atomic_store_n(sq_tail, *sq_tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, kind->fd[0], 1, 0, 0, NULL, 0) != 1)
		return errno;
	int error = is(
		syscall(SYS_io_uring_enter, kind->fd[0], 0, 1, IORING_ENTER_GETEVENTS, NULL, 0), 0);

	__atomic_store_n(ring->head, *ring->tail, __ATOMIC_RELEASE);
	return error;
}

struct kind async[] = {
	{ "io_getevents", make_aio, wait_io_getevents, .timed = true, .again = true },
	{ "io_uring_enter", make_uring, wait_io_uring },
	{ NULL },
};

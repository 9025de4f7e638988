/* SPDX-License-Identifier: GPL-2.0-or-later */
/* System V's and POSIX's queues and semaphores. */
#include "kind.h"

#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

static int make_queue(struct kind *kind)
{
	kind->fd[0] = msgget(IPC_PRIVATE, 0600);
	return kind->fd[0] < 0 ? errno : 0;
}

static void remove_queue(struct kind *kind)
{
	msgctl(kind->fd[0], IPC_RMID, NULL);
}

static void feed_queue(struct kind *kind)
{
	struct msgbuf message = { .mtype = 1 };

	msgsnd(kind->fd[0], &message, 0, IPC_NOWAIT);
}

static int make_fed_queue(struct kind *kind)
{
	int error = make_queue(kind);

	return error ? error : feed_with(kind, feed_queue);
}

static int wait_msgrcv(struct kind *kind)
{
	struct msgbuf message;

	return is(msgrcv(kind->fd[0], &message, 0, 0, 0), 0);
}

static int make_semaphore(struct kind *kind)
{
	kind->fd[0] = semget(IPC_PRIVATE, 1, 0600);
	return kind->fd[0] < 0 ? errno : 0;
}

static void remove_semaphore(struct kind *kind)
{
	semctl(kind->fd[0], 0, IPC_RMID);
}

static void feed_nothing(struct kind *kind)
{
}

static int make_unfed_semaphore(struct kind *kind)
{
	int error = make_semaphore(kind);

	return error ? error : feed_with(kind, feed_nothing);
}

static void feed_semaphore(struct kind *kind)
{
	struct sembuf up = { .sem_op = 1 };

	semop(kind->fd[0], &up, 1);
}

static int make_fed_semaphore(struct kind *kind)
{
	int error = make_semaphore(kind);

	return error ? error : feed_with(kind, feed_semaphore);
}

static int wait_semop(struct kind *kind)
{
	struct sembuf down = { .sem_op = -1 };

	return is(semop(kind->fd[0], &down, 1), 0);
}

static int wait_semtimedop(struct kind *kind)
{
	struct sembuf down = { .sem_op = -1 };

	return is(semtimedop(kind->fd[0], &down, 1, &wait_ts), EAGAIN);
}

static int make_mq(struct kind *kind)
{
	struct mq_attr attributes = { .mq_maxmsg = 1, .mq_msgsize = 1 };
	char name[64];

	snprintf(name, sizeof(name), "/restart-%d", getpid());
	kind->fd[0] = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attributes);
	mq_unlink(name);
	return kind->fd[0] < 0 ? errno : 0;
}

static int wait_mq(struct kind *kind)
{
	struct timespec until = in_a_while(CLOCK_REALTIME);
	char byte;

	return is(mq_timedreceive(kind->fd[0], &byte, 1, NULL, &until), ETIMEDOUT);
}

struct kind queues[] = {
	{ "msgrcv", make_fed_queue, wait_msgrcv, remove_queue },
	{ "semop", make_fed_semaphore, wait_semop, remove_semaphore },
	{ "semtimedop", make_unfed_semaphore, wait_semtimedop, remove_semaphore, .timed = true,
	  .again = true },
	{ "mq_timedreceive", make_mq, wait_mq, .timed = true },
	{ NULL },
};

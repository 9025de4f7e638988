/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Blocks in one system call of each kind that a server may block in, in a thread each, and counts
 * what the program sees of stops: EINTR, timeouts that end early, timeouts that begin again.
 *
 * A wait ends by its own timeout (timed) or because a feeder ends it every WAIT_MS (fed).
 * Questions: '*' runs all kinds, each in a thread of its own; '@' and the characters after it run
 * one kind of the table a few times in the first thread, which is the only one then; '?' prints
 * what was counted; '#' how many kinds there are.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WAIT_MS = 1500, LOOPS = 2 };

static const struct timespec wait_ts = { .tv_sec = WAIT_MS / 1000,
					 .tv_nsec = WAIT_MS % 1000 * 1000000L };

static long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static struct timespec in_a_while(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	ts.tv_sec += wait_ts.tv_sec;
	ts.tv_nsec += wait_ts.tv_nsec;
	if (ts.tv_nsec >= 1000000000) {
		ts.tv_nsec -= 1000000000;
		ts.tv_sec++;
	}
	return ts;
}

/* The function that is patched, so that there is something to switch. */
__attribute__((noinline)) int value(void)
{
	__asm__ volatile("nop; nop; nop; nop");
	return 1;
}

/*
 * A kind: what it returns is right (0) or an errno. A helper process ends waits without a timeout;
 * it is a process so that the waiting thread may be the only one.
 */
struct kind {
	const char *name;
	int (*prepare)(struct kind *kind);
	int (*wait)(struct kind *kind);
	void (*clean)(struct kind *kind); /* by the helper process, in the end */
	bool timed; /* a timeout of its own, of which only the rest may be left after a stop */
	bool again; /* the kernel cannot continue it: its relative timeout begins again */
	int fd[2];
	void *memory;
	int loops, eintr, early, other, best_ms;
};

static int is(long result, int error)
{
	if (result >= 0)
		return error ? -1 : 0;
	return errno == error ? 0 : errno;
}

/* Runs @feed every WAIT_MS in a child, until the parent is gone. */
static int feed_with(struct kind *kind, void (*feed)(struct kind *kind))
{
	pid_t parent = getpid();

	switch (fork()) {
	case -1:
		return errno;
	case 0:
		signal(SIGPIPE, SIG_IGN);
		/* Feeding may block for ever; only who has something to remove must live on. */
		if (!kind->clean)
			prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() == parent) {
			usleep(WAIT_MS * 1000);
			feed(kind);
		}
		if (kind->clean)
			kind->clean(kind);
		_exit(0);
	default:
		return 0;
	}
}

/* ---- sleeping ---- */

static int wait_nanosleep(struct kind *kind)
{
	return is(syscall(SYS_nanosleep, &wait_ts, NULL), 0);
}

static int wait_clock_nanosleep(struct kind *kind)
{
	return is(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &wait_ts, NULL), 0);
}

static int wait_clock_nanosleep_until(struct kind *kind)
{
	struct timespec until = in_a_while(CLOCK_MONOTONIC);

	return is(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL), 0);
}

/* ---- futexes ---- */

static int make_shared(struct kind *kind)
{
	kind->memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return kind->memory == MAP_FAILED ? errno : 0;
}

static void feed_futex(struct kind *kind)
{
	syscall(SYS_futex, kind->memory, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static int make_futex(struct kind *kind)
{
	int error = make_shared(kind);

	return error ? error : feed_with(kind, feed_futex);
}

static int wait_futex(struct kind *kind)
{
	return is(syscall(SYS_futex, kind->memory, FUTEX_WAIT, 0, NULL, NULL, 0), 0);
}

static int wait_futex_timed(struct kind *kind)
{
	return is(syscall(SYS_futex, kind->memory, FUTEX_WAIT, 0, &wait_ts, NULL, 0), ETIMEDOUT);
}

static int wait_futex_until(struct kind *kind)
{
	struct timespec until = in_a_while(CLOCK_MONOTONIC);

	return is(syscall(SYS_futex, kind->memory, FUTEX_WAIT_BITSET, 0, &until, NULL,
			  FUTEX_BITSET_MATCH_ANY),
		  ETIMEDOUT);
}

static int wait_condition(struct kind *kind)
{
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
	struct timespec until = in_a_while(CLOCK_REALTIME);
	int result = 0;

	pthread_mutex_lock(&mutex);
	while (!result)
		result = pthread_cond_timedwait(&condition, &mutex, &until);
	pthread_mutex_unlock(&mutex);
	return result == ETIMEDOUT ? 0 : result;
}

/* ---- waiting for descriptors ---- */

static int make_pipe(struct kind *kind)
{
	return pipe(kind->fd) ? errno : 0;
}

static void feed_byte(struct kind *kind)
{
	if (write(kind->fd[1], "x", 1) != 1)
		_exit(0);
}

static int make_fed_pipe(struct kind *kind)
{
	int error = make_pipe(kind);

	return error ? error : feed_with(kind, feed_byte);
}

static int make_fed_socket(struct kind *kind)
{
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, kind->fd))
		return errno;
	return feed_with(kind, feed_byte);
}

static int wait_read(struct kind *kind)
{
	char byte;

	return is(syscall(SYS_read, kind->fd[0], &byte, 1), 0);
}

static int wait_recv(struct kind *kind)
{
	char byte;

	return is(recv(kind->fd[0], &byte, 1, 0), 0);
}

static int wait_recvmsg(struct kind *kind)
{
	char byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

	return is(recvmsg(kind->fd[0], &message, 0), 0);
}

static int wait_recvmmsg(struct kind *kind)
{
	char byte;
	struct iovec iov = { &byte, 1 };
	struct mmsghdr message = { .msg_hdr = { .msg_iov = &iov, .msg_iovlen = 1 } };

	return is(recvmmsg(kind->fd[0], &message, 1, 0, NULL), 0);
}

static int make_timed_socket(struct kind *kind)
{
	struct timeval timeout = { WAIT_MS / 1000, WAIT_MS % 1000 * 1000 };

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, kind->fd))
		return errno;
	return setsockopt(kind->fd[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) ? errno
											   : 0;
}

static int wait_recv_timed(struct kind *kind)
{
	char byte;

	return is(recv(kind->fd[0], &byte, 1, 0), EAGAIN);
}

static int wait_poll(struct kind *kind)
{
	struct pollfd item = { .fd = kind->fd[0], .events = POLLIN };

	return is(syscall(SYS_poll, &item, 1, WAIT_MS), 0);
}

static int wait_poll_fed(struct kind *kind)
{
	struct pollfd item = { .fd = kind->fd[0], .events = POLLIN };
	int error = is(syscall(SYS_poll, &item, 1, -1), 0);
	char byte;

	return error ? error : is(read(kind->fd[0], &byte, 1), 0);
}

static int wait_ppoll(struct kind *kind)
{
	struct pollfd item = { .fd = kind->fd[0], .events = POLLIN };

	return is(ppoll(&item, 1, &wait_ts, NULL), 0);
}

static int wait_select(struct kind *kind)
{
	struct timeval timeout = { WAIT_MS / 1000, WAIT_MS % 1000 * 1000 };
	fd_set set;

	FD_ZERO(&set);
	FD_SET(kind->fd[0], &set);
	return is(syscall(SYS_select, kind->fd[0] + 1, &set, NULL, NULL, &timeout), 0);
}

static int wait_pselect(struct kind *kind)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(kind->fd[0], &set);
	return is(pselect(kind->fd[0] + 1, &set, NULL, NULL, &wait_ts, NULL), 0);
}

/* Edge by edge: every byte is an event. */
static int add_epoll(struct kind *kind)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	int source = kind->fd[0];

	kind->fd[0] = epoll_create1(0);
	return epoll_ctl(kind->fd[0], EPOLL_CTL_ADD, source, &event) ? errno : 0;
}

static int make_epoll(struct kind *kind)
{
	int error = make_pipe(kind);

	return error ? error : add_epoll(kind);
}

static int make_fed_epoll(struct kind *kind)
{
	int error = make_fed_pipe(kind);

	return error ? error : add_epoll(kind);
}

static int wait_epoll(struct kind *kind)
{
	struct epoll_event event;

	return is(syscall(SYS_epoll_wait, kind->fd[0], &event, 1, WAIT_MS), 0);
}

static int wait_epoll_fed(struct kind *kind)
{
	struct epoll_event event;

	return is(syscall(SYS_epoll_wait, kind->fd[0], &event, 1, -1), 0);
}

static int wait_epoll_pwait(struct kind *kind)
{
	struct epoll_event event;

	return is(epoll_pwait(kind->fd[0], &event, 1, -1, NULL), 0);
}

static int wait_epoll_pwait2(struct kind *kind)
{
	struct epoll_event event;

	return is(syscall(SYS_epoll_pwait2, kind->fd[0], &event, 1, NULL, NULL, 0), 0);
}

/* ---- other descriptors ---- */

static int make_eventfd(struct kind *kind)
{
	kind->fd[0] = kind->fd[1] = eventfd(0, 0);
	return kind->fd[0] < 0 ? errno : 0;
}

static void feed_eventfd(struct kind *kind)
{
	eventfd_write(kind->fd[1], 1);
}

static int make_fed_eventfd(struct kind *kind)
{
	int error = make_eventfd(kind);

	return error ? error : feed_with(kind, feed_eventfd);
}

static int wait_eventfd(struct kind *kind)
{
	eventfd_t counted;

	return is(eventfd_read(kind->fd[0], &counted), 0);
}

static int make_timerfd(struct kind *kind)
{
	struct itimerspec spec = { .it_value = wait_ts, .it_interval = wait_ts };

	kind->fd[0] = timerfd_create(CLOCK_MONOTONIC, 0);
	return kind->fd[0] < 0 || timerfd_settime(kind->fd[0], 0, &spec, NULL) ? errno : 0;
}

static int wait_timerfd(struct kind *kind)
{
	eventfd_t expired;

	return is(read(kind->fd[0], &expired, sizeof(expired)), 0);
}

static void feed_file(struct kind *kind)
{
	if (pwrite(kind->fd[1], "x", 1, 0) != 1)
		_exit(0);
}

static int make_inotify(struct kind *kind)
{
	char name[] = "watched-XXXXXX";

	kind->fd[1] = mkstemp(name);
	kind->fd[0] = inotify_init1(0);
	if (kind->fd[1] < 0 || inotify_add_watch(kind->fd[0], name, IN_MODIFY) < 0)
		return errno;
	return feed_with(kind, feed_file);
}

static int wait_inotify(struct kind *kind)
{
	char buffer[4096];

	return is(read(kind->fd[0], buffer, sizeof(buffer)), 0);
}

static int make_signalfd(struct kind *kind)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	kind->fd[0] = signalfd(-1, &set, 0);
	return kind->fd[0] < 0 ? errno : 0;
}

/* Sent to the process; it is blocked in every thread. */
static void feed_signal(struct kind *kind)
{
	kill(getppid(), SIGUSR2);
}

static int make_fed_signalfd(struct kind *kind)
{
	int error = make_signalfd(kind);

	return error ? error : feed_with(kind, feed_signal);
}

static int wait_signalfd(struct kind *kind)
{
	struct signalfd_siginfo info;

	return is(read(kind->fd[0], &info, sizeof(info)), 0);
}

static int wait_sigtimedwait(struct kind *kind)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	return is(syscall(SYS_rt_sigtimedwait, &set, NULL, &wait_ts, _NSIG / 8), EAGAIN);
}

/* ---- writing to what is full ---- */

static int fill(int fd)
{
	static const char bytes[4096];

	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (write(fd, bytes, sizeof(bytes)) > 0)
		;
	return fcntl(fd, F_SETFL, 0) ? errno : 0;
}

static void drain(struct kind *kind)
{
	static char bytes[4096];

	if (read(kind->fd[0], bytes, sizeof(bytes)) <= 0)
		_exit(0);
}

static int make_full_pipe(struct kind *kind)
{
	int error = make_pipe(kind);

	if (!error)
		error = fill(kind->fd[1]);
	return error ? error : feed_with(kind, drain);
}

static int wait_write(struct kind *kind)
{
	static const char bytes[4096];

	return is(write(kind->fd[1], bytes, sizeof(bytes)), 0);
}

static int make_full_socket(struct kind *kind)
{
	int error = socketpair(AF_UNIX, SOCK_SEQPACKET, 0, kind->fd) ? errno : 0;

	if (!error)
		error = fill(kind->fd[1]);
	return error ? error : feed_with(kind, drain);
}

static int wait_send(struct kind *kind)
{
	static const char bytes[4096];

	return is(send(kind->fd[1], bytes, sizeof(bytes), 0), 0);
}

static int make_splice(struct kind *kind)
{
	int error = make_fed_pipe(kind);
	static int out[2];

	if (error || pipe(out))
		return error ? error : errno;
	kind->memory = out;
	return 0;
}

static int wait_splice(struct kind *kind)
{
	const int *out = kind->memory;
	char byte;
	int error = is(splice(kind->fd[0], NULL, out[1], NULL, 1, 0), 0);

	return error ? error : is(read(out[0], &byte, 1), 0);
}

static int make_sendfile(struct kind *kind)
{
	static int file;
	char name[] = "sent-XXXXXX";
	int error = make_full_pipe(kind);

	file = mkstemp(name);
	if (!error && (file < 0 || ftruncate(file, 4096)))
		error = errno;
	kind->memory = &file;
	return error;
}

static int wait_sendfile(struct kind *kind)
{
	off_t offset = 0;

	return is(sendfile(kind->fd[1], *(int *)kind->memory, &offset, 4096), 0);
}

/* ---- connections ---- */

static struct sockaddr_un address_of(const struct kind *kind)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	/* Abstract: no file stays. */
	snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "restart-%d-%s", getpid(),
		 kind->name);
	return address;
}

static int make_listener(struct kind *kind)
{
	struct sockaddr_un address = address_of(kind);

	kind->fd[0] = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(kind->fd[0], (struct sockaddr *)&address, sizeof(address)) ||
	    listen(kind->fd[0], 0))
		return errno;
	kind->memory = memcpy(malloc(sizeof(address)), &address, sizeof(address));
	return 0;
}

static int connect_to(const struct kind *kind)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	if (connect(fd, kind->memory, sizeof(struct sockaddr_un)) == 0)
		return fd;
	close(fd);
	return -1;
}

static void feed_connection(struct kind *kind)
{
	close(connect_to(kind));
}

static int make_accept(struct kind *kind)
{
	int error = make_listener(kind);

	return error ? error : feed_with(kind, feed_connection);
}

static int wait_accept(struct kind *kind)
{
	int fd = accept(kind->fd[0], NULL, NULL);

	close(fd < 0 ? -1 : fd);
	return is(fd, 0);
}

static int wait_accept4(struct kind *kind)
{
	int fd = accept4(kind->fd[0], NULL, NULL, SOCK_CLOEXEC);

	close(fd < 0 ? -1 : fd);
	return is(fd, 0);
}

static void feed_accept(struct kind *kind)
{
	close(accept(kind->fd[0], NULL, NULL));
}

/* The queue is full from the first connection on. */
static int make_connect(struct kind *kind)
{
	int error = make_listener(kind);

	if (!error && connect_to(kind) < 0)
		error = errno;
	return error ? error : feed_with(kind, feed_accept);
}

static int wait_connect(struct kind *kind)
{
	int fd = connect_to(kind);
	int error = is(fd, 0);

	close(fd);
	return error;
}

/* ---- locks ---- */

/* Holds its lock for WAIT_MS, then lets us have it for a moment. */
static int make_lock(struct kind *kind, int (*lock)(int fd, int how))
{
	char name[] = "locked-XXXXXX";
	int ready[2];
	char byte;
	pid_t parent = getpid();

	kind->fd[0] = mkstemp(name);
	if (kind->fd[0] < 0 || pipe(ready))
		return errno;
	switch (fork()) {
	case -1:
		return errno;
	case 0: {
		int fd = open(name, O_RDWR);

		for (bool first = true; getppid() == parent; first = false) {
			lock(fd, LOCK_EX);
			if (first && write(ready[1], "x", 1) != 1)
				_exit(1);
			usleep(WAIT_MS * 1000);
			lock(fd, LOCK_UN);
			usleep(50000);
		}
		_exit(0);
	}
	default:
		return is(read(ready[0], &byte, 1), 0);
	}
}

static int fcntl_lock(int fd, int how)
{
	struct flock lock = { .l_type = how == LOCK_EX ? F_WRLCK : F_UNLCK };

	return fcntl(fd, F_SETLKW, &lock);
}

static int ofd_lock(int fd, int how)
{
	struct flock lock = { .l_type = how == LOCK_EX ? F_WRLCK : F_UNLCK };

	return fcntl(fd, F_OFD_SETLKW, &lock);
}

static int make_flock(struct kind *kind)
{
	return make_lock(kind, flock);
}

static int make_fcntl_lock(struct kind *kind)
{
	return make_lock(kind, fcntl_lock);
}

static int make_ofd_lock(struct kind *kind)
{
	return make_lock(kind, ofd_lock);
}

static int wait_lock(struct kind *kind, int (*lock)(int fd, int how))
{
	int error = is(lock(kind->fd[0], LOCK_EX), 0);

	if (!error)
		error = is(lock(kind->fd[0], LOCK_UN), 0);
	usleep(100000);
	return error;
}

static int wait_flock(struct kind *kind)
{
	return wait_lock(kind, flock);
}

static int wait_fcntl_lock(struct kind *kind)
{
	return wait_lock(kind, fcntl_lock);
}

static int wait_ofd_lock(struct kind *kind)
{
	return wait_lock(kind, ofd_lock);
}

/* ---- children ---- */

static pid_t sleeping_child(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		usleep(WAIT_MS * 1000);
		_exit(0);
	}
	return pid;
}

static int wait_wait4(struct kind *kind)
{
	return is(syscall(SYS_wait4, sleeping_child(), NULL, 0, NULL), 0);
}

static int wait_waitid(struct kind *kind)
{
	siginfo_t info;

	return is(waitid(P_PID, (id_t)sleeping_child(), &info, WEXITED), 0);
}

/* ---- System V and POSIX queues ---- */

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

/* ---- asynchronous I/O ---- */

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

/* ---- the table ---- */

static struct kind kinds[] = {
	{ "nanosleep", NULL, wait_nanosleep, .timed = true },
	{ "clock_nanosleep", NULL, wait_clock_nanosleep, .timed = true },
	{ "clock_nanosleep_until", NULL, wait_clock_nanosleep_until, .timed = true },
	{ "futex", make_futex, wait_futex },
	{ "futex_timed", make_shared, wait_futex_timed, .timed = true },
	{ "futex_until", make_shared, wait_futex_until, .timed = true },
	{ "pthread_cond_timedwait", NULL, wait_condition, .timed = true },
	{ "read", make_fed_pipe, wait_read },
	{ "recvfrom", make_fed_socket, wait_recv },
	{ "recvmsg", make_fed_socket, wait_recvmsg },
	{ "recvmmsg", make_fed_socket, wait_recvmmsg },
	{ "recvfrom_timed", make_timed_socket, wait_recv_timed, .timed = true, .again = true },
	{ "poll", make_pipe, wait_poll, .timed = true },
	{ "poll_untimed", make_fed_pipe, wait_poll_fed },
	{ "ppoll", make_pipe, wait_ppoll, .timed = true },
	{ "select", make_pipe, wait_select, .timed = true },
	{ "pselect", make_pipe, wait_pselect, .timed = true },
	{ "epoll_wait", make_epoll, wait_epoll, .timed = true, .again = true },
	{ "epoll_wait_untimed", make_fed_epoll, wait_epoll_fed },
	{ "epoll_pwait", make_fed_epoll, wait_epoll_pwait },
	{ "epoll_pwait2", make_fed_epoll, wait_epoll_pwait2 },
	{ "eventfd", make_fed_eventfd, wait_eventfd },
	{ "timerfd", make_timerfd, wait_timerfd },
	{ "inotify", make_inotify, wait_inotify },
	{ "signalfd", make_fed_signalfd, wait_signalfd },
	{ "sigtimedwait", NULL, wait_sigtimedwait, .timed = true, .again = true },
	{ "write", make_full_pipe, wait_write },
	{ "sendto", make_full_socket, wait_send },
	{ "splice", make_splice, wait_splice },
	{ "sendfile", make_sendfile, wait_sendfile },
	{ "accept", make_accept, wait_accept },
	{ "accept4", make_accept, wait_accept4 },
	{ "connect", make_connect, wait_connect },
	{ "flock", make_flock, wait_flock },
	{ "fcntl_setlkw", make_fcntl_lock, wait_fcntl_lock },
	{ "fcntl_ofd_setlkw", make_ofd_lock, wait_ofd_lock },
	{ "wait4", NULL, wait_wait4 },
	{ "waitid", NULL, wait_waitid },
	{ "msgrcv", make_fed_queue, wait_msgrcv, remove_queue },
	{ "semop", make_fed_semaphore, wait_semop, remove_semaphore },
	{ "semtimedop", make_unfed_semaphore, wait_semtimedop, remove_semaphore, .timed = true,
	  .again = true },
	{ "mq_timedreceive", make_mq, wait_mq, .timed = true },
	{ "io_getevents", make_aio, wait_io_getevents, .timed = true, .again = true },
	{ "io_uring_enter", make_uring, wait_io_uring },
};

enum { KINDS = sizeof(kinds) / sizeof(*kinds) };

static void run(struct kind *kind)
{
	long begin = now_ms();
	int error = kind->wait(kind);
	long took = now_ms() - begin;

	if (error == EINTR)
		kind->eintr++;
	else if (error)
		kind->other = error;
	if (kind->timed && took < WAIT_MS - 20)
		kind->early++;
	if (!kind->loops || took < kind->best_ms)
		kind->best_ms = (int)took;
	kind->loops++;
}

static void *run_for_ever(void *arg)
{
	for (;;)
		run(arg);
	return NULL;
}

static void prepare_kind(struct kind *kind)
{
	int error = kind->prepare ? kind->prepare(kind) : 0;

	/* What this kernel or this container does not have: shown as loops -1. */
	if (error) {
		kind->other = error;
		kind->loops = -1;
	}
}

static void report(const struct kind *kind)
{
	printf("%s loops=%d eintr=%d early=%d other=%d best=%d timed=%d again=%d;", kind->name,
	       kind->loops, kind->eintr, kind->early, kind->other, kind->best_ms, kind->timed,
	       kind->again);
}

void prepare(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

void say(char question)
{
	pthread_t thread;
	struct kind *kind = &kinds[(unsigned char)question - '@'];

	if (question == '#') {
		printf("%d kinds, value %d\n", KINDS, value());
	} else if (question == '*') {
		for (int i = 0; i < KINDS; i++)
			prepare_kind(&kinds[i]);
		for (int i = 0; i < KINDS; i++)
			if (kinds[i].loops >= 0)
				pthread_create(&thread, NULL, run_for_ever, &kinds[i]);
		puts("running");
	} else if (question == '?') {
		for (int i = 0; i < KINDS; i++)
			report(&kinds[i]);
		puts("");
	} else {
		prepare_kind(kind);
		puts("running");
		for (int i = 0; i < LOOPS && kind->loops >= 0; i++)
			run(kind);
		report(kind);
		puts("");
	}
}

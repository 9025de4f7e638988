/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * care-watch: tells care-agent of processes that start and end. It has the right to hear process
 * events (netlink proc connector, CAP_NET_ADMIN) and no other, and reads nothing but names:
 *
 *	{"watching":true}
 *	{"exec":PID,"comm":NAME}
 *	{"exit":PID,"status":N,"signal":N}
 *	{"lost":true}                       events were lost: the agent is to scan
 *
 * Every exec of a host passes through here, so what is of no interest is dropped here already: the
 * agent's first message names the programs, {"programs":[NAME...]}. Ends are told of those whose
 * start was, and of pids that the agent names, {"mind":PID}.
 */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/lines.h"
#include "agent/sockets.h"
#include "engine/cleanup.h"
#include "engine/cli.h"
#include "engine/target.h"

#define PROGRAM "care-watch"

const char *argp_program_version = PROGRAM " (DatabaseCare) " CARE_VERSION;

enum { MESSAGE_MOST = 1 << 16, MINDED_MOST = 4096, EVENT_ROOM = 8 << 20, HEAR_MS = 1000 };

struct watch {
	int events; /* netlink; -1: none */
	struct agent_lines agent;
	json_t *programs; /* names of interest */
	pid_t minded[MINDED_MOST];
	size_t minded_count;
};

/* ---- the connector ---- */

static struct pe_error *subscribe(int *ret)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = CN_IDX_PROC };
	struct {
		struct nlmsghdr header;
		struct cn_msg message;
		enum proc_cn_mcast_op op;
	} __attribute__((packed)) request = {
		.header = { .nlmsg_len = sizeof(request), .nlmsg_type = NLMSG_DONE },
		.message = { .id = { CN_IDX_PROC, CN_VAL_PROC },
			     .len = sizeof(enum proc_cn_mcast_op) },
		.op = PROC_CN_MCAST_LISTEN,
	};
	int room = EVENT_ROOM;

	pe_auto_fd int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_CONNECTOR);
	if (fd < 0)
		return pe_error_errno(errno, "the kernel has no process events for us");
	/* A burst of starts must fit while we are not running. */
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
	    send(fd, &request, sizeof(request), 0) != (ssize_t)sizeof(request))
		return pe_error_errno(errno, "process events are not for us");
	*ret = fd;
	fd = -1;
	return NULL;
}

static bool read_comm(pid_t pid, char comm[32])
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	pe_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, comm, 31);

	if (got <= 0)
		return false;
	comm[got] = '\0';
	comm[strcspn(comm, "\n")] = '\0';
	return true;
}

static bool of_interest(const struct watch *watch, const char *comm)
{
	const json_t *name;
	size_t i;

	json_array_foreach(watch->programs, i, name)
	{
		if (strcmp(json_string_value(name), comm) == 0)
			return true;
	}
	return false;
}

static void mind(struct watch *watch, pid_t pid)
{
	for (size_t i = 0; i < watch->minded_count; i++) {
		if (watch->minded[i] == pid)
			return;
	}
	if (watch->minded_count == MINDED_MOST) /* the oldest: the agent's scan will notice */
		memmove(watch->minded, watch->minded + 1,
			--watch->minded_count * sizeof(*watch->minded));
	watch->minded[watch->minded_count++] = pid;
}

static bool forget(struct watch *watch, pid_t pid)
{
	for (size_t i = 0; i < watch->minded_count; i++) {
		if (watch->minded[i] != pid)
			continue;
		watch->minded[i] = watch->minded[--watch->minded_count];
		return true;
	}
	return false;
}

static struct pe_error *tell(struct watch *watch, json_t *message)
{
	struct pe_error *err = agent_lines_put(&watch->agent, message, -1);

	return err ? err : agent_lines_flush(&watch->agent);
}

union datagram {
	struct nlmsghdr first;
	char bytes[8192];
};

/* NULL: the message is none of the connector's events. */
static const struct proc_event *event_of(const struct nlmsghdr *header)
{
	const struct cn_msg *message = NLMSG_DATA(header);

	return header->nlmsg_type == NLMSG_DONE && message->id.idx == CN_IDX_PROC &&
			       message->len >= sizeof(struct proc_event)
		       ? (const struct proc_event *)message->data
		       : NULL;
}

static struct pe_error *one_event(struct watch *watch, const struct proc_event *event)
{
	char comm[32];

	if (event->what == PROC_EVENT_EXEC) {
		pid_t pid = event->event_data.exec.process_tgid;

		if (!read_comm(pid, comm) || !of_interest(watch, comm))
			return NULL;
		mind(watch, pid);
		return tell(watch, json_pack("{s:i, s:s}", "exec", (int)pid, "comm", comm));
	}
	if (event->what == PROC_EVENT_EXIT) {
		pid_t pid = event->event_data.exit.process_tgid;
		unsigned int status = event->event_data.exit.exit_code;

		if (pid != event->event_data.exit.process_pid || !forget(watch, pid))
			return NULL;
		return tell(watch,
			    json_pack("{s:i, s:i, s:i}", "exit", (int)pid, "status",
				      (int)(status >> 8 & 0xff), "signal", (int)(status & 0x7f)));
	}
	return NULL;
}

static struct pe_error *take_events(struct watch *watch)
{
	union datagram buffer;
	ssize_t got = recv(watch->events, &buffer, sizeof(buffer), MSG_DONTWAIT);

	if (got < 0 && errno == ENOBUFS)
		return tell(watch, json_pack("{s:b}", "lost", 1));
	if (got < 0)
		return errno == EAGAIN || errno == EINTR
			       ? NULL
			       : pe_error_errno(errno, "cannot read process events");
	for (struct nlmsghdr *h = &buffer.first; NLMSG_OK(h, (unsigned int)got);
	     h = NLMSG_NEXT(h, got)) {
		const struct proc_event *event = event_of(h);
		struct pe_error *err = event ? one_event(watch, event) : NULL;

		if (err)
			return err;
	}
	return NULL;
}

/*
 * In a pid namespace of a container the subscription succeeds and nothing comes, or what comes has
 * the pids of the first namespace, without end. So: does the end of a child of ours arrive, as its
 * own, and in time?
 */
static bool hears(int fd)
{
	pid_t child = fork();
	union datagram buffer;

	if (child == 0)
		_exit(0);
	if (child < 0 || waitpid(child, NULL, 0) != child)
		return false;

	uint64_t end = pe_now_us() + HEAR_MS * 1000;

	while (pe_now_us() < end && poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, HEAR_MS) > 0) {
		ssize_t got = recv(fd, &buffer, sizeof(buffer), MSG_DONTWAIT);

		for (struct nlmsghdr *h = &buffer.first; got > 0 && NLMSG_OK(h, (unsigned int)got);
		     h = NLMSG_NEXT(h, got)) {
			const struct proc_event *event = event_of(h);

			if (event && event->what == PROC_EVENT_EXIT &&
			    event->event_data.exit.process_pid == child)
				return true;
		}
	}
	return false;
}

/* ---- the agent ---- */

static struct pe_error *take_messages(struct watch *watch)
{
	struct pe_error *err = agent_lines_read(&watch->agent);

	while (!err) {
		json_t *message;

		err = agent_lines_next(&watch->agent, &message, NULL);
		if (err || !message)
			return err;

		json_t *programs = json_object_get(message, "programs"), *name;
		json_int_t pid = json_integer_value(json_object_get(message, "mind"));
		bool strings = json_is_array(programs);
		size_t i;

		json_array_foreach(programs, i, name) strings &= json_is_string(name);
		if (strings) {
			json_decref(watch->programs);
			watch->programs = json_incref(programs);
		}
		if (pid > 0)
			mind(watch, (pid_t)pid);
		json_decref(message);
	}
	return err;
}

/* Until the agent goes away; without events only to say so and to wait for its end. */
static struct pe_error *serve(struct watch *watch)
{
	struct pe_error *err = tell(watch, json_pack("{s:b}", "watching", watch->events >= 0));

	while (!err) {
		struct pollfd fds[] = { { watch->agent.fd, POLLIN, 0 },
					{ watch->events, POLLIN, 0 } };

		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return pe_error_errno(errno, "cannot wait");
		if (fds[0].revents)
			err = take_messages(watch);
		if (!err && fds[1].revents)
			err = take_events(watch);
	}
	return err;
}

/* All that it could do so far is done with. */
static void drop_rights(void)
{
	cap_t none = cap_init();

	if (none) {
		(void)cap_set_proc(none);
		cap_free(none);
	}
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static struct pe_error *run(void)
{
	static struct watch watch = { .events = -1 };
	uid_t uid = 0;
	gid_t gid = 0;
	int listener = -1;
	struct pe_error *err = agent_socket_inherited(&listener);

	if (!err)
		err = agent_user_ids(&uid, &gid);
	if (err)
		return err;

	pe_auto_error struct pe_error *deaf = subscribe(&watch.events);

	if (!deaf && !hears(watch.events)) {
		close(watch.events);
		watch.events = -1;
		deaf = pe_error_new(PE_ERR_UNSUPPORTED,
				    "process events do not reach us (a container's pid namespace)");
	}
	if (deaf)
		fprintf(stderr, PROGRAM ": %s; the agent scans instead\n", deaf->message);
	drop_rights();
	for (;;) {
		/* One agent at a time; the next one finds us waiting. */
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0)
			return pe_error_errno(errno, "cannot accept a connection");
		if (!agent_peer_allowed(fd, uid, (gid_t)-1, NULL)) {
			close(fd);
			continue;
		}
		agent_lines_init(&watch.agent, fd, MESSAGE_MOST);

		pe_auto_error struct pe_error *end = serve(&watch);

		agent_lines_deinit(&watch.agent);
	}
}

int main(int argc, char **argv)
{
	static const struct argp argp = {
		NULL, NULL, NULL,
		"Tells the DatabaseCare agent of processes that start and end. It has the right "
		"to hear process events and no other.\v"
		"It is started by systemd (care-watch.socket) or by `care-agent --foreground`, not "
		"by hand, and takes its socket from them. Without the right (CAP_NET_ADMIN in the "
		"first network namespace) the agent scans every ten seconds.\n"
	};

	argp_err_exit_status = 1;
	argp_parse(&argp, argc, argv, 0, NULL, NULL);
	signal(SIGPIPE, SIG_IGN);
	return pe_cli_fail(PROGRAM, run(), false);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Clients that notice: N connections, one thread each, send a query at a total rate and keep the
 * start and the duration of every one.
 *
 *	clients SOCKET USER CONNECTIONS RATE OUTPUT QUERY...
 *
 * Each client takes the queries in turn. RATE is queries per second of all together; 0: as fast
 * as the answers come. Prints "ready" when all are connected; ends at SIGTERM with
 * {"queries":N,"failed":N,"lost":N,"longest_us":N}. OUTPUT gets a record of 16 bytes a query:
 * CLOCK_MONOTONIC µs of its start (64 bits), duration in µs (32), client number (31) and whether
 * it failed (1). A client whose connection is lost counts that and ends.
 */
#include <err.h>
#include <errno.h>
#include <mysql.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct record {
	uint64_t start_us;
	uint32_t duration_us;
	uint32_t client_failed;
};

struct client {
	pthread_t thread;
	MYSQL *mysql;
	unsigned int number;
	struct record *records;
	size_t count, room;
	unsigned long failed, lost;
};

static atomic_bool stopping;
static const char *const *queries;
static unsigned int query_count;
static uint64_t interval_us; /* between two queries of one client; 0: none */

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000ULL + t.tv_nsec / 1000;
}

static void sleep_until(uint64_t when_us)
{
	struct timespec t = { .tv_sec = when_us / 1000000, .tv_nsec = when_us % 1000000 * 1000 };

	while (!stopping && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

static bool ask(struct client *client, const char *query)
{
	if (mysql_query(client->mysql, query))
		return false;

	MYSQL_RES *result = mysql_store_result(client->mysql);
	bool fine = result || !mysql_field_count(client->mysql);

	mysql_free_result(result);
	return fine;
}

static void keep(struct client *client, uint64_t start, uint64_t end, bool failed)
{
	if (client->count == client->room) {
		client->room = client->room ? client->room * 2 : 1024;
		client->records = realloc(client->records, client->room * sizeof(*client->records));
		if (!client->records)
			err(1, "realloc");
	}
	client->records[client->count++] = (struct record){
		.start_us = start,
		.duration_us = (uint32_t)(end - start),
		.client_failed = client->number << 1 | failed,
	};
}

static void *run(void *arg)
{
	struct client *client = arg;
	uint64_t next = now_us() + (interval_us ? (uint64_t)rand() % interval_us : 0);

	for (size_t turn = client->number; !stopping; turn++) {
		if (interval_us) {
			sleep_until(next);
			next += interval_us;
			if (stopping)
				break;
		}

		uint64_t start = now_us();
		bool fine = ask(client, queries[turn % query_count]);

		keep(client, start, now_us(), !fine);
		if (interval_us && next < start) /* late: do not catch up by a burst */
			next = start;
		if (fine)
			continue;
		client->failed++;
		fprintf(stderr, "client %u: %s\n", client->number, mysql_error(client->mysql));
		if (mysql_errno(client->mysql) >= 2000) {
			client->lost++;
			break;
		}
	}
	return NULL;
}

static void connect_all(struct client *clients, unsigned int count, const char *socket,
			const char *user)
{
	for (unsigned int i = 0; i < count; i++) {
		clients[i].number = i;
		clients[i].mysql = mysql_init(NULL);
		if (!clients[i].mysql ||
		    !mysql_real_connect(clients[i].mysql, NULL, user, NULL, "test", 0, socket, 0))
			errx(1, "connection %u: %s", i, mysql_error(clients[i].mysql));
	}
}

static void report(struct client *clients, unsigned int count, const char *path)
{
	FILE *file = fopen(path, "wb");
	unsigned long long total = 0, failed = 0, lost = 0, longest = 0;

	if (!file)
		err(1, "%s", path);
	for (unsigned int i = 0; i < count; i++) {
		total += clients[i].count;
		failed += clients[i].failed;
		lost += clients[i].lost;
		for (size_t k = 0; k < clients[i].count; k++)
			if (clients[i].records[k].duration_us > longest)
				longest = clients[i].records[k].duration_us;
		fwrite(clients[i].records, sizeof(struct record), clients[i].count, file);
	}
	if (fclose(file))
		err(1, "%s", path);
	printf("{\"queries\":%llu,\"failed\":%llu,\"lost\":%llu,\"longest_us\":%llu}\n", total,
	       failed, lost, longest);
}

int main(int argc, char **argv)
{
	if (argc < 7)
		errx(2, "usage: clients SOCKET USER CONNECTIONS RATE OUTPUT QUERY...");

	unsigned int count = atoi(argv[3]);
	unsigned int rate = atoi(argv[4]);
	struct client *clients = calloc(count, sizeof(*clients));
	sigset_t ending;
	int which;

	if (!clients || !count)
		errx(2, "no clients");
	interval_us = rate ? 1000000ULL * count / rate : 0;
	queries = (const char *const *)argv + 6;
	query_count = argc - 6;
	sigemptyset(&ending);
	sigaddset(&ending, SIGTERM);
	sigaddset(&ending, SIGINT);
	pthread_sigmask(SIG_BLOCK, &ending, NULL);
	mysql_library_init(0, NULL, NULL);
	connect_all(clients, count, argv[1], argv[2]);

	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 256 << 10);
	for (unsigned int i = 0; i < count; i++)
		if (pthread_create(&clients[i].thread, &attr, run, &clients[i]))
			errx(1, "cannot create thread %u", i);
	puts("ready");
	fflush(stdout);
	sigwait(&ending, &which);
	stopping = true;
	for (unsigned int i = 0; i < count; i++)
		pthread_join(clients[i].thread, NULL);
	report(clients, count, argv[5]);
	for (unsigned int i = 0; i < count; i++)
		mysql_close(clients[i].mysql);
	free(clients);
	return 0;
}

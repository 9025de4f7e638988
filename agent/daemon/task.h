/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tasks: functions that may wait, on the one thread of the loop. Each has a stack of its own and
 * gives the loop back whenever it waits, so that what reads like a straight story (ask the patcher,
 * ask the server, run a hook, apply, verify) never blocks anybody else. Tasks are switched only
 * where they wait: between two waits nothing that they share changes under them.
 */
#ifndef AGENT_TASK_H
#define AGENT_TASK_H

#include <stdbool.h>
#include <uv.h>

#include "engine/error.h"

struct agent_task;

/* Once, before the first task. */
struct pe_error *agent_tasks_init(uv_loop_t *loop) pe_must_check;
void agent_tasks_deinit(void);
uv_loop_t *agent_loop(void);

/* @run(@arg) runs from the loop, soon. */
struct pe_error *agent_task_start(void (*run)(void *arg), void *arg) pe_must_check;
size_t agent_task_count(void);

/* ---- inside a task ---- */

struct agent_task *agent_task_self(void);
void agent_task_sleep(uint64_t ms);
/*
 * Waits until one of @events (POLLIN, POLLOUT, POLLPRI) is there on @fd and returns those that are;
 * 0 after @timeout_ms (-1: none). Fits dbc_login.wait.
 */
short agent_task_poll(void *unused, int fd, short events, int timeout_ms);
/* Waits for agent_task_wake; false after @timeout_ms (-1: none). */
bool agent_task_wait(int timeout_ms);
/* From anywhere; a wake that comes before the wait is not lost. */
void agent_task_wake(struct agent_task *task);

/* Runs @work(@arg) in a thread of its own and waits for its end. */
void agent_task_in_thread(void (*work)(void *arg), void *arg);

/* ---- tasks among themselves ---- */

/* First come, first served. Zeroed is free. */
struct agent_lock {
	struct agent_task *holder, *first, *last;
};

void agent_lock_take(struct agent_lock *lock);
void agent_lock_drop(struct agent_lock *lock);

#endif

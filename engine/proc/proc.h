/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of this folder share; nothing outside includes it. */
#ifndef ENGINE_PROC_PROC_H
#define ENGINE_PROC_PROC_H

#include "engine/target.h"

struct unwinder;

/* Pieces of code in the target's C library that injected calls lead through; 0: not found. */
struct gadgets {
	bool searched;
	uint64_t syscall_ret; /* syscall; ret */
	uint64_t restore_rt;  /* mov $15, %rax; syscall */
	uint64_t store_ret;   /* mov %rax, (%rbx); pop %rbx; ret */
};

struct pe_target {
	pid_t pid;
	int pidfd;
	int mem_fd; /* /proc/PID/mem; belongs to the address space that we opened */
	bool mem_writable;
	uint64_t start_time;
	uint64_t start_stack; /* /proc/PID/stat 28: an address that is mapped while we live */
	pid_t held_tid;	      /* a thread that we hold stopped (POKETEXT needs one), or 0 */
	struct gadgets gadgets;
	struct unwinder *unwinder; /* made when first needed; see unwind.c */
	/*
	 * Threads that are seized but did not stop in time (uninterruptible sleep): still to be
	 * detached when they do.
	 */
	pid_t *stragglers;
	size_t straggler_count;
};

/* Reads a small file of /proc whole into a caller's buffer; NUL-terminated; -1 with errno. */
ssize_t proc_read_file(const char *path, char *buf, size_t size);
/* The number behind @key in a status file of /proc; 0 when there is none. */
long proc_status_number(const char *path, const char *key);

/* What /proc/PID/task/TID/stat tells. */
struct task_stat {
	char comm[16];
	char state; /* R S D Z X T t ... */
	unsigned int flags;
	unsigned long num_threads;
	uint64_t start_time;
	uint64_t start_stack;
};
/* -1 with errno when there is no such task. @tid 0: the process. */
int proc_task_stat(pid_t pid, pid_t tid, struct task_stat *ret);
/* True when a task has user-space state that matters to us: no worker of the kernel, not dead. */
bool proc_task_is_user_thread(const struct task_stat *stat);

/* One thread of pe_target_threads; false when it is gone, dead or no user thread. */
bool proc_read_thread(pid_t pid, pid_t tid, struct pe_thread *ret);

/* The value of a dynamic tag; false when it is absent or cannot be read. */
bool proc_dynamic_value(const struct pe_target *target, uint64_t dynamic, int64_t tag,
			uint64_t *ret);
/*
 * Fills loading and digest of @ret, whose other fields are given, and tells @each (may be NULL) the
 * number and the dynamic section of each object in the link map.
 */
void proc_walk_link_map(const struct pe_target *target, struct pe_link_map *ret,
			void (*each)(void *ctx, int n, uint64_t dynamic), void *ctx);
/* process_vm_readv, then /proc/PID/mem: bytes read, less than @size when something is missing. */
size_t proc_read_some(const struct pe_target *target, uint64_t addr, void *buf, size_t size);

#endif

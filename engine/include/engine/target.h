/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A target: a running process. Reads its maps, memory, threads and images; stops it; makes it
 * run calls. Knows nothing of patches.
 *
 * Addresses are run-time addresses in the target unless a name says vaddr. Times are microseconds
 * of CLOCK_MONOTONIC.
 */
#ifndef ENGINE_TARGET_H
#define ENGINE_TARGET_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "engine/error.h"
#include "engine/image.h"

struct pe_target;

/*
 * Opens the process @pid (pidfd, start time, /proc/PID/mem). NO_TARGET when there is none or when
 * it is a kernel thread or our own; PERMISSION when we may not.
 */
struct pe_error *pe_target_open(pid_t pid, struct pe_target **ret) pe_must_check;
void pe_target_close(struct pe_target *target);
pid_t pe_target_pid(const struct pe_target *target);
uint64_t pe_target_start_time(const struct pe_target *target); /* clock ticks, /proc/PID/stat 22 */
/* DIED when the process is gone, a zombie, or another process now (exec changes the image). */
struct pe_error *pe_target_alive(const struct pe_target *target) pe_must_check;
/* Tracer of the process (not us), or of any of its threads; 0 when none. */
pid_t pe_target_tracer(const struct pe_target *target);
/*
 * Runs @work(@ctx), which stops threads of @target, and returns what it returns. It runs in a
 * thread of its own, while the caller waits and no signal reaches the caller; once that has ended,
 * the kernel has let go whatever could not be let go before. Inside @work it just calls.
 */
struct pe_error *pe_target_trace(struct pe_target *target, struct pe_error *(*work)(void *ctx),
				 void *ctx) pe_must_check;
/* Sleeps for @us microseconds; threads that did not stop in time are let go when they do. */
void pe_target_sleep(struct pe_target *target, uint64_t us);
/* Ours, open as long as @target is. */
int pe_target_pidfd(const struct pe_target *target);
/* True when a signal has stopped it (SIGSTOP, SIGTSTP). */
bool pe_target_is_stopped(const struct pe_target *target);

/* ---- memory ---- */

struct pe_error *pe_target_read(const struct pe_target *target, uint64_t addr, void *buf,
				size_t size) pe_must_check;
/* Writes through page protection (copy on write). Falls back to POKETEXT where /proc/PID/mem is
 * refused and a thread of the target is stopped by us. */
struct pe_error *pe_target_write(struct pe_target *target, uint64_t addr, const void *buf,
				 size_t size) pe_must_check;

struct pe_map {
	uint64_t start, end; /* [start, end) */
	uint64_t offset;     /* in the file, bytes */
	int prot;	     /* PROT_* */
	bool shared;
	uint64_t dev, inode;
	const char *path; /* "" for anonymous; "[stack]", "/memfd:care:x (deleted)", ... */
};

struct pe_maps {
	struct pe_map *items; /* ascending */
	size_t count;
	char *text; /* private: what the paths point into */
};

struct pe_error *pe_target_maps(const struct pe_target *target, struct pe_maps *ret) pe_must_check;
void pe_maps_deinit(struct pe_maps *maps);
const struct pe_map *pe_maps_at(const struct pe_maps *maps, uint64_t addr);

/* ---- images ---- */

/* An ELF object mapped into the process, identified by what is in memory, never by its path. */
struct pe_loaded_image {
	uint64_t start, end; /* of its mappings */
	uint64_t bias;	     /* run-time address = bias + vaddr */
	struct pe_build_id build_id;
	uint64_t build_id_addr; /* where its bytes are; 0 when it has none */
	uint64_t dynamic;	/* address of its dynamic section; 0 when it has none */
	bool is_program;
	char *path; /* as maps tells it, may end in " (deleted)" */
};

/* What the dynamic linker says of itself (r_debug). */
struct pe_link_map {
	bool loading;	  /* it is mapping, unmapping, or not yet done with the program */
	uint64_t digest;  /* of what is loaded where */
	uint64_t dynamic; /* section of the program */
	bool interpreted; /* the program has a dynamic linker */
};

struct pe_loaded_images {
	struct pe_loaded_image *items;
	size_t count;
	struct pe_link_map link_map;
};

/* The program first, then link-map order as far as it can be read, then what is left. */
struct pe_error *pe_target_images(const struct pe_target *target,
				  struct pe_loaded_images *ret) pe_must_check;
void pe_loaded_images_deinit(struct pe_loaded_images *images);
/* By its build-id, in one read: neither unloaded nor another in its place. */
bool pe_loaded_image_is_there(const struct pe_target *target, const struct pe_loaded_image *image);
/* As it is now; costs two reads and one for each object. */
struct pe_link_map pe_link_map_again(const struct pe_target *target,
				     const struct pe_link_map *before);
const struct pe_loaded_image *pe_loaded_images_find(const struct pe_loaded_images *images,
						    const struct pe_build_id *id);

struct pe_import {
	uint64_t addr; /* of the symbol; of the resolver when is_ifunc */
	bool is_ifunc;
	uint64_t size;
};

/*
 * Looks a dynamic symbol up in the images of the process (in their order; only in @library when
 * not NULL; default version when @version is NULL), reading their tables from memory.
 */
struct pe_error *pe_target_find_symbol(const struct pe_target *target,
				       const struct pe_loaded_images *images, const char *name,
				       const char *library, const char *version,
				       struct pe_import *ret) pe_must_check;

/* ---- threads ---- */

struct pe_thread {
	pid_t tid;
	char comm[16];
	bool running; /* on a processor or runnable: nr, sp and pc are unknown */
	int64_t nr;   /* system call it is blocked in; -1 outside one */
	uint64_t args[6];
	uint64_t sp, pc;
};

struct pe_threads {
	struct pe_thread *items;
	size_t count;
};

/* All user threads (io_uring and other kernel workers excepted), without stopping any. */
struct pe_error *pe_target_threads(const struct pe_target *target,
				   struct pe_threads *ret) pe_must_check;
void pe_threads_deinit(struct pe_threads *threads);

/* ---- address ranges and stacks ---- */

struct pe_range {
	uint64_t start, end; /* code [start, end) */
	uint32_t tag;	     /* the caller's own */
};

enum pe_range_match {
	PE_MATCH_BODY,	   /* a return address or pc inside, (start, end], or pc == start */
	PE_MATCH_INTERIOR, /* strictly inside (start, end): the bytes that a jump overwrites */
};

struct pe_stack_hit {
	pid_t tid;
	uint64_t addr; /* the code address found */
	uint64_t at;   /* where on the stack; 0 for the program counter */
	uint32_t tag;  /* of the range */
	bool precise;  /* found by unwinding; false: a conservative scan saw such a word */
};

struct pe_stack_hits {
	struct pe_stack_hit *items;
	size_t count;
};

void pe_stack_hits_deinit(struct pe_stack_hits *hits);

/*
 * Scans without stopping anyone: blocked threads by /proc/.../syscall and memory; running threads
 * are skipped and counted in *unknown. Conservative: may report stale words.
 */
struct pe_error *pe_stack_predict(const struct pe_target *target, const struct pe_maps *maps,
				  const struct pe_range *ranges, size_t range_count,
				  enum pe_range_match match, struct pe_stack_hits *hits,
				  size_t *unknown) pe_must_check;

/* ---- the stop ---- */

struct pe_stopped_thread {
	pid_t tid;
	int pending_signal; /* delivered again when it goes on */
	struct user_regs_struct regs;
};

/* Where the time of a pause went, microseconds; their sum is the pause. */
struct pe_pause_parts {
	uint64_t interrupt_us; /* telling all threads to stop */
	uint64_t wait_us;      /* until each stands */
	uint64_t look_us;      /* its registers and stack, while others are still on their way */
	uint64_t list_us;      /* was a thread born meanwhile? */
	uint64_t check_us;     /* unwinding those that seem to be in the way */
	uint64_t commit_us;    /* what the caller did while they stood */
	uint64_t detach_us;
};

struct pe_stop_options {
	bool fifo;	   /* SCHED_FIFO while threads are held */
	uint64_t limit_us; /* longest hold; every pe_stop_* call fails with BUSY past it */
	/*
	 * What pe_stop_check will be asked, or NULL: each thread is then looked at as soon as it
	 * stands, while others are still on their way, and the check finds most of its work done.
	 * Alive until pe_stop_resume.
	 */
	const struct pe_maps *maps;
	const struct pe_range *ranges;
	size_t range_count;
	enum pe_range_match match;
	struct pe_pause_parts *parts; /* filled by pe_stop_resume; or NULL */
};

struct pe_stop;

/*
 * Stops all threads in parallel: seizes all, interrupts all, waits for all, lists again until no
 * new one appears, reads registers. BUSY when the process is traced by another. Threads that die
 * meanwhile are left out. The clock of the pause starts at the first interrupt.
 */
struct pe_error *pe_stop_all(struct pe_target *target, const struct pe_stop_options *options,
			     struct pe_stop **ret) pe_must_check;
const struct pe_stopped_thread *pe_stop_threads(const struct pe_stop *stop, size_t *count);
/* True when SCHED_FIFO was refused. */
bool pe_stop_fifo_refused(const struct pe_stop *stop);
/*
 * Registers and stacks of all stopped threads against the ranges. With @stacks false only program
 * counters count. Conservative scan first; threads with a hit, on a stack that is not their own or
 * inside a signal frame are unwound precisely, and only what unwinding confirms (or cannot deny:
 * an incomplete unwind) is reported.
 */
struct pe_error *pe_stop_check(struct pe_stop *stop, const struct pe_maps *maps,
			       const struct pe_range *ranges, size_t range_count,
			       enum pe_range_match match, bool stacks,
			       struct pe_stack_hits *hits) pe_must_check;
struct pe_error *pe_stop_within_limit(const struct pe_stop *stop) pe_must_check;
/* Detaches all, frees @stop. *pause_us: first interrupt to last detach. */
void pe_stop_resume(struct pe_stop *stop, uint64_t *pause_us);

struct pe_stop_sample {
	size_t threads;	     /* that were stopped to know */
	uint64_t one_us;     /* stopping one alone */
	uint64_t further_ns; /* each further one at the same time */
};

/*
 * Stops a few blocked threads, each for about as long as an injected call does, to know what it
 * costs on this machine now. False when that could not be measured.
 */
bool pe_target_sample_stop(struct pe_target *target, const struct pe_threads *threads,
			   struct pe_stop_sample *ret);

/* ---- injected calls (they heal themselves, DESIGN 6) ---- */

struct pe_injector;

enum pe_inject_for {
	PE_INJECT_SYSCALL,  /* any thread in a plain futex wait or poll */
	PE_INJECT_FUNCTION, /* and none that may hold an allocator, loader or unwinder lock */
};

/*
 * Picks a blocked thread, seizes and stops that one alone. BUSY when no thread is fit (the error
 * says why) - the caller tries again later.
 */
struct pe_error *pe_inject_begin(struct pe_target *target, enum pe_inject_for purpose,
				 struct pe_injector **ret) pe_must_check;
/* *result is the raw return value (negative errno on failure of the call itself). */
struct pe_error *pe_inject_syscall(struct pe_injector *injector, long nr, const uint64_t args[6],
				   int64_t *result) pe_must_check;
/* Calls the function at @addr (integer arguments only); gives up after @timeout_us. */
struct pe_error *pe_inject_call(struct pe_injector *injector, uint64_t addr, const uint64_t args[6],
				uint64_t timeout_us, uint64_t *result) pe_must_check;
/*
 * Scratch memory of the injected frame (on the thread's stack, below everything), for strings and
 * structures that a call reads: at most 1024 bytes; valid until pe_inject_end.
 */
struct pe_error *pe_inject_scratch(struct pe_injector *injector, const void *bytes, size_t size,
				   uint64_t *addr) pe_must_check;
/* Restores the thread exactly (an interrupted system call is issued again) and detaches. */
struct pe_error *pe_inject_end(struct pe_injector *injector) pe_must_check;

uint64_t pe_now_us(void);

#endif

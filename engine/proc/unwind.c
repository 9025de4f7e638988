/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Precise unwinding with libdw. The images are those in memory, their files those that are mapped
 * (/proc/PID/map_files, so deleted ones too); all of it is opened before the stop, and registers
 * and stack come from the caller, so that one thread takes some 50 us.
 */
#include "unwind.h"

#include <elfutils/libdwfl.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "engine/cleanup.h"

enum { FRAMES_MAX = 4096, DWARF_REGS = 17, VDSO_MAX = 1 << 20 };

struct unwinder {
	Dwfl *dwfl;
	const struct pe_target *target;
	uint64_t signature;		/* of the mappings that it was made for */
	const struct pe_maps *maps;	/* while it is made */
	uint8_t *vdso;			/* a copy, alive as long as dwfl */
	struct unwind_request *request; /* while it runs */
	size_t frames;
	bool guessed; /* a frame without call frame information */
};

/* ---- the images ---- */

static int open_mapped_file(const struct pe_target *target, const struct pe_map *map)
{
	char path[4200];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, target->pid,
		 map->start, map->end);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	/* Without the right to map_files: by path, if that is still the same file. */
	snprintf(path, sizeof(path), "/proc/%d/root%s", target->pid, map->path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == map->inode && st.st_dev == map->dev)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static Elf *open_vdso(struct unwinder *unwinder, const struct pe_map *map)
{
	size_t size = map->end - map->start;

	if (unwinder->vdso || size > VDSO_MAX)
		return NULL;
	unwinder->vdso = malloc(size);
	if (!unwinder->vdso ||
	    proc_read_some(unwinder->target, map->start, unwinder->vdso, size) != size)
		return NULL;
	return elf_memory((char *)unwinder->vdso, size);
}

static int find_elf(Dwfl_Module *module, void **userdata, const char *name, Dwarf_Addr base,
		    char **file_name, Elf **elf)
{
	struct unwinder *unwinder = *userdata;
	const struct pe_map *map = unwinder->maps ? pe_maps_at(unwinder->maps, base) : NULL;

	if (!map)
		return -1;
	if (strcmp(map->path, "[vdso]") == 0) {
		*elf = open_vdso(unwinder, map);
		return -1;
	}
	return open_mapped_file(unwinder->target, map);
}

/* Call frame information stands in the loaded image; nothing is looked for elsewhere. */
static int find_no_debuginfo(Dwfl_Module *module, void **userdata, const char *name,
			     Dwarf_Addr base, const char *file_name, const char *debuglink_file,
			     GElf_Word debuglink_crc, char **debuginfo_file_name)
{
	return -1;
}

static const Dwfl_Callbacks dwfl_callbacks = {
	.find_elf = find_elf,
	.find_debuginfo = find_no_debuginfo,
	.section_address = dwfl_offline_section_address,
};

static int warm_module(Dwfl_Module *module, void **userdata, const char *name, Dwarf_Addr base,
		       void *arg)
{
	Dwarf_Addr bias;

	(void)dwfl_module_getelf(module, &bias);
	(void)dwfl_module_eh_cfi(module, &bias);
	return DWARF_CB_OK;
}

static bool report_images(struct unwinder *unwinder)
{
	struct pe_loaded_images images;
	struct pe_error *err = pe_target_images(unwinder->target, &images);

	if (err) {
		pe_error_free(err);
		return false;
	}
	dwfl_report_begin(unwinder->dwfl);
	for (size_t i = 0; i < images.count; i++) {
		char name[32];
		void **userdata;

		/* libdw passes over names that end in " (deleted)": ours are numbers. */
		snprintf(name, sizeof(name), "image-%zu", i);
		Dwfl_Module *module = dwfl_report_module(
			unwinder->dwfl, name, images.items[i].start, images.items[i].end);

		if (!module)
			continue;
		dwfl_module_info(module, &userdata, NULL, NULL, NULL, NULL, NULL, NULL);
		*userdata = unwinder;
	}
	pe_loaded_images_deinit(&images);
	return dwfl_report_end(unwinder->dwfl, NULL, NULL) == 0;
}

/* ---- the thread ---- */

static pid_t next_thread(Dwfl *dwfl, void *arg, void **thread_arg)
{
	return 0; /* only by number: get_thread */
}

static bool get_thread(Dwfl *dwfl, pid_t tid, void *arg, void **thread_arg)
{
	*thread_arg = arg;
	return true;
}

static bool memory_read(Dwfl *dwfl, Dwarf_Addr addr, Dwarf_Word *result, void *arg)
{
	struct unwinder *unwinder = arg;
	struct unwind_request *request = unwinder->request;

	if (addr >= request->watch_start && addr < request->watch_end)
		request->watch_touched = true;
	if (addr >= request->stack_addr && request->stack_size >= sizeof(*result) &&
	    addr - request->stack_addr <= request->stack_size - sizeof(*result)) {
		memcpy(result, request->stack + (addr - request->stack_addr), sizeof(*result));
		return true;
	}
	return proc_read_some(unwinder->target, addr, result, sizeof(*result)) == sizeof(*result);
}

static bool set_initial_registers(Dwfl_Thread *thread, void *arg)
{
	const struct user_regs_struct *regs = ((struct unwinder *)arg)->request->regs;
	/* In the order of DWARF (System V ABI, x86-64, figure 3.36). */
	const Dwarf_Word words[DWARF_REGS] = {
		regs->rax, regs->rdx, regs->rcx, regs->rbx, regs->rsi, regs->rdi,
		regs->rbp, regs->rsp, regs->r8,	 regs->r9,  regs->r10, regs->r11,
		regs->r12, regs->r13, regs->r14, regs->r15, regs->rip,
	};

	return dwfl_thread_state_registers(thread, 0, DWARF_REGS, words);
}

static const Dwfl_Thread_Callbacks thread_callbacks = {
	.next_thread = next_thread,
	.get_thread = get_thread,
	.memory_read = memory_read,
	.set_initial_registers = set_initial_registers,
};

static bool covered_by_cfi(Dwfl *dwfl, uint64_t pc)
{
	Dwarf_Addr bias;
	Dwfl_Module *module = dwfl_addrmodule(dwfl, pc);
	Dwarf_CFI *cfi = module ? dwfl_module_eh_cfi(module, &bias) : NULL;
	Dwarf_Frame *frame = NULL;

	if (!cfi || dwarf_cfi_addrframe(cfi, pc - bias, &frame) != 0)
		return false;
	free(frame);
	return true;
}

static int at_frame(Dwfl_Frame *state, void *arg)
{
	struct unwinder *unwinder = arg;
	struct unwind_request *request = unwinder->request;
	Dwarf_Addr pc;
	bool exact;

	if (!dwfl_frame_pc(state, &pc, &exact) || unwinder->frames++ >= FRAMES_MAX)
		return DWARF_CB_ABORT;
	request->frame(request->ctx, pc, exact);
	/* Without it libdw would go on by frame pointers, and could step over frames. */
	if (!covered_by_cfi(unwinder->dwfl, exact ? pc : pc - 1)) {
		unwinder->guessed = true;
		return DWARF_CB_ABORT;
	}
	return DWARF_CB_OK;
}

bool unwinder_run(struct unwinder *unwinder, struct unwind_request *request)
{
	if (!unwinder) {
		request->frame(request->ctx, request->regs->rip, true);
		return false;
	}
	unwinder->request = request;
	unwinder->frames = 0;
	unwinder->guessed = false;

	int result = dwfl_getthread_frames(unwinder->dwfl, request->tid, at_frame, unwinder);

	unwinder->request = NULL;
	return result == 0 && !unwinder->guessed && unwinder->frames > 0;
}

/* ---- life ---- */

/* Changes when any file-backed code is mapped, unmapped or replaced (FNV-1a). */
static uint64_t maps_signature(const struct pe_maps *maps)
{
	uint64_t hash = 0xcbf29ce484222325ULL;

	for (size_t i = 0; i < maps->count; i++) {
		const struct pe_map *map = &maps->items[i];
		const uint64_t words[] = { map->start, map->end, map->offset, map->inode };

		if (!(map->prot & PROT_EXEC))
			continue;
		for (size_t n = 0; n < sizeof(words) / sizeof(*words); n++)
			hash = (hash ^ words[n]) * 0x100000001b3ULL;
	}
	return hash;
}

void unwinder_prepare(struct pe_target *target, const struct pe_maps *maps)
{
	uint64_t signature = maps_signature(maps);

	if (target->unwinder && target->unwinder->signature == signature)
		return;
	unwinder_free(target->unwinder);
	target->unwinder = NULL;

	struct unwinder *unwinder = calloc(1, sizeof(*unwinder));

	if (!unwinder)
		return;
	unwinder->target = target;
	unwinder->signature = signature;
	unwinder->maps = maps;
	unwinder->dwfl = dwfl_begin(&dwfl_callbacks);
	if (!unwinder->dwfl || !report_images(unwinder)) {
		unwinder_free(unwinder);
		return;
	}
	dwfl_getmodules(unwinder->dwfl, warm_module, NULL, 0);
	unwinder->maps = NULL;
	if (!dwfl_attach_state(unwinder->dwfl, NULL, target->pid, &thread_callbacks, unwinder)) {
		unwinder_free(unwinder);
		return;
	}
	target->unwinder = unwinder;
}

void unwinder_free(struct unwinder *unwinder)
{
	if (!unwinder)
		return;
	if (unwinder->dwfl)
		dwfl_end(unwinder->dwfl);
	free(unwinder->vdso);
	free(unwinder);
}

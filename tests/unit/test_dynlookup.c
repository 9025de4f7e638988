/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The look-up finds in this very process what dlsym finds, through a plain memory reader. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/uio.h>

#include "engine/cleanup.h"
#include "engine/dynlookup.h"

static struct pe_error *read_self(void *ctx, uint64_t addr, void *buf, size_t size)
{
	struct iovec local = { buf, size }, remote = { (void *)(uintptr_t)addr, size };

	if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != (ssize_t)size)
		return pe_error_new(PE_ERR_SYSTEM, "no memory at %#llx", (unsigned long long)addr);
	return NULL;
}

struct object {
	const char *part; /* of its name */
	uint64_t dynamic, bias;
};

static int object_found(struct dl_phdr_info *info, size_t size, void *ctx)
{
	struct object *object = ctx;

	if (!strstr(info->dlpi_name, object->part))
		return 0;
	object->bias = info->dlpi_addr;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
			object->dynamic = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
	}
	return 1;
}

static struct pe_dyn_symbol look_up(const char *part, const char *name, const char *version)
{
	struct object object = { .part = part };
	struct pe_dyn_symbol symbol;

	assert_true(dl_iterate_phdr(object_found, &object));
	pe_auto_error struct pe_error *err =
		pe_dyn_find(read_self, NULL, object.dynamic, object.bias, name, version, &symbol);
	assert_null(err);
	return symbol;
}

static void a_function_of_libc_is_found_where_dlsym_finds_it(void **state)
{
	struct pe_dyn_symbol symbol = look_up("libc.so", "getppid", NULL);

	assert_true(symbol.found);
	assert_int_equal(symbol.type, STT_FUNC);
	/* Past our own PLT or a sanitizer's wrapper: ask libc itself. */
	void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
	assert_ptr_equal((void *)symbol.addr, dlsym(libc, "getppid"));
	dlclose(libc);
}

static void a_version_is_taken_by_name_and_the_default_one_without(void **state)
{
	struct pe_dyn_symbol old = look_up("libc.so", "pthread_cond_wait", "GLIBC_2.2.5");
	struct pe_dyn_symbol new = look_up("libc.so", "pthread_cond_wait", "GLIBC_2.3.2");
	struct pe_dyn_symbol plain = look_up("libc.so", "pthread_cond_wait", NULL);

	assert_true(old.found && new.found &&plain.found);
	assert_int_equal(plain.addr, new.addr);
	assert_int_not_equal(old.addr, new.addr);
	assert_false(look_up("libc.so", "pthread_cond_wait", "GLIBC_9.9").found);
}

static void an_ifunc_and_a_thread_local_are_told_by_their_type(void **state)
{
	assert_int_equal(look_up("libc.so", "memcpy", NULL).type, STT_GNU_IFUNC);
	struct pe_dyn_symbol tls = look_up("libc.so", "errno", "GLIBC_PRIVATE");
	assert_true(tls.found);
	assert_int_equal(tls.type, STT_TLS);
	assert_in_range(tls.addr, 0, 4096);
}

static void an_absent_symbol_is_no_error(void **state)
{
	assert_false(look_up("libc.so", "no_such_function_anywhere", NULL).found);
	assert_false(look_up("libc.so", "", NULL).found);
}

static void the_vdso_whose_addresses_are_not_relocated_is_read_too(void **state)
{
	const Elf64_Ehdr *ehdr = (const Elf64_Ehdr *)getauxval(AT_SYSINFO_EHDR);

	if (!ehdr)
		skip();
	const Elf64_Phdr *phdr = (const Elf64_Phdr *)((const char *)ehdr + ehdr->e_phoff);
	uint64_t bias = (uint64_t)ehdr, dynamic = 0;
	struct pe_dyn_symbol symbol;

	for (int i = 0; i < ehdr->e_phnum; i++) {
		if (phdr[i].p_type == PT_DYNAMIC)
			dynamic = bias + phdr[i].p_vaddr;
	}
	pe_auto_error struct pe_error *err =
		pe_dyn_find(read_self, NULL, dynamic, bias, "__vdso_clock_gettime", NULL, &symbol);
	assert_null(err);
	assert_true(symbol.found);
	assert_true(symbol.addr > bias);
}

static void a_dynamic_section_out_of_memory_is_an_error(void **state)
{
	struct pe_dyn_symbol symbol;
	pe_auto_error struct pe_error *err =
		pe_dyn_find(read_self, NULL, 0x1000, 0, "x", NULL, &symbol);

	assert_non_null(err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_function_of_libc_is_found_where_dlsym_finds_it),
		cmocka_unit_test(a_version_is_taken_by_name_and_the_default_one_without),
		cmocka_unit_test(an_ifunc_and_a_thread_local_are_told_by_their_type),
		cmocka_unit_test(an_absent_symbol_is_no_error),
		cmocka_unit_test(the_vdso_whose_addresses_are_not_relocated_is_read_too),
		cmocka_unit_test(a_dynamic_section_out_of_memory_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

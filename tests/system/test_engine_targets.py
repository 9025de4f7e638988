# SPDX-License-Identifier: GPL-2.0-or-later
"""Kinds of programs and of references: link modes, places, arguments, thread-locals, libc."""
import pytest

from harness import care
from programs import Program, flip, refusal

REFUSED = 5

PIE = (("-O2", "-fPIE"), ("-pie",))
NOPIE = (("-O2", "-fno-pie", "-fno-pic"), ("-no-pie",))
PIC = (("-O2", "-fPIC"), ("-pie", "-Wl,-z,now"))


REFERENCES = r"""
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int hits;
int table[4] = { 1, 2, 3, 4 };
static const char *const words[] = { "zero", "one", "two" };
__attribute__((noinline)) static int helper(int x)
{
	return x + table[1];
}
__attribute__((noinline)) void answer(void)
{
	printf("%d %s\n", helper(hits++), words[0]);
}
void say(char question)
{
	answer();
}
"""


@pytest.mark.parametrize("mode", [PIE, NOPIE, PIC], ids=["pie", "nopie", "pic"])
def test_pie_and_nopie_refer_to_old_and_new_things(tmp_path, mode):
    """Old statics and functions, new strings, libc's functions and data."""
    old, new, after = flip(Program(tmp_path, REFERENCES, *mode), {
        'printf("%d %s\\n", helper(hits++), words[0]);':
        'char *copy = strdup(words[2]);\n\terrno = 5;\n'
        '\tfprintf(stdout, "%d %s %zu %s\\n", helper(hits++) + table[3], copy, strlen(copy),\n'
        '\t\tstrerror(errno));\n\tfree(copy);'}, "aa")
    assert old == ["2 zero", "3 zero"]
    assert new == ["8 two 3 Input/output error", "9 two 3 Input/output error"]
    assert after == ["6 zero", "7 zero"]


def test_page_cross_an_entry_on_two_pages_is_refused(tmp_path):
    """The jump could be torn by the death of the patcher between two pages. One byte further it
    fits."""
    source = r"""
#include <stdio.h>
__attribute__((noinline, section("crossing_text"))) int crossing(int x)
{
	return x * x * x + 5;
}
void say(char question)
{
	printf("%d\n", crossing(question));
}
"""
    for place, fits in (("0x40ffd", False), ("0x40ffb", True)):
        program = Program(tmp_path / place, source, ("-O2", "-fPIE", "-falign-functions=1"),
                          ("-pie", f"-Wl,--section-start=crossing_text={place}"))
        patch = program.patch("cross", {"+ 5": "+ 7"}, expect=0 if fits else REFUSED)
        if not fits:
            assert f"its entry ({place}) lies across two pages" in patch.text
            continue
        with program.start() as p:
            assert p.ask("\x02") == "13"
            p.apply(patch)
            assert p.ask("\x02") == "15"
            p.revert("cross")
            assert p.ask("\x02") == "13"


IFUNC = r"""
#include <stdio.h>
#include <string.h>
static int fast(void)
{
	return 77;
}
static int (*resolve(void))(void)
{
	return fast;
}
int chosen(void) __attribute__((ifunc("resolve")));
__attribute__((noinline)) void answer(const char *s)
{
	printf("%zu\n", strlen(s));
}
void say(char question)
{
	if (question == 'c')
		printf("%d\n", chosen());
	answer("four");
}
"""


def test_ifunc_new_calls_of_indirect_functions_of_libc(tmp_path):
    old, new, after = flip(Program(tmp_path, IFUNC, *PIE), {
        'printf("%zu\\n", strlen(s));':
        'const char *end = strrchr(s, \'u\');\n\tchar copy[32];\n\tmemcpy(copy, s, strlen(s) + 1);\n'
        '\tprintf("%zu %s %d\\n", strlen(s) + 1, end, strcmp(copy, s));'})
    assert old == after == ["4"] and new == ["5 ur 0"]


def test_ifunc_new_calls_of_an_indirect_function_of_the_program(tmp_path):
    old, new, after = flip(Program(tmp_path, IFUNC, *PIE), {
        'printf("%zu\\n", strlen(s));':
        'printf("%zu %d\\n", strlen(s), chosen());'})
    assert old == after == ["4"] and new == ["4 77"]


def test_many_args_arrive(tmp_path):
    source = r"""
#include <stdio.h>
struct pair { double a; long b; };
__attribute__((noinline)) double many(int a, long b, char c, double d, float e, struct pair p,
				      int f, int g, int h, long i, double j, double k, int l)
{
	return a + b + c + d + e + p.a + p.b + f + g + h + i + j + k + l;
}
void say(char question)
{
	struct pair p = { 0.5, 16 };
	printf("%.2f\n", many(1, 2, 3, 4.25, 5.5f, p, 6, 7, 8, 9, 10.125, 11, 12));
}
"""
    old, new, after = flip(Program(tmp_path, source, *PIE), {"return a + b": "return 1000 + a + b"})
    assert float(new[0]) == float(old[0]) + 1000 and after == old


@pytest.mark.parametrize("mode", [PIE, NOPIE, PIC], ids=["pie", "nopie", "pic"])
def test_tls_exe_thread_locals_stay_the_thread_s(tmp_path, mode):
    source = r"""
#include <errno.h>
#include <stdio.h>
static __thread int mine = 5;
__thread long yours = 7;
__attribute__((noinline)) void answer(void)
{
	printf("%d %ld\n", mine++, yours);
}
void say(char question)
{
	answer();
}
"""
    old, new, after = flip(Program(tmp_path, source, *mode), {'printf("%d %ld\\n", mine++, yours);':
                                       'yours += 10;\n\tprintf("new %d %ld\\n", mine++, yours);'})
    assert old == ["5 7"] and new == ["new 6 17"] and after == ["7 17"]


def test_far_from_4g_no_room_near_the_program_is_refused(tmp_path):
    """The program reserves every hole within reach of itself."""
    source = r"""
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
extern char __executable_start;
__attribute__((noinline)) int value(void)
{
	__asm__ volatile("nop; nop; nop; nop");
	return 1;
}
void prepare(void)
{
	uintptr_t here = (uintptr_t)&__executable_start & ~0xfffUL;
	for (uintptr_t size = 1UL << 30; size >= 4096; size /= 2)
		for (uintptr_t at = here - (3UL << 30); at < here + (3UL << 30); at += size)
			mmap((void *)at, size, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
}
void say(char question)
{
	printf("%d\n", value());
}
"""
    program = Program(tmp_path, source)
    patch = program.patch("far", {"return 1;": "return 2;"})
    with program.start() as p:
        assert p.ask() == "1"
        before = p.snapshot()
        assert "no free address range" in refusal(p.apply(patch, expect=REFUSED))
        assert p.snapshot() == before
        assert p.ask() == "1"


def test_only_the_main_thread_polls_and_others_compute(tmp_path):
    """Threads that never block are stopped too; the patch holds for all of them."""
    source = r"""
#include <pthread.h>
#include <stdio.h>
static volatile long sums[4];
__attribute__((noinline)) long step(long x)
{
	__asm__ volatile("nop; nop; nop; nop");
	return 1;
}
static void *work(void *arg)
{
	volatile long *sum = arg;
	for (;;)
		*sum = step(*sum);
	return arg;
}
void prepare(void)
{
	for (int i = 0; i < 4; i++) {
		pthread_t thread;
		pthread_create(&thread, NULL, work, (void *)&sums[i]);
	}
}
void say(char question)
{
	for (volatile int i = 0; i < 100000000; i++)
		;
	printf("%ld %ld %ld %ld\n", sums[0], sums[1], sums[2], sums[3]);
}
"""
    old, new, after = flip(Program(tmp_path, source, *PIE), {"\treturn 1;": "\treturn 2;"})
    assert old == after == ["1 1 1 1"] and new == ["2 2 2 2"]

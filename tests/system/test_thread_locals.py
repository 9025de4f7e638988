# SPDX-License-Identifier: GPL-2.0-or-later
"""Thread-locals of a shared library, by each way in which code finds them; two threads have two."""
import os

import pytest

from harness import care, unpacked, versions
from patches import diff_of
from programs import Library, Program

REFUSED = 5

LIBRARY = r"""
__thread long exported = 10;
static __thread long first = 100, second = 200;
static __thread long rest[64];
__thread long early __attribute__((tls_model("initial-exec"))) = 1000;

/* General dynamic, local dynamic, initial exec. */
__attribute__((noinline)) long by_name(long x)
{
	exported += x;
	return exported;
}

__attribute__((noinline)) long by_module(long x)
{
	first += x;
	second += 2 * x;
	rest[x & 63]++;
	return first * 1000 + second;
}

__attribute__((noinline)) long by_offset(long x)
{
	early += x;
	return early;
}

/* Stays as it is: sees what the new code wrote. */
__attribute__((noinline)) long all(void)
{
	return exported + first + second + early;
}
"""

PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>

extern __thread long exported;
long by_name(long), by_module(long), by_offset(long), all(void);

/* A library's thread-local in the program. */
__attribute__((noinline)) static long of_program(long x)
{
	return exported * 2 + x;
}

static void *ask(void *arg)
{
	long name = by_name(1), module = by_module(1), offset = by_offset(1);

	printf("%ld %ld %ld %ld %ld ", name, module, offset, all(), of_program(0));
	return arg;
}

void say(char question)
{
	pthread_t thread;

	ask(NULL);
	pthread_create(&thread, NULL, ask, NULL);
	pthread_join(thread, NULL);
	puts("");
}
"""

# What a thread that never asked before is told.
FRESH = "11 101202 1001 1315 22"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")

    class Folder:
        env = {"CARE_BUILD_CACHE": str(folder / "cache")}

    Folder.folder = str(folder)
    library = Library(Folder, LIBRARY, "lib.c")
    program = Program(folder, PROGRAM, ("-O2", "-fPIC"),
                      ("-pie", "-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed", "-L.",
                       "-l:libcase.so"))
    return program, library


def test_new_code_of_a_library_finds_its_thread_locals_by_each_model(made):
    program, library = made
    patch = library.patch("models", {"exported += x;": "exported += 5 * x;",
                                     "first += x;\n\tsecond += 2 * x;":
                                     "first += 3 * x;\n\tsecond += 4 * x;",
                                     "early += x;": "early += 7 * x;"})
    with program.start() as p:
        assert p.ask() == f"{FRESH} {FRESH} "
        before = p.snapshot()
        p.apply(patch)
        # The main thread goes on from what its old code left; a new one begins afresh.
        assert p.ask() == "16 104206 1008 1334 32 15 103204 1007 1329 30 "
        p.revert("models")
        assert p.ask() == f"17 105208 1009 1339 34 {FRESH} "
        assert p.released() and p.snapshot() == before


def test_new_code_of_a_program_finds_a_library_s_thread_local(made):
    program, _ = made
    patch = program.patch("foreign", {"exported * 2 + x": "exported * 3 + x + 1"})
    with program.start() as p:
        assert p.ask() == f"{FRESH} {FRESH} "
        p.apply(patch)
        assert p.ask().split()[4::5] == ["37", "34"]
        p.revert("foreign")
        assert p.ask().split()[4::5] == ["26", "22"]


def test_a_thread_local_that_the_library_finds_in_no_such_way_is_refused(made):
    _, library = made
    refused = library.patch("other-way", {
        "__thread long exported = 10;":
        "__thread long exported = 10;\nextern __thread long exported_early "
        "__asm__(\"exported\") __attribute__((tls_model(\"initial-exec\")));",
        "return exported;": "return exported_early;"}, expect=REFUSED)
    assert "thread-local exported by its offset (initial-exec)" in refused.text


def test_a_new_thread_local_of_a_library_is_refused(made):
    _, library = made
    refused = library.patch("fresh", {
        "__thread long exported = 10;": "__thread long exported = 10;\nstatic __thread long fresh;",
        "return exported;": "return exported + fresh++;"}, expect=REFUSED)
    assert "adds the thread-local variable fresh" in refused.text


# ---- a plugin of the server: MyRocks counts for each thread what that thread wants counted

LEVEL = "storage/rocksdb/rocksdb/monitoring/perf_level.cc"
COUNTED = """SELECT VALUE FROM information_schema.ROCKSDB_PERF_CONTEXT_GLOBAL
             WHERE STAT_TYPE = 'USER_KEY_COMPARISON_COUNT'"""


@pytest.fixture
def rocks(target, new_server, tmp_path):
    """(server with MyRocks and a table, its plugin's path)."""
    package = unpacked("mariadb-plugin-rocksdb", versions()["MARIADB_VERSION"])
    plugin = os.path.join(package, "usr/lib/mysql/plugin/ha_rocksdb.so")
    os.symlink(plugin, tmp_path / "ha_rocksdb.so")
    server = new_server(options=[f"--plugin-dir={tmp_path}"])
    server.sql("INSTALL SONAME 'ha_rocksdb'")
    server.sql("CREATE TABLE rocks (id INT PRIMARY KEY) ENGINE=RocksDB")
    server.sql("INSERT INTO rocks SELECT seq FROM seq_1_to_200")
    return server, plugin


def test_a_thread_local_of_a_storage_engine_is_used_by_its_new_code(target, rocks, tmp_path):
    server, plugin = rocks
    patch = target.patch(diff_of(target, tmp_path, LEVEL, "  perf_level = level;\n",
                                 "  perf_level = level == kEnableTime ? kDisable : level;\n"),
                         "perf-level", "--image", plugin)

    def counts(level):
        """Whether a connection with that level counts."""
        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"SET SESSION rocksdb_perf_context_level={level}")
            before = server.value(COUNTED)
            cursor.execute("SELECT COUNT(*) FROM rocks WHERE id > 17")
            return server.value(COUNTED) > before

    assert (counts(1), counts(2), counts(5)) == (False, True, True)
    before = server.snapshot()
    care("dbcarectl", "apply", patch, server.pid)
    assert (counts(1), counts(2), counts(5)) == (False, True, False)
    care("dbcarectl", "revert", "perf-level", server.pid)
    assert (counts(1), counts(2), counts(5)) == (False, True, True)
    care("care-patch", "recover", "--pid", server.pid, expect=(0, 2))
    assert server.snapshot() == before

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where a server listens, and how many clients it has, from the kernel's socket tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "dbcare/proc.h"
#include "dbcare/sockets.h"
#include "engine/cleanup.h"

static const char local[] =
	"Num       RefCount Protocol Flags    Type St Inode Path\n"
	"000000002d78e6af: 00000002 00000000 00010000 0001 01 42608 /run/my sql/a b.sock\n"
	"0000000033d4de38: 00000003 00000000 00000000 0001 03  1057\n"
	"000000001e67d858: 00000003 00000000 00000000 0001 03 1056 /run/my sql/a b.sock\n"
	"000000001e67d859: 00000003 00000000 00000000 0001 03 1055 /run/my sql/a b.sock\n"
	"000000001e67d85a: 00000003 00000000 00000000 0001 03 999 /run/my sql/a b.sock\n"
	"000000001e67d85b: 00000002 00000000 00010000 0001 01 5000 /run/other.sock\n"
	"000000001e67d85c: 00000002 00000000 00010000 0002 01 5001 /run/datagram\n"
	"garbage\n"
	"000000001e67d85d: 00000002 00000000 00010000 0001 01 5002 @abstract";

static unsigned long numbers[] = { 1055, 1056, 5000, 5001, 42608 };
static const struct dbc_inodes inodes = { numbers, 5 };

static void the_listening_socket_is_the_one_whose_inode_is_open(void **state)
{
	pe_auto_free char *path = dbc_unix_listener(local, &inodes, NULL);

	assert_string_equal(path, "/run/my sql/a b.sock");
}

static void the_configured_socket_wins_when_there_are_several(void **state)
{
	pe_auto_free char *path = dbc_unix_listener(local, &inodes, "/run/other.sock");
	pe_auto_free char *moved = dbc_unix_listener(local, &inodes, "/run/nowhere.sock");

	assert_string_equal(path, "/run/other.sock");
	assert_string_equal(moved, "/run/my sql/a b.sock");
}

static void a_process_without_listening_socket_has_none(void **state)
{
	static const struct dbc_inodes none = { 0 };
	unsigned long last = 5002;
	const struct dbc_inodes abstract = { &last, 1 };

	assert_null(dbc_unix_listener(local, &none, "/run/other.sock"));
	assert_null(dbc_unix_listener("", &inodes, NULL));
	pe_auto_free char *path = dbc_unix_listener(local, &abstract, NULL);
	assert_string_equal(path, "@abstract");
}

static void only_our_connected_sockets_of_that_path_are_clients(void **state)
{
	assert_int_equal(dbc_unix_connected(local, &inodes, "/run/my sql/a b.sock"), 2);
	assert_int_equal(dbc_unix_connected(local, &inodes, "/run/other.sock"), 0);
}

static void tcp_clients_are_those_that_came_in_at_a_listening_port(void **state)
{
	static const char tcp[] =
		"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   "
		"uid  timeout inode\n"
		"   0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000   "
		"104        0 5000 1 0000000000000000 100 0 0 10 0\n"
		"   1: 0100007F:0CEA 0100007F:D431 01 00000000:00000000 00:00000000 00000000   "
		"104        0 1055 1 0000000000000000 20 4 30 10 -1\n"
		"   2: 0100007F:C001 0100007F:0050 01 00000000:00000000 00:00000000 00000000   "
		"104        0 1056 1 0000000000000000 20 4 30 10 -1\n"
		"   3: 0100007F:0CEA 0100007F:D432 01 00000000:00000000 00:00000000 00000000   "
		"104        0 77 1 0000000000000000 20 4 30 10 -1\n"
		"   4: 0100007F:0CEA 0100007F:D433 06 00000000:00000000 00:00000000 00000000   "
		"104        0 42608 1 0000000000000000 20 4 30 10 -1\n";

	assert_int_equal(dbc_tcp_connected(tcp, &inodes), 1);
	assert_int_equal(dbc_tcp_connected("", &inodes), 0);
}

static void options_of_a_command_line_come_with_and_without_equals_sign(void **state)
{
	static const char line[] = "mariadbd\0--socketx=/no\0--socket=/run/a\0--pid-file\0/b\0--x";
	size_t size = sizeof(line);
	pe_auto_free char *socket = dbc_cmdline_option(line, size, "socket");
	pe_auto_free char *pid_file = dbc_cmdline_option(line, size, "pid-file");

	assert_string_equal(socket, "/run/a");
	assert_string_equal(pid_file, "/b");
	assert_null(dbc_cmdline_option(line, size, "x"));
	assert_null(dbc_cmdline_option(line, size, "user"));
}

static void the_innermost_pid_is_the_last_of_nspid(void **state)
{
	assert_int_equal(dbc_status_nspid("Name:\tx\nNSpid:\t100\t7\t1\nNSpgid:\t5\n"), 1);
	assert_int_equal(dbc_status_nspid("Name:\tx\nNSpid:\t100\n"), 100);
	assert_int_equal(dbc_status_nspid("Name:\tx\n"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_listening_socket_is_the_one_whose_inode_is_open),
		cmocka_unit_test(the_configured_socket_wins_when_there_are_several),
		cmocka_unit_test(a_process_without_listening_socket_has_none),
		cmocka_unit_test(only_our_connected_sockets_of_that_path_are_clients),
		cmocka_unit_test(tcp_clients_are_those_that_came_in_at_a_listening_port),
		cmocka_unit_test(options_of_a_command_line_come_with_and_without_equals_sign),
		cmocka_unit_test(the_innermost_pid_is_the_last_of_nspid),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Containers: their ids in the cgroups that runtimes make, and what their option files may say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dbcare/container.h"
#include "dbcare/options.h"
#include "engine/cleanup.h"

#define HEX "3f2a91b0c4d5e6f7a8b9c0d1e2f3a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5"

static void expect_id(const char *cgroup, const char *id)
{
	pe_auto_free char *found = dbc_container_id(cgroup);

	if (id)
		assert_string_equal(found, id);
	else
		assert_null(found);
}

static void every_runtime_names_the_group_after_the_container(void **state)
{
	expect_id("0::/docker/" HEX "\n", HEX);
	expect_id("0::/system.slice/docker-" HEX ".scope\n", HEX);
	expect_id("0::/machine.slice/libpod-" HEX ".scope/container\n", HEX);
	expect_id("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_cd.slice/"
		  "cri-containerd-" HEX ".scope\n",
		  HEX);
	expect_id("0::/kubepods/besteffort/podab-cd/" HEX "\n", HEX);
	expect_id("0::/lxc.payload.web1\n", "web1");
	expect_id("0::/node1\n", "node1");
}

static void the_first_hierarchy_that_names_one_counts(void **state)
{
	expect_id("9:name=systemd:/node1\n4:memory:/outer/node1\n0::/\n", "node1");
	expect_id("9:name=systemd:/\n4:memory:/node1\n", "node1");
	expect_id("1:cpu,cpuacct:/docker/" HEX "\n0::/\n", HEX);
}

static void a_systemd_service_inside_a_container_is_not_its_name(void **state)
{
	expect_id("0::/docker/" HEX "/system.slice/mariadb.service\n", HEX);
	expect_id("0::/lxc.payload.web1/system.slice/mariadb.service\n", "web1");
}

static void groups_of_the_host_name_no_container(void **state)
{
	expect_id("0::/system.slice/mariadb.service\n", NULL);
	expect_id("0::/\n", NULL);
	expect_id("0::/user.slice/user-0.slice/session-3.scope\n", NULL);
	expect_id("", NULL);
	expect_id("nonsense\n::\n:\n", NULL);
}

static void we_are_in_no_container_of_our_own(void **state)
{
	assert_false(dbc_is_contained(getpid()));
}

/* ---- option files ---- */

static char root[] = "/tmp/dbcare-root-XXXXXX";

static void put(const char *name, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", root, name);

	FILE *out = fopen(path, "w");

	assert_non_null(out);
	fputs(text, out);
	fclose(out);
	chmod(path, 0644);
}

static void of_a_container_only_user_and_password_are_believed(void **state)
{
	struct dbc_option_files files;
	char text[512] = "";

	put("etc/my.cnf", "[client]\nuser=root\nplugin-dir=/evil\ndefault-auth=evil\n"
			  "password = secret\npassword-file=x\nusers=y\n"
			  "!includedir /etc/my.cnf.d\n[mysqld]\nuser\n");
	put("etc/my.cnf.d/a.cnf", "[dbcarectl]\nuser = dbcare\nssl-key=/evil\n");
	assert_null(dbc_option_files_below(root, &files));
	assert_true(pread(files.fd, text, sizeof(text) - 1, 0) >= 0);
	assert_string_equal(text, "[client]\nuser=root\npassword = secret\n"
				  "[dbcarectl]\nuser = dbcare\n[mysqld]\nuser\n");
	dbc_option_files_deinit(&files);
}

static void a_link_in_a_container_leads_to_its_own_files(void **state)
{
	struct dbc_option_files files;
	char link[128], text[512] = "";

	put("etc/real.cnf", "[client]\nuser=inside\n");
	snprintf(link, sizeof(link), "%s/etc/my.cnf", root);
	unlink(link);
	assert_int_equal(symlink("/../../../etc/real.cnf", link), 0);
	assert_null(dbc_option_files_below(root, &files));
	assert_true(pread(files.fd, text, sizeof(text) - 1, 0) >= 0);
	assert_string_equal(text, "[client]\nuser=inside\n");
	dbc_option_files_deinit(&files);
}

static int make_root(void **state)
{
	char path[128];

	if (!mkdtemp(root))
		return -1;
	snprintf(path, sizeof(path), "%s/etc", root);
	mkdir(path, 0755);
	snprintf(path, sizeof(path), "%s/etc/my.cnf.d", root);
	return mkdir(path, 0755);
}

static int remove_root(void **state)
{
	static const char *const names[] = { "etc/my.cnf.d/a.cnf", "etc/my.cnf.d", "etc/my.cnf",
					     "etc/real.cnf",	   "etc",	   "" };

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		char path[128];

		snprintf(path, sizeof(path), "%s/%s", root, names[i]);
		if (remove(path) != 0)
			return -1;
	}
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_runtime_names_the_group_after_the_container),
		cmocka_unit_test(the_first_hierarchy_that_names_one_counts),
		cmocka_unit_test(a_systemd_service_inside_a_container_is_not_its_name),
		cmocka_unit_test(groups_of_the_host_name_no_container),
		cmocka_unit_test(we_are_in_no_container_of_our_own),
		cmocka_unit_test(of_a_container_only_user_and_password_are_believed),
		cmocka_unit_test(a_link_in_a_container_leads_to_its_own_files),
	};

	return cmocka_run_group_tests(tests, make_root, remove_root);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Containers as they are seen from the host: which one a process is in. */
#ifndef DBCARE_CONTAINER_H
#define DBCARE_CONTAINER_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Whether the process lives in a container: a pid namespace that is not ours, or a root directory
 * of its own. (A mount namespace alone is what systemd gives an ordinary service.)
 */
bool dbc_is_contained(pid_t pid);

/*
 * The container's id as its runtime knows it, from @cgroup, the content of /proc/PID/cgroup; owned
 * by the caller; NULL when no path there names a container.
 */
char *dbc_container_id(const char *cgroup);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small reads from /proc that several parts need. */
#ifndef DBCARE_PROC_H
#define DBCARE_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "engine/error.h"

/* The whole of /proc/@pid/@name, zero-terminated; NULL with errno on failure. */
char *dbc_proc_read(pid_t pid, const char *name, size_t *size);
/* What the link /proc/@pid/@name says; NULL with errno on failure. */
char *dbc_proc_link(pid_t pid, const char *name);
/* The value of "--NAME=VALUE" or "--NAME VALUE" in a command line of zero-terminated words. */
char *dbc_cmdline_option(const char *cmdline, size_t size, const char *name);
/* The last number of the NSpid line of a status file: the id in the innermost namespace; 0: none.
 */
pid_t dbc_status_nspid(const char *status);
/* Whether @tid is a thread of process @pid, both as we number them; also where /proc hides it. */
bool dbc_is_thread_of(pid_t tid, pid_t pid);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Option files as MariaDB's clients read them, but none that anybody may write.
 *
 * Connector/C reads a world-writable option file without complaint, and an option file can name
 * the account, the server and a plugin to load. So the files are read here, checked on the open
 * descriptor (nobody can swap them in between), joined with what they include, and handed to
 * Connector/C as one file in memory.
 */
#ifndef DBCARE_OPTIONS_H
#define DBCARE_OPTIONS_H

#include "engine/error.h"

struct dbc_option_files {
	int fd;	     /* the joined file; -1: nothing to read */
	char *notes; /* files that were left out and why, one line each; NULL: none */
};

/*
 * @file NULL: the usual places (/etc/my.cnf, /etc/mysql/my.cnf, $MYSQL_HOME, ~/.my.cnf), missing
 * and unsafe ones left out. Otherwise that file alone; PERMISSION when it is unsafe.
 */
struct pe_error *dbc_option_files_read(const char *file,
				       struct dbc_option_files *ret) pe_must_check;
/*
 * The usual places of root below the directory @root, such as a container's: what they say about
 * user and password, and nothing else.
 */
struct pe_error *dbc_option_files_below(const char *root,
					struct dbc_option_files *ret) pe_must_check;
void dbc_option_files_deinit(struct dbc_option_files *files);

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The two ways of sql.h: a connection of our own process, and one that a helper inside the
 * server's container holds for us.
 */
#ifndef DBCARE_SQL_PRIVATE_H
#define DBCARE_SQL_PRIVATE_H

#include "dbcare/options.h"
#include "dbcare/sql.h"

/* A connection of this process, through the client library. */
struct dbc_direct;

/*
 * Connects to the socket at @path. Says nothing about who answers: *peer is who the kernel says it
 * is, as this process numbers processes.
 */
struct pe_error *dbc_direct_open(const struct dbc_server *server, const char *path,
				 const struct dbc_login *login,
				 const struct dbc_option_files *files, struct dbc_direct **ret,
				 pid_t *peer) pe_must_check;
void dbc_direct_close(struct dbc_direct *direct);
unsigned long dbc_direct_id(const struct dbc_direct *direct);
struct pe_error *dbc_direct_query(struct dbc_direct *direct, const char *query,
				  struct dbc_rows *ret, unsigned int *number) pe_must_check;

/* A process that has entered the server's container and given up what it does not need. */
struct dbc_helper;

/* The same through a helper; @socket is the server's, opened with O_PATH. */
struct pe_error *dbc_helper_open(const struct dbc_server *server, int socket,
				 const struct dbc_login *login,
				 const struct dbc_option_files *files, struct dbc_helper **ret,
				 pid_t *peer) pe_must_check;
void dbc_helper_close(struct dbc_helper *helper);
unsigned long dbc_helper_id(const struct dbc_helper *helper);
struct pe_error *dbc_helper_query(struct dbc_helper *helper, const char *query,
				  struct dbc_rows *ret, unsigned int *number) pe_must_check;

#endif

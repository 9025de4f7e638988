/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Galera clusters: what a node says about its cluster, and the rule that of one cluster only one
 * node is worked on at a time, the next only when the cluster is whole again.
 */
#ifndef DBCARE_CLUSTER_H
#define DBCARE_CLUSTER_H

#include "dbcare/operation.h"

struct dbc_node {
	bool member;	  /* of a Galera cluster; nothing below counts otherwise */
	char cluster[64]; /* uuid of the cluster's state: the same at all its nodes */
	char name[128];	  /* as the node calls itself */
	char state[64];	  /* "Synced", "Donor/Desynced", ... */
	bool primary;	  /* its component has the quorum */
	bool synced;
	unsigned int size; /* nodes in its component, itself included */
};

/* Asks a server whether it is a node, and of what. HELD when it does not tell. */
struct pe_error *dbc_node_ask(struct dbc_sql *sql, struct dbc_node *ret) pe_must_check;

/*
 * Waits until the server of @session is Synced in a Primary component of at least @size nodes, at
 * most @timeout_s seconds. HELD with what is missing.
 */
struct pe_error *dbc_node_wait(struct dbc_session *session, unsigned int size,
			       unsigned int timeout_s,
			       const struct dbc_options *options) pe_must_check;

/*
 * Takes the right to work on a node of this cluster, on this host; given back when *@lock_fd is
 * closed. HELD when somebody else has it.
 */
struct pe_error *dbc_cluster_lock(const struct dbc_node *node, int *lock_fd) pe_must_check;

#endif

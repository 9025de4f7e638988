/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The parts of care-patcher. */
#ifndef AGENT_PATCHER_H
#define AGENT_PATCHER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/error.h"

/*
 * Answers one request. The agent that sent it is taken for hostile: see requests.c. @fd is what
 * came with it or -1, owned by the caller; *answer_fd (-1: none) goes with the answer. Never fails:
 * errors are answers.
 */
json_t *patcher_answer(const json_t *request, int fd, int *answer_fd);

/*
 * Whether somebody whom this host trusts has signed these bytes: a key in the keys directory.
 * @signature is the text of the detached signature. POLICY says what is wrong. *signer: which key,
 * owned by the caller.
 */
struct pe_error *patcher_trust(const void *bytes, size_t size, const char *signature,
			       char **signer) pe_must_check;

/*
 * Whether we may suspend the seccomp filter of another process, which care-patcher gives up unless
 * it is told to keep it. PERMISSION says what stands against it and what is to be changed.
 */
struct pe_error *patcher_may_suspend_filters(void) pe_must_check;
/*
 * Gives up all rights but those to look into and to change other processes, for good.
 * @suspend_filters: and to suspend their seccomp filters.
 */
struct pe_error *patcher_drop_rights(bool suspend_filters) pe_must_check;
/* Allows only the system calls that the work needs; the rest fails with EPERM. */
struct pe_error *patcher_filter_syscalls(void) pe_must_check;

#endif

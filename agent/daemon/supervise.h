/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef AGENT_SUPERVISE_H
#define AGENT_SUPERVISE_H

#include "engine/error.h"

/*
 * The agent without systemd: makes the sockets, starts care-patcher, care-watch and care-agent
 * (each with its socket as descriptor 3, as systemd would) and starts again whichever ends, until
 * SIGTERM or SIGINT. Needs root. @folder: where the programs are. @sandboxed_targets: care-patcher
 * gets the option of that name.
 */
struct pe_error *agent_supervise(const char *folder, bool sandboxed_targets) pe_must_check;

#endif

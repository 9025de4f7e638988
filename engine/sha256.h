/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SHA-256 of what lies in several pieces. */
#ifndef SHA256_H
#define SHA256_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "engine/patch.h"

/* Of the @count pieces, one behind the other. */
void sha256_pieces(const struct iovec *pieces, size_t count, uint8_t out[PE_SHA256_SIZE]);

#endif

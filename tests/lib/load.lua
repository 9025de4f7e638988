-- SPDX-License-Identifier: GPL-2.0-or-later
-- One of sysbench's own scripts, ended by a file: sysbench itself knows only a time that is fixed
-- when it starts, and prints its counts only when it ends in order.
dofile("/usr/share/sysbench/" .. os.getenv("LOAD_SCRIPT") .. ".lua")

local ffi = require("ffi")
ffi.cdef("int access(const char *path, int mode);")

local transaction = event
local stop = os.getenv("LOAD_STOP")

-- sysbench ends a thread whose event returns true.
function event(id)
   transaction(id)
   return ffi.C.access(stop, 0) == 0
end

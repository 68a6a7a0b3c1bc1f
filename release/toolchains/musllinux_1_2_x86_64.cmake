# SPDX-License-Identifier: Apache-2.0
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR x86_64)
set(ZIG_TARGET x86_64-linux-musl)
# Zig asks for musl under a name that its loader knows too, but auditwheel for Alpine's.
set(PLIANT_RENAME_LIBC libc.so libc.musl-x86_64.so.1)
# Debian: musl, whose loader starts the program by itself
set(CMAKE_CROSSCOMPILING_EMULATOR /lib/ld-musl-x86_64.so.1)
include(${CMAKE_CURRENT_LIST_DIR}/zig.cmake)

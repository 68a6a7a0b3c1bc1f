# SPDX-License-Identifier: Apache-2.0
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(ZIG_TARGET aarch64-linux-musl)
# Zig asks for musl under a name that its loader knows too, but auditwheel for Alpine's.
set(PLIANT_RENAME_LIBC libc.so libc.musl-aarch64.so.1)
# Debian: qemu-user, and musl:arm64, whose loader stands beside the machine's own
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64)
include(${CMAKE_CURRENT_LIST_DIR}/zig.cmake)

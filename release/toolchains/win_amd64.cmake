# SPDX-License-Identifier: Apache-2.0
set(CMAKE_SYSTEM_NAME Windows)
set(CMAKE_SYSTEM_PROCESSOR AMD64)
set(ZIG_TARGET x86_64-windows-gnu)
# Debian: wine and wine64
set(CMAKE_CROSSCOMPILING_EMULATOR env WINEDEBUG=-all wine)
include(${CMAKE_CURRENT_LIST_DIR}/zig.cmake)

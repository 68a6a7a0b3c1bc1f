# SPDX-License-Identifier: Apache-2.0
# Shared by the files beside it: Zig's C++ compiler, which is Clang with the headers and libraries of every platform.
# ZIG, in the environment, is the program.
set(CMAKE_CXX_COMPILER $ENV{ZIG} c++)
set(CMAKE_CXX_COMPILER_TARGET ${ZIG_TARGET})
# CMake's own trials would link a program, for which Zig compiles all of libc++, which the library does not need.
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
# No names but the exported ones.
set(CMAKE_SHARED_LINKER_FLAGS_INIT -s)

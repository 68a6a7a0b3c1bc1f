// SPDX-License-Identifier: Apache-2.0
// Which copy of the kernels this processor runs.
#pragma once

namespace pliant {

enum class InstructionSet { baseline, avx2, avx512 };

InstructionSet instruction_set();

}  // namespace pliant

// SPDX-License-Identifier: Apache-2.0
#include "instruction_set.h"

#include <atomic>
#include <cstring>

#include "abi.h"

namespace pliant {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

bool can_run(InstructionSet set) {
  switch (set) {
#if defined(PLIANT_HAS_avx512)
    case InstructionSet::avx512:
      return can_run(InstructionSet::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#endif
#if defined(PLIANT_HAS_avx2)
    case InstructionSet::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#endif
    default:
      return set == InstructionSet::baseline;
  }
}

InstructionSet best() {
  if (can_run(InstructionSet::avx512)) return InstructionSet::avx512;
  if (can_run(InstructionSet::avx2)) return InstructionSet::avx2;
  return InstructionSet::baseline;
}

std::atomic<InstructionSet>& chosen() {
  static std::atomic<InstructionSet> set{best()};
  return set;
}

}  // namespace

InstructionSet instruction_set() { return chosen(); }

}  // namespace pliant

const char* pliant_instruction_set() { return pliant::kNames[static_cast<int>(pliant::instruction_set())]; }

int pliant_use_instruction_set(const char* name) {
  for (int i = 0; i < 3; ++i) {
    const auto set = static_cast<pliant::InstructionSet>(i);
    if (std::strcmp(name, pliant::kNames[i]) == 0 && pliant::can_run(set)) {
      pliant::chosen() = set;
      return 0;
    }
  }
  return -1;
}

int64_t pliant_abi_version() { return PLIANT_ABI_VERSION; }

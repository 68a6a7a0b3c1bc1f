// SPDX-License-Identifier: Apache-2.0
// Which copies of the kernels this processor can run.
#include <cstring>

#include "abi.h"

namespace pliant {

namespace baseline {
extern const pliant_kernels kernels;
}
#if defined(PLIANT_HAS_avx2)
namespace avx2 {
extern const pliant_kernels kernels;
}
#endif
#if defined(PLIANT_HAS_avx512)
namespace avx512 {
extern const pliant_kernels kernels;
}
#endif

namespace {

#if defined(PLIANT_HAS_avx2)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("f16c");
}
#endif
#if defined(PLIANT_HAS_avx512)
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif

bool meant(const pliant_kernels& kernels, const char* name) {
  return name == nullptr || std::strcmp(name, kernels.instruction_set) == 0;
}

}  // namespace
}  // namespace pliant

// From the best to the one that runs everywhere.
const pliant_kernels* pliant_kernels_for(const char* name) {
  using namespace pliant;
#if defined(PLIANT_HAS_avx512)
  if (meant(avx512::kernels, name) && has_avx512()) return &avx512::kernels;
#endif
#if defined(PLIANT_HAS_avx2)
  if (meant(avx2::kernels, name) && has_avx2()) return &avx2::kernels;
#endif
  return meant(baseline::kernels, name) ? &baseline::kernels : nullptr;
}

int64_t pliant_abi_version() { return PLIANT_ABI_VERSION; }

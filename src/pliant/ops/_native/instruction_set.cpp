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

// From the best to the one that runs everywhere, null after it.
const pliant_kernels* const* runnable() {
  static const pliant_kernels* found[4] = {};
  int count = 0;
#if defined(PLIANT_HAS_avx2)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("f16c");
#if defined(PLIANT_HAS_avx512)
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    found[count++] = &avx512::kernels;
#endif
  if (avx2) found[count++] = &avx2::kernels;
#endif
  found[count] = &baseline::kernels;
  return found;
}

}  // namespace
}  // namespace pliant

const pliant_kernels* pliant_kernels_for(const char* name) {
  static const pliant_kernels* const* const all = pliant::runnable();
  for (auto kernels = all; *kernels; ++kernels)
    if (name == nullptr || std::strcmp(name, (*kernels)->instruction_set) == 0) return *kernels;
  return nullptr;
}

int64_t pliant_abi_version() { return PLIANT_ABI_VERSION; }

// SPDX-License-Identifier: Apache-2.0
// Which copies of the kernels this processor can run.
#include <cstring>

#include "abi.h"

#if defined(PLIANT_HAS_avx2)
#include <cpuid.h>
#endif

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
// Bits of CPUID's leaves 1 (ecx) and 7 (ebx), and of XCR0: which registers the system keeps for each thread.
struct Needs {
  unsigned leaf1, leaf7, registers;
};

constexpr Needs kAvx2{unsigned(bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C), unsigned(bit_AVX2 | bit_BMI2), 0x06};
constexpr Needs kAvx512{
    kAvx2.leaf1,
    kAvx2.leaf7 | unsigned(bit_AVX512F) | unsigned(bit_AVX512BW) | unsigned(bit_AVX512DQ) | unsigned(bit_AVX512VL),
    0xe6};

// The processor itself is asked: __builtin_cpu_supports reads a table of the compiler's runtime, and that of Zig, which
// compiles the wheels, is empty.
bool runs(const Needs& needs) {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & needs.leaf1) != needs.leaf1) return false;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (ebx & needs.leaf7) != needs.leaf7) return false;
  __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return (eax & needs.registers) == needs.registers;
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
  if (meant(avx512::kernels, name) && runs(kAvx512)) return &avx512::kernels;
#endif
#if defined(PLIANT_HAS_avx2)
  if (meant(avx2::kernels, name) && runs(kAvx2)) return &avx2::kernels;
#endif
  return meant(baseline::kernels, name) ? &baseline::kernels : nullptr;
}

int64_t pliant_abi_version() { return PLIANT_ABI_VERSION; }

// SPDX-License-Identifier: Apache-2.0
// What each instruction set's copy of cpu_kernels.cpp offers to cpu_native.cpp.
#pragma once

#include "../_native/abi.h"

namespace pliant {

struct PoolingKernels {
  decltype(&pliant_pool) pool;
  decltype(&pliant_pool_backward) pool_backward;
};

namespace baseline {
extern const PoolingKernels pooling_kernels;
}
namespace avx2 {
extern const PoolingKernels pooling_kernels;
}
namespace avx512 {
extern const PoolingKernels pooling_kernels;
}

}  // namespace pliant

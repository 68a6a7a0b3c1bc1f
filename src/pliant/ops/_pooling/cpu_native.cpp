// SPDX-License-Identifier: Apache-2.0
// The C functions of the poolings: each goes to the copy of its loop that this processor can run.
#include "../_native/abi.h"
#include "../_native/instruction_set.h"
#include "cpu_kernels.h"

namespace {

const pliant::PoolingKernels& kernels() {
  switch (pliant::instruction_set()) {
#if defined(PLIANT_HAS_avx512)
    case pliant::InstructionSet::avx512:
      return pliant::avx512::pooling_kernels;
#endif
#if defined(PLIANT_HAS_avx2)
    case pliant::InstructionSet::avx2:
      return pliant::avx2::pooling_kernels;
#endif
    default:
      return pliant::baseline::pooling_kernels;
  }
}

}  // namespace

int pliant_pool(const pliant_pooling* pooling, int image_type, const void* image, const int64_t* index,
                const void* sides, const void* shift, const void* mask, void* output) {
  return kernels().pool(pooling, image_type, image, index, sides, shift, mask, output);
}

int pliant_pool_backward(const pliant_pooling* pooling, int image_type, const void* image, const int64_t* index,
                         const void* sides, const void* shift, const void* mask, const void* grad, void* grad_image,
                         int64_t grad_pixel_stride, void* products) {
  return kernels().pool_backward(pooling, image_type, image, index, sides, shift, mask, grad, grad_image,
                                 grad_pixel_stride, products);
}

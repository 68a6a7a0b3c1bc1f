// SPDX-License-Identifier: Apache-2.0
// The C functions of deformable convolution: each goes to the copy of its loop that this processor can run.
#include "../_native/abi.h"
#include "../_native/instruction_set.h"
#include "../_native/parallel.h"
#include "cpu_kernels.h"

namespace {

const pliant::DeformKernels& kernels() {
  switch (pliant::instruction_set()) {
#if defined(PLIANT_HAS_avx512)
    case pliant::InstructionSet::avx512:
      return pliant::avx512::kernels;
#endif
#if defined(PLIANT_HAS_avx2)
    case pliant::InstructionSet::avx2:
      return pliant::avx2::kernels;
#endif
    default:
      return pliant::baseline::kernels;
  }
}

// Each task adds the slices for a block of positions, in the order of the slices whatever the number of threads.
template <class T>
void reduce(const T* partial, int64_t slices, int64_t count, int64_t samples, T* grad_offset, T* grad_mask,
            int64_t threads) {
  constexpr int64_t block = 64;
  pliant::parallel_for((count + block - 1) / block, threads, [&](int64_t task, int64_t) {
    const int64_t end = (task + 1) * block < count ? (task + 1) * block : count;
    for (int64_t s = 0; s < samples; ++s) {
      for (int64_t p = task * block; p < end; ++p) {
        T total[3] = {0, 0, 0};
        for (int64_t slice = 0; slice < slices; ++slice)
          for (int i = 0; i < 3; ++i) total[i] += partial[((slice * count + p) * samples + s) * 3 + i];
        grad_offset[2 * s * count + p] += total[0];
        grad_offset[(2 * s + 1) * count + p] += total[1];
        if (grad_mask) grad_mask[s * count + p] += total[2];
      }
    }
  });
}

}  // namespace

void pliant_deform_sample(const pliant_tile* tile, int image_type, const void* image, const void* offset,
                          const void* mask, void* columns) {
  kernels().sample(tile, image_type, image, offset, mask, columns);
}

void pliant_deform_sample_backward(const pliant_tile* tile, int image_type, const void* image, const void* offset,
                                   const void* mask, void* columns, void* grad_image, int64_t grad_pixel_stride,
                                   void* partial, int64_t slices, int64_t offset_groups) {
  kernels().sample_backward(tile, image_type, image, offset, mask, columns, grad_image, grad_pixel_stride, partial,
                            slices, offset_groups);
}

int pliant_deform_conv(const pliant_tile* tile, int image_type, const void* image, const void* offset, const void* mask,
                       const void* weight, int64_t outputs, const void* bias, void* output,
                       const int64_t* output_stride, int accumulate) {
  return kernels().conv(tile, image_type, image, offset, mask, weight, outputs, bias, output, output_stride,
                        accumulate);
}

int64_t pliant_deform_conv_panel(int image_type) { return kernels().panel(image_type); }

void pliant_deform_depthwise(const pliant_tile* tile, int image_type, const void* image, const void* offset,
                             const void* mask, const void* weight, const void* bias, void* output,
                             int64_t output_stride) {
  kernels().depthwise(tile, image_type, image, offset, mask, weight, bias, output, output_stride);
}

void pliant_deform_depthwise_backward(const pliant_tile* tile, int image_type, const void* image, const void* offset,
                                      const void* mask, const void* weight, const void* grad, void* grad_image,
                                      int64_t grad_pixel_stride, void* grad_weight, void* partial, int64_t slices,
                                      int64_t offset_groups) {
  kernels().depthwise_backward(tile, image_type, image, offset, mask, weight, grad, grad_image, grad_pixel_stride,
                               grad_weight, partial, slices, offset_groups);
}

void pliant_deform_reduce(const void* partial, int is_double, int64_t slices, int64_t count, int64_t samples,
                          void* grad_offset, void* grad_mask, int64_t threads) {
  if (is_double) {
    reduce(static_cast<const double*>(partial), slices, count, samples, static_cast<double*>(grad_offset),
           static_cast<double*>(grad_mask), threads);
  } else {
    reduce(static_cast<const float*>(partial), slices, count, samples, static_cast<float*>(grad_offset),
           static_cast<float*>(grad_mask), threads);
  }
}

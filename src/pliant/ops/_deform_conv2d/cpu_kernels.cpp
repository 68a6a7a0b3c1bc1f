// SPDX-License-Identifier: Apache-2.0
// The loops of deformable convolution behind untyped pointers. Compiled once for each instruction set.
#include "cpu_kernels.h"

#include "../_native/types.h"
#include "cpu_conv.h"
#include "cpu_depthwise.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

int conv(const pliant_tile* tile, int image_type, const void* image, const void* offset, const void* mask,
         const void* weight, int64_t outputs, const void* bias, void* output, const int64_t* output_stride,
         int accumulate) {
  int result = 0;
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    const Convolution<T, S> pass = {*tile,   as<S>(image), as<T>(offset), as<T>(mask),   as<T>(weight),
                                    outputs, as<T>(bias),  as<S>(output), output_stride, accumulate != 0};
    result = pass.run();
  });
  return result;
}

int64_t panel(int image_type) { return image_type == PLIANT_FLOAT64 ? kPanel<double> : kPanel<float>; }

void sample(const pliant_tile* tile, int image_type, const void* image, const void* offset, const void* mask,
            void* columns) {
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    sample_columns(*tile, as<S>(image), as<T>(offset), as<T>(mask), as<T>(columns));
  });
}

void sample_backward(const pliant_tile* tile, int image_type, const void* image, const void* offset, const void* mask,
                     void* columns, void* grad_image, int64_t grad_pixel_stride, void* partial, int64_t slices,
                     int64_t offset_groups) {
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    const Backward<T, S> pass = {
        *tile,          as<S>(image), as<T>(offset), as<T>(mask), as<T>(grad_image), grad_pixel_stride,
        as<T>(partial), slices,       offset_groups};
    sample_columns_backward(pass, as<T>(columns));
  });
}

void depthwise_any(const pliant_tile* tile, int image_type, const void* image, const void* offset, const void* mask,
                   const void* weight, const void* bias, void* output, int64_t output_stride) {
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    depthwise(*tile, as<S>(image), as<T>(offset), as<T>(mask), as<T>(weight), as<T>(bias), as<T>(output),
              output_stride);
  });
}

void depthwise_backward_any(const pliant_tile* tile, int image_type, const void* image, const void* offset,
                            const void* mask, const void* weight, const void* grad, void* grad_image,
                            int64_t grad_pixel_stride, void* grad_weight, void* partial, int64_t slices,
                            int64_t offset_groups) {
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    const Backward<T, S> pass = {
        *tile,          as<S>(image), as<T>(offset), as<T>(mask), as<T>(grad_image), grad_pixel_stride,
        as<T>(partial), slices,       offset_groups};
    depthwise_backward(pass, as<T>(weight), as<T>(grad), as<T>(grad_weight));
  });
}

}  // namespace

const DeformKernels kernels = {conv, panel, sample, sample_backward, depthwise_any, depthwise_backward_any};

}  // namespace PLIANT_ISA
}  // namespace pliant

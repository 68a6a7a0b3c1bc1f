// SPDX-License-Identifier: Apache-2.0
// The loops of deformable convolution behind untyped pointers. Compiled once for each instruction set.
#include "../_native/cpu_kernels.h"

#include "../_native/types.h"
#include "cpu_conv.h"
#include "cpu_depthwise.h"

namespace pliant {
namespace PLIANT_ISA {

int deform_conv(const pliant_tile* tile, int image_type, const void* image, const void* offset, const void* mask,
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

int64_t deform_conv_panel(int image_type) { return image_type == PLIANT_FLOAT64 ? kPanel<double> : kPanel<float>; }

void deform_sample(const pliant_tile* tile, int image_type, const void* image, const void* offset, const void* mask,
                   void* columns) {
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    sample_columns(*tile, as<S>(image), as<T>(offset), as<T>(mask), as<T>(columns));
  });
}

void deform_sample_backward(const pliant_tile* tile, int image_type, const void* image, const void* offset,
                            const void* mask, void* columns, void* grad_image, int64_t grad_pixel_stride, void* partial,
                            int64_t slices, int64_t offset_groups) {
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    const Backward<T, S> pass = {
        *tile,          as<S>(image), as<T>(offset), as<T>(mask), as<T>(grad_image), grad_pixel_stride,
        as<T>(partial), slices,       offset_groups};
    sample_columns_backward(pass, as<T>(columns));
  });
}

void deform_depthwise(const pliant_tile* tile, int image_type, const void* image, const void* offset, const void* mask,
                      const void* weight, const void* bias, void* output, int64_t output_stride) {
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    depthwise(*tile, as<S>(image), as<T>(offset), as<T>(mask), as<T>(weight), as<T>(bias), as<T>(output),
              output_stride);
  });
}

void deform_depthwise_backward(const pliant_tile* tile, int image_type, const void* image, const void* offset,
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

void deform_reduce(const void* partial, int is_double, int64_t slices, int64_t count, int64_t samples,
                   void* grad_offset, void* grad_mask, int64_t threads) {
  with_types(is_double ? PLIANT_FLOAT64 : PLIANT_FLOAT32, [&](auto types) {
    using T = typename decltype(types)::T;
    reduce(as<T>(partial), slices, count, samples, as<T>(grad_offset), as<T>(grad_mask), threads);
  });
}

}  // namespace PLIANT_ISA
}  // namespace pliant

// SPDX-License-Identifier: Apache-2.0
// The loops of deformable convolution behind untyped pointers. Compiled once for each instruction set.
#include "../_native/cpu_kernels.h"

#include "cpu_backward.h"
#include "cpu_depthwise.h"
#include "cpu_few.h"

namespace pliant {
namespace PLIANT_ISA {

int deform_conv(const pliant_tile* tile, int image_type, const void* image, const void* offset, const void* mask,
                const void* weight, int64_t outputs, const void* bias, void* output, const int64_t* output_stride,
                int accumulate) {
  int result = 0;
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    const Result<T, S> to = {*tile, as<T>(bias), as<S>(output), output_stride, accumulate != 0};
    result = Convolution<T, S>{*tile, as<S>(image), offset, mask, as<T>(weight), outputs, to}.run();
  });
  return result;
}

int deform_conv_few(const pliant_tile* tile, int image_type, const void* image, const void* offset, const void* mask,
                    const void* weight, const int64_t* weight_stride, int64_t outputs, const void* bias, void* columns,
                    void* output, const int64_t* output_stride) {
  int result = 0;
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    const Result<T, S> to = {*tile, as<T>(bias), as<S>(output), output_stride, false};
    const FewPositions<T, S> few = {*tile, as<T>(weight), weight_stride, outputs, to, as<T>(columns)};
    result = few.run(as<S>(image), offset, mask);
  });
  return result;
}

int64_t deform_conv_panel(int image_type) { return image_type == PLIANT_FLOAT64 ? kPanel<double> : kPanel<float>; }

int64_t deform_shares(const pliant_tile* tile) { return Units(*tile).count(); }

void deform_sample(const pliant_tile* tile, int image_type, const void* image, const void* offset, const void* mask,
                   void* columns) {
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    sample_columns<T>(*tile, as<S>(image), offset, mask, as<S>(columns));
  });
}

void deform_sample_backward(const pliant_tile* tile, int image_type, const void* image, const void* offset,
                            const void* mask, void* columns, const pliant_gradients* gradients) {
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    const Backward<T, S> pass = {*tile, as<S>(image), offset, mask, *gradients, as<T>(gradients->shares)};
    columns_backward(pass, as<S>(columns));
  });
}

int deform_conv_backward(const pliant_tile* tile, int image_type, const void* image, const void* offset,
                         const void* mask, const void* weight, int64_t outputs, const pliant_gradients* gradients) {
  int result = 0;
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    const Backward<T, S> pass = {*tile, as<S>(image), offset, mask, *gradients, as<T>(gradients->shares)};
    const bool needs_samples = gradients->image || gradients->shares;
    result = ConvolutionBackward<T, S>{pass, as<T>(weight), outputs, needs_samples}.run();
  });
  return result;
}

int deform_depthwise(const pliant_tile* tile, int image_type, const void* image, const void* offset, const void* mask,
                     const void* weight, const void* bias, void* output, const int64_t* output_stride) {
  int result = 0;
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    const Result<T, S> to = {*tile, as<T>(bias), as<S>(output), output_stride, false};
    result = Depthwise<T, S>{*tile, as<S>(image), offset, mask, as<T>(weight), to}.run();
  });
  return result;
}

int deform_depthwise_backward(const pliant_tile* tile, int image_type, const void* image, const void* offset,
                              const void* mask, const void* weight, const pliant_gradients* gradients) {
  int result = 0;
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    const Backward<T, S> pass = {
        *tile, as<S>(image), offset, mask, *gradients, as<T>(gradients->shares), Units::one(*tile)};
    result = DepthwiseBackward<T, S>{pass, as<T>(weight)}.run();
  });
  return result;
}

}  // namespace PLIANT_ISA
}  // namespace pliant

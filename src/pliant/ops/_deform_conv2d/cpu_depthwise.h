// SPDX-License-Identifier: Apache-2.0
// Depthwise deformable convolution, forward and backward: every channel by itself, no matrix product.
#pragma once

#include "cpu_backward.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

template <class T, class S>
struct Tap {
  Corners<T, S> corners;
  const T* weight;
};

template <class T, class S>
void depthwise(const pliant_tile& tile, const S* image, const T* offset, const T* mask, const T* weight, const T* bias,
               T* output, int64_t output_stride) {
  const int64_t tasks = (tile.count + kPositionsPerTask - 1) / kPositionsPerTask;
  parallel_for(tasks, tile.threads, [&](int64_t task, int64_t) {
    const int64_t begin = task * kPositionsPerTask, end = smaller(tile.count, begin + kPositionsPerTask);
    for_plans(tile, offset, mask, {begin, end, 0, tile.kernel[0] * tile.kernel[1], 0, tile.channels},
              [&](const Plan<T>& plan, int64_t, int64_t c_begin, int64_t c_end, int64_t first) {
                Tap<T, S> inside[kPlanSize];
                for (int64_t i = 0; i < plan.positions; ++i) {
                  int64_t count = 0;
                  for (int64_t k = plan.tap_begin; k < plan.tap_end; ++k) {
                    const Sample<T>& s = plan.at(i, k);
                    if (!s.is_inside()) continue;
                    inside[count] = {Corners<T, S>(image, tile.pixel_stride, s), weight + k * tile.channels};
                    inside[count++].corners.scale(s.modulation);
                  }
                  T* out = output + (first + i) * output_stride;
                  for_channels<kLanes<T>>(c_begin, c_end, [&](auto n, int64_t c) {
                    auto sum = plan.tap_begin ? load(out + c, n) : bias ? load(bias + c, n) : decltype(load(out, n)){};
                    for (int64_t k = 0; k < count; ++k)
                      sum += inside[k].corners.value(n, c) * load(inside[k].weight + c, n);
                    store(out + c, sum, n);
                  });
                }
              });
  });
}

template <class T, class S>
void depthwise_backward(const Backward<T, S>& pass, const T* weight, const T* grad, T* grad_weight) {
  const int64_t channels = pass.tile.channels;
  pass.for_samples([&](const Sample<T>& s, int64_t position, int64_t k, int64_t c_begin, int64_t c_end, T* result) {
    if (!s.is_inside()) return;
    Dots<T> dots;
    const Corners<T, S> corners(pass.image, pass.tile.pixel_stride, s);
    T* pixels[4];
    pass.grad_pixels(s, pixels);
    const T *w = weight + k * channels, *u = grad + position * channels;
    T* gw = grad_weight + k * channels;
    for_channels<kLanes<T>>(c_begin, c_end, [&](auto n, int64_t c) {
      const auto out = load(u + c, n);
      const auto value = spread(corners, s, pixels, n, c, out * load(w + c, n), dots);
      store(gw + c, load(gw + c, n) + out * value, n);
    });
    dots.write(s, result);
  });
}

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant

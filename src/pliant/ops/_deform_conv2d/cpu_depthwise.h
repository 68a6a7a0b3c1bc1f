// SPDX-License-Identifier: Apache-2.0
// Depthwise deformable convolution, forward and backward: every channel by itself, no matrix product.
#pragma once

#include "cpu_conv.h"
#include "cpu_spread.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

constexpr int64_t kDepthwisePositions = 48;  // of a block, whose sums stay in the cache
constexpr int64_t kDepthwiseChannels = 256;  // the same, of channels

template <class T, class S>
struct Depthwise {
  const pliant_tile& tile;
  const S* image;
  const void *offset, *mask;
  const T* weight;  // (taps, channels)
  Result<T, S> result;
  int64_t taps = tile.kernel[0] * tile.kernel[1];
  int64_t width = smaller(tile.channels, kDepthwiseChannels), stride = width + 16;

  int run() const {
    const int64_t count = tile.images * tile.count, tasks = parts(count, kDepthwisePositions);
    const int64_t threads = smaller(tile.threads, tasks);
    const Scratch scratch(threads, 2 * kDepthwisePositions * stride * sizeof(T));
    if (scratch.missing()) return -1;
    parallel_for(tasks, threads, [&](int64_t task, int64_t worker) {
      const int64_t begin = task * kDepthwisePositions, end = smaller(count, begin + kDepthwisePositions);
      T* sums = scratch.of<T>(worker);
      for (int64_t c = 0; c < tile.channels; c += width) {
        const int64_t stop = smaller(tile.channels, c + width);
        __builtin_memset(sums, 0, kDepthwisePositions * stride * sizeof(T));
        add({begin, end, 0, taps, c, stop}, sums - c);
        result.write(begin, end, c, stop - c, sums, stride, sums + kDepthwisePositions * stride);
      }
    });
    return 0;
  }

  void add(const Block& block, T* sums) const {
    for_plans<T>(tile, offset, mask, block,
                 [&](const Plan<T>& plan, int64_t, int64_t c_begin, int64_t c_end, int64_t first) {
                   for (int64_t i = 0; i < plan.positions; ++i) {
                     T* sum = sums + (first + i - block.position_begin) * stride;
                     for (int64_t k = plan.tap_begin; k < plan.tap_end; ++k) {
                       const int64_t s = plan.at(i, k);
                       if (!plan.is_inside(s)) continue;
                       Corners<T, S> corners(tile, image, plan, s);
                       corners.scale(plan.modulation[s]);
                       const T* w = weight + k * tile.channels;
                       for_channels<kLanes<T>>(c_begin, c_end, [&](auto n, int64_t c) {
                         store(sum + c, load(sum + c, n) + corners.value(n, c) * load(w + c, n), n);
                       });
                     }
                   }
                 });
  }
};

template <class T, class S>
int depthwise_backward(const Backward<T, S>& pass, const T* weight) {
  const int64_t channels = pass.tile.channels, each = pass.units.of_task(pass.tile.threads);
  const int64_t tasks = parts(pass.units.count(), each), threads = smaller(pass.tile.threads, tasks);
  const Scratch scratch(threads, pass.taps * kTask * sizeof(T));  // of the gradient of a task's weights
  if (scratch.missing()) return -1;
  parallel_for(tasks, threads, [&](int64_t number, int64_t worker) {
    const Task task(pass.units, number, each);
    const Range all = task.channels();
    T* grad_weight = scratch.of<T>(worker) - all.begin;
    __builtin_memset(scratch.of<T>(worker), 0, pass.taps * kTask * sizeof(T));
    pass.clear(all);
    pass.for_samples(
        task, {0, pass.count},
        [&](Spread<T, S>& sample, const Place& place) {
          const T* w = weight + place.tap * channels;
          const S* u = pass.upstream(place.image, place.position);
          T* grad = grad_weight + place.tap * kTask;
          for_channels<kLanes<T>>(place.channels.begin, place.channels.end, [&](auto n, int64_t c) {
            const auto out = load(u + c, n);
            store(grad + c, load(grad + c, n) + out * sample.add(n, c, out * load(w + c, n)), n);
          });
        },
        [](const Place&) {});
    pass.add_up(all);
    for (int64_t k = 0; k < pass.taps && pass.result.weight; ++k) {
      T* to = static_cast<T*>(pass.result.weight) + k * channels;
      for (int64_t c = all.begin; c < all.end; ++c) to[c] += grad_weight[k * kTask + c];
    }
  });
  if (pass.partial) pass.reduce();
  return 0;
}

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant

// SPDX-License-Identifier: Apache-2.0
// Depthwise deformable convolution, forward and backward: every channel by itself, no matrix product.
#pragma once

#include "cpu_conv.h"
#include "cpu_spread.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

constexpr int64_t kDepthwisePositions = 48;   // of a block, whose sums stay in the cache
constexpr int64_t kDepthwiseChannels = 256;   // the same, of channels
constexpr int64_t kDepthwiseShares = 64;      // of the gradient of the weights, at most,
constexpr int64_t kDepthwiseBytes = 4 << 20;  // and of how many bytes together
constexpr int kDepthwiseSums = 8;             // vectors of sums in registers

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
        add({begin, end, 0, taps, c, stop}, sums - c);
        result.write(begin, end, c, stop - c, sums, stride, sums + kDepthwisePositions * stride);
      }
    });
    return 0;
  }

  void add(const Block& block, T* sums) const {
    for_plans<T, ReadPlan<T>>(tile, offset, mask, block,
                              [&](const ReadPlan<T>& plan, int64_t, int64_t c_begin, int64_t c_end, int64_t first) {
                                for (int64_t i = 0; i < plan.positions; ++i)
                                  add(plan, i, c_begin, c_end, sums + (first + i - block.position_begin) * stride);
                              });
  }

  // A position's samples, for channels [begin, end).
  void add(const ReadPlan<T>& plan, int64_t position, int64_t begin, int64_t end, T* sums) const {
    constexpr int L = kLanes<T>;
    Corners<T, S> corners[kPlanSize / kPlanStep];
    const T* weights[kPlanSize / kPlanStep];
    int64_t count = 0;
    for (int64_t k = plan.tap_begin; k < plan.tap_end; ++k) {
      const int64_t s = plan.at(position, k);
      if (!plan.is_inside(s)) continue;
      corners[count] = Corners<T, S>(image + plan.image * tile.image_stride, plan, s);
      weights[count++] = weight + k * tile.channels;
    }
    const bool begins = plan.tap_begin == 0;  // else what earlier taps gave is there
    int64_t c = begin;
    for (; c + kDepthwiseSums * L <= end; c += kDepthwiseSums * L) {
      constexpr lanes<L> n{};
      vec<T, L> sum[kDepthwiseSums];
#pragma GCC unroll 8
      for (int v = 0; v < kDepthwiseSums; ++v) sum[v] = begins ? vec<T, L>{} : load(sums + c + v * L, n);
      for (int64_t s = 0; s < count; ++s)
#pragma GCC unroll 8
        for (int v = 0; v < kDepthwiseSums; ++v)
          sum[v] += corners[s].value(n, c + v * L) * load(weights[s] + c + v * L, n);
#pragma GCC unroll 8
      for (int v = 0; v < kDepthwiseSums; ++v) store(sums + c + v * L, sum[v], n);
    }
    for_channels<L>(c, end, [&](auto n, int64_t j) {
      auto sum = begins ? decltype(load(sums, n)){} : load(sums + j, n);
      for (int64_t s = 0; s < count; ++s) sum += corners[s].value(n, j) * load(weights[s] + j, n);
      store(sums + j, sum, n);
    });
  }
};

// Two passes, which have little in common without a matrix product. The first divides positions among threads and sums
// over all channels, for the gradients of offset, mask and weight. The second divides channels, and adds up the
// gradient of the image.
template <class T, class S>
struct DepthwiseBackward {
  const Backward<T, S>& pass;
  const T* weight;  // (taps, channels)
  const pliant_tile& tile = pass.tile;
  int64_t taps = pass.taps, channels = tile.channels;
  // Of the gradient of the weights, which has the same bits for any number of threads: their number follows from the
  // problem alone. Each is of as many positions.
  int64_t most = larger(1, smaller(kDepthwiseShares, kDepthwiseBytes / (taps * channels * int64_t(sizeof(T)))));
  int64_t positions = round_up(parts(pass.count, most), kDepthwisePositions), shares = parts(pass.count, positions);

  int run() const {
    if ((pass.partial || pass.result.weight) && sums() != 0) return -1;
    if (pass.result.image) spread();
    return 0;
  }

 private:
  int sums() const {
    const int64_t size = taps * channels;
    const Scratch scratch(shares, pass.result.weight ? size * sizeof(T) : 0);
    if (scratch.missing()) return -1;
    parallel_for(shares, tile.threads, [&](int64_t task, int64_t) {
      const Block block = {task * positions, smaller(pass.count, (task + 1) * positions), 0, taps, 0, channels};
      alignas(64) T dots[4][kPlanSize];
      for_plans<T>(tile, pass.offset, pass.mask, block,
                   [&](const Plan<T>& plan, int64_t group, int64_t c_begin, int64_t c_end, int64_t first) {
                     sums(plan, {c_begin, c_end}, first, scratch.of<T>(task), dots);
                     if (pass.partial) pass.write(0, plan, group, first, dots);
                   });
    });
    if (pass.partial) pass.reduce();
    T* to = static_cast<T*>(pass.result.weight);
    for (int64_t task = 0; task < shares && to; ++task) {
      const T* share = scratch.of<T>(task);
      for_channels<kLanes<T>>(0, size,
                              [&](auto n, int64_t i) { store(to + i, load(to + i, n) + load(share + i, n), n); });
    }
    return 0;
  }

  // The dots of a plan's samples over channels c, and what they give to the gradient of the weights.
  void sums(const Plan<T>& plan, const Range& c, int64_t first, T* grad_weight, T (*dots)[kPlanSize]) const {
    constexpr int L = kLanes<T>;
    for (int64_t i = 0; i < plan.positions; ++i) {
      const S* u = pass.upstream(plan.image, first + i);
      for (int64_t k = plan.tap_begin; k < plan.tap_end; ++k) {
        const int64_t s = plan.at(i, k);
        T totals[4] = {};
        if (plan.is_inside(s)) {
          Corners<T, S> corners(tile, pass.image, plan, s);
          corners.scale(plan.modulation[s]);
          const T* w = weight + k * channels;
          T* grad = grad_weight + k * channels;
          Sum<T, L> dot[4];
          for_channels<L>(c.begin, c.end, [&](auto n, int64_t j) {
            const auto out = load(u + j, n), g = out * load(w + j, n);
            decltype(load(w, n)) column = {};
            for (int p = 0; p < 4; ++p) {
              const auto pixel = load(corners.pixel[p] + j, n);
              dot[p].add(g * pixel, n);
              column += pixel * corners.weight[p];
            }
            if (pass.result.weight) store(grad + j, load(grad + j, n) + out * column, n);
          });
          totals_of<T, L>({dot[0].lanes_of_sum, dot[1].lanes_of_sum, dot[2].lanes_of_sum, dot[3].lanes_of_sum}, totals);
        }
        for (int p = 0; p < 4; ++p) dots[p][s] = totals[p];
      }
    }
  }

  void spread() const {
    const Units units(tile);
    const int64_t each = units.of_task(tile.threads);
    parallel_for(parts(units.count(), each), tile.threads, [&](int64_t number, int64_t) {
      const Range all = Task(units, number, each).channels();
      const Target<T> to = pass.target(all);
      pass.clear(all);
      for_plans<T>(tile, pass.offset, pass.mask, {0, pass.count, 0, taps, all.begin, all.end},
                   [&](const Plan<T>& plan, int64_t, int64_t c_begin, int64_t c_end, int64_t first) {
                     spread(plan, {c_begin, c_end}, to, first);
                   });
      pass.write_image(all);
    });
  }

  void spread(const Plan<T>& plan, const Range& c, const Target<T>& to, int64_t first) const {
    alignas(64) T sink_memory[kTask] = {};
    for (int64_t i = 0; i < plan.positions; ++i) {
      const S* u = pass.upstream(plan.image, first + i);
      for (int64_t k = plan.tap_begin; k < plan.tap_end; ++k) {
        const int64_t s = plan.at(i, k);
        if (!plan.is_inside(s)) continue;
        Spread<T, S> sample(tile, pass.image, to, plan, s, sink_memory - c.begin);
        const T* w = weight + k * channels;
        for_channels<kLanes<T>>(c.begin, c.end, [&](auto n, int64_t j) {
          const auto g = load(u + j, n) * load(w + j, n);
          decltype(load(w, n)) sum[4];
          for (int p = 0; p < 4; ++p) sum[p] = load(sample.grad[p] + j, n) + g * sample.corners.weight[p];
          for (int p = 0; p < 4; ++p) store(sample.grad[p] + j, sum[p], n);
        });
      }
    }
  }
};

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant

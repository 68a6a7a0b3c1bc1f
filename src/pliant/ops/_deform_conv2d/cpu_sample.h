// SPDX-License-Identifier: Apache-2.0
// Reading an image at a plan's samples: columns, the left factor of the convolution's matrix product.
#pragma once

#include "../_native/parallel.h"
#include "cpu_plan.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

constexpr int64_t kPositionsPerTask = 64;  // at most

// The four pixels of a sample, (top, left), (top, right), (bottom, left), (bottom, right), and what they weigh.
template <class T, class S>
struct Corners {
  const S* pixel[4];
  T weight[4];

  Corners() = default;
  PLIANT_MEMBER Corners(const pliant_tile& tile, const S* images, const Plan<T>& plan, int64_t i) {
    const int64_t stride = tile.pixel_stride, right = plan.column_step[i] * stride;
    const S* image = images + plan.image * tile.image_stride;
    pixel[0] = image + (plan.row[i] * tile.width + plan.column[i]) * stride;
    pixel[1] = pixel[0] + right;
    pixel[2] = pixel[0] + plan.row_step[i] * tile.width * stride;
    pixel[3] = pixel[2] + right;
    for (int j = 0; j < 4; ++j) weight[j] = plan.row_weight[j >> 1][i] * plan.column_weight[j & 1][i];
  }
  PLIANT_MEMBER Corners(const S* image, const ReadPlan<T>& plan, int64_t i) {
    pixel[0] = image + plan.first[i];
    pixel[1] = pixel[0] + plan.right[i];
    pixel[2] = pixel[0] + plan.below[i];
    pixel[3] = pixel[2] + plan.right[i];
    for (int j = 0; j < 4; ++j) weight[j] = plan.weight[j][i];
  }
  PLIANT_MEMBER void scale(T factor) {
    for (int i = 0; i < 4; ++i) weight[i] *= factor;
  }
  template <int L>
  PLIANT_MEMBER vec<T, L> value(lanes<L> n, int64_t c) const {
    return load(pixel[0] + c, n) * weight[0] + load(pixel[1] + c, n) * weight[1] + load(pixel[2] + c, n) * weight[2] +
           load(pixel[3] + c, n) * weight[3];
  }
};

// Writes `channels` channels of a plan's samples of one position, `tap_stride` elements apart. A function of its own:
// inlined, its loop is given too few registers.
template <class T, class S, class D>
__attribute__((noinline)) void read_taps(const S* image, const ReadPlan<T>& plan, int64_t position, int64_t channels,
                                         D* to, int64_t tap_stride) {
  constexpr int L = kLanes<T>;
  const int64_t end = plan.at(position, plan.tap_end), stride = plan.stride;
  for (int64_t s = position; s < end; s += stride, to += tap_stride) {
    if (!plan.is_inside(s)) {
      __builtin_memset(to, 0, channels * sizeof(D));
      continue;
    }
    const Corners<T, S> corners(image, plan, s);
    const auto body = [&](auto n, int64_t c) { store(to + c, corners.value(n, c), n); };
    int64_t c = 0;
    for (; c + 4 * L <= channels; c += 4 * L)
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) body(lanes<L>{}, c + j * L);
    if (c < channels) for_channels<L>(c, channels, body);
  }
}

// Writes the samples of a block: element (position, tap, c) goes to rows + position * row_stride + tap * tap_stride +
// c, all counted from the block's begin. Columns are of arithmetic type, or of the image's.
template <class T, class S, class D>
void sample_block(const pliant_tile& tile, const S* images, const void* offset, const void* mask, const Block& block,
                  D* rows, int64_t row_stride, int64_t tap_stride) {
  const auto read = [&](const ReadPlan<T>& plan, int64_t, int64_t c_begin, int64_t c_end, int64_t first) {
    const S* image = images + plan.image * tile.image_stride + c_begin;
    D* to = rows + (first - block.position_begin) * row_stride + (plan.tap_begin - block.tap_begin) * tap_stride +
            c_begin - block.channel_begin;
    for (int64_t i = 0; i < plan.positions; ++i)
      read_taps(image, plan, i, c_end - c_begin, to + i * row_stride, tap_stride);
  };
  for_plans<T, ReadPlan<T>>(tile, offset, mask, block, read);
}

template <class T, class S, class D>
void sample_columns(const pliant_tile& tile, const S* image, const void* offset, const void* mask, D* columns) {
  const int64_t taps = tile.kernel[0] * tile.kernel[1], row = taps * tile.channels, run = tile.run;
  const int64_t count = tile.images * tile.count;
  const int64_t each = smaller(kPositionsPerTask, round_up(parts(count, tile.threads), kPlanStep));
  parallel_for(parts(count, each), tile.threads, [&](int64_t task, int64_t) {
    const int64_t begin = task * each, end = smaller(count, begin + each);
    for (int64_t c = 0; c < tile.channels; c += run)
      sample_block<T>(tile, image, offset, mask, {begin, end, 0, taps, c, c + run}, columns + begin * row + c * taps,
                      row, run);
  });
}

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant

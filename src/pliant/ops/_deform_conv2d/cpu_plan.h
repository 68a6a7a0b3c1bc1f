// SPDX-License-Identifier: Apache-2.0
// Where the taps of a deformable convolution read, and with which weights. Compiled once for each instruction set.
#pragma once

#include "../_native/abi.h"
#include "../_native/vectors.h"

namespace pliant {
namespace PLIANT_ISA {

// One sampling position: the four pixels around it and what they weigh. A pixel outside the image has weight 0 and
// stands at the nearest pixel inside, so that all four can be read.
template <class T>
struct Sample {
  int64_t pixel[4];  // number of (top, left), (top, right), (bottom, left), (bottom, right); the first < 0: outside
  T row_weight[2];   // 1 - fraction, fraction; 0 where the row does not exist
  T column_weight[2];
  T row_exists[2], column_exists[2];  // 0 or 1
  T modulation;

  PLIANT_MEMBER bool is_inside() const { return pixel[0] >= 0; }
  PLIANT_MEMBER T weight(int corner) const { return row_weight[corner >> 1] * column_weight[corner & 1]; }
};

// The samples of `positions` consecutive outputs and taps [tap_begin, tap_end) of one offset group: at most kPlanSize,
// small enough for the stack and the first-level cache.
constexpr int64_t kPlanSize = 256;

template <class T>
struct Plan {
  int64_t tap_begin, tap_end, positions;
  Sample<T> samples[kPlanSize];

  PLIANT_MEMBER const Sample<T>& at(int64_t position, int64_t tap) const {
    return samples[position * (tap_end - tap_begin) + (tap - tap_begin)];
  }
};

// A position is inside where -1 <= h < H, which is false for NaN. At exactly -1 the value is 0 and the slope is the
// right-hand one, as at every other integer.
template <class T>
PLIANT_INLINE Sample<T> sample_at(const pliant_tile& image, T h, T w, T modulation) {
  Sample<T> s;
  s.modulation = modulation;
  if (!(h >= -1 && h < static_cast<T>(image.height) && w >= -1 && w < static_cast<T>(image.width))) {
    s.pixel[0] = -1;
    return s;
  }
  // h + 1 is not negative, so that truncation is floor.
  const int64_t top = static_cast<int64_t>(h + 1) - 1, left = static_cast<int64_t>(w + 1) - 1;
  // (h + 1) can round up to the next integer in T; the fraction below must still be taken from h itself.
  const int64_t y = top > h ? top - 1 : top, x = left > w ? left - 1 : left;
  const T fraction_y = h - static_cast<T>(y), fraction_x = w - static_cast<T>(x);
  const bool exists_y[2] = {y >= 0, y + 1 < image.height}, exists_x[2] = {x >= 0, x + 1 < image.width};
  const int64_t row[2] = {exists_y[0] ? y : 0, exists_y[1] ? y + 1 : y};
  const int64_t column[2] = {exists_x[0] ? x : 0, exists_x[1] ? x + 1 : x};
  for (int i = 0; i < 2; ++i) {
    s.row_exists[i] = exists_y[i];
    s.column_exists[i] = exists_x[i];
    s.row_weight[i] = exists_y[i] ? (i ? fraction_y : 1 - fraction_y) : 0;
    s.column_weight[i] = exists_x[i] ? (i ? fraction_x : 1 - fraction_x) : 0;
    for (int j = 0; j < 2; ++j) s.pixel[2 * i + j] = row[i] * image.width + column[j];
  }
  return s;
}

// Fills `plan` for output positions tile.first + [begin, begin + plan.positions) and offset group `group`.
template <class T>
PLIANT_INLINE void make_plan(const pliant_tile& tile, const T* offset, const T* mask, int64_t group, int64_t begin,
                             Plan<T>& plan) {
  const int64_t taps = tile.kernel[0] * tile.kernel[1];
  Sample<T>* next = plan.samples;
  for (int64_t i = begin; i < begin + plan.positions; ++i) {
    const int64_t out_y = (tile.first + i) / tile.out_width, out_x = (tile.first + i) % tile.out_width;
    const T base_y = static_cast<T>(out_y * tile.stride[0] - tile.padding[0]);
    const T base_x = static_cast<T>(out_x * tile.stride[1] - tile.padding[1]);
    int64_t tap_y = plan.tap_begin / tile.kernel[1], tap_x = plan.tap_begin % tile.kernel[1];
    for (int64_t k = plan.tap_begin; k < plan.tap_end; ++k) {
      const T* d = offset + (group * taps + k) * 2 * tile.offset_stride[0] + i * tile.offset_stride[1];
      const T m = mask ? mask[(group * taps + k) * tile.mask_stride[0] + i * tile.mask_stride[1]] : T(1);
      const T h = base_y + static_cast<T>(tap_y * tile.dilation[0]) + d[0];
      const T w = base_x + static_cast<T>(tap_x * tile.dilation[1]) + d[tile.offset_stride[0]];
      *next++ = sample_at(tile, h, w, m);
      if (++tap_x == tile.kernel[1]) tap_x = 0, ++tap_y;
    }
  }
}

// Part of a tile: output positions, taps and channels of the slice, each as [begin, end).
struct Block {
  int64_t position_begin, position_end, tap_begin, tap_end, channel_begin, channel_end;
};

// Calls body(plan, group, channel_begin, channel_end, position_begin) for all of a block, split so that each plan is
// small and each call's channels share an offset group.
template <class T, class Body>
PLIANT_INLINE void for_plans(const pliant_tile& tile, const T* offset, const T* mask, const Block& block,
                             const Body& body) {
  const int64_t taps = block.tap_end - block.tap_begin, per_group = tile.offset_group_channels;
  const int64_t chunk = taps < kPlanSize ? taps : kPlanSize, positions = kPlanSize / chunk;
  Plan<T> plan;
  for (int64_t p = block.position_begin; p < block.position_end; p += positions) {
    plan.positions = block.position_end - p < positions ? block.position_end - p : positions;
    for (int64_t c = block.channel_begin; c < block.channel_end;) {
      const int64_t group = (tile.channel_begin + c) / per_group;
      int64_t stop = (group + 1) * per_group - tile.channel_begin;
      stop = stop < block.channel_end ? stop : block.channel_end;
      for (int64_t k = block.tap_begin; k < block.tap_end; k += chunk) {
        plan.tap_begin = k;
        plan.tap_end = k + chunk < block.tap_end ? k + chunk : block.tap_end;
        make_plan(tile, offset, mask, group, p, plan);
        body(plan, group, c, stop, p);
      }
      c = stop;
    }
  }
}

}  // namespace PLIANT_ISA
}  // namespace pliant

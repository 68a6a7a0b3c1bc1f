// SPDX-License-Identifier: Apache-2.0
// Where the taps of a deformable convolution read, and with which weights. Compiled once for each instruction set.
//
// A plan is made for many samples at once, a vector of output positions at a time, and is kept as arrays, one for each
// number that a sample consists of. There are two kinds: one is enough to read samples, the other for derivatives too.
#pragma once

#include "../_native/abi.h"
#include "../_native/squares.h"
#include "../_native/types.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

// Whole numbers as wide as T, so that comparisons and conversions stay in vectors.
template <class T>
struct whole {
  typedef int32_t type;
};
template <>
struct whole<double> {
  typedef int64_t type;
};
template <class T>
using Whole = typename whole<T>::type;

// The samples of `positions` consecutive outputs and taps [tap_begin, tap_end) of one offset group: few enough for the
// first-level cache.
constexpr int64_t kPlanSize = 320;
constexpr int64_t kPlanStep = 16;  // positions that are planned at once: whole vectors of every instruction set

// Samples that are planned together: `positions` consecutive outputs of an image and some taps of one offset group.
struct Samples {
  int64_t image, tap_begin, tap_end, positions, stride;  // `stride` samples between taps

  PLIANT_MEMBER int64_t at(int64_t position, int64_t tap) const { return (tap - tap_begin) * stride + position; }
};

// A vector of coordinates along one axis of `size` pixels, each finite and in [-1, size). A pixel outside the image has
// weight 0 and stands at the nearest pixel inside, so that all can be read.
template <class T>
struct Axis {
  typedef vec<T, kLanes<T>> V;
  typedef vec<Whole<T>, kLanes<T>> W;
  W first;      // the pixel above or to the left
  W exists[2];  // whether that pixel and the next are inside: all bits, or none
  V weight[2];  // 1 - fraction, fraction

  PLIANT_MEMBER Axis(V p, int64_t size) {
    constexpr lanes<kLanes<T>> n{};
    // p + 1 is not negative, so that truncation is floor. It can round up to the next whole number; the fraction must
    // still be taken from p itself.
    W top = convert<W>(p + T(1), n) - Whole<T>(1);
    top += (convert<V>(top, n) > p);  // a comparison gives -1 where it holds
    const V fraction = p - convert<V>(top, n), zero = {};
    exists[0] = top >= W{};
    exists[1] = top < W{} + static_cast<Whole<T>>(size - 1);
    first = exists[0] ? top : W{};
    weight[0] = exists[0] ? 1 - fraction : zero;
    weight[1] = exists[1] ? fraction : zero;
  }

  // Whether the second pixel stands one after the first, and no edge holds it.
  PLIANT_MEMBER W steps() const { return exists[0] & exists[1]; }
};

template <class T>
struct ReadPlan : Samples {
  // Elements of the image: from its begin to the upper left pixel, or -1 where all four are outside; from there to the
  // right pixels; and to the lower ones.
  alignas(64) int64_t first[kPlanSize], right[kPlanSize], below[kPlanSize];
  alignas(64) T weight[4][kPlanSize];  // of the four pixels, modulated

  PLIANT_MEMBER bool is_inside(int64_t i) const { return first[i] >= 0; }

  // Sets the samples from i on.
  template <class V, class W>
  PLIANT_MEMBER void place(const pliant_tile& tile, int64_t i, const Axis<T>& y, const Axis<T>& x, W inside, V factor) {
    for (int j = 0; j < 4; ++j) store_bytes(weight[j] + i, y.weight[j >> 1] * x.weight[j & 1] * factor);
    // Element by element: of vectors that become twice as wide, compilers make a long way.
    alignas(64) Whole<T> row[kLanes<T>], column[kLanes<T>], row_step[kLanes<T>], column_step[kLanes<T>];
    store_bytes(row, y.first);
    store_bytes(column, x.first | ~inside);
    store_bytes(row_step, y.steps());
    store_bytes(column_step, x.steps());
    const int64_t pixel = tile.pixel_stride, line = tile.width * pixel;
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      first[i + lane] = column[lane] < 0 ? -1 : row[lane] * line + column[lane] * pixel;
      right[i + lane] = column_step[lane] & pixel;
      below[i + lane] = row_step[lane] & line;
    }
  }
};

template <class T>
struct Plan : Samples {
  using I = Whole<T>;
  alignas(64) I row[kPlanSize];            // of the upper pixels; -1 where all four are outside
  alignas(64) I column[kPlanSize];         // of the left pixels
  alignas(64) I row_step[kPlanSize];       // 1 where the lower pixels stand one row below, 0 where an edge holds them
  alignas(64) I column_step[kPlanSize];    // the same of the right pixels
  alignas(64) T row_weight[2][kPlanSize];  // 1 - fraction, fraction; 0 where the row does not exist
  alignas(64) T column_weight[2][kPlanSize];
  alignas(64) T row_exists[2][kPlanSize];  // 0 or 1
  alignas(64) T column_exists[2][kPlanSize];
  alignas(64) T modulation[kPlanSize];

  PLIANT_MEMBER bool is_inside(int64_t i) const { return row[i] >= 0; }

  // Sets the samples from i on.
  template <class V, class W>
  PLIANT_MEMBER void place(const pliant_tile&, int64_t i, const Axis<T>& y, const Axis<T>& x, W inside, V factor) {
    const W one = W{} + I(1);
    const V zero = {};
    store_bytes(row + i, y.first | ~inside);
    store_bytes(column + i, x.first);
    store_bytes(row_step + i, y.steps() & one);
    store_bytes(column_step + i, x.steps() & one);
    for (int j = 0; j < 2; ++j) {
      store_bytes(row_weight[j] + i, y.weight[j]);
      store_bytes(column_weight[j] + i, x.weight[j]);
      store_bytes(row_exists[j] + i, y.exists[j] ? zero + 1 : zero);
      store_bytes(column_exists[j] + i, x.exists[j] ? zero + 1 : zero);
    }
    store_bytes(modulation + i, factor);
  }
};

// `count` numbers of a map (offset or mask) as arithmetic type, `stride` elements apart.
template <class T, class S>
PLIANT_INLINE void read_map(const S* from, int64_t stride, int64_t count, T* to) {
  if (stride == 1) {
    for_channels<kLanesOfBoth<T, S>>(0, count, [&](auto n, int64_t i) { store(to + i, load_as<T>(from + i, n), n); });
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = load_as<T>(from + i * stride, lanes<1>{});
  }
}

// `channels` channels of a map, `count` numbers of each, to (channels, to_stride). The first stands at `from`;
// `strides` are those between images, channels and positions.
template <class T, class S>
void read_maps(const S* from, const int64_t* strides, int64_t channels, int64_t count, T* to, int64_t to_stride) {
  if constexpr (sizeof(T) == sizeof(S)) {
    if (strides[1] == 1 && strides[2] > 1) return transpose_block(from, strides[2], count, channels, to, to_stride);
  }
  for (int64_t c = 0; c < channels; ++c) read_map(from + c * strides[1], strides[2], count, to + c * to_stride);
}

// Fills `plan` for its image's output positions from `begin` on and offset group `group`. A position is inside where
// -1 <= h < H, which is false for NaN. At exactly -1 the value is 0 and the slope is the right-hand one, as at every
// other integer.
template <class T, class P>
void make_plan(const pliant_tile& tile, const void* offset, const void* mask, int64_t group, int64_t begin, P& plan) {
  constexpr int L = kLanes<T>;
  constexpr lanes<L> n{};
  typedef vec<T, L> V;
  const int64_t taps = tile.kernel[0] * tile.kernel[1], count = plan.positions;
  alignas(64) T base_y[kPlanSize] = {}, base_x[kPlanSize] = {}, moves[2 * kPlanSize] = {}, m[kPlanSize] = {};
  int64_t out_y = (tile.first + begin) / tile.out_width, out_x = (tile.first + begin) % tile.out_width;
  for (int64_t i = 0; i < count; ++i) {
    base_y[i] = static_cast<T>(out_y * tile.stride[0] - tile.padding[0]);
    base_x[i] = static_cast<T>(out_x * tile.stride[1] - tile.padding[1]);
    if (++out_x == tile.out_width) out_x = 0, ++out_y;
  }
  // Reads the plan's taps of a map that has `each` channels for every tap.
  const auto read = [&](const void* map, int64_t type, const int64_t* strides, int64_t each, T* to) {
    const int64_t c = each * (group * taps + plan.tap_begin), channels = each * (plan.tap_end - plan.tap_begin);
    with_storage(type, [&](auto item) {
      const auto* from = static_cast<const decltype(item)*>(map) + plan.image * strides[0] + c * strides[1];
      read_maps(from + begin * strides[2], strides, channels, count, to, plan.stride);
    });
  };
  read(offset, tile.offset_type, tile.offset_stride, 2, moves);
  if (mask)
    read(mask, tile.mask_type, tile.mask_stride, 1, m);
  else
    for (T& number : m) number = 1;
  const V height = V{} + static_cast<T>(tile.height), width = V{} + static_cast<T>(tile.width);
  for (int64_t k = plan.tap_begin; k < plan.tap_end; ++k) {
    const int64_t tap_y = k / tile.kernel[1], tap_x = k % tile.kernel[1], to = (k - plan.tap_begin) * plan.stride;
    const T *dy = moves + 2 * to, *dx = dy + plan.stride;
    const T y = static_cast<T>(tap_y * tile.dilation[0]), x = static_cast<T>(tap_x * tile.dilation[1]);
    for (int64_t i = 0; i < count; i += L) {
      const V h = load(base_y + i, n) + y + load(dy + i, n), w = load(base_x + i, n) + x + load(dx + i, n);
      const auto inside = (h >= V{} - 1) & (h < height) & (w >= V{} - 1) & (w < width);
      const V factor = inside ? load(m + to + i, n) : V{};  // outside it may be NaN
      plan.place(tile, to + i, Axis<T>(inside ? h : V{}, tile.height), Axis<T>(inside ? w : V{}, tile.width), inside,
                 factor);
    }
  }
}

// Part of a tile: output positions, counted through all images, taps and channels of the slice, each as [begin, end).
struct Block {
  int64_t position_begin, position_end, tap_begin, tap_end, channel_begin, channel_end;
};

// Calls body(image, begin, end) for the positions [begin, end) of each image.
template <class Body>
PLIANT_INLINE void for_images(const pliant_tile& tile, int64_t begin, int64_t end, const Body& body) {
  for (int64_t image = begin / tile.count; begin < end; ++image) {
    const int64_t stop = smaller(end, (image + 1) * tile.count);
    body(image, begin, stop);
    begin = stop;
  }
}

// Calls body(plan, group, channel_begin, channel_end, position_begin) for all of a block, split so that each plan is
// small and of one image, and each call's channels share an offset group. P is the kind of plan.
template <class T, class P = Plan<T>, class Body>
PLIANT_INLINE void for_plans(const pliant_tile& tile, const void* offset, const void* mask, const Block& block,
                             const Body& body) {
  const int64_t taps = block.tap_end - block.tap_begin, per_group = tile.offset_group_channels;
  const int64_t most = kPlanSize / kPlanStep, chunk = taps < most ? taps : most;
  const int64_t positions = kPlanSize / chunk / kPlanStep * kPlanStep;
  P plan;
  plan.stride = positions;
  for_images(tile, block.position_begin, block.position_end, [&](int64_t image, int64_t begin, int64_t end) {
    plan.image = image;
    for (int64_t p = begin; p < end; p += positions) {
      plan.positions = smaller(end - p, positions);
      for (int64_t c = block.channel_begin; c < block.channel_end;) {
        const int64_t group = (tile.channel_begin + c) / per_group;
        const int64_t stop = smaller((group + 1) * per_group - tile.channel_begin, block.channel_end);
        for (int64_t k = block.tap_begin; k < block.tap_end; k += chunk) {
          plan.tap_begin = k;
          plan.tap_end = smaller(k + chunk, block.tap_end);
          make_plan<T>(tile, offset, mask, group, p - image * tile.count, plan);
          body(plan, group, c, stop, p);
        }
        c = stop;
      }
    }
  });
}

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant

// SPDX-License-Identifier: Apache-2.0
// The fused forward pass: a block of positions is sampled into the cache and multiplied there by packed weights.
//
// The inner product is the usual one of optimised matrix multiplication: kRows positions times one panel of two vectors
// of output channels are kept in registers while a run of columns passes by; the run is short enough for the weights'
// panel to stay in the first-level cache, and the block small enough for its columns to stay in the second.
#pragma once

#include "cpu_sample.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

// Registers hold kRows * 2 sums, two vectors of weights and one column: 32 registers with AVX-512, else 16.
#if defined(__AVX512F__)
constexpr int kRows = 12;
#else
constexpr int kRows = 6;
#endif
constexpr int64_t kBlockPositions = 96;  // a multiple of every kRows
constexpr int64_t kRunBytes = 1280;      // of columns that are multiplied at a time

template <class T>
constexpr int kPanel = 2 * kLanes<T>;

// sums (kRows, kPanel) += columns (kRows, length) * weights (length, kPanel).
template <class T>
PLIANT_INLINE void multiply_panel(const T* columns, int64_t column_stride, const T* weights, int64_t length, T* sums,
                                  int64_t sum_stride) {
  constexpr int L = kLanes<T>;
  constexpr lanes<L> n{};
  vec<T, L> sum[kRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    sum[r][0] = load(sums + r * sum_stride, n);
    sum[r][1] = load(sums + r * sum_stride + L, n);
  }
  for (int64_t k = 0; k < length; ++k) {
    const vec<T, L> left = load(weights + k * 2 * L, n), right = load(weights + k * 2 * L + L, n);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const T column = columns[r * column_stride + k];
      sum[r][0] += column * left;
      sum[r][1] += column * right;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    store(sums + r * sum_stride, sum[r][0], n);
    store(sums + r * sum_stride + L, sum[r][1], n);
  }
}

PLIANT_INLINE int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

// How the columns of one weight group, (taps, run), are cut into pieces of about kRunBytes: whole taps or parts of one.
template <class T>
struct Pieces {
  int64_t taps, channels;

  Pieces(int64_t all_taps, int64_t run) {
    constexpr int64_t most = kRunBytes / int64_t(sizeof(T));
    channels = run <= most ? run : parts(parts(run, parts(run, most)), 16) * 16;
    taps = channels < run ? 1 : parts(all_taps, parts(all_taps * run, most));
  }
};

template <class T, class S>
struct Convolution {
  const pliant_tile& tile;
  const S* image;
  const T *offset, *mask, *weight;
  int64_t outputs;  // of each weight group
  const T* bias;
  S* output;
  const int64_t* output_stride;
  bool accumulate;
  int64_t taps = tile.kernel[0] * tile.kernel[1];
  int64_t panels = parts(outputs, kPanel<T>);
  Pieces<T> pieces{taps, tile.run};
  // A little more than a power of two between rows, so that they do not compete for the same cache sets.
  int64_t column_stride = pieces.taps * pieces.channels + 16, sum_stride = panels * kPanel<T>;

  int64_t scratch_size() const { return kBlockPositions * (column_stride + 2 * sum_stride); }

  void block(int64_t begin, int64_t end, T* columns) const {
    T* sums = columns + kBlockPositions * column_stride;
    for (int64_t group = 0; group * tile.run < tile.channels; ++group) {
      const int64_t c_begin = group * tile.run, c_end = c_begin + tile.run;
      __builtin_memset(sums, 0, kBlockPositions * sum_stride * sizeof(T));
      for (int64_t k = 0; k < taps; k += pieces.taps)
        for (int64_t c = c_begin; c < c_end; c += pieces.channels)
          piece({begin, end, k, smaller(taps, k + pieces.taps), c, smaller(c_end, c + pieces.channels)}, group, columns,
                sums);
      write(begin, end, group, sums);
    }
  }

  void piece(const Block& b, int64_t group, T* columns, T* sums) const {
    const int64_t width = b.channel_end - b.channel_begin, length = (b.tap_end - b.tap_begin) * width;
    const int64_t first = b.tap_begin * tile.run + b.channel_begin - group * tile.run;  // in the weights' columns
    sample_block(tile, image, offset, mask, b, columns, column_stride, width);
    for (int64_t panel = 0; panel < panels; ++panel) {
      const T* w = weight + ((group * panels + panel) * taps * tile.run + first) * kPanel<T>;
      for (int64_t p = 0; p < b.position_end - b.position_begin; p += kRows)
        multiply_panel(columns + p * column_stride, column_stride, w, length, sums + p * sum_stride + panel * kPanel<T>,
                       sum_stride);
    }
  }

  void write(int64_t begin, int64_t end, int64_t group, T* sums) const {
    const T* b = bias ? bias + group * outputs : nullptr;
    S* to = output + group * outputs * output_stride[1];
    if (output_stride[1] == 1) {
      for (int64_t p = begin; p < end; ++p) {
        const T* sum = sums + (p - begin) * sum_stride;
        for_channels<kLanes<T>>(0, outputs, [&](auto n, int64_t o) {
          auto total = load(sum + o, n);
          if (b) total += load(b + o, n);
          put(to + p * output_stride[0] + o, total, n);
        });
      }
      return;
    }
    // Positions lie side by side: turn the block over in cache, so that memory is written in long runs.
    T* turned = sums + kBlockPositions * sum_stride;
    turn(sums, turned);
    for (int64_t o = 0; o < outputs; ++o) {
      const T* sum = turned + o * kBlockPositions;
      for_channels<kLanes<T>>(0, end - begin, [&](auto n, int64_t p) {
        auto total = load(sum + p, n);
        if (b) total += b[o];
        put(to + o * output_stride[1] + begin + p, total, n);
      });
    }
  }

  template <class V, int L>
  PLIANT_MEMBER void put(S* to, V total, lanes<L> n) const {
    if (accumulate) total += load(to, n);
    store(to, total, n);
  }

  // turned (outputs, kBlockPositions) = sums (kBlockPositions, sum_stride) transposed.
  void turn(const T* sums, T* turned) const {
    constexpr int64_t step = 16;
    for (int64_t top = 0; top < kBlockPositions; top += step)
      for (int64_t first = 0; first < outputs; first += step)
        for (int64_t o = first; o < smaller(outputs, first + step); ++o)
          for (int64_t p = top; p < top + step; ++p) turned[o * kBlockPositions + p] = sums[p * sum_stride + o];
  }

  int run() const {
    const int64_t tasks = parts(tile.count, kBlockPositions), threads = smaller(tile.threads, tasks);
    T* scratch = static_cast<T*>(__builtin_malloc(threads * scratch_size() * sizeof(T) + 64));
    if (scratch == nullptr) return -1;
    // Rows past the last position are multiplied but never written; they must hold numbers all the same.
    __builtin_memset(scratch, 0, threads * scratch_size() * sizeof(T) + 64);
    T* aligned = scratch + (64 - reinterpret_cast<uintptr_t>(scratch) % 64) % 64 / sizeof(T);
    parallel_for(tasks, threads, [&](int64_t task, int64_t worker) {
      const int64_t begin = task * kBlockPositions;
      block(begin, smaller(tile.count, begin + kBlockPositions), aligned + worker * scratch_size());
    });
    __builtin_free(scratch);
    return 0;
  }
};

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant

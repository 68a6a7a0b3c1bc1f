// SPDX-License-Identifier: Apache-2.0
// The forward pass of few positions, where it is the weights that cost time: more of them are read than columns.
//
// All columns are sampled first. Then weights are packed a piece of a panel at a time, in cache, and multiplied at
// once: they are read a single time, as they lie, and no packed copy of all is written. Sums are made in cpu_conv.h's
// order and have the same bits.
#pragma once

#include "../_native/packing.h"
#include "cpu_conv.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

constexpr int64_t kFewSums = 1 << 16;  // that are kept at a time, about

template <class T, class S>
struct FewPositions {
  const pliant_tile& tile;
  const T* weight;
  const int64_t* weight_stride;  // between outputs, channels and taps
  int64_t outputs;               // of each weight group
  Result<T, S> result;
  T* columns;  // (rows, K * channels)
  int64_t taps = tile.kernel[0] * tile.kernel[1];
  int64_t column_stride = taps * tile.channels;
  int64_t count = tile.images * tile.count, rows = round_up(count, kBlockRows);
  int64_t panels = parts(outputs, kPanel<T>), each = panels_of_task();
  int64_t tasks_of_group = parts(panels, each), tasks = tile.channels / tile.run * tasks_of_group;
  Pieces<T> pieces{taps, tile.run};
  int64_t piece_size = pieces.taps * pieces.channels * kPanel<T>, sum_stride = each * kPanel<T>;

  // As many as one thread has, so that each piece of the columns is read once. Where the taps lie side by side, and a
  // piece takes a few numbers out of every line, one: its weights stay in cache for all pieces.
  int64_t panels_of_task() const {
    if (taps > 1 && weight_stride[2] == 1) return 1;
    return smaller(parts(panels, tile.threads), larger(1, kFewSums / rows / kPanel<T>));
  }

  int run(const S* image, const void* offset, const void* mask) const {
    const int64_t threads = smaller(tile.threads, tasks);
    const Scratch scratch(threads, (piece_size + 2 * rows * sum_stride) * sizeof(T));
    if (scratch.missing()) return -1;
    sample_columns<T>(tile, image, offset, mask, columns);
    // Rows past the last position are multiplied but never written.
    __builtin_memset(columns + count * column_stride, 0, (round_up(count, kRows) - count) * column_stride * sizeof(T));
    parallel_for(tasks, threads, [&](int64_t task, int64_t worker) {
      const int64_t first = task % tasks_of_group * sum_stride;
      multiply(task / tasks_of_group, first, smaller(outputs, first + sum_stride), scratch.of<T>(worker));
    });
    return 0;
  }

  // Outputs [first, last) of one group.
  void multiply(int64_t group, int64_t first, int64_t last, T* memory) const {
    T *packed = memory, *sums = packed + piece_size;
    __builtin_memset(sums, 0, rows * sum_stride * sizeof(T));
    for (int64_t k = 0; k < taps; k += pieces.taps)
      for (int64_t c = 0; c < tile.run; c += pieces.channels) {
        const int64_t width = smaller(tile.run - c, pieces.channels), some = smaller(taps - k, pieces.taps);
        const T* left = columns + (group * taps + k) * tile.run + c;
        for (int64_t o = first; o < last; o += kPanel<T>) {
          const Packing packing = {weight_stride, smaller(last - o, kPanel<T>), kPanel<T>, some, width * kPanel<T>};
          const T* from = weight + (group * outputs + o) * weight_stride[0];
          packing.run(from + c * weight_stride[1] + k * weight_stride[2], width, packed);
          for (int64_t p = 0; p < count; p += kRows)
            multiply_panel<false, true>(left + p * column_stride, column_stride, packed, kPanel<T>, some * width,
                                        sums + p * sum_stride + o - first, sum_stride);
        }
      }
    result.write(0, count, group * outputs + first, last - first, sums, sum_stride, sums + rows * sum_stride);
  }
};

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant

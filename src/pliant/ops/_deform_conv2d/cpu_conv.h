// SPDX-License-Identifier: Apache-2.0
// The fused forward pass: a block of positions is sampled into the cache and multiplied there by packed weights.
//
// The inner product is the usual one of optimised matrix multiplication: kRows positions times one panel of two vectors
// of output channels are kept in registers while a run of columns passes by; the run is short enough for the weights'
// panel to stay in the first-level cache, and the block small enough for its columns to stay in the second. Processors
// with AVX-512 read panels from the second-level cache as fast: there longer runs, which sample less often, are faster.
#pragma once

#include "../_native/squares.h"
#include "cpu_product.h"
#include "cpu_sample.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

constexpr int64_t kBlockPositions = 96;    // at most; twice as many where all weights are too large for a cache,
constexpr int64_t kManyWeights = 4 << 20;  // that is, have more bytes than this, and are read anew for each block
constexpr int64_t kRunBytes = kVectorBytes == 64 ? 2304 : 1280;  // of columns multiplied at a time
constexpr int64_t kMargin = 2;                                   // pixels that most offsets do not exceed
constexpr int64_t kBlockOutputs = 2048;  // whose sums are kept at a time; a multiple of every panel
constexpr int64_t kBlockRows = 48;       // a multiple of every kRows, and of the positions that are turned at once

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

// Sums of a block of positions, (positions, stride), on their way to the output.
template <class T, class S>
struct Result {
  const pliant_tile& tile;
  const T* bias;
  S* output;
  const int64_t* output_stride;  // between images, between positions, and between channels
  bool accumulate;

  // Writes `outputs` sums of positions [begin, end). `turned` has room for as many sums again.
  void write(int64_t begin, int64_t end, int64_t first, int64_t outputs, const T* sums, int64_t stride,
             T* turned) const {
    const bool turns = output_stride[2] != 1;
    // Where positions lie side by side, the block is turned over in cache, so that memory is written in long runs.
    const int64_t rows = round_up(end - begin, kTurn);
    if (turns) transpose_block(sums, stride, rows, outputs, turned, rows);
    for_images(tile, begin, end, [&](int64_t image, int64_t from, int64_t stop) {
      S* to =
          output + image * output_stride[0] + (from - image * tile.count) * output_stride[1] + first * output_stride[2];
      if (turns)
        put_columns(stop - from, outputs, turned + from - begin, rows, first, to);
      else
        put_rows(stop - from, outputs, sums + (from - begin) * stride, stride, first, to);
    });
  }

 private:
  static constexpr int64_t kTurn = 16;

  void put_rows(int64_t count, int64_t outputs, const T* sums, int64_t stride, int64_t first, S* to) const {
    for (int64_t p = 0; p < count; ++p)
      for_channels<kLanes<T>>(0, outputs, [&](auto n, int64_t o) {
        auto total = load(sums + p * stride + o, n);
        if (bias) total += load(bias + first + o, n);
        put(to + p * output_stride[1] + o, total, n);
      });
  }

  void put_columns(int64_t count, int64_t outputs, const T* turned, int64_t stride, int64_t first, S* to) const {
    for (int64_t o = 0; o < outputs; ++o)
      for_channels<kLanes<T>>(0, count, [&](auto n, int64_t p) {
        auto total = load(turned + o * stride + p, n);
        if (bias) total += bias[first + o];
        put(to + o * output_stride[2] + p, total, n);
      });
  }

  template <class V, int L>
  PLIANT_MEMBER void put(S* to, V total, lanes<L> n) const {
    if (accumulate) total += load(to, n);
    store(to, total, n);
  }
};

template <class T, class S>
struct Convolution {
  const pliant_tile& tile;
  const S* image;
  const void *offset, *mask;
  const T* weight;
  int64_t outputs;  // of each weight group
  Result<T, S> result;
  int64_t taps = tile.kernel[0] * tile.kernel[1];
  int64_t panels = parts(outputs, kPanel<T>);
  int64_t most = outputs * taps * tile.run * int64_t(sizeof(T)) < kManyWeights ? kBlockPositions : 2 * kBlockPositions;
  // As many blocks for each thread, which differ by kRows positions at most; small images share one. Their size changes
  // no sum.
  int64_t count = tile.images * tile.count, tasks = round_up(parts(count, most), tile.threads);
  int64_t steps = parts(count, kRows), rows = round_up(parts(steps, tasks) * kRows, kBlockRows);
  Pieces<T> pieces{taps, tile.run};
  // A little more than a power of two between rows, so that they do not compete for the same cache sets.
  int64_t column_stride = pieces.taps * pieces.channels + 16;
  int64_t sum_stride = smaller(panels * kPanel<T>, kBlockOutputs);

  int64_t scratch_size() const { return rows * (column_stride + 2 * sum_stride); }

  void block(int64_t begin, int64_t end, T* columns) const {
    for (int64_t group = 0; group * tile.run < tile.channels; ++group)
      for (int64_t first = 0; first < outputs; first += kBlockOutputs)
        block(begin, end, group, first, smaller(outputs, first + kBlockOutputs), columns);
  }

  // Outputs [first, last) of one weight group.
  void block(int64_t begin, int64_t end, int64_t group, int64_t first, int64_t last, T* columns) const {
    T* sums = columns + rows * column_stride;
    const int64_t c_begin = group * tile.run, c_end = c_begin + tile.run;
    __builtin_memset(sums, 0, rows * sum_stride * sizeof(T));
    for (int64_t k = 0; k < taps; k += pieces.taps)
      for (int64_t c = c_begin; c < c_end; c += pieces.channels) {
        const Block b = {begin, end, k, smaller(taps, k + pieces.taps), c, smaller(c_end, c + pieces.channels)};
        sample_block<T>(tile, image, offset, mask, b, columns, column_stride, b.channel_end - b.channel_begin);
        multiply(b, group, first, last, columns, sums);
      }
    result.write(begin, end, group * outputs + first, last - first, sums, sum_stride, sums + rows * sum_stride);
  }

  void multiply(const Block& b, int64_t group, int64_t first, int64_t last, const T* columns, T* sums) const {
    const int64_t width = b.channel_end - b.channel_begin, length = (b.tap_end - b.tap_begin) * width;
    const int64_t before = b.tap_begin * tile.run + b.channel_begin - group * tile.run;  // in the weights' columns
    // What of the image the next block reads, most of which the weights have driven out of the cache since, comes back
    // during the last products of this one, which leave the memory idle.
    const bool ends = b.tap_end == taps && b.channel_end == tile.channels && b.position_end < count;
    for (int64_t o = first; o < last; o += kPanel<T>) {
      const T* w = weight + ((group * panels + o / kPanel<T>)*taps * tile.run + before) * kPanel<T>;
      const bool fetches = ends && o + kPanel<T> >= outputs;
      for (int64_t p = 0; p < b.position_end - b.position_begin; p += kRows) {
        const T* left = columns + p * column_stride;
        T* to = sums + p * sum_stride + o - first;
        if (fetches)
          multiply_panel(left, column_stride, w, length, to, sum_stride, next_pixels(b, p));
        else
          multiply_panel<false, true>(left, column_stride, w, kPanel<T>, length, to, sum_stride);
      }
    }
  }

  // A part of the image that the block after `b` will probably read, another one for each step of kRows positions: rows
  // around its first position, kMargin pixels more than without offsets.
  Ahead next_pixels(const Block& b, int64_t step) const {
    const int64_t size = b.position_end - b.position_begin, position = tile.first + b.position_end % tile.count;
    const int64_t rows_read = (tile.kernel[0] - 1) * tile.dilation[0] + 2 + 2 * kMargin;
    const int64_t y = position / tile.out_width * tile.stride[0] - tile.padding[0] - kMargin + step * rows_read / size;
    const int64_t x = position % tile.out_width * tile.stride[1] - tile.padding[1] - kMargin;
    const int64_t first = smaller(larger(y, 0), tile.height - 1) * tile.width + smaller(larger(x, 0), tile.width - 1);
    const int64_t pixels = smaller(size * tile.stride[1] + 2 * kMargin, tile.height * tile.width - first);
    const S* begin = image + b.position_end / tile.count * tile.image_stride + first * tile.pixel_stride;
    const S* end = begin + pixels * tile.pixel_stride;
    return {reinterpret_cast<const char*>(begin), reinterpret_cast<const char*>(end)};
  }

  int run() const {
    const int64_t threads = smaller(tile.threads, tasks);
    // Rows past the last position are multiplied but never written; they must hold numbers all the same.
    const Scratch scratch(threads, scratch_size() * sizeof(T));
    if (scratch.missing()) return -1;
    parallel_for(tasks, threads, [&](int64_t task, int64_t worker) {
      const int64_t begin = task * steps / tasks * kRows, end = smaller(count, (task + 1) * steps / tasks * kRows);
      if (begin < end) block(begin, end, scratch.of<T>(worker));
    });
    return 0;
  }
};

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant

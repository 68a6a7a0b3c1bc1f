// SPDX-License-Identifier: Apache-2.0
// Weighted means of bilinear samples at shifted bins: the loop over the bins of a box, and the forward pass.
#pragma once

#include "../_native/parallel.h"
#include "cpu_axis.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

constexpr int64_t kBlockBins = 64;             // of a box that are pooled before they are turned over in the cache
constexpr int64_t kBlockChannels = 256;        // the same, of channels
constexpr int64_t kUnit = 64;                  // channels over which a product is summed at once
constexpr int64_t kTurned = 16;                // channels that are turned over at a time
constexpr int64_t kRow = kBlockChannels + 16;  // a little more than a power of two, so that all cache sets are used

// What one thread works in.
template <class T>
struct Workspace {
  Axis<T> rows, columns;
  T* block;   // (kBlockBins, kRow)
  T* turned;  // (kTurned, kBlockBins)
  T* dots;    // (width): of the pixels of a row

  static int64_t memory_size(const pliant_pooling& p) {
    const int64_t lines = Axis<T>::memory_size(p.height) + Axis<T>::memory_size(p.width);
    return (lines + (kBlockBins * (kRow + kTurned) + p.width) * int64_t(sizeof(T)) + 127) / 64 * 64;
  }
  Workspace(const pliant_pooling& p, char* memory)
      : rows(p.height, p.width, p.bins[0], p.rule, memory),
        columns(p.width, 1, p.bins[1], p.rule, memory + Axis<T>::memory_size(p.height)) {
    char* rest = memory + Axis<T>::memory_size(p.height) + Axis<T>::memory_size(p.width);
    block = reinterpret_cast<T*>(rest + (64 - reinterpret_cast<uintptr_t>(rest) % 64) % 64);
    turned = block + kBlockBins * kRow;
    dots = turned + kBlockBins * kTurned;
  }
};

// Channels [begin, end) of the slice, all of one class and at most kBlockChannels.
struct ChannelBlock {
  int64_t begin, end, class_number;
};

// The parts of a pass that forward and backward share.
template <class T>
struct Boxes {
  const pliant_pooling& pooling;
  const int64_t* index;
  const Side<T>* sides;
  const T *shift, *mask;

  // A class's channels, as far as they are in the slice.
  PLIANT_MEMBER int64_t class_of(int64_t channel) const {
    return (pooling.channel_begin + channel) / pooling.class_channels;
  }
  PLIANT_MEMBER int64_t class_begin(int64_t number) const {
    const int64_t begin = number * pooling.class_channels - pooling.channel_begin;
    return begin > 0 ? begin : 0;
  }
  PLIANT_MEMBER int64_t class_end(int64_t number) const {
    return smaller((number + 1) * pooling.class_channels - pooling.channel_begin, pooling.channels);
  }

  // Calls body(block) for the channels [begin, end) of the slice.
  template <class Body>
  PLIANT_MEMBER void for_channel_blocks(int64_t begin, int64_t end, const Body& body) const {
    while (begin < end) {
      const int64_t number = class_of(begin);
      const int64_t stop = smaller(smaller(end, class_end(number)), begin + kBlockChannels);
      body(ChannelBlock{begin, stop, number});
      begin = stop;
    }
  }

  // Calls body(bin, group) for bins [first, last) of a box, with their rows and columns planned in `work`. `group` is
  // the offset of the bin's channels at a pixel.
  template <class Body>
  PLIANT_MEMBER void for_bins(int64_t box, int64_t class_number, int64_t first, int64_t last, Workspace<T>& work,
                              const Body& body) const {
    const pliant_pooling& p = pooling;
    const int64_t bins = p.bins[0] * p.bins[1], classes = p.outputs / p.class_channels;
    const T* dx = shift ? shift + (box * classes + class_number) * 2 * bins : nullptr;
    for (int64_t bin = first; bin < last; ++bin) {
      const int64_t y = bin / p.bins[1], x = bin % p.bins[1];
      // Without shifts, all bins of a row have the same rows.
      if (dx || x == 0 || bin == first) work.rows.plan(sides[2 * box], y, dx ? dx[bins + bin] : T(0));
      work.columns.plan(sides[2 * box + 1], x, dx ? dx[bin] : T(0));
      body(bin, (y * p.groups / p.bins[0] * p.groups + x * p.groups / p.bins[1]) * p.group_stride);
    }
  }

  // How many of a box's bins are taken at a time: equal blocks.
  PLIANT_MEMBER int64_t block_bins() const {
    const int64_t bins = pooling.bins[0] * pooling.bins[1], blocks = (bins + kBlockBins - 1) / kBlockBins;
    return (bins + blocks - 1) / blocks;
  }

  PLIANT_MEMBER T mask_at(int64_t box, int64_t class_number, int64_t bin) const {
    const int64_t bins = pooling.bins[0] * pooling.bins[1], classes = pooling.outputs / pooling.class_channels;
    return mask ? mask[(box * classes + class_number) * bins + bin] : T(1);
  }

  // Calls body(task, workspace), in parallel; returns -1 where there is no memory to work in.
  template <class Body>
  int for_tasks(int64_t tasks, const Body& body) const {
    const int64_t threads = smaller(pooling.threads, tasks), size = Workspace<T>::memory_size(pooling);
    if (tasks == 0) return 0;
    char* memory = static_cast<char*>(__builtin_malloc(threads * size));
    if (memory == nullptr) return -1;
    __builtin_memset(memory, 0, threads * size);
    parallel_for(tasks, threads, [&](int64_t task, int64_t worker) {
      Workspace<T> work(pooling, memory + worker * size);
      body(task, work);
    });
    __builtin_free(memory);
    return 0;
  }
};

// What a bin reads.
template <class T, class S>
struct Pixels {
  const Axis<T>&rows, &columns;
  const S* first;  // the bin's first channel at pixel 0
  int64_t stride, channel_stride;

  // sums (channels) = sum over lines of row weight * column weight * pixel * factor, for Vectors * L channels at c.
  template <int Vectors, int L>
  PLIANT_MEMBER void sum_vectors(T factor, int64_t c, T* sums, lanes<L> n) const {
    vec<T, L> sum[Vectors] = {};
    for (const Line<T>& row : rows) {
      const T row_weight = row.weight * factor;
      for (const Line<T>& column : columns) {
        const S* pixel = first + (row.pixel + column.pixel) * stride + c;
        const T weight = row_weight * column.weight;
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) sum[v] += weight * load(pixel + v * L, n);
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) store(sums + c + v * L, sum[v], n);
  }

  PLIANT_MEMBER void sum(T factor, int64_t channels, T* sums) const {
    if (channel_stride != 1) return sum_planes(factor, channels, sums);
    constexpr int L = kLanes<T>, kVectors = 8;
    int64_t c = 0;
    for (; c + kVectors * L <= channels; c += kVectors * L) sum_vectors<kVectors>(factor, c, sums, lanes<L>{});
    for_channels<L>(c, channels, [&](auto n, int64_t i) { sum_vectors<1>(factor, i, sums, n); });
  }

  PLIANT_MEMBER void sum_planes(T factor, int64_t channels, T* sums) const {
    for (int64_t c = 0; c < channels; ++c) {
      T sum = 0;
      for (const Line<T>& row : rows) {
        const S* pixel = first + c * channel_stride + row.pixel * stride;
        T sum_of_row = 0;
        for (const Line<T>& column : columns)
          sum_of_row += column.weight * load(pixel + column.pixel * stride, lanes<1>{});
        sum += row.weight * sum_of_row;
      }
      sums[c] = sum * factor;
    }
  }
};

template <class T, class S>
struct Pool {
  Boxes<T> boxes;
  const S* image;
  S* output;

  int run() const {
    const pliant_pooling& p = boxes.pooling;
    return boxes.for_tasks(p.boxes, [&](int64_t task, Workspace<T>& work) {
      boxes.for_channel_blocks(0, p.channels,
                               [&](const ChannelBlock& channels) { box(boxes.index[task], channels, work); });
    });
  }

  void box(int64_t number, const ChannelBlock& channels, Workspace<T>& work) const {
    const pliant_pooling& p = boxes.pooling;
    const int64_t bins = p.bins[0] * p.bins[1], width = channels.end - channels.begin;
    S* to = output + (number * p.outputs + p.channel_begin + channels.begin) * bins;
    for (int64_t first = 0, step = boxes.block_bins(); first < bins; first += step) {
      const int64_t last = smaller(bins, first + step);
      boxes.for_bins(number, channels.class_number, first, last, work, [&](int64_t bin, int64_t group) {
        T* sums = work.block + (bin - first) * kRow;
        if (work.rows.empty() || work.columns.empty()) {
          __builtin_memset(sums, 0, width * sizeof(T));
          return;
        }
        const T mean = 1 / (work.rows.divisor() * work.columns.divisor());
        const T factor = mean * boxes.mask_at(number, channels.class_number, bin);
        const Pixels<T, S> pixels = {work.rows, work.columns, image + group + channels.begin * p.channel_stride,
                                     p.pixel_stride, p.channel_stride};
        pixels.sum(factor, width, sums);
      });
      write(work, width, last - first, to + first, bins);
    }
  }

  // Bins lie side by side in the output: turn the block over in the cache, so that memory is written in long runs.
  void write(const Workspace<T>& work, int64_t channels, int64_t count, S* to, int64_t stride) const {
    for (int64_t c = 0; c < channels; c += kTurned) {
      const int64_t width = smaller(kTurned, channels - c);
      for (int64_t b = 0; b < count; ++b)
        for (int64_t i = 0; i < width; ++i) work.turned[i * kBlockBins + b] = work.block[b * kRow + c + i];
      for (int64_t i = 0; i < width; ++i)
        for_channels<kLanes<T>>(0, count, [&](auto n, int64_t b) {
          store(to + (c + i) * stride + b, load(work.turned + i * kBlockBins + b, n), n);
        });
    }
  }
};

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant

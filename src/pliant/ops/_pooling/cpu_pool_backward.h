// SPDX-License-Identifier: Apache-2.0
// The gradients of the pooled image, and the sums of which those of shifts, masks and boxes consist.
#pragma once

#include "cpu_pool.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

// Products of a bin: sums over its lines and over channels of gradient * pixel, weighted in five ways.
template <class T>
struct Products {
  using V = vec<T, kLanes<T>>;
  V value = {}, slope[2] = {}, moment[2] = {};  // vertical, horizontal

  // The sums over columns of one row.
  struct Row {
    V value = {}, slope = {}, moment = {};
    PLIANT_MEMBER void add(V dot, const Line<T>& column) {
      value += dot * column.weight;
      slope += dot * column.slope;
      moment += dot * column.moment;
    }
  };
  PLIANT_MEMBER void add(const Row& sums, const Line<T>& row) {
    value += sums.value * row.weight;
    slope[0] += sums.value * row.slope;
    moment[0] += sums.value * row.moment;
    slope[1] += sums.slope * row.weight;
    moment[1] += sums.moment * row.weight;
  }
  PLIANT_MEMBER void write(T mean, T mask, T* result) const {
    result[0] = total(value) * mean;
    for (int i = 0; i < 2; ++i) {
      result[1 + i] = total(slope[i]) * (mean * mask);
      result[3 + i] = total(moment[i]) * (mean * mask);
    }
  }
  PLIANT_MEMBER static T total(V v) {
    T sum = v[0];
    for (int i = 1; i < kLanes<T>; ++i) sum += v[i];
    return sum;
  }
};

// Which gradients a loop computes: known when it is compiled.
template <bool Image, bool Products>
struct Wanted {
  static constexpr bool image = Image, products = Products;
};

template <class T, class S>
struct PoolBackward {
  Boxes<T> boxes;
  const S *image, *grad;
  T* grad_image;  // may be null
  int64_t grad_pixel_stride;
  T* products;  // may be null

  // Each task goes through all boxes in order for channels of its own, so that no two write to one place, and products
  // are summed over fixed units of channels: the number of tasks changes no sum.
  int run() const {
    const pliant_pooling& p = boxes.pooling;
    int64_t units = 0;
    for (int64_t c = 0; c < p.channels; c = next_unit(c)) ++units;
    const int64_t tasks = smaller(p.threads, units);
    return boxes.for_tasks(tasks, [&](int64_t task, Workspace<T>& work) {
      int64_t begin = 0, end;
      for (int64_t unit = 0; unit < units * task / tasks; ++unit) begin = next_unit(begin);
      end = begin;
      for (int64_t unit = units * task / tasks; unit < units * (task + 1) / tasks; ++unit) end = next_unit(end);
      for (int64_t i = 0; i < p.boxes; ++i)
        boxes.for_channel_blocks(begin, end, [&](const ChannelBlock& channels) { box(i, channels, work); });
    });
  }

  // A unit is kUnit channels, or fewer at the end of a class or of the slice.
  int64_t next_unit(int64_t channel) const {
    return smaller(channel + kUnit, boxes.class_end(boxes.class_of(channel)));
  }

  void box(int64_t i, const ChannelBlock& channels, Workspace<T>& work) const {
    const pliant_pooling& p = boxes.pooling;
    const int64_t bins = p.bins[0] * p.bins[1], number = boxes.index[i], width = channels.end - channels.begin;
    const S* from = grad + (number * p.outputs + p.channel_begin + channels.begin) * bins;
    for (int64_t first = 0, step = boxes.block_bins(); first < bins; first += step) {
      const int64_t last = smaller(bins, first + step);
      read(from + first, bins, width, last - first, work);
      boxes.for_bins(number, channels.class_number, first, last, work, [&](int64_t bin, int64_t group) {
        if (work.rows.empty() || work.columns.empty()) return;
        const Pixels<T, S> pixels = {work.rows, work.columns, image + group + channels.begin * p.channel_stride,
                                     p.pixel_stride, p.channel_stride};
        const T mask = boxes.mask_at(number, channels.class_number, bin);
        const T* g = work.block + (bin - first) * kRow;
        T* to = grad_image ? grad_image + group + channels.begin * p.channel_stride : nullptr;
        for (int64_t c = 0; c < width; c += kUnit)
          unit(pixels, g, c, smaller(kUnit, width - c), mask, to, result(i, bin, channels, c), work.dots);
      });
    }
  }

  // Turns the gradient of a box, whose bins lie side by side, so that its channels do.
  void read(const S* from, int64_t stride, int64_t channels, int64_t count, const Workspace<T>& work) const {
    for (int64_t c = 0; c < channels; c += kTurned) {
      const int64_t width = smaller(kTurned, channels - c);
      for (int64_t i = 0; i < width; ++i)
        for_channels<kLanes<T>>(0, count, [&](auto n, int64_t b) {
          store(work.turned + i * kBlockBins + b, load(from + (c + i) * stride + b, n), n);
        });
      for (int64_t b = 0; b < count; ++b)
        for (int64_t i = 0; i < width; ++i) work.block[b * kRow + c + i] = work.turned[i * kBlockBins + b];
    }
  }

  // Where the products of a unit go: (units of a class, boxes, classes, bins, 5).
  T* result(int64_t i, int64_t bin, const ChannelBlock& channels, int64_t c) const {
    if (products == nullptr) return nullptr;
    const pliant_pooling& p = boxes.pooling;
    const int64_t classes = p.outputs / p.class_channels, bins = p.bins[0] * p.bins[1];
    const int64_t number = channels.class_number,
                  unit_number = (channels.begin + c - boxes.class_begin(number)) / kUnit;
    return products + (((unit_number * p.boxes + i) * classes + number) * bins + bin) * 5;
  }

  void unit(const Pixels<T, S>& pixels, const T* g, int64_t c, int64_t channels, T mask, T* to, T* products_to,
            T* dots) const {
    const auto run = [&](auto wanted) {
      if (pixels.channel_stride != 1) return spread_planes(wanted, pixels, g, c, channels, mask, to, products_to, dots);
      channels == kUnit ? spread(wanted, pixels, g, c, kUnit, mask, to, products_to)
                        : spread(wanted, pixels, g, c, channels, mask, to, products_to);
    };
    if (to && products_to) return run(Wanted<true, true>{});
    if (to) return run(Wanted<true, false>{});
    run(Wanted<false, true>{});
  }

  // One unit's share of all gradients of a bin, of whose mean `g` is the gradient.
  template <class W>
  PLIANT_MEMBER void spread(W, const Pixels<T, S>& pixels, const T* g, int64_t c, int64_t channels, T mask, T* to,
                            T* products_to) const {
    const T mean = 1 / (pixels.rows.divisor() * pixels.columns.divisor());
    Products<T> products_of_bin;
    for (const Line<T>& row : pixels.rows) {
      const T row_weight = row.weight * (mean * mask);
      typename Products<T>::Row products_of_row;
      for (const Line<T>& column : pixels.columns) {
        const int64_t number = row.pixel + column.pixel;
        const S* pixel = pixels.first + number * pixels.stride + c;
        T* grad_pixel = W::image ? to + number * grad_pixel_stride + c : nullptr;
        const T weight = row_weight * column.weight;
        Sum<T, kLanes<T>> dot;
        for_channels<kLanes<T>>(0, channels, [&](auto n, int64_t j) {
          const auto g_j = load(g + c + j, n);
          if constexpr (W::products) dot.add(g_j * load(pixel + j, n), n);
          if constexpr (W::image) store(grad_pixel + j, load(grad_pixel + j, n) + g_j * weight, n);
        });
        if constexpr (W::products) products_of_row.add(dot.lanes_of_sum, column);
      }
      if constexpr (W::products) products_of_bin.add(products_of_row, row);
    }
    if constexpr (W::products) products_of_bin.write(mean, mask, products_to);
  }

  // The same where each channel is a plane. `dots` has room for a product of every pixel of a row.
  template <class W>
  PLIANT_MEMBER void spread_planes(W, const Pixels<T, S>& pixels, const T* g, int64_t c, int64_t channels, T mask,
                                   T* to, T* products_to, T* dots) const {
    const T mean = 1 / (pixels.rows.divisor() * pixels.columns.divisor());
    Products<T> products_of_bin;
    for (const Line<T>& row : pixels.rows) {
      const T row_weight = row.weight * (mean * mask);
      __builtin_memset(dots, 0, (pixels.columns.end() - pixels.columns.begin()) * sizeof(T));
      for (int64_t j = c; j < c + channels; ++j) {
        const int64_t plane = j * pixels.channel_stride;
        const T weighted = g[j] * row_weight;
        T* dot = dots;
        for (const Line<T>& column : pixels.columns) {
          const int64_t number = row.pixel + column.pixel;
          if constexpr (W::products) *dot++ += g[j] * load(pixels.first + plane + number * pixels.stride, lanes<1>{});
          if constexpr (W::image) to[plane + number * grad_pixel_stride] += weighted * column.weight;
        }
      }
      if constexpr (!W::products) continue;
      typename Products<T>::Row products_of_row;
      const T* dot = dots;
      for (const Line<T>& column : pixels.columns) {
        const typename Products<T>::V first_lane = {*dot++};
        products_of_row.add(first_lane, column);
      }
      products_of_bin.add(products_of_row, row);
    }
    if constexpr (W::products) products_of_bin.write(mean, mask, products_to);
  }
};

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant

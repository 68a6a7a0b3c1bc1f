// SPDX-License-Identifier: Apache-2.0
// From the gradients of samples to those of image, offset and mask.
//
// Channels are divided among tasks, so that no two write to one pixel's channels. They are divided into units that
// follow from the problem alone, and sums over channels are made unit by unit: they have the same bits for any number
// of threads, and however many units a task has.
#pragma once

#include "../_native/squares.h"
#include "cpu_product.h"
#include "cpu_sample.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

constexpr int64_t kUnit = 64;  // the most channels of a unit
constexpr int64_t kSmallestUnit = 16;
constexpr int64_t kTask = 256;        // the most channels of a task, whose samples are planned once for all of them,
constexpr int64_t kUnitsOfTask = 8;   // and the most units
constexpr int64_t kPlanePixels = 64;  // that are turned from channels side by side into planes at a time

struct Range {
  int64_t begin, end;
  PLIANT_MEMBER int64_t size() const { return end - begin; }
};

// How the channels of a slice are divided: into parts of one weight group, or runs of whole groups.
struct Units {
  int64_t channels, run, unit;

  // It is smaller for few channels, so that there is work for some threads.
  explicit Units(const pliant_tile& tile)
      : channels(tile.channels),
        run(tile.run),
        unit(channels <= 64    ? kSmallestUnit
             : channels <= 256 ? 32
                               : kUnit) {}

  // All channels in one, where a single thread sums over them.
  static Units one(const pliant_tile& tile) {
    Units units(tile);
    units.run = units.unit = tile.channels;
    return units;
  }

  PLIANT_MEMBER int64_t groups() const { return run < unit ? unit / run : 1; }  // of a unit
  PLIANT_MEMBER int64_t parts_of_group() const { return run < unit ? 1 : parts(run, unit); }
  PLIANT_MEMBER int64_t count() const {
    return run < unit ? parts(channels, groups() * run) : channels / run * parts_of_group();
  }
  PLIANT_MEMBER Range at(int64_t number) const {
    if (run < unit) return {number * groups() * run, smaller(channels, (number + 1) * groups() * run)};
    const int64_t group = number / parts_of_group(), begin = group * run + number % parts_of_group() * unit;
    return {begin, smaller((group + 1) * run, begin + unit)};
  }

  // How many units a task has, at most `most`: as many for each thread, in as few rounds as that allows.
  int64_t of_task(int64_t threads, int64_t most = kUnitsOfTask) const {
    const int64_t rounds = parts(count(), threads * smaller(most, kTask / unit));
    return parts(count(), threads * rounds);
  }
};

// The units of one task: at most `most`, which is what Units::of_task says.
struct Task {
  int64_t first, count = 0;  // numbers of the first unit, and of units
  Range unit[kUnitsOfTask];

  Task(const Units& units, int64_t number, int64_t most) : first(number * most) {
    for (; count < most && first + count < units.count(); ++count) unit[count] = units.at(first + count);
  }
  PLIANT_MEMBER Range channels() const { return {unit[0].begin, unit[count - 1].end}; }
};

// A sample as a task meets it, with some channels of one of its units.
struct Place {
  int64_t image, position, tap;  // positions are counted through all images
  int64_t unit;                  // of the task
  Range channels;
};

// Where the gradient of images is added up.
template <class T>
struct Target {
  T* image;  // null where it is not needed
  int64_t image_stride, pixel_stride;
};

// What one sample gives to the gradient of the image and takes from the image.
template <class T, class S>
struct Spread {
  static constexpr int L = kLanes<T>;
  Corners<T, S> corners;  // scaled by the modulation
  T* grad[4];
  Sum<T, L> dot[4];  // over channels of a unit, of (gradient of the column) * (pixel)

  // A pixel outside the image has no gradient: what it would get goes to `sink`, which has room for a task's channels.
  PLIANT_MEMBER Spread(const pliant_tile& tile, const S* image, const Target<T>& to, const Plan<T>& plan, int64_t i,
                       T* sink)
      : corners(tile, image, plan, i) {
    corners.scale(plan.modulation[i]);
    const int64_t right = plan.column_step[i], below = plan.row_step[i] * tile.width;
    const int64_t first = plan.row[i] * tile.width + plan.column[i];
    const int64_t begin = plan.image * to.image_stride;
    for (int j = 0; j < 4; ++j) {
      const bool exists = to.image && plan.row_exists[j >> 1][i] * plan.column_exists[j & 1][i] != 0;
      const int64_t pixel = first + (j >> 1) * below + (j & 1) * right;
      grad[j] = exists ? to.image + begin + pixel * to.pixel_stride : sink;
    }
  }

  // Gives the dots of the unit, and begins the next one's.
  PLIANT_MEMBER void take_dots(T (&totals)[4]) {
    const vec<T, L> sums[4] = {dot[0].lanes_of_sum, dot[1].lanes_of_sum, dot[2].lanes_of_sum, dot[3].lanes_of_sum};
    totals_of<T, L>(sums, totals);
    for (auto& sum : dot) sum = {};
  }

  // For channels [begin, end): `gradient(n, c)` is that of the column, and take(n, c, column) is given the column.
  //
  // Everything is read before anything is written: rows of an image often lie a multiple of 4 KiB apart, where a
  // processor takes a read for one of what was just written, and waits. The sums are kept in variables, which compilers
  // put into registers, as they would not do with members.
  template <class Gradient, class Take>
  PLIANT_MEMBER void add(int64_t begin, int64_t end, const Gradient& gradient, const Take& take) {
    const Corners<T, S> from = corners;
    T* const to[4] = {grad[0], grad[1], grad[2], grad[3]};
    Sum<T, L> dots[4] = {dot[0], dot[1], dot[2], dot[3]};
    for_channels<L>(begin, end, [&](auto n, int64_t c) {
      const auto g = gradient(n, c);
      decltype(load(to[0], n)) column = {}, sum[4];
      for (int i = 0; i < 4; ++i) {
        const auto pixel = load(from.pixel[i] + c, n);
        dots[i].add(g * pixel, n);
        column += pixel * from.weight[i];
        sum[i] = load(to[i] + c, n) + g * from.weight[i];
      }
      for (int i = 0; i < 4; ++i) store(to[i] + c, sum[i], n);
      take(n, c, column);
    });
    for (int i = 0; i < 4; ++i) dot[i] = dots[i];
  }
};

// The parts of a backward pass that all its loops share.
template <class T, class S>
struct Backward {
  const pliant_tile& tile;
  const S* image;
  const void *offset, *mask;
  const pliant_gradients& result;
  T* partial;  // (units, 3, offset groups, taps, positions): shares of the gradients of dy, dx and mask; may be null
  Units units{tile};
  int64_t taps = tile.kernel[0] * tile.kernel[1], count = tile.images * tile.count;
  int64_t pixels = tile.height * tile.width;

  // The gradient of the outputs at a position, which is in image number n.
  PLIANT_MEMBER const S* upstream(int64_t n, int64_t position) const {
    return static_cast<const S*>(result.grad) + n * result.grad_stride[0] +
           (position - n * tile.count) * result.grad_stride[1];
  }

  // Where a task of channels c adds up the gradient of images. Threads that write to neighbouring channels of a pixel
  // take the memory out of each other's caches, so that each task has memory of its own where there is some.
  PLIANT_MEMBER Target<T> target(const Range& c) const {
    if (!result.image || !result.image_memory)
      return {static_cast<T*>(result.image), result.image_stride, result.pixel_stride};
    T* own = static_cast<T*>(result.image_memory) + c.begin * tile.images * pixels;
    return {own - c.begin, pixels * c.size(), c.size()};
  }

  // Before a task's first sample, and after its last.
  void clear(const Range& c) const {
    if (result.image && result.image_memory)
      __builtin_memset(target(c).image + c.begin, 0, tile.images * pixels * c.size() * sizeof(T));
  }
  void write_image(const Range& c) const {
    if (!result.image || !result.image_memory) return;
    const T* from = target(c).image + c.begin;
    S* to = static_cast<S*>(result.image) + c.begin * result.channel_stride;
    if (result.channel_stride == 1) return write_pixels(c, from, to);
    for (int64_t n = 0; n < tile.images; ++n)
      for (int64_t p = 0; p < pixels; p += kPlanePixels)
        write_planes(c.size(), from + (n * pixels + p) * c.size(), smaller(kPlanePixels, pixels - p),
                     to + n * result.image_stride + p);
  }

  // Calls body(spread, place) for each sample inside its image and unit of the task, and outside(place) for all others.
  template <class Body, class Outside>
  PLIANT_MEMBER void for_samples(const Task& task, const Range& positions, const Body& body,
                                 const Outside& outside) const {
    const Range all = task.channels();
    const Target<T> to = target(all);
    alignas(64) T sink_memory[kTask] = {};
    T* sink = sink_memory - all.begin;
    alignas(64) T dots[kUnitsOfTask][4][kPlanSize];
    const Block block = {positions.begin, positions.end, 0, taps, all.begin, all.end};
    for_plans<T>(tile, offset, mask, block,
                 [&](const Plan<T>& plan, int64_t group, int64_t c_begin, int64_t c_end, int64_t first) {
                   int64_t begin = 0, end = task.count;  // of the units that have channels of this offset group
                   while (task.unit[begin].end <= c_begin) ++begin;
                   while (task.unit[end - 1].begin >= c_end) --end;
                   for (int64_t i = 0; i < plan.positions; ++i)
                     for (int64_t k = plan.tap_begin; k < plan.tap_end; ++k) {
                       const int64_t s = plan.at(i, k);
                       const auto place = [&](int64_t u) {
                         const Range c = {larger(task.unit[u].begin, c_begin), smaller(task.unit[u].end, c_end)};
                         return Place{plan.image, first + i, k, u, c};
                       };
                       if (!plan.is_inside(s)) {
                         for (int64_t u = begin; u < end; ++u) {
                           outside(place(u));
                           for (int j = 0; j < 4; ++j) dots[u][j][s] = 0;
                         }
                         continue;
                       }
                       Spread<T, S> spread(tile, image, to, plan, s, sink);
                       for (int64_t u = begin; u < end; ++u) {
                         body(spread, place(u));
                         T totals[4];
                         spread.take_dots(totals);
                         for (int j = 0; j < 4; ++j) dots[u][j][s] = totals[j];
                       }
                     }
                   for (int64_t u = begin; u < end && partial; ++u) write(task.first + u, plan, group, first, dots[u]);
                 });
  }

  // Turns the products of a plan's samples into shares of the gradients, see reference_backward.py.
  void write(int64_t unit, const Plan<T>& plan, int64_t group, int64_t first, const T (*dots)[kPlanSize]) const {
    const int64_t samples = tile.offset_groups * taps;
    for (int64_t k = plan.tap_begin; k < plan.tap_end; ++k) {
      T* to = partial + (unit * 3 * samples + group * taps + k) * count + first;
      for_channels<kLanes<T>>(0, plan.positions, [&](auto n, int64_t i) {
        const int64_t s = plan.at(i, k);
        const auto of = [&](const T* numbers) { return load(numbers + s, n); };
        const auto upper_left = of(dots[0]), upper_right = of(dots[1]), lower_left = of(dots[2]),
                   lower_right = of(dots[3]);
        const auto wx0 = of(plan.column_weight[0]), wx1 = of(plan.column_weight[1]);
        const auto wy0 = of(plan.row_weight[0]), wy1 = of(plan.row_weight[1]);
        const auto top = wx0 * upper_left + wx1 * upper_right, bottom = wx0 * lower_left + wx1 * lower_right;
        const auto left = wy0 * upper_left + wy1 * lower_left, right = wy0 * upper_right + wy1 * lower_right;
        const auto m = of(plan.modulation);
        const auto dy = m * (of(plan.row_exists[1]) * bottom - of(plan.row_exists[0]) * top);
        const auto dx = m * (of(plan.column_exists[1]) * right - of(plan.column_exists[0]) * left);
        store(to + i, dy, n);
        store(to + samples * count + i, dx, n);
        store(to + 2 * samples * count + i, wy0 * top + wy1 * bottom, n);
      });
    }
  }

  // Adds the shares in the order of the units and writes the gradients of offset and mask.
  void reduce() const {
    const int64_t rows = 3 * tile.offset_groups * taps;
    parallel_for(tile.images * rows, tile.threads, [&](int64_t row, int64_t) { reduce(row / rows, row % rows); });
  }

 private:
  // Of `width` numbers each. Each task begins at another one, so that threads stay away from each other here too.
  void write_pixels(const Range& c, const T* from, S* to) const {
    const int64_t all = tile.images * pixels, width = c.size();
    for (int64_t i = 0, q = c.begin * all / tile.channels; i < all; ++i, q = q + 1 < all ? q + 1 : 0) {
      S* pixel = to + q / pixels * result.image_stride + q % pixels * result.pixel_stride;
      for_channels<kLanes<T>>(0, width, [&](auto n, int64_t j) { store(pixel + j, load(from + q * width + j, n), n); });
    }
  }

  // `some` pixels, at most kPlanePixels, into the planes of `width` channels.
  void write_planes(int64_t width, const T* from, int64_t some, S* to) const {
    if constexpr (sizeof(S) == sizeof(T)) {
      transpose_block(from, width, some, width, to, result.channel_stride);
    } else {
      uint16_t rounded[kPlanePixels * kTask];
      S* numbers = reinterpret_cast<S*>(rounded);
      for_channels<kLanes<T>>(0, some * width, [&](auto n, int64_t i) { store(numbers + i, load(from + i, n), n); });
      transpose_block(rounded, width, some, width, reinterpret_cast<uint16_t*>(to), result.channel_stride);
    }
  }

  void reduce(int64_t image_number, int64_t row) const {
    const int64_t samples = tile.offset_groups * taps, kind = row % 3, sample = row / 3, group = sample / taps;
    const int64_t begin = group * tile.offset_group_channels - tile.channel_begin;
    void* to = kind == 2 ? result.mask : result.offset;
    if (to == nullptr) return;
    const int64_t channel =
        image_number * (kind == 2 ? samples : 2 * samples) + (kind == 2 ? sample : 2 * sample + kind);
    const T* shares = partial + (kind * samples + sample) * count + image_number * tile.count;
    with_storage(kind == 2 ? result.mask_type : result.offset_type, [&](auto type) {
      auto* target = static_cast<decltype(type)*>(to) + channel * result.map_stride;
      for_channels<kLanesOfBoth<T, decltype(type)>>(0, tile.count, [&](auto n, int64_t p) {
        auto sum = decltype(load(partial, n)){};
        if (result.accumulate) sum = load_as<T>(target + p, n);
        for (int64_t unit = 0; unit < units.count(); ++unit) {
          const Range c = units.at(unit);
          if (c.end > begin && c.begin < begin + tile.offset_group_channels)
            sum += load(shares + unit * 3 * samples * count + p, n);
        }
        store_as(target + p, sum, n);
      });
    });
  }
};

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant

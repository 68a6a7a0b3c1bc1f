// SPDX-License-Identifier: Apache-2.0
// The gradients of image, offset and mask, from the gradient of the columns.
#pragma once

#include "cpu_sample.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

// Channel slice i of n: whole vectors, so that slices do not share cache lines.
PLIANT_INLINE int64_t slice_begin(int64_t channels, int64_t slice, int64_t slices) {
  constexpr int64_t unit = 16;
  return slice == slices ? channels : smaller(channels, (channels * slice / slices + unit / 2) / unit * unit);
}

template <class T>
struct Dots {
  Sum<T, kLanes<T>> corner[4];  // sum over channels of (gradient of the column) * (pixel)

  // Writes the gradients of (dy, dx, mask), see reference_backward.py.
  PLIANT_MEMBER void write(const Sample<T>& s, T* result) const {
    T dot[4];
    for (int i = 0; i < 4; ++i) dot[i] = corner[i].total();
    const T *wy = s.row_weight, *wx = s.column_weight, *ey = s.row_exists, *ex = s.column_exists;
    const T top = wx[0] * dot[0] + wx[1] * dot[1], bottom = wx[0] * dot[2] + wx[1] * dot[3];
    const T left = wy[0] * dot[0] + wy[1] * dot[2], right = wy[0] * dot[1] + wy[1] * dot[3];
    result[0] += s.modulation * (ey[1] * bottom - ey[0] * top);
    result[1] += s.modulation * (ex[1] * right - ex[0] * left);
    result[2] += wy[0] * top + wy[1] * bottom;
  }
};

// One sample's share of all gradients, for the channels at j. `g` is the gradient of the column. Returns x(q) * dm.
//
// Everything is read before anything is written: rows of an image often lie a multiple of 4 KiB apart, where a
// processor takes a read for one of what was just written, and waits. A pixel outside the image has no gradient to
// write, and the pixel inside that stands for it must not be written back over its own sum.
template <class T, class S, int L>
PLIANT_INLINE vec<T, L> spread(const Corners<T, S>& corners, const Sample<T>& s, T* const grad_pixel[4], lanes<L> n,
                               int64_t j, vec<T, L> g, Dots<T>& dots) {
  vec<T, L> value = {}, grad[4];
  const vec<T, L> scaled = g * s.modulation;
  for (int i = 0; i < 4; ++i) {
    const vec<T, L> pixel = load(corners.pixel[i] + j, n);
    dots.corner[i].add(g * pixel, n);
    value += pixel * corners.weight[i];
    grad[i] = load(grad_pixel[i] + j, n) + scaled * corners.weight[i];
  }
  for (int i = 0; i < 4; ++i)
    if (s.row_exists[i >> 1] * s.column_exists[i & 1] != 0) store(grad_pixel[i] + j, grad[i], n);
  return value * s.modulation;
}

// The parts of a backward pass that all its loops share.
template <class T, class S>
struct Backward {
  const pliant_tile& tile;
  const S* image;
  const T *offset, *mask;
  T* grad_image;
  int64_t grad_pixel_stride;
  T* partial;
  int64_t slices, offset_groups;

  // Calls body(sample, position, tap, c_begin, c_end, result) for each sample of each channel slice, in parallel over
  // slices.
  template <class Body>
  void for_samples(const Body& body) const {
    const int64_t taps = tile.kernel[0] * tile.kernel[1], per_position = offset_groups * taps * 3;
    parallel_for(slices, tile.threads, [&](int64_t slice, int64_t) {
      T* share = partial + slice * tile.count * per_position;
      __builtin_memset(share, 0, tile.count * per_position * sizeof(T));
      const int64_t from = slice_begin(tile.channels, slice, slices),
                    to = slice_begin(tile.channels, slice + 1, slices);
      for_plans(tile, offset, mask, {0, tile.count, 0, taps, from, to},
                [&](const Plan<T>& plan, int64_t group, int64_t c_begin, int64_t c_end, int64_t first) {
                  for (int64_t i = 0; i < plan.positions; ++i)
                    for (int64_t k = plan.tap_begin; k < plan.tap_end; ++k)
                      body(plan.at(i, k), first + i, k, c_begin, c_end,
                           share + (first + i) * per_position + (group * taps + k) * 3);
                });
    });
  }

  PLIANT_MEMBER void grad_pixels(const Sample<T>& s, T* pixels[4]) const {
    for (int i = 0; i < 4; ++i) pixels[i] = grad_image + s.pixel[i] * grad_pixel_stride;
  }
};

template <class T, class S>
void sample_columns_backward(const Backward<T, S>& pass, T* columns) {
  const pliant_tile& tile = pass.tile;
  const int64_t taps = tile.kernel[0] * tile.kernel[1], row = taps * tile.channels, run = tile.run;
  pass.for_samples([&](const Sample<T>& s, int64_t position, int64_t k, int64_t c_begin, int64_t c_end, T* result) {
    Dots<T> dots;
    for (int64_t c = c_begin; c < c_end;) {
      const int64_t r = c / run, stop = smaller(c_end, (r + 1) * run);
      T* column = columns + position * row + (r * taps + k) * run - r * run;
      if (!s.is_inside()) {
        __builtin_memset(column + c, 0, (stop - c) * sizeof(T));
      } else {
        const Corners<T, S> corners(pass.image, pass.tile.pixel_stride, s);
        T* pixels[4];
        pass.grad_pixels(s, pixels);
        for_channels<kLanes<T>>(c, stop, [&](auto n, int64_t j) {
          store(column + j, spread(corners, s, pixels, n, j, load(column + j, n), dots), n);
        });
      }
      c = stop;
    }
    if (s.is_inside()) dots.write(s, result);
  });
}

// Each task adds the slices for a block of positions, in the order of the slices whatever the number of threads.
template <class T>
void reduce(const T* partial, int64_t slices, int64_t count, int64_t samples, T* grad_offset, T* grad_mask,
            int64_t threads) {
  constexpr int64_t block = 64;
  parallel_for((count + block - 1) / block, threads, [&](int64_t task, int64_t) {
    const int64_t end = smaller(count, (task + 1) * block);
    for (int64_t s = 0; s < samples; ++s) {
      for (int64_t p = task * block; p < end; ++p) {
        T total[3] = {0, 0, 0};
        for (int64_t slice = 0; slice < slices; ++slice)
          for (int i = 0; i < 3; ++i) total[i] += partial[((slice * count + p) * samples + s) * 3 + i];
        grad_offset[2 * s * count + p] += total[0];
        grad_offset[(2 * s + 1) * count + p] += total[1];
        if (grad_mask) grad_mask[s * count + p] += total[2];
      }
    }
  });
}

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant

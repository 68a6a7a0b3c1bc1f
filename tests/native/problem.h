// SPDX-License-Identifier: Apache-2.0
// Problems with their answers: scalar loops that sum over all pixels of the image, as the papers' equations do. They
// know of no floor, no corner and no border.
#pragma once

#include "testing.h"

namespace {

// --- the problem, and what the equations say about it --------------------------------------------------------------

struct Shape {
  const char* name;
  int64_t images, height, width, channels, groups, offset_groups, kernel[2], stride[2], padding[2], dilation[2];
  bool modulated;
};

// No two axes are equal; channels fill no whole number of vectors; a tile may end anywhere.
const Shape kShapes[] = {
    {"asymmetric", 2, 5, 7, 24, 3, 2, {3, 2}, {2, 1}, {1, 2}, {1, 2}, true},
    {"odd channels", 1, 6, 4, 21, 1, 3, {2, 3}, {1, 2}, {1, 1}, {2, 1}, true},
    {"unmodulated", 3, 4, 9, 37, 1, 1, {1, 5}, {1, 2}, {0, 2}, {1, 1}, false},
    {"one pixel", 5, 1, 1, 3, 3, 1, {3, 3}, {1, 1}, {1, 1}, {1, 1}, true},
    // Parts of a weight group of 32, 32, 32 and 6 channels, and borders of offset groups inside of them.
    {"ragged units", 2, 3, 4, 204, 2, 3, {1, 2}, {1, 1}, {0, 1}, {1, 1}, true},
    {"more units than a task has", 1, 3, 2, 600, 1, 2, {2, 1}, {1, 1}, {1, 0}, {1, 1}, true},
    {"a group and no whole unit", 2, 2, 3, 45, 5, 1, {2, 2}, {1, 1}, {1, 1}, {1, 1}, true},
    {"many taps", 1, 9, 8, 5, 1, 5, {17, 17}, {3, 2}, {9, 9}, {1, 1}, true},  // more taps than one plan holds
};

template <int Type>
struct Problem {
  using S = typename Storage<Type>::S;
  using T = typename Storage<Type>::T;
  Shape s;
  int64_t K, out_h, out_w, first, count, positions, pixel_stride, image_stride;
  std::vector<double> pixels;  // (images, height, width, channels)
  Buffer<S> image;
  Buffer<T> offset, mask;
  pliant_tile tile;

  static int64_t out_size(const Shape& s, int i, int64_t size) {
    return (size + 2 * s.padding[i] - s.dilation[i] * (s.kernel[i] - 1) - 1) / s.stride[i] + 1;
  }

  Problem(const Shape& shape, int64_t threads)
      : s(shape),
        K(s.kernel[0] * s.kernel[1]),
        out_h(out_size(s, 0, s.height)),
        out_w(out_size(s, 1, s.width)),
        first(out_h * out_w > 4 ? 3 : 0),
        count(out_h * out_w - first - (out_h * out_w > 5 ? 1 : 0)),
        positions(s.images * count),
        pixel_stride(s.channels + 3),
        image_stride(s.height * s.width * pixel_stride + 1),
        pixels(s.images * s.height * s.width * s.channels),
        image((s.images - 1) * image_stride + (s.height * s.width - 1) * pixel_stride + s.channels),
        offset(2 * s.offset_groups * K * positions),
        mask(s.offset_groups * K * positions) {
    Random random{uint64_t(s.height * 131 + s.channels)};
    const int64_t size = s.height * s.width;
    for (int64_t p = 0; p < s.images * size; ++p)
      for (int64_t c = 0; c < s.channels; ++c) {
        pixels[p * s.channels + c] = random(2);
        image[p / size * image_stride + p % size * pixel_stride + c] =
            Storage<Type>::encode(pixels[p * s.channels + c]);
      }
    const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
    const double far[] = {nan, inf, -inf, 1e30, -1e30, 2147483648.0, -2147483648.0, 9.3e18, -9.3e18, 1e-40, -0.0};
    for (int64_t i = 0; i < offset.size; ++i) offset[i] = T(i % 7 == 3 ? far[i / 7 % 11] : random(4));
    for (int64_t i = 0; i < mask.size; ++i) mask[i] = T(0.5 + random(1) / 4);
    tile = {s.images,
            s.height,
            s.width,
            image_stride,
            pixel_stride,
            s.channels,
            s.channels / s.groups,
            0,
            s.offset_groups,
            s.channels / s.offset_groups,
            out_w,
            first,
            count,
            {s.kernel[0], s.kernel[1]},
            {s.stride[0], s.stride[1]},
            {s.padding[0], s.padding[1]},
            {s.dilation[0], s.dilation[1]},
            {2 * s.offset_groups * K * count, count, 1},
            {s.offset_groups * K * count, count, 1},
            sizeof(T) == 8 ? PLIANT_FLOAT64 : PLIANT_FLOAT32,
            sizeof(T) == 8 ? PLIANT_FLOAT64 : PLIANT_FLOAT32,
            threads};
  }

  const void* mask_pointer() { return s.modulated ? mask.data() : nullptr; }
  int64_t group(int64_t c) const { return c / (s.channels / s.offset_groups); }
  // Where a sample's number stands in a mask of all images; in an offset, dy stands at `count` entries before dx.
  int64_t in_mask(int64_t g, int64_t k, int64_t i) const {
    return ((i / count * s.offset_groups + g) * K + k) * count + i % count;
  }
  int64_t in_offset(int64_t g, int64_t k, int64_t i) const {
    return ((i / count * s.offset_groups + g) * K + k) * 2 * count + i % count;
  }
  double modulation(int64_t g, int64_t k, int64_t i) { return s.modulated ? double(mask[in_mask(g, k, i)]) : 1; }

  // Coordinates of a sample; false where they are no numbers.
  bool position(int64_t g, int64_t k, int64_t i, double& h, double& w) {
    const int64_t out_y = (first + i % count) / out_w, out_x = (first + i % count) % out_w;
    const double dy = offset[in_offset(g, k, i)], dx = offset[in_offset(g, k, i) + count];
    h = double(out_y * s.stride[0] - s.padding[0] + k / s.kernel[1] * s.dilation[0]) + dy;
    w = double(out_x * s.stride[1] - s.padding[1] + k % s.kernel[1] * s.dilation[1]) + dx;
    return std::isfinite(h) && std::isfinite(w);
  }

  template <class Along, class Across>
  double sum(int64_t c, int64_t i, double h, double w, Along along, Across across) const {
    double total = 0;
    const double* from = pixels.data() + i / count * s.height * s.width * s.channels;
    for (int64_t y = 0; y < s.height; ++y)
      for (int64_t x = 0; x < s.width; ++x)
        total += along(y, h) * across(x, w) * from[(y * s.width + x) * s.channels + c];
    return total;
  }

  double value(int64_t c, int64_t k, int64_t i) {
    double h, w;
    return position(group(c), k, i, h, w) ? sum(c, i, h, w, hat, hat) : 0;
  }

  int64_t column(int64_t c, int64_t k, int64_t i) const {  // index in (positions, channels / run, K, run)
    const int64_t run = s.channels / s.groups;
    return ((i * s.groups + c / run) * K + k) * run + c % run;
  }

  template <class F>
  void for_entries(F f) {
    for (int64_t i = 0; i < positions; ++i)
      for (int64_t k = 0; k < K; ++k)
        for (int64_t c = 0; c < s.channels; ++c) f(c, k, i);
  }
};

// What the upstream gradient gives to image, offset and mask: the sums of the equations in reference_backward.py.
// grad_image(q, c) is what was given to a channel of a pixel.
template <int Type, class Gradient, class Image>
void check_gradients(Problem<Type>& p, Gradient upstream, Image grad_image,
                     Buffer<typename Storage<Type>::T>& grad_offset, Buffer<typename Storage<Type>::T>& grad_mask,
                     const std::string& what) {
  using T = typename Storage<Type>::T;
  std::vector<double> image(p.pixels.size()), offset(p.offset.size), mask(p.mask.size);
  p.for_entries([&](int64_t c, int64_t k, int64_t i) {
    double h, w;
    const int64_t g = p.group(c), pixels = p.s.height * p.s.width;
    if (!p.position(g, k, i, h, w)) return;
    const double u = upstream(c, k, i), m = p.modulation(g, k, i);
    offset[p.in_offset(g, k, i)] += u * m * p.sum(c, i, h, w, slope, hat);
    offset[p.in_offset(g, k, i) + p.count] += u * m * p.sum(c, i, h, w, hat, slope);
    mask[p.in_mask(g, k, i)] += u * p.sum(c, i, h, w, hat, hat);
    for (int64_t y = 0; y < p.s.height; ++y)
      for (int64_t x = 0; x < p.s.width; ++x)
        image[(i / p.count * pixels + y * p.s.width + x) * p.s.channels + c] += u * m * hat(y, h) * hat(x, w);
  });
  for (int64_t q = 0; q < p.s.images * p.s.height * p.s.width; ++q)
    for (int64_t c = 0; c < p.s.channels; ++c) {
      const double want = image[q * p.s.channels + c], got = grad_image(q, c);
      check_near(T(got), want, what + " gradient of the image", Storage<Type>::epsilon * std::fabs(want));
    }
  for (int64_t i = 0; i < grad_offset.size; ++i)
    check_near(grad_offset[i], offset[i], what + " gradient of the offset");
  for (int64_t i = 0; i < grad_mask.size; ++i) check_near(grad_mask[i], mask[i], what + " gradient of the mask");
  grad_offset.check_guards(what + " grad_offset");
  grad_mask.check_guards(what + " grad_mask");
}

}  // namespace

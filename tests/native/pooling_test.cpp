// SPDX-License-Identifier: Apache-2.0
// The poolings of the CPU library against loops over samples and all pixels of the image.
#include <algorithm>
#include <limits>

#include "testing.h"

namespace {

struct PoolShape {
  const char* name;
  int64_t rule, height, width, bins[2], groups, outputs, classes, channel_begin, channels;
  bool shifted, masked, planes;
};

constexpr int64_t kAligned = PLIANT_POOL_ALIGNED, kSensitive = PLIANT_POOL_POSITION_SENSITIVE;

// Channels that fill no whole number of vectors, a slice that begins and ends inside a class, more bins than a block.
const PoolShape kPoolShapes[] = {
    {"one channel", kAligned, 5, 7, {2, 4}, 1, 1, 1, 0, 1, true, true, false},
    {"one pixel", kAligned, 1, 1, {2, 1}, 1, 3, 1, 0, 3, true, false, false},
    {"three channels, unmasked", kAligned, 6, 4, {4, 1}, 1, 3, 1, 0, 3, true, false, false},
    {"seventeen channels, rigid", kAligned, 4, 7, {1, 2}, 1, 17, 1, 0, 17, false, true, false},
    {"a slice of classes", kAligned, 5, 6, {2, 2}, 1, 33, 3, 2, 28, true, true, false},
    {"many bins", kAligned, 3, 2, {8, 16}, 1, 2, 1, 0, 2, true, true, false},
    {"many channels", kAligned, 2, 3, {1, 2}, 1, 331, 1, 0, 331, true, true, false},
    {"groups", kSensitive, 5, 7, {4, 2}, 2, 12, 3, 2, 9, true, true, false},
    {"more groups than bins", kSensitive, 4, 6, {2, 1}, 4, 7, 7, 0, 7, true, false, false},
    {"one group, rigid", kSensitive, 6, 5, {2, 4}, 1, 70, 1, 1, 68, false, false, false},
    {"two units in each class", kSensitive, 2, 3, {1, 2}, 1, 140, 2, 3, 137, true, true, false},
    {"planes", kAligned, 4, 5, {4, 2}, 1, 71, 1, 1, 69, true, true, true},
    {"planes of groups", kSensitive, 5, 3, {2, 2}, 2, 9, 3, 1, 7, true, true, true},
    {"one pixel, sensitive", kSensitive, 1, 1, {2, 2}, 1, 1, 1, 0, 1, true, true, false},
};

template <int Type>
struct PoolProblem {
  using S = typename Storage<Type>::S;
  using T = typename Storage<Type>::T;
  PoolShape s;
  int64_t cells, bins, total, width, pixel_stride;
  std::vector<int64_t> index;
  std::vector<double> pixels;  // (height, width, cells, channels)
  Buffer<S> image;
  Buffer<T> sides, shift, mask;
  pliant_pooling pooling;

  PoolProblem(const PoolShape& shape, int64_t threads)
      : s(shape),
        cells(s.groups * s.groups),
        bins(s.bins[0] * s.bins[1]),
        total(14),
        width(s.outputs / s.classes),
        pixel_stride(s.planes ? 1 : cells * s.channels + 3),
        pixels(s.height * s.width * cells * s.channels),
        image(memory_size(pixel_stride)),
        sides(total * 6),
        shift(total * s.classes * 2 * bins),
        mask(total * s.classes * bins) {
    Random random{uint64_t(s.height * 131 + s.outputs)};
    for (int64_t i = 0; i < int64_t(pixels.size()); ++i) {
      pixels[i] = random(2);
      image[place(i, pixel_stride)] = Storage<Type>::encode(pixels[i]);
    }
    for (int64_t box = total - 1; box >= 0; --box)
      if (box != 1 && box != 3) index.push_back(box);  // not all, and not in order
    const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
    for (int64_t i = 0; i < shift.size; ++i) shift[i] = T(i % 11 == 3 ? (i % 2 ? nan : 1e30) : random(3));
    for (int64_t i = 0; i < mask.size; ++i) mask[i] = T(0.5 + random(1) / 4);
    for (int64_t box = 0; box < total; ++box)
      for (int64_t axis = 0; axis < 2; ++axis) {
        T* side = &sides[(box * 2 + axis) * 3];
        side[0] = T(random(3) + 1);
        side[1] = T((4 + random(4)) * double(axis ? s.width : s.height) / 2);
        side[2] = T(1 << (box + axis) % 3);
      }
    for (int64_t i = 0; i < s.classes * 2 * bins; ++i) shift[i] = T(0);
    for (int64_t axis = 0; axis < 2; ++axis) {  // box 0: each bin's only sample stands on a pixel
      sides[axis * 3] = T(s.rule == kAligned ? -1 : 0);
      sides[axis * 3 + 1] = T(2 * s.bins[axis]);
      sides[axis * 3 + 2] = T(1);
    }
    // What no one should ask for; the other axis of each is an ordinary one. Of 64 samples, some lie far outside.
    const double strange[][3] = {{nan, 2, 2},         {1, inf, 2},      {0, 4, nan}, {0, 4, 0},
                                 {0, -4, -1},         {-30, 64, 32},    {0, -4, 2},  {-1e9, 5e8, 32768},
                                 {-1e30, 2e30, 1e30}, {1e30, 1e30, inf}};
    for (int64_t i = 0; i < 10; ++i)
      for (int64_t j = 0; j < 3; ++j) sides[((i + 4) * 2 + i % 2) * 3 + j] = T(strange[i][j]);
    const int64_t plane = s.height * s.width;
    pooling = {s.height,
               s.width,
               pixel_stride,
               s.planes ? cells * plane : 1,
               s.groups,
               s.planes ? plane : s.channels,
               {s.bins[0], s.bins[1]},
               s.rule,
               s.outputs,
               width,
               s.channel_begin,
               s.channels,
               int64_t(index.size()),
               threads};
  }

  // Where entry i of `pixels` lies in an image whose pixels are `stride` apart, and the size of such an image.
  int64_t place(int64_t i, int64_t stride) const {
    const int64_t row = cells * s.channels, q = i / row, cell = i % row / s.channels, c = i % s.channels;
    return s.planes ? (c * cells + cell) * s.height * s.width + q : q * stride + i % row;
  }
  int64_t memory_size(int64_t stride) const { return place(s.height * s.width * cells * s.channels - 1, stride) + 1; }

  const void* shift_pointer() { return s.shifted ? shift.data() : nullptr; }
  const void* mask_pointer() { return s.masked ? mask.data() : nullptr; }
  int64_t class_of(int64_t c) const { return (s.channel_begin + c) / width; }
  double mask_at(int64_t box, int64_t c, int64_t bin) {
    return s.masked ? double(mask[(box * s.classes + class_of(c)) * bins + bin]) : 1;
  }
  double shift_at(int64_t box, int64_t c, int64_t bin, int64_t axis) {
    return s.shifted ? double(shift[((box * s.classes + class_of(c)) * 2 + 1 - axis) * bins + bin]) : 0;
  }
  int64_t pixel(int64_t y, int64_t x, int64_t bin, int64_t c) const {  // of `pixels`
    const int64_t cell = bin / s.bins[1] * s.groups / s.bins[0] * s.groups + bin % s.bins[1] * s.groups / s.bins[1];
    return ((y * s.width + x) * cells + cell) * s.channels + c;
  }

  // One sample along an axis: its position, held inside; whether it moves; its place in the box.
  struct Sample {
    double position, place;
    bool moves;
  };
  // The samples that are read; `asked` is the number that there should be.
  std::vector<Sample> samples(int64_t box, int64_t c, int64_t bin, int64_t axis, double& asked) {
    const T* side = &sides[(box * 2 + axis) * 3];
    const double number = double(axis ? bin % s.bins[1] : bin / s.bins[1]), count = side[2];
    const double last = double(axis ? s.width : s.height) - 1, middle = s.rule == kAligned ? 0.5 : 0;
    const double outside = s.rule == kAligned ? 1 : 0.5;
    std::vector<Sample> found;
    asked = count;
    if (!(count < 1e6) || !std::isfinite(double(side[1]))) return found;  // none of these reads the image
    for (double i = 0; i < count; ++i) {
      const double place = (number + (i + middle) / count) / double(s.bins[axis]);
      const double p = side[0] + shift_at(box, c, bin, axis) + place * side[1];
      if (!(p >= -outside && p <= last + outside)) continue;
      const double held = std::fmin(std::fmax(p, 0), last);
      const bool moves = s.rule == kAligned ? p >= 0 && p < last : p > 0 && p < last && p != std::floor(p);
      found.push_back({held, place, moves});
    }
    return found;
  }

  // Adds to `sums` (channels of the class in the slice, 5) the bin's means of value, slope in y and x, moment in y and
  // x, and calls touch(c, pixel, weight) for each pixel that weighs something in the mean of channel c.
  template <class Touch>
  void means(int64_t box, int64_t first, int64_t last, int64_t bin, std::vector<double>& sums, Touch touch) {
    double asked[2];
    const auto rows = samples(box, first, bin, 0, asked[0]), columns = samples(box, first, bin, 1, asked[1]);
    sums.assign((last - first) * 5, 0);
    const double n = s.rule == kAligned ? asked[0] * asked[1] : double(rows.size() * columns.size());
    for (const Sample& row : rows)
      for (const Sample& column : columns)
        for (int64_t y = 0; y < s.height; ++y)
          for (int64_t x = 0; x < s.width; ++x) {
            const double in_y = hat(y, row.position) / n, in_x = hat(x, column.position);
            const double down = row.moves ? slope(y, row.position) / n * in_x : 0;
            const double right = column.moves ? in_y * slope(x, column.position) : 0;
            if (in_y * in_x == 0 && down == 0 && right == 0) continue;
            const double weights[5] = {in_y * in_x, down, right, down * row.place, right * column.place};
            for (int64_t c = first; c < last; ++c) {
              const int64_t q = pixel(y, x, bin, c);
              for (int i = 0; i < 5; ++i) sums[(c - first) * 5 + i] += weights[i] * pixels[q];
              touch(c, q, weights[0]);
            }
          }
  }

  // Calls f(b, box, bin, first, last) for each bin of each box and the channels [first, last) of each class.
  template <class F>
  void for_bins(F f) {
    for (int64_t b = 0; b < int64_t(index.size()); ++b)
      for (int64_t bin = 0; bin < bins; ++bin)
        for (int64_t c = 0, end; c < s.channels; c = end) {
          end = std::min(s.channels, (class_of(c) + 1) * width - s.channel_begin);
          f(b, index[b], bin, c, end);
        }
  }
};

template <int Type>
void test_forward(PoolProblem<Type>& p, const std::string& what) {
  using S = typename Storage<Type>::S;
  const S untouched = Storage<Type>::encode(-7.5);
  Buffer<S> output(p.total * p.s.outputs * p.bins);
  for (int64_t i = 0; i < output.size; ++i) output[i] = untouched;
  check(kernels->pool(&p.pooling, Type, p.image.data(), p.index.data(), p.sides.data(), p.shift_pointer(),
                      p.mask_pointer(), output.data()) == 0,
        what + " status");
  std::vector<bool> written(output.size);
  std::vector<double> sums;
  p.for_bins([&](int64_t, int64_t box, int64_t bin, int64_t first, int64_t last) {
    p.means(box, first, last, bin, sums, [](int64_t, int64_t, double) {});
    for (int64_t c = first; c < last; ++c) {
      const int64_t i = (box * p.s.outputs + p.s.channel_begin + c) * p.bins + bin;
      const double expected = p.mask_at(box, c, bin) * sums[(c - first) * 5];
      const double actual = Storage<Type>::decode(output[i]);
      if (!(std::fabs(actual - expected) <= Storage<Type>::epsilon * (1 + std::fabs(expected))))
        check(false, what + " output " + std::to_string(i) + ": got " + std::to_string(actual) + ", expected " +
                         std::to_string(expected));
      written[i] = true;
    }
  });
  for (int64_t i = 0; i < output.size; ++i)
    if (!written[i]) check(!std::memcmp(&output[i], &untouched, sizeof(S)), what + " output: written beside the slice");
  output.check_guards(what + " output");
}

// With both results, and with each alone.
template <int Type>
void test_backward(PoolProblem<Type>& p, bool wants_image, bool wants_products, const std::string& what) {
  using S = typename Storage<Type>::S;
  using T = typename Storage<Type>::T;
  const int64_t row = p.cells * p.s.channels, stride = p.s.planes ? 1 : row + 2, boxes = int64_t(p.index.size());
  const int64_t units = (std::min(p.width, p.s.channels) + 63) / 64;
  Buffer<S> grad(p.total * p.s.outputs * p.bins);
  Buffer<T> grad_image(p.memory_size(stride), 0.25);
  Buffer<T> products(units * boxes * p.s.classes * p.bins * 5);
  Random random{5};
  for (int64_t i = 0; i < grad.size; ++i) grad[i] = Storage<Type>::encode(random(1));
  check(kernels->pool_backward(&p.pooling, Type, p.image.data(), p.index.data(), p.sides.data(), p.shift_pointer(),
                               p.mask_pointer(), grad.data(), wants_image ? grad_image.data() : nullptr, stride,
                               wants_products ? products.data() : nullptr) == 0,
        what + " status");
  std::vector<double> image(p.pixels.size(), 0.25), sums(boxes * p.s.classes * p.bins * 5), of_channels;
  p.for_bins([&](int64_t b, int64_t box, int64_t bin, int64_t first, int64_t last) {
    const double m = p.mask_at(box, first, bin);
    const auto upstream = [&](int64_t c) {
      return Storage<Type>::decode(grad[(box * p.s.outputs + p.s.channel_begin + c) * p.bins + bin]);
    };
    p.means(box, first, last, bin, of_channels, [&](int64_t c, int64_t q, double weight) {
      if (wants_image) image[q] += upstream(c) * m * weight;
    });
    for (int64_t c = first; c < last; ++c)
      for (int i = 0; i < 5; ++i)
        sums[((b * p.s.classes + p.class_of(c)) * p.bins + bin) * 5 + i] +=
            upstream(c) * (i ? m : 1) * of_channels[(c - first) * 5 + i];
  });
  for (int64_t i = 0; i < int64_t(image.size()); ++i)
    check_near(grad_image[p.place(i, stride)], image[i], what + " gradient of the image");
  for (int64_t i = 0; i < int64_t(sums.size()); ++i) {
    double total = 0;
    for (int64_t unit = 0; unit < units; ++unit) total += double(products[unit * int64_t(sums.size()) + i]);
    check_near(T(total), wants_products ? sums[i] : 0, what + " sum " + std::to_string(i));
  }
  grad_image.check_guards(what + " grad_image");
  products.check_guards(what + " products");
}

template <int Type>
void test_pool_type(const PoolShape& shape, int64_t threads, const std::string& what) {
  PoolProblem<Type> p(shape, threads);
  test_forward(p, what + " pool");
  test_backward(p, true, true, what + " pool_backward");
  if (shape.outputs < 20) {
    test_backward(p, true, false, what + " pool_backward, image alone");
    test_backward(p, false, true, what + " pool_backward, sums alone");
  }
}

}  // namespace

void test_pooling(const std::string& what, int64_t threads) {
  for (const PoolShape& shape : kPoolShapes) {
    test_pool_type<PLIANT_FLOAT64>(shape, threads, what + shape.name + ", float64:");
    test_pool_type<PLIANT_FLOAT32>(shape, threads, what + shape.name + ", float32:");
    if (threads > 1) continue;
    test_pool_type<PLIANT_BFLOAT16>(shape, threads, what + shape.name + ", bfloat16:");
    test_pool_type<PLIANT_FLOAT16>(shape, threads, what + shape.name + ", float16:");
  }
}

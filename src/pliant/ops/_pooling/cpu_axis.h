// SPDX-License-Identifier: Apache-2.0
// Where the samples of a bin lie along one axis, and what the lines of pixels there weigh in the bin.
//
// The samples of a bin are a grid, and bilinear interpolation is a product, so that a bin's sum over samples and their
// four pixels is a sum over rows and columns of pixels: of row weight * column weight * pixel. A row between two rows
// of samples is read once, not once for each sample.
#pragma once

#include "../_native/abi.h"
#include "../_native/vectors.h"

namespace pliant {
namespace PLIANT_ISA {

// One axis of a box, in pixels of the image.
template <class T>
struct Side {
  T start, size;
  T samples;  // of each bin; a whole number, or not finite
};

// A row, or a column, of pixels of the image.
template <class T>
struct Line {
  int64_t pixel;  // number of its first pixel, to which that of a line of the other axis is added
  T weight;       // in the sum over the bin's samples
  T slope;        // derivative of the weight in the bin's position
  T moment;       // sum of each sample's slope * its place in the box, 0 ... 1; derivative in the box's size
};

// The samples [first, last) among which are all that lie in [lower, upper]; of few samples, all of them. That keeps a
// box of a billion pixels as quick as any other.
struct SampleRange {
  int64_t first, last;
};
PLIANT_INLINE SampleRange samples_between(double lower, double upper, double base, double step, double samples) {
  constexpr double few = 16, margin = 3;  // of half a sample, and of rounding
  if (!(samples > 0 && samples < 0x1p53 && base - base == 0 && step - step == 0)) return {0, 0};
  if (samples <= few || step == 0) return {0, static_cast<int64_t>(samples)};
  const double a = (lower - base) / step, b = (upper - base) / step;
  const double first = (a < b ? a : b) - margin, last = (a < b ? b : a) + margin;
  if (!(first < samples && last > 0)) return {0, 0};
  return {first > 0 ? static_cast<int64_t>(first) : 0, static_cast<int64_t>(last < samples ? last : samples)};
}

// Returns a product such that no addition can be fused with it: where samples stand decides what they read, and must be
// the same as by the reference's plain operations.
template <class T>
PLIANT_INLINE T rounded(T product) {
#if defined(__x86_64__)
  asm("" : "+x"(product));
#elif defined(__aarch64__)
  asm("" : "+w"(product));
#else
  asm("" : "+m"(product));
#endif
  return product;
}

template <class T>
class Axis {
 public:
  static int64_t memory_size(int64_t length) { return 2 * length * int64_t(sizeof(Line<T>)); }

  // `memory` is zero. Lines are `stride` pixels apart.
  Axis(int64_t length, int64_t stride, int64_t bins, int64_t rule, void* memory)
      : lines_(static_cast<Line<T>*>(memory)),
        sums_(lines_ + length),
        length_(length),
        stride_(stride),
        bins_(bins),
        rule_(rule) {}

  // Finds the lines that the samples of a bin read, when it is shifted by `shift` pixels.
  PLIANT_MEMBER void plan(const Side<T>& side, int64_t bin, T shift) {
    count_ = 0;
    if (length_ == 0) return;
    const bool aligned = rule_ == PLIANT_POOL_ALIGNED;
    const T extent = side.size / static_cast<T>(bins_), before = rounded(static_cast<T>(bin) * extent);
    const T base = aligned ? (side.start + shift) + before : (side.start + before) + shift;
    const T step = extent / side.samples;
    const T lower = aligned ? T(-1) : T(-0.5), upper = static_cast<T>(length_) - (aligned ? T(0) : T(0.5));
    const T middle = aligned ? T(0.5) : T(0), border = static_cast<T>(length_ - 1);
    const SampleRange range = samples_between(lower, upper, base, step, side.samples);
    int64_t low = length_, high = -1;  // lines that are touched
    int64_t inside = 0;
    for (int64_t i = range.first; i < range.last; ++i) {
      const T place = static_cast<T>(i) + middle;
      const T position = base + (aligned ? place * extent / side.samples : rounded(place * step));
      if (!(position >= lower && position <= upper)) continue;  // NaN too
      ++inside;
      const T clamped = position < 0 ? T(0) : position > border ? border : position;
      const int64_t line = static_cast<int64_t>(clamped), next = line + 1 < length_ ? line + 1 : line;
      const T fraction = clamped - static_cast<T>(line);
      // Flat outside; at a pixel the slope is the right-hand one, or, by the position-sensitive operator's rule, 0.
      const bool slopes = aligned ? position >= 0 && next > line : fraction > 0;
      const T slope = slopes ? T(1) : T(0);
      const T moment = slope * (static_cast<T>(bin) + place / side.samples) / static_cast<T>(bins_);
      add(line, 1 - fraction, -slope, -moment);
      add(next, fraction, slope, moment);
      low = low < line ? low : line;
      high = high > next ? high : next;
    }
    divisor_ = aligned ? side.samples : static_cast<T>(inside);
    compact(low, high);
  }

  PLIANT_MEMBER const Line<T>* begin() const { return lines_; }
  PLIANT_MEMBER const Line<T>* end() const { return lines_ + count_; }
  PLIANT_MEMBER bool empty() const { return count_ == 0; }
  PLIANT_MEMBER T divisor() const { return divisor_; }  // the mean is the sum over both axes' divisors

 private:
  PLIANT_MEMBER void add(int64_t line, T weight, T slope, T moment) {
    sums_[line].weight += weight;
    sums_[line].slope += slope;
    sums_[line].moment += moment;
  }

  // Moves the sums of lines [low, high] to the list of lines that weigh something, and makes them zero again.
  PLIANT_MEMBER void compact(int64_t low, int64_t high) {
    for (int64_t line = low; line <= high; ++line) {
      Line<T>& sum = sums_[line];
      if (sum.weight == 0 && sum.slope == 0 && sum.moment == 0) continue;
      lines_[count_++] = {line * stride_, sum.weight, sum.slope, sum.moment};
      sum = {};
    }
  }

  Line<T>*lines_, *sums_;
  int64_t length_, stride_, bins_, rule_, count_ = 0;
  T divisor_ = 0;
};

}  // namespace PLIANT_ISA
}  // namespace pliant

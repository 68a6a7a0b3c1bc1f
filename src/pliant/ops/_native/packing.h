// SPDX-License-Identifier: Apache-2.0
// Weights as a matrix product reads them, a block in cache at a time.
#pragma once

#include "squares.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

constexpr int64_t kBlock = 16;

// From weights (outputs, channels, taps) in any order to a panel (taps, channels, panel), with zeros past the last
// output.
struct Packing {
  const int64_t* stride;  // items of the source between outputs, channels and taps
  int64_t count;          // outputs, at most `panel`
  int64_t panel;
  int64_t taps;
  int64_t tap_stride;  // items of the result between taps

  template <class Item>
  void run(const Item* from, int64_t channels, Item* to) const {
    for (int64_t k = 0; k < taps; ++k)
      for (int64_t c = 0; c < channels; c += kBlock) {
        const int64_t width = smaller(kBlock, channels - c);
        block(from + c * stride[1] + k * stride[2], width, to + k * tap_stride + c * panel);
      }
  }

 private:
  template <class Item>
  void block(const Item* from, int64_t channels, Item* to) const {
    if (stride[1] == 1)
      transpose_block(from, stride[0], count, channels, to, panel);
    else
      for (int64_t o = 0; o < count; ++o)
        for (int64_t c = 0; c < channels; ++c) to[c * panel + o] = from[o * stride[0] + c * stride[1]];
    for (int64_t c = 0; c < channels && count < panel; ++c)
      for (int64_t o = count; o < panel; ++o) to[c * panel + o] = 0;
  }
};

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant

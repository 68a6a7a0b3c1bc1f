// SPDX-License-Identifier: Apache-2.0
// Copies in another order, a block in cache at a time: transposed squares, and weights as a matrix product reads them.
#pragma once

#include "vectors.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

// One block of source lines is read line by line while the destination's lines, one for each column, stay in cache.
constexpr int64_t kBlock = 16;

// Sets the 4 x 4 `to` to the transpose of `from`: for items of four bytes by vectors that every instruction set has.
template <class Item>
PLIANT_INLINE void transpose_square(const Item* from, int64_t from_stride, Item* to, int64_t to_stride) {
  if constexpr (sizeof(Item) == 4) {
    vec<Item, 4> row[4], pair[4];
    for (int i = 0; i < 4; ++i) row[i] = load_bytes<vec<Item, 4>>(from + i * from_stride);
    for (int i = 0; i < 2; ++i) {
      pair[i] = __builtin_shufflevector(row[2 * i], row[2 * i + 1], 0, 4, 1, 5);
      pair[i + 2] = __builtin_shufflevector(row[2 * i], row[2 * i + 1], 2, 6, 3, 7);
    }
    for (int i = 0; i < 4; i += 2) {
      store_bytes(to + i * to_stride, __builtin_shufflevector(pair[i], pair[i + 1], 0, 1, 4, 5));
      store_bytes(to + (i + 1) * to_stride, __builtin_shufflevector(pair[i], pair[i + 1], 2, 3, 6, 7));
    }
  } else {
    for (int r = 0; r < 4; ++r)
      for (int c = 0; c < 4; ++c) to[c * to_stride + r] = from[r * from_stride + c];
  }
}

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
    int64_t o = 0;
    if constexpr (sizeof(Item) == sizeof(uint32_t)) {
      for (; stride[1] == 1 && channels == kBlock && o + 4 <= count; o += 4)
        for (int64_t c = 0; c < kBlock; c += 4)
          transpose_square(from + o * stride[0] + c, stride[0], to + c * panel + o, panel);
    }
    for (; o < panel; ++o)
      for (int64_t c = 0; c < channels; ++c)
        to[c * panel + o] = o < count ? from[o * stride[0] + c * stride[1]] : Item{};
  }
};

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant

// SPDX-License-Identifier: Apache-2.0
// Between planes of pixels and pixels of channels.
#include <cstdint>

#include "abi.h"
#include "parallel.h"

namespace {

// One block of source lines is read line by line while the destination's lines, one for each column, stay in cache.
constexpr int64_t kBlock = 16;

template <class Item>
void transpose(const Item* source, int64_t rows, int64_t columns, int64_t source_stride, Item* destination,
               int64_t destination_stride, int64_t threads) {
  const int64_t tasks = (columns + kBlock - 1) / kBlock;
  pliant::parallel_for(tasks, threads, [=](int64_t task, int64_t) {
    const int64_t begin = task * kBlock, end = begin + kBlock < columns ? begin + kBlock : columns;
    for (int64_t top = 0; top < rows; top += kBlock) {
      const int64_t bottom = top + kBlock < rows ? top + kBlock : rows;
      for (int64_t r = top; r < bottom; ++r)
        for (int64_t c = begin; c < end; ++c) destination[c * destination_stride + r] = source[r * source_stride + c];
    }
  });
}

}  // namespace

void pliant_transpose(const void* source, int64_t rows, int64_t columns, int64_t source_stride, void* destination,
                      int64_t destination_stride, int64_t item_size, int64_t threads) {
  if (item_size == 2) {
    transpose(static_cast<const uint16_t*>(source), rows, columns, source_stride, static_cast<uint16_t*>(destination),
              destination_stride, threads);
  } else if (item_size == 4) {
    transpose(static_cast<const uint32_t*>(source), rows, columns, source_stride, static_cast<uint32_t*>(destination),
              destination_stride, threads);
  } else {
    transpose(static_cast<const uint64_t*>(source), rows, columns, source_stride, static_cast<uint64_t*>(destination),
              destination_stride, threads);
  }
}

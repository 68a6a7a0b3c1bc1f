// SPDX-License-Identifier: Apache-2.0
// One instruction set's kernels as a table, and the copies between planes of pixels and pixels of channels.
#include "cpu_kernels.h"

#include "parallel.h"
#include "vectors.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

// One block of source lines is read line by line while the destination's lines, one for each column, stay in cache.
constexpr int64_t kBlock = 16;

typedef vec<uint32_t, 4> Line;  // of every instruction set

// Sets the 4 x 4 `to` to the transpose of `from`.
PLIANT_INLINE void transpose_square(const uint32_t* from, int64_t from_stride, uint32_t* to, int64_t to_stride) {
  Line row[4], pair[4];
  for (int i = 0; i < 4; ++i) row[i] = load_bytes<Line>(from + i * from_stride);
  for (int i = 0; i < 2; ++i) {
    pair[i] = __builtin_shufflevector(row[2 * i], row[2 * i + 1], 0, 4, 1, 5);
    pair[i + 2] = __builtin_shufflevector(row[2 * i], row[2 * i + 1], 2, 6, 3, 7);
  }
  for (int i = 0; i < 4; i += 2) {
    store_bytes(to + i * to_stride, __builtin_shufflevector(pair[i], pair[i + 1], 0, 1, 4, 5));
    store_bytes(to + (i + 1) * to_stride, __builtin_shufflevector(pair[i], pair[i + 1], 2, 3, 6, 7));
  }
}

template <class Item>
void transpose_items(const int64_t* size, const Item* sources, const int64_t* strides, Item* destinations,
                     const int64_t* destination_strides, int64_t threads) {
  const int64_t rows = size[1], columns = size[2], tasks = (columns + kBlock - 1) / kBlock;
  const int64_t source_stride = strides[1], destination_stride = destination_strides[1];
  parallel_for(size[0] * tasks, threads, [=](int64_t task, int64_t) {
    const Item* source = sources + task / tasks * strides[0];
    Item* destination = destinations + task / tasks * destination_strides[0];
    const int64_t begin = task % tasks * kBlock, end = smaller(columns, begin + kBlock);
    for (int64_t top = 0; top < rows; top += kBlock) {
      const int64_t bottom = smaller(rows, top + kBlock);
      if constexpr (sizeof(Item) == sizeof(uint32_t)) {
        if (bottom - top == kBlock && end - begin == kBlock) {
          for (int64_t r = top; r < bottom; r += 4)
            for (int64_t c = begin; c < end; c += 4)
              transpose_square(source + r * source_stride + c, source_stride, destination + c * destination_stride + r,
                               destination_stride);
          continue;
        }
      }
      for (int64_t r = top; r < bottom; ++r)
        for (int64_t c = begin; c < end; ++c) destination[c * destination_stride + r] = source[r * source_stride + c];
    }
  });
}

// What is packed at a time, kBlock channels of a panel, stays in the first-level cache.
template <class Item>
void pack_items(const int64_t* size, const Item* source, const int64_t* stride, Item* packed, int64_t threads) {
  const int64_t outputs = size[1], channels = size[2], taps = size[3], panel = size[4];
  const int64_t panels = (outputs + panel - 1) / panel, blocks = (channels + kBlock - 1) / kBlock;
  parallel_for(size[0] * panels * blocks, threads, [=](int64_t task, int64_t) {
    const int64_t begin = task % blocks * kBlock, end = smaller(channels, begin + kBlock);
    const int64_t at = task / blocks, first = at % panels * panel, count = smaller(outputs - first, panel);
    const Item* from = source + (at / panels * outputs + first) * stride[0];
    Item* to = packed + at * taps * channels * panel;
    const bool squares = sizeof(Item) == sizeof(uint32_t) && stride[1] == 1 && end - begin == kBlock && count % 4 == 0;
    for (int64_t o = 0; o < count; o += squares ? 4 : 1) {
      if constexpr (sizeof(Item) == sizeof(uint32_t)) {
        if (squares) {
          for (int64_t k = 0; k < taps; ++k)
            for (int64_t c = begin; c < end; c += 4)
              transpose_square(from + o * stride[0] + c + k * stride[2], stride[0], to + (k * channels + c) * panel + o,
                               panel);
          continue;
        }
      }
      for (int64_t c = begin; c < end; ++c)
        for (int64_t k = 0; k < taps; ++k)
          to[(k * channels + c) * panel + o] = from[o * stride[0] + c * stride[1] + k * stride[2]];
    }
    for (int64_t k = 0; k < taps && count < panel; ++k)
      for (int64_t c = begin; c < end; ++c)
        for (int64_t o = count; o < panel; ++o) to[(k * channels + c) * panel + o] = 0;
  });
}

}  // namespace

void pack_weight(const int64_t* size, const void* source, const int64_t* source_stride, void* destination,
                 int64_t item_size, int64_t threads) {
  const auto run = [&](auto item) {
    using Item = decltype(item);
    pack_items(size, static_cast<const Item*>(source), source_stride, static_cast<Item*>(destination), threads);
  };
  if (item_size == 4) return run(uint32_t{});
  run(uint64_t{});
}

void transpose(const int64_t* size, const void* source, const int64_t* source_stride, void* destination,
               const int64_t* destination_stride, int64_t item_size, int64_t threads) {
  const auto run = [&](auto item) {
    using Item = decltype(item);
    transpose_items(size, static_cast<const Item*>(source), source_stride, static_cast<Item*>(destination),
                    destination_stride, threads);
  };
  if (item_size == 2) return run(uint16_t{});
  if (item_size == 4) return run(uint32_t{});
  run(uint64_t{});
}

#define PLIANT_NAME_OF(isa) #isa
#define PLIANT_NAME(isa) PLIANT_NAME_OF(isa)
extern const pliant_kernels kernels;
const pliant_kernels kernels = {PLIANT_NAME(PLIANT_ISA),
                                transpose,
                                pack_weight,
                                deform_conv,
                                deform_conv_panel,
                                deform_shares,
                                deform_conv_backward,
                                deform_sample,
                                deform_sample_backward,
                                deform_depthwise,
                                deform_depthwise_backward,
                                pool,
                                pool_backward};

}  // namespace PLIANT_ISA
}  // namespace pliant

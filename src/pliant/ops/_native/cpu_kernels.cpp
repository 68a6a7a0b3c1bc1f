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

template <class Item>
void transpose_items(const Item* source, int64_t rows, int64_t columns, int64_t source_stride, Item* destination,
                     int64_t destination_stride, int64_t threads) {
  const int64_t tasks = (columns + kBlock - 1) / kBlock;
  parallel_for(tasks, threads, [=](int64_t task, int64_t) {
    const int64_t begin = task * kBlock, end = smaller(columns, begin + kBlock);
    for (int64_t top = 0; top < rows; top += kBlock) {
      const int64_t bottom = smaller(rows, top + kBlock);
      for (int64_t r = top; r < bottom; ++r)
        for (int64_t c = begin; c < end; ++c) destination[c * destination_stride + r] = source[r * source_stride + c];
    }
  });
}

}  // namespace

void transpose(const void* source, int64_t rows, int64_t columns, int64_t source_stride, void* destination,
               int64_t destination_stride, int64_t item_size, int64_t threads) {
  const auto run = [&](auto item) {
    using Item = decltype(item);
    transpose_items(static_cast<const Item*>(source), rows, columns, source_stride, static_cast<Item*>(destination),
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

// SPDX-License-Identifier: Apache-2.0
// One instruction set's kernels as a table, and those copies that are kernels of their own.
#include "cpu_kernels.h"

#include "packing.h"
#include "parallel.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

constexpr int64_t kLineBytes = 128, kLines = 1024;  // of the source, that a thread takes at a time

template <class Item>
void transpose_items(const int64_t* size, const Item* sources, const int64_t* strides, Item* destinations,
                     const int64_t* destination_strides, int64_t threads) {
  constexpr int64_t columns = kLineBytes / int64_t(sizeof(Item));
  const int64_t across = parts(size[2], columns), down = parts(size[1], kLines);
  parallel_for(size[0] * down * across, threads, [=](int64_t task, int64_t) {
    const int64_t n = task / across / down, top = task / across % down * kLines, left = task % across * columns;
    transpose_block(sources + n * strides[0] + top * strides[1] + left, strides[1], smaller(kLines, size[1] - top),
                    smaller(columns, size[2] - left),
                    destinations + n * destination_strides[0] + left * destination_strides[1] + top,
                    destination_strides[1]);
  });
}

// What is packed at a time, kBlock channels of a panel, stays in the first-level cache.
template <class Item>
void pack_items(const int64_t* size, const Item* source, const int64_t* stride, Item* packed, int64_t threads) {
  const int64_t outputs = size[1], channels = size[2], taps = size[3], panel = size[4];
  const int64_t panels = parts(outputs, panel), blocks = parts(channels, kBlock);
  parallel_for(size[0] * panels * blocks, threads, [=](int64_t task, int64_t) {
    const int64_t begin = task % blocks * kBlock, at = task / blocks, first = at % panels * panel;
    const Item* from = source + (at / panels * outputs + first) * stride[0] + begin * stride[1];
    const Packing packing = {stride, smaller(outputs - first, panel), panel, taps, channels * panel};
    packing.run(from, smaller(channels - begin, kBlock), packed + (at * taps * channels + begin) * panel);
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
                                deform_conv_few,
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

// SPDX-License-Identifier: Apache-2.0
// Transposed copies, square by square in registers.
#pragma once

#include "vectors.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

// Lines of a square, and numbers of each: whole vectors, but of at most 16 numbers, so that all lines are in registers.
#if defined(__AVX512F__)
template <class Item>
constexpr int kSquare = sizeof(Item) == 8 ? 8 : 16;
#else
template <class Item>
constexpr int kSquare = 16 / int(sizeof(Item));
#endif

template <int... I>
struct Numbers {};
template <int N, int... I>
struct NumbersTo : NumbersTo<N - 1, N - 1, I...> {};
template <int... I>
struct NumbersTo<0, I...> {
  typedef Numbers<I...> type;
};

// a[From], b[From], a[From + 1], b[From + 1], ...
template <int From, class V, int... I>
PLIANT_INLINE V interleave(V a, V b, Numbers<I...>) {
  return __builtin_shufflevector(a, b, (From + I / 2 + I % 2 * int(sizeof...(I)))...);
}

// Sets the L x L `to` to the transpose of `from`: lines that are half a square apart are interleaved, as often as L can
// be halved.
template <int L, class Item>
PLIANT_INLINE void transpose_square(const Item* from, int64_t from_stride, Item* to, int64_t to_stride) {
  typedef vec<Item, L> V;
  constexpr typename NumbersTo<L>::type numbers{};
  V line[L], next[L];
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) line[i] = load_bytes<V>(from + i * from_stride);
#pragma GCC unroll 4
  for (int n = 1; n < L; n *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < L / 2; ++i) {
      next[2 * i] = interleave<0>(line[i], line[i + L / 2], numbers);
      next[2 * i + 1] = interleave<L / 2>(line[i], line[i + L / 2], numbers);
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) line[i] = next[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) store_bytes(to + i * to_stride, line[i]);
}

// Sets `to` (columns, rows) to the transpose of `from` (rows, columns). Of the lines that are further apart, often by a
// multiple of 4 KiB, few are worked on at a time: they compete for the same cache sets.
template <class Item>
PLIANT_INLINE void transpose_block(const Item* from, int64_t from_stride, int64_t rows, int64_t columns, Item* to,
                                   int64_t to_stride) {
  constexpr int L = kSquare<Item>;
  const auto square = [&](int64_t r, int64_t c) {
    const Item* source = from + r * from_stride + c;
    Item* target = to + c * to_stride + r;
    if (r + L <= rows && c + L <= columns) return transpose_square<L>(source, from_stride, target, to_stride);
    for (int64_t i = 0; i < smaller(L, rows - r); ++i)
      for (int64_t j = 0; j < smaller(L, columns - c); ++j) target[j * to_stride + i] = source[i * from_stride + j];
  };
  if (from_stride > to_stride) {
    for (int64_t r = 0; r < rows; r += L)
      for (int64_t c = 0; c < columns; c += L) square(r, c);
  } else {
    for (int64_t c = 0; c < columns; c += L)
      for (int64_t r = 0; r < rows; r += L) square(r, c);
  }
}

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant

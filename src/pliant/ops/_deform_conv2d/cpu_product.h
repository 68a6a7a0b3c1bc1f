// SPDX-License-Identifier: Apache-2.0
// The matrix product that all passes share: a panel of two vectors times a few rows, kept in registers.
#pragma once

#include "../_native/vectors.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

// Registers hold kRows * 2 sums, two vectors of the right factor and one number of the left: 32 registers with AVX-512,
// else 16.
#if defined(__AVX512F__)
constexpr int kRows = 12;
#else
constexpr int kRows = 6;
#endif

template <class T>
constexpr int kPanel = 2 * kLanes<T>;

// sums (kRows, kPanel) = left (kRows, length) * right (length, kPanel), added to what is there if `Adds`. Element (r,
// k) of the left factor stands at left[r * left_row + k], or, where it is Turned, at left[r + k * left_row]. `between`
// is called once for each k.
template <bool Turned, bool Adds, class T, class Between>
PLIANT_INLINE void multiply(const T* left, int64_t left_row, const T* right, int64_t right_stride, int64_t length,
                            T* sums, int64_t sum_stride, const Between& between) {
  constexpr int L = kLanes<T>;
  constexpr lanes<L> n{};
  vec<T, L> sum[kRows][2] = {};
  for (int64_t k = 0; k < length; ++k) {
    between();
    const vec<T, L> first = load(right + k * right_stride, n), second = load(right + k * right_stride + L, n);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const T factor = left[Turned ? r + k * left_row : r * left_row + k];
      sum[r][0] += factor * first;
      sum[r][1] += factor * second;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    T* to = sums + r * sum_stride;
    store(to, Adds ? load(to, n) + sum[r][0] : sum[r][0], n);
    store(to + L, Adds ? load(to + L, n) + sum[r][1] : sum[r][1], n);
  }
}

// These are functions of their own: inlined, the loop is given too few registers.
template <bool Turned, bool Adds, class T>
__attribute__((noinline)) void multiply_panel(const T* left, int64_t left_row, const T* right, int64_t right_stride,
                                              int64_t length, T* sums, int64_t sum_stride) {
  multiply<Turned, Adds>(left, left_row, right, right_stride, length, sums, sum_stride, [] {});
}

// Memory that will be read soon.
struct Ahead {
  const char *begin, *end;
};

// Adds the product to the sums and brings memory into the second-level cache meanwhile, at most a line for each k.
template <class T>
__attribute__((noinline)) void multiply_panel(const T* left, int64_t left_row, const T* right, int64_t length, T* sums,
                                              int64_t sum_stride, Ahead ahead) {
  constexpr int64_t kLine = 64;
  multiply<false, true>(left, left_row, right, kPanel<T>, length, sums, sum_stride, [&] {
    __builtin_prefetch(ahead.begin, 0, 2);
    if (ahead.end - ahead.begin > kLine) ahead.begin += kLine;
  });
}

// What the threads of a pass work in: zero to begin with, and aligned for whole vectors.
class Scratch {
 public:
  Scratch(int64_t threads, int64_t bytes_of_each) : bytes_(round_up(bytes_of_each, 64)) {
    memory_ = static_cast<char*>(__builtin_malloc(threads * bytes_ + 64));
    if (memory_) __builtin_memset(memory_, 0, threads * bytes_ + 64);
  }
  ~Scratch() { __builtin_free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  bool missing() const { return memory_ == nullptr; }
  template <class T>
  T* of(int64_t thread) const {
    return reinterpret_cast<T*>(memory_ + (64 - reinterpret_cast<uintptr_t>(memory_) % 64) % 64 + thread * bytes_);
  }

 private:
  char* memory_;
  int64_t bytes_;
};

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant

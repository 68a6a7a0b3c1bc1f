// SPDX-License-Identifier: Apache-2.0
// Short vectors as wide as the instruction set that this file is compiled for (GCC and Clang vector extensions).
//
// Included only by kernel sources, which are compiled once for each instruction set: everything here lives in a
// namespace of that set's name and nothing of the standard library is instantiated, so that the linker can never
// keep an AVX-512 copy of a function for all processors.
#pragma once

#include <stdint.h>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#ifndef PLIANT_ISA
#error "compile kernel sources with -DPLIANT_ISA=<name of the instruction set>"
#endif

#define PLIANT_INLINE static inline __attribute__((always_inline))
#define PLIANT_MEMBER inline __attribute__((always_inline))

namespace pliant {
namespace PLIANT_ISA {

PLIANT_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
PLIANT_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
PLIANT_INLINE int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }
PLIANT_INLINE int64_t round_up(int64_t n, int64_t unit) { return parts(n, unit) * unit; }

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

template <class T, int L>
struct vector_of {
  typedef T type __attribute__((vector_size(L * sizeof(T))));
};
template <class T>
struct vector_of<T, 1> {
  typedef T type;
};
template <class T, int L>
using vec = typename vector_of<T, L>::type;

// The number of lanes, as a type, so that one generic lambda serves full vectors and the channels left over.
template <int L>
struct lanes {};

template <class V>
PLIANT_INLINE V load_bytes(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class V>
PLIANT_INLINE void store_bytes(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}

template <class To, class From>
PLIANT_INLINE To reinterpret(From from) {
  static_assert(sizeof(To) == sizeof(From), "same bits");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

template <class To, class From>
PLIANT_INLINE To convert(From from, lanes<1>) {
  return static_cast<To>(from);
}
template <class To, class From, int L>
PLIANT_INLINE To convert(From from, lanes<L>) {
  return __builtin_convertvector(from, To);
}

template <int L>
PLIANT_INLINE vec<float, L> load(const float* p, lanes<L>) {
  return load_bytes<vec<float, L>>(p);
}
template <int L>
PLIANT_INLINE vec<double, L> load(const double* p, lanes<L>) {
  return load_bytes<vec<double, L>>(p);
}
template <int L>
PLIANT_INLINE vec<float, L> load(const bfloat16* p, lanes<L> n) {
  const auto bits = convert<vec<uint32_t, L>>(load_bytes<vec<uint16_t, L>>(p), n);
  return reinterpret<vec<float, L>>(bits << 16);
}
template <int L>
PLIANT_INLINE vec<float, L> load(const float16* p, lanes<L> n) {
#if defined(__F16C__)
  if constexpr (L == 8) return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#if defined(__AVX512F__)
  if constexpr (L == 16) return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#endif
#endif
  typedef vec<uint32_t, L> bits_type;
  typedef vec<float, L> result_type;
  const bits_type bits = convert<bits_type>(load_bytes<vec<uint16_t, L>>(p), n);
  const bits_type magnitude = bits & 0x7fffu, exponent = magnitude & 0x7c00u, zero = {};
  // Moves the exponent's bias from 15 to 127; the largest exponent, of infinities and NaN, stays the largest.
  bits_type result = (magnitude << 13) + 0x38000000u;
  result += exponent == 0x7c00u ? zero + 0x38000000u : zero;
  // A subnormal is a whole number times 2^-24. No float on the way is subnormal: a processor may be told to flush
  // those.
  const bits_type subnormal = reinterpret<bits_type>(convert<result_type>(magnitude, n) * 0x1p-24f);
  result = exponent == 0u ? subnormal : result;
  return reinterpret<result_type>(result | ((bits & 0x8000u) << 16));
}

// Lanes of a vector of the wider of two types.
template <class A, class B>
constexpr int kLanesOfBoth = kVectorBytes / int(sizeof(A) > sizeof(B) ? sizeof(A) : sizeof(B));

// A number of any storage type, in arithmetic type T.
template <class T, class S, int L>
PLIANT_INLINE vec<T, L> load_as(const S* p, lanes<L> n) {
  return convert<vec<T, L>>(load(p, n), n);
}

template <int L>
PLIANT_INLINE void store(float* p, vec<float, L> v, lanes<L>) {
  store_bytes(p, v);
}
template <int L>
PLIANT_INLINE void store(double* p, vec<double, L> v, lanes<L>) {
  store_bytes(p, v);
}
template <int L>
PLIANT_INLINE void store(bfloat16* p, vec<float, L> v, lanes<L> n) {
  typedef vec<uint32_t, L> bits_type;
  const auto bits = reinterpret<bits_type>(v);
  const bits_type rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  const bits_type is_nan = (bits & 0x7fffffffu) > 0x7f800000u ? bits_type{} + 1u : bits_type{};
  const bits_type result = is_nan != 0u ? bits_type{} + 0x7fc0u : rounded;
  store_bytes(p, convert<vec<uint16_t, L>>(result, n));
}

template <int L>
PLIANT_INLINE void store(float16* p, vec<float, L> v, lanes<L> n) {
#if defined(__F16C__)
  if constexpr (L == 8)
    return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#if defined(__AVX512F__)
  if constexpr (L == 16)
    return _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                               _mm512_maskz_cvtps_ph(0xffff, v, _MM_FROUND_TO_NEAREST_INT));
#endif
#endif
  typedef vec<uint32_t, L> bits_type;
  const auto bits = reinterpret<bits_type>(v);
  const bits_type sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  // Normal: move the bias from 127 to 15 and round the 13 lowest bits to nearest, ties to even.
  const bits_type normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal: adding 0.5 leaves the result, rounded, in the lowest bits of the sum.
  const bits_type subnormal = reinterpret<bits_type>(reinterpret<vec<float, L>>(magnitude) + 0.5f) - 0x3f000000u;
  const bits_type zero = {};
  bits_type result = magnitude < 0x38800000u ? subnormal : normal;
  result = magnitude >= 0x477ff000u ? zero + 0x7c00u : result;  // too large, after rounding
  result = magnitude > 0x7f800000u ? zero + 0x7e00u : result;   // NaN
  store_bytes(p, convert<vec<uint16_t, L>>(result | sign, n));
}

// The same to storage.
template <class T, class V, int L>
PLIANT_INLINE void store_as(T* p, V v, lanes<L> n) {
  if constexpr (sizeof(T) == sizeof(double)) {
    store(p, convert<vec<double, L>>(v, n), n);
  } else {
    store(p, convert<vec<float, L>>(v, n), n);
  }
}

// The sum of a vector's lanes: halves are added until one is left.
template <class V>
PLIANT_INLINE V total_of(V v, lanes<1>) {
  return v;
}
template <class V, int L>
PLIANT_INLINE auto total_of(V v, lanes<L>) {
  if constexpr (L == 2) {
    return v[0] + v[1];
  } else {
    typedef vec<decltype(v[0] + v[1]), L / 2> half;
    half low, high;
    __builtin_memcpy(&low, &v, sizeof low);
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
    return total_of(low + high, lanes<L / 2>{});
  }
}

// The sums of the lanes of four vectors, all at once.
template <class T, int L>
PLIANT_INLINE void totals_of(const vec<T, L> (&v)[4], T (&totals)[4]) {
  if constexpr (L > 4) {
    vec<T, L / 2> half[4];
    for (int i = 0; i < 4; ++i) {
      vec<T, L / 2> low, high;
      __builtin_memcpy(&low, &v[i], sizeof low);
      __builtin_memcpy(&high, reinterpret_cast<const char*>(&v[i]) + sizeof low, sizeof high);
      half[i] = low + high;
    }
    totals_of<T, L / 2>(half, totals);
  } else if constexpr (L == 4) {
    vec<T, 4> two[2];
    for (int i = 0; i < 4; i += 2)
      two[i / 2] =
          __builtin_shufflevector(v[i], v[i + 1], 0, 1, 4, 5) + __builtin_shufflevector(v[i], v[i + 1], 2, 3, 6, 7);
    store_bytes(totals, __builtin_shufflevector(two[0], two[1], 0, 2, 4, 6) +
                            __builtin_shufflevector(two[0], two[1], 1, 3, 5, 7));
  } else {
    for (int i = 0; i < 4; ++i) totals[i] = total_of(v[i], lanes<L>{});
  }
}

// A sum over channels that is kept in full vectors until the end.
template <class T, int Full>
struct Sum {
  vec<T, Full> lanes_of_sum = {};

  PLIANT_MEMBER void add(vec<T, Full> v, lanes<Full>) { lanes_of_sum += v; }
  template <int L>
  PLIANT_MEMBER void add(vec<T, L> v, lanes<L>) {
    vec<T, Full> wide = {};
    __builtin_memcpy(&wide, &v, sizeof v);
    lanes_of_sum += wide;
  }
};

// Calls body(lanes<L>, c) for c = begin, begin + L, ... and the rest with narrower vectors, down to single channels.
template <int L, class Body>
PLIANT_INLINE void for_channels(int64_t begin, int64_t end, const Body& body) {
  for (; begin + L <= end; begin += L) body(lanes<L>{}, begin);
  if constexpr (L > 1) for_channels<L / 2>(begin, end, body);
}

}  // namespace PLIANT_ISA
}  // namespace pliant

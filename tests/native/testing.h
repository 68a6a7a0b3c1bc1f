// SPDX-License-Identifier: Apache-2.0
// What the tests of all kernels share: checks that count failures, guarded memory, and numbers of every type.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "_native/abi.h"

inline int failures = 0;
inline const pliant_kernels* kernels = nullptr;  // of the instruction set under test

inline void check(bool good, const std::string& what) {
  if (good) return;
  ++failures;
  if (failures < 20) std::fprintf(stderr, "FAILED: %s\n", what.c_str());
}

// --- numbers and memory -------------------------------------------------------------------------------------------

struct Random {
  uint64_t state;
  // Multiples of 1/32 in [-range, range): exact in every type, and often on a pixel.
  double operator()(double range) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return std::floor((double(state >> 40) / double(1 << 24) * 2 - 1) * range * 32) / 32;
  }
};

constexpr uint64_t kCanary = 0xA5C3A5C3A5C3A5C3u;

// AddressSanitizer sees every access beside an array by itself, reads too, if the array fills its memory.
#if defined(__SANITIZE_ADDRESS__)
constexpr int64_t kGuard = 0;
#else
constexpr int64_t kGuard = sizeof(kCanary);
#endif

// An array between two guards.
template <class T>
struct Buffer {
  int64_t size;
  std::vector<unsigned char> bytes;
  explicit Buffer(int64_t n, double fill = 0) : size(n), bytes(2 * kGuard + n * sizeof(T)) {
    std::memcpy(bytes.data(), &kCanary, kGuard);
    std::memcpy(bytes.data() + bytes.size() - kGuard, &kCanary, kGuard);
    for (int64_t i = 0; i < n; ++i) data()[i] = T(fill);
  }
  T* data() { return reinterpret_cast<T*>(bytes.data() + kGuard); }
  T& operator[](int64_t i) { return data()[i]; }
  void check_guards(const std::string& what) {
    check(!std::memcmp(bytes.data(), &kCanary, kGuard), what + ": written before the array");
    check(!std::memcmp(bytes.data() + bytes.size() - kGuard, &kCanary, kGuard), what + ": written after the array");
  }
};

template <int Type>
struct Storage;
template <>
struct Storage<PLIANT_FLOAT32> {
  using S = float;
  using T = float;
  static S encode(double v) { return float(v); }
  static double decode(S s) { return s; }
  static constexpr double epsilon = 2e-6;
};
template <>
struct Storage<PLIANT_FLOAT64> {
  using S = double;
  using T = double;
  static S encode(double v) { return v; }
  static double decode(S s) { return s; }
  static constexpr double epsilon = 1e-13;
};
template <>
struct Storage<PLIANT_BFLOAT16> {
  using S = uint16_t;
  using T = float;
  static S encode(double v) {
    const float f = float(v);
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    return S(bits >> 16);
  }
  static double decode(S s) {
    const uint32_t bits = uint32_t(s) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
  }
  static constexpr double epsilon = 1.0 / 256;
};
template <>
struct Storage<PLIANT_FLOAT16> {
  using S = uint16_t;
  using T = float;
  static S encode(double v) {  // of numbers that half precision holds
    if (v == 0) return 0;
    int exponent;
    const double mantissa = std::frexp(std::fabs(v), &exponent);
    return S((v < 0 ? 0x8000 : 0) | ((exponent + 14) << 10) | (int(mantissa * 2048) & 1023));
  }
  static double decode(S s) {
    const int exponent = (s >> 10) & 31;
    const double fraction = s & 1023,
                 magnitude = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
    return s & 0x8000 ? -magnitude : magnitude;
  }
  static constexpr double epsilon = 1.0 / 2048;
};

template <class T>
void check_near(T actual, double expected, const std::string& what, double rounding = 0) {
  const double tolerance = (sizeof(T) == 8 ? 1e-12 : 2e-5) * (10 + std::fabs(expected)) + rounding;
  if (!(std::fabs(double(actual) - expected) <= tolerance))  // also where `actual` is NaN
    check(false, what + ": got " + std::to_string(double(actual)) + ", expected " + std::to_string(expected));
}

// --- bilinear interpolation, without floor or corners ---------------------------------------------------------------

inline double hat(int64_t q, double p) { return std::fmax(0.0, 1.0 - std::fabs(double(q) - p)); }
// Derivative of hat in p, from the right.
inline double slope(int64_t q, double p) {
  return (double(q - 1) <= p && p < double(q)) - (double(q) <= p && p < double(q + 1));
}

// Tests of pooling_test.cpp, with the chosen instruction set.
void test_pooling(const std::string& what, int64_t threads);

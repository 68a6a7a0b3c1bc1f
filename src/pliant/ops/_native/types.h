// SPDX-License-Identifier: Apache-2.0
// From the type that a C function is told at run time to the types that its loops are written for.
#pragma once

#include "abi.h"
#include "vectors.h"

namespace pliant {
namespace PLIANT_ISA {

template <class Arithmetic, class Storage>
struct Types {
  using T = Arithmetic;
  using S = Storage;
};

template <class Body>
PLIANT_INLINE void with_types(int image_type, const Body& body) {
  switch (image_type) {
    case PLIANT_FLOAT64:
      return body(Types<double, double>{});
    case PLIANT_BFLOAT16:
      return body(Types<float, bfloat16>{});
    case PLIANT_FLOAT16:
      return body(Types<float, float16>{});
    default:
      return body(Types<float, float>{});
  }
}

// Calls body(S{}) for the storage type S alone.
template <class Body>
PLIANT_INLINE void with_storage(int64_t type, const Body& body) {
  switch (type) {
    case PLIANT_FLOAT64:
      return body(double{});
    case PLIANT_BFLOAT16:
      return body(bfloat16{});
    case PLIANT_FLOAT16:
      return body(float16{});
    default:
      return body(float{});
  }
}

template <class T>
PLIANT_INLINE const T* as(const void* p) {
  return static_cast<const T*>(p);
}
template <class T>
PLIANT_INLINE T* as(void* p) {
  return static_cast<T*>(p);
}

}  // namespace PLIANT_ISA
}  // namespace pliant

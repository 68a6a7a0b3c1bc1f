// SPDX-License-Identifier: Apache-2.0
// The loops of the poolings behind untyped pointers. Compiled once for each instruction set.
#include "../_native/cpu_kernels.h"

#include "../_native/types.h"
#include "cpu_pool_backward.h"

namespace pliant {
namespace PLIANT_ISA {

int pool(const pliant_pooling* pooling, int image_type, const void* image, const int64_t* index, const void* sides,
         const void* shift, const void* mask, void* output) {
  int result = 0;
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    const Boxes<T> boxes = {*pooling, index, as<Side<T>>(sides), as<T>(shift), as<T>(mask)};
    result = Pool<T, S>{boxes, as<S>(image), as<S>(output)}.run();
  });
  return result;
}

int pool_backward(const pliant_pooling* pooling, int image_type, const void* image, const int64_t* index,
                  const void* sides, const void* shift, const void* mask, const void* grad, void* grad_image,
                  int64_t grad_pixel_stride, void* products) {
  int result = 0;
  if (grad_image == nullptr && products == nullptr) return result;
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    const Boxes<T> boxes = {*pooling, index, as<Side<T>>(sides), as<T>(shift), as<T>(mask)};
    const PoolBackward<T, S> pass = {boxes,          as<S>(image), as<S>(grad), as<T>(grad_image), grad_pixel_stride,
                                     as<T>(products)};
    result = pass.run();
  });
  return result;
}

}  // namespace PLIANT_ISA
}  // namespace pliant

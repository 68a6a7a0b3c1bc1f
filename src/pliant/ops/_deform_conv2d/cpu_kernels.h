// SPDX-License-Identifier: Apache-2.0
// What each instruction set's copy of cpu_kernels.cpp offers to cpu_native.cpp.
#pragma once

#include "../_native/abi.h"

namespace pliant {

struct DeformKernels {
  decltype(&pliant_deform_conv) conv;
  decltype(&pliant_deform_conv_panel) panel;
  decltype(&pliant_deform_sample) sample;
  decltype(&pliant_deform_sample_backward) sample_backward;
  decltype(&pliant_deform_depthwise) depthwise;
  decltype(&pliant_deform_depthwise_backward) depthwise_backward;
};

namespace baseline {
extern const DeformKernels kernels;
}
namespace avx2 {
extern const DeformKernels kernels;
}
namespace avx512 {
extern const DeformKernels kernels;
}

}  // namespace pliant

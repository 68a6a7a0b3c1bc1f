// SPDX-License-Identifier: Apache-2.0
// The functions of abi.h that each instruction set has a copy of.
#pragma once

#include "abi.h"

namespace pliant {
namespace PLIANT_ISA {

pliant_transpose transpose;
pliant_pack_weight pack_weight;
pliant_deform_conv deform_conv;
pliant_deform_conv_few deform_conv_few;
pliant_deform_conv_panel deform_conv_panel;
pliant_deform_shares deform_shares;
pliant_deform_conv_backward deform_conv_backward;
pliant_deform_sample deform_sample;
pliant_deform_sample_backward deform_sample_backward;
pliant_deform_depthwise deform_depthwise;
pliant_deform_depthwise_backward deform_depthwise_backward;
pliant_pool pool;
pliant_pool_backward pool_backward;

}  // namespace PLIANT_ISA
}  // namespace pliant

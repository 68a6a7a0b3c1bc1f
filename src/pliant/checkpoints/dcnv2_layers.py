# SPDX-License-Identifier: Apache-2.0
"""Any network with the layers of CharlesShang/DCNv2, or with mmcv's under their first names: pliant's layer names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pliant.checkpoints.draft import Conversion, Draft

MARKS = r"(?:.*\.)?(?:conv_offset_mask|offset_mask_fc\.\d)\.(?:weight|bias)"


def convert_dcnv2_layers(state: Mapping[str, Tensor]) -> Conversion:
    """Rename the layers of a state dict; the network is the user's own, so there are no settings.

    `DCN` becomes `pliant.nn.DeformConv2d(..., modulated=True)`, whose offset branch has the same order of channels, and
    `DCNPooling` the branch of `pliant.nn.DeformRoIPool(..., modulated=True)`.
    """
    draft = Draft("dcnv2", state)
    convolutions = draft.rename(r"((?:.*\.)?)conv_offset_mask\.(weight|bias)", r"\1conv_offset.\2")
    pools = draft.rename(r"((?:.*\.)?)offset_mask_fc\.(\d)\.(weight|bias)", r"\1offset_fc.\2.\3")
    draft.rename(r"(.+)", r"\1")
    if convolutions:
        draft.notes.append("a DCN's offset branch is never dilated; set `layer.conv_offset` so where dilation is not 1")
    if pools:
        draft.notes.append(
            "DCNPooling pools by the official operator, pliant.ops.deform_ps_roi_pool with group_size=1; "
            "pliant.nn.DeformRoIPool samples the middle of bins and does not round boxes"
        )
    return draft.finish({})

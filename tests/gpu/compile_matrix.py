# SPDX-License-Identifier: Apache-2.0
"""Which kernels are compiled for which GPU, from which layer's launches."""

from __future__ import annotations

from typing import NamedTuple


class Layer(NamedTuple):
    """A 3x3 layer at stride 1."""

    name: str
    shape: tuple[int, int, int, int]
    outputs: int
    groups: int = 1
    offset_groups: int = 1
    modulated: bool = True
    channels_last: bool = True
    wide: bool = False  # 64-bit indices
    workspace: int = 64 << 20  # bytes of the backward pass
    patch: int = 0  # columns of a two-dimensional tile


Types = dict[str, dict[Layer, tuple[str, ...]]]
LARGE = Layer("large", (8, 256, 64, 64), 256)  # gradients from sorted samples
SMALL = Layer("small", (1, 128, 32, 32), 128)  # scattered gradients
DEPTHWISE = Layer("depthwise", (8, 256, 64, 64), 256, groups=256)
# The branches that the layers above do not take: compiled once, since types of a loop's variables can only fail here.
V1 = Layer("v1_contiguous", (2, 64, 40, 48), 40, modulated=False, channels_last=False)
GROUPS = Layer("groups", (2, 120, 40, 48), 36, groups=3, offset_groups=4, wide=True)
CUT = Layer("cut", (2, 64, 40, 48), 64, workspace=1 << 20)
CUT_IMAGES = Layer("cut_images", (2, 64, 40, 48), 64, workspace=1 << 18, wide=True)
PATCH = Layer("patch", (2, 64, 40, 48), 64, patch=16, wide=True)
TINY = Layer("tiny_groups", (2, 96, 40, 48), 96, groups=24, offset_groups=12, channels_last=False)
DEPTHWISE_WIDE = Layer("depthwise_wide", (2, 96, 40, 48), 96, groups=96, offset_groups=3, wide=True, workspace=1 << 20)
ALL = ("fused_convolution", "gather_gradient", "sample_backward", "sample_cells")
# Architecture -> type -> layers, and the kernels of theirs to compile. float64 differs little between architectures.
FUSED = {LARGE: ("fused_convolution",)}
EVERYWHERE: Types = {
    "bfloat16": {
        LARGE: ALL,
        SMALL: ("sample_backward",),
        DEPTHWISE: ("elementwise_convolution", "gather_gradient", "sample_backward"),
    },
    "float16": FUSED,
    "float32": {LARGE: ("fused_convolution", "gather_gradient", "sample_backward")},
    "tf32": FUSED,
}
FLOAT64: Types = {"float64": {SMALL: ("fused_convolution", "sample_backward"), LARGE: ("gather_gradient",)}}
BRANCHES: Types = {
    "bfloat16": {
        V1: ("fused_convolution", "sample_backward", "sample_cells"),
        GROUPS: ALL,
        CUT: ("gather_gradient", "sample_backward"),
        CUT_IMAGES: ("gather_gradient", "sample_backward"),
        PATCH: ("fused_convolution",),
        TINY: ("elementwise_convolution", "sample_backward"),
        DEPTHWISE_WIDE: ("elementwise_convolution", "gather_gradient", "sample_backward"),
    }
}
MATRIX: dict[str, Types] = {
    "sm_80": EVERYWHERE,
    "sm_89": {"bfloat16": FUSED, "float16": FUSED, "float32": FUSED, "tf32": FUSED},
    "sm_90": EVERYWHERE | FLOAT64,
    "sm_100": EVERYWHERE,
    "gfx942": EVERYWHERE,
}

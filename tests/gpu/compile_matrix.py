# SPDX-License-Identifier: Apache-2.0
"""Which kernels are compiled for which GPU, from which layer's launches."""

from __future__ import annotations

from typing import NamedTuple


class Layer(NamedTuple):
    """A 3x3 modulated layer at stride 1."""

    name: str
    shape: tuple[int, int, int, int]
    outputs: int
    groups: int = 1


Types = dict[str, dict[Layer, tuple[str, ...]]]
LARGE = Layer("large", (8, 256, 64, 64), 256)  # gradients from sorted samples
SMALL = Layer("small", (1, 128, 32, 32), 128)  # scattered gradients
DEPTHWISE = Layer("depthwise", (8, 256, 64, 64), 256, groups=256)
# Architecture -> type -> layers, and the kernels of theirs to compile. float64 differs little between architectures.
FUSED = {LARGE: ("fused_convolution",)}
EVERYWHERE: Types = {
    "bfloat16": {
        LARGE: ("fused_convolution", "gather_gradient", "sample_backward", "sample_cells"),
        SMALL: ("sample_backward",),
        DEPTHWISE: ("elementwise_convolution", "gather_gradient", "sample_backward"),
    },
    "float16": FUSED,
    "float32": {LARGE: ("fused_convolution", "gather_gradient", "sample_backward")},
    "tf32": FUSED,
}
FLOAT64: Types = {"float64": {SMALL: ("fused_convolution", "sample_backward"), LARGE: ("gather_gradient",)}}
MATRIX: dict[str, Types] = {
    "sm_80": EVERYWHERE,
    "sm_89": {"bfloat16": FUSED, "float16": FUSED, "float32": FUSED, "tf32": FUSED},
    "sm_90": EVERYWHERE | FLOAT64,
    "sm_100": EVERYWHERE,
    "gfx942": EVERYWHERE,
}

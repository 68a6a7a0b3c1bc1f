# SPDX-License-Identifier: Apache-2.0
"""Which kernels are compiled for which GPU, from which layer's or pooling's launches."""

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


class Pooling(NamedTuple):
    """A pooling of 512 boxes by one of the operators, of a detector's size."""

    name: str
    operator: str
    deterministic: bool = False


Work = Layer | Pooling
Types = dict[str, dict[Work, tuple[str, ...]]]
LARGE = Layer("large", (8, 256, 64, 64), 256)  # gradients from sorted samples
SMALL = Layer("small", (1, 128, 32, 32), 128)  # scattered gradients
DEPTHWISE = Layer("depthwise", (8, 256, 64, 64), 256, groups=256)
# The branches that the layers above do not take: types of a loop's variables, for instance, can only fail here.
V1 = Layer("v1_contiguous", (2, 64, 40, 48), 40, modulated=False, channels_last=False)
GROUPS = Layer("groups", (2, 120, 40, 48), 36, groups=3, offset_groups=4, wide=True)
CUT = Layer("cut", (2, 64, 40, 48), 64, workspace=1 << 20)
CUT_IMAGES = Layer("cut_images", (2, 64, 40, 48), 64, workspace=1 << 18, wide=True)
PATCH = Layer("patch", (2, 64, 40, 48), 64, patch=16, wide=True)
TINY = Layer("tiny_groups", (2, 96, 40, 48), 96, groups=24, offset_groups=12, channels_last=False)
DEPTHWISE_WIDE = Layer("depthwise_wide", (2, 96, 40, 48), 96, groups=96, offset_groups=3, wide=True, workspace=1 << 20)
ROI, PS = Pooling("roi_pool", "plain"), Pooling("ps_roi_pool", "ps")
ROI_FIXED, PS_FIXED = ROI._replace(name="roi_pool_fixed", deterministic=True), Pooling("ps_roi_pool_fixed", "ps", True)

DENSE = ("fused_convolution", "gather_gradient", "sample_backward", "sample_cells")
NO_CELLS = ("fused_convolution", "gather_gradient", "sample_backward")
FUSED = ("fused_convolution",)
ELEMENTWISE = ("elementwise_convolution", "gather_gradient", "sample_backward")
POOLED = ("pool_bins", "sum_products", "scatter_gradient")
SCATTER = ("scatter_gradient",)
BRANCHES: dict[Work, tuple[str, ...]] = {
    V1: ("fused_convolution", "sample_backward", "sample_cells"),
    GROUPS: DENSE,
    CUT: ("gather_gradient", "sample_backward"),
    CUT_IMAGES: ("gather_gradient", "sample_backward"),
    PATCH: FUSED,
    TINY: ("elementwise_convolution", "sample_backward"),
    DEPTHWISE_WIDE: ELEMENTWISE,
}

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")
# In this order gfx942, the last, has its slow products in one half type alone.
NUMBERS = ("float64", "float32", "float16", "bfloat16")
EVERY_KERNEL: dict[Work, tuple[str, ...]] = {
    LARGE: DENSE, SMALL: ("fused_convolution", "sample_backward"), DEPTHWISE: ELEMENTWISE,
    ROI: POOLED, PS: POOLED, ROI_FIXED: SCATTER, PS_FIXED: SCATTER,
}  # fmt: skip
# Layers that take the narrower tiles of the table, and those cut to 32 positions.
TILES = {Layer(f"{outputs}_outputs", (8, 256, 64, 64), outputs): FUSED for outputs in (128, 64, 32, 16)} | {
    Layer(f"{outputs}_outputs_32_positions", (1, 256, 4, 8), outputs): FUSED for outputs in (256, 64, 16)
}


def _full(architecture: str) -> Types:
    types: Types = {name: dict(EVERY_KERNEL) for name in NUMBERS} | {"tf32": {LARGE: FUSED, SMALL: FUSED}}
    # float16 has bfloat16's tiles; a product for AMD takes as long to compile as ten other kernels.
    for name in ("float32", "bfloat16") if architecture == "gfx942" else ("float64", "float32", "tf32", "bfloat16"):
        types[name] |= TILES
    types["bfloat16"] |= BRANCHES
    return types


def _tested() -> dict[str, Types]:
    """Return each kernel for each architecture, in each type for one of them; products in more types; all branches."""
    found: dict[str, Types] = {name: {} for name in ARCHITECTURES}

    def add(architecture: str, type_name: str, work: Work, *kernels: str) -> None:
        wanted = found[architecture].setdefault(type_name, {})
        wanted[work] = tuple(dict.fromkeys((*wanted.get(work, ()), *kernels)))

    every = [(work, kernel) for work, kernels in EVERY_KERNEL.items() for kernel in kernels]
    for a, architecture in enumerate(ARCHITECTURES):
        for k, (work, kernel) in enumerate(every):
            add(architecture, NUMBERS[(a + k) % len(NUMBERS)], work, kernel)
        for type_name in ("bfloat16",) if architecture == "gfx942" else ("bfloat16", "float16", "tf32"):
            add(architecture, type_name, LARGE, *FUSED)
    for work, kernels in BRANCHES.items():
        add("sm_90", "bfloat16", work, *kernels)
    return found


FULL = {architecture: _full(architecture) for architecture in ARCHITECTURES}  # `make compile-matrix`
TESTED = _tested() | {"sm_89": {"bfloat16": {LARGE: FUSED}, "tf32": {LARGE: FUSED}, "float32": {LARGE: FUSED}}}

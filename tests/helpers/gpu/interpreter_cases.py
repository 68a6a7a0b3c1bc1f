# SPDX-License-Identifier: Apache-2.0
"""What the interpreter runs: small layers, each for a path through the kernels, and wrong kernels that must not pass.

A program of the interpreter takes milliseconds, so images have a few pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from helpers.convolution.cases import Arguments, Case


class GuardedCase(Case):
    """A case whose image lies between NaN in memory: what reads beside it shows in the result."""

    def arguments(self, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Arguments:
        arguments = super().arguments(dtype, device)
        image = arguments.input
        if not image.is_contiguous(memory_format=torch.channels_last) or self.layout == "expanded":
            return arguments
        return arguments._replace(input=_amid_nan(image))


def _amid_nan(image: Tensor) -> Tensor:
    margin = 4 * image.shape[3] * image.shape[1]
    memory = torch.full((image.numel() + 2 * margin,), math.nan, dtype=image.dtype)
    return memory.as_strided(image.shape, image.stride(), margin).copy_(image)


@dataclass(frozen=True)
class Run:
    """A case, its type, and the path it is to take."""

    case: Case
    dtype: torch.dtype = torch.float32
    sorts: bool = False  # deterministic algorithms: the image's gradient from sorted samples
    workspace: int | None = None  # bytes of the backward pass, to cut even small layers
    width: int = 16  # channels that a slice has at least
    wide: bool = False  # 64-bit indices
    patch: int = 0  # columns of a two-dimensional tile

    @property
    def name(self) -> str:
        path = ["sorted"] * self.sorts + [f"{self.workspace} bytes"] * (self.workspace is not None)
        path += ["int64"] * self.wide + [f"patch {self.patch}"] * bool(self.patch)
        return " ".join([self.case.name, str(self.dtype).removeprefix("torch."), *path])


def _case(name: str, *arguments: Any, **options: Any) -> GuardedCase:
    return GuardedCase(name, *arguments, **({"layout": "channels_last"} | options))


ONE = (1, 1)
V2 = _case("v2", 2, 20, (3, 4), 18, (3, 2), padding=ONE)
V1 = _case("v1", 1, 18, (7, 4), 5, (5, 3), (2, 1), (2, 1), (2, 1), modulated=False, bias=False)
GROUPS_2_OFFSET_GROUPS_3 = _case("groups_2_offset_groups_3", 1, 24, (4, 3), 14, (2, 2), padding=(1, 0), groups=2,
                                 offset_groups=3)  # fmt: skip
GROUPS_3_OFFSET_GROUPS_2 = _case("groups_3_offset_groups_2", 1, 36, (2, 4), 15, (2, 3), padding=(0, 1), groups=3,
                                 offset_groups=2)  # fmt: skip
OFFSET_GROUPS = _case("offset_groups_4", 1, 64, (3, 2), 9, (2, 2), padding=ONE, offset_groups=4)
TINY_GROUPS = _case("groups_of_2", 1, 12, (3, 4), 18, (2, 3), padding=(0, 1), groups=6, offset_groups=4)
ODD = _case("channels_21_to_13", 1, 21, (4, 3), 13, (3, 3), padding=ONE)
CHANNELS_40 = _case("channels_40", 1, 40, (3, 2), 24, (1, 3), padding=ONE, offset_groups=5)
DEPTHWISE = _case("depthwise", 1, 12, (3, 4), 12, (3, 2), padding=ONE, groups=12)
DEPTHWISE_GROUPS = _case("depthwise_offset_groups_3", 1, 24, (4, 3), 24, (2, 3), (1, 2), padding=ONE, groups=24,
                         offset_groups=3)  # fmt: skip
PER_CHANNEL = _case("offset_group_per_channel", 1, 5, (2, 3), 5, (2, 2), padding=ONE, offset_groups=5)
EDGES = _case("edges", 2, 6, (5, 4), 3, (3, 2), (2, 1), (1, 0), (2, 1), offset_groups=2, offsets="edges")
EDGES_DEPTHWISE = _case("edges_depthwise", 2, 6, (3, 4), 6, (3, 3), padding=ONE, groups=6, offsets="edges")
FAR = _case("far", 1, 8, (4, 5), 5, (3, 2), (2, 1), ONE, offset_groups=2, offsets="far")
FAR_DEPTHWISE = _case("far_depthwise", 1, 6, (4, 3), 6, (3, 3), padding=ONE, groups=6, offsets="far")
ZERO = _case("zero_offsets", 1, 5, (3, 5), 4, (3, 3), padding=ONE, offsets="zero")
CONTIGUOUS = _case("contiguous", 2, 19, (3, 4), 7, (2, 3), (1, 2), ONE, layout="contiguous")
STRIDED = _case("strided", 2, 9, (3, 4), 7, (3, 2), (1, 2), (1, 0), offset_groups=3, layout="strided")
EXPANDED = _case("expanded_offsets", 2, 6, (3, 4), 3, (2, 3), padding=ONE, layout="expanded")
ONE_PIXEL = _case("one_pixel", 3, 5, (1, 1), 3, (3, 2), padding=ONE)
WIDE_IMAGE = _case("wide_image", 1, 5, (2, 70), 2, (1, 2), (1, 2))
SLICED = _case("sliced", 1, 32, (3, 4), 6, (2, 2), padding=ONE, groups=2)

HALF, BRAIN, DOUBLE = torch.float16, torch.bfloat16, torch.float64
RUNS = (
    Run(V2), Run(V2, BRAIN, sorts=True), Run(V2, DOUBLE, sorts=True, wide=True), Run(V2, HALF, patch=8),
    Run(V1, BRAIN, sorts=True), Run(GROUPS_2_OFFSET_GROUPS_3, BRAIN),
    Run(GROUPS_3_OFFSET_GROUPS_2, sorts=True, wide=True), Run(OFFSET_GROUPS, BRAIN, sorts=True),
    Run(TINY_GROUPS, sorts=True), Run(TINY_GROUPS, HALF), Run(ODD, BRAIN), Run(ODD, sorts=True), Run(CHANNELS_40, sorts=True, wide=True),
    Run(DEPTHWISE, BRAIN, sorts=True), Run(DEPTHWISE, patch=4), Run(DEPTHWISE, DOUBLE),
    Run(DEPTHWISE_GROUPS, sorts=True, wide=True), Run(DEPTHWISE_GROUPS, HALF), Run(PER_CHANNEL, sorts=True),
    Run(EDGES, sorts=True), Run(EDGES, BRAIN), Run(EDGES_DEPTHWISE), Run(FAR, sorts=True), Run(FAR, BRAIN),
    Run(FAR_DEPTHWISE, HALF, sorts=True), Run(ZERO, BRAIN, sorts=True), Run(CONTIGUOUS, BRAIN, sorts=True),
    Run(STRIDED, sorts=True), Run(EXPANDED), Run(ONE_PIXEL, sorts=True), Run(WIDE_IMAGE),
    # Chunks of whole images, then slices of channels and parts of images, of groups and of a depthwise layer too.
    Run(V2, sorts=True, workspace=60_000), Run(SLICED, BRAIN, sorts=True, workspace=11_000, width=8),
    Run(CONTIGUOUS, BRAIN, sorts=True, workspace=5_000), Run(DEPTHWISE, sorts=True, workspace=4_000, width=4),
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A kernel with one wrong line: the file, what stands there, what takes its place, and what shows it."""

    name: str
    file: str
    old: str
    new: str
    run: Run


SAMPLING, FORWARD, BACKWARD = "triton_sampling", "triton_forward", "triton_backward"
SORTED, SCATTERED = Run(ODD, sorts=True), Run(V2)
MUTANTS = (
    Mutant("dy and dx swapped", SAMPLING, "dy = tl.load(offset + 2 * channel", "dy = tl.load(offset + (2 * channel + 1)", Run(V2)),
    Mutant("taps column by column", SAMPLING, "tap // KW * DILATION_Y", "tap % KW * DILATION_Y", Run(V2)),
    Mutant("vertical stride for both", SAMPLING, "ox * STEP_X", "ox * STEP_Y", Run(V1, BRAIN, sorts=True)),
    Mutant("a pixel right of the image", SAMPLING, "up & (left + 1 < W)", "up & (left + 1 <= W)", Run(EDGES, sorts=True)),
    Mutant("a pixel below the image", SAMPLING, "down = inside & (top + 1 < H)", "down = inside & (top < H)", Run(EDGES, sorts=True)),
    Mutant("-1 is outside", SAMPLING, "exists & (y >= -1)", "exists & (y > -1)", Run(EDGES, sorts=True)),
    Mutant("coordinates in half precision", SAMPLING, "inside, x, 0.0)", "inside, x.to(tl.float16).to(CT), 0.0)", Run(WIDE_IMAGE)),
    Mutant("corners swapped", SAMPLING, "upper * fx, lower * (1.0 - fx)", "lower * (1.0 - fx), upper * fx", Run(V2)),
    Mutant("not modulated", FORWARD, "m_c, at, inside, HAS_MASK, CT))\n        e00, e01, e10, e11 = corner_exists(top, left, inside, H", "m_c, at, inside, False, CT))\n        e00, e01, e10, e11 = corner_exists(top, left, inside, H", Run(V2)),
    Mutant("one offset group for all", FORWARD, "at = widen(first // (C // OFFSET_GROUPS) * K + tap, WIDE)", "at = widen(0 * first + tap, WIDE)", Run(OFFSET_GROUPS, BRAIN, sorts=True)),
    Mutant("the tail of a segment not masked", FORWARD, "c0 + channels < SEGMENT", "c0 + channels < C", Run(GROUPS_2_OFFSET_GROUPS_3, BRAIN)),
    Mutant("the bias of the first group for all", FORWARD, "bias + out, mask=out_exists, other=0.0).to(CT)[None, :]\n    _store(y, acc, n, oy, ox, exists, out,", "bias + out % OUT, mask=out_exists, other=0.0).to(CT)[None, :]\n    _store(y, acc, n, oy, ox, exists, out,", Run(GROUPS_2_OFFSET_GROUPS_3, BRAIN)),
    Mutant("one weight of a group for all", FORWARD, "weight + step * O + out", "weight + tap * PER_GROUP * O + out", Run(TINY_GROUPS, sorts=True)),
    Mutant("weights of a tap swapped with the next", BACKWARD, "+ tap * PER_GROUP\n            column_place", "+ (K - 1 - tap) * PER_GROUP\n            column_place", SCATTERED),
    Mutant("offset's gradient not modulated", BACKWARD, "dy = m * (", "dy = (", SCATTERED),
    Mutant("offset's gradient from the wrong corners", BACKWARD, "(s10 - s00) + fx * (s11 - s01)", "(s10 - s00) + fx * (s11 - s10)", SCATTERED),
    Mutant("mask's gradient modulated", BACKWARD, "dm = (1.0 - fy) *", "dm = m * (1.0 - fy) *", SCATTERED),
    Mutant("slices do not add up", BACKWARD, "dy += tl.load", "dy += 0 * tl.load", Run(SLICED, BRAIN, sorts=True, workspace=11_000, width=8)),
    Mutant("scattered without weights", BACKWARD, "tl.atomic_add(target + row + C, g * w11[:, None]", "tl.atomic_add(target + row + C, g * w10[:, None]", SCATTERED),
    Mutant("depthwise weights in their own gradient", BACKWARD, "tl.sum(u * value, 0)", "tl.sum(g * value, 0)", Run(DEPTHWISE, DOUBLE)),
    Mutant("depthwise without weights", BACKWARD, "g = u * tl.load(weight + tap * WIDTH", "g = u * tl.load(weight + 0 * tap", Run(DEPTHWISE, DOUBLE)),
    Mutant("gathered without modulation", BACKWARD, "share = fy * m *", "share = fy *", SORTED),
    Mutant("left and right cells swapped", BACKWARD, "tl.where(jj < middle, fx, 1.0 - fx)", "tl.where(jj < middle, 1.0 - fx, fx)", SORTED),
    Mutant("upper and lower cells swapped", BACKWARD, "if below == 0:", "if below == 1:", SORTED),
    Mutant("cells a column off", BACKWARD, "* (W + 1) + left + 1", "* (W + 1) + left", SORTED),
    Mutant("parts of an image do not add up", BACKWARD, "    if ACCUMULATE:\n        acc += tl.load(target", "    if ACCUMULATE:\n        acc += 0 * tl.load(target", Run(CONTIGUOUS, BRAIN, sorts=True, workspace=5_000)),
)  # fmt: skip

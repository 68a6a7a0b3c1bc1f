# SPDX-License-Identifier: Apache-2.0
"""Laws that hold for every geometry: drawn at random, and shrunk to the smallest that breaks one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d, pad

from helpers.convolution.cases import Arguments
from helpers.convolution.checks import Implementation

laws = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # fmt: skip
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@dataclass(frozen=True)
class Geometry:
    """A drawn problem. Channels are counted per (weight group x offset group), so that every draw is valid."""

    n: int
    per_block: int
    groups: int
    offset_groups: int
    out_per_group: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    out: tuple[int, int]
    slack: tuple[int, int]  # pixels beyond the last tap that no output reaches
    modulated: bool
    seed: int

    @property
    def channels(self) -> int:
        return self.per_block * self.groups * self.offset_groups

    @property
    def size(self) -> tuple[int, int]:
        """The input size that gives the drawn output size."""
        height, width = (
            max(
                1,
                (self.out[d] - 1) * self.stride[d] + self.dilation[d] * (self.kernel[d] - 1) + 1 - 2 * self.padding[d],
            )
            + min(self.slack[d], self.stride[d] - 1)
            for d in (0, 1)
        )
        return height, width

    def arguments(self) -> Arguments:
        g = torch.Generator().manual_seed(self.seed)
        out = [
            (self.size[d] + 2 * self.padding[d] - self.dilation[d] * (self.kernel[d] - 1) - 1) // self.stride[d] + 1
            for d in (0, 1)
        ]
        K, maps = self.kernel[0] * self.kernel[1], self.offset_groups

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=g, dtype=torch.float64)

        weight = normal(self.out_per_group * self.groups, self.channels // self.groups, *self.kernel)
        mask = normal(self.n, maps * K, *out) if self.modulated else None
        return Arguments(
            normal(self.n, self.channels, *self.size), normal(self.n, 2 * maps * K, *out) * 2, weight,
            normal(len(weight)), self.stride, self.padding, self.dilation, mask,
        )  # fmt: skip


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


geometries = st.builds(
    Geometry,
    n=st.integers(1, 3), per_block=st.integers(1, 3), groups=st.integers(1, 3), offset_groups=st.integers(1, 3),
    out_per_group=st.integers(1, 3), kernel=pairs(1, 3), stride=pairs(1, 3), padding=pairs(0, 2), dilation=pairs(1, 3),
    out=pairs(1, 5), slack=pairs(0, 2), modulated=st.booleans(), seed=st.integers(0, 2**16),
)  # fmt: skip


@laws
@given(geometries)
def test_zero_offsets_give_the_plain_convolution(implementation: Implementation, geometry: Geometry) -> None:
    a = geometry.arguments()
    zero = a._replace(offset=torch.zeros_like(a.offset), mask=None if a.mask is None else torch.ones_like(a.mask))
    plain = conv2d(a.input, a.weight, a.bias, a.stride, a.padding, a.dilation, geometry.groups)
    torch.testing.assert_close(implementation(*zero), plain, **CLOSE)


@laws
@given(geometries, pairs(-4, 4))
def test_equal_integer_offsets_shift_the_convolution(
    implementation: Implementation, geometry: Geometry, shift: tuple[int, int]
) -> None:
    a = geometry.arguments()
    offset = torch.zeros_like(a.offset)
    offset[:, 0::2], offset[:, 1::2] = shift
    margin = 8
    begin = [margin - a.padding[d] + shift[d] for d in (0, 1)]
    length = [(a.offset.shape[2 + d] - 1) * a.stride[d] + a.dilation[d] * (geometry.kernel[d] - 1) + 1 for d in (0, 1)]
    wide = pad(a.input, (margin,) * 4)[:, :, begin[0] : begin[0] + length[0], begin[1] : begin[1] + length[1]]
    plain = conv2d(wide, a.weight, a.bias, a.stride, 0, a.dilation, geometry.groups)
    torch.testing.assert_close(implementation(*a._replace(offset=offset, mask=None)), plain, **CLOSE)


@laws
@given(geometries, pairs(0, 3))
def test_translation_equivariance(implementation: Implementation, geometry: Geometry, steps: tuple[int, int]) -> None:
    """Moving image, offsets and mask by whole strides moves the output, where the image stands free in zeros."""
    a = geometry.arguments()
    down, right = steps
    grown = [a.offset.shape[2] + down, a.offset.shape[3] + right]
    big = pad(a.input, (0, right * a.stride[1], 0, down * a.stride[0]))
    moved = pad(a.input, (right * a.stride[1], 0, down * a.stride[0], 0))
    maps, moved_maps = {}, {}
    for name in ("offset", "mask"):
        t = getattr(a, name)
        maps[name] = None if t is None else pad(t, (0, right, 0, down))
        moved_maps[name] = None if t is None else pad(t, (right, 0, down, 0))
    first = implementation(*a._replace(input=big, **maps))
    second = implementation(*a._replace(input=moved, **moved_maps))
    assert list(first.shape[2:]) == grown
    kept_rows, kept_columns = grown[0] - down, grown[1] - right
    torch.testing.assert_close(second[:, :, down:, right:], first[:, :, :kept_rows, :kept_columns], **CLOSE)


@laws
@given(geometries, st.randoms(use_true_random=False))
def test_offset_groups_may_be_permuted_with_their_channels(
    implementation: Implementation, geometry: Geometry, random: object
) -> None:
    a = Geometry(**{**vars(geometry), "groups": 1}).arguments()
    order = list(range(geometry.offset_groups))
    random.shuffle(order)  # type: ignore[attr-defined]

    def permuted(t: Tensor | None, dim: int) -> Tensor | None:
        return None if t is None else t.unflatten(dim, (geometry.offset_groups, -1)).index_select(
            dim, torch.tensor(order)).flatten(dim, dim + 1)  # fmt: skip

    other = implementation(
        permuted(a.input, 1), permuted(a.offset, 1), permuted(a.weight, 1), *a[3:7], permuted(a.mask, 1)
    )
    torch.testing.assert_close(other, implementation(*a), **CLOSE)


@laws
@given(geometries)
def test_images_of_a_batch_do_not_know_one_another(implementation: Implementation, geometry: Geometry) -> None:
    a = geometry.arguments()
    together = implementation(*a)
    for n in range(geometry.n):
        mask = None if a.mask is None else a.mask[n]
        alone = implementation(a.input[n], a.offset[n], *a[2:7], mask)
        torch.testing.assert_close(alone, together[n], **CLOSE)


@laws
@given(geometries, st.sampled_from(["input", "weight", "mask"]), st.floats(-3, 3))
def test_linear_in_input_weight_and_mask(
    implementation: Implementation, geometry: Geometry, name: str, factor: float
) -> None:
    a = Geometry(**{**vars(geometry), "modulated": True}).arguments()._replace(bias=None)
    one = getattr(a, name)
    two = torch.randn_like(one)
    mixed = implementation(*a._replace(**{name: one + factor * two}))
    parts = implementation(*a) + factor * implementation(*a._replace(**{name: two}))
    torch.testing.assert_close(mixed, parts, **CLOSE)


@laws
@given(geometries)
def test_a_mask_of_zeros_leaves_the_bias(implementation: Implementation, geometry: Geometry) -> None:
    a = Geometry(**{**vars(geometry), "modulated": True}).arguments()
    assert a.bias is not None and a.mask is not None
    output = implementation(*a._replace(mask=torch.zeros_like(a.mask)))
    assert torch.equal(output, a.bias.view(-1, 1, 1).expand_as(output))


@laws
@given(geometries, st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30, -1e30]))
def test_offsets_that_leave_the_world_leave_the_bias(
    implementation: Implementation, geometry: Geometry, far: float
) -> None:
    a = geometry.arguments()
    assert a.bias is not None
    output = implementation(*a._replace(offset=torch.full_like(a.offset, far)))
    assert torch.equal(output, a.bias.view(-1, 1, 1).expand_as(output))


@laws
@given(geometries)
def test_weight_groups_are_independent_convolutions(implementation: Implementation, geometry: Geometry) -> None:
    """With one offset group, each weight group alone gives its own output channels."""
    a = Geometry(**{**vars(geometry), "offset_groups": 1}).arguments()
    together = implementation(*a).unflatten(1, (geometry.groups, -1))
    assert a.bias is not None
    pieces = zip(
        a.input.chunk(geometry.groups, 1), a.weight.chunk(geometry.groups), a.bias.chunk(geometry.groups), strict=True
    )
    for i, (x, weight, bias) in enumerate(pieces):
        torch.testing.assert_close(implementation(x, a.offset, weight, bias, *a[4:]), together[:, i], **CLOSE)


@pytest.mark.parametrize("modulated", [False, True])
def test_masks_of_one_are_v1(implementation: Implementation, modulated: bool) -> None:
    a = Geometry(2, 2, 2, 2, 3, (3, 2), (2, 1), (1, 0), (1, 2), (4, 5), (0, 0), True, 1).arguments()
    assert a.mask is not None
    ones = a._replace(mask=torch.ones_like(a.mask)) if modulated else a._replace(mask=torch.full_like(a.mask, 0.5))
    v1 = implementation(*a._replace(mask=None, bias=None))
    factor = 1.0 if modulated else 0.5
    torch.testing.assert_close(implementation(*ones._replace(bias=None)), factor * v1, **CLOSE)

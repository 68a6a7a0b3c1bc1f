# SPDX-License-Identifier: Apache-2.0
"""RoI pooling where inputs are not friendly: no boxes, huge boxes, half types, autocast, memory, threads."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch
from torch import nn

from helpers.canary import guarded_memory
from helpers.pooling.cases import BY_NAME, RoICase
from helpers.pooling.checks import check_forward_backward, run, runner
from pliant.ops import deform_ps_roi_pool, deform_roi_pool

HALVES = (torch.bfloat16, torch.float16)
BOTH = ("asymmetric", "ps_asymmetric")


# -- none of something -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["asymmetric", "adaptive", "roi_align", "ps_asymmetric"])
def test_no_boxes(roi_impl: str, name: str) -> None:
    case = RoICase(**{**vars(BY_NAME[name]), "name": f"{name}_none", "boxes": 0})
    output, gradients = runner(roi_impl)(case, case.arguments(), case.upstream())
    assert output.shape == (0, case.channels, *case.bins)
    assert {n: g.shape for n, g in gradients.items()} == {n: getattr(case.arguments(), n).shape for n in gradients}
    assert not gradients["input"].any()


def test_no_channels(roi_impl: str) -> None:
    """As in torchvision's RoIAlign: nothing of each box, and a gradient of nothing."""
    case = RoICase(**{**vars(BY_NAME["asymmetric"]), "name": "no_channels", "channels": 0})
    output, gradients = runner(roi_impl)(case, case.arguments(), case.upstream())
    assert output.shape == (7, 0, 2, 5)
    assert gradients["input"].shape == (3, 0, 9, 13)
    assert not gradients["boxes"].any()
    assert not gradients["offset"].any()


@pytest.mark.parametrize("images", [0, 2])
def test_no_boxes_in_a_list(roi_public: Any, images: int) -> None:
    image = torch.randn(images, 4, 5, 6, requires_grad=True)
    for boxes in ([torch.zeros(0, 4)] * images, torch.zeros(0, 5)):
        for y in (deform_roi_pool(image, boxes, (2, 3), impl=roi_public),
                  deform_ps_roi_pool(image, boxes, (2, 3), 1, group_size=2, impl=roi_public)):  # fmt: skip
            assert y.shape[0] == 0
            (gradient,) = torch.autograd.grad(y.sum(), image)
            assert gradient.shape == image.shape
            assert not gradient.any()


def test_a_list_of_boxes_is_the_tensor_with_their_images(roi_public: Any) -> None:
    """The middle image has none; the gradient reaches the tensors of the list."""
    image = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    corners = torch.rand(5, 2, 2, dtype=torch.float64).mul(9).sort(1)[0].flatten(1).requires_grad_()
    listed = [corners[:2], corners[:0], corners[2:]]
    together = torch.cat([torch.tensor([[0.0], [0.0], [2.0], [2.0], [2.0]]), corners], 1)
    upstream = torch.randn(5, 4, 3, 2, dtype=torch.float64)
    found = [deform_roi_pool(image, b, (3, 2), impl=roi_public) for b in (listed, tuple(listed), together)]
    gradients = [torch.autograd.grad(y, corners, upstream)[0] for y in found]
    for y, g in zip(found[1:], gradients[1:], strict=True):
        assert torch.equal(y, found[0])
        assert torch.equal(g, gradients[0])
    assert gradients[0].abs().min() > 0
    official = [deform_ps_roi_pool(image, b, (3, 2), 1, group_size=2, impl=roi_public) for b in (listed, together)]
    assert torch.equal(*official)


# -- too much of something ---------------------------------------------------------------------------------------------

HUGE = [
    [0, -1e9, -1e9, 1e9, 1e9], [0, 0, 0, 1e9, 7], [0, -1e30, 2, 1e30, 5], [0, -3e38, -3e38, 3e38, 3e38],
    [0, 3e38, 3e38, 3e38, 3e38], [0, 0, 0, math.inf, math.inf], [0, -math.inf, 0, 9, 9], [0, math.nan, 0, 9, 9],
    [0, 9, 9, 0, 0], [0, 5e8, 5e8, -5e8, -5e8], [0, 0, 0, 2.0**31, 2.0**31], [0, 0, 0, 2.0**63, 1], [0, 0, 0, 0, 0],
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_huge_boxes_take_bounded_time_and_give_finite_gradients(
    roi_impl: str, sampling_ratio: int, dtype: torch.dtype
) -> None:
    """Bins of 1e8 pixels would ask for 1e16 samples each."""
    image = torch.randn(1, 4, 21, 30, dtype=dtype)
    boxes = torch.tensor(HUGE, dtype=torch.promote_types(dtype, torch.float32))
    case = RoICase("huge", "plain", 1, 4, (21, 30), len(HUGE), (3, 4), sampling_ratio, scale=0.5)
    arguments = case.arguments(dtype)._replace(input=image, boxes=boxes)
    started = time.monotonic()
    output, gradients = runner(roi_impl)(case, arguments, case.upstream(dtype))
    assert time.monotonic() - started < 20
    assert output.isfinite().all()
    assert all(g.isfinite().all() for g in gradients.values())
    dead = torch.tensor(HUGE).isfinite().all(1).logical_not()
    assert not output[dead].any()
    assert not gradients["boxes"][dead].any()
    assert not gradients["offset"][dead].any()
    assert output[-1].any() == (sampling_ratio > 0), "a box of no size has no samples of its own"


@pytest.mark.parametrize("operator", ["plain", "ps"])
def test_no_offset_crashes_or_spreads(roi_impl: str, operator: Any) -> None:
    """Each far number alone, in all offsets of one bin: that bin is 0, all others are what they were."""
    case = RoICase("far_one_by_one", operator, 2, 4, (6, 8), 5, (2, 3), 2)
    arguments, upstream = case.arguments(), case.upstream()
    assert arguments.offset is not None
    clean, _ = runner(roi_impl)(case, arguments, upstream)
    for far in (math.nan, math.inf, -math.inf, 1e30, -1e30, 2.0**31, -(2.0**63), 1e300):
        offset = arguments.offset.clone()
        offset[3, :, 1, 2] = far
        output, gradients = runner(roi_impl)(case, arguments._replace(offset=offset), upstream)
        assert not output[3, :, 1, 2].any()
        assert not gradients["offset"][3, :, 1, 2].any()
        assert gradients["mask"][3, 0, 1, 2] == 0
        output[3, :, 1, 2] = clean[3, :, 1, 2]
        assert torch.equal(output, clean)
        assert all(g.isfinite().all() for g in gradients.values())


def test_pixels_that_are_not_numbers_stay_where_they_are(roi_public: str) -> None:
    """A bin that reads no such pixel is untouched by it."""
    case = RoICase("poisoned", "plain", 2, 3, (9, 8), 1, (2, 2), 2, scale=1.0, offsets="none", modulated=False)
    arguments = case.arguments()._replace(boxes=torch.tensor([[0, 1.2, 1.2, 5.1, 5.1]], dtype=torch.float64))
    clean = case.call(arguments, roi_public)
    poisoned = arguments.input.clone()
    poisoned[0, :, 7:, 7:] = math.nan
    poisoned[0, :, 0, 0] = math.inf
    poisoned[1] = math.nan
    assert torch.equal(case.call(arguments._replace(input=poisoned), roi_public), clean)


@pytest.mark.parametrize("samples", [0, 2])
def test_the_reference_works_in_pieces(monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    """Pieces of one box and of one channel give what whole calls give."""
    from pliant.ops import _roi_samples

    cases = [RoICase("pieces", "plain", 2, 5, (9, 7), 6, (3, 4), samples)]
    cases.append(RoICase("ps_pieces", "ps", 2, 4, (9, 7), 6, (3, 4), max(samples, 1), classes=2, group=2))
    for piece in (1, 300):
        monkeypatch.setattr(_roi_samples, "PIECE", piece)
        for case in cases:
            check_forward_backward(runner("closed_form"), case)


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["asymmetric", "adaptive", "far_boxes", "channels_37", "channels_last", "ps_asymmetric", "ps_far_boxes", "ps_v1"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_is_written_and_nothing_beside_it(roi_impl: str, name: str, dtype: torch.dtype) -> None:
    if roi_impl == "reference":
        pytest.skip("takes no uninitialised memory")
    with guarded_memory() as guard:
        check_forward_backward(runner(roi_impl), BY_NAME[name], dtype)
    guard.assert_whole()


@pytest.mark.parametrize("name", BOTH)
def test_only_the_needed_gradients(roi_impl: str, name: str) -> None:
    """Each gradient alone is what it is among all of them."""
    case = BY_NAME[name]
    arguments, upstream = case.arguments(), case.upstream()
    _, everything = runner(roi_impl)(case, arguments, upstream)
    if roi_impl == "closed_form":
        pytest.skip("is called with what is needed")
    for wanted in everything:
        leaf = getattr(arguments, wanted).detach().requires_grad_()
        (found,) = torch.autograd.grad(case.call(arguments._replace(**{wanted: leaf}), roi_impl), leaf, upstream)
        torch.testing.assert_close(found, everything[wanted], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["channels_last", "ps_channels_last", "strided", "asymmetric", "ps_strided"])
def test_memory_formats(roi_impl: str, name: str) -> None:
    """The output is contiguous; the gradient of a channels_last image is channels_last."""
    case = BY_NAME[name]
    output, gradients = runner(roi_impl)(case, case.arguments(), case.upstream())
    assert output.is_contiguous()
    wanted = torch.channels_last if case.layout == "channels_last" else torch.contiguous_format
    if roi_impl != "reference":
        assert gradients["input"].is_contiguous(memory_format=wanted)


@pytest.mark.parametrize("name", ["channels_37", "ps_channels_37", "dyadic", "ps_dyadic"])
def test_same_bits_every_time_and_for_any_number_of_threads_when_asked(
    roi_public: str, name: str, deterministic: None
) -> None:
    case, before = BY_NAME[name], torch.get_num_threads()
    results = []
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        output, gradients = run(case, case.arguments(torch.float32), case.upstream(torch.float32), impl=roi_public)
        results.append([output, *(gradients[n] for n in sorted(gradients))])
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# -- precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
def test_wide_maps_keep_their_fractions(roi_public: Any, dtype: torch.dtype) -> None:
    """Half types beside float32 boxes near column 2040: coordinates rounded to 16 bits would be off by pixels."""
    row = torch.sin(torch.linspace(0, 2048 / 9, 2048, dtype=torch.float64)).expand(1, 3, 4, 2048).to(dtype)
    left = torch.linspace(8.3, 8140.7, 60, dtype=torch.float64).float()
    boxes = torch.stack([left * 0, left, left * 0 + 1, left + 9.37, left * 0 + 12.5], 1)
    offset = torch.full((60, 2, 2, 3), 0.123)
    for function, extra in ((deform_roi_pool, {}), (deform_ps_roi_pool, {"output_channels": 3})):
        arguments: dict[str, Any] = {"output_size": (2, 3), "spatial_scale": 0.25, **extra}
        exact = function(row.double(), boxes.double(), offset=offset.double(), impl="reference", **arguments)
        found = function(row, boxes, offset=offset, impl=roi_public, **arguments)
        assert found.dtype == dtype
        assert (found.double() - exact).norm() / exact.norm() < {torch.bfloat16: 0.004, torch.float16: 0.0006}[dtype]


@pytest.mark.parametrize("image_dtype", [torch.float32, torch.float64, *HALVES])
def test_any_floating_types_serve_together(roi_public: Any, image_dtype: torch.dtype) -> None:
    """Each gradient has the type of what it is for."""
    types = [torch.float64, torch.float16, torch.bfloat16, torch.float32]
    image, boxes = torch.randn(2, 4, 9, 11), torch.tensor([[0, 1.25, 0.5, 6.5, 7.75], [1, 0.5, 2.0, 8.0, 6.5]])
    offset, mask = torch.randn(2, 2, 3, 2).mul(8).round() / 8, torch.rand(2, 1, 3, 2).mul(16).round() / 16
    for shift in range(4):
        kinds = [image_dtype, *(types[(shift + i) % 4] for i in range(3))]
        leaves = [t.to(k).requires_grad_() for t, k in zip((image, boxes, offset, mask), kinds, strict=True)]
        y = deform_roi_pool(leaves[0], leaves[1], (3, 2), *leaves[2:], sampling_ratio=2, impl=roi_public)
        exact = deform_roi_pool(
            leaves[0].detach().double(), boxes.double(), (3, 2), offset.double(), mask.double(), sampling_ratio=2
        )
        assert y.dtype == image_dtype
        torch.testing.assert_close(y.double(), exact, rtol=0.01, atol=0.01)
        gradients = torch.autograd.grad(y.float().square().sum(), leaves)
        assert [g.dtype for g in gradients] == kinds
        assert all(g.isfinite().all() and g.any() for g in gradients)


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_autocast_changes_nothing(impl: Any) -> None:
    """Offsets and masks may come in bfloat16 from a layer; pixels, boxes and results keep their bits."""
    branch = nn.Linear(24, 18)
    image = torch.randn(2, 4, 9, 11, requires_grad=True)
    boxes = torch.tensor([[0, 1.3, 0.7, 6.4, 7.9], [1, 0.1, 2.2, 8.3, 6.6]], requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = branch(torch.randn(2, 24)).view(2, 3, 3, 2)
        assert found.dtype == torch.bfloat16
        offset, mask = found[:, :2], found[:, 2:].sigmoid()
        y = deform_roi_pool(image, boxes, (3, 2), offset, mask, impl=impl)
        z = deform_ps_roi_pool(image, boxes, (3, 2), 4, offset, mask, impl=impl)
        both = torch.autograd.grad((y.square().sum() + z.square().sum()), [image, boxes, branch.weight])
    exact = deform_roi_pool(image, boxes, (3, 2), offset.float(), mask.float(), impl=impl)
    exact_ps = deform_ps_roi_pool(image, boxes, (3, 2), 4, offset.float(), mask.float(), impl=impl)
    assert y.dtype == z.dtype == torch.float32
    assert torch.equal(y, exact)
    assert torch.equal(z, exact_ps)
    assert all(g.dtype == torch.float32 and bool(g.isfinite().all()) and bool(g.any()) for g in both)


def test_pixels_beyond_the_reach_of_32_bits(roi_public: Any) -> None:
    """The box lies behind element 2**31 of an image whose memory is reserved and, but for a corner, never touched."""
    image = torch.empty(1, 8, 16385, 16400, dtype=torch.bfloat16, memory_format=torch.channels_last)
    corner = torch.randn(1, 8, 12, 13).bfloat16()
    image[:, :, -12:, -13:] = corner
    box = torch.tensor([[0, 2.0, 1.5, 9.0, 8.5]])
    far = box + torch.tensor([[0, 16387.0, 16373.0, 16387.0, 16373.0]])
    for function, extra in ((deform_roi_pool, {}), (deform_ps_roi_pool, {"output_channels": 8})):
        near = function(corner, box, output_size=(2, 4), impl=roi_public, **extra)
        assert torch.equal(function(image, far, output_size=(2, 4), impl=roi_public, **extra), near)
        assert near.abs().min() > 0

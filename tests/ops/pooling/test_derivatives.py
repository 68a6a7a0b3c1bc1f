# SPDX-License-Identifier: Apache-2.0
"""Derivatives of RoI pooling: of first and second order, backward and forward, and the function transforms."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from helpers.pooling.cases import BY_NAME, RoIArguments, RoICase
from pliant.ops import _backends, deform_roi_pool

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")

# Small, since a numerical Jacobian costs a call for each number. The seeded samples stand clear of pixels and borders.
SMALL = (
    RoICase("small", "plain", 2, 2, (3, 4), 2, (1, 2), 2),
    RoICase("small_adaptive", "plain", 1, 2, (5, 4), 2, (2, 1), 0),
    RoICase("small_v1", "plain", 1, 1, (4, 5), 2, (2, 1), 1, modulated=False),
    RoICase("small_align", "plain", 1, 1, (4, 5), 2, (2, 3), 0, offsets="none", modulated=False),
    RoICase("small_ps", "ps", 1, 2, (4, 3), 2, (2, 3), 2, classes=2, group=2, part=(3, 1)),
    RoICase("small_ps_v1", "ps", 1, 2, (4, 5), 2, (2, 1), 3, modulated=False),
)


def split(case: RoICase, arguments: RoIArguments | None = None) -> tuple[list[Tensor], Callable[..., RoIArguments]]:
    """Return the tensors as leaves, and a function that puts them back among the arguments."""
    arguments = arguments or case.arguments()
    leaves = [getattr(arguments, name).detach().clone().requires_grad_() for name in case.differentiable]
    return leaves, lambda *tensors: arguments._replace(**dict(zip(case.differentiable, tensors, strict=True)))


@pytest.mark.parametrize("case", SMALL)
def test_gradcheck_and_gradgradcheck(roi_public: str, case: RoICase) -> None:
    """Boxes as a whole, the number of the image included, whose derivative is 0."""
    leaves, arguments = split(case)
    fast = roi_public != "reference"  # along random directions; number by number where PyTorch differentiates
    assert gradcheck(lambda *tensors: case.call(arguments(*tensors), roi_public), leaves, fast_mode=fast)
    assert gradgradcheck(lambda *tensors: case.call(arguments(*tensors), roi_public), leaves, fast_mode=True)


@pytest.mark.parametrize("case", [SMALL[2], SMALL[5]])
def test_every_second_derivative(case: RoICase) -> None:
    """Number by number."""
    leaves, arguments = split(case)
    assert gradgradcheck(lambda *tensors: case.call(arguments(*tensors), "reference"), leaves)


@pytest.mark.parametrize(
    "name",
    ["asymmetric", "adaptive", "far_offsets", "far_boxes", "dyadic", "ps_asymmetric", "ps_far_boxes", "ps_dyadic"],
)
def test_gradient_penalty_of_the_kernel_is_that_of_the_reference(roi_public: str, name: str) -> None:
    """Second derivatives with respect to all arguments, weighted so that no two of the first ones are alike."""
    case = BY_NAME[name]

    def penalty_gradients(impl: str) -> list[Tensor | None]:
        leaves, arguments = split(case)
        upstream = case.upstream().requires_grad_()
        first = torch.autograd.grad(case.call(arguments(*leaves), impl), leaves, upstream, create_graph=True)
        penalty = sum(((i + 1) * g.square().sum() for i, g in enumerate(first)), torch.zeros(()))
        return list(torch.autograd.grad(penalty, [*leaves, upstream], allow_unused=True))

    if roi_public == "reference":
        assert all(g is not None and bool(g.isfinite().all()) for g in penalty_gradients("reference"))
        return
    fast, slow = penalty_gradients(roi_public), penalty_gradients("reference")
    assert sum(g is not None and bool(g.abs().max() > 1e-3) for g in slow) >= 4, "the case says nothing"
    for place, (f, s) in enumerate(zip(fast, slow, strict=True)):
        assert f is not None and s is not None
        torch.testing.assert_close(f, s, rtol=1e-9, atol=1e-9, msg=f"argument {place}")


def test_boxes_learn(roi_public: Any) -> None:
    """Gradient descent on the box alone finds the bright square; torchvision's RoIAlign cannot."""
    image = torch.zeros(1, 1, 24, 32)
    image[:, :, 8:16, 10:22] = 1
    image = torch.nn.functional.avg_pool2d(image, 7, 1, 3)
    box = torch.tensor([[0.0, 2.0, 3.0, 14.0, 13.0]], requires_grad=True)
    losses = []
    for _ in range(40):
        y = deform_roi_pool(image, box, 3, sampling_ratio=2, impl=roi_public)
        loss = -y.mean()
        (gradient,) = torch.autograd.grad(loss, box)
        box = (box - 40 * gradient).detach().requires_grad_()
        losses.append(-loss.item())
    assert losses[-1] > 1.8 * losses[0]
    assert box.detach()[0, 1] > 6


def test_third_derivative_through_the_reference() -> None:
    """y = m * x(p): d3y / dm do dx is gamma * w times the slope of a hat."""
    image = torch.zeros(1, 1, 1, 3, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0, 0.75, 0.0, 2.75, 1.0]], dtype=torch.float64)  # its middle is at x = 1.25
    offset = torch.zeros(1, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    y = deform_roi_pool(image, boxes, 1, offset, mask, sampling_ratio=1, impl="reference")
    (first,) = torch.autograd.grad(y.sum(), mask, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), offset, create_graph=True)
    (third,) = torch.autograd.grad(second[0, 0, 0, 0], image)
    torch.testing.assert_close(third.flatten(), torch.tensor([0, -0.2, 0.2], dtype=torch.float64))


# -- forward mode and torch.func ---------------------------------------------------------------------------------------


@pytest.fixture(params=["auto", "reference"])
def transformable(request: pytest.FixtureRequest) -> Iterator[str]:
    """The choices of `impl` that carry transforms; `auto` says once that it takes the reference for them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pliant.ops.deform_(ps_)?roi_pool: forward-mode", RuntimeWarning)
        yield str(request.param)


@pytest.mark.parametrize("case", [SMALL[0], SMALL[1], SMALL[4]])
def test_jvp_and_dual_tensors_carry_the_true_tangent(transformable: str, case: RoICase) -> None:
    leaves, arguments = split(case)
    values = [t.detach() for t in leaves]
    for place in range(len(values)):
        direction = torch.randn_like(values[place])

        def call(value: Tensor, place: int = place) -> Tensor:
            return case.call(arguments(*values[:place], value, *values[place + 1 :]), transformable)

        truth = (call(values[place] + 1e-6 * direction) - call(values[place] - 1e-6 * direction)) / 2e-6
        _, tangent = torch.func.jvp(call, (values[place],), (direction,))
        torch.testing.assert_close(tangent, truth, rtol=1e-5, atol=1e-7)
        with forward_ad.dual_level():
            dual = forward_ad.unpack_dual(call(forward_ad.make_dual(values[place], direction)))
            assert dual.tangent is not None
            torch.testing.assert_close(dual.tangent, truth, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", [BY_NAME["asymmetric"], BY_NAME["adaptive"], BY_NAME["ps_asymmetric"]])
def test_func_grad_equals_autograd(transformable: str, case: RoICase) -> None:
    leaves, arguments = split(case)

    def loss(*tensors: Tensor) -> Tensor:
        return (case.call(arguments(*tensors), transformable) * case.upstream()).sum()

    found = torch.func.grad(loss, argnums=tuple(range(len(leaves))))(*(t.detach() for t in leaves))
    for name, f, e in zip(case.differentiable, found, torch.autograd.grad(loss(*leaves), leaves), strict=True):
        torch.testing.assert_close(f, e, rtol=1e-10, atol=1e-10, msg=name)


def test_forward_mode_through_the_kernel_is_an_error_that_names_the_way_out(roi_public: str) -> None:
    if roi_public == "reference":
        pytest.skip("the reference carries it")
    arguments = SMALL[0].arguments()
    with pytest.raises(RuntimeError, match="'native' has no forward-mode .* use 'reference'"):
        torch.func.jvp(
            lambda x: SMALL[0].call(arguments._replace(input=x), "native"), (arguments.input,), (arguments.input,)
        )


def test_auto_says_once_that_transforms_take_the_reference() -> None:
    arguments = SMALL[0].arguments()
    _backends._warn_once.cache_clear()

    def tangent() -> None:
        torch.func.jvp(
            lambda x: SMALL[0].call(arguments._replace(input=x), "auto"), (arguments.input,), (arguments.input,)
        )

    with pytest.warns(RuntimeWarning, match=r"deform_roi_pool: forward-mode and torch\.func .* pass impl='reference'"):
        tangent()
    tangent()


@pytest.mark.parametrize("mapped", [{"input": 1}, {"boxes": 0}, {"offset": 2, "mask": 0}], ids="-".join)
@pytest.mark.parametrize("name", ["asymmetric", "adaptive", "ps_asymmetric"])
def test_vmap_equals_a_loop(roi_public: str, name: str, mapped: dict[str, int]) -> None:
    case = BY_NAME[name]
    if case.samples == 0 and roi_public == "reference":
        case = replace(case, size=(5, 4))  # a mapped reference looks at as many samples as any box can have
    arguments = case.arguments()
    scales = {"boxes": (1.0, 1.0, 1.0)}
    stacked = {
        n: torch.stack([getattr(arguments, n) * s for s in scales.get(n, (1.0, -0.5, 0.75))], dim)
        for n, dim in mapped.items()
    }
    if "boxes" in stacked:
        stacked["boxes"][1:, :, 1:] += torch.tensor([[[1.0, 2.0, 4.0, 3.0]], [[0.0, -1.0, 1.0, 1.0]]])

    def one(*tensors: Tensor) -> Tensor:
        return case.call(arguments._replace(**dict(zip(mapped, tensors, strict=True))), roi_public)

    found = torch.vmap(one, tuple(mapped.values()))(*stacked.values())
    parts = [one(*(t.select(mapped[n], i) for n, t in stacked.items())) for i in range(3)]
    torch.testing.assert_close(found, torch.stack(parts), rtol=1e-10, atol=1e-10)


def test_vmap_of_a_backward(roi_public: str) -> None:
    """Batched upstream gradients, as `is_grads_batched` sends them."""
    for name in ("asymmetric", "ps_asymmetric"):
        case = BY_NAME[name]
        leaves, arguments = split(case)
        output = case.call(arguments(*leaves), roi_public)
        upstream = torch.randn(3, *output.shape, dtype=torch.float64)
        found = torch.autograd.grad(output, leaves, upstream, is_grads_batched=True, retain_graph=True)
        each = [torch.autograd.grad(output, leaves, u, retain_graph=True) for u in upstream]
        for f, e in zip(found, zip(*each, strict=True), strict=True):
            torch.testing.assert_close(f, torch.stack(e), rtol=1e-10, atol=1e-10)

# SPDX-License-Identifier: Apache-2.0
"""Derivatives of first and second order, backward and forward, and the function transforms."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from helpers.convolution.cases import BY_NAME, Arguments, Case
from helpers.convolution.checks import DIFFERENTIABLE, Implementation
from helpers.versions import PYTORCH_2_6
from pliant.ops import _backends, deform_conv2d

pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:FutureWarning"
)  # PyTorch's own use of it

# Small, since a numerical Jacobian costs a call for each number; between them: both groups, depthwise, v1, strides.
SMALL = (
    Case("small", 2, 4, (4, 3), 4, (2, 1), (2, 1), (1, 0), (2, 1), groups=2, offset_groups=2),
    Case("small_v1", 1, 2, (3, 4), 3, (1, 2), (1, 2), (0, 1), modulated=False, bias=False),
    Case("small_depthwise", 1, 3, (3, 3), 3, (2, 2), padding=(1, 1), groups=3),
)


def between_pixels(case: Case) -> Arguments:
    """Return the arguments of `case` with every sample well inside a cell, where the output is smooth."""
    arguments = case.arguments()
    offset = arguments.offset.floor().clamp(-2, 1) + 0.2 + 0.6 * torch.rand_like(arguments.offset)
    return arguments._replace(offset=offset)


def split(arguments: Arguments) -> tuple[list[Tensor], Callable[..., tuple[object, ...]]]:
    """Return the tensors as leaves, and a function that puts them back among the arguments."""
    names = [name for name in DIFFERENTIABLE if getattr(arguments, name) is not None]
    leaves = [getattr(arguments, name).detach().clone().requires_grad_() for name in names]
    return leaves, lambda *tensors: arguments._replace(**dict(zip(names, tensors, strict=True)))


@pytest.mark.parametrize("case", SMALL)
def test_gradcheck(implementation: Implementation, case: Case) -> None:
    leaves, arguments = split(between_pixels(case))
    assert gradcheck(lambda *tensors: implementation(*arguments(*tensors)), leaves)


@pytest.mark.parametrize("case", SMALL)
def test_gradgradcheck(implementation: Implementation, case: Case) -> None:
    leaves, arguments = split(between_pixels(case))
    assert gradgradcheck(lambda *tensors: implementation(*arguments(*tensors)), leaves)


@pytest.mark.parametrize(
    "name", ["asymmetric", "asymmetric_v1", "depthwise", "edges", "far", "channels_last", "strided"]
)
def test_gradient_penalty_of_the_kernel_is_that_of_the_reference(
    native: Implementation, reference: Implementation, name: str
) -> None:
    """Second derivatives with respect to all arguments, weighted so that no two of the first ones are alike."""

    def penalty_gradients(implementation: Implementation) -> list[Tensor]:
        leaves, arguments = split(BY_NAME[name].arguments())
        upstream = BY_NAME[name].upstream().requires_grad_()
        first = torch.autograd.grad(implementation(*arguments(*leaves)), leaves, upstream, create_graph=True)
        penalty = sum(((i + 1) * g.square().sum() for i, g in enumerate(first)), torch.zeros(()))
        return list(torch.autograd.grad(penalty, [*leaves, upstream], allow_unused=True))

    fast, slow = penalty_gradients(native), penalty_gradients(reference)
    assert sum(g is not None and bool(g.abs().max() > 1e-3) for g in slow) >= 4, "the case says nothing"
    for place, (f, s) in enumerate(zip(fast, slow, strict=True)):
        zero = torch.zeros(()) if f is None and s is None else torch.zeros_like(f if f is not None else s)
        torch.testing.assert_close(
            zero if f is None else f, zero if s is None else s, rtol=1e-9, atol=1e-9, msg=f"argument {place}"
        )


def test_second_derivative_of_a_part_of_the_arguments(native: Implementation) -> None:
    """Only the weight requires a gradient, and the second derivative goes to the upstream gradient."""
    case = BY_NAME["asymmetric"]
    arguments = case.arguments()
    weight = arguments.weight.clone().requires_grad_()
    upstream = case.upstream().requires_grad_()
    (first,) = torch.autograd.grad(native(*arguments._replace(weight=weight)), weight, upstream, create_graph=True)
    direction = torch.randn_like(first)
    (second,) = torch.autograd.grad(first, upstream, direction)
    expected = native(*arguments._replace(weight=direction, bias=None))  # the output is linear in the weight
    torch.testing.assert_close(second, expected, rtol=1e-10, atol=1e-10)


def test_third_derivative_through_the_reference(reference: Implementation) -> None:
    """y = w * m * x(p) is a product, so d3y / dw dm dx is what one pixel weighs: not zero, and computed."""
    image, offset = torch.ones(1, 1, 1, 2, dtype=torch.float64), torch.zeros(1, 2, 1, 2, dtype=torch.float64)
    offset[0, 1, 0, 0] = 0.25
    leaves = [image.requires_grad_(), torch.ones(1, 1, 1, 1, dtype=torch.float64, requires_grad=True)]
    mask = torch.ones(1, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    y = reference(leaves[0], offset, leaves[1], mask=mask)[0, 0, 0, 0]
    (first,) = torch.autograd.grad(y, leaves[1], create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), mask, create_graph=True)
    (third,) = torch.autograd.grad(second[0, 0, 0, 0], image)
    assert third.flatten().tolist() == [0.75, 0.25]


# -- forward mode ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["auto", "reference"])
def transformable(request: pytest.FixtureRequest) -> Iterator[Implementation]:
    """The choices of `impl` that carry transforms; `auto` says once that it takes the reference for them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pliant.ops.deform_conv2d: forward-mode", RuntimeWarning)
        yield functools.partial(deform_conv2d, impl=request.param)


def true_tangent(arguments: Arguments, name: str, direction: Tensor) -> Tensor:
    """A central difference, whose error is of second order where the output is smooth."""
    step, value = 1e-5, getattr(arguments, name)
    ahead = deform_conv2d(*arguments._replace(**{name: value + step * direction}))
    behind = deform_conv2d(*arguments._replace(**{name: value - step * direction}))
    return (ahead - behind) / (2 * step)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_jvp_is_the_true_tangent(transformable: Implementation, name: str) -> None:
    """Torchvision's operator gives 0 here, without a word."""
    arguments = between_pixels(SMALL[0])
    value = getattr(arguments, name)
    direction = torch.randn_like(value)
    _, tangent = torch.func.jvp(lambda v: transformable(*arguments._replace(**{name: v})), (value,), (direction,))
    expected = true_tangent(arguments, name, direction)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(tangent, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_dual_tensors_carry_the_true_tangent(transformable: Implementation, name: str) -> None:
    arguments = between_pixels(SMALL[0])
    value = getattr(arguments, name)
    direction = torch.randn_like(value)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(value, direction)
        tangent = forward_ad.unpack_dual(transformable(*arguments._replace(**{name: dual}))).tangent
        assert tangent is not None
        torch.testing.assert_close(tangent, true_tangent(arguments, name, direction), rtol=1e-6, atol=1e-6)


def result_or_message(call: Callable[[], Tensor]) -> Tensor | str:
    try:
        return call()
    except RuntimeError as error:
        return str(error)


def test_jvp_inside_a_compiled_graph_is_not_zero() -> None:
    """The true tangent, or an error that names the way out."""
    arguments = between_pixels(SMALL[0])
    direction = torch.randn_like(arguments.input)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(x: Tensor, v: Tensor) -> Tensor:
        return torch.func.jvp(lambda t: deform_conv2d(t, *arguments[1:]), (x,), (v,))[1]

    found = result_or_message(lambda: compiled(arguments.input, direction))
    if isinstance(found, str):
        assert "reference" in found or PYTORCH_2_6  # whose compiler cannot follow the reference
    else:
        torch.testing.assert_close(found, true_tangent(arguments, "input", direction), rtol=1e-6, atol=1e-6)


def test_forward_mode_through_the_kernel_is_an_error_that_names_the_way_out(native: Implementation) -> None:
    arguments = between_pixels(SMALL[0])
    direction = torch.randn_like(arguments.input)
    with pytest.raises(RuntimeError, match="reference"):
        torch.func.jvp(lambda x: native(x, *arguments[1:]), (arguments.input,), (direction,))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="reference"):
        native(forward_ad.make_dual(arguments.input, direction), *arguments[1:])


def test_auto_says_once_that_transforms_take_the_reference() -> None:
    arguments = between_pixels(SMALL[0])
    _backends._warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"forward-mode and torch\.func .* pass impl='reference'"):
        torch.func.jvp(lambda x: deform_conv2d(x, *arguments[1:]), (arguments.input,), (arguments.input,))
    torch.func.jvp(lambda x: deform_conv2d(x, *arguments[1:]), (arguments.input,), (arguments.input,))


# -- torch.func --------------------------------------------------------------------------------------------------------


def test_func_grad_equals_autograd(transformable: Implementation) -> None:
    arguments, upstream = BY_NAME["asymmetric"].arguments(), BY_NAME["asymmetric"].upstream()
    names = [name for name in DIFFERENTIABLE if getattr(arguments, name) is not None]

    def loss(*tensors: Tensor) -> Tensor:
        return (transformable(*arguments._replace(**dict(zip(names, tensors, strict=True)))) * upstream).sum()

    values = [getattr(arguments, name) for name in names]
    found = torch.func.grad(loss, argnums=tuple(range(5)))(*values)
    leaves = [v.clone().requires_grad_() for v in values]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    for name, f, e in zip(names, found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-10, atol=1e-10, msg=name)


def test_per_sample_gradients(transformable: Implementation) -> None:
    """vmap(grad): the weight gradient of each image alone sums to that of the batch."""
    arguments = BY_NAME["asymmetric_v1"].arguments()

    def loss(weight: Tensor, image: Tensor, offset: Tensor) -> Tensor:
        return transformable(image, offset, weight, None, *arguments[4:7]).square().sum()

    each = torch.vmap(torch.func.grad(loss), (None, 0, 0))(arguments.weight, arguments.input, arguments.offset)
    weight = arguments.weight.clone().requires_grad_()
    (whole,) = torch.autograd.grad(loss(weight, arguments.input, arguments.offset), weight)
    assert each.shape == (3, *weight.shape)
    assert not torch.allclose(each[0], each[1])
    torch.testing.assert_close(each.sum(0), whole, rtol=1e-10, atol=1e-10)


def test_hessian_is_symmetric(transformable: Implementation) -> None:
    arguments = between_pixels(SMALL[1])

    def loss(offset: Tensor) -> Tensor:
        return transformable(arguments.input, offset, *arguments[2:]).square().sum()

    size = arguments.offset.numel()
    hessian = torch.func.hessian(loss)(arguments.offset).reshape(size, size)
    torch.testing.assert_close(hessian, hessian.T, rtol=1e-9, atol=1e-9)
    assert hessian.abs().max() > 0.1


MAPPED = [
    {"input": 0},
    {"input": 1, "offset": 0},
    {"offset": 2, "mask": 0},
    {"weight": 0},
    {"input": 0, "weight": 1, "bias": 0},
    {"input": 0, "offset": 0, "weight": 0, "bias": 0, "mask": 0},
]


@pytest.mark.parametrize("mapped", MAPPED, ids="-".join)
@pytest.mark.parametrize("impl", ["auto", "native", "reference"])
def test_vmap_equals_a_loop(impl: str, mapped: dict[str, int], request: pytest.FixtureRequest) -> None:
    if impl == "native":
        request.getfixturevalue("native")
    call = functools.partial(deform_conv2d, impl=impl)
    arguments = BY_NAME["asymmetric"].arguments()
    stacked = {
        name: torch.stack([getattr(arguments, name) * s for s in (1.0, -0.5, 0.75)], dim)
        for name, dim in mapped.items()
    }

    def one(*tensors: Tensor) -> Tensor:
        return call(*arguments._replace(**dict(zip(mapped, tensors, strict=True))))

    found = torch.vmap(one, tuple(mapped.values()))(*stacked.values())
    parts = [one(*(t.select(mapped[name], i) for name, t in stacked.items())) for i in range(3)]
    torch.testing.assert_close(found, torch.stack(parts), rtol=1e-10, atol=1e-10)


def test_vmap_of_a_backward(native: Implementation) -> None:
    """Batched upstream gradients, as `is_grads_batched` sends them."""
    arguments = BY_NAME["asymmetric_v1"].arguments()
    offset = arguments.offset.clone().requires_grad_()
    output = native(*arguments._replace(offset=offset))
    upstream = torch.randn(3, *output.shape, dtype=torch.float64)
    (found,) = torch.autograd.grad(output, offset, upstream, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(output, offset, u, retain_graph=True)[0] for u in upstream]
    torch.testing.assert_close(found, torch.stack(each), rtol=1e-10, atol=1e-10)

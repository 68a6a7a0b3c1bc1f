# SPDX-License-Identifier: Apache-2.0
"""What the operators share between call and dispatcher: `impl`, transforms, autocast, second derivatives, vmap."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, ParamSpec, get_args

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function, has_torch_function

from pliant._check import fail, fail_because, suggest
from pliant.ops import _backends
from pliant.ops._checks import is_wrapped

Impl = Literal["auto", "reference", "native", "triton"]
IMPLS: tuple[str, ...] = get_args(Impl)  # here, since PyTorch 2.6 cannot compile the question
Parameters = ParamSpec("Parameters")

# --- overriding ----------------------------------------------------------------------------------------------------


def overridable(function: Callable[Parameters, Tensor]) -> Callable[Parameters, Tensor]:
    """Let `__torch_function__` of an argument or of a mode take over a call, as PyTorch's own functions do.

    That is how `torch.fx` records a call and how `pliant.export` replaces one.
    """

    @functools.wraps(function)
    def overridden(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Tensor:
        given = (*args, *kwargs.values())
        tensors = tuple(t for value in given for t in (value if isinstance(value, (list, tuple)) else (value,)))
        if has_torch_function(tensors):
            result: Tensor = handle_torch_function(overridden, tensors, *args, **kwargs)
            return result
        return function(*args, **kwargs)

    return overridden


# --- the choice of implementation ----------------------------------------------------------------------------------


def check_impl(impl: str, device: torch.device, *, has_native: bool) -> None:
    """Raise unless `impl` is a known name and, where it is explicit, can run on `device`."""
    if impl not in IMPLS:
        names = ", ".join(repr(name) for name in IMPLS)
        fix = f"leave it at 'auto'.{suggest(str(impl), IMPLS)}"
        fail("impl", f"must be one of {names}", repr(impl), fix)
    if impl == "native":
        if device.type != "cpu":
            got = f"tensors on {device}"
            fail("impl", "'native' needs CPU tensors", got, "use 'auto' or 'reference'", kind=RuntimeError)
        if not has_native:
            fix = "reinstall pliant with a C++17 compiler, or use 'auto' or 'reference'"
            fail_because(
                "impl", "'native' needs the compiled library", _backends.why_no_native(), fix, kind=RuntimeError
            )
    if impl == "triton" and (reason := _backends.why_no_triton(device)) is not None:
        rule = "'triton' needs a GPU that its kernels can run on"
        fail_because("impl", rule, reason, "use 'auto' or 'reference'", kind=RuntimeError)


def needs_reference(operator: str, impl: Impl, tensors: Iterable[Tensor | None]) -> bool:
    """Say whether the reference itself must run: it was asked for, or only it has the derivatives being taken."""
    if impl == "reference":
        return True
    if not _is_transformed([t for t in tensors if t is not None]):
        return False
    if impl != "auto":
        rule = f"'{impl}' has no forward-mode and no torch.func derivatives"
        fail("impl", rule, "a tensor with such a derivative", "use 'reference'", kind=RuntimeError)
    if not torch.compiler.is_compiling():
        _backends.warn_transform(operator)
    return True


def _is_transformed(tensors: Sequence[Tensor]) -> bool:
    """Say whether forward-mode or `torch.func` derivatives are being taken, which only the reference has."""
    if torch.compiler.is_compiling():  # which can trace the first question, not the second
        return any(_has_tangent(t) for t in tensors)
    return any(_has_tangent(t) or is_wrapped(t, functorch.is_gradtrackingtensor) for t in tensors)  # of grad or jvp


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None


# --- autocast ------------------------------------------------------------------------------------------------------


def autocast_is_on(device_type: str) -> bool:
    """Say whether autocast is on for a kind of device, some of which have none."""
    # Whether there is autocast at all cannot be asked in a graph that PyTorch 2.6 compiles; for these two it is known.
    known = device_type in ("cpu", "cuda") or torch.amp.is_autocast_available(device_type)
    return known and torch.is_autocast_enabled(device_type)


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Return a context in which autocast is off for a kind of device."""
    return torch.autocast(device_type, enabled=False) if autocast_is_on(device_type) else nullcontext()


# --- derivatives ---------------------------------------------------------------------------------------------------


def only_needed(gradients: Iterable[Tensor], needed: Sequence[bool]) -> tuple[Tensor, ...]:
    """Return `gradients` with an empty tensor in place of each that nobody needs."""
    return tuple(g if need else g.new_empty(0) for g, need in zip(gradients, needed, strict=True))


def second_derivatives(
    function: Callable[..., Tensor],
    grad: Tensor,
    tensors: Sequence[Tensor | None],
    needed: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Differentiate a backward pass through the reference, whose gradients PyTorch itself can differentiate.

    `grads` flow into the gradients of `function(*tensors)` that are `needed`, for the upstream gradient `grad`.
    Returned are the gradients of `grad` and of each of `tensors`.
    """
    with torch.enable_grad():
        u, *arguments = (_tracked(t) for t in (grad, *tensors))
        y = function(*arguments)
        first = [(t, g) for t, g, n in zip(arguments, grads, needed, strict=True) if n and t is not None]
        primals = torch.autograd.grad(y, [t for t, _ in first], u, create_graph=True)
        pairs = [(p, g) for p, (_, g) in zip(primals, first, strict=True) if g is not None and p.requires_grad]
        wanted = [t for t in (u, *arguments) if t is not None]
        second = torch.autograd.grad(
            [p for p, _ in pairs],
            wanted,
            [g for _, g in pairs],
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
    by_tensor = {id(t): g for t, g in zip(wanted, second, strict=True)}
    return [by_tensor.get(id(t)) for t in (u, *arguments)]


def _tracked(tensor: Tensor | None) -> Tensor | None:
    """Return `tensor` where it is part of a graph already, else a leaf that requires a gradient."""
    if tensor is None or tensor.requires_grad:
        return tensor
    return tensor.detach().requires_grad_()


# --- vmap ----------------------------------------------------------------------------------------------------------


def vmap_by_element(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Run `operator` once for each element of the mapped dimension and stack the results."""

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        def element(i: int) -> list[Any]:
            return [
                a.select(d, i) if isinstance(a, Tensor) and d is not None else a
                for a, d in zip(args, in_dims, strict=True)
            ]

        results = [operator(*element(i)) for i in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(torch.stack(r) for r in zip(*results, strict=True)), (0,) * len(results[0])

    return rule

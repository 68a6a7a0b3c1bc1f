# SPDX-License-Identifier: Apache-2.0
"""Output and gradients of every implementation, on every case, against the float64 loops."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch

from helpers.budget import assert_within_budget
from helpers.canary import guarded_memory
from helpers.convolution.cases import BY_NAME, CASES, Case
from helpers.convolution.checks import Implementation, check_forward_backward, check_gradients, run
from pliant._geometry import ConvGeometry
from pliant.ops import _backends, deform_conv2d
from pliant.ops._deform_conv2d.reference_backward import deform_conv2d_reference_backward

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_output_and_gradients_match_the_loops(implementation: Implementation, case: Case, dtype: torch.dtype) -> None:
    check_forward_backward(implementation, case, dtype)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("device", DEVICES)
def test_closed_form_gradients_match_the_loops(case: Case, device: str) -> None:
    """The gradients of devices without a kernel are written out, not differentiated."""
    x, offset, weight, _, *geometry, mask = case.arguments(device=device)
    upstream = case.upstream(device=device)
    found = deform_conv2d_reference_backward(upstream, x, offset, weight, ConvGeometry(*geometry), mask)
    gradients = dict(zip(("input", "offset", "weight", "bias", "mask"), found, strict=True))
    for name, present in (("bias", case.bias), ("mask", case.modulated)):
        if not present:
            del gradients[name]
    check_gradients(gradients, case)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(native: Implementation, name: str, dtype: torch.dtype) -> None:
    library = _backends.native_library()
    assert library is not None
    before = library.instruction_set()
    if not library.use_instruction_set(name):
        pytest.skip(f"this processor has no {name}")
    try:
        assert library.instruction_set() == name
        for case in CASES:
            check_forward_backward(native, case, dtype)
    finally:
        assert library.use_instruction_set(before)


def test_unknown_instruction_set_is_refused(native: Implementation) -> None:
    library = _backends.native_library()
    assert library is not None
    before = library.instruction_set()
    assert not library.use_instruction_set("sse9")
    assert library.instruction_set() == before


@pytest.mark.parametrize("case", [c for c in CASES if "tile" not in c.name and c.name != "wide_image"])
@pytest.mark.parametrize("channels", [1, 7])
def test_tiles_and_slices_of_channels(
    native: Implementation, monkeypatch: pytest.MonkeyPatch, threads: int, channels: int, case: Case
) -> None:
    """Tiles of five positions and images in slices of 1 or 7 channels: every case crosses many borders of both."""
    from pliant.ops._deform_conv2d import cpu_native, cpu_native_backward, cpu_problem

    dtype = torch.float32 if threads == 1 else torch.float64
    monkeypatch.setattr(cpu_native, "MAX_POSITIONS", 5)
    monkeypatch.setattr(cpu_native_backward, "MAX_POSITIONS", 5)
    monkeypatch.setattr(cpu_problem, "IMAGE_BYTES", channels * case.size[0] * case.size[1] * dtype.itemsize)
    check_forward_backward(native, case, dtype)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_is_written_and_nothing_beside_it(native: Implementation, case: Case, dtype: torch.dtype) -> None:
    with guarded_memory() as guard:
        check_forward_backward(native, case, dtype)
    guard.assert_whole()


@pytest.mark.parametrize("name", ["asymmetric", "depthwise", "channels_last", "channels_21_to_13"])
def test_only_the_needed_gradients(implementation: Implementation, name: str) -> None:
    """Each of the 31 subsets of arguments that may require a gradient gives the same numbers as all of them do."""
    case = BY_NAME[name]
    arguments, upstream = case.arguments(), case.upstream()
    _, everything = run(implementation, arguments, upstream)
    for wanted in _subsets(list(everything)):
        leaves = {key: getattr(arguments, key).detach().requires_grad_() for key in wanted}
        found = torch.autograd.grad(implementation(*arguments._replace(**leaves)), list(leaves.values()), upstream)
        for key, gradient in zip(wanted, found, strict=True):
            torch.testing.assert_close(gradient, everything[key], rtol=1e-12, atol=1e-12, msg=f"{key} of {wanted}")


def _subsets(names: list[str]) -> Iterator[tuple[str, ...]]:
    return itertools.chain.from_iterable(itertools.combinations(names, r) for r in range(1, len(names) + 1))


def test_native_equals_reference_on_full_mantissas(native: Implementation, reference: Implementation) -> None:
    """The cases above use coarse numbers; these use all bits, on a size at which each path of the kernels runs."""
    case = Case("full_mantissas", 2, 19, (23, 29), 17, (3, 3), (1, 2), (1, 1), offset_groups=19)
    coarse, upstream = case.arguments(torch.float32), case.upstream(torch.float32)
    fine = {"input": 1, "offset": 3, "weight": 1}
    arguments = coarse._replace(**{name: torch.randn_like(getattr(coarse, name)) * s for name, s in fine.items()})
    output, gradients = run(native, arguments, upstream)
    low, low_gradients = run(reference, arguments, upstream)
    wide = arguments._make(a.double() if isinstance(a, torch.Tensor) else a for a in arguments)
    truth, true_gradients = run(reference, wide, upstream.double())
    assert_within_budget(output, low, truth, "output")
    for name, gradient in gradients.items():
        assert_within_budget(gradient, low_gradients[name], true_gradients[name], name)


def test_auto_takes_the_native_kernel(native: Implementation, reference: Implementation) -> None:
    arguments = BY_NAME["channels_40"].arguments(torch.float32)
    auto, explicit, slow = (
        run(f, arguments, BY_NAME["channels_40"].upstream(torch.float32)) for f in (deform_conv2d, native, reference)
    )
    assert torch.equal(auto[0], explicit[0])
    assert all(torch.equal(auto[1][name], explicit[1][name]) for name in auto[1])
    assert not torch.equal(auto[0], slow[0]), "the two round alike here: the case cannot tell them apart"

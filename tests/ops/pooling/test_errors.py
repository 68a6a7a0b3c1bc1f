# SPDX-License-Identifier: Apache-2.0
"""Every message of the RoI operators, word for word: argument, rule, what was got, what would work."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pliant._check import PliantError
from pliant.ops import _backends, deform_ps_roi_pool, deform_roi_pool
from pliant.ops._deform_roi_pool.contract import OPERATOR
from pliant.ops._pooling import operator


def zeros(*shape: int, **options: Any) -> torch.Tensor:
    return torch.zeros(shape, **options)


def plain(**changes: Any) -> dict[str, Any]:
    """Return a valid call, 4 boxes on 2 images of 6 channels, with some arguments replaced."""
    valid = {
        "input": zeros(2, 6, 7, 5), "boxes": zeros(4, 5), "output_size": (3, 2), "offset": zeros(4, 2, 3, 2),
        "mask": zeros(4, 1, 3, 2),
    }  # fmt: skip
    return {**valid, **changes}


def ps(**changes: Any) -> dict[str, Any]:
    """Return a valid call, 2 classes of 3 channels, 2x2 groups."""
    valid = {
        "input": zeros(2, 24, 7, 5), "boxes": zeros(4, 5), "output_size": (3, 2), "output_channels": 6, "group_size": 2,
        "part_size": (4, 3), "offset": zeros(4, 4, 4, 3), "mask": zeros(4, 2, 4, 3),
    }  # fmt: skip
    return {**valid, **changes}


def rows(*images: float) -> torch.Tensor:
    return torch.tensor([[i, 0.0, 0.0, 1.0, 1.0] for i in images])


INDEX = "boxes: column 0 must be the number of an image of input, from 0 to 1"
ROWS = "write rows as (image, x1, y1, x2, y2)"
BOTH: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"input": [1.0]}, TypeError, "input: must be a tensor; got a value of type list; pass torch.as_tensor(input)"),
    ({"input": zeros(2, 6, 7, 5, dtype=torch.int64)}, TypeError,
     "input: must be float16, bfloat16, float32 or float64; got torch.int64; pass input.float()"),
    ({"input": zeros(6, 7, 5)}, PliantError,
     "input: must be (N, C, H, W); got the shape (6, 7, 5); reshape it"),
    ({"input": zeros(2, 6, 0, 5)}, PliantError,
     "input: must have at least one pixel; got the shape (2, 6, 0, 5); pass maps of 1x1 or more"),
    ({"boxes": "all"}, TypeError,
     "boxes: must be a tensor or a list of tensors; got 'all'; pass a (R, 5) tensor or a list of (L, 4) tensors"),
    ({"boxes": zeros(4, 4)}, PliantError,
     "boxes: must be (R, 5) rows of (image, x1, y1, x2, y2); got the shape (4, 4); "
     "put the image's number before each box, or pass a list with the (L, 4) boxes of each image"),
    ({"boxes": zeros(4, 5, dtype=torch.int64)}, TypeError,
     "boxes: must be float16, bfloat16, float32 or float64; got torch.int64; pass boxes.float()"),
    ({"boxes": zeros(4, 5, device="meta")}, PliantError,
     "boxes: must be on input's device cpu; got meta; pass boxes.to(input.device)"),
    ({"boxes": [zeros(4, 4)] * 3}, PliantError,
     "boxes: must hold at most one tensor for each of the 2 images of input; got a list of 3; "
     "put the boxes of an image into one (L, 4) tensor"),
    ({"boxes": [zeros(3, 4), zeros(1, 5)]}, PliantError,
     "boxes[1]: must be (L, 4) rows of (x1, y1, x2, y2); got the shape (1, 5); "
     "pass one row of four numbers for each box"),
    ({"boxes": [zeros(3, 4), None]}, TypeError,
     "boxes[1]: must be a tensor; got a value of type NoneType; pass torch.as_tensor(boxes[1])"),
    ({"boxes": rows(0, 1, 2, 0)}, PliantError, f"{INDEX}; got 2 in row 2; {ROWS}"),
    ({"boxes": rows(0, -1, 1, 0)}, PliantError, f"{INDEX}; got -1 in row 1; {ROWS}"),
    ({"boxes": rows(0, 0, 0, math.nan)}, PliantError, f"{INDEX}; got nan in row 3; {ROWS}"),
    ({"boxes": rows(math.inf, 0, 0, 0)}, PliantError, f"{INDEX}; got inf in row 0; {ROWS}"),
    ({"boxes": rows(2.0**31, 0, 0, 0)}, PliantError, f"{INDEX}; got 2.14748e+09 in row 0; {ROWS}"),
    ({"output_size": 0}, PliantError, "output_size: must be at least 1; got 0; use 1 or more"),
    ({"output_size": (3, 2, 1)}, PliantError,
     "output_size: must be an integer or a pair of integers; got (3, 2, 1); write output_size=1, for example"),
    ({"spatial_scale": 0.0}, PliantError,
     "spatial_scale: must be finite and above 0; got 0.0; write spatial_scale=1.0, for example"),
    ({"spatial_scale": math.inf}, PliantError,
     "spatial_scale: must be finite and above 0; got inf; write spatial_scale=1.0, for example"),
    ({"spatial_scale": "1/16"}, TypeError,
     "spatial_scale: must be a number; got '1/16'; write spatial_scale=1.0, for example"),
    ({"gamma": math.nan}, PliantError, "gamma: must be finite; got nan; write gamma=1.0, for example"),
    ({"impl": "cuda"}, PliantError,
     "impl: must be one of 'auto', 'reference', 'native', 'triton'; got 'cuda'; leave it at 'auto'."),
]  # fmt: skip
PLAIN: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"sampling_ratio": 2.0}, TypeError,
     "sampling_ratio: must be an integer; got 2.0; write sampling_ratio=0, for example"),
    ({"offset": zeros(4, 2, 3)}, PliantError,
     "offset: must be (R, 2, Ph, Pw); got the shape (4, 2, 3); reshape it"),
    ({"offset": zeros(4, 12)}, PliantError,
     "offset: must be (R, 2, Ph, Pw); got the shape (4, 12); reshape it"),
    ({"offset": zeros(4, 2, 2, 3)}, PliantError,
     "offset: must have the shape (4, 2, 3, 2) for 4 boxes and output_size (3, 2); got the shape (4, 2, 2, 3); "
     "reshape it, or predict it, as (4, 2, 3, 2)"),
    ({"mask": zeros(3, 1, 3, 2)}, PliantError,
     "mask: must have the shape (4, 1, 3, 2) for 4 boxes and output_size (3, 2); got the shape (3, 1, 3, 2); "
     "reshape it, or predict it, as (4, 1, 3, 2)"),
    ({"mask": zeros(4, 1, 3, 2, device="meta")}, PliantError,
     "mask: must be on input's device cpu; got meta; pass mask.to(input.device)"),
]  # fmt: skip
PS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"output_channels": 0}, PliantError, "output_channels: must be at least 1; got 0; use 1 or more"),
    ({"group_size": (2, 2)}, TypeError,
     "group_size: must be an integer; got (2, 2); write group_size=1, for example"),
    ({"samples_per_bin": 0}, PliantError, "samples_per_bin: must be at least 1; got 0; use 1 or more"),
    ({"part_size": 0}, PliantError, "part_size: must be at least 1; got 0; use 1 or more"),
    ({"output_channels": 5}, PliantError,
     "input: must have output_channels * group_size**2 channels, which is 20; got 24 channels; "
     "change output_channels, group_size or the layer before"),
    ({"offset": zeros(4, 3, 4, 3)}, PliantError,
     "offset: must have 2 channels for each class, and a number of classes that divides output_channels=6; "
     "got 3 channels; use 2 for one class"),
    ({"offset": zeros(4, 8, 4, 3)}, PliantError,
     "offset: must have 2 channels for each class, and a number of classes that divides output_channels=6; "
     "got 8 channels; use 2 for one class"),
    ({"mask": zeros(4, 0, 4, 3)}, PliantError,
     "mask: must have 1 channel for each class, and a number of classes that divides output_channels=6; "
     "got 0 channels; use 1 for one class"),
    ({"offset": zeros(4, 4, 3, 2)}, PliantError,
     "offset: must have the shape (4, 4, 4, 3) for 4 boxes and part_size (4, 3); got the shape (4, 4, 3, 2); "
     "reshape it, or predict it, as (4, 4, 4, 3)"),
    ({"mask": zeros(4, 3, 4, 3)}, PliantError,
     "mask: must have as many classes as offset, which has 2; got 3 classes; "
     "predict one mask for each pair of offsets"),
]  # fmt: skip


def check(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == message
    assert type(caught.value) is kind


@pytest.mark.parametrize(("changes", "kind", "message"), [*BOTH, *PLAIN])
def test_message(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    check(lambda: deform_roi_pool(**plain(**changes)), kind, message)


@pytest.mark.parametrize(("changes", "kind", "message"), [*BOTH, *PS])
def test_message_of_the_position_sensitive_one(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    check(lambda: deform_ps_roi_pool(**ps(**changes)), kind, message)


def test_the_calls_that_all_messages_start_from_are_valid() -> None:
    assert deform_roi_pool(**plain()).shape == (4, 6, 3, 2)
    assert deform_ps_roi_pool(**ps()).shape == (4, 6, 3, 2)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_row_that_names_no_image_is_found_by_every_implementation(roi_public: Any, compiled: bool) -> None:
    """In a compiled graph the operator itself looks; the reference there reads zeros, as on a GPU."""
    torch.compiler.reset()
    calls = (lambda: deform_roi_pool(**plain(boxes=rows(0, 1, 2, 0)), impl=roi_public),
             lambda: deform_ps_roi_pool(**ps(boxes=rows(0, 1, 2, 0)), impl=roi_public))  # fmt: skip
    for call in calls:
        function = torch.compile(call, backend="aot_eager") if compiled else call
        if compiled and roi_public == "reference":
            assert function().shape == (4, 6, 3, 2)
        else:
            with pytest.raises(
                ValueError, match="column 0 must be the number of an image of input, from 0 to 1; got 2"
            ):
                function()


def test_an_unread_box_reads_zeros_where_nothing_looks() -> None:
    """What other devices do, which would have to be waited for: zeros, and gradients of zero."""
    from pliant.ops._deform_roi_pool.reference import Pooling, deform_roi_pool_reference

    image, boxes = torch.ones(2, 3, 4, 5, requires_grad=True), rows(0, 2, -1, math.nan).requires_grad_()
    y = deform_roi_pool_reference(image, boxes, None, None, Pooling((1, 2), 1.0, 2, 0.1))
    assert y.flatten(1).tolist() == [[1] * 6, *[[0] * 6] * 3]
    g_image, g_boxes = torch.autograd.grad(y.sum(), [image, boxes])
    assert g_image.sum((1, 2, 3)).tolist() == [6, 0]
    assert not g_boxes[1:].any()


def test_native_refuses_tensors_that_are_not_on_the_cpu() -> None:
    for function, valid in ((deform_roi_pool, plain()), (deform_ps_roi_pool, ps())):
        elsewhere = {n: t.to("meta") if isinstance(t, torch.Tensor) else t for n, t in valid.items()}
        with pytest.raises(RuntimeError) as caught:
            function(**elsewhere, impl="native")  # type: ignore[operator]
        assert str(caught.value) == "impl: 'native' needs CPU tensors; got tensors on meta; use 'auto' or 'reference'"


def test_native_without_its_library_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backends, "why_no_native", lambda: "no file")
    monkeypatch.setattr(operator, "HAS_NATIVE", False)
    for function, valid in ((deform_roi_pool, plain()), (deform_ps_roi_pool, ps())):
        with pytest.raises(RuntimeError) as caught:
            function(**valid, impl="native")  # type: ignore[operator]
        assert str(caught.value) == (
            "impl: 'native' needs the compiled library; no file; "
            "reinstall pliant with a C++17 compiler, or use 'auto' or 'reference'"
        )


def test_the_reference_under_auto_says_so_once() -> None:
    _backends._warn_once.cache_clear()
    arguments = (zeros(2, 6, 7, 5), zeros(4, 5), None, None, (3, 2), 1.0, 2, 0.1)
    with pytest.warns(
        RuntimeWarning, match=r"pliant\.ops\.deform_roi_pool runs its slow reference implementation on cpu"
    ):
        OPERATOR.forward_reference(*arguments)
    OPERATOR.forward_reference(*arguments)

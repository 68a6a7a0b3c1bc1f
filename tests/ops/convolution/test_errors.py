# SPDX-License-Identifier: Apache-2.0
"""Every message of the operator, word for word: argument, rule, what was got, what would work."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pliant._check import PliantError
from pliant.ops import deform_conv2d

GEOMETRY = "stride (1, 1), padding (0, 0) and dilation (1, 1)"
PREDICT = "predict it with a convolution of the same kernel, stride, padding and dilation"


def arguments(**changes: Any) -> dict[str, Any]:
    """Return a valid call, 6 channels to 4 through a 3x2 kernel on a 7x5 image, with some arguments replaced."""
    valid = {
        "input": torch.zeros(2, 6, 7, 5), "offset": torch.zeros(2, 12, 5, 4), "weight": torch.zeros(4, 6, 3, 2),
        "bias": torch.zeros(4), "mask": torch.zeros(2, 6, 5, 4),
    }  # fmt: skip
    return {**valid, **changes}


def zeros(*shape: int, **options: Any) -> torch.Tensor:
    return torch.zeros(shape, **options)


MESSAGES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"input": [1.0]}, TypeError, "input: must be a tensor; got a value of type list; pass torch.as_tensor(input)"),
    ({"mask": 1.0}, TypeError, "mask: must be a tensor; got a value of type float; pass torch.as_tensor(mask)"),
    ({"offset": zeros(2, 12, 5, 4, dtype=torch.int64)}, TypeError,
     "offset: must be float16, bfloat16, float32 or float64; got torch.int64; pass offset.float()"),
    ({"input": zeros(2, 6, 7, 5, dtype=torch.complex64)}, TypeError,
     "input: must be float16, bfloat16, float32 or float64; got torch.complex64; pass input.float()"),
    ({"weight": zeros(4, 6, 3, 2, dtype=torch.float64)}, TypeError,
     "weight: must have input's dtype torch.float32; got torch.float64; pass weight.to(input.dtype)"),
    ({"bias": zeros(4, dtype=torch.float16)}, TypeError,
     "bias: must have input's dtype torch.float32; got torch.float16; pass bias.to(input.dtype)"),
    ({"offset": zeros(2, 12, 5, 4, device="meta")}, PliantError,
     "offset: must be on input's device cpu; got meta; pass offset.to(input.device)"),
    ({"input": zeros(6, 7)}, PliantError,
     "input: must be (N, C, H, W) or (C, H, W); got the shape (6, 7); reshape it"),
    ({"weight": zeros(4, 6, 3)}, PliantError,
     "weight: must be (O, C/groups, kh, kw); got the shape (4, 6, 3); reshape it"),
    ({"offset": zeros(12, 5, 4)}, PliantError,
     "offset: must be (N, channels, Ho, Wo); got the shape (12, 5, 4); reshape it"),
    ({"input": zeros(6, 7, 5)}, PliantError,
     "offset: must be (channels, Ho, Wo); got the shape (2, 12, 5, 4); reshape it"),
    ({"weight": zeros(4, 6, 3, 0)}, PliantError,
     "weight: must have at least one element in each dimension; got the shape (4, 6, 3, 0); "
     "use a kernel of 1x1 or more"),
    ({"weight": zeros(4, 4, 3, 2)}, PliantError,
     "weight: dimension 1 must divide the 6 channels of input; got the shape (4, 4, 3, 2); "
     "use the shape (4, 6, 3, 2) for one group"),
    ({"weight": zeros(4, 2, 3, 2)}, PliantError,
     "weight: dimension 0 must be a multiple of the 3 groups that dimension 1 implies; got the shape (4, 2, 3, 2); "
     "use a multiple of 3 output channels"),
    ({"offset": zeros(2, 18, 5, 4)}, PliantError,
     "offset: must have 12 channels for each offset group, 2 for each tap of the 3x2 kernel; "
     "got 18 channels; use 12 for one group"),
    ({"offset": zeros(2, 48, 5, 4)}, PliantError,
     "offset: must have 12 channels for each offset group, 2 for each tap of the 3x2 kernel, "
     "and the number of groups must divide input's 6 channels; got 48 channels, hence 4 groups; use 12 for one group"),
    ({"offset": zeros(2, 12, 4, 5)}, PliantError,
     f"offset: must have the shape (2, 12, 5, 4) for this input and kernel with {GEOMETRY}; "
     f"got the shape (2, 12, 4, 5); {PREDICT}"),
    ({"offset": zeros(3, 12, 5, 4)}, PliantError,
     f"offset: must have the shape (2, 12, 5, 4) for this input and kernel with {GEOMETRY}; "
     f"got the shape (3, 12, 5, 4); {PREDICT}"),
    ({"mask": zeros(2, 12, 5, 4)}, PliantError,
     f"mask: must have the shape (2, 6, 5, 4) for this input and kernel with {GEOMETRY}; "
     f"got the shape (2, 12, 5, 4); {PREDICT}"),
    ({"input": zeros(2, 6, 2, 5)}, PliantError,
     "input: must be at least as large as the dilated kernel, padding included; "
     f"got the shape (2, 6, 2, 5) for the kernel (3, 2) with {GEOMETRY}; increase padding"),
    ({"bias": zeros(6)}, PliantError,
     "bias: must have one value for each output channel; got the shape (6); give it the shape (4,)"),
    ({"stride": 0}, PliantError, "stride: must be at least 1; got 0; use 1 or more"),
    ({"stride": (1, 2, 3)}, PliantError,
     "stride: must be an integer or a pair of integers; got (1, 2, 3); write stride=1, for example"),
    ({"padding": (0, -1)}, PliantError, "padding: must be at least 0; got (0, -1); use 0 or more"),
    ({"padding": 1.5}, PliantError,
     "padding: must be an integer or a pair of integers; got 1.5; write padding=0, for example"),
    ({"dilation": (1, 0)}, PliantError, "dilation: must be at least 1; got (1, 0); use 1 or more"),
    ({"impl": "cuda"}, PliantError,
     "impl: must be one of 'auto', 'reference', 'native', 'triton'; got 'cuda'; leave it at 'auto'."),
    ({"impl": "refrence"}, PliantError,
     "impl: must be one of 'auto', 'reference', 'native', 'triton'; got 'refrence'; leave it at 'auto'. "
     "Did you mean 'reference'?"),
    ({"impl": "triton"}, RuntimeError,
     "impl: 'triton' needs a GPU that its kernels can run on; its kernels run on CUDA and ROCm tensors, not on cpu; "
     "use 'auto' or 'reference'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "kind", "message"), MESSAGES, ids=lambda v: "-".join(v) if isinstance(v, dict) else ""
)
def test_message(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        deform_conv2d(**arguments(**changes))
    assert str(caught.value) == message
    assert type(caught.value) is kind


def test_the_call_that_all_messages_start_from_is_valid() -> None:
    assert deform_conv2d(**arguments()).shape == (2, 4, 5, 4)


def test_native_refuses_tensors_that_are_not_on_the_cpu() -> None:
    elsewhere = {name: t.to("meta") for name, t in arguments().items()}
    with pytest.raises(RuntimeError) as caught:
        deform_conv2d(**elsewhere, impl="native")
    assert str(caught.value) == "impl: 'native' needs CPU tensors; got tensors on meta; use 'auto' or 'reference'"


def test_native_without_its_library_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from pliant.ops import _backends
    from pliant.ops._deform_conv2d import contract

    monkeypatch.setattr(contract, "HAS_NATIVE", False)
    monkeypatch.setattr(_backends, "why_no_native", lambda: "no file")
    with pytest.raises(RuntimeError) as caught:
        deform_conv2d(**arguments(), impl="native")
    assert str(caught.value) == (
        "impl: 'native' needs the compiled library; no file; "
        "reinstall pliant with a C++17 compiler, or use 'auto' or 'reference'"
    )

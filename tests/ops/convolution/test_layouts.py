# SPDX-License-Identifier: Apache-2.0
"""Batches of none and of one, and how tensors lie in memory."""

from __future__ import annotations

import pytest
import torch

from helpers.convolution.cases import BY_NAME, Case, expected
from helpers.convolution.checks import Implementation, check_forward_backward, check_gradients, run

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("name", ["asymmetric", "depthwise", "depthwise_multiplier", "channels_last"])
def test_empty_batch(implementation: Implementation, name: str) -> None:
    case = BY_NAME[name]
    arguments = case.arguments()
    empty = arguments._replace(
        input=arguments.input[:0],
        offset=arguments.offset[:0],
        mask=None if arguments.mask is None else arguments.mask[:0],
    )
    output, gradients = run(implementation, empty, case.upstream()[:0])
    assert output.shape == (0, case.out_channels, *case.output_size)
    assert {k: g.shape for k, g in gradients.items()} == {k: getattr(empty, k).shape for k in gradients}
    assert not gradients["weight"].any() and not gradients["bias"].any()


@pytest.mark.parametrize("name", ["asymmetric", "depthwise"])
def test_one_image_without_a_batch_dimension(implementation: Implementation, name: str) -> None:
    case = BY_NAME[name]
    x, offset, weight, bias, *geometry, mask = case.arguments()
    assert mask is not None
    single = implementation(x[1], offset[1], weight, bias, *geometry, mask[1])
    batch = implementation(x, offset, weight, bias, *geometry, mask)
    torch.testing.assert_close(single, batch[1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["channels_last", "asymmetric", "strided", "depthwise", "kernel_1x1"])
def test_memory_format_of_the_result_is_that_of_the_input(
    native: Implementation, reference: Implementation, name: str, dtype: torch.dtype
) -> None:
    """`channels_last` in gives `channels_last` out, as `conv2d` does; everything else gives contiguous."""
    case = BY_NAME[name]
    wanted = torch.channels_last if case.layout == "channels_last" else torch.contiguous_format
    output, gradients = run(native, case.arguments(dtype), case.upstream(dtype))
    assert output.is_contiguous(memory_format=wanted)
    assert gradients["input"].is_contiguous(memory_format=wanted)
    assert reference(*case.arguments(dtype)).is_contiguous(memory_format=wanted)


@pytest.mark.parametrize("size", [(1, 6), (6, 1), (1, 1)])
@pytest.mark.parametrize("channels", [1, 4])
def test_channels_last_where_strides_are_ambiguous(
    implementation: Implementation, size: tuple[int, int], channels: int
) -> None:
    case = Case(f"ambiguous_{size}_{channels}", 2, channels, size, 3, (3, 3), padding=(1, 1), layout="channels_last")
    check_forward_backward(implementation, case)


def test_sliced_channels_last_input(implementation: Implementation) -> None:
    """Every second channel and every second image of a channels_last tensor: no dense memory format at all."""
    case = BY_NAME["asymmetric"]
    arguments = case.arguments()
    spread = torch.full((66, 12, 5, 4), torch.nan, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    spread[::2, ::2] = arguments.input
    output, gradients = run(implementation, arguments._replace(input=spread[::2, ::2]), case.upstream())
    torch.testing.assert_close(output, expected(case).output, rtol=1e-12, atol=1e-12)
    check_gradients(gradients, case)

# SPDX-License-Identifier: Apache-2.0
"""Random calls of the three operators: small shapes, every layout, type and rule, and numbers of every size.

A call is drawn from a seed alone, so that a number is enough to repeat it.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant.ops import deform_conv2d, deform_ps_roi_pool, deform_roi_pool
from pliant.ops._boxes import as_rois

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "channels_last", "gaps", "expanded", "inside")
FAR = (math.nan, math.inf, -math.inf, 3e38, -3e38, 1e30, -(2.0**31), 2.0**31, 2.0**63, 1e-40, -0.0)


@dataclass(frozen=True)
class Call:
    """One call: the operator without its tensors, and these by name."""

    description: str
    operator: Callable[..., Tensor]  # the public function, which still takes the tensors and `impl`
    tensors: dict[str, Tensor]
    backward: Callable[[Tensor, list[bool]], tuple[Tensor, ...]]  # of the upstream gradient and of what is needed
    slots: tuple[str, ...]  # names of the backward's results

    @property
    def differentiable(self) -> list[str]:
        """Return the names of the tensors that have gradients."""
        return [name for name in self.slots if name in self.tensors]

    def gradients(self, upstream: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """Return the gradients of these names, and make sure that nothing else was computed."""
        found = self.backward(upstream, [name in names for name in self.slots])
        for name, gradient in zip(self.slots, found, strict=True):
            wanted = self.tensors[name] if name in names else None
            if gradient.numel() if wanted is None else gradient.shape != wanted.shape:
                raise WrongResultError(f"gradient of {name} has the shape {tuple(gradient.shape)}: {self.description}")
        return {name: g for name, g in zip(self.slots, found, strict=True) if name in names}


class WrongResultError(AssertionError):
    """What a call returned is wrong."""


class Draw:
    """Random numbers and tensors from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(63))

    def size(self, most: int) -> int:
        """Return a size from 1 to `most`, small ones more often."""
        return min(self.random.randint(1, most), self.random.randint(1, most))

    def often(self, share: float) -> bool:
        """Return true in this share of all calls."""
        return self.random.random() < share

    def normal(self, *shape: int) -> Tensor:
        """Return float64 numbers around 0."""
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def spread_far(self, values: Tensor) -> Tensor:
        """Put numbers that are not finite, or as large or small as they come, among `values`."""
        places = torch.rand(values.shape, generator=self.generator) < 0.2
        far = torch.tensor(FAR, dtype=torch.float64)
        chosen = far[torch.randint(len(FAR), values.shape, generator=self.generator)]
        return torch.where(places, chosen, values)

    def laid_out(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Return `values` in `dtype` and in a random layout, with numbers that are not finite in all gaps."""
        layout = self.random.choice(LAYOUTS)
        tensor = values.to(dtype)
        if layout == "channels_last" and tensor.dim() == 4:
            return tensor.contiguous(memory_format=torch.channels_last)
        if layout == "gaps":
            order = list(range(tensor.dim()))
            self.random.shuffle(order)
            spread = torch.full((*(tensor.shape[i] for i in order), 2), math.nan, dtype=dtype)
            spread[..., 0] = tensor.permute(order)
            return spread[..., 0].permute([order.index(i) for i in range(tensor.dim())])
        if layout == "expanded" and tensor.numel():
            axis = self.random.randrange(tensor.dim())
            return tensor.narrow(axis, 0, 1).expand_as(tensor)
        if layout == "inside" and tensor.dim() == 4:
            around = torch.full([s + 2 for s in tensor.shape], math.nan, dtype=dtype)
            inside = around[1:-1, 1:-1, 1:-1, 1:-1]
            inside.copy_(tensor)
            return inside
        return tensor.contiguous()


def draw_call(seed: int) -> Call:
    """Return the call of this seed."""
    draw = Draw(seed)
    return draw.random.choice((_convolution, _convolution, _pooling, _position_sensitive))(draw)


def upstream(seed: int, output: Tensor) -> Tensor:
    """Return the gradient that flows into the output of the call of this seed."""
    draw = Draw(seed + (1 << 40))
    return draw.laid_out(draw.normal(*output.shape), output.dtype)


def _convolution(draw: Draw) -> Call:
    pick = draw.random
    kernel, stride, padding, dilation = (
        (pick.randint(low, high), pick.randint(low, high)) for low, high in ((1, 3), (1, 3), (0, 3), (1, 3))
    )
    offset_groups, groups = draw.size(3), draw.size(3)
    depthwise = draw.often(0.2)
    channels = math.lcm(offset_groups, groups) * draw.size(24)
    groups = channels if depthwise else groups
    outputs = channels if depthwise else groups * draw.size(9)
    least = [dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i] for i in (0, 1)]
    height, width = (max(1, least[i] + draw.size(8) - 1) for i in (0, 1))
    N, K = pick.randint(0, 3), kernel[0] * kernel[1]
    Ho, Wo = (
        (size + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i, size in enumerate((height, width))
    )
    dtype, spread = pick.choice(DTYPES), pick.choice((0.0, 0.5, 3.0, 40.0))
    offset = (draw.normal(N, 2 * offset_groups * K, Ho, Wo) * spread * 32).round() / 32
    offset = draw.spread_far(offset) if draw.often(0.3) else offset
    tensors = {
        "input": draw.laid_out(draw.normal(N, channels, height, width), dtype),
        "offset": draw.laid_out(offset, pick.choice(DTYPES)),
        "weight": draw.laid_out(draw.normal(outputs, channels // groups, *kernel), dtype),
    }
    if draw.often(0.6):
        tensors["mask"] = draw.laid_out(draw.normal(N, offset_groups * K, Ho, Wo), pick.choice(DTYPES))
    if draw.often(0.5):
        tensors["bias"] = draw.laid_out(draw.normal(outputs), dtype)
    operator = functools.partial(deform_conv2d, stride=stride, padding=padding, dilation=dilation)

    def backward(grad: Tensor, needed: list[bool]) -> tuple[Tensor, ...]:
        x, offset, weight = tensors["input"], tensors["offset"], tensors["weight"]
        arguments = (grad, x, offset, weight, stride, padding, dilation, tensors.get("mask"), needed)
        found: tuple[Tensor, ...] = torch.ops.pliant.deform_conv2d_backward(*arguments)
        return found

    return _call(operator, tensors, backward, ("input", "offset", "weight", "bias", "mask"))


def _boxes(draw: Draw, images: int, boxes: int, size: int) -> Tensor:
    """Return (R, 5) boxes around an image of `size`, some of them empty, turned over, far away or not finite."""
    corners = draw.normal(boxes, 4) * size / 2 + size / 2
    kind = draw.random.choice(("around", "whole", "huge", "far"))
    if kind == "whole":
        corners = (corners * 2).round() / 2
    if kind == "huge":
        corners = corners * 10.0 ** draw.random.randint(1, 5)
    if kind == "far":
        corners = draw.spread_far(corners)
    numbers = torch.randint(max(1, images), (boxes, 1), generator=draw.generator)
    return torch.cat([numbers, corners], 1)


def _shift(draw: Draw, *shape: int) -> Tensor:
    offset = draw.normal(*shape) * draw.random.choice((0.0, 1.0, 10.0, 1000.0))
    return draw.spread_far(offset) if draw.often(0.3) else offset


def _options(draw: Draw) -> dict[str, Any]:
    gamma = draw.random.choice((0.1, 0.1, 0.0, 2.5, -0.3))
    return {"spatial_scale": draw.random.choice((1.0, 0.62, 1 / 16)), "gamma": gamma}


def _pooling(draw: Draw) -> Call:
    pick = draw.random
    images, boxes = draw.size(3), pick.randint(0, 5)
    channels, bins = draw.size(80), (draw.size(4), draw.size(4))
    height, width = draw.size(12), draw.size(12)
    dtype = pick.choice(DTYPES)
    tensors = {
        "input": draw.laid_out(draw.normal(images, channels, height, width), dtype),
        "boxes": draw.laid_out(_boxes(draw, images, boxes, max(height, width)), pick.choice(DTYPES[:2])),
    }
    if draw.often(0.7):
        tensors["offset"] = draw.laid_out(_shift(draw, boxes, 2, *bins), pick.choice(DTYPES))
    if draw.often(0.6):
        tensors["mask"] = draw.laid_out(draw.normal(boxes, 1, *bins), pick.choice(DTYPES))
    options: dict[str, Any] = {"output_size": bins, "sampling_ratio": pick.choice((0, 0, 1, 2, 5)), **_options(draw)}
    operator = functools.partial(deform_roi_pool, **options)
    names = ("output_size", "spatial_scale", "sampling_ratio", "gamma")
    backward = _backward_of_pooling(torch.ops.pliant.deform_roi_pool_backward, tensors, [options[n] for n in names])
    return _call(operator, tensors, backward, ("input", "boxes", "offset", "mask"))


def _backward_of_pooling(
    operator: Callable[..., tuple[Tensor, ...]], tensors: dict[str, Tensor], attributes: list[Any]
) -> Callable[[Tensor, list[bool]], tuple[Tensor, ...]]:
    x, rois = tensors["input"], as_rois(tensors["boxes"], tensors["input"])
    maps = (tensors.get("offset"), tensors.get("mask"))
    return lambda grad, needed: operator(grad, x, rois, *maps, *attributes, needed)


def _position_sensitive(draw: Draw) -> Call:
    pick = draw.random
    images, boxes, group = draw.size(3), pick.randint(0, 5), draw.size(4)
    classes, bins, part = draw.size(4), (draw.size(4), draw.size(4)), (draw.size(5), draw.size(5))
    outputs = classes * draw.size(70 // group**2 + 1)
    height, width = draw.size(12), draw.size(12)
    dtype = pick.choice(DTYPES)
    tensors = {
        "input": draw.laid_out(draw.normal(images, outputs * group**2, height, width), dtype),
        "boxes": draw.laid_out(_boxes(draw, images, boxes, max(height, width)), pick.choice(DTYPES[:2])),
    }
    if draw.often(0.7):
        tensors["offset"] = draw.laid_out(_shift(draw, boxes, 2 * classes, *part), pick.choice(DTYPES))
    if draw.often(0.6):
        tensors["mask"] = draw.laid_out(draw.normal(boxes, classes, *part), pick.choice(DTYPES))
    options: dict[str, Any] = {"output_size": bins, "output_channels": outputs, "group_size": group, "part_size": part}
    options |= {"samples_per_bin": draw.size(4), **_options(draw)}
    operator = functools.partial(deform_ps_roi_pool, **options)
    names = ("output_size", "output_channels", "group_size", "part_size", "samples_per_bin", "spatial_scale", "gamma")
    backward = _backward_of_pooling(torch.ops.pliant.deform_ps_roi_pool_backward, tensors, [options[n] for n in names])
    return _call(operator, tensors, backward, ("input", "offset", "mask"))


def _call(
    operator: functools.partial[Tensor],
    tensors: dict[str, Tensor],
    backward: Callable[[Tensor, list[bool]], tuple[Tensor, ...]],
    slots: tuple[str, ...],
) -> Call:
    shown = [f"{name} {tuple(t.shape)} {t.dtype} strides {t.stride()}" for name, t in tensors.items()]
    return Call(f"{operator.func.__name__} {operator.keywords}: {'; '.join(shown)}", operator, tensors, backward, slots)

# SPDX-License-Identifier: Apache-2.0
"""The nodes of a network that can be asked about: a cell of any map, or a region in the second stage of a detector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from pliant._check import counted, fail, suggest


@dataclass(frozen=True)
class MapNode:
    """A cell of the output of a layer.

    Attributes:
        layer: the layer's name in the network. A layer that is called several times is asked at its first call.
        cell: (row, column) of its output.
        channel: one channel of it, or None for all: the node is then a vector.
    """

    layer: str
    cell: tuple[int, int]
    channel: int | None = None


@dataclass(frozen=True)
class RegionNode:
    """The output of a detector's box head for one region: with two fully connected layers, the papers' 2fc node.

    Attributes:
        box: corners x1, y1, x2, y2 of the region in pixels of the network's input image.
        image_size: height and width of the image in the input, without padding; None: all of the input.
    """

    box: tuple[float, float, float, float]
    image_size: tuple[int, int] | None = None


Node = MapNode | RegionNode


def node_responses(network: nn.Module, images: Tensor, node: Node) -> Tensor:
    """Return the response (N, C) of a node for each image.

    Args:
        network: takes `images`; for a `RegionNode` a detector with a `backbone` and `roi_heads` as torchvision's.
        images: (N, 3, H, W), as the network (or the detector's backbone) takes them.
        node: the cell or region. The network runs no further than it needs to.

    Raises:
        ValueError: the network has no such layer, cell or channel, or no second stage.

    Example:
        >>> import torch
        >>> node_responses(nn.Conv2d(3, 5, 3), torch.rand(2, 3, 8, 9), MapNode("", (5, 6))).shape
        torch.Size([2, 5])
    """
    if isinstance(node, RegionNode):
        return region_outputs(network, images, node)[0]
    return _cell(map_output(network, images, node.layer), node)


def map_output(network: nn.Module, images: Tensor, layer: str) -> Tensor:
    """Return the output (N, C, Ho, Wo) of a layer for images; the network runs no further than that."""
    modules = dict(network.named_modules())
    if layer not in modules:
        fix = f"see network.named_modules().{suggest(layer, modules)}"
        fail("node", "must name a layer of the network", repr(layer), fix)
    caught: list[Tensor] = []

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        caught.append(output)
        raise _Reached

    handle = modules[layer].register_forward_hook(hook)
    try:
        network(images)
    except _Reached:
        pass
    finally:
        handle.remove()
    if not caught:
        fail("node", "must name a layer that runs", repr(layer), "name one that the network calls")
    if not isinstance(caught[0], Tensor) or caught[0].dim() != 4:
        got = f"{layer!r}, which gives {_described(caught[0])}"
        fail("node", "must name a layer with an output of the shape (N, C, H, W)", got, "name a convolution")
    return caught[0]


def region_outputs(network: nn.Module, images: Tensor, node: RegionNode) -> tuple[Tensor, Tensor, Tensor]:
    """Return a region's box head output (N, D), class logits (N, C+1) and box deltas (N, 4*boxes) for each image."""
    heads = getattr(network, "roi_heads", None)
    if not hasattr(heads, "box_roi_pool") or not hasattr(network, "backbone"):
        fix = "ask a detector such as pliant.detection.faster_rcnn, or use a MapNode"
        fail("node", "a region needs a detector with a second stage", type(network).__name__, fix)
    detector = cast(Any, network)  # torchvision's detectors have no types for their parts
    features = detector.backbone(images)
    if isinstance(features, Tensor):
        features = {"0": features}
    size = node.image_size or (images.shape[-2], images.shape[-1])
    boxes = [images.new_tensor([node.box])] * len(images)
    pooled = heads.box_roi_pool(features, boxes, [size] * len(images))  # type: ignore[union-attr]
    hidden = heads.box_head(pooled)  # type: ignore[union-attr]
    logits, deltas = heads.box_predictor(hidden)  # type: ignore[union-attr]
    return hidden.flatten(1), logits, deltas


@contextmanager
def looking(network: nn.Module) -> Iterator[None]:
    """Put the network into evaluation mode, without gradients of its parameters; afterwards all is as before."""
    modes = [(module, module.training) for module in network.modules()]
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.eval()
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training


class _Reached(Exception):  # noqa: N818 - it ends a forward pass early, and is no error
    """The node's layer has run."""


def _cell(output: Tensor, node: MapNode) -> Tensor:
    """The response of a cell (N, C), or (N, 1) of one channel."""
    channels, height, width = output.shape[1:]
    row, column = node.cell
    if not (0 <= row < height and 0 <= column < width):
        rule = f"must be a cell of the map of {height} x {width} of {node.layer!r}"
        fail("node", rule, node.cell, f"use (0, 0) to ({height - 1}, {width - 1})")
    if node.channel is None:
        return output[:, :, row, column]
    if not 0 <= node.channel < channels:
        fail(
            "node",
            f"must name one of {counted(channels, 'channel')}",
            node.channel,
            f"use 0 to {channels - 1}, or None for all",
        )
    return output[:, node.channel, row, column][:, None]


def _described(value: object) -> str:
    return f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"

# SPDX-License-Identifier: Apache-2.0
"""The gradient of a node: with respect to pixels, to the sampling locations of layers, and to the bins of regions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pliant._geometry import ConvGeometry
from pliant.analysis.nodes import Node, looking, node_responses
from pliant.analysis.plain_pools import PlainPooling, roi_align_told
from pliant.analysis.record import cell_centre, deformable_layers, sampling_layer, sampling_positions
from pliant.analysis.regions import call_arguments, region_shifts, shifted_bins
from pliant.nn import DeformConv2d, DeformPSRoIPool, DeformRoIPool
from pliant.ops import deform_conv2d, deform_ps_roi_pool, deform_roi_pool


@dataclass(frozen=True)
class LocationGradients:
    """How much a node depends on where one call of a layer samples.

    Attributes:
        layer: name of the layer in the network.
        positions: (G, K, Ho, Wo, 2) sampling positions (y, x) in pixels of the network's input image.
        gradient: (G, K, Ho, Wo, 2) derivative of the node's response by each position, per pixel of that image.
    """

    layer: str
    positions: Tensor
    gradient: Tensor

    @property
    def magnitude(self) -> Tensor:
        """The length of the gradient (G, K, Ho, Wo), the strength of each effective sampling location."""
        length: Tensor = self.gradient.norm(dim=-1)
        return length


@dataclass(frozen=True)
class BinGradients:
    """How much a node depends on where one call of RoI pooling puts the bins of its regions.

    Attributes:
        layer: name of the layer in the network; of plain RoIAlign, of the module that calls it.
        bins: (R, Q, Ph, Pw, 4) corners x1, y1, x2, y2 of the bins in pixels of the network's input image; Q is 1, or
            the number of classes.
        gradient: (R, Q, Ph, Pw, 2) derivative of the node's response by each bin's shift (y, x), per pixel.
    """

    layer: str
    bins: Tensor
    gradient: Tensor

    @property
    def magnitude(self) -> Tensor:
        """The length of the gradient (R, Q, Ph, Pw), the strength of each effective bin location."""
        length: Tensor = self.gradient.norm(dim=-1)
        return length


def receptive_field(network: nn.Module, images: Tensor, node: Node) -> Tensor:
    r"""Return the effective receptive field of a node: how much its response changes with each pixel.

    .. math:: R(p) = \sum_c | \partial r / \partial I_c(p) |

    r is the response of one channel or, of a node with several, their Euclidean norm, whose gradient is the change of
    the response along itself. c runs over the colours. The derivative is the total one: a pixel counts through what is
    sampled and through the offsets that it decides. The papers state neither the norm nor the sum over colours: both
    are our reading.

    Args:
        network: takes `images`; for a `RegionNode` a detector.
        images: (N, 3, H, W), as the network (or the detector's backbone) takes them.
        node: a `MapNode` or a `RegionNode`.

    Returns:
        (N, H, W), response per unit of the input; zero where a pixel has no influence.

    Raises:
        ValueError: the node is not one of the network.

    Example:
        >>> from pliant.analysis import MapNode
        >>> field = receptive_field(nn.Conv2d(3, 5, 3), torch.rand(1, 3, 8, 9), MapNode("", (2, 4)))
        >>> field.nonzero()[:, 1:].amin(0).tolist(), field.nonzero()[:, 1:].amax(0).tolist()
        ([2, 4], [4, 6])

    References:
        Deformable ConvNets v2 (arXiv 1811.11168), section 2.1, after Understanding the Effective Receptive Field
        (arXiv 1701.04128).
    """
    with looking(network), torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        norms = node_responses(network, images, node).float().norm(dim=1)
        (gradient,) = torch.autograd.grad(norms.sum(), images)
    return gradient.abs().sum(dim=1).cpu()


def effective_locations(
    network: nn.Module, images: Tensor, node: Node, *, layers: list[str] | None = None
) -> tuple[list[LocationGradients], list[BinGradients]]:
    r"""Return how strongly a node depends on each sampling location, and on each bin of RoI pooling.

    The gradient of the response (see `receptive_field`) with respect to the location alone: of a sample
    :math:`w \cdot x(p) \cdot m` it is the slope of the map x at p, times what the node makes of it. It is zero where
    the node does not look, where the map is flat, and off the map. Plain convolutions have such locations too, on
    their grid: name them in `layers` to compare. So has plain RoIAlign (torchvision's `roi_align`, whichever module
    calls it): its bins are those of deformable RoI pooling without offsets. Without `aligned`, as in torchvision's
    detectors, they lie half a cell of the map to the lower right of the region that is asked for, where it reads.

    Args:
        network: takes `images`; for a `RegionNode` a detector.
        images: (1, 3, H, W), as the network (or the detector's backbone) takes them.
        node: a `MapNode` or a `RegionNode`.
        layers: names of convolutions, deformable or plain; None: all deformable ones.

    Returns:
        One record for each call of a convolution that the node depends on, in order, and one for each call of
        deformable RoI pooling or RoIAlign, all on the CPU.

    Raises:
        ValueError: the node is not one of the network, or a layer is no convolution of it.

    Example:
        >>> from pliant.analysis import MapNode
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 1), DeformConv2d(4, 5, 3, padding=1))
        >>> (layer,), _ = effective_locations(network, torch.rand(1, 3, 8, 9), MapNode("1", (2, 4)))
        >>> int((layer.magnitude > 0).sum())  # the nine samples of that cell
        9

    References:
        Deformable ConvNets v2 (arXiv 1811.11168), section 2.1, Fig. 1 and 2.
    """
    chosen = _convolutions(network, layers)
    pools = [(n, m) for n, m in network.named_modules() if isinstance(m, DeformRoIPool | DeformPSRoIPool)]
    calls: list[_Call] = []
    handles = [m.register_forward_hook(_catcher(n, calls), with_kwargs=True) for n, m in (*chosen, *pools)]
    try:
        with looking(network), torch.enable_grad():
            with roi_align_told(network, _pooling_catcher(calls)):
                response = node_responses(network, images.detach().clone().requires_grad_(), node).float().norm()
            outputs = [call.output for call in calls]
            gradients = torch.autograd.grad(response, outputs, allow_unused=True) if outputs else ()
            size = (images.shape[-2], images.shape[-1])
            reached = [(c, g) for c, g in zip(calls, gradients, strict=True) if g is not None]
            convolutions = [
                _at_samples(c, g, size) for c, g in reached if isinstance(c.layer, nn.Conv2d | DeformConv2d)
            ]
            bins = [_at_bins(c, g) for c, g in reached if isinstance(c.layer, _POOLS) and len(g)]
    finally:
        for handle in handles:
            handle.remove()
    return convolutions, bins


_POOLS = (DeformRoIPool, DeformPSRoIPool, PlainPooling)


@dataclass(frozen=True)
class _Call:
    """A call of a layer or of RoIAlign: its name, its arguments in the order of `forward`, and its output."""

    name: str
    layer: nn.Module | PlainPooling
    args: tuple[Any, ...]
    output: Tensor


def _convolutions(network: nn.Module, layers: list[str] | None) -> list[tuple[str, nn.Module]]:
    if layers is None:
        return list(deformable_layers(network, required=False))
    return [(name, sampling_layer(network, name, (DeformConv2d, nn.Conv2d))) for name in layers]


def _catcher(name: str, calls: list[_Call]) -> Callable[[nn.Module, Any, Any, Tensor], Tensor | None]:
    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        if not output.requires_grad:
            return None
        # A copy goes on, since an activation in place would turn the output into its own.
        calls.append(_Call(name, layer, call_arguments(layer, args, kwargs), output))
        return output.clone()

    return hook


def _pooling_catcher(calls: list[_Call]) -> Callable[[str, PlainPooling, Tensor], Tensor]:
    def tell(name: str, pooling: PlainPooling, output: Tensor) -> Tensor:
        if not output.requires_grad:
            return output
        calls.append(_Call(name, pooling, (), output))
        return output.clone()  # as above

    return tell


def _at_samples(call: _Call, gradient: Tensor, image_size: tuple[int, int]) -> LocationGradients:
    """The gradient by the sampling locations of a convolution, from that by its output."""
    layer, input = call.layer, call.args[0].detach()
    assert isinstance(layer, nn.Conv2d | DeformConv2d)
    kernel, padding = (layer.kernel_size[0], layer.kernel_size[1]), _padding(layer)
    geometry = ConvGeometry((layer.stride[0], layer.stride[1]), padding, (layer.dilation[0], layer.dilation[1]))
    if isinstance(layer, DeformConv2d):
        seen = call.args[1:] if call.args[1:] and call.args[1] is not None else call.args  # what the branch looks at
        with torch.no_grad():
            offset, mask = layer.offset_and_mask(seen[0].detach())
    else:
        offset, mask = gradient.new_zeros(len(gradient), 2 * kernel[0] * kernel[1], *gradient.shape[-2:]), None
    offset = offset.detach().requires_grad_()
    output = deform_conv2d(input, offset, layer.weight, None, *geometry, mask)
    (slope,) = torch.autograd.grad(output, offset, gradient)
    cells = sampling_positions(offset.detach().float(), kernel, geometry)[0]  # (G, K, Ho, Wo, 2)
    groups, taps, height, width, _ = cells.shape
    stride = (image_size[0] / input.shape[-2], image_size[1] / input.shape[-1])
    by_cell = slope[0].float().reshape(groups, taps, 2, height, width).movedim(2, -1)
    by_pixel = by_cell / by_cell.new_tensor(stride)
    return LocationGradients(call.name, cell_centre(cells, stride).cpu(), by_pixel.cpu())


def _padding(layer: nn.Conv2d | DeformConv2d) -> tuple[int, int]:
    if layer.padding == "same":
        first, second = (d * (k - 1) // 2 for k, d in zip(layer.kernel_size, layer.dilation, strict=True))
        return first, second
    return (0, 0) if isinstance(layer.padding, str) else (layer.padding[0], layer.padding[1])


def _at_bins(call: _Call, gradient: Tensor) -> BinGradients:
    """The gradient by the bins of RoI pooling, from that by its output."""
    if isinstance(call.layer, PlainPooling):
        pooled: Callable[[Tensor], Tensor] = call.layer.pooled
        regions, shift, gamma = call.layer.regions, call.layer.no_shift, 1.0
    else:
        regions, shift, gamma, pooled = _deformable_bins(call)
    offset = (shift / gamma).flatten(1, 2).to(gradient.dtype).requires_grad_()  # an offset for each bin
    (slope,) = torch.autograd.grad(pooled(offset), offset, gradient)
    by_region = slope.float().unflatten(1, (-1, 2)).flip(2).movedim(2, -1)  # (R, Q, Ph, Pw, 2): y before x
    size = (regions[:, 3:] - regions[:, 1:3]).flip(-1)[:, None, None, None]  # height and width of each region
    return BinGradients(call.name, shifted_bins(regions[:, 1:], shift).cpu(), (by_region / (gamma * size)).cpu())


def _deformable_bins(call: _Call) -> tuple[Tensor, Tensor, float, Callable[[Tensor], Tensor]]:
    """The regions (R, 5) of a call, its shifts (R, Q, 2, Ph, Pw), gamma, and what other offsets pool."""
    layer, args = call.layer, tuple(a.detach() if isinstance(a, Tensor) else a for a in call.args)
    assert isinstance(layer, DeformRoIPool | DeformPSRoIPool)
    with torch.no_grad():
        regions, shift, mask = region_shifts(layer, args)
    return regions, shift, layer.gamma, functools.partial(_pooled, layer, args, mask)


def _pooled(
    layer: DeformRoIPool | DeformPSRoIPool, args: tuple[Any, ...], mask: Tensor | None, offset: Tensor
) -> Tensor:
    """What a call of deformable RoI pooling gives with other offsets."""
    if isinstance(layer, DeformRoIPool):
        scale: Any = layer.spatial_scale if args[2] is None else args[2]
        return deform_roi_pool(
            args[0], args[1], layer.output_size, offset, mask, scale, layer.sampling_ratio, layer.gamma
        )
    return deform_ps_roi_pool(
        args[0],
        args[2],
        layer.output_size,
        layer.output_channels,
        offset,
        spatial_scale=layer.spatial_scale,
        group_size=layer.group_size,
        samples_per_bin=layer.samples_per_bin,
        gamma=layer.gamma,
    )

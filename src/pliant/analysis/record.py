# SPDX-License-Identifier: Apache-2.0
"""Records where the deformable layers of a network sample, as positions in its input image.

Coordinates. Pixels and cells have their centres at integers. A map whose cells are `s` image pixels wide has the
centre of cell `i` at image coordinate `(i + 0.5) * s - 0.5`. Positions and offsets are (y, x), as in the operator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pliant._check import fail
from pliant._geometry import ConvGeometry, Pair
from pliant.nn import DeformConv2d


@dataclass(frozen=True)
class OffsetField:
    """Where one call of one deformable layer sampled.

    N images, G offset groups, K taps (row-major), Ho x Wo output cells.

    Attributes:
        layer: name of the layer in the network.
        offsets: (N, G, K, Ho, Wo, 2) learned offsets (dy, dx) in cells of the layer's input.
        positions: (N, G, K, Ho, Wo, 2) sampling positions (y, x) in pixels of the network's input image.
        mask: (N, G, K, Ho, Wo) modulation of each sample, ones where the layer has none.
        output_stride: image pixels (vertical, horizontal) per output cell.
        outside: share (0..1) of the samples whose centre is outside the layer's input map.
    """

    layer: str
    offsets: Tensor
    positions: Tensor
    mask: Tensor
    output_stride: tuple[float, float]
    outside: float


def sampling_positions(offset: Tensor, kernel_size: Pair, geometry: ConvGeometry) -> Tensor:
    """Return where a deformable convolution samples its input: `p0 * stride - padding + k * dilation + offset`.

    Args:
        offset: (N, 2*G*K, Ho, Wo), in the operator's order: offset groups outermost, taps row-major, dy before dx.
        kernel_size: (kh, kw), K = kh * kw.
        geometry: stride, padding and dilation of the convolution.

    Returns:
        (N, G, K, Ho, Wo, 2): (y, x) in cells of the input map.

    Example:
        >>> import torch
        >>> geometry = ConvGeometry(stride=(2, 1), padding=(1, 0), dilation=(1, 3))
        >>> positions = sampling_positions(torch.zeros(1, 2 * 2, 4, 5), (1, 2), geometry)
        >>> positions[0, 0, 1, 3, 2].tolist()  # second tap of output cell (3, 2): (3*2 - 1, 2 + 3)
        [5.0, 5.0]
    """
    n, _, height, width = offset.shape
    kh, kw = kernel_size
    taps = offset.reshape(n, -1, kh * kw, 2, height, width).movedim(3, -1)  # (N, G, K, Ho, Wo, 2)
    rows = torch.arange(height, device=taps.device) * geometry.stride[0] - geometry.padding[0]
    columns = torch.arange(width, device=taps.device) * geometry.stride[1] - geometry.padding[1]
    tap_rows = (torch.arange(kh, device=taps.device) * geometry.dilation[0]).repeat_interleave(kw)
    tap_columns = (torch.arange(kw, device=taps.device) * geometry.dilation[1]).repeat(kh)
    y = tap_rows[:, None, None] + rows[None, :, None]  # (K, Ho, 1)
    x = tap_columns[:, None, None] + columns[None, None, :]  # (K, 1, Wo)
    return taps + torch.stack(torch.broadcast_tensors(y, x), dim=-1)


def cell_centre(cell: Tensor, stride: tuple[float, float]) -> Tensor:
    """Return the image coordinate (y, x) of positions (..., 2) on a map with `stride` pixels (y, x) per cell.

    Example:
        >>> import torch
        >>> cell_centre(torch.tensor([0.0, 2.0]), (8.0, 4.0)).tolist()
        [3.5, 9.5]
    """
    scale = cell.new_tensor(stride)
    return (cell + 0.5) * scale - 0.5


def nearest_cell(point: Tensor, stride: tuple[float, float]) -> Tensor:
    """Return the cell (row, column), as integers, in which image positions (..., 2) lie; it may be outside the map.

    Example:
        >>> import torch
        >>> nearest_cell(torch.tensor([7.0, 8.0]), (8.0, 4.0)).tolist()
        [0, 2]
    """
    scale = point.new_tensor(stride)
    return ((point + 0.5) / scale).floor().long()


def record_offsets(network: nn.Module, images: Tensor) -> list[OffsetField]:
    """Run `network` on `images` without gradients and return a field for each call of a deformable layer, in order.

    Args:
        network: any module with `pliant.nn.DeformConv2d` layers that takes `images`; a detector's `backbone`.
        images: (N, 3, H, W), as the network takes them: the detector's resized and padded batch.

    Returns:
        One field for each call, its tensors on the CPU.

    Raises:
        ValueError: the network has no deformable layer.

    Example:
        >>> from pliant.nn import DeformConv2d
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2), DeformConv2d(4, 5, 3, padding=1))
        >>> field = record_offsets(network, torch.rand(1, 3, 8, 12))[0]
        >>> field.layer, tuple(field.positions.shape), field.output_stride
        ('1', (1, 1, 9, 4, 6, 2), (2.0, 2.0))
    """
    fields: list[OffsetField] = []
    image_size = (images.shape[-2], images.shape[-1])
    handles = [
        layer.conv_offset.register_forward_hook(_recorder(name, layer, image_size, fields))
        for name, layer in deformable_layers(network)
    ]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return fields


def deformable_layers(network: nn.Module) -> list[tuple[str, DeformConv2d]]:
    """Return the deformable convolutions of `network` with their names; ValueError if there is none."""
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, DeformConv2d)]
    if not layers:
        fix = "convert some with pliant.convert(model, 'c3-c5')"
        fail("network", "must have deformable layers (pliant.nn.DeformConv2d)", type(network).__name__, fix)
    return layers


def split_branch(layer: DeformConv2d, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Split the offset branch's output into offsets (N, 2*G*K, Ho, Wo) and modulation (N, G*K, Ho, Wo)."""
    samples = layer.offset_groups * layer.kernel_size[0] * layer.kernel_size[1]
    offset, rest = layer.limited(raw[:, : 2 * samples].float()), raw[:, 2 * samples :].float()
    mask = layer.mask_scale * rest.sigmoid() if layer.modulated else torch.ones_like(offset[:, :samples])
    return offset, mask


def share_outside(positions: Tensor, size: tuple[int, int]) -> float:
    """Return the share (0..1) of positions (..., 2) in cells that lie off a map of `size`; NaN counts as outside."""
    y, x = positions.unbind(-1)
    inside = (y >= 0) & (y <= size[0] - 1) & (x >= 0) & (x <= size[1] - 1)
    return 1.0 - inside.float().mean().item()


Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


def _recorder(name: str, layer: DeformConv2d, image_size: tuple[int, int], fields: list[OffsetField]) -> Hook:
    geometry = ConvGeometry(layer.stride, layer.padding, layer.dilation)

    def hook(module: nn.Module, args: tuple[Tensor, ...], raw: Tensor) -> None:
        map_size = (args[0].shape[-2], args[0].shape[-1])
        stride = (image_size[0] / map_size[0], image_size[1] / map_size[1])
        offset, mask = split_branch(layer, raw)
        cells = sampling_positions(offset, layer.kernel_size, geometry)
        shape = cells.shape[:-1]
        offsets = offset.reshape(*shape[:3], 2, *shape[3:]).movedim(3, -1)
        field = OffsetField(
            layer=name,
            offsets=offsets.cpu(),
            positions=cell_centre(cells, stride).cpu(),
            mask=mask.reshape(shape).cpu(),
            output_stride=(stride[0] * geometry.stride[0], stride[1] * geometry.stride[1]),
            outside=share_outside(cells, map_size),
        )
        fields.append(field)

    return hook

# SPDX-License-Identifier: Apache-2.0
"""Records where the deformable layers of a network sample, as positions in its input image.

Coordinates. Pixels and cells have their centres at integers. A map whose cells are `s` image pixels wide has the
centre of cell `i` at image coordinate `(i + 0.5) * s - 0.5`. Positions and offsets are (y, x), as in the operator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pliant._check import fail, suggest
from pliant._geometry import ConvGeometry, Pair, pair
from pliant.nn import DeformConv2d

_SAMPLING = (DeformConv2d, nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True)
class OffsetField:
    """Where one call of one layer sampled.

    N images, G offset groups, K taps (row-major), Ho x Wo output cells.

    Attributes:
        layer: name of the layer in the network.
        offsets: (N, G, K, Ho, Wo, 2) learned offsets (dy, dx) in cells of the layer's input; zeros of a plain layer.
        cells: (N, G, K, Ho, Wo, 2) sampling positions (y, x) in cells of the layer's input.
        mask: (N, G, K, Ho, Wo) modulation of each sample, ones where the layer has none.
        kernel_size: (kh, kw), K = kh * kw.
        input_size: height and width of the layer's input in cells.
        input_stride: image pixels (vertical, horizontal) per cell of the layer's input.
        output_stride: image pixels (vertical, horizontal) per output cell.
        mask_limit: the upper bound of the modulation, or None for a layer that has none.
    """

    layer: str
    offsets: Tensor
    cells: Tensor
    mask: Tensor
    kernel_size: tuple[int, int]
    input_size: tuple[int, int]
    input_stride: tuple[float, float]
    output_stride: tuple[float, float]
    mask_limit: float | None = None

    @property
    def positions(self) -> Tensor:
        """The sampling positions (N, G, K, Ho, Wo, 2) as (y, x) in pixels of the network's input image."""
        return cell_centre(self.cells, self.input_stride)

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the layer's output in cells."""
        return self.cells.shape[3], self.cells.shape[4]

    @property
    def outside(self) -> float:
        """The share (0..1) of the samples whose centre is outside the layer's input map."""
        return share_outside(self.cells, self.input_size)

    def plain(self) -> OffsetField:
        """Return the field of a plain convolution with the same grid: no offsets, no modulation, one group."""
        return dataclasses.replace(
            self,
            offsets=torch.zeros_like(self.offsets[:, :1]),
            cells=(self.cells - self.offsets)[:, :1],
            mask=torch.ones_like(self.mask[:, :1]),
            mask_limit=None,
        )


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


def record_offsets(network: nn.Module, images: Tensor, *, layers: Sequence[str] | None = None) -> list[OffsetField]:
    """Run `network` on `images` without gradients and return a field for each call of the layers, in order.

    Args:
        network: any module that takes `images`, such as a detector's `backbone`.
        images: (N, 3, H, W), as the network takes them: the detector's resized and padded batch.
        layers: names of the layers to record: deformable or plain convolutions, or pooling over windows. None: all
            deformable convolutions.

    Returns:
        One field for each call, its tensors on the CPU. The hooks are gone afterwards, also when the network raises.

    Raises:
        ValueError: the network has no deformable layer, or none of that name that samples a grid.

    Example:
        >>> from pliant.nn import DeformConv2d
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2), DeformConv2d(4, 5, 3, padding=1))
        >>> field = record_offsets(network, torch.rand(1, 3, 8, 12))[0]
        >>> field.layer, tuple(field.positions.shape), field.output_stride
        ('1', (1, 1, 9, 4, 6, 2), (2.0, 2.0))
    """
    chosen = deformable_layers(network) if layers is None else [(n, sampling_layer(network, n)) for n in layers]
    fields: list[OffsetField] = []
    image_size = (images.shape[-2], images.shape[-1])
    handles = [
        (layer.conv_offset if isinstance(layer, DeformConv2d) else layer).register_forward_hook(
            _recorder(name, layer, image_size, fields)
        )
        for name, layer in chosen
    ]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return fields


def deformable_layers(network: nn.Module, *, required: bool = True) -> list[tuple[str, DeformConv2d]]:
    """Return the deformable convolutions of `network` with their names; ValueError if it must have one and has none."""
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, DeformConv2d)]
    if required and not layers:
        fix = "convert some with pliant.convert(model, 'c3-c5')"
        fail("network", "must have deformable layers (pliant.nn.DeformConv2d)", type(network).__name__, fix)
    return layers


def sampling_layer(network: nn.Module, name: str, kinds: tuple[type[nn.Module], ...] = _SAMPLING) -> nn.Module:
    """Return the layer `name`, which must be of one of the kinds, all of which sample a grid of their input."""
    modules: dict[str, nn.Module] = dict(network.named_modules())
    if name not in modules:
        known = [n for n, module in modules.items() if isinstance(module, kinds)]
        fail(
            "layers",
            "must name layers of the network",
            repr(name),
            f"see network.named_modules().{suggest(name, known)}",
        )
    if not isinstance(modules[name], kinds):
        names = ", ".join(kind.__name__ for kind in kinds)
        got = f"{name!r}, which is {type(modules[name]).__name__}"
        fail("layers", f"must be one of {names}", got, "name the layer inside it")
    return modules[name]


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


def _recorder(name: str, layer: nn.Module, image_size: Pair, fields: list[OffsetField]) -> Hook:
    kernel, geometry = _grid(layer)

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        map_size = (args[0].shape[-2], args[0].shape[-1])
        stride = (image_size[0] / map_size[0], image_size[1] / map_size[1])
        if isinstance(layer, DeformConv2d):
            offset, mask = split_branch(layer, output)
        else:
            taps = kernel[0] * kernel[1]
            offset = output.new_zeros(len(output), 2 * taps, *output.shape[-2:], dtype=torch.float32)
            mask = torch.ones_like(offset[:, :taps])
        cells = sampling_positions(offset, kernel, geometry)
        shape = cells.shape[:-1]
        field = OffsetField(
            layer=name,
            offsets=offset.reshape(*shape[:3], 2, *shape[3:]).movedim(3, -1).cpu(),
            cells=cells.cpu(),
            mask=mask.reshape(shape).cpu(),
            kernel_size=kernel,
            input_size=map_size,
            input_stride=stride,
            output_stride=(stride[0] * geometry.stride[0], stride[1] * geometry.stride[1]),
            mask_limit=layer.mask_scale if isinstance(layer, DeformConv2d) and layer.modulated else None,
        )
        fields.append(field)

    return hook


def _grid(layer: nn.Module) -> tuple[Pair, ConvGeometry]:
    """Kernel size and geometry of a convolution or a pooling over windows; pads by name are worked out."""
    kernel, stride = (pair(name, getattr(layer, name), minimum=1) for name in ("kernel_size", "stride"))
    dilation = pair("dilation", getattr(layer, "dilation", 1), minimum=1)
    padding: Any = getattr(layer, "padding", 0)
    if padding == "same":
        padding = [d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True)]
    return kernel, ConvGeometry(stride, pair("padding", 0 if padding == "valid" else padding, minimum=0), dilation)

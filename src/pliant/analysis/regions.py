# SPDX-License-Identifier: Apache-2.0
"""Records where RoI pooling puts the bins of each region, as boxes in the network's input image."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pliant._check import fail
from pliant.analysis.plain_pools import PlainPooling, roi_align_told
from pliant.nn import DeformPSRoIPool, DeformRoIPool
from pliant.ops._boxes import as_rois
from pliant.ops._deform_ps_roi_pool.reference import round_half_away, scaled_index

_LAYERS = (DeformPSRoIPool, DeformRoIPool)
PoolHook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]  # layer, arguments, those by keyword


@dataclass(frozen=True)
class RegionBins:
    """Where one call of RoI pooling put the bins of its regions.

    R regions, Q sets of offsets (one, or one for each class), Ph x Pw bins. Corners are x1, y1, x2, y2 in pixels of the
    network's input image, with 0 at its left and upper border.

    Attributes:
        layer: name of the layer in the module that was run; of plain RoIAlign, of the module that calls it.
        images: (R,) index of each region's image.
        regions: (R, 4) the regions.
        bins: (R, Q, Ph, Pw, 4) the shifted bins.
        weights: (R, Ph, Pw) the modulation of each bin, ones where the layer has none.
    """

    layer: str
    images: Tensor
    regions: Tensor
    bins: Tensor
    weights: Tensor


def record_bins(module: nn.Module, run: Callable[[], object]) -> list[RegionBins]:
    """Call `run` without gradients and return the bins of each call of RoI pooling in `module`, in order.

    Plain RoIAlign (torchvision's `roi_align`) has bins too, which no offset moves. Without `aligned`, as in
    torchvision's detectors, they lie half a cell of the map to the lower right of the region that is asked for.

    Args:
        module: calls RoIAlign or holds `pliant.nn.DeformRoIPool` or `DeformPSRoIPool` layers: a detector's
            `roi_heads.box_roi_pool`.
        run: calls it, for instance `lambda: pool(features, boxes, image_sizes)`.

    Returns:
        One record for each call, its tensors on the CPU.

    Raises:
        ValueError: nothing was pooled in either way.

    Example:
        >>> import torch
        >>> from pliant.nn import DeformRoIPool
        >>> pool = DeformRoIPool(2, in_channels=4, spatial_scale=0.5, modulated=False)
        >>> record = record_bins(pool, lambda: pool(torch.rand(1, 4, 8, 8), [torch.tensor([[2.0, 4.0, 6.0, 12.0]])]))[0]
        >>> record.bins[0, 0, 1, 0].tolist()  # lower left, not shifted yet
        [2.0, 8.0, 4.0, 12.0]

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), Fig. 7.
    """
    records = bins_if_any(module, run)
    if not records:
        fix = "give a detector's roi_heads.box_roi_pool and a call of it"
        fail("module", "must pool regions by RoIAlign or deformable RoI pooling", type(module).__name__, fix)
    return records


def bins_if_any(module: nn.Module, run: Callable[[], object]) -> list[RegionBins]:
    """Return what `record_bins` does, or nothing where nothing was pooled from bins."""
    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, _LAYERS)]
    records: list[RegionBins] = []
    # Submodules run too when the layer is asked for its offsets; the hook is on the layer alone.
    handles = [layer.register_forward_pre_hook(_recorder(name, records), with_kwargs=True) for name, layer in layers]
    try:
        with torch.no_grad(), roi_align_told(module, _plain_recorder(records)):
            run()
    finally:
        for handle in handles:
            handle.remove()
    return records


def _recorder(name: str, records: list[RegionBins]) -> PoolHook:
    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(layer, _LAYERS)
        records.append(_bins_of(name, *region_shifts(layer, call_arguments(layer, args, kwargs))))

    return hook


def _plain_recorder(records: list[RegionBins]) -> Callable[[str, PlainPooling, Tensor], Tensor]:
    def tell(name: str, pooling: PlainPooling, output: Tensor) -> Tensor:
        records.append(_bins_of(name, pooling.regions, pooling.no_shift, None))
        return output

    return tell


def _bins_of(name: str, regions: Tensor, shift: Tensor, weights: Tensor | None) -> RegionBins:
    bins = shifted_bins(regions[:, 1:], shift)
    weights = torch.ones_like(bins[:, 0, ..., 0]) if weights is None else weights[:, 0].float()
    return RegionBins(name, regions[:, 0].long().cpu(), regions[:, 1:].cpu(), bins.cpu(), weights.cpu())


def call_arguments(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Return the arguments of a call of `layer` in the order of its `forward`, the defaults of those left out too."""
    call = inspect.signature(layer.forward).bind(*args, **kwargs)
    call.apply_defaults()
    return call.args


def region_shifts(
    layer: DeformPSRoIPool | DeformRoIPool, args: tuple[Any, ...]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return what a call of `layer` with all of its arguments `args` does with the bins of its regions.

    Returns:
        the regions (R, 5), image index and corners in pixels as the layer takes them; the shifts of their bins
        (R, Q, 2, Ph, Pw), x before y, in units of the region's size; the weights (R, 1, Ph, Pw) or None.
    """
    if isinstance(layer, DeformRoIPool):
        offset, weights = layer.offset_and_mask(*args)
        return as_rois(args[1], args[0]).float(), layer.gamma * offset[:, None].float(), weights
    _, features, boxes = args
    regions = as_rois(boxes, features).float()
    offset = layer.offset(features, boxes).unflatten(1, (-1, 2))  # (R, Q, 2, part, part)
    parts = scaled_index(layer.output_size, layer.part_size, offset.device)
    corners = round_half_away(regions[:, 1:]) + regions.new_tensor([0, 0, 1, 1])  # the last pixel belongs to the region
    return torch.cat([regions[:, :1], corners], dim=1), layer.gamma * offset[..., parts, :][..., parts].float(), None


def shifted_bins(regions: Tensor, shift: Tensor) -> Tensor:
    """Return the bins of regions: (R, 4) corners and shifts (R, Q, 2, Ph, Pw) to (R, Q, Ph, Pw, 4) corners.

    Shifts are in units of the region's size, x before y.

    Example:
        >>> shift = torch.zeros(1, 1, 2, 2, 2)
        >>> shift[0, 0, 0, 0, 1] = 0.5  # x of the upper right bin
        >>> shifted_bins(torch.tensor([[0.0, 0.0, 8.0, 4.0]]), shift)[0, 0, 0, 1].tolist()
        [8.0, 0.0, 12.0, 2.0]
    """
    rows, columns = shift.shape[-2:]
    x1, y1, x2, y2 = (corner[:, None, None, None] for corner in regions.unbind(-1))  # (R, 1, 1, 1)
    width, height = x2 - x1, y2 - y1
    j = torch.arange(columns, device=shift.device)
    i = torch.arange(rows, device=shift.device)[:, None]
    left = x1 + width * (j / columns + shift[:, :, 0])  # (R, Q, Ph, Pw)
    top = y1 + height * (i / rows + shift[:, :, 1])
    return torch.stack([left, top, left + width / columns, top + height / rows], dim=-1)

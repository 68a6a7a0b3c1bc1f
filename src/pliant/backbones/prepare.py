# SPDX-License-Identifier: Apache-2.0
"""A trunk made ready for a detector or segmenter: weights read, batch norm and stages frozen, layers converted."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from pliant._check import fail
from pliant.backbones.dilate import dilate
from pliant.backbones.trunks import Trunk, freeze_batch_norm, is_stage_selector, trunk
from pliant.backbones.weights import load_trunk_weights
from pliant.surgery import convert, plan

NORMS = ("auto", "frozen", "batch")


def prepared_trunk(
    name: str,
    *,
    deform: str | None = None,
    modulated: bool = True,
    offset_groups: int = 1,
    mask_scale: float = 2.0,
    weights: str | None = None,
    norm: str = "auto",
    frozen_stages: int | None = None,
    output_stride: int | None = None,
    dilation: int | None = None,
) -> Trunk:
    """Build the trunk `name` with what a system asks of it.

    Args:
        name: one of `backbone_names()`, or `timm:NAME`.
        deform: which convolutions become deformable, by stages: `c3-c5`, `c5`, `last3`; None, or any other text, which
            the caller applies to its whole model: none.
        modulated: DCNv2's modulation; False gives DCNv1.
        offset_groups: groups of channels with offsets of their own.
        mask_scale: factor of the modulation's sigmoid; 2 keeps the network's function at the start.
        weights: a checkpoint of the trunk (.pth, .pt or .safetensors), or `default` for those that torchvision
            or timm download, or None for random ones.
        norm: `frozen` batch statistics, `batch` for trained ones, `auto`: frozen where there are weights.
        frozen_stages: how many first stages are not trained; None: 2 (C1 and C2) where there are weights, else 0. Their
            batch statistics are `norm`'s matter.
        output_stride: the coarsest stride in input pixels, coarser stages being dilated instead (see `dilate`): 16 is
            the papers' conv5; None leaves the network's own strides.
        dilation: of the last stage instead of what that stride asks for, which is 2 at stride 16.

    Raises:
        PliantError: an unknown name or norm, a checkpoint which does not fit, or a stride that cannot be had.

    Example:
        >>> prepared_trunk("resnet18", deform="c5").strides
        (2, 4, 8, 16, 32)
    """
    if norm not in NORMS:
        fail("norm", "must be 'auto', 'frozen' or 'batch'", repr(norm), "use 'auto'")
    built = trunk(name, pretrained=weights == "default")
    if weights not in (None, "default"):
        load_trunk_weights(built.network, str(weights))
    if norm == "frozen" or (norm == "auto" and weights is not None):
        built.network = freeze_batch_norm(built.network)
    built.freeze(frozen_stages if frozen_stages is not None else (2 if weights is not None else 0))
    chosen = None
    if deform is not None and is_stage_selector(deform):
        # Chosen before dilation: stages without names of their own are known by their strides.
        planned = plan(built.network, deform, modulated=modulated, offset_groups=offset_groups)
        chosen = {row.name for row in planned.rows} | {row.name for row in planned.skipped}
    if output_stride is not None:
        built = dilate(built, output_stride, dilation)
    if chosen is not None:
        where = _among(chosen)
        convert(built.network, where, modulated=modulated, offset_groups=offset_groups, mask_scale=mask_scale)
    return built


def _among(names: set[str]) -> Callable[[str, nn.Module], bool]:
    return lambda name, _: name in names

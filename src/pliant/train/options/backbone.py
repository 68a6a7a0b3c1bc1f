# SPDX-License-Identifier: Apache-2.0
"""The backbone that every model stands on, and its deformable layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pliant.train.options.fields import Options, option


@dataclass(frozen=True, kw_only=True)
class BackboneOptions(Options):
    """The trunk, what is deformable in it, and what of it is trained."""

    TITLE: ClassVar[str] = "backbone and deformable convolutions"

    backbone: str = option(
        "resnet50",
        "resnet18/34/50/101, resnext50/101, mobilenet_v2/v3, aligned-inception-resnet, or timm:NAME; resnet50-caffe, "
        "resnet101-caffe for weights with strides in the 1x1 convolutions",
    )
    deform: str | None = option(None, "convolutions made deformable: c3-c5, c5, last3, or a regular expression")
    dilation: int | None = option(
        None,
        "dilation of conv5's convolutions larger than 1x1 at stride 16; default 2 (v1 paper, Table 3: 4, 6, 8)",
        minimum=1,
        maximum=64,
        only=("dilated",),
    )
    modulated: bool = option(True, "DCNv2's modulation; without it the layers are DCNv1's")
    offset_groups: int = option(1, "groups of channels with offsets of their own", minimum=1)
    mask_scale: float = option(2.0, "factor of the modulation's sigmoid; 2 starts as the plain network does")
    offset_limit: float | None = option(
        None, "keep offsets of convolutions within so many cells of their input, by a tanh", minimum=0.001
    )
    weights: str | None = option(None, "checkpoint of the backbone, or 'default' to download the library's own")
    norm: Literal["auto", "frozen", "batch"] = option(
        "auto", "batch norm: frozen, batch, or auto (frozen with --weights)"
    )
    frozen_stages: int | None = option(None, "first stages not trained; default 2 with --weights, else 0", minimum=0)

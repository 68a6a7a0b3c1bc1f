# SPDX-License-Identifier: Apache-2.0
"""Draws what a detector makes of single regions: masks of objects, and the bins of deformable RoI pooling."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pliant.analysis.draw import show
from pliant.analysis.fonts import families, legible

_OPACITY = 0.5
_GOLDEN_ANGLE = 0.618034  # of the circle of hues: neighbours in the list are far apart in colour
REGION_COLOUR, BIN_COLOUR = "yellow", "red"  # as in the v1 paper


def draw_instances(
    image: Tensor, boxes: Tensor, masks: Iterable[Tensor], path: Path | str, *, labels: Sequence[str] | None = None
) -> None:
    """Draw masks and boxes of objects over an image, each object in its own colour, and save the picture.

    Args:
        image: uint8 (3, H, W).
        boxes: (L, 4) corners x1, y1, x2, y2 in pixels of the image.
        masks: L of (H, W), true inside the object.
        path: the picture file; its suffix chooses the format.
        labels: a text for each object, or None.

    Example:
        >>> import tempfile
        >>> path, image = Path(tempfile.mkdtemp()) / "masks.png", torch.zeros(3, 20, 30, dtype=torch.uint8)
        >>> draw_instances(image, torch.tensor([[4.0, 5.0, 20.0, 15.0]]), torch.ones(1, 20, 30), path, labels=["oak"])
        >>> path.is_file()
        True
    """
    from matplotlib.patches import Rectangle

    colours = [_colour(k) for k in range(len(boxes))]
    mixed = image.float()
    for mask, colour in zip(masks, colours, strict=True):
        tint = 255 * torch.tensor(colour)[:, None, None]
        mixed = torch.where(mask.bool(), _OPACITY * tint + (1 - _OPACITY) * mixed, mixed)
    figure, axes = show(mixed.round().to(torch.uint8))
    for (x1, y1, x2, y2), colour in zip(boxes.tolist(), colours, strict=True):
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, facecolor="none", edgecolor=colour, linewidth=1.5))
    for (x, y, _, _), text, colour in zip(boxes.tolist(), labels or [], colours, strict=False):
        style = {"color": "white", "fontsize": 8, "va": "bottom", "family": families()}
        axes.text(x, y, legible(text), backgroundcolor=colour, **style)
    figure.savefig(path, dpi=120)


def draw_bins(
    image: Tensor, regions: Tensor, bins: Tensor, weights: Tensor, path: Path | str, *, title: str = ""
) -> None:
    """Draw the shifted bins (red) of regions (yellow) over an image, as Fig. 7 of the v1 paper, and save the picture.

    Args:
        image: uint8 (3, H, W).
        regions: (R, 4) corners x1, y1, x2, y2 in pixels of the image.
        bins: (R, Ph, Pw, 4) corners of each region's bins, which may lie outside the image.
        weights: (R, Ph, Pw) modulation of the bins; the larger, the more opaque.
        path: the picture file; its suffix chooses the format.
        title: a line above the picture.

    Example:
        >>> import tempfile
        >>> path, image = Path(tempfile.mkdtemp()) / "bins.png", torch.zeros(3, 20, 30, dtype=torch.uint8)
        >>> region = torch.tensor([[4.0, 5.0, 20.0, 15.0]])
        >>> draw_bins(image, region, region.expand(1, 3, 2, 4), torch.ones(1, 3, 2), path)
        >>> path.is_file()
        True

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), Fig. 7.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    figure, axes = show(image)
    opacity = (weights / weights.max().clamp(min=1e-6)).clamp(0, 1).flatten().tolist() if len(weights) else []
    for patches, colours, width in (
        (bins.reshape(-1, 4), [(*to_rgb(BIN_COLOUR), alpha) for alpha in opacity], 0.7),
        (regions, [to_rgb(REGION_COLOUR)] * len(regions), 1.8),
    ):
        # Pixels have their centres at integers in a picture, and their left border half a pixel before.
        corners = (patches - 0.5).tolist()
        rectangles = [Rectangle((x1, y1), x2 - x1, y2 - y1) for x1, y1, x2, y2 in corners]
        axes.add_collection(PatchCollection(rectangles, facecolor="none", edgecolor=colours, linewidth=width))
    axes.set_title(title)
    figure.savefig(path, dpi=120)


def _colour(k: int) -> tuple[float, float, float]:
    """The k-th of a series of bright colours, no two neighbours alike."""
    return colorsys.hsv_to_rgb(k * _GOLDEN_ANGLE % 1, 0.85, 0.9)

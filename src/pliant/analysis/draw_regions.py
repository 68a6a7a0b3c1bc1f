# SPDX-License-Identifier: Apache-2.0
"""Draws what a detector makes of single regions: the bins of deformable RoI pooling."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pliant.analysis.draw import save_figure, show

REGION_COLOUR, BIN_COLOUR = "yellow", "red"  # as in the v1 paper


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
        >>> import tempfile, torch
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
    save_figure(figure, path, dpi=120)

# SPDX-License-Identifier: Apache-2.0
"""Draws what was measured inside a network on a matplotlib axis: arrays in, marks out; no models in here.

Positions are in pixels of the picture that the axis shows. Colours are Okabe and Ito's, told apart by people with any
colour vision, and each kind of mark has a shape of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pliant.analysis.dilation import SIZES, DilationRow
from pliant.analysis.health import OffsetHealth

POINT, PLAIN, UNIT, REGION, BIN = "#d55e00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7"
SIZE_COLOURS = ("#56b4e9", "#e69f00", "#d55e00", "#999999")


def plot_image(axes: Any, image: Tensor, *, title: str = "") -> None:
    """Show a photograph, uint8 (3, H, W), and fix the axis to it, so that marks outside are cut off.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().add_subplot()
        >>> plot_image(axes, torch.zeros(3, 20, 30, dtype=torch.uint8), title="night")
    """
    axes.imshow(image.permute(1, 2, 0).numpy())
    axes.set_xlim(-0.5, image.shape[2] - 0.5)
    axes.set_ylim(image.shape[1] - 0.5, -0.5)
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)


def plot_points(
    axes: Any, points: Tensor, *, plain: Tensor | None = None, unit: tuple[float, float] | None = None
) -> None:
    """Draw sampling points as dots, the more opaque the larger their weight, as in Fig. 5 and 6 of the v1 paper.

    Args:
        axes: a matplotlib axis.
        points: (P, 3): y, x, weight, as `sampling_points` gives them.
        plain: (Q, 3) the same of the plain network, drawn as hollow squares, or None.
        unit: (y, x) of the unit, drawn as a cross, or None.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().add_subplot()
        >>> plot_points(axes, torch.tensor([[4.0, 5.0, 1.0], [6.5, 9.0, 0.3]]), unit=(5.0, 7.0))
    """
    from matplotlib.colors import to_rgb

    if plain is not None:
        places = plain[:, :2].round(decimals=1).unique(dim=0)
        axes.scatter(places[:, 1], places[:, 0], s=22, marker="s", facecolor="none", edgecolor=PLAIN, linewidth=0.9)
    opacity = (0.06 + 0.94 * points[:, 2].abs() / points[:, 2].abs().max().clamp(min=1e-12)).clamp(0, 1)
    order = points[:, 2].abs().argsort()
    colours = [(*to_rgb(POINT), alpha) for alpha in opacity[order].tolist()]
    axes.scatter(points[order, 1], points[order, 0], s=16 if len(points) > 100 else 34, c=colours, linewidth=0)
    if unit is not None:
        axes.scatter([unit[1]], [unit[0]], s=110, marker="+", color=UNIT, linewidth=2.2)


def plot_field(axes: Any, field: Tensor) -> None:
    """Draw an effective receptive field (H, W): the root of its share of what one pixel in 1000 exceeds.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().add_subplot()
        >>> plot_field(axes, torch.rand(20, 30))
    """
    share = (
        (field / field.flatten().sort().values[-1 - field.numel() // 1000].clamp(min=1e-30)).sqrt().clamp(0, 1).numpy()
    )
    axes.imshow(share, cmap="viridis", alpha=0.25 + 0.75 * share, vmin=0, vmax=1)


def plot_locations(axes: Any, positions: Tensor, magnitude: Tensor, *, most: int = 1500) -> None:
    """Draw the strongest effective sampling locations, the larger and brighter the stronger (v2, Fig. 1).

    Args:
        axes: a matplotlib axis.
        positions: (..., 2) y, x of the locations.
        magnitude: (...) the length of each gradient.
        most: at most so many, the strongest; those without any are left out.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().add_subplot()
        >>> plot_locations(axes, torch.rand(9, 2), torch.rand(9))
    """
    strength, places = magnitude.flatten(), positions.reshape(-1, 2)
    order = strength.argsort()[-most:]
    order = order[strength[order] > 0]
    share = (strength[order] / strength.max().clamp(min=1e-30)).sqrt()
    axes.scatter(
        places[order, 1], places[order, 0], s=4 + 40 * share, c=share, cmap="viridis", vmin=0, vmax=1, linewidth=0
    )


def plot_saliency(axes: Any, mask: Tensor) -> None:
    """Darken what is not in a saliency region (H, W), true inside, and draw a line around it.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().add_subplot()
        >>> plot_saliency(axes, torch.rand(20, 30) > 0.5)
    """
    shade = torch.zeros(*mask.shape, 4)
    shade[..., 3] = 0.8 * (~mask).float()
    axes.imshow(shade.numpy())
    if mask.any() and not mask.all():
        axes.contour(mask.float().numpy(), levels=[0.5], colors=[REGION], linewidths=1.2)


def plot_bins(axes: Any, regions: Tensor, bins: Tensor, weights: Tensor) -> None:
    """Draw regions (R, 4) and their bins (R, Ph, Pw, 4), the more opaque the larger their weight (R, Ph, Pw).

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().add_subplot()
        >>> plot_bins(axes, torch.tensor([[4.0, 5.0, 20.0, 15.0]]), torch.rand(1, 2, 3, 4), torch.ones(1, 2, 3))
    """
    from matplotlib.colors import to_rgb

    shares = weights / weights.max().clamp(min=1e-6) if len(weights) else weights
    opacity = (0.15 + 0.85 * shares).clamp(0, 1).flatten().tolist()
    _outline(axes, bins.reshape(-1, 4), [(*to_rgb(BIN), alpha) for alpha in opacity], 1.0)
    _outline(axes, regions, [(*to_rgb(REGION), 1.0)] * len(regions), 1.8, style="--")


def plot_effective_bins(axes: Any, region: Tensor, bins: Tensor, magnitude: Tensor) -> None:
    """Draw a region (4,) and its bins (Ph, Pw, 4), the thicker and brighter the larger their gradient (Ph, Pw).

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().add_subplot()
        >>> plot_effective_bins(axes, torch.tensor([4.0, 5.0, 20.0, 15.0]), torch.rand(2, 3, 4), torch.rand(2, 3))
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    order = magnitude.flatten().argsort()  # the strongest on top
    share = (magnitude.flatten()[order] / magnitude.max().clamp(min=1e-30)).sqrt()
    colours = [tuple(colour) for colour in colormaps["viridis"](share.numpy())]
    _outline(axes, bins.reshape(-1, 4)[order], colours, (0.5 + 2 * share).tolist())
    _outline(axes, region[None], [(*to_rgb(REGION), 1.0)], 1.8, style="--")


def _outline(
    axes: Any, boxes: Tensor, colours: Sequence[Any], widths: float | Sequence[float], *, style: str = "-"
) -> None:
    """Draw boxes (L, 4) by their borders, on a dark line, so that they are seen on any photograph."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    # A box's corner is a border between pixels, whose centres are at integers on the axis.
    patches = [Rectangle((x1, y1), x2 - x1, y2 - y1) for x1, y1, x2, y2 in (boxes - 0.5).tolist()]
    lines = torch.as_tensor(widths).expand(len(patches))
    ground = [(0.0, 0.0, 0.0, 0.6 * colour[3]) for colour in colours]
    for edges, line in ((ground, lines + 1.0), (colours, lines)):
        axes.add_collection(
            PatchCollection(patches, facecolor="none", edgecolor=edges, linewidth=line.tolist(), linestyle=style)
        )


def plot_dilation(axes: Any, rows: Sequence[DilationRow]) -> None:
    """Draw effective dilation by layer and size of object as bars with their spread (v1, Table 2).

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().add_subplot()
        >>> plot_dilation(axes, [DilationRow("c5", size, 2.0, 0.5, 9) for size in SIZES])
    """
    names = list(dict.fromkeys(row.layer for row in rows))
    for k, (size, colour, hatch) in enumerate(zip(SIZES, SIZE_COLOURS, ("", "//", "..", "xx"), strict=True)):
        mine = {row.layer: row for row in rows if row.size == size and row.filters}
        places = [i + 0.2 * (k - 1.5) for i, name in enumerate(names) if name in mine]
        found = [mine[name] for name in names if name in mine]
        spread = [row.spread for row in found]
        axes.bar(
            places,
            [row.mean for row in found],
            0.18,
            yerr=spread,
            label=size,
            color=colour,
            hatch=hatch,
            ecolor="#444444",
        )
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    axes.set_ylabel("effective dilation, cells of the layer's input")
    axes.legend(fontsize=8)


def plot_health(axes: Any, rows: Sequence[OffsetHealth]) -> None:
    """Draw the shares of offset health of each layer as bars, with the mean offset beside the layer's name.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().add_subplot()
        >>> plot_health(axes, [OffsetHealth("c5", 0.4, 0.6, 0.1, 0.1, 0, 9, 0.0, 0.0, 99)])
    """
    kinds = (
        ("samples outside", [row.outside for row in rows]),
        ("taps that never move", [row.still_taps / max(row.taps, 1) for row in rows]),
        ("modulation at 0", [row.stuck_low for row in rows]),
        ("modulation at its bound", [row.stuck_high for row in rows]),
    )
    for k, ((name, shares), colour, hatch) in enumerate(zip(kinds, SIZE_COLOURS, ("", "//", "..", "xx"), strict=True)):
        axes.bar([i + 0.2 * (k - 1.5) for i in range(len(rows))], shares, 0.18, label=name, color=colour, hatch=hatch)
    names = [f"{row.layer}\nmean offset {row.mean:.2f}" for row in rows]
    axes.set_xticks(range(len(rows)), names, rotation=30, ha="right", fontsize=8)
    axes.set_ylim(0, 1)
    axes.set_ylabel("share")
    axes.legend(fontsize=8)

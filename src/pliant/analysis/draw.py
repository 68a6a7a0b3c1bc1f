# SPDX-License-Identifier: Apache-2.0
"""Draws boxes, curves and sampling points: arrays in, a picture file out; no models in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pliant._check import require_package
from pliant._writing import write_whole

TRUE_COLOUR = "#2ca02c"
PREDICTED_COLOUR = "#ff7f0e"
PICTURE_INCHES = 12.0


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure of so many inches, and the axes in it."""
    require_package("matplotlib", "train", "drawing")
    # The figure class alone, without pyplot: no window system is touched and no global state is left behind.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def new_panels(count: int, columns: int, width: float, shape: float) -> tuple[Any, list[Any]]:
    """Return a figure `width` inches wide, and `count` axes in it, each `shape` times as high as wide."""
    require_package("matplotlib", "train", "drawing")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    figure = Figure(figsize=(width, rows * (width / columns * shape + 0.5)), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def save_figure(figure: Any, path: Path | str, **options: Any) -> None:
    """Save a picture, whole or not at all; its suffix chooses the format, which is png where it has none."""
    format = Path(path).suffix[1:] or "png"
    write_whole(path, lambda target: figure.savefig(target, format=format, **options))


def show(image: Tensor) -> tuple[Any, Any]:
    """Return a figure with `image` (uint8, (3, H, W)) in it, axes in its pixels."""
    height, width = image.shape[-2:]
    scale = PICTURE_INCHES / max(height, width)
    figure, axes = new_figure(width * scale, height * scale)
    axes.imshow(image.permute(1, 2, 0).numpy())
    axes.set_axis_off()
    return figure, axes


def draw_boxes(
    image: Tensor,
    predicted: Tensor,
    path: Path | str,
    *,
    true: Tensor | None = None,
    title: str = "",
) -> None:
    """Draw predicted (orange) and true (green) boxes over an image and save the picture.

    Args:
        image: uint8 (3, H, W).
        predicted: (R, 4) boxes x1, y1, x2, y2 in pixels of the image.
        path: the picture file; its suffix chooses the format.
        true: (T, 4) annotated boxes, or None.
        title: a line above the picture.

    Raises:
        PliantError: matplotlib is not installed, as for all that draws.

    Example:
        >>> import tempfile
        >>> path, image = Path(tempfile.mkdtemp()) / "boxes.png", torch.zeros(3, 20, 30, dtype=torch.uint8)
        >>> draw_boxes(image, torch.tensor([[4.0, 5.0, 20.0, 15.0]]), path)
        >>> path.is_file()
        True
    """
    figure, axes = show(image)
    for boxes, colour in ((true, TRUE_COLOUR), (predicted, PREDICTED_COLOUR)):
        if boxes is not None:
            _add_boxes(axes, boxes, colour)
    axes.set_title(title)
    save_figure(figure, path, dpi=120)


def _add_boxes(axes: Any, boxes: Tensor, colour: str) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    patches = [Rectangle((x1, y1), x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes.tolist()]
    axes.add_collection(PatchCollection(patches, facecolor="none", edgecolor=colour, linewidth=1.5))


def draw_sampling(
    image: Tensor,
    points: Tensor,
    centre: tuple[float, float],
    path: Path | str,
    *,
    regular: Tensor | None = None,
    margin: float | None = None,
    title: str = "",
) -> None:
    """Draw the points that a deformable layer samples for one location, and save the picture.

    Args:
        image: uint8 (3, H, W).
        points: (P, 3): y, x in pixels of `image`, and the weight of each sample, shown as its size.
        centre: the location (y, x) that the samples belong to, drawn as a cross.
        path: the picture file; its suffix chooses the format.
        regular: (Q, 2) positions (y, x) where a plain convolution samples, drawn as hollow squares, or None.
        margin: show only so many pixels around `centre`; None shows the whole image.
        title: a line above the picture.

    Example:
        >>> import tempfile
        >>> path, image = Path(tempfile.mkdtemp()) / "points.png", torch.zeros(3, 20, 30, dtype=torch.uint8)
        >>> draw_sampling(image, torch.tensor([[4.0, 5.0, 1.0], [6.5, 9.0, 0.3]]), (5.0, 7.0), path, margin=8.0)
        >>> path.is_file()
        True

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), Fig. 5.
    """
    figure, axes = show(image)
    if regular is not None:
        y, x = regular[:, 0], regular[:, 1]
        axes.scatter(x, y, s=60, marker="s", facecolor="none", edgecolor="black", label="plain convolution")
    size = 40.0 * points[:, 2].clamp(min=0.0) / points[:, 2].max().clamp(min=1e-6) + 2.0
    axes.scatter(points[:, 1], points[:, 0], s=size.numpy(), color="red", label="deformable convolution")
    axes.scatter([centre[1]], [centre[0]], s=120, marker="+", color="lime", label="location")
    if margin is not None:
        _zoom(axes, image, centre, margin)
    axes.legend(loc="upper right", fontsize=8)
    axes.set_title(title)
    save_figure(figure, path, dpi=120)


def _zoom(axes: Any, image: Tensor, centre: tuple[float, float], margin: float) -> None:
    height, width = image.shape[-2:]
    axes.set_xlim(max(centre[1] - margin, -0.5), min(centre[1] + margin, width - 0.5))
    axes.set_ylim(min(centre[0] + margin, height - 0.5), max(centre[0] - margin, -0.5))


def draw_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path | str, *, value: str = "loss") -> None:
    """Draw `value` over the step for each run and save the picture.

    Args:
        runs: for each name in the legend, the records of its `metrics.jsonl`; records without `value` are passed over.
        path: the picture file; its suffix chooses the format.
        value: the key to draw.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "loss.png"
        >>> draw_curves({"plain": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]}, path)
        >>> path.is_file()
        True
    """
    figure, axes = new_figure(8.0, 5.0)
    for name, records in runs.items():
        drawn = [(record["step"], record[value]) for record in records if value in record]
        steps = [step for step, _ in drawn]
        values = torch.tensor([v for _, v in drawn], dtype=torch.float64)
        (line,) = axes.plot(steps, values.numpy(), alpha=0.3)
        axes.plot(steps, _smooth(values).numpy(), color=line.get_color(), label=name)
    axes.set_xlabel("step")
    axes.set_ylabel(value)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path, dpi=120)


def _smooth(values: Tensor, window: int = 9) -> Tensor:
    """Mean over the `window` values around each, fewer at the ends."""
    half = window // 2
    if not len(values):
        return values
    return torch.stack([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])

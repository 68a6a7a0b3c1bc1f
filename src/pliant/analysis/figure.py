# SPDX-License-Identifier: Apache-2.0
"""A still picture of what was measured inside a model for one photograph: one panel for each question."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from pliant._check import fail, suggest
from pliant.analysis.compose import sampling_points, stack_of
from pliant.analysis.draw import PICTURE_INCHES, new_panels, save_figure
from pliant.analysis.gradients import effective_locations, receptive_field
from pliant.analysis.marks import (
    POINT,
    REGION,
    plot_bins,
    plot_effective_bins,
    plot_field,
    plot_image,
    plot_locations,
    plot_points,
    plot_saliency,
)
from pliant.analysis.nodes import MapNode, Node, RegionNode
from pliant.analysis.record import OffsetField, nearest_cell, record_offsets
from pliant.analysis.region_views import effective_bins, region_bins
from pliant.analysis.saliency import saliency_region
from pliant.analysis.view import View

PANELS = ("points", "locations", "field", "saliency", "bins", "effective-bins")
COLUMNS = 3


@dataclass(frozen=True)
class Asked:
    """What a picture is about.

    Attributes:
        at: (y, x) in pixels of the photograph.
        box: (4,) corners of a detection in pixels of the photograph, or None: the node is then the cell at `at`.
        label: the detection's label.
        layer: topmost layer of the stack, or None for the last deformable one.
        depth: layers in the stack.
        epsilon: bound on the error of the saliency region.
        budget: masked images that it may take.
    """

    at: tuple[float, float]
    box: Tensor | None = None
    label: int = 0
    layer: str | None = None
    depth: int = 3
    epsilon: float = 0.1
    budget: int = 24


def draw_inside(
    view: View,
    asked: Asked | Sequence[Asked],
    path: Path | str,
    *,
    panels: Sequence[str] = ("points", "locations", "field"),
    margin: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Draw the panels side by side, save the picture, and return a line of text about each.

    Args:
        view: of the model on the photograph, see `view_of`.
        asked: the unit or the detection, and the stack; of several each has its panels, as the triplets of Fig. 5.
        path: the picture file; its suffix chooses the format (png, jpg, svg, pdf).
        panels: of "points" (sampling points), "locations" (effective sampling locations), "field" (effective receptive
            field), "saliency" (error-bounded saliency region), "bins" (of RoI pooling) and "effective-bins" (the same,
            the brighter the more the detection depends on their places).
        margin: show only so many pixels around the place; None shows the whole photograph.
        progress: of the saliency region, see `saliency_region`.

    Raises:
        ValueError: a panel of another name, a place outside the photograph, or bins without a detection.

    Example:
        >>> import tempfile
        >>> from pliant.analysis import view_of
        >>> from pliant.nn import DeformConv2d
        >>> view = view_of(DeformConv2d(3, 4, 3, padding=1), torch.zeros(3, 20, 30, dtype=torch.uint8))
        >>> draw_inside(view, Asked((5.0, 7.0)), Path(tempfile.mkdtemp()) / "points.png", panels=["points"])
        ['points: 9 samples of (root), spread 1.2 pixels, of the plain grid 1.2']
    """
    for panel in panels:
        if panel not in PANELS:
            fail("panels", f"must be of {', '.join(PANELS)}", repr(panel), f"use points.{suggest(panel, PANELS)}")
    drawn = [(one, panel) for one in ([asked] if isinstance(asked, Asked) else asked) for panel in panels]
    fields = record_offsets(view.network, view.input)
    columns = min(COLUMNS, len(panels) if len(panels) > 1 else len(drawn))
    width = PICTURE_INCHES / COLUMNS * columns if len(drawn) > 1 else PICTURE_INCHES * 0.6
    figure, axes = new_panels(len(drawn), columns, width, view.image.shape[-2] / view.image.shape[-1])
    lines = []
    for (one, panel), axis in zip(drawn, axes, strict=True):
        stack = stack_of(fields, top=one.layer, depth=one.depth)
        network, node = _node(view, one, stack[0])
        plot_image(axis, view.image)
        text = _PANELS[panel](axis, view, one, (network, node, stack, progress))
        axis.set_title(textwrap.fill(text, 62), fontsize=8)
        lines.append(f"{panel}: {text}")
        if margin is not None:
            _zoom(axis, view.image, one.at, margin)
    save_figure(figure, path, dpi=110)
    return lines


def _node(view: View, asked: Asked, top: OffsetField) -> tuple[nn.Module, Node]:
    """The network to ask and the node: the region of a detection, or a cell of the topmost layer."""
    if asked.box is not None:
        if view.detector is None:
            fix = "leave it out, and give a place"
            fail("detection", "needs a detector with a second stage", type(view.network).__name__, fix)
        x1, y1, x2, y2 = view.boxes_to_input(asked.box).tolist()
        return view.detector, RegionNode((x1, y1, x2, y2), view.size)
    row, column = nearest_cell(view.to_input(torch.tensor(asked.at)), top.output_stride).tolist()
    return view.network, MapNode(top.layer, (row, column))


_Parts = tuple[nn.Module, Node, list[OffsetField], Callable[[int, int], None] | None]


def _points(axes: Any, view: View, asked: Asked, parts: _Parts) -> str:
    stack = parts[2]
    place = view.to_input(torch.tensor(asked.at)).tolist()
    points, plain = (
        sampling_points(fields, (place[0], place[1])) for fields in (stack, [field.plain() for field in stack])
    )
    for found in (points, plain):
        found[:, :2] = view.to_image(found[:, :2])
    plot_points(axes, points, plain=plain, unit=asked.at)
    names = " < ".join(field.layer or "(root)" for field in stack)
    return (
        f"{len(points)} samples of {names}, spread {_spread(points):.1f} pixels, of the plain grid {_spread(plain):.1f}"
    )


def _spread(points: Tensor) -> float:
    """The standard deviation of samples (P, 3), y, x and weight, around their mean place."""
    places, weights = points[:, :2], points[:, 2:] / points[:, 2].sum().clamp(min=1e-12)
    distance = (places - (weights * places).sum(dim=0)).square().sum(dim=1, keepdim=True)
    return (weights * distance).sum().sqrt().item()


def _locations(axes: Any, view: View, asked: Asked, parts: _Parts) -> str:
    network, node, stack, _ = parts
    layers, bins = effective_locations(network, view.input, node)
    wanted = {field.layer for field in stack}
    chosen = [layer for layer in layers if layer.layer.removeprefix("backbone.") in wanted]
    positions = torch.cat([layer.positions.reshape(-1, 2) for layer in chosen])
    magnitude = torch.cat([(layer.magnitude / layer.magnitude.max().clamp(min=1e-30)).flatten() for layer in chosen])
    plot_locations(axes, view.to_image(positions), magnitude)
    _mark(axes, asked)
    return f"effective sampling locations of {len(chosen)} layers" + (", by the box head" if bins else "")


def _field(axes: Any, view: View, asked: Asked, parts: _Parts) -> str:
    field = receptive_field(parts[0], view.input, parts[1])[0, : view.size[0], : view.size[1]]
    plot_field(axes, _resized(field, view))
    _mark(axes, asked)
    return "effective receptive field"


def _saliency(axes: Any, view: View, asked: Asked, parts: _Parts) -> str:
    network, node, _, progress = parts
    region = saliency_region(
        network, view.input, node, epsilon=asked.epsilon, budget=asked.budget, size=view.size, progress=progress
    )
    plot_saliency(axes, _resized(region.mask[: view.size[0], : view.size[1]].float(), view) > 0.5)
    _mark(axes, asked)
    end = "" if region.complete else ", budget spent"
    return f"saliency region: {100 * region.share:.1f} % of the image, error {region.error:.4f}{end}"


def _bins(axes: Any, view: View, asked: Asked, parts: _Parts) -> str:
    box = _detection(asked)
    found = region_bins(view, view.boxes_to_input(box[None]), [asked.label])
    if found is None:
        _fail_without_bins(view)
    bins, weights = found
    plot_bins(axes, box[None], view.boxes_to_image(bins), weights)
    least, most = (f"{value:.2f}" for value in (weights.min().item(), weights.max().item()))
    return f"{weights[0].numel()} bins, " + (
        f"all of weight {least}" if least == most else f"weights {least} to {most}"
    )


def _effective_bins(axes: Any, view: View, asked: Asked, parts: _Parts) -> str:
    box = _detection(asked)
    found = effective_bins(view, view.boxes_to_input(box), asked.label)
    if found is None:
        _fail_without_bins(view)
    bins, magnitude = found
    plot_effective_bins(axes, box, view.boxes_to_image(bins), magnitude)
    row, column = divmod(int(magnitude.argmax()), magnitude.shape[1])
    return f"effective bin locations: {magnitude.numel()} bins, the strongest in row {row}, column {column}"


def _detection(asked: Asked) -> Tensor:
    if asked.box is None:
        fail("panels", "bins need a detection", "a place", "give a detection")
    return asked.box


def _fail_without_bins(view: View) -> NoReturn:
    fix = "train one with --roi-pool align, deform or modulated"
    fail("panels", "bins need RoIAlign or deformable RoI pooling", type(view.detector).__name__, fix)


_PANELS = {
    "points": _points,
    "locations": _locations,
    "field": _field,
    "saliency": _saliency,
    "bins": _bins,
    "effective-bins": _effective_bins,
}


def _mark(axes: Any, asked: Asked) -> None:
    """The detection's box, or a cross at the unit."""
    if asked.box is None:
        axes.scatter([asked.at[1]], [asked.at[0]], s=110, marker="+", color=POINT, linewidth=2.2)
        return
    x1, y1, x2, y2 = (asked.box - 0.5).tolist()
    axes.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=REGION, linestyle="--", linewidth=1.5)


def _resized(map: Tensor, view: View) -> Tensor:
    """A map over the image in the input, at the photograph's size."""
    size = (view.image.shape[1], view.image.shape[2])
    return nn.functional.interpolate(map[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def _zoom(axes: Any, image: Tensor, at: tuple[float, float], margin: float) -> None:
    axes.set_xlim(max(at[1] - margin, -0.5), min(at[1] + margin, image.shape[2] - 0.5))
    axes.set_ylim(min(at[0] + margin, image.shape[1] - 0.5), max(at[0] - margin, -0.5))

# SPDX-License-Identifier: Apache-2.0
"""Draws what a detector finds, as people expect it: a colour for each class, labels to be read, and a legend.

The picture has the photograph's pixels; a small photograph is enlarged, and one of more than 4096 pixels reduced.
Lines and letters are shares of the picture's size, so that it looks the same at every size.
"""

from __future__ import annotations

import colorsys
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from pliant._check import counted, require_package
from pliant.analysis.fonts import families, legible
from pliant.analysis.label_places import Place, place_labels

Colour = tuple[float, float, float]

_SHORTEST, _LONGEST = 900, 4096  # pixels of a picture's long side
_DPI = 128  # a power of two, by which sizes in pixels are divided exactly
_LETTER, _LINE = 0.021, 0.0032  # the height of letters and the width of lines, as shares of the picture's side
_LONGEST_NAME = 32  # characters
_OPACITY = 0.4
_SHADES = ((0.85, 0.95), (0.95, 0.6), (0.45, 0.95))  # saturation and value: bright, dark, pale
_HUES, _STEP = 10, 3  # hues of a shade, and how many the next class is away, so that neighbours are far apart


def class_colour(label: int) -> Colour:
    """Return the colour of a class, red, green and blue from 0 to 1: always the same, and those of 30 classes apart.

    Example:
        >>> [round(part, 2) for part in class_colour(1)]
        [0.3, 0.95, 0.14]
    """
    shade = label // _HUES % len(_SHADES)
    hue = (label * _STEP % _HUES + shade / len(_SHADES)) / _HUES
    return colorsys.hsv_to_rgb(hue, *_SHADES[shade])


def draw_detections(
    image: Tensor,
    boxes: Tensor,
    labels: Sequence[int],
    path: Path | str,
    *,
    names: Mapping[int, str],
    scores: Sequence[float] | None = None,
    masks: Iterable[Tensor] | None = None,
    min_score: float | None = None,
) -> None:
    """Draw boxes, and masks where there are, over an image, each class in its colour, and save the picture.

    Every box is labelled with its class and score, where there is room for it beside the labels of surer ones, or else
    with the score alone. A legend below the image gives the classes, how often each is drawn, the least score, and how
    many boxes had no room for a label.

    Args:
        image: uint8 (3, H, W).
        boxes: (L, 4) corners x1, y1, x2, y2 in pixels of the image.
        labels: L numbers of classes, which choose the colours; see `class_colour`.
        path: the picture file; its suffix chooses the format.
        names: the name of each class.
        scores: L scores 0..1, or None.
        masks: L of (H, W), true inside the object, or None.
        min_score: the least score that is drawn, for the legend; None says nothing of it.

    Raises:
        PliantError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> path, image = Path(tempfile.mkdtemp()) / "found.png", torch.zeros(3, 20, 30, dtype=torch.uint8)
        >>> draw_detections(image, torch.tensor([[4.0, 5.0, 20.0, 15.0]]), [1], path, names={1: "oak"}, scores=[0.9])
        >>> path.is_file()
        True
    """
    order = range(len(labels)) if scores is None else sorted(range(len(labels)), key=lambda k: -scores[k])
    colours = [class_colour(label) for label in labels]
    if masks is not None:
        image = _tinted(image, masks, colours)
    figure, axes, scale, side = _canvas(image)
    corners = (boxes * scale).tolist()
    _add_boxes(axes, boxes, colours, side)
    texts = [_texts(names, label, None if scores is None else scores[k]) for k, label in enumerate(labels)]
    size = tuple(figure.bbox.size)
    hidden = _add_labels(figure, [(corners[k], texts[k], colours[k]) for k in order], size, side)
    height = _add_legend(figure, Counter(labels), names, min_score, hidden, side)
    figure.savefig(path, dpi=_DPI, bbox_inches=_with_strip(figure, height))


def _with_strip(figure: Any, height: int) -> Any:
    """The part of a figure that is saved: all of it, and so many pixels below."""
    from matplotlib.transforms import Bbox

    return Bbox([[0, -height / _DPI], figure.get_size_inches()])


def _canvas(image: Tensor) -> tuple[Any, Any, float, float]:
    """A figure filled by the image, its axes in pixels of the image, pixels of it for each of those, and its side."""
    require_package("matplotlib", "train", "drawing")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = image.shape[-2:]
    longest = max(height, width)
    scale = min(max(longest, _SHORTEST), _LONGEST) / longest
    size = (round(width * scale) / _DPI, round(height * scale) / _DPI)
    figure = Figure(figsize=size, dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(image.permute(1, 2, 0).numpy(), extent=(0, width, height, 0), aspect="auto")
    axes.set_axis_off()
    # A stripe has letters for its long side still, or they would be too small to read.
    return figure, axes, scale, scale * max((height * width) ** 0.5, 0.6 * longest)


def _points(pixels: float) -> float:
    return pixels * 72 / _DPI


def _add_boxes(axes: Any, boxes: Tensor, colours: Sequence[Colour], side: float) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    patches = [Rectangle((x1, y1), x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes.tolist()]
    # A dark line under the coloured one, which is then seen on a ground of its own colour.
    for colour, width in (("black", 1.6), (colours, 1.0)):
        style: dict[str, Any] = {"facecolor": "none", "edgecolor": colour, "linewidth": width * _points(_LINE * side)}
        axes.add_collection(PatchCollection(patches, **style))


def _name(names: Mapping[int, str], label: int) -> str:
    name = names.get(label, str(label))
    return legible(name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}...")


def _texts(names: Mapping[int, str], label: int, score: float | None) -> list[str]:
    """What a label may say: all of it, or less where there is no room."""
    name = _name(names, label)
    return [name] if score is None else [f"{name} {score:.2f}", f"{score:.2f}"]


def _add_labels(
    figure: Any,
    found: Sequence[tuple[Sequence[float], Sequence[str], Colour]],
    size: tuple[float, float],
    side: float,
) -> int:
    """Write the labels on their boxes and return how many had no room."""
    style: dict[str, Any] = {"fontsize": _points(_LETTER * side), "family": families()}
    extents = _extents(figure, [texts for _, texts, _ in found], style, margin=0.15 * _LETTER * side)
    places = place_labels([corners for corners, _, _ in found], extents, size)
    for (_, texts, colour), place in zip(found, places, strict=True):
        if place is not None:
            _write(figure, texts[place[0]], place[1], size, colour, style)
    return places.count(None)


def _extents(
    figure: Any, texts: Sequence[Sequence[str]], style: Mapping[str, Any], margin: float
) -> list[list[tuple[float, float]]]:
    """Width and height in pixels of each text with a margin around it; one height for all, so that they line up."""
    renderer, probe = figure.canvas.get_renderer(), figure.text(0, 0, "", **style)
    measured: dict[str, Any] = {}
    for text in {text for several in texts for text in several}:
        probe.set_text(text)
        measured[text] = probe.get_window_extent(renderer)
    probe.set_text("Ágy")
    height = max([probe.get_window_extent(renderer).height, *(m.height for m in measured.values())]) + 2 * margin
    probe.remove()
    return [[(measured[text].width + 4 * margin, height) for text in several] for several in texts]


def _write(
    figure: Any, text: str, place: Place, size: tuple[float, float], colour: Colour, style: Mapping[str, Any]
) -> None:
    from matplotlib.patches import Rectangle

    width, height = size
    left, bottom = place.x / width, 1 - (place.y + place.height) / height
    patch = Rectangle((left, bottom), place.width / width, place.height / height, facecolor=colour, edgecolor="none")
    patch.set(transform=figure.transFigure, zorder=3)
    figure.add_artist(patch)
    middle = (left + place.width / width / 2, bottom + place.height / height / 2)
    centred = {"ha": "center", "va": "center_baseline", "zorder": 4}
    figure.text(*middle, text, color=_ink(colour), **centred, **style)


def _ink(colour: Colour) -> str:
    """Black or white, whichever is read better on a colour, by its relative luminance."""
    red, green, blue = (part**2.2 for part in colour)
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "white"


def _add_legend(
    figure: Any, drawn: Counter[int], names: Mapping[int, str], min_score: float | None, hidden: int, side: float
) -> int:
    """Add a legend below the image, in as many columns as it is wide, and return its height in pixels."""
    from matplotlib.patches import Patch

    entries = [(f"{_name(names, label)} ({number})", class_colour(label)) for label, number in sorted(drawn.items())]
    notes = [] if min_score is None else [f"scores of at least {min_score:g}"]
    notes += [] if drawn else ["nothing found"]
    notes += [f"no room for {counted(hidden, 'label')}"] if hidden else []
    if not entries and not notes:
        return 0
    longest = max(len(text) for text in [*notes, *(text for text, _ in entries)]) + 4  # and the patch of colour
    handles = [Patch(facecolor=colour, label=_shown(text)) for text, colour in entries]
    handles += [Patch(facecolor="none", edgecolor="none", label=text) for text in notes]
    columns = max(1, int(figure.bbox.width / (0.6 * _LETTER * side * longest)))
    letters = {"family": families(), "size": _points(_LETTER * side)}
    where = {"loc": "upper left", "bbox_to_anchor": (0, 0), "ncols": min(columns, len(handles))}
    legend = figure.legend(handles=handles, prop=letters, frameon=False, handlelength=1, handleheight=1, **where)
    lowest: float = legend.get_window_extent(figure.canvas.get_renderer()).y0
    return math.ceil(-lowest)


def _shown(text: str) -> str:
    """A text that a legend does not leave out, as matplotlib does those that begin with an underscore."""
    return f"\u200a{text}" if text.startswith("_") else text


def _tinted(image: Tensor, masks: Iterable[Tensor], colours: Sequence[Colour]) -> Tensor:
    """The image with each mask in its colour, and a line around it so that neighbours of a class stay apart."""
    width = max(3, round(_LINE / 2 * max(image.shape[1:])) * 2 + 1)
    mixed = image.float()
    for mask, colour in zip(masks, colours, strict=True):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        if not len(rows):
            continue
        part = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        inside = mask[part].bool()
        outside = pad((~inside).float()[None, None], [width // 2] * 4, value=1)
        edge = inside & (max_pool2d(outside, width, stride=1)[0, 0] > 0)
        tint = 255 * torch.tensor(colour)[:, None, None]
        opacity = _OPACITY * inside + (1 - _OPACITY) * edge
        mixed[:, *part] = opacity * tint + (1 - opacity) * mixed[:, *part]
    return mixed.round().to(torch.uint8)

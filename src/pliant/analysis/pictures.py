# SPDX-License-Identifier: Apache-2.0
"""Draws what a detector finds, as people expect it: a colour for each class, labels to be read, and a legend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pliant._check import counted
from pliant.analysis.canvas import Canvas, Colour, class_colour, shown_name, tinted
from pliant.analysis.label_places import Place, place_labels


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
        >>> import torch
        >>> path, image = Path(tempfile.mkdtemp()) / "found.png", torch.zeros(3, 20, 30, dtype=torch.uint8)
        >>> draw_detections(image, torch.tensor([[4.0, 5.0, 20.0, 15.0]]), [1], path, names={1: "oak"}, scores=[0.9])
        >>> path.is_file()
        True
    """
    order = range(len(labels)) if scores is None else sorted(range(len(labels)), key=lambda k: -scores[k])
    colours = [class_colour(label) for label in labels]
    if masks is not None:
        image = tinted(image, masks, colours)
    canvas = Canvas.of(image)
    corners = (boxes * canvas.scale).tolist()
    _add_boxes(canvas, boxes, colours)
    texts = [_texts(names, label, None if scores is None else scores[k]) for k, label in enumerate(labels)]
    hidden = _add_labels(canvas, [(corners[k], texts[k], colours[k]) for k in order])
    canvas.save(path, _add_legend(canvas, Counter(labels), names, min_score, hidden))


def _add_boxes(canvas: Canvas, boxes: Tensor, colours: Sequence[Colour]) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    patches = [Rectangle((x1, y1), x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes.tolist()]
    # A dark line under the coloured one, which is then seen on a ground of its own colour.
    for colour, width in (("black", 1.6), (colours, 1.0)):
        style: dict[str, Any] = {"facecolor": "none", "edgecolor": colour, "linewidth": width * canvas.line}
        canvas.axes.add_collection(PatchCollection(patches, **style))


def _texts(names: Mapping[int, str], label: int, score: float | None) -> list[str]:
    """What a label may say: all of it, or less where there is no room."""
    name = shown_name(names, label)
    return [name] if score is None else [f"{name} {score:.2f}", f"{score:.2f}"]


def _add_labels(canvas: Canvas, found: Sequence[tuple[Sequence[float], Sequence[str], Colour]]) -> int:
    """Write the labels on their boxes and return how many had no room."""
    extents = canvas.extents([texts for _, texts, _ in found])
    places = place_labels([corners for corners, _, _ in found], extents, canvas.size)
    for (_, texts, colour), place in zip(found, places, strict=True):
        if place is not None:
            canvas.write(texts[place[0]], place[1], colour)
    return places.count(None)


def _add_legend(
    canvas: Canvas, drawn: Counter[int], names: Mapping[int, str], min_score: float | None, hidden: int
) -> Place:
    """Add the classes, how often each is drawn, and what a reader must know of the scores and labels."""
    entries = [(f"{shown_name(names, k)} ({number})", class_colour(k)) for k, number in sorted(drawn.items())]
    notes = [] if min_score is None else [f"scores of at least {min_score:g}"]
    notes += [] if drawn else ["nothing found"]
    notes += [f"no room for {counted(hidden, 'label')}"] if hidden else []
    return canvas.add_legend(entries, notes)

# SPDX-License-Identifier: Apache-2.0
"""Draws label maps over images, and the labels of whole images below them: arrays in, a picture file out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from pliant._check import counted
from pliant._labels import IGNORE
from pliant.analysis.canvas import Canvas, class_colour, shown_name, tinted
from pliant.analysis.label_places import Place, place_around

_COARSE = 96  # positions along the longer side at which the middle of a region is looked for
_TRACK = (0.9, 0.9, 0.9)  # the colour of a bar's empty part


def label_colours() -> Tensor:
    """Return the colours of Pascal VOC's label maps, (256, 3) uint8: black for 0, no two alike.

    Example:
        >>> label_colours()[[0, 1, 15, 255]].tolist()
        [[0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192]]
    """
    values = torch.arange(256)
    colours = torch.zeros(256, 3, dtype=torch.int64)
    # Bits 0, 1, 2 of the value are the highest bits of red, green, blue; bits 3, 4, 5 the next ones, and so on.
    for place in range(8):
        for channel in range(3):
            colours[:, channel] |= ((values >> (3 * place + channel)) & 1) << (7 - place)
    return colours.to(torch.uint8)


def draw_labels(image: Tensor, labels: Tensor, path: Path | str, *, names: Mapping[int, str]) -> None:
    """Draw a label map over an image, each label in its colour, and save the picture.

    The name of each label stands in the middle of its widest part, the largest first, where there is room. A legend
    below the image gives the labels and the share of the pixels that each has. Label 0 and 255 are left as they are:
    the background of most data sets, and what is ignored.

    Args:
        image: uint8 (3, H, W).
        labels: (H, W) integers, 0..255.
        path: the picture file; its suffix chooses the format.
        names: name of each label.

    Raises:
        PliantError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> path, image = Path(tempfile.mkdtemp()) / "labels.png", torch.zeros(3, 20, 30, dtype=torch.uint8)
        >>> draw_labels(image, torch.arange(20)[:, None].expand(20, 30) // 8, path, names={1: "tree", 2: "road"})
        >>> path.is_file()
        True
    """
    pixels = torch.bincount(labels.flatten().long(), minlength=256)
    there = [label for label in pixels.argsort(descending=True, stable=True).tolist() if pixels[label]]
    there = [label for label in there if label not in (0, IGNORE)]
    colours = [class_colour(label) for label in there]
    canvas = Canvas.of(tinted(image, (labels == label for label in there), colours))
    hidden = _name_regions(canvas, labels, there, names)
    entries = [(f"{shown_name(names, k)} ({_share(pixels, k)})", class_colour(k)) for k in there]
    notes = [] if there else ["nothing found"]
    notes += [f"no room for {counted(hidden, 'label')}"] if hidden else []
    canvas.save(path, canvas.add_legend(entries, notes))


def _share(pixels: Tensor, label: int) -> str:
    percent = 100 * int(pixels[label]) / int(pixels.sum())
    return f"{percent:.0f} %" if percent >= 1 else "below 1 %"


def _name_regions(canvas: Canvas, labels: Tensor, there: Sequence[int], names: Mapping[int, str]) -> int:
    """Write the names on their regions and return how many had no room."""
    texts = [shown_name(names, label) for label in there]
    middles = [_middle(labels == label) for label in there]
    places = place_around(
        [(x * canvas.scale, y * canvas.scale) for x, y in middles],
        [extents[0] for extents in canvas.extents([[text] for text in texts])],
        canvas.size,
    )
    for label, text, place in zip(there, texts, places, strict=True):
        if place is not None:
            canvas.write(text, place, class_colour(label))
    return places.count(None)


def _middle(region: Tensor) -> tuple[float, float]:
    """Return x and y of the point of a region (h, w) that is farthest from its edges, and of several a middle one."""
    step = -(-max(region.shape) // _COARSE)
    shrunk = avg_pool2d(region.float()[None, None], step, ceil_mode=True)
    depth = shrunk.clone()
    while shrunk.any():
        shrunk = -max_pool2d(-pad(shrunk, [1, 1, 1, 1]), 3, stride=1)  # outside the map is outside the region
        depth += shrunk
    deepest = (depth[0, 0] > depth.max() - 0.5).nonzero().float()
    y, x = deepest[(deepest - deepest.mean(0)).square().sum(1).argmin()].tolist()
    return (x + 0.5) * step, (y + 0.5) * step


def draw_ranking(
    image: Tensor, labels: Sequence[int], scores: Sequence[float], path: Path | str, *, names: Mapping[int, str]
) -> None:
    """Draw an image with its best labels below it, a bar in the colour of each, and save the picture.

    Args:
        image: uint8 (3, H, W).
        labels: numbers of classes, best first, which choose the colours; see `class_colour`.
        scores: their scores, 0..1, in which a bar's length is counted.
        path: the picture file; its suffix chooses the format.
        names: the name of each class.

    Raises:
        PliantError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> path, image = Path(tempfile.mkdtemp()) / "ranking.png", torch.zeros(3, 20, 30, dtype=torch.uint8)
        >>> draw_ranking(image, [2, 1], [0.7, 0.2], path, names={1: "ash", 2: "oak"})
        >>> path.is_file()
        True
    """
    canvas = Canvas.of(image)
    width, top = canvas.size
    gap = canvas.letter / 2
    right = width
    for label, score in zip(labels, scores, strict=True):
        text = f"{shown_name(names, label)}  {score:.2f}"
        [[(text_width, height)]] = canvas.extents([[text]])
        line = Place(gap, top + gap, text_width, height)
        canvas.text(text, line)
        bar = Place(gap, line.y + height, width - 2 * gap, gap)
        canvas.rectangle(bar, _TRACK)
        canvas.rectangle(replace(bar, width=bar.width * min(max(score, 0.0), 1.0)), class_colour(label))
        top, right = bar.y + bar.height, max(right, line.x + text_width + gap)
    canvas.save(path, Place(0, canvas.size[1], right, top + gap - canvas.size[1]))

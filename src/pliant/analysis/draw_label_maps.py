# SPDX-License-Identifier: Apache-2.0
"""Draws label maps over images, and rankings of labels beside them: arrays in, a picture file out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pliant._labels import IGNORE
from pliant.analysis.draw import PICTURE_INCHES, PREDICTED_COLOUR, new_figure, show
from pliant.analysis.fonts import families, legible

_OPACITY = 0.6


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


def draw_labels(image: Tensor, labels: Tensor, path: Path | str, *, names: Mapping[int, str], title: str = "") -> None:
    """Draw a label map over an image, with a legend of the labels in it, and save the picture.

    Label 0 and 255 are left as they are: the background of most data sets, and what is ignored.

    Args:
        image: uint8 (3, H, W).
        labels: (H, W) integers, 0..255.
        path: the picture file; its suffix chooses the format.
        names: name of each label.
        title: a line above the picture.

    Example:
        >>> import tempfile
        >>> path, image = Path(tempfile.mkdtemp()) / "labels.png", torch.zeros(3, 20, 30, dtype=torch.uint8)
        >>> draw_labels(image, torch.arange(20)[:, None].expand(20, 30) // 8, path, names={1: "tree", 2: "road"})
        >>> path.is_file()
        True
    """
    from matplotlib.patches import Patch

    colours = label_colours()
    shown = (labels != 0) & (labels != IGNORE)
    mixed = _OPACITY * colours[labels.long()].permute(2, 0, 1) + (1 - _OPACITY) * image  # (3, H, W)
    figure, axes = show(torch.where(shown, mixed.round().to(torch.uint8), image))
    there = [label for label in labels.unique().tolist() if label not in (0, IGNORE)]
    handles = [Patch(color=_hex(colours[label]), label=legible(names.get(label, str(label)))) for label in there]
    if handles:
        axes.legend(handles=handles, loc="upper right", prop={"family": families(), "size": 8})
    axes.set_title(title)
    figure.savefig(path, dpi=120)


def _hex(colour: Tensor) -> str:
    red, green, blue = colour.tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"


def draw_ranking(image: Tensor, names: Sequence[str], scores: Sequence[float], path: Path | str) -> None:
    """Draw an image with bars of its best labels below it, and save the picture.

    Args:
        image: uint8 (3, H, W).
        names: the labels, best first.
        scores: their scores, 0..1.
        path: the picture file; its suffix chooses the format.

    Example:
        >>> import tempfile
        >>> path, image = Path(tempfile.mkdtemp()) / "ranking.png", torch.zeros(3, 20, 30, dtype=torch.uint8)
        >>> draw_ranking(image, ["oak", "ash"], [0.7, 0.2], path)
        >>> path.is_file()
        True
    """
    side = PICTURE_INCHES / 2
    figure, axes = new_figure(side, side * image.shape[-2] / image.shape[-1] + 0.4 * len(names) + 0.5)
    axes.imshow(image.permute(1, 2, 0).numpy())
    axes.set_axis_off()
    bars = axes.inset_axes((0.25, -0.08 - 0.07 * len(names), 0.7, 0.07 * len(names)))
    bars.barh(range(len(names)), list(scores), color=PREDICTED_COLOUR)
    lines = [f"{legible(name)}  {score:.2f}" for name, score in zip(names, scores, strict=True)]
    bars.set_yticks(range(len(names)), lines, family=families())
    bars.invert_yaxis()
    bars.set_xlim(0, 1)
    figure.savefig(path, dpi=120, bbox_inches="tight")

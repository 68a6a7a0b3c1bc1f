# SPDX-License-Identifier: Apache-2.0
"""What pictures of predictions have in common: their size, the colours of classes, labels, and a strip below the image.

A picture has the photograph's pixels; a small photograph is enlarged, and one of more than 4096 pixels reduced.
Lines and letters are shares of the picture's size, so that it looks the same at every size.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from pliant._check import require_package
from pliant.analysis.draw import save_figure
from pliant.analysis.fonts import families, legible
from pliant.analysis.label_places import Place

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


def ink(colour: Colour) -> str:
    """Return black or white, whichever is read better on a colour, by its relative luminance."""
    red, green, blue = (part**2.2 for part in colour)
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "white"


def shown_name(names: Mapping[int, str], label: int) -> str:
    """Return the name of a class as a picture shows it: shortened, and escaped where no font has its characters."""
    name = names.get(label, str(label))
    return legible(name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}...")


def tinted(image: Tensor, masks: Iterable[Tensor], colours: Sequence[Colour]) -> Tensor:
    """Return the image with each mask in its colour, and a line around it so that neighbours of a class stay apart."""
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


@dataclass(frozen=True)
class Canvas:
    """A figure that an image fills, with axes in pixels of the image.

    Attributes:
        figure: matplotlib's.
        axes: the same.
        scale: pixels of the picture for each of the image.
        side: pixels of the picture, of which letters and lines take shares.
    """

    figure: Any
    axes: Any
    scale: float
    side: float

    @classmethod
    def of(cls, image: Tensor) -> Canvas:
        """Return the canvas of an image, uint8 (3, H, W)."""
        require_package("matplotlib", "train", "drawing")
        # The figure class alone, without pyplot: no window system is touched and no global state is left behind.
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
        return cls(figure, axes, scale, scale * max((height * width) ** 0.5, 0.6 * longest))

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        width, height = self.figure.bbox.size
        return float(width), float(height)

    @property
    def letter(self) -> float:
        """The height of letters in pixels."""
        return _LETTER * self.side

    @property
    def line(self) -> float:
        """The width of lines in points, matplotlib's unit."""
        return _points(_LINE * self.side)

    @property
    def style(self) -> dict[str, Any]:
        """How text is set."""
        return {"fontsize": _points(self.letter), "family": families()}

    def extents(self, texts: Sequence[Sequence[str]]) -> list[list[tuple[float, float]]]:
        """Return width and height in pixels of each text with a margin; one height for all, so that they line up."""
        margin = 0.15 * self.letter
        renderer, probe = self.figure.canvas.get_renderer(), self.figure.text(0, 0, "", **self.style)
        measured: dict[str, Any] = {}
        for text in {text for several in texts for text in several}:
            probe.set_text(text)
            measured[text] = probe.get_window_extent(renderer)
        probe.set_text("Ágy")
        height = max([probe.get_window_extent(renderer).height, *(m.height for m in measured.values())]) + 2 * margin
        probe.remove()
        return [[(measured[text].width + 4 * margin, height) for text in several] for several in texts]

    def rectangle(self, place: Place, colour: Colour) -> None:
        """Fill a rectangle, which may lie below the image."""
        from matplotlib.patches import Rectangle

        width, height = self.size
        left, bottom = place.x / width, 1 - (place.y + place.height) / height
        patch = Rectangle(
            (left, bottom), place.width / width, place.height / height, facecolor=colour, edgecolor="none"
        )
        patch.set(transform=self.figure.transFigure, zorder=3)
        self.figure.add_artist(patch)

    def write(self, text: str, place: Place, colour: Colour) -> None:
        """Write a label on a ground of its colour."""
        self.rectangle(place, colour)
        self.text(text, place, ink(colour))

    def text(self, text: str, place: Place, colour: str = "black") -> None:
        """Write a text in the middle of a place, which may lie below the image."""
        width, height = self.size
        middle = ((place.x + place.width / 2) / width, 1 - (place.y + place.height / 2) / height)
        self.figure.text(*middle, text, color=colour, ha="center", va="center_baseline", zorder=4, **self.style)

    def add_legend(self, entries: Sequence[tuple[str, Colour]], notes: Sequence[str]) -> Place:
        """Add a legend below the image, in as many columns as it is wide, and return where it is."""
        from matplotlib.patches import Patch

        if not entries and not notes:
            return Place(0, self.size[1], 0, 0)
        longest = max(len(text) for text in [*notes, *(text for text, _ in entries)]) + 4  # and the patch of colour
        handles = [Patch(facecolor=colour, label=_kept(text)) for text, colour in entries]
        handles += [Patch(facecolor="none", edgecolor="none", label=text) for text in notes]
        columns = max(1, int(self.size[0] / (0.6 * self.letter * longest)))
        letters = {"family": families(), "size": _points(self.letter)}
        where = {"loc": "upper left", "bbox_to_anchor": (0, 0), "ncols": min(columns, len(handles))}
        # Black, whatever a program's own style is.
        look = {"prop": letters, "labelcolor": "black", "frameon": False, "handlelength": 1, "handleheight": 1}
        legend = self.figure.legend(handles=handles, **look, **where)
        extent = legend.get_window_extent(self.figure.canvas.get_renderer())
        return Place(0, self.size[1], float(extent.x1), float(-extent.y0))

    def save(self, path: Path | str, below: Place) -> None:
        """Save the picture and the strip below it, which a narrow image is wide enough for too."""
        from matplotlib.transforms import Bbox

        width, height = self.size
        right, bottom = max(width, math.ceil(below.width)), -math.ceil(below.height)
        box = Bbox([[0, bottom / _DPI], [right / _DPI, height / _DPI]])
        save_figure(self.figure, path, dpi=_DPI, bbox_inches=box)


def _points(pixels: float) -> float:
    """Return a length in points, matplotlib's unit."""
    return pixels * 72 / _DPI


def _kept(text: str) -> str:
    """Return a text that a legend does not leave out, as matplotlib does those that begin with an underscore."""
    return f"\u200a{text}" if text.startswith("_") else text

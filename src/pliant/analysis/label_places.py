# SPDX-License-Identifier: Apache-2.0
"""Where the labels of boxes go in a picture, so that all stay inside and none hides another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Place:
    """A rectangle in pixels of the picture, y downwards."""

    x: float
    y: float
    width: float
    height: float

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    def shares(self, taken: np.ndarray) -> bool:
        """Say whether the rectangle overlaps one of `taken`, (n, 4): x1, y1, x2, y2."""
        apart = (taken[:, 0] >= self.x + self.width) | (taken[:, 2] <= self.x)
        apart |= (taken[:, 1] >= self.y + self.height) | (taken[:, 3] <= self.y)
        return not bool(apart.all())


def place_labels(
    boxes: Sequence[Sequence[float]], texts: Iterable[Sequence[tuple[float, float]]], size: tuple[float, float]
) -> list[tuple[int, Place] | None]:
    """Return for each box which of its texts is shown and where, or None where there is no room.

    The first box chooses first. It takes its first text at the first free place at its corners, outside before inside,
    then along its sides; if there is none, its next text.

    Args:
        boxes: corners x1, y1, x2, y2 in pixels of the picture.
        texts: for each box the (width, height) of its texts, the most wanted first.
        size: width and height of the picture.

    Example:
        >>> place_labels([(10.0, 50.0, 60.0, 90.0)] * 2, [[(30.0, 8.0)]] * 2, (100.0, 100.0))
        [(0, Place(x=10.0, y=42.0, width=30.0, height=8.0)), (0, Place(x=10.0, y=90.0, width=30.0, height=8.0))]
    """
    return _first_free(
        (
            (
                (text, _inside(x, y, width, height, size))
                for text, (width, height) in enumerate(sizes)
                for x, y in _wanted(box, width, height)
            )
            for box, sizes in zip(boxes, texts, strict=True)
        ),
        size,
    )


def place_around(
    middles: Iterable[tuple[float, float]], texts: Iterable[tuple[float, float]], size: tuple[float, float]
) -> list[Place | None]:
    """Return where each text is shown, or None where there is no room.

    A text's middle is put at a given point if that leaves it inside, or else its own height below or above.

    Args:
        middles: x and y in pixels of the picture; the first chooses first.
        texts: the width and height of each text.
        size: width and height of the picture.

    Example:
        >>> place_around([(50.0, 50.0)] * 2, [(30.0, 8.0)] * 2, (100.0, 100.0))
        [Place(x=35.0, y=46.0, width=30.0, height=8.0), Place(x=35.0, y=54.0, width=30.0, height=8.0)]
    """
    found = _first_free(
        (
            (
                (0, _inside(x - width / 2, top, width, height, size))
                for top in (y - height / 2, y + height / 2, y - 3 * height / 2)
            )
            for (x, y), (width, height) in zip(middles, texts, strict=True)
        ),
        size,
    )
    return [None if chosen is None else chosen[1] for chosen in found]


def _first_free(
    wanted: Iterable[Iterable[tuple[int, Place]]], size: tuple[float, float]
) -> list[tuple[int, Place] | None]:
    """Choose for each label the first place that is as narrow as the picture and overlaps none chosen before."""
    taken = np.zeros((0, 4))
    found: list[tuple[int, Place] | None] = []
    for places in wanted:
        fitting = (place for place in places if place[1].width <= size[0] and not place[1].shares(taken))
        chosen = next(fitting, None)
        found.append(chosen)
        if chosen is not None:
            taken = np.vstack([taken, chosen[1].corners])
    return found


def _inside(x: float, y: float, width: float, height: float, size: tuple[float, float]) -> Place:
    return Place(max(0.0, min(x, size[0] - width)), max(0.0, min(y, size[1] - height)), width, height)


def _wanted(box: Sequence[float], width: float, height: float) -> Iterator[tuple[float, float]]:
    x1, y1, x2, y2 = box
    for y in (y1 - height, y2, y1, y2 - height):  # above, below, inside at the top, inside at the bottom
        yield x1, y
        yield x2 - width, y
    steps = np.arange(y1 + height, y2 - height, height).tolist()
    for x in (x1, x2 - width, x2, x1 - width):
        for y in steps:
            yield x, y

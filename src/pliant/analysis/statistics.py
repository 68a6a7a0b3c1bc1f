# SPDX-License-Identifier: Apache-2.0
"""Effective dilation and offset health of a model over a data set, as a table, as JSON and as plots."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pliant._check import counted, fail, in_columns
from pliant._writing import write_text
from pliant.analysis.dilation import SIZES, DilationBySize, DilationRow
from pliant.analysis.draw import new_figure, save_figure
from pliant.analysis.health import HealthMeter, OffsetHealth
from pliant.analysis.marks import plot_dilation, plot_health
from pliant.analysis.record import record_offsets
from pliant.analysis.view import view_of


@dataclass(frozen=True)
class Statistics:
    """What the deformable layers of a model do on a data set.

    Attributes:
        images: how many were looked at.
        dilation: effective dilation by layer and size of object (v1, Table 2).
        health: offset health by layer.
    """

    images: int
    dilation: tuple[DilationRow, ...]
    health: tuple[OffsetHealth, ...]

    def table(self) -> str:
        """Return both tables in Markdown."""
        layers = list(dict.fromkeys(row.layer for row in self.dilation))
        cells = {(row.layer, row.size): row for row in self.dilation}
        dilation = [[layer, *(_plus_minus(cells[layer, size]) for size in SIZES)] for layer in layers]
        health = [
            [
                row.layer,
                f"{row.mean:.3f}",
                f"{row.spread:.3f}",
                f"{_percent(row.outside)} ({_percent(row.plain_outside)})",
                f"{row.still_taps} of {row.taps}",
                _percent(row.stuck_low),
                _percent(row.stuck_high),
            ]
            for row in self.health
        ]
        header = ["layer", "mean offset", "spread", "outside (plain)", "still taps", "mask at 0", "mask at its bound"]
        return "\n".join(
            [
                f"Effective dilation in cells of the layer's input: mean and spread, {counted(self.images, 'image')}.",
                "",
                *_markdown([["layer", *SIZES], *dilation]),
                "",
                "Offset health, offsets in cells of the layer's input.",
                "",
                *_markdown([header, *health]),
                "",
            ]
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers as plain values for JSON, null where there is none."""
        return {
            "images": self.images,
            "effective_dilation": [_plain(row) for row in self.dilation],
            "offset_health": [_plain(row) for row in self.health],
        }

    def save(self, folder: Path | str) -> None:
        """Write statistics.md, statistics.json, effective_dilation.png and offset_health.png."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "statistics.md", self.table())
        text = json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n"
        write_text(folder / "statistics.json", text)
        width = max(6.0, 1.1 * len(self.health) + 3.0)
        figure, axes = new_figure(width, 4.5)
        plot_dilation(axes, self.dilation)
        save_figure(figure, folder / "effective_dilation.png", dpi=110)
        figure, axes = new_figure(width, 4.5)
        plot_health(axes, self.health)
        save_figure(figure, folder / "offset_health.png", dpi=110)


def network_statistics(model: nn.Module, examples: Iterable[tuple[Tensor, Tensor]]) -> Statistics:
    """Return effective dilation and offset health of a model over images.

    Args:
        model: see `view_of`; with deformable convolutions.
        examples: photographs, uint8 (3, h, w), each with its true boxes (L, 4) x1, y1, x2, y2 in its pixels. Without
            boxes all filters stand on the background.

    Raises:
        ValueError: no images, or a model without deformable convolutions.

    Example:
        >>> import torch
        >>> from pliant.nn import DeformConv2d
        >>> image, boxes = torch.zeros(3, 40, 40, dtype=torch.uint8), torch.tensor([[0.0, 0.0, 40.0, 20.0]])
        >>> statistics = network_statistics(DeformConv2d(3, 4, 3, padding=1), [(image, boxes)])
        >>> [(row.size, row.mean) for row in statistics.dilation if row.filters]
        [('small', 1.0), ('background', 1.0)]

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), section 4.2 and Table 2.
    """
    dilation, health, images = DilationBySize(), HealthMeter(), 0
    for image, boxes in examples:
        view = view_of(model, image)
        fields = record_offsets(view.network, view.input)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        dilation.add(fields, view.boxes_to_input(boxes), areas)
        health.add(fields)
        images += 1
    if not images:
        fail("examples", "must hold one image at least", "none", "name another split")
    return Statistics(images, tuple(dilation.rows()), tuple(health.rows()))


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, of which the first is the head, padded so that it reads as plain text too."""
    head, *others = rows
    return [f"| {line} |" for line in in_columns([head, ["---"] * len(head), *others], between=" | ")]


def _plain(row: Any) -> dict[str, Any]:
    values = dataclasses.asdict(row).items()
    return {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in values}


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def _plus_minus(row: DilationRow) -> str:
    return f"{row.mean:.2f} ± {row.spread:.2f}" if row.filters else "-"

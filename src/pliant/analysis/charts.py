# SPDX-License-Identifier: Apache-2.0
"""Draws charts side by side on one scale: numbers in, a picture file out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pliant.analysis.draw import new_figure, save_figure


def draw_panels(
    panels: Mapping[str, Mapping[str, Sequence[float]]], path: Path | str, *, x: str = "epoch", y: str = "accuracy"
) -> None:
    """Draw one panel for each name in `panels`, a line for each of its runs, and save the picture.

    All panels have one vertical scale, so that they can be compared by eye.

    Args:
        panels: for each panel's title its runs: the name in the legend and the values at x = 1, 2, 3 ...
        path: the picture file; its suffix chooses the format.
        x: what is counted along the horizontal axis.
        y: what the values are.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "accuracy.png"
        >>> draw_panels({"upright": {"plain": [0.5, 0.7]}, "turned": {"plain": [0.3, 0.4]}}, path)
        >>> path.is_file()
        True
    """
    figure, first = new_figure(5.0 * len(panels), 4.2)
    first.remove()
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, runs) in zip(every, panels.items(), strict=True):
        for name, values in runs.items():
            axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=f"{name}: {values[-1]:.3f}")
        axes.set_title(title)
        axes.set_xlabel(x)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    every[0].set_ylabel(y)
    save_figure(figure, path, dpi=120)

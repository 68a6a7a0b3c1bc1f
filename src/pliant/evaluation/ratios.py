# SPDX-License-Identifier: Apache-2.0
"""The numbers of all metrics: ratios in [0, 1], some of which are undefined."""

from __future__ import annotations

UNDEFINED = -1.0  # as COCO's own evaluation has it


def ratio(part: float, whole: float) -> float:
    """Return `part / whole`, or `UNDEFINED` where there is no whole."""
    return part / whole if whole else UNDEFINED


def shown(value: float) -> str:
    """Return a number as tables show it: three decimals, "n/a" where it is undefined."""
    return "n/a" if value < 0 else f"{value:.3f}"

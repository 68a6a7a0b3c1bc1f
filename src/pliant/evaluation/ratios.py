# SPDX-License-Identifier: Apache-2.0
"""The numbers of all metrics: ratios in [0, 1], some of which are undefined, and how tables show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pliant._check import in_columns, plain

UNDEFINED = -1.0  # as COCO's own evaluation has it


class Numbers:
    """The numbers of a metric, a dataclass."""

    def as_dict(self) -> dict[str, Any]:
        """Return them as plain values for JSON; `per_category` is a dictionary of name to number."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]


def ratio(part: float, whole: float) -> float:
    """Return `part / whole`, or `UNDEFINED` where there is no whole."""
    return part / whole if whole else UNDEFINED


def shown(value: float) -> str:
    """Return a number as tables show it: three decimals, "n/a" where it is undefined."""
    return "n/a" if value < 0 else f"{value:.3f}"


def table_rows(values: Mapping[str, float]) -> list[str]:
    r"""Return a line for each name and its number, in columns; what a terminal would act on in a name is escaped.

    Example:
        >>> table_rows({"oak": 0.25, "elder\n": -1.0})
        ['   oak      0.250', '   elder\\n  n/a']
    """
    return in_columns(((plain(name), shown(value)) for name, value in values.items()), "   ")

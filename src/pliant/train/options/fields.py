# SPDX-License-Identifier: Apache-2.0
"""What an option is: a type, a default, a line of help, a range, and the parts of a model that it is for."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from pliant._check import fail, suggest
from pliant._files import finite, is_id

# Sides of an image, of a layer, and regions of an image: twice and more what any published system has.
MOST_PIXELS = 8192
MOST_CHANNELS = 8192
MOST_REGIONS = 100_000
# Numbers in a list: of anchors, for instance, each has one for each other.
MOST_NUMBERS = 32


@dataclass(frozen=True, kw_only=True)
class Options:
    """A group of options.

    Attributes:
        TITLE: the heading of the group in `--help`.
        ONLY: the parts that a model must have for the options of the group; none: all models.
    """

    TITLE: ClassVar[str] = ""
    ONLY: ClassVar[tuple[str, ...]] = ()


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    only: tuple[str, ...] = (),
) -> Any:
    """Return the field of an option.

    Args:
        default: its value where nothing is said; without one the option is required.
        help: one line, with the unit.
        minimum: the least that it, or each of its numbers, may be.
        maximum: the most: settings come with runs of strangers, and must not ask for more memory than machines have.
        only: the parts that a model must have for it, besides its group's `ONLY`.
    """
    return field(default=default, metadata={"help": help, "minimum": minimum, "maximum": maximum, "only": only})


def pixels(default: Any, help: str, *, minimum: int = 32, only: tuple[str, ...] = ()) -> Any:
    """Return the field of an option that is a side of an image, or several, in pixels."""
    return option(default, help, minimum=minimum, maximum=MOST_PIXELS, only=only)


def channels(default: int, help: str, *, only: tuple[str, ...] = ()) -> Any:
    """Return the field of an option that is the width of a layer."""
    return option(default, help, minimum=1, maximum=MOST_CHANNELS, only=only)


def regions(default: int | None, help: str, *, only: tuple[str, ...] = ()) -> Any:
    """Return the field of an option that is a number of regions of an image."""
    return option(default, help, minimum=1, maximum=MOST_REGIONS, only=only)


def typed(name: str, value: Any, hint: Any, metadata: Mapping[str, Any]) -> Any:
    """Return `value` as the type `hint`; an integer is taken for a float and a list for a tuple.

    Raises:
        PliantError: a value of another type, or not one of the option's choices, or out of its range.
    """
    checked = _as_type(name, value, hint)
    minimum, maximum = metadata["minimum"], metadata["maximum"]
    values = checked if isinstance(checked, tuple) else (checked,)
    if minimum is not None and any(v is not None and v < minimum for v in values):
        fail(name, f"must be at least {minimum:g}", checked, f"use {minimum:g} or more")
    if maximum is not None and any(v is not None and v > maximum for v in values):
        fail(name, f"must be at most {maximum}", checked, f"use {maximum} or less")
    return checked


def required_type(hint: Any) -> Any:
    """Return the type of an option that may also be None: `float` for `float | None`."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(arg for arg in get_args(hint) if arg is not type(None))
    return hint


def _as_type(name: str, value: Any, hint: Any) -> Any:
    inner = required_type(hint)
    if inner is not hint:
        return None if value is None else _as_type(name, value, inner)
    if get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)) or not value:
            fail(name, "must be a list", f"{value!r:.60}", "write e.g. [8, 16]")
        if len(value) > MOST_NUMBERS:
            fail(name, f"must have at most {MOST_NUMBERS} entries", len(value), "leave some out")
        return tuple(_as_type(name, item, get_args(hint)[0]) for item in value)
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if not isinstance(value, str) or value not in choices:
            fix = f"choose one of {', '.join(choices)}.{suggest(str(value), choices)}"
            fail(name, "must be one of its choices", repr(value), fix)
        return value
    number = finite(value) if hint is float else None
    right = is_id(value) if hint is int else number is not None if hint is float else isinstance(value, hint)
    if not right:
        kind = {int: "an integer of 64 bits", float: "a finite number", str: "text", bool: "true or false"}[hint]
        fail(name, f"must be {kind}", f"{value!r:.60}", "see `pliant train --help`")
    return value if number is None else number

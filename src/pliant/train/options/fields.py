# SPDX-License-Identifier: Apache-2.0
"""What an option is: a default, a line of help, the values it may take, and the models it is for."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Union, get_args, get_origin

from pliant._check import fail, suggest


@dataclass(frozen=True, kw_only=True)
class Options:
    """A group of options.

    Attributes:
        TITLE: the heading of the group in `--help`.
        ONLY: the models and tasks that the options of the group are for; none: all.
    """

    TITLE: ClassVar[str] = ""
    ONLY: ClassVar[tuple[str, ...]] = ()


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    only: tuple[str, ...] = (),
) -> Any:
    """Return the field of an option.

    Args:
        default: its value where nothing is said; without one the option is required.
        help: one line, with the unit.
        choices: the texts that it may be.
        minimum: the least that it, or each of its numbers, may be.
        only: the models and tasks that it is for, where that is not its group's `ONLY`.
    """
    return field(default=default, metadata={"help": help, "choices": choices, "minimum": minimum, "only": only})


def applies(only: Sequence[str], model: str, task: str) -> bool:
    """Return whether what is for `only` these models and tasks (none: all) is for `model`, whose task is `task`.

    Example:
        >>> applies(("detection", "deeplab"), "faster-rcnn", "detection"), applies(("deeplab",), "rfcn", "detection")
        (True, False)
    """
    return not only or model in only or task in only


def typed(name: str, value: Any, hint: Any, metadata: Mapping[str, Any]) -> Any:
    """Return `value` as the type `hint`: an integer serves as a float and a list as a tuple, nothing else is bent.

    Raises:
        PliantError: a value of another type, or not one of the option's choices, or below its minimum.
    """
    checked = _as_type(name, value, hint)
    _check_range(name, checked, metadata)
    return checked


def _as_type(name: str, value: Any, hint: Any) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = next(arg for arg in get_args(hint) if arg is not type(None))
        return None if value is None else _as_type(name, value, inner)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or not value:
            fail(name, "must be a list", repr(value), "write e.g. [8, 16]")
        return tuple(_as_type(name, item, get_args(hint)[0]) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wrong = not isinstance(value, hint) or (hint is int and isinstance(value, bool))
    if wrong or (hint is float and not math.isfinite(value)):
        kind = {int: "an integer", float: "a finite number", str: "text", bool: "true or false"}[hint]
        fail(name, f"must be {kind}", repr(value), "see `pliant train --help`")
    return value


def _check_range(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    choices, minimum = metadata["choices"], metadata["minimum"]
    if choices and value not in choices:
        fix = f"choose one of {', '.join(choices)}.{suggest(str(value), choices)}"
        fail(name, "must be one of its choices", repr(value), fix)
    values = value if isinstance(value, tuple) else (value,)
    if minimum is not None and any(v is not None and v < minimum for v in values):
        fail(name, f"must be at least {minimum:g}", value, f"use {minimum:g} or more")

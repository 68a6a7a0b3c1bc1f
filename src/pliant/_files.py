# SPDX-License-Identifier: Apache-2.0
"""Files of strangers: read whole and bounded, and which values of JSON count as numbers, ids and texts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pliant._check import PliantError, fail, fail_because

# The largest json in use is some 6 GB; lists of names have a line for each image or class.
_MAX_JSON = 8 * 2**30
_MAX_TEXT = 64 * 2**20
# The whole numbers that a tensor of ids holds.
_MAX_ID = 2**63


def read_bounded(file: Path, limit: int = _MAX_TEXT) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Raises:
        PliantError: it is a device, a pipe or a folder, is larger, or cannot be read.
    """
    try:
        if not file.is_file():
            fail_because(str(file), "must be a file", "it is not one, nor a link to one", "put the file itself there")
        if file.stat().st_size > limit:
            fail(str(file), f"must have at most {limit:,} bytes", f"{file.stat().st_size:,}", "split it")
        return file.read_bytes()
    except (OSError, MemoryError) as error:
        raise PliantError(f"{file}: must be a file that can be read; {error}; check it") from error


def load_json(file: Path) -> Any:
    """Read a json file, or raise a `PliantError` that says where it is broken."""
    content = read_bounded(file, _MAX_JSON)
    try:
        return json.loads(content)
    except (ValueError, RecursionError, MemoryError) as error:
        raise PliantError(f"{file}: must be a json file; {error}; correct or replace it") from error


def is_id(value: object) -> bool:
    """Say whether `value` is an integer of 64 bits, which true, false and 1.0 are not."""
    return isinstance(value, int) and not isinstance(value, bool) and -_MAX_ID <= value < _MAX_ID


def finite(value: object) -> float | None:
    """Return a finite number of json as a float; None for anything else, and for integers beyond the floats."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def is_text(value: object) -> bool:
    """Say whether `value` is a text that can be written: not empty, without half of a pair of surrogates."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= c <= "\udfff" for c in value)

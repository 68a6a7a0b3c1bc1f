# SPDX-License-Identifier: Apache-2.0
"""Detector outputs as COCO results, and results files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pliant.data import Category


def coco_results(
    outputs: Iterable[tuple[int, Mapping[str, Tensor]]], categories: Sequence[Category]
) -> list[dict[str, Any]]:
    """Turn outputs of a torchvision detector, as (image_id, output) pairs, into COCO results."""
    raise NotImplementedError


def save_results(results: Sequence[Mapping[str, Any]], path: Path | str) -> None:
    """Write COCO results as one JSON array."""
    raise NotImplementedError


def load_results(path: Path | str) -> list[dict[str, Any]]:
    """Read and check a COCO results file."""
    raise NotImplementedError

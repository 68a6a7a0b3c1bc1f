# SPDX-License-Identifier: Apache-2.0
"""What is done at test time alone; `pliant eval` and `pliant predict` take these options too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .fields import Options, option


@dataclass(frozen=True, kw_only=True)
class TestTimeOptions(Options):
    """How predictions are made and counted."""

    TITLE: ClassVar[str] = "test time"
    __test__: ClassVar[bool] = False  # not a test, whatever pytest makes of the name

    counted_detections: int | None = option(
        None,
        "detections of an image and category that count in the metric; default 100 as in COCO, or --max-detections "
        "if that is higher",
        minimum=10,
        only=("detection",),
    )

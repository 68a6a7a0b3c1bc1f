# SPDX-License-Identifier: Apache-2.0
"""Instance segmentation: boxes and masks, measured by COCO's AP of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from pliant.analysis import draw_detections
from pliant.data import Category
from pliant.evaluation import InstanceMetrics, coco_results, evaluate_instances
from pliant.evaluation.results import MASK_THRESHOLD
from pliant.inference import with_masks
from pliant.train.config import TrainConfig
from pliant.train.tasks.base import Output
from pliant.train.tasks.detection import Detection, captions, counted_detections


class Instances(Detection):
    """Boxes, their categories, and the pixels of each object."""

    metric: ClassVar[str] = "mask_ap"
    logged: ClassVar[tuple[str, ...]] = ("mask_ap", "mask_ap50", "mask_ap75", "ap", "ap50", "ap75")
    unit: ClassVar[str] = "mask AP"
    masks: ClassVar[bool] = True

    def records(self, image_id: int, output: Output, categories: Sequence[Category]) -> list[dict[str, Any]]:
        """Return the image's COCO results, masks included."""
        return [result for part in with_masks(output) for result in coco_results([(image_id, part)], categories)]

    def score(self, parts: Sequence[list[dict[str, Any]]], dataset: Any, config: TrainConfig) -> InstanceMetrics:  # type: ignore[override]
        """Return COCO's metrics of the boxes and of the masks of all images."""
        results = [result for part in parts for result in part]
        return evaluate_instances(dataset.coco_ground_truth(), results, max_detections=counted_detections(config))

    def draw(
        self, image: Tensor, output: Output, path: Path, *, categories: Sequence[Category], min_score: float
    ) -> None:
        """Draw the masks and boxes of at least `min_score`, with category and score."""
        drawn = output["scores"] >= min_score
        shown = {name: values[drawn] for name, values in output.items() if name != "size"}
        parts = with_masks({**shown, "size": output["size"]})
        masks = (mask > MASK_THRESHOLD for part in parts for mask in part["masks"][:, 0])
        draw_detections(image, shown["boxes"], path=path, masks=masks, **captions(output, drawn, categories, min_score))


TASK = Instances()

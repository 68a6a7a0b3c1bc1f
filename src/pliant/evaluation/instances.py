# SPDX-License-Identifier: Apache-2.0
"""The COCO metric of boxes and of masks, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pliant.evaluation.coco_metric import CocoMetrics, evaluate_detections


@dataclass(frozen=True)
class InstanceMetrics:
    """COCO's numbers for the boxes and for the masks of the same detections."""

    box: CocoMetrics
    mask: CocoMetrics

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as plain values for JSON: those of boxes by their names, those of masks with `mask_`."""
        return {**self.box.as_dict(), **{f"mask_{name}": value for name, value in self.mask.as_dict().items()}}

    def table(self) -> str:
        """Return both COCO tables."""
        return f"boxes\n{self.box.table()}\n\nmasks\n{self.mask.table()}"


def evaluate_instances(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], *, max_detections: int = 100
) -> InstanceMetrics:
    """Evaluate COCO `results` with boxes and masks against a COCO `ground_truth` with both.

    Args:
        ground_truth: as `DetectionDataset.coco_ground_truth` gives it where masks were asked for.
        results: as `coco_results` gives them for outputs with masks.
        max_detections: how many detections of an image and category count, best first; 100 in COCO's metric.

    Raises:
        PliantError: as for `evaluate_detections`.

    Example:
        >>> square = [[5, 5, 25, 5, 25, 15, 5, 15]]
        >>> truth = {"images": [{"id": 1, "width": 50, "height": 40}], "categories": [{"id": 3, "name": "tree"}],
        ...          "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 10], "area": 200,
        ...                           "iscrowd": 0, "segmentation": square}]}
        >>> lower_half = [[5, 10, 25, 10, 25, 15, 5, 15]]
        >>> found = [{"image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 10], "score": 0.8,
        ...           "segmentation": lower_half}]
        >>> metrics = evaluate_instances(truth, found)
        >>> round(metrics.box.ap, 3), round(metrics.mask.ap, 3)  # a mask IoU of 0.5: 1 of the 10 thresholds is met
        (1.0, 0.1)
    """
    return InstanceMetrics(
        *(
            evaluate_detections(ground_truth, results, iou_type=kind, max_detections=max_detections)
            for kind in ("bbox", "segm")
        )
    )

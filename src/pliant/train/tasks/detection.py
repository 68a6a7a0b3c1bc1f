# SPDX-License-Identifier: Apache-2.0
"""Detection: boxes, measured by COCO's AP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from pliant._check import counted, fail
from pliant.analysis import draw_bins, draw_detections, region_bins, view_of
from pliant.data import Category, DetectionDataset, detection_transforms, eval_transforms, open_detection
from pliant.evaluation import CocoMetrics, coco_results, evaluate_detections
from pliant.inference import Inference, detection_predictor
from pliant.nn import DeformPSRoIPool, DeformRoIPool
from pliant.train.config import TrainConfig
from pliant.train.tasks.base import VARIED, Output, Predictor, Target, Task

COCO_DETECTIONS = 100


class Detection(Task):
    """Boxes and their categories.

    Attributes:
        masks: whether the objects' masks are read too, as instance segmentation needs.
    """

    metric: ClassVar[str] = "ap"
    logged: ClassVar[tuple[str, ...]] = ("ap", "ap50", "ap75")
    unit: ClassVar[str] = "AP"
    found: ClassVar[str] = "detections"
    masks: ClassVar[bool] = False

    def open_data(
        self, config: TrainConfig, split: str, *, training: bool, known: Sequence[Category] | None = None
    ) -> DetectionDataset:
        """Open a split in COCO or Pascal VOC layout; see `Task.open_data`."""
        if not training:
            return open_detection(
                config.data, split, categories=known, transforms=eval_transforms(), masks=self.masks, verify="pixels"
            )
        transforms = detection_transforms(**config.named("crop", *VARIED))
        return open_detection(config.data, split, categories=known, transforms=transforms, masks=self.masks)

    def contents(self, dataset: Any) -> str:
        """Return `7 images, 14 boxes`."""
        return f"{counted(len(dataset), 'image')}, {counted(dataset.report.boxes, 'box')}"

    def predictor(self, model: Any, config: TrainConfig) -> Predictor:
        """Return the detector with the options of inference."""
        return detection_predictor(model, _inference(config))

    def part(self, output: Output, target: Target, dataset: Any) -> list[dict[str, Any]]:
        """Return the image's COCO results."""
        return self.records(int(target["image_id"]), output, dataset.categories)

    def score(self, parts: Sequence[list[dict[str, Any]]], dataset: Any, config: TrainConfig) -> CocoMetrics:
        """Return COCO's metric of the results of all images."""
        results = [result for part in parts for result in part]
        return evaluate_detections(dataset.coco_ground_truth(), results, max_detections=counted_detections(config))

    def records(self, image_id: int, output: Output, categories: Sequence[Category]) -> list[dict[str, Any]]:
        """Return the image's COCO results."""
        return coco_results([(image_id, output)], categories)

    def draw(
        self, image: Tensor, output: Output, path: Path, *, categories: Sequence[Category], min_score: float
    ) -> None:
        """Draw the boxes of at least `min_score`, with category and score."""
        drawn = output["scores"] >= min_score
        draw_detections(image, output["boxes"][drawn], path=path, **captions(output, drawn, categories, min_score))

    def draw_bins(self, model: nn.Module, image: Tensor, output: Output, path: Path, *, min_score: float) -> None:
        """Pool the boxes of at least `min_score` once more, and draw where the bins go; see `Task.draw_bins`."""
        kept = output["scores"] >= min_score
        boxes, view = output["boxes"][kept], view_of(model, image)
        found = region_bins(view, view.boxes_to_input(boxes), output["labels"][kept].tolist())
        if found is None or not any(isinstance(module, DeformPSRoIPool | DeformRoIPool) for module in model.modules()):
            fix = "train one with --roi-pool deform or modulated"
            fail("draw", "bins needs a detector with deformable RoI pooling", type(model).__name__, fix)
        bins, weights = found
        draw_bins(image, boxes, view.boxes_to_image(bins), weights, path)


def captions(output: Output, drawn: Tensor, categories: Sequence[Category], min_score: float) -> dict[str, Any]:
    """Return what the picture says of the detections for which `drawn` (L,) is true; see `draw_detections`."""
    return {
        "labels": output["labels"][drawn].tolist(),
        "scores": output["scores"][drawn].tolist(),
        "names": {label: category.name for label, category in enumerate(categories, start=1)},
        "min_score": min_score,
    }


def counted_detections(config: TrainConfig) -> int:
    """Return how many detections of an image and category count: COCO's 100, or as many as the model may give."""
    return config.counted_detections or max(COCO_DETECTIONS, config.max_detections)


def _inference(config: TrainConfig) -> Inference:
    return Inference(
        suppression=config.nms,
        sigma=config.soft_nms_sigma,
        sizes=_sizes(config),
        flip=config.test_flip,
        tile=config.tile,
        averaging=config.box_averaging,
        averaging_iou=config.box_averaging_iou,
    )


def _sizes(config: TrainConfig) -> tuple[tuple[int, int], ...]:
    """The sizes to predict at: short side and limit of the long side, which by default grows in proportion."""
    proportion = config.max_size / config.min_size[-1]
    return tuple((s, config.test_max_size or round(s * proportion)) for s in config.test_scales or ())


TASK = Detection()

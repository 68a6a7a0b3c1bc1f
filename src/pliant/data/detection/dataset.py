# SPDX-License-Identifier: Apache-2.0
"""`DetectionDataset`: images with boxes, whatever layout they came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Mask

from pliant.data.detection.boxes import BoxTable
from pliant.data.detection.masks import coco_segmentation, decode_masks
from pliant.data.image_checks import CheckedImage
from pliant.data.image_dataset import CheckedDataset, OpenedSplit


class DetectionDataset(CheckedDataset):
    """Images with boxes, for torchvision's detectors; made by `open_detection`.

    `dataset[i]` is an image, uint8 RGB (3, H, W), and its target:

    - `boxes` (L, 4) float32 `BoundingBoxes`, corners x1, y1, x2, y2 in pixels, 0-based and half-open, so that a box
      around the whole image is (0, 0, W, H);
    - `labels` (L,) int64, 1..C in the order of `categories`;
    - `masks` (L, H, W) uint8 `Mask`, 1 in the object, where `open_detection` was asked for masks;
    - `image_id` scalar int64; `area` (L,) float32, square pixels; `iscrowd` (L,) uint8, 1 for COCO's crowds and VOC's
      difficult objects.

    `ImageDataset` says what happens to images that are found broken only when they are decoded.
    """

    def __init__(self, opened: OpenedSplit, images: Sequence[CheckedImage], boxes: BoxTable) -> None:
        super().__init__(opened, images)
        self._boxes = boxes

    def coco_ground_truth(self) -> dict[str, Any]:
        """Return the split as a COCO dictionary: `images`, `annotations` and `categories` with the source's ids.

        It holds what the data set holds: images and boxes that were left out are not in it. VOC's difficult objects
        have `iscrowd` 1, so that finding them is neither rewarded nor punished.
        """
        infos = [image.info for image in self._images]
        annotations = [row for index in range(len(self)) for row in self._annotations(index)]
        return {
            "images": [{"id": i.id, "file_name": i.file_name, "width": i.width, "height": i.height} for i in infos],
            "annotations": annotations,
            "categories": [{"id": category.id, "name": category.name} for category in self.categories],
        }

    def _annotations(self, index: int) -> list[dict[str, Any]]:
        table, rows, image_id = self._boxes, self._boxes.rows(index), self.image_id(index)
        columns = (table.ids, table.corners, table.labels, table.areas, table.crowd)
        annotations: list[dict[str, Any]] = [
            {
                "id": number,
                "image_id": image_id,
                "category_id": self.categories[label - 1].id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": area,
                "iscrowd": crowd,
            }
            for number, (x1, y1, x2, y2), label, area, crowd in zip(*(c[rows].tolist() for c in columns), strict=True)
        ]
        if table.masks is not None:
            info = self.image_info(index)
            for annotation, runs in zip(annotations, table.masks[rows], strict=True):
                annotation["segmentation"] = coco_segmentation(runs, info.height, info.width)
        return annotations

    def _target(self, index: int) -> dict[str, Tensor]:
        rows, info = self._boxes.rows(index), self.image_info(index)
        corners = self._boxes.corners[rows].float()  # (L, 4)
        boxes = BoundingBoxes(corners, format=BoundingBoxFormat.XYXY, canvas_size=(info.height, info.width))
        target = {
            "boxes": boxes,
            "labels": self._boxes.labels[rows].clone(),
            "image_id": torch.tensor(info.id),
            "area": self._boxes.areas[rows].float(),
            "iscrowd": self._boxes.crowd[rows].clone(),
        }
        if self._boxes.masks is not None:
            target["masks"] = Mask(decode_masks(self._boxes.masks[rows], info.height, info.width))
        return target

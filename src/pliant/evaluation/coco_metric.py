# SPDX-License-Identifier: Apache-2.0
"""The COCO metric of boxes, of masks, and of both side by side, computed by faster-coco-eval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pliant._check import fail, require_package
from pliant.data.detection.masks import BadMaskError, encode_segmentation
from pliant.evaluation.ratios import UNDEFINED, Numbers, shown, table_rows
from pliant.evaluation.results import check_results

IouType = Literal["bbox", "segm"]

_ANNOTATION_KEYS = ("image_id", "category_id", "bbox", "area", "iscrowd")
# Of a result with both, the evaluator would take the area of the box for that of the mask.
_RESULT_KEYS: dict[str, tuple[str, ...]] = {
    "bbox": ("image_id", "category_id", "bbox", "score"),
    "segm": ("image_id", "category_id", "score"),
}
# The rows of the table, in the evaluator's order: what, field, IoU, area, detections that count (None: max_detections).
_ROWS: tuple[tuple[str, str, str, str, int | None], ...] = (
    ("Average Precision  (AP)", "ap", "0.50:0.95", "all", None),
    ("Average Precision  (AP)", "ap50", "0.50", "all", None),
    ("Average Precision  (AP)", "ap75", "0.75", "all", None),
    ("Average Precision  (AP)", "ap_small", "0.50:0.95", "small", None),
    ("Average Precision  (AP)", "ap_medium", "0.50:0.95", "medium", None),
    ("Average Precision  (AP)", "ap_large", "0.50:0.95", "large", None),
    ("Average Recall     (AR)", "ar_1", "0.50:0.95", "all", 1),
    ("Average Recall     (AR)", "ar_10", "0.50:0.95", "all", 10),
    ("Average Recall     (AR)", "ar_100", "0.50:0.95", "all", None),
    ("Average Recall     (AR)", "ar_small", "0.50:0.95", "small", None),
    ("Average Recall     (AR)", "ar_medium", "0.50:0.95", "medium", None),
    ("Average Recall     (AR)", "ar_large", "0.50:0.95", "large", None),
)


@dataclass(frozen=True)
class CocoMetrics(Numbers):
    """COCO's twelve numbers and the AP of each category, in [0, 1]; -1 where a number is undefined, as COCO has it.

    All but `ar_1` and `ar_10` count the best `max_detections` detections of an image and category; that is 100 in
    COCO's own metric, and `ar_100` keeps its name for other values.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float
    ar_10: float
    ar_100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_category: dict[str, float] = field(default_factory=dict)
    max_detections: int = 100
    iou_type: str = "bbox"

    def table(self) -> str:
        """Return the COCO table as people know it, and the AP of each category; "n/a" where undefined."""
        digits = len(str(self.max_detections))
        lines = [
            f" {what} @[ IoU={iou:<9} | area={area:>6} | maxDets={count or self.max_detections:>{digits}} ] = "
            f"{shown(getattr(self, name))}"
            for what, name, iou, area, count in _ROWS
        ]
        return "\n".join([*lines, "", f" AP by category ({self.iou_type})", *table_rows(self.per_category)])


def evaluate_detections(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    iou_type: IouType = "bbox",
    max_detections: int = 100,
) -> CocoMetrics:
    """Evaluate COCO `results` against a COCO `ground_truth`.

    Args:
        ground_truth: a COCO dictionary, as `DetectionDataset.coco_ground_truth` gives it.
        results: COCO results, as `coco_results` and `load_results` give them; there may be none.
        iou_type: "bbox" compares boxes, "segm" masks, which both sides must then have.
        max_detections: how many detections of an image and category count, best first. COCO's metric has 100; more
            is right where more than a hundred objects of a kind are in a photograph, and is another metric.

    Raises:
        PliantError: a result is no detection, or names an image or category that is not in the ground truth; with
            "segm", an annotation or a result whose mask is missing or does not fit its image.
        PliantError: `max_detections` is below 10.

    Example:
        >>> truth = {"images": [{"id": 1, "width": 50, "height": 40}], "categories": [{"id": 3, "name": "tree"}],
        ...          "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 10],
        ...                           "area": 200, "iscrowd": 0}]}
        >>> found = [{"image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 9], "score": 0.8}]
        >>> metrics = evaluate_detections(truth, found)  # an IoU of 0.9: 9 of the 10 thresholds are met
        >>> round(metrics.ap, 3), metrics.ap50, metrics.ap_large
        (0.9, 1.0, -1.0)
    """
    if iou_type not in ("bbox", "segm"):
        fail("iou_type", "must be 'bbox' or 'segm'", repr(iou_type), "use one of them")
    if max_detections < 10:
        fail("max_detections", "must be at least 10, since AR of 10 is reported", max_detections, "use 100")
    _check_known(ground_truth, results)
    evaluator = _evaluated(ground_truth, results, iou_type, max_detections)
    numbers = {name: float(value) for (_, name, *_), value in zip(_ROWS, evaluator.stats, strict=True)}
    per_category = _per_category(ground_truth["categories"], evaluator)
    return CocoMetrics(**numbers, per_category=per_category, max_detections=max_detections, iou_type=iou_type)


def _check_known(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    check_results(results, "results")
    if not ground_truth["images"]:
        fail("ground_truth", "must have images", "none", "give another split")
    for key, field_name in (("images", "image_id"), ("categories", "category_id")):
        known = {entry["id"] for entry in ground_truth[key]}
        for i, result in enumerate(results):
            if result[field_name] not in known:
                rule = f"must have the {field_name} of an entry in the ground truth's {key}"
                fail(f"results[{i}]", rule, result[field_name], "give the results of these data")


def _evaluated(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], iou_type: IouType, max_detections: int
) -> Any:
    """Run the evaluator on copies, since it writes into what it is given, and let it print nothing."""
    core = require_package("faster_coco_eval.core", "train", "the COCO metric")
    # Annotations are numbered anew from 1: the evaluator takes 0, which converters like to begin with, for "no match".
    annotations = [{**_annotation(entry), "id": i} for i, entry in enumerate(ground_truth["annotations"], 1)]
    given = [_only(result, _RESULT_KEYS[iou_type]) for result in results]
    if iou_type == "segm":
        _add_masks(annotations, ground_truth["annotations"], ground_truth["images"], "ground_truth['annotations']")
        _add_masks(given, results, ground_truth["images"], "results")
    images, categories = ([dict(entry) for entry in ground_truth[key]] for key in ("images", "categories"))
    content = {"images": images, "annotations": annotations, "categories": categories}
    truth = core.COCO(content, print_function=lambda *_: None)
    found = truth.loadRes(given)
    evaluator = core.COCOeval_faster(truth, found, iouType=iou_type, print_function=lambda *_: None)
    evaluator.params.maxDets = [1, 10, max_detections]
    evaluator.run()
    return evaluator


def _annotation(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy with the area of the box and no crowd where the file, against COCO's rules, does not say."""
    return {"area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0, **_only(entry, _ANNOTATION_KEYS)}


def _add_masks(
    entries: Sequence[dict[str, Any]],
    sources: Sequence[Mapping[str, Any]],
    images: Sequence[Mapping[str, Any]],
    place: str,
) -> None:
    """Give `entries` the masks of `sources`, checked: the evaluator's C++ code would trust them."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    for i, (entry, source) in enumerate(zip(entries, sources, strict=True)):
        height, width = sizes[source["image_id"]]
        try:
            runs = encode_segmentation(source.get("segmentation"), height, width)
        except BadMaskError as error:
            fix = "write it in COCO's form"
            fail(f"{place}[{i}]", f"must have a mask of {height}x{width} pixels", error, fix)
        entry["segmentation"] = {"size": [height, width], "counts": runs}


def _only(entry: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: entry[key] for key in keys if key in entry}


def _per_category(categories: Sequence[Mapping[str, Any]], evaluator: Any) -> dict[str, float]:
    precision = np.asarray(evaluator.eval["precision"])  # (IoU, recall, category, area, detections)
    repeated = Counter(category["name"] for category in categories)
    values: dict[str, float] = {}
    for k, category in enumerate(sorted(categories, key=lambda category: int(category["id"]))):
        name = category["name"]
        defined = precision[:, :, k, 0, -1]
        defined = defined[defined != UNDEFINED]
        key = name if repeated[name] == 1 else f"{name} ({category['id']})"
        values[key] = float(defined.mean()) if defined.size else UNDEFINED
    return values


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

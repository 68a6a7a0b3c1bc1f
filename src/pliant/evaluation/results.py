# SPDX-License-Identifier: Apache-2.0
"""Detector outputs as COCO results, and results files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pliant._check import PliantError, fail, fail_because
from pliant._files import finite, is_id, load_json
from pliant._writing import write_text
from pliant.data import Category
from pliant.data.detection.masks import coco_segmentation, encode_masks

# A thousandth of a pixel; scores keep more digits, since equal scores are ranked in the order of the file.
_BOX_DECIMALS = 3
_SCORE_DECIMALS = 7
# A pixel is in the mask when the head is surer of that than not.
MASK_THRESHOLD = 0.5


def coco_results(
    outputs: Iterable[tuple[int, Mapping[str, Tensor]]], categories: Sequence[Category]
) -> list[dict[str, Any]]:
    """Turn outputs of a torchvision detector into COCO results.

    Args:
        outputs: pairs of an image's id and its output: `boxes` (L, 4) corners in pixels, `scores` (L,), `labels`
            (L,) from 1 to C, and, where the detector gives them, `masks` (L, 1, H, W) from 0 to 1.
        categories: those of the data set, in the order of the labels; results carry their ids.

    Returns:
        One dictionary for each detection: `image_id`, `category_id`, `bbox` (x, y, width, height) rounded to a
        thousandth of a pixel, and `score` rounded to seven decimals; with masks, `segmentation`, the run lengths of
        the pixels above a half.

    Raises:
        PliantError: a label outside 1..C, or an image that comes twice.

    Example:
        >>> import torch
        >>> output = {"boxes": torch.tensor([[1.0, 2.0, 4.0, 8.0]]), "scores": torch.tensor([0.5]),
        ...           "labels": torch.tensor([1])}
        >>> coco_results([(7, output)], [Category(3, "tree")])
        [{'image_id': 7, 'category_id': 3, 'bbox': [1.0, 2.0, 3.0, 6.0], 'score': 0.5}]
    """
    results: list[dict[str, Any]] = []
    seen: set[int] = set()
    for image_id, output in outputs:
        if image_id in seen:
            fix = "open the data with verify='pixels', so that no image stands in for a broken one"
            fail("outputs", "must have each image once", f"image {image_id} a second time", fix)
        seen.add(image_id)
        results += _results_of_image(image_id, output, categories)
    return results


def _results_of_image(
    image_id: int, output: Mapping[str, Tensor], categories: Sequence[Category]
) -> list[dict[str, Any]]:
    boxes, scores, labels = (output[name].detach().tolist() for name in ("boxes", "scores", "labels"))
    wrong = [label for label in labels if not 1 <= label <= len(categories)]
    if wrong:
        fail("labels", f"must be from 1 to {len(categories)}", wrong[0], "give the categories the model was trained on")
    results: list[dict[str, Any]] = [
        {
            "image_id": image_id,
            "category_id": categories[label - 1].id,
            "bbox": [round(value, _BOX_DECIMALS) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, _SCORE_DECIMALS),
        }
        for (x1, y1, x2, y2), score, label in zip(boxes, scores, labels, strict=True)
    ]
    if "masks" in output:
        pixels = output["masks"][:, 0] > MASK_THRESHOLD  # (L, H, W)
        height, width = pixels.shape[-2:]
        for result, runs in zip(results, encode_masks(pixels), strict=True):
            result["segmentation"] = coco_segmentation(runs, height, width)
    return results


def save_results(results: Sequence[Mapping[str, Any]], path: Path | str) -> None:
    """Write COCO results as one JSON array, one detection a line.

    Args:
        results: as `coco_results` gives them; other entries beside COCO's are kept.
        path: the file to write.

    Raises:
        PliantError: a number is not finite, which JSON cannot hold.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "results.json"
        >>> save_results([{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 6], "score": 0.5}], path)
        >>> load_results(path)[0]["bbox"]
        [1, 2, 3, 6]
    """
    try:
        lines = ",\n".join(json.dumps(dict(result), allow_nan=False) for result in results)
    except ValueError as error:
        raise PliantError(f"results: must have finite numbers, as json has; {error}; leave the others out") from error
    write_text(path, f"[{lines}]\n")


def load_results(path: Path | str) -> list[dict[str, Any]]:
    """Read and check a COCO results file: one dictionary for each detection, in the order of the file.

    Args:
        path: the file, of `save_results` or another program.

    Raises:
        PliantError: the file is not there or is no JSON array of detections with `image_id`, `category_id`, `bbox`
            and `score`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "results.json"
        >>> _ = path.write_text('[{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 6], "score": 0.5}]')
        >>> load_results(path)[0]["category_id"]
        3
    """
    path = Path(path)
    if not path.exists():
        fail_because("results", f"must be a file of COCO results, {path}", "no such file is there", "check the path")
    results = load_json(path)
    if not isinstance(results, list):
        fix = "write one with save_results"
        fail(str(path), "must be an array of detections", type(results).__name__, fix)
    check_results(results, str(path))
    return results


def check_results(results: Sequence[Mapping[str, Any]], place: str) -> None:
    """Raise a `PliantError` that names the first entry of `results` that is no detection."""
    for i, result in enumerate(results):
        if not isinstance(result, Mapping):
            fail(f"{place}[{i}]", "must be a detection", f"{result!r:.200}", "write an object")
        if not all(is_id(result.get(name)) for name in ("image_id", "category_id")):
            fail(f"{place}[{i}]", "must have an integer image_id and category_id", f"{dict(result)!r:.200}", "add them")
        box, score = result.get("bbox"), result.get("score")
        if not isinstance(box, Sequence) or len(box) != 4 or any(finite(value) is None for value in (*box, score)):
            rule = "must have a bbox of four finite numbers and a finite score"
            fix = "leave it out; a model that makes such boxes has diverged"
            fail(f"{place}[{i}]", rule, f"{box!r:.200} and {score!r:.40}", fix)

# SPDX-License-Identifier: Apache-2.0
"""Reader of COCO json: finds the file of a split and its images, and hands over what the file says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pliant._check import fail
from pliant._files import finite, is_id, is_text, load_json
from pliant.data.files import stated_size, stays_inside, visible
from pliant.data.images import is_regular
from pliant.data.records import Category, Source, SourceBox, SourceImage
from pliant.data.report import DataReport, Problem

# Files that stand beside instances_*.json in COCO's own annotations folder and hold something else.
_OTHER_TASKS = ("person_keypoints_", "captions_", "image_info_", "stuff_", "panoptic_")
_PROBES = 50
_CROWD = {0: False, 1: True, "0": False, "1": True}  # true and false are 1 and 0


def coco_splits(root: Path) -> dict[str, Path]:
    """Return the splits of a COCO folder: name to json file, in the order in which they are looked for."""
    files = [*visible(root.glob("annotations/*.json")), *visible(root.glob("*.json"))]
    named = [(path.stem.removeprefix("instances_"), path) for path in files if not path.stem.startswith(_OTHER_TASKS)]
    named += [(path.parent.name, path) for path in sorted(root.glob("*/_annotations.coco.json"))]
    splits: dict[str, Path] = {}
    for name, path in named:
        splits.setdefault(name, path)
    return splits


def match_split(splits: dict[str, Path], split: str) -> str | None:
    """Return the name in `splits` that `split` means: itself, or itself and a year, as in train2017."""
    if split in splits:
        return split
    dated = [name for name in splits if re.fullmatch(re.escape(split) + r"\d{4}", name)]
    if len(dated) > 1:
        fail("split", "must name one split", f"{split!r} for {', '.join(dated)}", "give one of them")
    return dated[0] if dated else None


def read_coco(root: Path, split: str, name: str, file: Path, report: DataReport, *, masks: bool = False) -> Source:
    """Read COCO json `file` of `split`, which is called `name` (with its year) in the file's own name."""
    content = _load(file)
    categories = list(_categories(content["categories"], report))
    if not categories:
        fail(f"{file}: categories", "must be categories with an id and a name", "none", "correct the json file")
    entries = [
        entry
        for where, entry in _own_ids(content["images"], "images", report, Problem.INVALID_IMAGE)
        if _has_safe_name(entry, where, report)
    ]
    folder = _image_folder(root, split, name, file, [entry["file_name"] for entry in entries])
    source = Source(sorted(categories, key=lambda category: category.id), listed=len(content["images"]))
    for entry in entries:
        size = stated_size(entry.get("width"), entry.get("height"))
        source.images.append(SourceImage(entry["id"], entry["file_name"], folder / entry["file_name"], size))
    _add_boxes(source, content["annotations"], report, masks)
    return source


def _load(file: Path) -> dict[str, list[Any]]:
    content = load_json(file)
    for key in ("images", "annotations", "categories"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            rule = f"must be COCO json, an object with a list of objects '{key}'"
            got = f"a {type(content if not isinstance(content, dict) else entries).__name__}"
            fail(str(file), rule, got, "give the file of instances")
    assert isinstance(content, dict)
    return content


def _categories(entries: list[Any], report: DataReport) -> Iterator[Category]:
    for where, entry in _own_ids(entries, "categories", report, Problem.INVALID_CATEGORY):
        if is_text(entry.get("name")):
            yield Category(entry["id"], entry["name"])
        else:
            report.add(Problem.INVALID_CATEGORY, f"{where} without a name")


def _own_ids(
    entries: list[Any], key: str, report: DataReport, problem: Problem
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a list that have an id of their own, each with its place; the others are counted."""
    seen: set[int] = set()
    for i, entry in enumerate(entries):
        where = f"{key}[{i}]"
        number: Any = entry.get("id") if isinstance(entry, dict) else None
        if not is_id(number):
            report.add(problem, f"{where} without a whole number as its id")
        elif number in seen:
            report.add(problem, f"{where} with id {number} a second time")
        else:
            seen.add(number)
            yield where, entry


def _has_safe_name(entry: dict[str, Any], where: str, report: DataReport) -> bool:
    name = entry.get("file_name")
    if stays_inside(name):
        return True
    if isinstance(name, str) and name:
        report.add(Problem.UNSAFE_NAME, f"{where}: {name!r:.60}")
    else:
        report.add(Problem.INVALID_IMAGE, f"{where} without a file name")
    return False


def _image_folder(root: Path, split: str, name: str, file: Path, images: Sequence[str]) -> Path:
    """Return the folder that holds most of a sample of the images; the first of the usual places where equal."""
    tags = dict.fromkeys((name, split))
    folders = [root / tag for tag in tags] + [root / "images" / tag for tag in tags] + [root / "images"]
    folders += [file.parent, root]
    names = images[:: max(1, len(images) // _PROBES)]
    found = {folder: sum(is_regular(folder / name) for name in names) for folder in dict.fromkeys(folders)}
    best = max(found, key=found.__getitem__)
    if images and not found[best]:
        looked = ", ".join(str(folder.relative_to(root)) for folder in found)
        rule = f"must hold the images of {file.name}"
        fix = "put the images into one of these folders"
        fail(str(root), rule, f"none of {', '.join(names[:3])} in {looked}", fix)
    return best


def _add_boxes(source: Source, entries: list[Any], report: DataReport, masks: bool) -> None:
    source.boxes = {image.id: [] for image in source.images}
    known = report.count(Problem.INVALID_ANNOTATION)
    for where, entry in _own_ids(entries, "annotations", report, Problem.INVALID_ANNOTATION):
        image_id, where = entry.get("image_id"), f"annotation {entry['id']}"
        if not is_id(image_id) or image_id not in source.boxes:
            report.lose(Problem.UNKNOWN_IMAGE, f"{where} of image {image_id!r:.60}")
            continue
        category, crowd = entry.get("category_id"), entry.get("iscrowd", 0)
        source.boxes[image_id].append(
            SourceBox(
                id=entry["id"],
                category_id=category if is_id(category) else None,
                corners=_corners(entry.get("bbox")),
                area=finite(entry.get("area")),
                crowd=_CROWD.get(crowd) if isinstance(crowd, int | float | str) else None,
                where=where,
                segmentation=entry.get("segmentation") if masks else None,
            )
        )
    report.lost[Problem.INVALID_ANNOTATION] += report.count(Problem.INVALID_ANNOTATION) - known


def _corners(bbox: object) -> tuple[float, ...]:
    """Turn COCO's (x, y, width, height) into corners; empty if it is not four finite numbers."""
    if not isinstance(bbox, list) or len(bbox) != 4 or any(finite(value) is None for value in bbox):
        return ()
    x, y, width, height = map(float, bbox)
    return (x, y, x + width, y + height)

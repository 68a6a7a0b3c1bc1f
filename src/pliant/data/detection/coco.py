# SPDX-License-Identifier: Apache-2.0
"""Reader of COCO json: finds the file of a split and its images, and hands over what the file says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pliant._check import fail
from pliant.data.files import brief, check_inside, is_id, load_json, refuse_entry, stated_size
from pliant.data.records import Category, Source, SourceBox, SourceImage
from pliant.data.report import DataReport, Problem

# Files that stand beside instances_*.json in COCO's own annotations folder and hold something else.
_OTHER_TASKS = ("person_keypoints_", "captions_", "image_info_", "stuff_", "panoptic_")
_PROBES = 50


def coco_splits(root: Path) -> dict[str, Path]:
    """Return the splits of a COCO folder: name to json file, in the order in which they are looked for."""
    files = [*sorted(root.glob("annotations/*.json")), *sorted(root.glob("*.json"))]
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
    categories = _categories(content["categories"], file)
    entries = _unique(content["images"], f"{file}: images")
    images = _images(entries, _image_folder(root, split, name, file, entries), file)
    source = Source(sorted(categories, key=lambda category: category.id), images, listed=len(images))
    _add_boxes(source, _unique(content["annotations"], f"{file}: annotations"), report, masks)
    return source


def _load(file: Path) -> dict[str, list[dict[str, Any]]]:
    content = load_json(file)
    for key in ("images", "annotations", "categories"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            rule = f"must be COCO json, an object with a list of objects '{key}'"
            fix = "give the file of instances"
            fail(str(file), rule, brief(entries if isinstance(content, dict) else content), fix)
    assert isinstance(content, dict)
    return content


def _unique(entries: list[dict[str, Any]], place: str) -> list[dict[str, Any]]:
    """Return `entries` if each has an integer id of its own."""
    seen: set[int] = set()
    for i, entry in enumerate(entries):
        number = entry.get("id")
        if not is_id(number):
            refuse_entry(f"{place}[{i}]", "must have an integer 'id'", entry)
        assert isinstance(number, int)
        if number in seen:
            refuse_entry(f"{place}[{i}]", "must have an id of its own", f"id {number} a second time")
        seen.add(number)
    return entries


def _categories(entries: list[dict[str, Any]], file: Path) -> list[Category]:
    place = f"{file}: categories"
    for i, entry in enumerate(_unique(entries, place)):
        if not isinstance(entry.get("name"), str):
            refuse_entry(f"{place}[{i}]", "must have a 'name'", entry)
    if not entries:
        refuse_entry(place, "must not be empty", entries)
    return [Category(entry["id"], entry["name"]) for entry in entries]


def _images(entries: Sequence[dict[str, Any]], folder: Path, file: Path) -> list[SourceImage]:
    images = []
    for i, entry in enumerate(entries):
        name = check_inside(entry.get("file_name"), f"{file}: images[{i}]")
        size = stated_size(entry.get("width"), entry.get("height"))
        images.append(SourceImage(entry["id"], name, folder / name, size))
    return images


def _image_folder(root: Path, split: str, name: str, file: Path, entries: Sequence[dict[str, Any]]) -> Path:
    """Return the folder that holds most of a sample of the images; the first of the usual places where equal."""
    tags = dict.fromkeys((name, split))
    folders = [root / tag for tag in tags] + [root / "images" / tag for tag in tags] + [root / "images"]
    folders += [file.parent, root]
    step = max(1, len(entries) // _PROBES)
    names = [check_inside(e.get("file_name"), f"{file}: images[{i}]") for i, e in enumerate(entries)][::step]
    found = {folder: sum((folder / name).is_file() for name in names) for folder in dict.fromkeys(folders)}
    best = max(found, key=found.__getitem__)
    if entries and not found[best]:
        looked = ", ".join(str(folder.relative_to(root)) for folder in found)
        rule = f"must hold the images of {file.name}"
        fix = "put the images into one of these folders"
        fail(str(root), rule, f"none of {', '.join(names[:3])} in {looked}", fix)
    return best


def _add_boxes(source: Source, entries: Sequence[dict[str, Any]], report: DataReport, masks: bool) -> None:
    source.boxes = {image.id: [] for image in source.images}
    for entry in entries:
        image_id, where = entry.get("image_id"), f"annotation {entry['id']}"
        if not is_id(image_id) or image_id not in source.boxes:
            report.add(Problem.UNKNOWN_IMAGE, f"{where} of image {image_id!r}")
            continue
        category, area = entry.get("category_id"), entry.get("area")
        source.boxes[image_id].append(
            SourceBox(
                id=entry["id"],
                category_id=category if is_id(category) else None,
                corners=_corners(entry.get("bbox")),
                area=float(area) if isinstance(area, int | float) else None,
                crowd=bool(entry.get("iscrowd", 0)),
                where=where,
                segmentation=entry.get("segmentation") if masks else None,
            )
        )


def _corners(bbox: object) -> tuple[float, ...]:
    """Turn COCO's (x, y, width, height) into corners; empty if it is not four numbers."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(v, int | float) for v in bbox):
        return ()
    try:
        x, y, width, height = map(float, bbox)
    except OverflowError:  # json has integers beyond float64
        return ()
    return (x, y, x + width, y + height)

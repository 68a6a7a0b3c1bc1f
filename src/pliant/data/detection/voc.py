# SPDX-License-Identifier: Apache-2.0
"""Reader of Pascal VOC folders: finds the xml files and images of a split, and hands over what they say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from pliant._check import PliantError, fail
from pliant._files import read_bounded
from pliant.data.detection.voc_masks import add_object_masks
from pliant.data.files import files_by_stem, is_plain_name, lines_of, stated_size, visible
from pliant.data.images import EXTENSIONS, is_regular
from pliant.data.records import Category, Source, SourceBox, SourceImage
from pliant.data.report import DataReport, Problem
from pliant.data.voc_folders import find_voc_home

# The largest annotation of VOC 2012 is 20 kB; a megabyte holds some 2,000 boxes, of ten elements each.
_MAX_XML_BYTES = 8 * 2**20
_MAX_ELEMENTS = 250_000
_MAX_DEPTH = 100
_PER_CLASS_LINE = re.compile(r"\S+\s+(-1|0|1)")


@dataclass(frozen=True)
class VocLayout:
    """Where the parts of a VOC folder lie: `splits` maps a name to its image ids; `all_xml` lists every split's xml."""

    annotations: Path
    images: Path
    splits: dict[str, list[str]]
    all_xml: list[Path]


@dataclass(frozen=True)
class _Object:
    name: str | None
    corners: tuple[float, ...]
    difficult: bool


@dataclass(frozen=True)
class _Annotation:
    file_name: str | None
    size: tuple[int, int] | None
    objects: list[_Object]


def find_voc(root: Path, split: str, lists: str = "Main") -> VocLayout | None:
    """Return the VOC layout at `root`, or in its VOCdevkit; or that of xml files beside images; or None.

    `lists` is the folder of ImageSets that says which images are in a split: Main, or Segmentation for masks.
    """
    home = find_voc_home(root, lists)
    if home is None and (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir():
        fix = f"list the images of each split, one name a line, as in ImageSets/{lists}/{split}.txt"
        fail(str(root), "must say which images are in a split", f"no folder ImageSets/{lists}", fix)
    return _with_image_sets(home, lists, split) if home else _beside_images(root, split)


def _with_image_sets(home: Path, folder: str, split: str) -> VocLayout:
    for name in ("Annotations", "JPEGImages"):
        if not (home / name).is_dir():
            fail(str(home), f"must hold the folder {name} beside ImageSets", "none", "put it there")
    files = visible((home / "ImageSets" / folder).glob("*.txt"))
    lists = {path.stem: _listed(path) for path in files if path.stem == split or is_regular(path)}
    splits = {name: lines for name, lines in lists.items() if not _is_per_class(lines)}
    annotations = home / "Annotations"
    return VocLayout(annotations, home / "JPEGImages", splits, visible(annotations.glob("*.xml")))


def _listed(path: Path) -> list[str]:
    return [line for line in lines_of(path) if line]


def _is_per_class(lines: list[str]) -> bool:
    """Whether a file of ImageSets is the list of one class, like aeroplane_train.txt: an id and a sign a line."""
    return bool(lines) and all(_PER_CLASS_LINE.fullmatch(line) for line in lines)


def _beside_images(root: Path, split: str) -> VocLayout | None:
    xml = {path: visible(path.glob("*.xml")) for path in visible(root.iterdir()) if path.is_dir()}
    splits = {path.name: [file.stem for file in files] for path, files in xml.items() if files}
    if not splits:
        return None
    return VocLayout(root / split, root / split, splits, [file for files in xml.values() for file in files])


def read_voc(
    layout: VocLayout, split: str, report: DataReport, *, needs_all_names: bool, masks: bool = False
) -> Source:
    """Read the xml of `split`. With `needs_all_names` the categories are those of every xml, whatever its split.

    With `masks` the objects get those of the folder SegmentationObject.
    """
    annotations = _read_annotations(layout, split, report)
    names = {box.name for annotation in annotations.values() for box in annotation.objects if box.name}
    if needs_all_names:
        names |= _all_names(layout, {layout.annotations / f"{stem}.xml" for stem in annotations})
    categories = [Category(i, name) for i, name in enumerate(sorted(names), 1)]
    source = Source(categories, listed=len(set(layout.splits[split])))
    _fill(source, annotations, files_by_stem(layout.images, report), layout.images, report)
    if masks:
        add_object_masks(source, layout.images.parent / "SegmentationObject", report)
    return source


def _read_annotations(layout: VocLayout, split: str, report: DataReport) -> dict[str, _Annotation]:
    annotations: dict[str, _Annotation] = {}
    for stem in layout.splits[split]:
        path = layout.annotations / f"{stem}.xml"
        if not is_plain_name(stem):
            report.add(Problem.UNSAFE_NAME, stem)
        elif stem in annotations:
            report.add(Problem.REPEATED_IMAGE, stem)
        elif not is_regular(path):
            report.add(Problem.MISSING_ANNOTATION, path.name)
        else:
            try:
                annotations[stem] = _read_xml(path)
            except PliantError as error:
                report.add(Problem.UNREADABLE_ANNOTATION, f"{path.name}: {error}")
    return annotations


def _all_names(layout: VocLayout, known: set[Path]) -> set[str]:
    """Return the names in the xml of other splits; what is broken there is reported when that split is opened."""
    names: set[str] = set()
    for path in layout.all_xml:
        if path not in known:
            try:
                names |= {box.name for box in _read_xml(path).objects if box.name}
            except PliantError:
                continue
    return names


def _fill(
    source: Source, annotations: dict[str, _Annotation], files: dict[str, list[str]], folder: Path, report: DataReport
) -> None:
    ids = {category.name: category.id for category in source.categories}
    box_id = 0
    for image_id, (stem, annotation) in enumerate(annotations.items(), 1):
        stated = annotation.file_name
        if stated is not None and _stem(stated) != stem:
            report.add(Problem.OTHER_FILE_NAME, f"{stem}.xml names {stated}")
        # Two files of one name and different kinds: the one that the xml names, else the first by name.
        choices = files.get(stem, [f"{stem}.jpg"])
        name = stated if stated in choices else choices[0]
        source.images.append(SourceImage(image_id, name, folder / name, annotation.size))
        boxes = source.boxes.setdefault(image_id, [])
        for number, box in enumerate(annotation.objects, 1):
            box_id += 1
            where = f"object {number}" if box.name else f"object {number} without a name"
            category = ids.get(box.name) if box.name else None
            boxes.append(SourceBox(box_id, category, box.corners, None, box.difficult, where))


def _stem(file_name: str) -> str:
    last = re.split(r"[/\\]", file_name)[-1]
    return last[: -len(Path(last).suffix)] if Path(last).suffix.lower() in EXTENSIONS else last


def _read_xml(path: Path) -> _Annotation:
    root = parse_xml(path)
    width, height = _numbers(root.find("size"), ("width", "height")) or (0.0, 0.0)
    whole = width.is_integer() and height.is_integer()
    return _Annotation(
        file_name=_text(root, "filename"),
        size=stated_size(int(width), int(height)) if whole else None,
        objects=[_object(element) for element in root.iterfind("object")],
    )


def _object(element: Element) -> _Object:
    difficult = (_text(element, "difficult") or "0").lower() in ("1", "true")
    return _Object(_text(element, "name"), _corners(element.find("bndbox")), difficult)


def _corners(element: Element | None) -> tuple[float, ...]:
    """Turn VOC's 1-based inclusive pixels into 0-based half-open corners: pixel 1 spans 0 to 1."""
    values = _numbers(element, ("xmin", "ymin", "xmax", "ymax"))
    if not values:
        return ()
    xmin, ymin, xmax, ymax = values
    # The same pixel twice is a click and not an object one pixel wide; such a box keeps no area.
    x1, y1 = xmin - (xmax > xmin), ymin - (ymax > ymin)
    return (x1, y1, xmax, ymax)


def _numbers(element: Element | None, names: Iterable[str]) -> tuple[float, ...]:
    try:
        return tuple(float(_text(element, name) or "") for name in names) if element is not None else ()
    except ValueError:
        return ()


def _text(element: Element | None, name: str) -> str | None:
    text = element.findtext(name) if element is not None else None
    return text.strip() or None if text else None


def parse_xml(path: Path) -> Element:
    """Parse an xml file of a stranger: no document type, hence no entities, no files of others, no expansion.

    Attributes, which VOC has none of, are not kept.

    Raises:
        PliantError: the file is broken, too large, too deep, or declares a document type.
    """
    builder, depth, count = TreeBuilder(), 0, 0

    def start(name: str, _: object) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        if depth > _MAX_DEPTH or count > _MAX_ELEMENTS:
            raise PliantError(f"has more than {_MAX_ELEMENTS} elements, or {_MAX_DEPTH} inside each other")
        builder.start(name, {})

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(read_bounded(path, _MAX_XML_BYTES), True)
        root: Element = builder.close()
    except PliantError:
        raise
    except (expat.ExpatError, ValueError, LookupError, AssertionError, MemoryError) as error:
        raise PliantError(f"must be xml in a known encoding; {error}; replace it") from error
    return root


def _refuse_doctype(*_: object) -> NoReturn:
    raise PliantError("declares a document type, which could expand without end")

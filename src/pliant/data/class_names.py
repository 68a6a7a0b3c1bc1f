# SPDX-License-Identifier: Apache-2.0
"""Names of classes: those of Pascal VOC and Cityscapes, and a folder's own in `classes.txt` or `classes.json`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pliant._check import fail
from pliant._files import is_text, load_json
from pliant.data.files import lines_of
from pliant.data.records import Category

# Label 0 is the background; the rest as the development kit numbers them.
VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

# The 19 classes that are trained and tested, by their number in *_labelIds.png; the order is that of the train ids.
CITYSCAPES_CLASSES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
# Every number that the data set defines, except the licence plate's -1, which a PNG stores as 255.
CITYSCAPES_IDS = range(34)

# Values 0 to 254 of a label map can be classes.
MAX_CLASSES = 255

# Values of at most three digits: a longer one is no grey level, whatever it says.
_VALUE = re.compile(r"[0-9]{1,3}")

FILES = ("classes.txt", "classes.json")


def read_class_names(folders: Iterable[Path]) -> list[Category] | None:
    """Return the classes that the first `classes.txt` or `classes.json` in `folders` gives; None if there is none.

    `classes.txt` has a name a line; line k, from 0, names value k of the label maps. `classes.json` is a list of names,
    or an object that gives each value its name.

    Raises:
        PliantError: the file is broken, names a class twice, or a value outside 0..254.
    """
    for file in (folder / name for folder in folders for name in FILES):
        if file.exists():
            return _check(file, _from_json(file) if file.suffix == ".json" else _from_lines(file))
    return None


def _from_lines(file: Path) -> dict[int, str]:
    return dict(enumerate(lines_of(file)))


def _from_json(file: Path) -> dict[int, str]:
    content = load_json(file)
    pairs = enumerate(content) if isinstance(content, list) else content.items() if isinstance(content, dict) else ()
    names = {int(value): name for value, name in pairs if isinstance(name, str) and _VALUE.fullmatch(str(value))}
    if not names or len(names) != len(content):
        rule = "must be a list of names, or an object of values and names"
        fix = 'write e.g. ["background", "tree"] or {"0": "background", "7": "tree"}'
        fail(str(file), rule, type(content).__name__, fix)
    return names


def _check(file: Path, names: dict[int, str]) -> list[Category]:
    wrong = [value for value in names if not 0 <= value < MAX_CLASSES]
    if wrong:
        fail(str(file), "must name values from 0 to 254", f"value {wrong[0]}", "255 is for what is ignored")
    if len(names) < 2:
        fix = "name the background too"
        fail(str(file), "must name two classes at least", f"{len(names)}", fix)
    seen: set[str] = set()
    for name in names.values():
        if not is_text(name) or name in seen:
            fail(str(file), "must give each class a name of its own", repr(name), "correct it")
        seen.add(name)
    return [Category(value, names[value]) for value in sorted(names)]

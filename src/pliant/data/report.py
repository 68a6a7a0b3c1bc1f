# SPDX-License-Identifier: Apache-2.0
"""What was wrong with the data, by kind: counted, with names, and what was done about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pliant._check import plain

# Enough names to find the pattern of a mistake; a data set of a million broken files must not fill the run folder.
_NAMES_KEPT = 1000
_NAMES_SHOWN = 3


class Problem(Enum):
    """A kind of problem: its key in files, how it reads in a sentence, and what is done about it."""

    MISSING_IMAGE = ("missing_image", "images that are not there", "left out")
    UNREADABLE_IMAGE = ("unreadable_image", "images that cannot be read", "left out")
    HUGE_IMAGE = ("huge_image", "images with too many pixels", "left out")
    WRONG_SIZE = ("wrong_size", "images whose size is not the one in their annotation", "left out")
    UNKNOWN_SIZE = ("unknown_size", "images without a size in their annotation", "size taken from the image")
    TURNED_IMAGE = ("turned_image", "images annotated without their EXIF orientation", "read without it")
    BROKEN_PIXELS = ("broken_pixels", "images found broken while reading", "replaced by the next image")
    HIDDEN_FILE = ("hidden_file", "hidden files and folders", "skipped")
    INVALID_IMAGE = ("invalid_image", "images listed without an id and a file name of their own", "left out")
    INVALID_CATEGORY = ("invalid_category", "categories without an id and a name of their own", "left out")
    INVALID_ANNOTATION = ("invalid_annotation", "annotations without an id of their own", "left out")
    MISSING_ANNOTATION = ("missing_annotation", "annotation files that are not there", "image left out")
    UNREADABLE_ANNOTATION = ("unreadable_annotation", "annotation files that cannot be read", "image left out")
    OTHER_FILE_NAME = ("other_file_name", "annotation files that name another image", "taken by their own name")
    MISSING_LABELS = ("missing_labels", "images without a label map", "left out")
    UNREADABLE_LABELS = ("unreadable_labels", "label maps that cannot be read", "image left out")
    UNKNOWN_LABELS = ("unknown_labels", "label maps with values that are no class", "those pixels ignored")
    UNTRAINED_CLASS = ("untrained_class", "classes that the model does not know", "their pixels or images left out")
    EMPTY_CLASS = ("empty_class", "classes without an image", "kept")
    UNSEEN_CLASS = ("unseen_class", "classes without a pixel in the label maps looked into", "kept")
    REPEATED_IMAGE = ("repeated_image", "images listed more than once", "used once")
    UNSAFE_NAME = ("unsafe_name", "names that could lead out of their folder", "left out")
    UNKNOWN_IMAGE = ("unknown_image", "boxes of images that are not listed", "left out")
    UNKNOWN_CATEGORY = ("unknown_category", "boxes of a category that is not listed", "left out")
    UNTRAINED_CATEGORY = ("untrained_category", "boxes of a category that the model does not know", "left out")
    INVALID_BOX = ("invalid_box", "boxes that are not four finite numbers", "left out")
    INVALID_CROWD = ("invalid_crowd", "boxes whose iscrowd is neither 0 nor 1", "left out")
    NORMALISED_BOX = ("normalised_box", "boxes in 0..1, shares of the image in place of pixels", "left out")
    EMPTY_BOX = ("empty_box", "boxes without area", "left out")
    TINY_BOX = ("tiny_box", "boxes narrower than a sixteenth of a pixel", "left out")
    OUTSIDE_BOX = ("outside_box", "boxes outside their image", "left out")
    CLIPPED_BOX = ("clipped_box", "boxes that reach beyond their image", "cut at its border")
    BOX_FROM_MASK = ("box_from_mask", "masks without a box", "box taken from the mask")
    MISSING_MASK = ("missing_mask", "boxes without a mask", "left out")
    INVALID_MASK = ("invalid_mask", "masks that cannot be read", "box left out")
    INVALID_PART = ("invalid_part", "masks with parts that are no polygons", "those parts left out")
    HUGE_MASKS = ("huge_masks", "images whose masks have too many pixels in all", "left out")
    # Counted among what is lost, and no problem: the metric has a use for them.
    CROWD = ("crowd", "crowds or difficult objects", "not learned from")

    def __init__(self, key: str, text: str, action: str) -> None:
        self.key = key
        self.text = text
        self.action = action


@dataclass
class DataReport:
    """Everything that was found wrong with one split, and what was done about each.

    `images`, `boxes`, `crowd_boxes` and `empty_images` count what is left for use: photographs, boxes (crowds
    included), boxes marked crowd or difficult, and photographs without a box. `lost` counts the objects of which
    nothing is learned, by the reason.

    Example:
        >>> report = DataReport()
        >>> report.add(Problem.EMPTY_BOX, "a.xml, object 3")
        >>> report.summary()
        ['boxes without area: 1, left out (a.xml, object 3)']
    """

    images: int = 0
    boxes: int = 0
    crowd_boxes: int = 0
    empty_images: int = 0
    lost: Counter[Problem] = field(default_factory=Counter)
    _counts: dict[Problem, int] = field(default_factory=dict)
    _names: dict[Problem, list[str]] = field(default_factory=dict)

    def add(self, problem: Problem, where: str) -> None:
        """Count one `problem` and remember `where` it is: a file name, or a file name and a place in it."""
        self._counts[problem] = self.count(problem) + 1
        names = self._names.setdefault(problem, [])
        if len(names) < _NAMES_KEPT:
            names.append(plain(where))

    def lose(self, problem: Problem, where: str) -> None:
        """Count one `problem` that costs an object."""
        self.add(problem, where)
        self.lost[problem] += 1

    def count(self, *problems: Problem) -> int:
        """Return how often any of `problems` was found; with no argument, how many problems there are."""
        return sum(self._counts.get(problem, 0) for problem in problems or Problem)

    def names(self, problem: Problem) -> list[str]:
        """Return where `problem` was found: the first 1000 places."""
        return list(self._names.get(problem, []))

    def summary(self) -> list[str]:
        """Return one line for each kind of problem, in the order of `Problem`; `["no problems"]` if there is none."""
        lines = [self.line(problem) for problem in Problem if self.count(problem)]
        return lines or ["no problems"]

    def line(self, problem: Problem) -> str:
        """Return the line of one kind: what, how many, what was done, and the first three names."""
        count, names = self.count(problem), self._names[problem][:_NAMES_SHOWN]
        more = f", and {count - len(names)} more" if count > len(names) else ""
        return f"{problem.text}: {count}, {problem.action} ({'; '.join(names)}{more})"

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON: counts, and the kinds with their names."""
        return {
            "images": self.images,
            "boxes": self.boxes,
            "crowd_boxes": self.crowd_boxes,
            "empty_images": self.empty_images,
            "problems": [
                {"kind": p.key, "count": self.count(p), "what": p.text, "action": p.action, "names": self.names(p)}
                for p in self.present()
            ],
        }

    def present(self) -> Iterable[Problem]:
        """Yield the kinds of problem that were found."""
        return (problem for problem in Problem if self.count(problem))

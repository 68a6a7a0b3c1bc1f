# SPDX-License-Identifier: Apache-2.0
"""Where a Pascal VOC folder is, for every task that reads one."""

from __future__ import annotations

from pathlib import Path

from pliant._check import fail


def find_voc_home(root: Path, lists: str) -> Path | None:
    """Return the folder with `ImageSets/{lists}`: `root`, or a year in it or in its VOCdevkit; None if there is none.

    Raises:
        PliantError: there are several.
    """
    nested = sorted(root.glob("VOC[0-9]*")) + sorted(root.glob("VOCdevkit/VOC[0-9]*"))
    homes = [home for home in (root, *nested) if (home / "ImageSets" / lists).is_dir()]
    if len(homes) > 1:
        names = ", ".join(str(home.relative_to(root)) for home in homes)
        fail(str(root), "must hold one VOC folder", names, "give the path of one of them")
    return homes[0] if homes else None

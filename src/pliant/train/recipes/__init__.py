# SPDX-License-Identifier: Apache-2.0
"""Recipes: the settings of the papers' experiments, one for each row of their tables, as small TOML files.

A file names its `source`. `[base.NAME]` holds settings that rows share; `[recipe.NAME]` is a row. Both may have a
`base`, whose settings they override; a row says what it is in `row`, and what the source measured in `reported`. All
other keys are options of `TrainConfig`, `"none"` standing for no value. Names are the same for all files together.

What the sources leave open is said in a comment where it is decided. The data set is never in a recipe.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from pliant._check import fail, suggest
from pliant.train.config import ONLY, overridden

_SAID = ("base", "row", "reported")


__all__ = ["Recipe", "recipe", "recipes"]


@dataclass(frozen=True)
class Recipe:
    """A row of a paper's table.

    Attributes:
        name: for `pliant train --recipe`.
        source: the paper and its table.
        row: which row of it.
        reported: what the source reports for it; empty where we have no source for the number.
        settings: options for `TrainConfig.from_dict`, without the data.
    """

    name: str
    source: str
    row: str
    reported: str
    settings: Mapping[str, Any]


def recipe(name: str) -> Recipe:
    """Return the recipe called `name`.

    Raises:
        PliantError: no recipe has that name; the nearest is given.

    Example:
        >>> found = recipe("v2-faster-rcnn-1000-mdconv-c3c5-mdpool")
        >>> found.settings["deform"], found.settings["min_size"], found.settings["step_images"]
        ('c3-c5', [1000], 16)
    """
    known = recipes()
    if name not in known:
        fix = f"`pliant train --list-recipes` lists them.{suggest(name, known)}"
        fail("recipe", "must name a recipe", repr(name), fix)
    return known[name]


@cache
def recipes() -> dict[str, Recipe]:
    """Return all recipes by their names, in the order of the papers and their tables."""
    files = [tomllib.loads(text) for text in _texts()]
    bases = {name: entry for file in files for name, entry in file.get("base", {}).items()}
    found: dict[str, Recipe] = {}
    for file in files:
        for name, entry in file.get("recipe", {}).items():
            settings = _settings(name, entry, bases)
            found[name] = Recipe(name, file["source"], entry["row"], entry.get("reported", ""), settings)
    return found


def _texts() -> list[str]:
    files = [path for path in resources.files(__name__).iterdir() if path.name.endswith(".toml")]
    # The papers' tables (v1-..., v2-...) before what others made of them.
    paths = sorted(files, key=lambda path: (not path.name.startswith("v"), path.name))
    return [path.read_text(encoding="utf-8") for path in paths]


def _settings(name: str, entry: Mapping[str, Any], bases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of an entry over those of its base."""
    below = {}
    if "base" in entry:
        if entry["base"] not in bases:
            fix = f"name one of the bases.{suggest(entry['base'], bases)}"
            fail(f"recipe {name}", "must have a base that is there", repr(entry["base"]), fix)
        below = _settings(name, bases[entry["base"]], bases)
    own = {key: None if value == "none" else value for key, value in entry.items() if key not in _SAID}
    for key in own:
        if key not in ONLY:
            fix = f"`pliant train --help` lists the options.{suggest(key, ONLY)}"
            fail(f"recipe {name}", "must have known keys", repr(key), fix)
    return overridden(below, own)

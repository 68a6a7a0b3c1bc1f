# SPDX-License-Identifier: Apache-2.0
"""`TrainConfig`: everything that decides a training run, checked when it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

from pliant._check import fail, fail_because, suggest
from pliant._files import load_json
from pliant.train.options import MODELS, ModelOptions, Options, applies, models_with, parts, stages, typed


@dataclass(frozen=True, kw_only=True)
class TrainConfig(
    stages.DataOptions,
    ModelOptions,
    parts.BackboneOptions,
    parts.DetectorOptions,
    parts.SingleMapOptions,
    parts.MimickingOptions,
    parts.SegmenterOptions,
    parts.ClassifierOptions,
    stages.AugmentationOptions,
    stages.ScheduleOptions,
    stages.RunOptions,
    stages.InferenceOptions,
):
    """The settings of a training run; `config.json` in the run folder holds them.

    The groups of options are the bases; each option's meaning and unit are in its metadata, which `pliant train --help`
    prints. Lengths are in pixels of the resized image, times in optimizer steps. A value of the wrong type or out of
    range, and an option that has nothing to do with the chosen model, is a `PliantError`.

    Example:
        >>> TrainConfig(data="shapes", epochs=3).lr
        0.0025
    """

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for spec in dataclasses.fields(self):
            value = typed(spec.name, getattr(self, spec.name), hints[spec.name], spec.metadata)
            object.__setattr__(self, spec.name, value)
        if self.lr <= 0:
            fail("lr", "must be positive", self.lr, "use e.g. 0.0025")
        if self.step_images is not None and self.accumulate != 1:
            fix = "give one of the two"
            fail("step_images", "must come without accumulate", f"accumulate {self.accumulate}", fix)
        changed = [spec.name for spec in dataclasses.fields(self) if getattr(self, spec.name) != spec.default]
        _refuse_foreign(changed, self.model)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Make a config from a mapping; what it leaves out has the default of its model.

        Raises:
            PliantError: an unknown key (the nearest name is given), one that has nothing to do with the model, or a
                value that is refused.
        """
        for key in values:
            if key not in ONLY:
                fix = f"`pliant train --help` lists them.{suggest(str(key), ONLY)}"
                fail("config", "must have known keys only", repr(key), fix)
        if "data" not in values:
            fail("data", "must name the folder of the data set", "nothing", "add --data DIR")
        model = values.get("model", ModelOptions().model)
        if not isinstance(model, str) or model not in MODELS:
            return cls(**values)  # refuses it
        _refuse_foreign(values, model)
        return cls(**{**MODELS[model].defaults, **values})

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Read a config from a JSON file."""
        return cls.from_dict(cls.read(path))

    @staticmethod
    def read(path: Path) -> dict[str, Any]:
        """Read the settings in a JSON file, which need not be all of them."""
        if not path.is_file():
            fail("config", "must be a JSON file", path, "see `pliant train --help`")
        values = load_json(path)
        if not isinstance(values, dict):
            fail("config", "must be a JSON object", type(values).__name__, 'write {"data": ...}')
        return values

    def named(self, *names: str) -> dict[str, Any]:
        """Return some settings by their names, for a function whose arguments have the same names."""
        return {name: getattr(self, name) for name in names}

    def as_dict(self) -> dict[str, Any]:
        """Return the settings that the model has as plain values for JSON, group by group."""
        return {name: getattr(self, name) for name, only in ONLY.items() if applies(only, self.model)}


# In the order of `--help`.
GROUPS = cast(tuple[type[Options], ...], TrainConfig.__bases__)
ONLY: dict[str, tuple[str, ...]] = {
    spec.name: (*group.ONLY, *spec.metadata["only"]) for group in GROUPS for spec in dataclasses.fields(group)
}
# Of each pair one decides; the one that is given later replaces the other.
_EXCLUSIVE = (("epochs", "steps"), ("accumulate", "step_images"))


def overridden(settings: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Return `settings` overridden by `later`, in which `epochs` replaces `steps` and `accumulate` `step_images`.

    Example:
        >>> overridden({"steps": 30000, "lr": 0.01}, {"epochs": 3})
        {'lr': 0.01, 'epochs': 3}
    """
    replaced = {two for one, two in _EXCLUSIVE if one in later} | {one for one, two in _EXCLUSIVE if two in later}
    return {name: value for name, value in settings.items() if name not in replaced} | dict(later)


def _refuse_foreign(names: Iterable[str], model: str) -> None:
    """Raise a `PliantError` if one of the options `names` is for other models than `model`."""
    for name in names:
        if not applies(ONLY[name], model):
            rule = f"must be left out with the model {model!r}"
            reason = f"it is for {' and '.join(models_with(ONLY[name]))}"
            fail_because(name, rule, reason, "`pliant train --help` says what each option is for")

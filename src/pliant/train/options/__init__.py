# SPDX-License-Identifier: Apache-2.0
"""The options of a training run, one small frozen dataclass for each group of them.

`TrainConfig` (pliant/train/config.py) puts the groups together, and `pliant train --help` prints them under the same
headings. All of this needs nothing but Python. Each option is made by `option(...)`, and each group says by `ONLY`
which parts a model must have for it; an option may ask for more. To add

- an option: a field in its group's file;
- a group: a class in a file of its own, and its name among the bases of `TrainConfig`;
- a model: an entry in `MODELS` (models.py), and its builder in pliant/train/tasks/builders.py.
"""

from __future__ import annotations

from pliant.train.options.backbone import BackboneOptions
from pliant.train.options.classifier import ClassifierOptions
from pliant.train.options.data import AugmentationOptions, DataOptions
from pliant.train.options.detector import DetectorOptions
from pliant.train.options.fields import Options, option, required_type, typed
from pliant.train.options.inference import InferenceOptions
from pliant.train.options.mimic import MimickingOptions
from pliant.train.options.models import MODELS, ModelKind, ModelOptions, applies, models_with
from pliant.train.options.run import RunOptions
from pliant.train.options.schedule import ScheduleOptions
from pliant.train.options.segmenter import SegmenterOptions
from pliant.train.options.single_map import SingleMapOptions

__all__ = [
    "MODELS",
    "AugmentationOptions",
    "BackboneOptions",
    "ClassifierOptions",
    "DataOptions",
    "DetectorOptions",
    "InferenceOptions",
    "MimickingOptions",
    "ModelKind",
    "ModelOptions",
    "Options",
    "RunOptions",
    "ScheduleOptions",
    "SegmenterOptions",
    "SingleMapOptions",
    "applies",
    "models_with",
    "option",
    "required_type",
    "typed",
]

# SPDX-License-Identifier: Apache-2.0
"""The options of a training run, one small frozen dataclass for each group of them.

`TrainConfig` (pliant/train/config.py) puts the groups together, and `pliant train --help` prints them under the same
headings. All of this needs nothing but Python. Each option is made by `option(...)`, and each group says by `ONLY` for
which models or tasks it is; an option may say so for itself. To add

- an option: a field in its group's file;
- a group: a class in a file of its own, and its name in the list of bases and in `GROUPS` of config.py;
- a model: a line in `MODELS` (models.py), with its task and the defaults that differ, and its builder in its task.
"""

from __future__ import annotations

from pliant.train.options.backbone import BackboneOptions as BackboneOptions
from pliant.train.options.classifier import ClassifierOptions as ClassifierOptions
from pliant.train.options.data import AugmentationOptions as AugmentationOptions
from pliant.train.options.data import DataOptions as DataOptions
from pliant.train.options.detector import DetectorOptions as DetectorOptions
from pliant.train.options.fields import Options as Options
from pliant.train.options.fields import applies as applies
from pliant.train.options.fields import option as option
from pliant.train.options.fields import typed as typed
from pliant.train.options.mimic import MimickingOptions as MimickingOptions
from pliant.train.options.models import MODELS as MODELS
from pliant.train.options.models import ModelKind as ModelKind
from pliant.train.options.models import ModelOptions as ModelOptions
from pliant.train.options.run import RunOptions as RunOptions
from pliant.train.options.schedule import ScheduleOptions as ScheduleOptions
from pliant.train.options.segmenter import SegmenterOptions as SegmenterOptions
from pliant.train.options.single_map import SingleMapOptions as SingleMapOptions
from pliant.train.options.testing import TestTimeOptions as TestTimeOptions

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

from .backbone import BackboneOptions as BackboneOptions
from .classifier import ClassifierOptions as ClassifierOptions
from .data import AugmentationOptions as AugmentationOptions
from .data import DataOptions as DataOptions
from .detector import DetectorOptions as DetectorOptions
from .fields import Options as Options
from .fields import applies as applies
from .fields import option as option
from .fields import typed as typed
from .mimic import MimickingOptions as MimickingOptions
from .models import MODELS as MODELS
from .models import ModelKind as ModelKind
from .models import ModelOptions as ModelOptions
from .run import RunOptions as RunOptions
from .schedule import ScheduleOptions as ScheduleOptions
from .segmenter import SegmenterOptions as SegmenterOptions
from .single_map import SingleMapOptions as SingleMapOptions
from .testing import TestTimeOptions as TestTimeOptions

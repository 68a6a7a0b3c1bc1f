# SPDX-License-Identifier: Apache-2.0
"""The options of a training run, one small frozen dataclass for each group of them.

`TrainConfig` (pliant/train/config.py) puts the groups together, and `pliant train --help` prints them under the same
headings. All of this needs nothing but Python. Each option is made by `option(...)`, and each group says by `ONLY`
which parts a model must have for it; an option may ask for more. To add

- an option: a field in its group;
- a group: a class in parts.py (of the model) or stages.py (of what is done with it), among the bases of `TrainConfig`;
- a model: an entry in `MODELS` (models.py), and its builder in pliant/train/tasks/builders.py.
"""

from __future__ import annotations

from pliant.train.options.fields import Options, required_type, typed
from pliant.train.options.models import MODELS, ModelOptions, applies, models_with
from pliant.train.options.stages import InferenceOptions

__all__ = [
    "MODELS",
    "InferenceOptions",
    "ModelOptions",
    "Options",
    "applies",
    "models_with",
    "required_type",
    "typed",
]

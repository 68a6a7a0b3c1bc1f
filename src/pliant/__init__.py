# SPDX-License-Identifier: Apache-2.0
"""Deformable ConvNets for PyTorch: operators, layers, model surgery, and the systems of the two papers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pliant import _start, nn, ops  # noqa: F401  # _start comes first: Ctrl-C while the others load
from pliant._check import PliantError
from pliant._version import __version__
from pliant.surgery import convert, fuse, param_groups, plan, revert

if TYPE_CHECKING:
    from pliant.train.trained import TrainedModel

__all__ = [
    "nn",
    "ops",
    "PliantError",
    "__version__",
    "convert",
    "fuse",
    "load",
    "param_groups",
    "plan",
    "revert",
]


def load(run: Path | str, *, device: str = "auto") -> TrainedModel:
    """Return the trained model of a run folder, which predicts on images and draws what it finds: a `TrainedModel`.

    Args:
        run: the folder that a training made (its `--out`).
        device: as PyTorch names it; "auto" takes an accelerator where there is one.

    Raises:
        PliantError: not a run folder, or no such device, or a package of the extra "train" is absent.

    Example:
        >>> import pliant
        >>> model = pliant.load("RUN")  # doctest: +SKIP
        >>> result = model.predict("photo.jpg")  # doctest: +SKIP
        >>> result["boxes"], result["labels"], result["scores"]  # doctest: +SKIP
        >>> result.draw("found.png")  # doctest: +SKIP
        >>> callable(pliant.load)
        True
    """
    from pliant._check import require_package

    require_package("torchvision", "train", "pliant.load")
    from pliant.train.trained import TrainedModel

    return TrainedModel(run, device)

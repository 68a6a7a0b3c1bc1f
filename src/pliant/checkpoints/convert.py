# SPDX-License-Identifier: Apache-2.0
"""From a file of another library to a state dict in pliant's names, and whether it fits a model."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pliant._check import counted, fail
from pliant.checkpoints.dcnv2_layers import MARKS, convert_dcnv2_layers
from pliant.checkpoints.detectron2 import convert_detectron2
from pliant.checkpoints.draft import Conversion, Entry
from pliant.checkpoints.files import read_checkpoint
from pliant.checkpoints.mmdetection import convert_mmdetection
from pliant.checkpoints.mxnet_systems import convert_mxnet
from pliant.checkpoints.torchvision_detection import convert_torchvision

Converter = Callable[[Mapping[str, Tensor]], Conversion]
CONVERTERS: dict[str, Converter] = {
    "mmdetection": convert_mmdetection,
    "mmdetection-caffe": functools.partial(convert_mmdetection, caffe=True),
    "detectron2": convert_detectron2,
    "torchvision": convert_torchvision,
    "dcnv2": convert_dcnv2_layers,
    "mxnet": convert_mxnet,
}
# A name that only one library's state dicts have; the first that is found decides.
SIGNS = {
    "dcnv2": MARKS,
    "detectron2": r"backbone\.bottom_up\..+",
    "mmdetection": r"(?:roi_head\.)?bbox_head\..+|neck\.lateral_convs\..+",
    "mxnet": r"(?:arg:)?res2a_branch1_weight",
    "torchvision": r"roi_heads\.box_predictor\.cls_score\.weight",
}
OFFSET_BRANCH = re.compile(r".*\.conv_offset\.(weight|bias)")


def convert_checkpoint(path: Path, source: str = "auto") -> Conversion:
    """Read a checkpoint and turn it into pliant's names; no code of the file is run.

    Args:
        path: `.pth`, `.pt`, `.safetensors`, or `.params` of MXNet.
        source: a key of `CONVERTERS`, or `auto`, which tells by the names of the tensors.

    Returns:
        The tensors under pliant's names, the settings of the model they are for, and what became of each tensor.

    Raises:
        PliantError: a file or system that cannot be read; the message says what would work.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "layers.pth"
        >>> torch.save({"head.conv_offset_mask.bias": torch.zeros(27)}, path)
        >>> conversion = convert_checkpoint(path)
        >>> conversion.source, list(conversion.tensors)
        ('dcnv2', ['head.conv_offset.bias'])
    """
    state = read_checkpoint(path)
    return CONVERTERS[source if source != "auto" else recognise(state)](state)


def recognise(state: Mapping[str, Tensor]) -> str:
    """Return the library that a state dict comes from.

    Example:
        >>> recognise({"backbone.bottom_up.stem.conv1.weight": torch.zeros(64, 3, 7, 7)})
        'detectron2'
    """
    found = [source for source, sign in SIGNS.items() if any(re.fullmatch(sign, name) for name in state)]
    if not found:
        names = ", ".join(list(state)[:3])
        rule = f"must come from {', '.join(CONVERTERS)}"
        fix = "name it with --from, or see docs/checkpoints.md for the systems that are converted"
        fail("checkpoint", rule, f"{counted(len(state), 'tensor')} such as {names}", fix)
    return found[0]


def fit(conversion: Conversion, model: nn.Module, *, new_branches: bool = False) -> Conversion:
    """Return the conversion, zeros for missing offset branches added, if its tensors are exactly those of `model`.

    Args:
        conversion: of the system that `model` is.
        model: built with the conversion's settings.
        new_branches: whether offset branches may be missing, which then start at zero.

    Raises:
        PliantError: a tensor of another shape, or one too many or too few; the first are named.

    Example:
        >>> from pliant.nn import DeformConv2d
        >>> conversion = convert_dcnv2_layers({"0.weight": torch.ones(5, 4, 3, 3), "0.bias": torch.ones(5)})
        >>> conversion = fit(conversion, nn.Sequential(DeformConv2d(4, 5, 3)), new_branches=True)
        >>> conversion.summary()
        'dcnv2: 2 tensors taken, 0 of them changed; 0 left; 2 new'
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    given = conversion.tensors
    for entry in conversion.entries:
        if entry.target in own and tuple(own[entry.target].shape) != entry.target_shape:
            rule = f"must have {entry.target} in the shape {tuple(own[entry.target].shape)}"
            became = "" if entry.source_shape == entry.target_shape else f", which gives {entry.target_shape}"
            got = f"{entry.source} of shape {entry.source_shape}{became}"
            fail("checkpoint", rule, got, "choose the model's options with --set")
    lacking = [name for name in own if name not in given]
    added = [name for name in lacking if new_branches and OFFSET_BRANCH.fullmatch(name)]
    wanting = [name for name in lacking if name not in added]
    over = [entry.source or "" for entry in conversion.entries if entry.target not in own]
    for names, kind in ((wanting, "without"), (over, "with")):
        if names:
            rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
            rule = "must hold the tensors of the model and no others"
            got = f"a checkpoint {kind} {', '.join(names[:3])}{rest}"
            fix = "choose the model's options with --set, or see docs/checkpoints.md for the systems that are converted"
            fail("checkpoint", rule, got, fix)
    zeros = {name: torch.zeros_like(own[name], device="cpu") for name in added}
    entries = [Entry(None, None, name, tuple(tensor.shape), "starts at zero") for name, tensor in zeros.items()]
    return dataclasses.replace(conversion, tensors={**given, **zeros}, entries=(*conversion.entries, *entries))

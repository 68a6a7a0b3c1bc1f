# SPDX-License-Identifier: Apache-2.0
"""torchvision's detectors, whose forward is the oracle, and networks with the layers of CharlesShang/DCNv2."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from helpers.states import model_of, randomised, renamed
from pliant._check import PliantError
from pliant.checkpoints import fit
from pliant.checkpoints.dcnv2_layers import convert_dcnv2_layers
from pliant.checkpoints.torchvision_detection import convert_torchvision
from pliant.nn import DeformConv2d, DeformRoIPool
from pliant.train import TrainConfig
from pliant.train.model import build_model

OLD_NAMES = {
    r"rpn\.head\.conv\.0\.0\.(.*)": r"rpn.head.conv.\1",
    r"(backbone\.fpn\.\w+\.\d)\.0\.(.*)": r"\1.\2",
    r"(.*)": r"\1",
}


def test_torchvisions_detector_with_new_offset_branches_predicts_the_same() -> None:
    theirs = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=5, min_size=96, box_score_thresh=0.0
    )
    randomised(theirs)
    conversion = convert_torchvision(renamed(theirs.state_dict(), OLD_NAMES))
    assert (conversion.labels, conversion.settings["backbone"]) == (4, "resnet50")
    settings = {"data": "none", **conversion.settings, "deform": "c3-c5", "min_size": [96]}
    ours = build_model(TrainConfig.from_dict(settings), 4)
    with pytest.raises(PliantError, match=r"no others; got a checkpoint without .*layer2.0.conv2.conv_offset.weight"):
        fit(conversion, ours)
    fitted = fit(conversion, ours, new_branches=True)
    assert sum(entry.source is None for entry in fitted.entries) == 26
    ours.load_state_dict(fitted.tensors)
    ours.eval().roi_heads.score_thresh = 0.0  # type: ignore[union-attr]
    image = torch.rand(3, 96, 130)
    expected, got = theirs([image])[0], ours([image])[0]
    assert len(expected["boxes"]) > 5
    torch.testing.assert_close(got["boxes"], expected["boxes"], rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(got["scores"], expected["scores"], rtol=1e-3, atol=1e-4)
    assert torch.equal(got["labels"], expected["labels"])


def test_torchvisions_mask_rcnn_fits() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    conversion = convert_torchvision(theirs.state_dict())
    assert (conversion.settings["model"], conversion.labels) == ("mask-rcnn", 90)
    fit(conversion, model_of(conversion))


class _DCN(nn.Module):
    """The layer of CharlesShang/DCNv2 by its names, with torchvision's operator."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(outputs, inputs, 3, 3)), nn.Parameter(torch.rand(outputs))
        self.conv_offset_mask = nn.Conv2d(inputs, groups * 27, 3, stride=2, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        y, x, mask = self.conv_offset_mask(input).chunk(3, dim=1)
        return torchvision.ops.deform_conv2d(
            input, torch.cat([y, x], 1), self.weight, self.bias, 2, 1, 1, mask.sigmoid()
        )


def test_a_network_with_dcnv2_layers_keeps_its_function() -> None:
    theirs = nn.Sequential(nn.Conv2d(3, 4, 1), _DCN(4, 6, groups=2))
    ours = nn.Sequential(nn.Conv2d(3, 4, 1), DeformConv2d(4, 6, 3, 2, 1, offset_groups=2))
    conversion = convert_dcnv2_layers(theirs.state_dict())
    assert conversion.settings == {} and conversion.left == {}
    ours.load_state_dict(conversion.tensors)
    image = torch.rand(2, 3, 11, 14)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-5)


def test_dcnv2s_pooling_branch_loads() -> None:
    pool = DeformRoIPool(3, in_channels=4, hidden_channels=8)
    shapes = {0: (8, 36), 2: (8, 8), 4: (27, 8)}
    state = {f"pool.offset_mask_fc.{k}.weight": torch.rand(shape) for k, shape in shapes.items()}
    state |= {f"pool.offset_mask_fc.{k}.bias": torch.rand(shape[0]) for k, shape in shapes.items()}
    conversion = convert_dcnv2_layers(state)
    nn.ModuleDict({"pool": pool}).load_state_dict(conversion.tensors)
    assert torch.equal(pool.offset_fc[4].weight, state["pool.offset_mask_fc.4.weight"])
    assert any("does not round boxes" in note for note in conversion.notes)

# SPDX-License-Identifier: Apache-2.0
"""A training step of Faster R-CNN, ResNet-50 with a feature pyramid, plain and with 13 modulated layers.

Two images of 800 x 1216 pixels, as one GPU has them in detectron2's recipe; the first two stages and all batch norms
are frozen; channels_last. Weights are random, and the learning rate is 0, so that each step does the same work. Steps
are not captured in graphs, since torchvision's detectors wait for the GPU; times are those that a training sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.gpu_timing import Run
from pliant.backbones import Trunk
from pliant.detection import SecondStage, faster_rcnn
from pliant.nn import DeformConv2d

Targets = list[dict[str, Tensor]]


@dataclass(frozen=True)
class StepCase:
    """A training step in a type that all products have, on images of one size."""

    name: str
    dtype: torch.dtype  # bfloat16: autocast; float32: TF32 for all products
    backbone: str = "resnet50"
    size: tuple[int, int] = (800, 1216)
    images: int = 2
    objects: int = 7  # an image of COCO has 7.3
    regions: int = 512  # of an image, that the second stage is trained on

    baseline = "plain"

    def __str__(self) -> str:
        kind = "bfloat16 autocast" if self.dtype == torch.bfloat16 else "TF32"
        return f"{self.name} Faster R-CNN {self.backbone} FPN, {self.images} images {self.size}, {kind}"

    def contenders(self, device: str = "cuda") -> dict[str, Run]:
        """Return a step of each detector."""
        return {name: self.step(deform, device) for name, deform in (("plain", None), ("modulated", "c3-c5"))}

    def batch(self, device: str) -> tuple[list[Tensor], Targets]:
        """Return images and boxes with sides of 32 pixels up to half the image's."""
        generator = torch.Generator().manual_seed(0)
        H, W = self.size
        picture = torch.tensor([W, H])
        images = [torch.rand(3, H, W, generator=generator) for _ in range(self.images)]
        targets = []
        for _ in images:
            sides = 32 + torch.rand(self.objects, 2, generator=generator) * (picture / 2 - 32)
            corner = torch.rand(self.objects, 2, generator=generator) * (picture - sides)
            labels = torch.randint(1, 81, (self.objects,), generator=generator)
            targets.append({"boxes": torch.cat([corner, corner + sides], 1).to(device), "labels": labels.to(device)})
        return [image.to(device) for image in images], targets

    def step(self, deform: str | None, device: str) -> Run:
        """Return what takes a step of one detector and returns the loss."""
        model = detector(self.backbone, deform, self.size, self.regions).to(device).train()
        model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0, momentum=0.9)
        images, targets = self.batch(device)

        def run() -> Tensor:
            torch.manual_seed(0)  # the same regions are sampled each time
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                loss: Tensor = sum(model(images, targets).values(), torch.zeros((), device=device))
            loss.backward()
            optimizer.step()
            return loss.detach()

        return run


def detector(backbone: str, deform: str | None, size: tuple[int, int], regions: int) -> nn.Module:
    """Return a detector of 80 classes; its deformable layers look about a pixel beside the grid, as trained ones do."""
    torch.manual_seed(0)
    trunk = Trunk(backbone, deform=deform, norm="frozen", frozen_stages=2)
    second_stage = SecondStage(roi_samples=regions)
    model = faster_rcnn(81, trunk, second_stage=second_stage, min_size=min(size), max_size=max(size))
    for layer in (m for m in model.modules() if isinstance(m, DeformConv2d)):
        taps = layer.weight.shape[2] * layer.weight.shape[3]
        with torch.no_grad():
            assert layer.conv_offset.bias is not None
            layer.conv_offset.bias[: 2 * taps].normal_()
    return model
